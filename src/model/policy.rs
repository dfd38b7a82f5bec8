//! The soft-prompted transformer: predicts a clean action chunk from a noisy one, given the tokens of the
//! vision-language part (X-VLA's `SoftPromptedTransformer`).
//!
//! [`Policy::context`] computes once per frame what does not depend on the denoising step: the projected tokens with
//! their positions, and the soft prompts. [`Policy::step`] runs once per denoising step.

use super::checkpoint::Scope;
use super::config::PolicyConfig;
use super::domain::{DomainLinear, SoftPrompts, TokenProjections};
use super::layers::{Gelu, LayerNorm, Linear, LinearGroup, Mlp, attention, join_heads, split_heads};
use super::vlm::VlmTokens;
use super::{Hook, TensorResult};
use crate::error::CheckpointError;
use tch::{Device, Kind, TchError, Tensor};

/// Longest period of the time embedding's sinusoids, as a multiple of 2π.
const MAX_PERIOD: f64 = 100.0;

/// The transformer with its domain tables.
#[derive(Debug)]
pub struct Policy {
    pub(crate) projections: TokenProjections,
    pub(crate) positions: Tensor,            // [1, max_len_seq, H]
    pub(crate) action_encoder: DomainLinear, // from A + P + time_dim, in this order, to H
    pub(crate) action_decoder: DomainLinear, // from H to A
    pub(crate) soft_prompts: Option<SoftPrompts>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) norm: LayerNorm,
    pub(crate) config: PolicyConfig,
    /// The domain given to [`Policy::specialise`]; `None` while the policy has all domains.
    pub(crate) only_domain: Option<i64>,
}

/// The part of the sequence that stays the same for every denoising step of a frame.
#[derive(Debug)]
pub struct Context {
    tokens: Tensor, // [B, M + S, H]: projected VLM and auxiliary tokens with positions, then soft prompts
    domain: Tensor, // [B] i64
}

