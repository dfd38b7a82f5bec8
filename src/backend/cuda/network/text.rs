//! BART's encoder from cuBLASLt's products and this project's kernels: seven launches a layer. The maths is that of
//! [`crate::model::text`].

use super::layers::{joined, layer_norm, length, linear, mlp};
use super::vision::Activations;
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::{Kernels, Source};
use crate::backend::cuda::device::memory::Span;
use crate::backend::cuda::operators::{attention::Attention, layer_norm::LayerNorm};
use crate::backend::cuda::product::gemm::{Activation, Formats, Gemm, Linear};
use crate::model::config::TextConfig;
use crate::model::text;
use tch::Tensor;

/// The encoder's weights and kernels.
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

/// Why this encoder cannot run on the kernels; `None` if it can.
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
    /// The encoder with the weights of `model`, layer by layer, so that the original of each copy is freed before the
    /// next copy.
    ///
    /// # Errors
    /// A kernel that does not compile or load, or not enough memory.
    pub fn new(model: text::TextEncoder, kernels: &Kernels, formats: Formats) -> Result<Self, BackendError> {
        let text::TextEncoder { embedding, positions, embedding_norm, layers, heads } = model;
        let (width, heads) = (length(embedding_norm.width()), length(heads));
        let layers = layers.into_iter().map(|layer| Layer::new(layer, kernels, formats));
        Ok(Self {
            embedding,
            positions,
            merge: layer_norm(&embedding_norm, kernels)?,
            attention: Attention::new(kernels, heads, width / heads.max(1))?,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }

    /// Embeddings of ids [1, L] → `words` [L, D], where they stay until the instruction changes.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn embed(&self, input_ids: &Tensor, words: &Tensor) -> Result<(), BackendError> {
        Ok(self.embedding.f_index_select_out(words, 0, &input_ids.f_flatten(0, -1)?).map(drop)?)
    }

    /// `images` [N, D] and `words` [L, D] → `output` [N + L, D].
    ///
    /// # Errors
    /// An operation that the device refuses.
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
        let (qkv, wide, quantised) = (buffers.qkv(), buffers.hidden(), buffers.map());
        // A norm's result is a residual and the next product's input. The residual needs 16 bits.
        let read_by = |layer: Option<&Layer>| match layer {
            Some(layer) => (layer.qkv.reads_beside(hidden, quantised), hidden),
            None => (output.into(), output),
        };
        let (mut input, mut residual) = read_by(self.layers.first());
        self.merge.merge(stream, images, words, Span::of(&self.positions), (input, residual))?;
        for (index, layer) in self.layers.iter().enumerate() {
            gemm.linear(&layer.qkv, input.span, qkv, rows, Activation::None, None)?;
            self.attention.run(stream, qkv, layer.out.reads(mixed), rows, rows)?;
            gemm.linear(&layer.out, mixed, sum, rows, Activation::None, Some(residual))?;
            let normed = layer.fc1.reads_beside(hidden, quantised);
            layer.attention_norm.run_beside(stream, sum, normed, hidden, rows)?;
            gemm.linear(&layer.fc1, normed.span, layer.fc2.reads(wide), rows, Activation::Gelu, None)?;
            gemm.linear(&layer.fc2, wide, sum, rows, Activation::None, Some(hidden))?;
            (input, residual) = read_by(self.layers.get(index + 1));
            layer.final_norm.run_beside(stream, sum, input, residual, rows)?;
        }
        Ok(())
    }
}

impl Layer {
    fn new(layer: text::EncoderLayer, kernels: &Kernels, formats: Formats) -> Result<Self, BackendError> {
        let [fc1, fc2] = mlp(&layer.mlp, formats)?;
        Ok(Self {
            // BART stores three projections, which are computed as one product of three times the width.
            qkv: joined(&[layer.query, layer.key, layer.value], formats)?,
            out: linear(&layer.output, formats)?,
            attention_norm: layer_norm(&layer.attention_norm, kernels)?,
            fc1,
            fc2,
            final_norm: layer_norm(&layer.final_norm, kernels)?,
        })
    }
}
