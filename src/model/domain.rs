//! Parameters that each domain (embodiment) has of its own.

use super::TensorResult;
use super::checkpoint::Scope;
use super::config::PolicyConfig;
use super::layers::Linear;
use super::prune::two_to_four;
use super::vlm::VlmTokens;
use crate::error::CheckpointError;
use tch::{TchError, Tensor};

/// A Linear with a matrix per domain: row `domain` of the table, read as [in, out] (y = x·W + b).
#[derive(Debug)]
pub struct DomainLinear {
    weight: Tensor, // [domains, in·out]
    bias: Tensor,   // [domains, out]
    inputs: i64,
    outputs: i64,
}

impl DomainLinear {
    /// Reads `fc.weight` [domains, in·out] and `bias.weight` [domains, out].
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(scope: &Scope, domains: i64, inputs: i64, outputs: i64) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: scope.tensor("fc.weight", &[domains, inputs * outputs])?,
            bias: scope.tensor("bias.weight", &[domains, outputs])?,
            inputs,
            outputs,
        })
    }

    /// [B, n, in] and domains [B] → [B, n, out]
    pub fn forward(&self, input: &Tensor, domain: &Tensor) -> TensorResult {
        let weight = self.weight.f_index_select(0, domain)?.f_view([-1, self.inputs, self.outputs])?;
        let bias = self.bias.f_index_select(0, domain)?.f_unsqueeze(1)?; // [B, 1, out]
        bias.f_baddbmm(input, &weight, 1.0, 1.0)
    }

    /// The matrix [in, out] and bias [out] of one domain, as views.
    pub fn of(&self, domain: i64) -> Result<[Tensor; 2], TchError> {
        Ok([self.weight.f_get(domain)?.f_view([self.inputs, self.outputs])?, self.bias.f_get(domain)?])
    }

    /// The table of one domain only, which has index 0 from here on.
    pub(super) fn specialise(self, domain: i64) -> Result<Self, TchError> {
        let (weight, bias) = (self.weight.f_narrow(0, domain, 1)?, self.bias.f_narrow(0, domain, 1)?);
        Ok(Self { weight, bias, ..self })
    }

    /// Prunes the matrix of the first domain to 2:4 and forgets the others.
    pub(super) fn prune_two_to_four(&mut self) -> Result<(), TchError> {
        let [matrix, bias] = self.of(0)?;
        let pruned = two_to_four(&matrix.f_tr()?)?.f_tr()?; // groups lie along the inputs
        self.weight = pruned.f_reshape([1, self.inputs * self.outputs])?;
        self.bias = bias.f_unsqueeze(0)?;
        Ok(())
    }
}

/// From tokens of the vision-language half to the policy's width: one Linear, or one per domain.
#[derive(Debug)]
enum TokenProjection {
    Shared(Linear),
    PerDomain(DomainLinear),
}

impl TokenProjection {
    fn new(scope: &Scope, config: &PolicyConfig, token_width: i64) -> Result<Self, CheckpointError> {
        if config.hetero_projections {
            return Ok(Self::PerDomain(DomainLinear::new(scope, config.domains, token_width, config.hidden)?));
        }
        Ok(Self::Shared(Linear::new(scope, token_width, config.hidden)?))
    }

    /// [B, n, D] → [B, n, H]
    fn forward(&self, tokens: &Tensor, domain: &Tensor) -> TensorResult {
        match self {
            Self::Shared(linear) => linear.forward(tokens),
            Self::PerDomain(linear) => linear.forward(tokens, domain),
        }
    }

    fn specialise(self, domain: i64) -> Result<Self, TchError> {
        Ok(match self {
            Self::Shared(linear) => Self::Shared(linear),
            Self::PerDomain(linear) => Self::PerDomain(linear.specialise(domain)?),
        })
    }
}

/// Both projections. What they make of a frame's tokens does not depend on the denoising step.
#[derive(Debug)]
pub struct TokenProjections {
    vlm: TokenProjection,
    aux: TokenProjection,
}

impl TokenProjections {
    /// Reads `transformer.vlm_proj` and `transformer.aux_visual_proj` for tokens of width D.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(root: &Scope, config: &PolicyConfig, token_width: i64) -> Result<Self, CheckpointError> {
        let scope = root.sub("transformer");
        Ok(Self {
            vlm: TokenProjection::new(&scope.sub("vlm_proj"), config, token_width)?,
            aux: TokenProjection::new(&scope.sub("aux_visual_proj"), config, token_width)?,
        })
    }

    /// Tokens of a frame and domains [B] → [B, N + L, H] and [B, (V − 1)·N, H], without positions.
    pub fn forward(&self, tokens: &VlmTokens, domain: &Tensor) -> Result<[Tensor; 2], TchError> {
        Ok([self.vlm.forward(&tokens.vlm_features, domain)?, self.aux.forward(&tokens.aux_visual_inputs, domain)?])
    }

    /// Those of one domain only, which has index 0 from here on.
    pub fn specialise(self, domain: i64) -> Result<Self, TchError> {
        Ok(Self { vlm: self.vlm.specialise(domain)?, aux: self.aux.specialise(domain)? })
    }
}