impl Policy {
    /// Reads everything below `transformer.`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(root: &Scope, config: &PolicyConfig, token_width: i64) -> Result<Self, CheckpointError> {
        let scope = root.sub("transformer");
        let (hidden, domains) = (config.hidden, config.domain_rows());
        let token_input = config.action_dim + config.time_dim + config.proprio_dim;
        let domain_linear = |name: &str, inputs, outputs| DomainLinear::new(&scope.sub(name), domains, inputs, outputs);
        let prompts = config.soft_prompts;
        let policy = Self {
            projections: TokenProjections::new(root, config, token_width)?,
            positions: scope.tensor("pos_emb", &[1, config.max_len_seq, hidden])?,
            action_encoder: domain_linear("action_encoder", token_input, hidden)?,
            action_decoder: domain_linear("action_decoder", hidden, config.action_dim)?,
            soft_prompts: (prompts > 0)
                .then(|| SoftPrompts::new(&scope.sub("soft_prompt_hub"), domains, prompts, hidden))
                .transpose()?,
            blocks: (0..config.depth)
                .map(|index| Block::new(&scope.sub(format!("blocks.{index}")), config))
                .collect::<Result<_, _>>()?,
            norm: LayerNorm::new(&scope.sub("norm"), hidden)?,
            config: config.clone(),
            only_domain: None,
        };
        match config.only_domain {
            Some(domain) => root.torch(policy.of_row(0, domain)),
            None => Ok(policy),
        }
    }

    /// Keeps the parameters of one domain only. Every DomainAwareLinear becomes a plain matrix, which then applies
    /// whatever domain is requested. A policy that has only the parameters of one domain stays as it is: check before
    /// that it is the one that is wanted.
    ///
    /// # Errors
    /// A domain that the checkpoint does not have.
    pub fn specialise(self, domain: i64) -> Result<Self, TchError> {
        if self.only_domain.is_some() { Ok(self) } else { self.of_row(domain, domain) }
    }

    /// The policy of `domain`, whose parameters are in this row of the tables.
    fn of_row(self, row: i64, domain: i64) -> Result<Self, TchError> {
        Ok(Self {
            projections: self.projections.specialise(row)?,
            action_encoder: self.action_encoder.specialise(row)?,
            action_decoder: self.action_decoder.specialise(row)?,
            soft_prompts: self.soft_prompts.map(|prompts| prompts.specialise(row)).transpose()?,
            config: PolicyConfig { only_domain: Some(domain), ..self.config },
            only_domain: Some(domain),
            ..self
        })
    }

    /// The domain that this policy was specialised to; `None` if it has all of the checkpoint's.
    pub fn only_domain(&self) -> Option<i64> {
        self.only_domain
    }

    /// Dtype and device of the weights, which are those that the network computes in and on.
    pub fn options(&self) -> (Kind, Device) {
        (self.positions.kind(), self.positions.device())
    }

    /// The layers whose matrices a variant stores in another format: those of the blocks. Token projections and what
    /// belongs to a domain are small and stay as they are.
    pub fn linears_mut(&mut self) -> Vec<LinearGroup<'_>> {
        let blocks = self.blocks.iter_mut().enumerate();
        let named = blocks.flat_map(|(index, block)| {
            block
                .linears_mut()
                .map(|(name, layer)| LinearGroup::single(format!("transformer.blocks.{index}.{name}"), layer))
        });
        named.collect()
    }

    /// The names, as in the original release, of the tensors with a row for each domain.
    pub fn domain_tables(config: &PolicyConfig) -> Vec<String> {
        let mut layers = vec!["action_encoder", "action_decoder"];
        if config.hetero_projections {
            layers.extend(["vlm_proj", "aux_visual_proj"]);
        }
        let tensors =
            layers.into_iter().flat_map(|layer| [format!("{layer}.fc.weight"), format!("{layer}.bias.weight")]);
        let prompts = (config.soft_prompts > 0).then(|| "soft_prompt_hub.weight".to_owned());
        tensors.chain(prompts).map(|name| format!("transformer.{name}")).collect()
    }

    /// Tokens of a frame in the policy's width, [B, N + L, H] and [B, (V − 1)·N, H], without positions; `domain` is [B]
    /// i64.
    pub fn project(&self, tokens: &VlmTokens, domain: &Tensor) -> Result<[Tensor; 2], TchError> {
        self.projections.forward(tokens, domain)
    }

    /// Computes what all denoising steps of one frame share; `domain` is [B] i64.
    pub fn context(&self, tokens: &VlmTokens, domain: &Tensor) -> Result<Context, TchError> {
        let projected = Tensor::f_cat(&self.project(tokens, domain)?, 1)?; // [B, M, H]
        let (_, count, _) = projected.size3()?;
        let positions = self.positions.f_narrow(1, self.config.chunk_length, count)?;
        let mut sequence = vec![projected.f_add(&positions)?];
        if let Some(prompts) = &self.soft_prompts {
            sequence.push(prompts.forward(domain)?); // soft prompts have no positions
        }
        Ok(Context { tokens: Tensor::f_cat(&sequence, 1)?, domain: domain.shallow_clone() })
    }

    /// The embeddings of `times`, one row each: [N, time_dim] of the weights' dtype and on their device. They depend on
    /// the times only, so they are computed once for a number of steps.
    pub fn time_embeddings(&self, times: &[f32]) -> TensorResult {
        let (kind, device) = self.options();
        time_embeddings(times, self.config.time_dim)?.f_to_device_(device, kind, false, false)
    }

    /// One denoising step: x_t [B, T, A] and proprioception [B, P], both masked by the action space, at the time whose
    /// embedding [time_dim] is given → the predicted clean actions [B, T, A]. The hook receives `policy.first_block`,
    /// `policy.last_block` and, in every block, the inputs of its matrices ([`LINEAR_INPUTS`]).
    pub fn step(&self, context: &Context, x_t: &Tensor, proprio: &Tensor, time: &Tensor, hook: Hook) -> TensorResult {
        let (batch, length, _) = x_t.size3()?;
        let repeat = |vector: &Tensor| vector.f_expand([batch, length, -1], false);
        let inputs = [x_t.shallow_clone(), repeat(&proprio.f_unsqueeze(1)?)?, repeat(time)?];
        let actions = self.action_encoder.forward(&Tensor::f_cat(&inputs, -1)?, &context.domain)?; // [B, T, H]
        let actions = actions.f_add(&self.positions.f_narrow(1, 0, length)?)?;

        let mut hidden = Tensor::f_cat(&[&actions, &context.tokens], 1)?; // [B, T + M + S, H]
        for (index, block) in self.blocks.iter().enumerate() {
            hidden = block.forward(&hidden, hook)?;
            if index == 0 {
                hook("policy.first_block", &hidden);
            }
        }
        hook("policy.last_block", &hidden);
        let actions = self.norm.forward(&hidden.f_narrow(1, 0, length)?)?;
        self.action_decoder.forward(&actions, &context.domain)
    }
}

