//! Parameters that depend on the domain (embodiment). A specialised policy keeps those of one domain, so that no table
//! lookup remains.

use super::TensorResult;
use super::checkpoint::Scope;
use super::config::PolicyConfig;
use super::layers::Linear;
use super::vlm::VlmTokens;
use super::weight::Weight;
use crate::error::CheckpointError;
use tch::{TchError, Tensor};

/// A Linear whose matrix may depend on the domain.
#[derive(Debug)]
pub enum DomainLinear {
    /// X-VLA's DomainAwareLinear: one matrix and bias per domain.
    PerDomain(DomainTable),
    /// One matrix, which all domains share or which belongs to the only domain left.
    Single(Linear),
}

/// The matrices and biases of all domains. Row `domain` of `weight` is read as [in, out] (y = x·W + b).
#[derive(Debug)]
pub struct DomainTable {
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
        Ok(Self::PerDomain(DomainTable {
            weight: scope.tensor("fc.weight", &[domains, inputs * outputs])?,
            bias: scope.tensor("bias.weight", &[domains, outputs])?,
            inputs,
            outputs,
        }))
    }

    /// [B, n, in] and domains [B] → [B, n, out]
    ///
    /// # Errors
    /// A domain outside the table, shapes that do not fit.
    pub fn forward(&self, input: &Tensor, domain: &Tensor) -> TensorResult {
        match self {
            Self::PerDomain(table) => table.forward(input, domain),
            Self::Single(linear) => linear.forward(input),
        }
    }

    /// The layer of one domain, in the memory of the table.
    ///
    /// # Errors
    /// A domain outside the table.
    pub fn of(&self, domain: i64) -> Result<Linear, TchError> {
        match self {
            Self::PerDomain(table) => table.of(domain),
            Self::Single(linear) => Ok(linear.share()),
        }
    }

    /// Keeps only the layer of `domain`, which then applies whatever domain is requested.
    pub(super) fn specialise(self, domain: i64) -> Result<Self, TchError> {
        self.of(domain).map(Self::Single)
    }
}

impl DomainTable {
    fn forward(&self, input: &Tensor, domain: &Tensor) -> TensorResult {
        let weight = self.weight.f_index_select(0, domain)?.f_view([-1, self.inputs, self.outputs])?;
        let bias = self.bias.f_index_select(0, domain)?.f_unsqueeze(1)?; // [B, 1, out]
        bias.f_baddbmm(input, &weight, 1.0, 1.0)
    }

    fn of(&self, domain: i64) -> Result<Linear, TchError> {
        let matrix = self.weight.f_get(domain)?.f_view([self.inputs, self.outputs])?;
        let bias = Some(self.bias.f_get(domain)?);
        Ok(Linear { weight: Weight::Dense(matrix.f_tr()?), bias, watch: None })
    }
}

/// Learned tokens that stand for a domain.
#[derive(Debug)]
pub enum SoftPrompts {
    /// [domains, S, H]
    PerDomain(Tensor),
    /// [S, H] of the only domain left.
    Single(Tensor),
}

impl SoftPrompts {
    /// Reads `weight` [domains, S·H] for S = `count` prompts of width H.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(scope: &Scope, domains: i64, count: i64, width: i64) -> Result<Self, CheckpointError> {
        let table = scope.tensor("weight", &[domains, count * width])?;
        Ok(Self::PerDomain(scope.torch(table.f_view([domains, count, width]))?))
    }

    /// Domains [B] → [B, S, H]
    ///
    /// # Errors
    /// A domain outside the table.
    pub fn forward(&self, domain: &Tensor) -> TensorResult {
        match self {
            Self::PerDomain(table) => table.f_index_select(0, domain),
            Self::Single(prompts) => prompts.f_unsqueeze(0)?.f_expand([domain.size1()?, -1, -1], false),
        }
    }

    /// The prompts of one domain, [S, H], in the memory of the table.
    ///
    /// # Errors
    /// A domain outside the table.
    pub fn of(&self, domain: i64) -> TensorResult {
        match self {
            Self::PerDomain(table) => table.f_get(domain),
            Self::Single(prompts) => Ok(prompts.shallow_clone()),
        }
    }

    /// Keeps only the prompts of `domain`, which then apply whatever domain is requested.
    pub(super) fn specialise(self, domain: i64) -> Result<Self, TchError> {
        self.of(domain).map(Self::Single)
    }
}

