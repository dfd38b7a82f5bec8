//! The policy half on this project's kernels, for one sample of one domain: the domain's matrices become plain ones,
//! what depends on the step alone is computed when the work is made, what depends on the frame alone once per frame.

use super::gemm::{Activation, Gemm, Linear};
use super::kernels::Kernels;
use super::memory::{Span, buffer};
use super::operators::actions::{ActionWeights, Actions, NoisyActions};
use super::operators::transformer::{Attention, LayerNorm};
use super::session::{PipelineStage, Session};
use super::vision::{length, linear, norm_weights};
use crate::backend::BackendError;
use crate::backend::PolicyInputs;
use crate::backend::capture::{PolicyWork, Work, lock};
use crate::model::checkpoint::Scope;
use crate::model::config::{ModelConfig, PolicyConfig};
use crate::model::domain::DomainLinear;
use crate::model::flow;
use crate::model::policy::time_embeddings;
use crate::model::vlm::VlmTokens;
use std::sync::{Arc, Mutex};
use tch::{Kind, Tensor};

/// What keeps this half from running on the kernels; `None` if nothing does.
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

/// The transformer with its weights as the kernels want them.
pub struct FusedPolicy {
    gemm: Gemm,
    network: Network,
}

struct Network {
    session: Arc<Session>,
    blocks: Vec<Block>,
    attention: Attention,
    actions: Actions,
    tables: DomainTables,
    vlm_proj: Projection,
    aux_proj: Projection,
    positions: Tensor, // [max_len_seq, H]
    norm: [Tensor; 2],
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

/// Parameters of every domain, as the checkpoint stores them.
struct DomainTables {
    encoder: DomainLinear,        // from A + P + time to H
    decoder: DomainLinear,        // from H to A
    soft_prompts: Option<Tensor>, // [domains, S·H]
}

/// From tokens of the vision-language half to the policy's width.
enum Projection {
    Shared(Linear),
    PerDomain(DomainLinear),
}

impl Projection {
    fn new(scope: &Scope, config: &PolicyConfig, inputs: i64) -> Result<Self, BackendError> {
        let outputs = config.hidden;
        if !config.hetero_projections {
            return Ok(Self::Shared(linear(scope, inputs, outputs)?));
        }
        Ok(Self::PerDomain(DomainLinear::new(scope, config.domains, inputs, outputs)?))
    }

