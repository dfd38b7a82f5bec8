//! The policy part on this project's kernels, for one sample of one domain. The domain's matrices become plain ones.
//! What depends only on the step is computed when the work is made, what depends only on the frame once per frame.

use super::layers::{bias, formats, layer_norm, length, linear, linear_of_half, mlp, norm_weights};
use crate::backend::BackendError;
use crate::backend::PolicyInputs;
use crate::backend::capture::{PolicyWork, Work, lock};
use crate::backend::cuda::device::kernels::{Kernels, Source};
use crate::backend::cuda::device::memory::{Span, buffer};
use crate::backend::cuda::device::session::{PipelineStage, Session};
use crate::backend::cuda::operators::actions::{ActionWeights, Actions, NoisyActions};
use crate::backend::cuda::operators::{attention::Attention, layer_norm::LayerNorm};
use crate::backend::cuda::product::gemm::{Activation, Formats, Gemm, Linear};
use crate::backend::cuda::product::stored;
use crate::backend::libtorch::check_domain;
use crate::backend::path::Products;
use crate::model::action_space::ActionSpace;
use crate::model::config::{ModelConfig, PolicyConfig};
use crate::model::domain::{DomainLinear, SoftPrompts, TokenProjections};
use crate::model::flow;
use crate::model::layers;
use crate::model::policy::{self, Policy, time_embeddings};
use crate::model::vlm::VlmTokens;
use std::sync::{Arc, Mutex};
use tch::{Kind, Tensor};

/// Why this part cannot run on the kernels; `None` if it can.
pub fn unsupported(config: &ModelConfig) -> Option<String> {
    let policy = &config.policy;
    let head_dim = length(policy.hidden / policy.heads.max(1));
    (!Attention::supports(head_dim)
        || policy.hidden % 8 != 0
        || policy.hidden > 8192
        || policy.mlp_width() % 8 != 0
        || config.projection_dim % 8 != 0)
        .then(|| format!("policy: heads of {head_dim}, width {}", policy.hidden))
}

/// Everything that has to be compiled for this part, besides matrix products.
pub fn sources(config: &PolicyConfig) -> Vec<Source> {
    let (hidden, heads) = (length(config.hidden), length(config.heads));
    let mut sources = vec![LayerNorm::source(hidden), Actions::source()];
    sources.extend(Attention::sources(hidden / heads.max(1)));
    sources
}

/// The transformer with its weights in the layout that the kernels need.
pub struct FusedPolicy {
    gemm: Gemm,
    network: Network,
}

struct Network {
    session: Arc<Session>,
    blocks: Vec<Block>,
    attention: Attention,
    actions: Actions,
    action_encoder: DomainLinear,
    action_decoder: DomainLinear,
    soft_prompts: Option<SoftPrompts>,
    projections: TokenProjections,
    only_domain: Option<i64>,
    positions: Tensor, // [max_len_seq, H]
    norm: layers::LayerNorm,
    visible_actions: Tensor, // [A] f32
    visible_proprio: Tensor, // [P] f32
    config: PolicyConfig,
    kind: Kind,
}

struct Block {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
}

impl Block {
    fn new(block: policy::Block, kernels: &Kernels, formats: Formats) -> Result<Self, BackendError> {
        let [fc1, fc2] = mlp(&block.mlp, formats)?;
        Ok(Self {
            norm1: layer_norm(&block.norm1, kernels)?,
            qkv: linear(&block.qkv, formats)?,
            proj: linear(&block.proj, formats)?,
            norm2: layer_norm(&block.norm2, kernels)?,
            fc1,
            fc2,
        })
    }
}

impl FusedPolicy {
    /// Who multiplies its matrices.
    pub fn products(&self) -> Products {
        self.gemm.products()
    }

    /// The network of `policy`, whose weights lie on the session's GPU, in the action space that hides channels from
    /// it. Weights are shared where the kernels can use them unchanged. Those of a domain are taken from their tables
    /// when a recording is made, unless `policy` was specialised to one.
    ///
    /// # Errors
    /// A kernel that does not compile or load, or not enough memory.
    pub fn new(mut policy: Policy, space: &ActionSpace, session: Arc<Session>) -> Result<Self, BackendError> {
        let (kind, device) = policy.options();
        let gemm = Gemm::new(session.clone(), session.stream(PipelineStage::Policy).clone(), kind)?;
        let formats = formats(&policy.linears_mut(), &gemm)?;
        let config = policy.config;
        let (hidden, heads) = (length(config.hidden), length(config.heads));
        let head_dim = hidden / heads.max(1);
        let kernels = Kernels::compile(&session, kind, stored::variants(sources(&config), formats.fp8))?;

        let blocks = policy.blocks.into_iter().map(|block| Block::new(block, &kernels, formats));
        let network = Network {
            blocks: blocks.collect::<Result<_, _>>()?,
            attention: Attention::new(&kernels, heads, head_dim)?,
            actions: Actions::new(&kernels)?,
            action_encoder: policy.action_encoder,
            action_decoder: policy.action_decoder,
            soft_prompts: policy.soft_prompts,
            projections: policy.projections,
            only_domain: policy.only_domain,
            positions: policy.positions.f_squeeze_dim(0)?,
            norm: policy.norm,
            visible_actions: space.visible(config.action_dim, Kind::Float, device)?,
            visible_proprio: space.visible(config.proprio_dim, Kind::Float, device)?,
            session,
            config,
            kind,
        };
        Ok(Self { gemm, network })
    }
}