/// Projects the tokens of the vision-language part to the policy's width H. The result does not depend on the denoising
/// step, so it is computed once per frame.
#[derive(Debug)]
pub struct TokenProjections {
    vlm: DomainLinear,
    aux: DomainLinear,
}

impl TokenProjections {
    /// Reads `transformer.vlm_proj` and `transformer.aux_visual_proj` for tokens of width D.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(root: &Scope, config: &PolicyConfig, token_width: i64) -> Result<Self, CheckpointError> {
        let scope = root.sub("transformer");
        let projection = |name: &str| {
            let scope = scope.sub(name);
            if config.hetero_projections {
                return DomainLinear::new(&scope, config.domain_rows(), token_width, config.hidden);
            }
            Ok(DomainLinear::Single(Linear::new(&scope, token_width, config.hidden)?))
        };
        let projections = Self { vlm: projection("vlm_proj")?, aux: projection("aux_visual_proj")? };
        // The tables of a variant have one row.
        if config.only_domain.is_some() { root.torch(projections.specialise(0)) } else { Ok(projections) }
    }

    /// Tokens of a frame and domains [B] → [B, N + L, H] and [B, (V − 1)·N, H], without positions.
    ///
    /// # Errors
    /// A domain outside the tables, shapes that do not fit.
    pub fn forward(&self, tokens: &VlmTokens, domain: &Tensor) -> Result<[Tensor; 2], TchError> {
        Ok([self.vlm.forward(&tokens.vlm_features, domain)?, self.aux.forward(&tokens.aux_visual_inputs, domain)?])
    }

    /// Both layers of one domain, in the memory of the tables: first that of `vlm_features`, then that of
    /// `aux_visual_inputs`.
    ///
    /// # Errors
    /// A domain outside the tables.
    pub fn of(&self, domain: i64) -> Result<[Linear; 2], TchError> {
        Ok([self.vlm.of(domain)?, self.aux.of(domain)?])
    }

    /// Keeps only the projections of `domain`, which then apply whatever domain is requested.
    ///
    /// # Errors
    /// A domain outside the tables.
    pub fn specialise(self, domain: i64) -> Result<Self, TchError> {
        Ok(Self { vlm: self.vlm.specialise(domain)?, aux: self.aux.specialise(domain)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    const FLOAT: (Kind, Device) = (Kind::Float, Device::Cpu);

    /// Distinct values that are the same in every run.
    fn waves(shape: &[i64]) -> Tensor {
        let count: i64 = shape.iter().product();
        Tensor::arange(count, FLOAT).multiply_scalar(0.7).sin().view(shape)
    }

    /// Three domains of five inputs and two outputs.
    fn linear() -> DomainLinear {
        DomainLinear::PerDomain(DomainTable { weight: waves(&[3, 10]), bias: waves(&[3, 2]), inputs: 5, outputs: 2 })
    }

    fn difference(a: &Tensor, b: &Tensor) -> f64 {
        assert_eq!(a.size(), b.size());
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn a_specialised_layer_answers_a_batch_as_the_table_does_for_that_domain() {
        let input = waves(&[4, 7, 5]);
        let expected = linear().forward(&input, &Tensor::from_slice(&[2i64; 4])).unwrap();
        let found = linear().specialise(2).unwrap().forward(&input, &Tensor::from_slice(&[0i64; 4])).unwrap();
        assert!(difference(&found, &expected) < 1e-6);
    }

    #[test]
    fn specialised_prompts_are_those_of_the_domain_for_every_sample() {
        let table = || SoftPrompts::PerDomain(Tensor::arange(12, FLOAT).view([2, 3, 2]));
        let expected = table().forward(&Tensor::from_slice(&[1i64, 1])).unwrap();
        let found = table().specialise(1).unwrap().forward(&Tensor::from_slice(&[0i64, 0])).unwrap();
        assert_eq!(difference(&found, &expected), 0.0);
    }

    #[test]
    fn a_domain_outside_the_table_is_refused() {
        assert!(linear().specialise(3).is_err());
    }
}