    fn of_domain(&self, domain: i64) -> Result<Linear, BackendError> {
        match self {
            Self::Shared(linear) => Ok(linear.share()),
            Self::PerDomain(table) => {
                let [matrix, bias] = table.of(domain)?;
                Linear::new(&matrix.f_tr()?, Some(&bias))
            }
        }
    }
}

impl FusedPolicy {
    /// Takes its tensors from `root`.
    ///
    /// # Errors
    /// The checkpoint's or the kernels' faults.
    pub fn new(root: &Scope, model: &ModelConfig, session: Arc<Session>) -> Result<Self, BackendError> {
        let (kind, device) = root.options();
        let config = &model.policy;
        let (hidden, heads) = (config.hidden, length(config.heads));
        let head_dim = length(hidden) / heads.max(1);
        let mut sources = vec![LayerNorm::source(length(hidden)), Actions::source()];
        sources.extend(Attention::sources(head_dim));
        let kernels = Kernels::compile(&session, kind, sources)?;
        let scope = root.sub("transformer");
        let inputs = config.action_dim + config.time_dim + config.proprio_dim;
        let norm = |scope: Scope| -> Result<LayerNorm, BackendError> {
            LayerNorm::new(&kernels, norm_weights(&scope, hidden)?, length(hidden))
        };
        let blocks = (0..config.depth).map(|index| {
            let scope = scope.sub(format!("blocks.{index}"));
            let (attn, mlp) = (scope.sub("attn"), scope.sub("mlp"));
            Ok(Block {
                norm1: norm(scope.sub("norm1"))?,
                qkv: linear(&attn.sub("qkv"), hidden, 3 * hidden)?,
                proj: linear(&attn.sub("proj"), hidden, hidden)?,
                norm2: norm(scope.sub("norm2"))?,
                fc1: linear(&mlp.sub("fc1"), hidden, config.mlp_width())?,
                fc2: linear(&mlp.sub("fc2"), config.mlp_width(), hidden)?,
            })
        });
        let blocks = blocks.collect::<Result<_, BackendError>>()?;
        let prompts = config.soft_prompts;
        let last = norm_weights(&scope.sub("norm"), hidden)?;
        let positions = scope.tensor("pos_emb", &[1, config.max_len_seq, hidden])?;
        let visible = |width| scope.torch(model.action_space.visible(width, Kind::Float, device));
        let gemm = Gemm::new(session.clone(), session.stream(PipelineStage::Policy).clone(), kind)?;
        let network = Network {
            blocks,
            attention: Attention::new(&kernels, heads, head_dim)?,
            actions: Actions::new(&kernels)?,
            tables: DomainTables {
                encoder: DomainLinear::new(&scope.sub("action_encoder"), config.domains, inputs, hidden)?,
                decoder: DomainLinear::new(&scope.sub("action_decoder"), config.domains, hidden, config.action_dim)?,
                soft_prompts: (prompts > 0)
                    .then(|| scope.tensor("soft_prompt_hub.weight", &[config.domains, prompts * hidden]))
                    .transpose()?,
            },
            vlm_proj: Projection::new(&scope.sub("vlm_proj"), config, model.projection_dim)?,
            aux_proj: Projection::new(&scope.sub("aux_visual_proj"), config, model.projection_dim)?,
            positions: scope.torch(positions.f_squeeze_dim(0))?,
            norm: [last.weight, last.bias],
            visible_actions: visible(config.action_dim)?,
            visible_proprio: visible(config.proprio_dim)?,
            session,
            config: config.clone(),
            kind,
        };
        Ok(Self { gemm, network })
    }
}

impl Network {
    /// The action encoder and decoder of one domain, with everything that depends on the steps alone.
    fn action_weights(&self, domain: i64, times: &[f32]) -> Result<ActionWeights, BackendError> {
        let PolicyConfig { action_dim, proprio_dim, time_dim, hidden, chunk_length, .. } = self.config;
        let [encoder, encoder_bias] = self.tables.encoder.of(domain)?;
        let [decoder, decoder_bias] = self.tables.decoder.of(domain)?;
        let time = encoder.f_narrow(0, action_dim + proprio_dim, time_dim)?.f_to_kind(Kind::Float)?;
        let embedded = time_embeddings(times, time_dim)?.f_to(self.positions.device())?.f_matmul(&time)?; // [N, H]
        let masked_proprio = encoder
            .f_narrow(0, action_dim, proprio_dim)?
            .f_mul(&self.visible_proprio.f_to_kind(self.kind)?.f_unsqueeze(1)?)?;
        let [weight, bias] = [0, 1].map(|part| self.norm[part].shallow_clone());
        Ok(ActionWeights {
            visible: self.visible_actions.shallow_clone(),
            encode_actions: encoder.f_narrow(0, 0, action_dim)?.f_contiguous()?,
            encode_proprio: masked_proprio.f_contiguous()?,
            step_bias: embedded.f_add(&encoder_bias.f_to_kind(Kind::Float)?)?,
            positions: self.positions.shallow_clone(),
            norm: super::operators::NormWeights { weight, bias },
            decode: decoder.f_tr()?.f_contiguous()?,
            decode_bias: decoder_bias.f_contiguous()?,
            length: length(chunk_length),
            action_dim: length(action_dim),
            proprio_dim: length(proprio_dim),
            width: length(hidden),
        })
    }
}

/// What one block reads and writes.
struct Rows {
    /// [rows, H]
    input: Span,
    /// [rows, H]; may be the input.
    output: Span,
    /// [rows, 3·H]
    qkv: Span,
    /// Queries, keys and values are computed anew for that many rows, the others are those of the step before.
    fresh: usize,
    /// Rows of the result that anyone looks at.
    kept: usize,
}

/// One set of sizes, one domain, one number of steps.
pub struct FusedPolicyWork {
    shared: Arc<Mutex<FusedPolicy>>,
    weights: ActionWeights,
    projections: [Linear; 2],
    times: Vec<f32>,
    /// Rows of the sequence; of those, tokens of the two sources.
    rows: usize,
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
    /// No memory.
    pub fn new(
        shared: Arc<Mutex<FusedPolicy>>,
        tokens: &VlmTokens,
        inputs: &PolicyInputs,
    ) -> Result<Self, BackendError> {
        let mut guard = lock(&shared);
        guard.gemm.forget_untuned();
        let network = &guard.network;
        let domain = inputs.host_domain.first().copied().unwrap_or(0);
        let times = flow::times(inputs.steps);
        let weights = network.action_weights(domain, &times)?;
        let projections = [network.vlm_proj.of_domain(domain)?, network.aux_proj.of_domain(domain)?];
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
        if let Some(table) = &network.tables.soft_prompts {
            let own = table.f_get(domain)?.f_view([prompts as i64, width as i64])?; // no positions
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

    /// Tokens of the vision-language half with their positions: the part of the sequence that all steps share.
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
            // Only actions leave the last block.
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
        block.norm1.run(stream, input, normed, fresh)?;
        gemm.linear(&block.qkv, normed, qkv, fresh, Activation::None, None)?;
        network.attention.run(stream, qkv, mixed, self.rows, kept)?;
        gemm.linear(&block.proj, mixed, output, kept, Activation::None, Some(input))?;
        block.norm2.run(stream, output, normed, kept)?;
        gemm.linear(&block.fc1, normed, wide, kept, Activation::Gelu, None)?;
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
