//! The soft-prompted transformer: predicts a clean action chunk from a noisy one, given the tokens of the
//! vision-language half (X-VLA's `SoftPromptedTransformer`).
//!
//! What does not depend on the denoising step, the projected tokens with their positions and the soft prompts,
//! is computed once per frame by [`Policy::context`]; [`Policy::step`] runs once per denoising step.

use super::config::PolicyConfig;
use super::layers::{Gelu, LayerNorm, Linear, Mlp, attention, join_heads, split_heads};
use super::vlm::VlmTokens;
use super::weights::Scope;
use super::{Tap, TensorResult};
use crate::error::CheckpointError;
use tch::{TchError, Tensor};

/// Longest period of the time embedding's sinusoids.
const MAX_PERIOD: f64 = 100.0;

/// The transformer with its domain tables.
#[derive(Debug)]
pub struct Policy {
    vlm_proj: TokenProjection,
    aux_visual_proj: TokenProjection,
    positions: Tensor, // [1, max_len_seq, H]
    action_encoder: DomainLinear,
    action_decoder: DomainLinear,
    soft_prompts: Option<Tensor>, // [domains, S·H]
    blocks: Vec<Block>,
    norm: LayerNorm,
    config: PolicyConfig,
}

/// The part of the sequence that stays the same for every denoising step of a frame.
#[derive(Debug)]
pub struct Context {
    tokens: Tensor, // [B, M + S, H]: projected VLM and auxiliary tokens with positions, then soft prompts
    domain: Tensor, // [B] i64
}

impl Policy {
    /// Reads everything below `transformer.`.
    pub fn new(root: &Scope, config: &PolicyConfig, token_width: i64) -> Result<Self, CheckpointError> {
        let scope = root.sub("transformer");
        let (hidden, domains) = (config.hidden, config.domains);
        let token_input = config.action_dim + config.time_dim + config.proprio_dim;
        let projection = |name: &str| TokenProjection::new(&scope.sub(name), config, token_width);
        let domain_linear = |name: &str, inputs, outputs| DomainLinear::new(&scope.sub(name), domains, inputs, outputs);
        let prompts = config.soft_prompts;
        Ok(Self {
            vlm_proj: projection("vlm_proj")?,
            aux_visual_proj: projection("aux_visual_proj")?,
            positions: scope.tensor("pos_emb", &[1, config.max_len_seq, hidden])?,
            action_encoder: domain_linear("action_encoder", token_input, hidden)?,
            action_decoder: domain_linear("action_decoder", hidden, config.action_dim)?,
            soft_prompts: (prompts > 0)
                .then(|| scope.tensor("soft_prompt_hub.weight", &[domains, prompts * hidden]))
                .transpose()?,
            blocks: (0..config.depth)
                .map(|index| Block::new(&scope.sub(format!("blocks.{index}")), config))
                .collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&scope.sub("norm"), hidden)?,
            config: config.clone(),
        })
    }

    /// Everything that the steps of one frame share; `domain` is [B] i64.
    pub fn context(&self, tokens: &VlmTokens, domain: &Tensor) -> Result<Context, TchError> {
        let projected = [
            self.vlm_proj.forward(&tokens.vlm_features, domain)?,
            self.aux_visual_proj.forward(&tokens.aux_visual_inputs, domain)?,
        ];
        let projected = Tensor::f_cat(&projected, 1)?; // [B, M, H]
        let (batch, count, hidden) = projected.size3()?;
        let positions = self.positions.f_narrow(1, self.config.chunk_length, count)?;
        let mut sequence = vec![projected.f_add(&positions)?];
        if let Some(prompts) = &self.soft_prompts {
            let prompts = prompts.f_index_select(0, domain)?;
            sequence.push(prompts.f_view([batch, self.config.soft_prompts, hidden])?); // no positions
        }
        Ok(Context { tokens: Tensor::f_cat(&sequence, 1)?, domain: domain.shallow_clone() })
    }

    /// The embeddings of `times`, one row each: [N, time_dim] of the weights' dtype and on their device. They depend on
    /// nothing else, so that they are made once for a number of steps.
    pub fn time_embeddings(&self, times: &[f32]) -> TensorResult {
        let (kind, device) = (self.positions.kind(), self.positions.device());
        time_embeddings(times, self.config.time_dim)?.f_to_device_(device, kind, false, false)
    }

    /// One denoising step: x_t [B, T, A] and proprioception [B, P], both masked by the action space, at the time whose
    /// embedding [time_dim] is given → the predicted clean actions [B, T, A]. Taps `policy.first_block` and
    /// `policy.last_block`.
    pub fn step(&self, context: &Context, x_t: &Tensor, proprio: &Tensor, time: &Tensor, tap: Tap) -> TensorResult {
        let (batch, length, _) = x_t.size3()?;
        let repeat = |vector: &Tensor| vector.f_expand([batch, length, -1], false);
        let inputs = [x_t.shallow_clone(), repeat(&proprio.f_unsqueeze(1)?)?, repeat(time)?];
        let actions = self.action_encoder.forward(&Tensor::f_cat(&inputs, -1)?, &context.domain)?; // [B, T, H]
        let actions = actions.f_add(&self.positions.f_narrow(1, 0, length)?)?;

        let mut hidden = Tensor::f_cat(&[&actions, &context.tokens], 1)?; // [B, T + M + S, H]
        for (index, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(&hidden)?;
            if index == 0 {
                tap("policy.first_block", &hidden);
            }
        }
        tap("policy.last_block", &hidden);
        let actions = self.norm.forward(&hidden.f_narrow(1, 0, length)?)?;
        self.action_decoder.forward(&actions, &context.domain)
    }
}