/// Sinusoids of each of `times` (not scaled): [N, width] on the host, cosines first; an odd width ends in zero.
pub fn time_embeddings(times: &[f32], width: i64) -> TensorResult {
    let frequencies = frequencies(width);
    let mut values: Vec<f32> = Vec::with_capacity(times.len() * width.unsigned_abs() as usize);
    for (row, &t) in (1..).zip(times) {
        values.extend(frequencies.iter().map(|frequency| (t * frequency).cos()));
        values.extend(frequencies.iter().map(|frequency| (t * frequency).sin()));
        values.resize(row * width.unsigned_abs() as usize, 0.0);
    }
    Tensor::f_from_slice(&values)?.f_view([-1, width])
}

/// The `width / 2` frequencies of a time embedding, fastest first.
pub(super) fn frequencies(width: i64) -> Vec<f32> {
    let half = width / 2;
    (0..half).map(|k| (-(MAX_PERIOD.ln()) * k as f64 / half as f64).exp() as f32).collect()
}

/// Hook names of the inputs of a block's four matrices, in the order in which each block reports them.
pub const LINEAR_INPUTS: [&str; 4] = ["policy.qkv_input", "policy.proj_input", "policy.fc1_input", "policy.fc2_input"];

/// Pre-norm transformer block: LN → attention → residual, LN → MLP → residual.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) norm1: LayerNorm,
    pub(crate) qkv: Linear,
    pub(crate) proj: Linear,
    pub(crate) norm2: LayerNorm,
    pub(crate) mlp: Mlp,
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

    /// Number of attention heads.
    pub(super) fn heads(&self) -> i64 {
        self.heads
    }

    fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 4] {
        [
            ("attn.qkv", &mut self.qkv),
            ("attn.proj", &mut self.proj),
            ("mlp.fc1", &mut self.mlp.fc1),
            ("mlp.fc2", &mut self.mlp.fc2),
        ]
    }

    /// [B, n, H] → [B, n, H]
    fn forward(&self, input: &Tensor, hook: Hook) -> TensorResult {
        let [qkv_input, proj_input, fc1_input, fc2_input] = LINEAR_INPUTS;
        let normed = self.norm1.forward(input)?;
        hook(qkv_input, &normed);
        let [query, key, value] = split_heads(&self.qkv.forward(&normed)?, self.heads)?;
        let mixed = join_heads(&attention(&query, &key, &value, None)?)?;
        hook(proj_input, &mixed);
        let hidden = input.f_add(&self.proj.forward(&mixed)?)?;
        let normed = self.norm2.forward(&hidden)?;
        hook(fc1_input, &normed);
        let wide = self.mlp.widen(&normed)?;
        hook(fc2_input, &wide);
        hidden.f_add(&self.mlp.fc2.forward(&wide)?)
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