impl Network {
    /// The action encoder and decoder of one domain, with everything that depends only on the steps.
    fn action_weights(&self, domain: i64, times: &[f32]) -> Result<ActionWeights, BackendError> {
        let PolicyConfig { action_dim, proprio_dim, time_dim, hidden, chunk_length, .. } = self.config;
        let (encoder, decoder) = (self.action_encoder.of(domain)?, self.action_decoder.of(domain)?);
        let encoder_matrix = encoder.weight.to_dense()?.f_tr()?; // [A + P + time, H]
        let time = encoder_matrix.f_narrow(0, action_dim + proprio_dim, time_dim)?.f_to_kind(Kind::Float)?;
        let embedded = time_embeddings(times, time_dim)?.f_to(self.positions.device())?.f_matmul(&time)?; // [N, H]
        let masked_proprio = encoder_matrix
            .f_narrow(0, action_dim, proprio_dim)?
            .f_mul(&self.visible_proprio.f_to_kind(self.kind)?.f_unsqueeze(1)?)?;
        Ok(ActionWeights {
            visible: self.visible_actions.shallow_clone(),
            encode_actions: encoder_matrix.f_narrow(0, 0, action_dim)?.f_contiguous()?,
            encode_proprio: masked_proprio.f_contiguous()?,
            step_bias: embedded.f_add(&bias(&encoder)?.f_to_kind(Kind::Float)?)?,
            positions: self.positions.shallow_clone(),
            norm: norm_weights(&self.norm),
            decode: decoder.weight.to_dense()?.f_contiguous()?,
            decode_bias: bias(&decoder)?.f_contiguous()?,
            length: length(chunk_length),
            action_dim: length(action_dim),
            proprio_dim: length(proprio_dim),
            width: length(hidden),
        })
    }
}

/// The rows that one block reads and writes.
struct Rows {
    /// [rows, H]
    input: Span,
    /// [rows, H]; may be the input.
    output: Span,
    /// [rows, 3·H]
    qkv: Span,
    /// Number of first rows whose queries, keys and values are computed; the other rows keep those of the previous
    /// step.
    fresh: usize,
    /// Number of first rows of the result that are needed.
    kept: usize,
}

/// The buffers and weights for one set of sizes, one domain and one number of steps.
pub struct FusedPolicyWork {
    shared: Arc<Mutex<FusedPolicy>>,
    weights: ActionWeights,
    projections: [Linear; 2],
    times: Vec<f32>,
    /// Rows of the sequence: actions, the tokens of both sources, soft prompts.
    rows: usize,
    /// Tokens of `features` and of `others`.
    sources: [usize; 2],
    features: Tensor, // [N + L, D]
    others: Tensor,   // [(V − 1)·N, D]
    noise: Tensor,    // [T, A] f32
    proprio: Tensor,  // [P] f32
    actions: Tensor,  // [1, T, A] f32
    sequence: Tensor, // [rows, H]: the first block's input
    first_qkv: Tensor,
    qkv: Tensor,
    hidden: Tensor,
    normed: Tensor,
    mixed: Tensor,
    wide: Tensor,
}

