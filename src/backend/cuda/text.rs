//! BART's encoder from cuBLASLt's products and this project's kernels: seven launches a layer. The maths is that of
//! [`crate::model::text`].

use super::gemm::{Activation, Gemm, Linear};
use super::kernels::{Kernels, Source};
use super::memory::Span;
use super::operators::transformer::{Attention, LayerNorm};
use super::vision::{Activations, length, linear, norm_weights};
use crate::backend::BackendError;
use crate::model::checkpoint::Scope;
use crate::model::config::TextConfig;
use tch::Tensor;

/// BART keeps two rows of its position table for a padding scheme that nobody uses any more.
const POSITION_OFFSET: i64 = 2;

/// Token table, positions and layers.
pub struct TextEncoder {
    embedding: Tensor, // [vocabulary, D]
    positions: Tensor, // [max positions, D]
    merge: LayerNorm,
    attention: Attention,
    layers: Vec<Layer>,
}

struct Layer {
    qkv: Linear,
    out: Linear,
    attention_norm: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    final_norm: LayerNorm,
}

/// What keeps this encoder from running on the kernels; `None` if nothing does.
pub fn unsupported(config: &TextConfig) -> Option<String> {
    let head_dim = length(config.width / config.heads.max(1));
    (!Attention::supports(head_dim) || config.width % 8 != 0 || config.width > 8192)
        .then(|| format!("text encoder: heads of {head_dim}, width {}", config.width))
}

/// Everything that has to be compiled for this encoder.
pub fn sources(config: &TextConfig) -> Vec<Source> {
    let mut sources = Attention::sources(length(config.width / config.heads.max(1))).to_vec();
    sources.push(LayerNorm::source(length(config.width)));
    sources
}

impl TextEncoder {
    /// Reads `shared` or `encoder.embed_tokens`, and `encoder.*`.
    ///
    /// # Errors
    /// The checkpoint's or the kernels' faults.
    pub fn new(scope: &Scope, config: &TextConfig, kernels: &Kernels) -> Result<Self, BackendError> {
        let encoder = scope.sub("encoder");
        let width = config.width;
        let names = ["encoder.embed_tokens.weight", "shared.weight"];
        let rows = config.max_positions + POSITION_OFFSET;
        let positions = encoder.sub("embed_positions").tensor("weight", &[rows, width])?;
        let norm = |scope: Scope| -> Result<LayerNorm, BackendError> {
            LayerNorm::new(kernels, norm_weights(&scope, width)?, length(width))
        };
        let layers = (0..config.layers).map(|index| {
            let scope = encoder.sub(format!("layers.{index}"));
            let attn = scope.sub("self_attn");
            Ok(Layer {
                qkv: fused_qkv(&attn, width)?,
                out: linear(&attn.sub("out_proj"), width, width)?,
                attention_norm: norm(scope.sub("self_attn_layer_norm"))?,
                fc1: linear(&scope.sub("fc1"), width, config.ffn_width)?,
                fc2: linear(&scope.sub("fc2"), config.ffn_width, width)?,
                final_norm: norm(scope.sub("final_layer_norm"))?,
            })
        });
        Ok(Self {
            embedding: scope.tensor_of(&names, &[config.vocabulary, width])?,
            positions: scope.torch(positions.f_narrow(0, POSITION_OFFSET, config.max_positions))?,
            merge: norm(encoder.sub("layernorm_embedding"))?,
            attention: Attention::new(kernels, length(config.heads), length(width / config.heads.max(1)))?,
            layers: layers.collect::<Result<_, BackendError>>()?,
        })
    }

    /// Embeddings of ids [1, L] → `words` [L, D], where they stay until the instruction changes.
    ///
    /// # Errors
    /// What libtorch refuses.
    pub fn embed(&self, input_ids: &Tensor, words: &Tensor) -> Result<(), BackendError> {
        Ok(self.embedding.f_index_select_out(words, 0, &input_ids.f_flatten(0, -1)?).map(drop)?)
    }

    /// `images` [N, D] and `words` [L, D] → `output` [N + L, D].
    ///
    /// # Errors
    /// What the device refuses.
    pub fn run(
        &self,
        gemm: &mut Gemm,
        images: (Span, usize),
        words: (Span, usize),
        buffers: &Activations,
        output: Span,
    ) -> Result<(), BackendError> {
        let rows = images.1 + words.1;
        let stream = &gemm.stream().clone();
        let [hidden, sum, mixed] = buffers.others();
        let (qkv, wide) = (buffers.qkv(), buffers.hidden());
        self.merge.merge(stream, images, words, Span::of(&self.positions), hidden)?;
        for (index, layer) in self.layers.iter().enumerate() {
            gemm.linear(&layer.qkv, hidden, qkv, rows, Activation::None, None)?;
            self.attention.run(stream, qkv, mixed, rows, rows)?;
            gemm.linear(&layer.out, mixed, sum, rows, Activation::None, Some(hidden))?;
            layer.attention_norm.run(stream, sum, hidden, rows)?;
            gemm.linear(&layer.fc1, hidden, wide, rows, Activation::Gelu, None)?;
            gemm.linear(&layer.fc2, wide, sum, rows, Activation::None, Some(hidden))?;
            let last = index + 1 == self.layers.len();
            layer.final_norm.run(stream, sum, if last { output } else { hidden }, rows)?;
        }
        Ok(())
    }
}

/// BART stores three projections; one product of thrice the width does their work.
fn fused_qkv(attn: &Scope, width: i64) -> Result<Linear, BackendError> {
    let names = ["q_proj", "k_proj", "v_proj"];
    let part = |name: &str, tensor: &str, shape: &[i64]| attn.sub(name).tensor(tensor, shape);
    let weights: Vec<Tensor> =
        names.iter().map(|name| part(name, "weight", &[width, width])).collect::<Result<_, _>>()?;
    let biases: Vec<Tensor> = names.iter().map(|name| part(name, "bias", &[width])).collect::<Result<_, _>>()?;
    let (weight, bias) = (attn.torch(Tensor::f_cat(&weights, 0))?, attn.torch(Tensor::f_cat(&biases, 0))?);
    Linear::new(&weight, Some(&bias))
}
