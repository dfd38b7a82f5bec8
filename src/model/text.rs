//! BART's encoder: post-norm transformer layers over embeddings that are already merged with image tokens.

use super::TensorResult;
use super::checkpoint::Scope;
use super::config::TextConfig;
use super::layers::{Gelu, LayerNorm, Linear, LinearGroup, Mlp, attention, join_heads};
use crate::error::CheckpointError;
use tch::{TchError, Tensor};

/// BART reserves the first two rows of its position table for a padding scheme that is no longer used.
const POSITION_OFFSET: i64 = 2;

/// The encoder: token embedding, positions and layers.
#[derive(Debug)]
pub struct TextEncoder {
    pub(crate) embedding: Tensor, // [vocabulary, D]
    pub(crate) positions: Tensor, // [max positions, D]
    pub(crate) embedding_norm: LayerNorm,
    pub(crate) layers: Vec<EncoderLayer>,
    pub(crate) heads: i64,
}

impl TextEncoder {
    /// Reads `shared` or `encoder.embed_tokens`, and `encoder.*`.
    pub fn new(scope: &Scope, config: &TextConfig) -> Result<Self, CheckpointError> {
        let encoder = scope.sub("encoder");
        let width = config.width;
        let names = if config.tied_embeddings {
            // Both names are one tensor in LeRobot, which reads it twice if both are stored: the encoder's comes last.
            ["encoder.embed_tokens.weight", "shared.weight"]
        } else {
            ["shared.weight", "encoder.embed_tokens.weight"]
        };
        let embedding = scope.tensor_of(&names, &[config.vocabulary, width])?;
        let positions = encoder.tensor("embed_positions.weight", &[POSITION_OFFSET + config.max_positions, width])?;
        Ok(Self {
            embedding,
            positions: scope.torch(positions.f_narrow(0, POSITION_OFFSET, config.max_positions))?,
            embedding_norm: LayerNorm::new(&encoder.sub("layernorm_embedding"), width)?,
            layers: (0..config.layers)
                .map(|index| EncoderLayer::new(&encoder.sub(format!("layers.{index}")), config))
                .collect::<Result<_, _>>()?,
            heads: config.heads,
        })
    }

    /// The layers of all of the encoder's layers, whose names begin with `prefix`.
    pub(super) fn linears_mut(&mut self, prefix: &str) -> Vec<LinearGroup<'_>> {
        let layers = self.layers.iter_mut().enumerate();
        layers.flat_map(|(index, layer)| layer.linears_mut(&format!("{prefix}.layers.{index}"))).collect()
    }

    /// Token ids [B, L] → [B, L, D].
    pub fn embed(&self, input_ids: &Tensor) -> TensorResult {
        Tensor::f_embedding(&self.embedding, input_ids, -1, false, false)
    }

    /// Embeddings [B, n, D] → [B, n, D]. Every token attends to every token, padding included.
    pub fn forward(&self, embedded: &Tensor) -> TensorResult {
        let (_, count, _) = embedded.size3()?;
        let positions = self.positions.f_narrow(0, 0, count)?;
        let mut hidden = self.embedding_norm.forward(&embedded.f_add(&positions)?)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, self.heads)?;
        }
        Ok(hidden)
    }
}

/// Self-attention, then an MLP, each added and then normalised (post-norm).
#[derive(Debug)]
pub(crate) struct EncoderLayer {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) mlp: Mlp,
    pub(crate) final_norm: LayerNorm,
}

impl EncoderLayer {
    fn new(scope: &Scope, config: &TextConfig) -> Result<Self, CheckpointError> {
        let (width, attn) = (config.width, scope.sub("self_attn"));
        let projection = |name: &str| Linear::new(&attn.sub(name), width, width);
        Ok(Self {
            query: projection("q_proj")?,
            key: projection("k_proj")?,
            value: projection("v_proj")?,
            output: projection("out_proj")?,
            attention_norm: LayerNorm::new(&scope.sub("self_attn_layer_norm"), width)?,
            mlp: Mlp::new(scope, width, config.ffn_width, Gelu::Exact)?,
            final_norm: LayerNorm::new(&scope.sub("final_layer_norm"), width)?,
        })
    }

    fn linears_mut(&mut self, prefix: &str) -> [LinearGroup<'_>; 4] {
        let named = |name: &str| format!("{prefix}.{name}");
        let attention = vec![
            (named("self_attn.q_proj"), &mut self.query),
            (named("self_attn.k_proj"), &mut self.key),
            (named("self_attn.v_proj"), &mut self.value),
        ];
        [
            LinearGroup { layers: attention },
            LinearGroup::single(named("self_attn.out_proj"), &mut self.output),
            LinearGroup::single(named("fc1"), &mut self.mlp.fc1),
            LinearGroup::single(named("fc2"), &mut self.mlp.fc2),
        ]
    }

    /// [B, n, D] → [B, n, D]
    fn forward(&self, input: &Tensor, heads: i64) -> TensorResult {
        let (batch, count, width) = input.size3()?;
        let split = |linear: &Linear| -> Result<Tensor, TchError> {
            let projected = linear.forward(input)?;
            projected.f_view([batch, count, heads, width / heads])?.f_transpose(1, 2)
        };
        let mixed = attention(&split(&self.query)?, &split(&self.key)?, &split(&self.value)?, None)?;
        let hidden = input.f_add(&self.output.forward(&join_heads(&mixed)?)?)?;
        let hidden = self.attention_norm.forward(&hidden)?;
        let hidden = hidden.f_add(&self.mlp.forward(&hidden)?)?;
        self.final_norm.forward(&hidden)
    }
}