impl FusedPolicyWork {
    /// Buffers for `tokens` of one sample.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(
        shared: Arc<Mutex<FusedPolicy>>,
        tokens: &VlmTokens,
        inputs: &PolicyInputs,
    ) -> Result<Self, BackendError> {
        let mut guard = lock(&shared);
        guard.gemm.forget_untuned();
        let network = &guard.network;
        check_domain(network.only_domain, inputs.host_domain)?;
        let domain = inputs.host_domain.first().copied().unwrap_or(0);
        let times = flow::times(inputs.steps);
        let weights = network.action_weights(domain, &times)?;
        let [vlm_projection, aux_projection] = network.projections.of(domain)?;
        let projections = [linear_of_half(&vlm_projection)?, linear_of_half(&aux_projection)?];
        let (device, kind) = (network.session.device(), network.kind);
        let tensor = |shape: &[usize]| buffer(shape, kind, device);
        let count = |tensor: &Tensor| length(tensor.size().get(1).copied().unwrap_or(0));
        let sources = [count(&tokens.vlm_features), count(&tokens.aux_visual_inputs)];
        let depth = length(tokens.vlm_features.size().last().copied().unwrap_or(0));
        let ActionWeights { length: chunk, action_dim, proprio_dim, width, .. } = weights;
        let prompts = length(network.config.soft_prompts);
        let tokens_before = chunk + sources[0] + sources[1];
        let rows = tokens_before + prompts;
        let sequence = tensor(&[rows, width])?;
        if let Some(soft_prompts) = &network.soft_prompts {
            let own = soft_prompts.of(domain)?; // Prompts get no positions.
            sequence.f_narrow(0, tokens_before as i64, prompts as i64)?.f_copy_(&own)?;
        }
        let wide = tensor(&[rows, length(network.config.mlp_width())])?;
        drop(guard);
        Ok(Self {
            features: tensor(&[sources[0], depth])?,
            others: tensor(&[sources[1], depth])?,
            noise: buffer(&[chunk, action_dim], Kind::Float, device)?,
            proprio: buffer(&[proprio_dim], Kind::Float, device)?,
            actions: buffer(&[1, chunk, action_dim], Kind::Float, device)?,
            first_qkv: tensor(&[rows, 3 * width])?,
            qkv: tensor(&[rows, 3 * width])?,
            hidden: tensor(&[rows, width])?,
            normed: tensor(&[rows, width])?,
            mixed: tensor(&[rows, width])?,
            wide,
            sequence,
            shared,
            weights,
            projections,
            times,
            rows,
            sources,
        })
    }

    /// Projects the vision-language tokens and adds their positions: the part of the sequence that all steps share.
    fn project(&self, network: &Network, gemm: &mut Gemm) -> Result<(), BackendError> {
        let width = self.weights.width;
        let (sequence, positions) = (Span::of(&self.sequence), Span::of(&network.positions));
        let mut row = self.weights.length;
        let tokens = [&self.features, &self.others];
        for ((projection, tokens), count) in self.projections.iter().zip(tokens).zip(self.sources) {
            if count > 0 {
                let (output, position) = (sequence.from(row * width), positions.from(row * width));
                gemm.linear(projection, Span::of(tokens), output, count, Activation::None, Some(position))?;
            }
            row += count;
        }
        Ok(())
    }

    /// One denoising step: `noise`, the last prediction and the sequence → the next prediction.
    fn step(&self, network: &Network, gemm: &mut Gemm, step: usize, time: f32) -> Result<(), BackendError> {
        let stream = network.session.stream(PipelineStage::Policy);
        let (sequence, hidden, actions) = (Span::of(&self.sequence), Span::of(&self.hidden), Span::of(&self.actions));
        let noisy =
            NoisyActions { noise: Span::of(&self.noise), previous: actions, proprio: Span::of(&self.proprio), time };
        network.actions.encode(stream, &self.weights, &noisy, step, sequence)?;
        for (index, block) in network.blocks.iter().enumerate() {
            // The first block's keys and values of all tokens but the actions stay the same from step to step.
            let fresh = if index == 0 && step > 0 { self.weights.length } else { self.rows };
            // Only the rows of the actions are needed after the last block.
            let kept = if index + 1 == network.blocks.len() { self.weights.length } else { self.rows };
            let input = if index == 0 { sequence } else { hidden };
            let qkv = Span::of(if index == 0 { &self.first_qkv } else { &self.qkv });
            self.block(network, gemm, block, &Rows { input, output: hidden, qkv, fresh, kept })?;
        }
        network.actions.decode(stream, &self.weights, hidden, actions)
    }

    /// One transformer block.
    fn block(&self, network: &Network, gemm: &mut Gemm, block: &Block, rows: &Rows) -> Result<(), BackendError> {
        let &Rows { input, output, qkv, fresh, kept } = rows;
        let stream = network.session.stream(PipelineStage::Policy);
        let (normed, mixed, wide) = (Span::of(&self.normed), Span::of(&self.mixed), Span::of(&self.wide));
        block.norm1.run(stream, input, block.qkv.reads(normed), fresh)?;
        gemm.linear(&block.qkv, normed, qkv, fresh, Activation::None, None)?;
        network.attention.run(stream, qkv, block.proj.reads(mixed), self.rows, kept)?;
        gemm.linear(&block.proj, mixed, output, kept, Activation::None, Some(input))?;
        block.norm2.run(stream, output, block.fc1.reads(normed), kept)?;
        gemm.linear(&block.fc1, normed, block.fc2.reads(wide), kept, Activation::Gelu, None)?;
        gemm.linear(&block.fc2, wide, output, kept, Activation::None, Some(output))
    }
}

impl Work for FusedPolicyWork {
    fn run(&mut self) -> Result<(), BackendError> {
        let FusedPolicy { gemm, network } = &mut *lock(&self.shared);
        self.project(network, gemm)?;
        for (step, &time) in self.times.iter().enumerate() {
            self.step(network, gemm, step, time)?;
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), BackendError> {
        lock(&self.shared).gemm.tune()
    }
}

impl PolicyWork for FusedPolicyWork {
    fn load(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<(), BackendError> {
        self.features.f_copy_(&tokens.vlm_features.f_squeeze_dim(0)?)?;
        if self.sources[1] > 0 {
            self.others.f_copy_(&tokens.aux_visual_inputs.f_squeeze_dim(0)?)?;
        }
        self.noise.f_copy_(&inputs.noise.f_squeeze_dim(0)?)?;
        if self.weights.proprio_dim > 0 {
            self.proprio.f_copy_(&inputs.proprio.f_squeeze_dim(0)?)?;
        }
        Ok(())
    }

    fn actions(&self) -> Result<Tensor, BackendError> {
        Ok(self.actions.shallow_clone())
    }
}