/// Sinusoids of each of `times` (not scaled): [N, width] on the host, cosines first; an odd width ends in zero.
pub fn time_embeddings(times: &[f32], width: i64) -> TensorResult {
    let half = width / 2;
    let angle = |t: f32, k: i64| t * (-(MAX_PERIOD.ln()) * k as f64 / half as f64).exp() as f32;
    let mut values: Vec<f32> = Vec::with_capacity(times.len() * width.unsigned_abs() as usize);
    for (row, &t) in (1..).zip(times) {
        values.extend((0..half).map(|k| angle(t, k).cos()));
        values.extend((0..half).map(|k| angle(t, k).sin()));
        values.resize(row * width.unsigned_abs() as usize, 0.0);
    }
    Tensor::f_from_slice(&values)?.f_view([-1, width])
}

/// A Linear with a matrix per domain: row `domain` of the table, read as [in, out] (y = x·W + b).
#[derive(Debug)]
struct DomainLinear {
    weight: Tensor, // [domains, in·out]
    bias: Tensor,   // [domains, out]
    inputs: i64,
    outputs: i64,
}

impl DomainLinear {
    fn new(scope: &Scope, domains: i64, inputs: i64, outputs: i64) -> Result<Self, CheckpointError> {
        Ok(Self {
            weight: scope.tensor("fc.weight", &[domains, inputs * outputs])?,
            bias: scope.tensor("bias.weight", &[domains, outputs])?,
            inputs,
            outputs,
        })
    }

    /// [B, n, in] and domains [B] → [B, n, out]
    fn forward(&self, input: &Tensor, domain: &Tensor) -> TensorResult {
        let weight = self.weight.f_index_select(0, domain)?.f_view([-1, self.inputs, self.outputs])?;
        let bias = self.bias.f_index_select(0, domain)?.f_unsqueeze(1)?; // [B, 1, out]
        bias.f_baddbmm(input, &weight, 1.0, 1.0)
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
}

/// Pre-norm transformer block: LN → attention → residual, LN → MLP → residual.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    mlp: Mlp,
    heads: i64,
}

impl Block {
    fn new(scope: &Scope, config: &PolicyConfig) -> Result<Self, CheckpointError> {
        let (hidden, attn) = (config.hidden, scope.sub("attn"));
        Ok(Self {
            norm1: LayerNorm::new(&scope.sub("norm1"), hidden)?,
            qkv: Linear::new(&attn.sub("qkv"), hidden, 3 * hidden)?,
            proj: Linear::new(&attn.sub("proj"), hidden, hidden)?,
            norm2: LayerNorm::new(&scope.sub("norm2"), hidden)?,
            mlp: Mlp::new(&scope.sub("mlp"), hidden, config.mlp_width(), Gelu::Tanh)?,
            heads: config.heads,
        })
    }

    /// [B, n, H] → [B, n, H]
    fn forward(&self, input: &Tensor) -> TensorResult {
        let [query, key, value] = split_heads(&self.qkv.forward(&self.norm1.forward(input)?)?, self.heads)?;
        let mixed = join_heads(&attention(&query, &key, &value, None)?)?;
        let hidden = input.f_add(&self.proj.forward(&mixed)?)?;
        hidden.f_add(&self.mlp.forward(&self.norm2.forward(&hidden)?)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_embedding_has_cosines_first_and_pads_odd_widths_with_zero() {
        let values: Vec<f32> = time_embeddings(&[1.0, 0.5], 5).unwrap().get(1).reshape([-1]).try_into().unwrap();
        let slow = 0.5f32 * 0.1;
        let expected = [0.5f32.cos(), slow.cos(), 0.5f32.sin(), slow.sin(), 0.0];
        for (value, expected) in values.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-7, "{values:?}");
        }
    }
}
