//! From DaViT's feature map to image tokens: position, spatial mean, projection (Florence-2's
//! `_encode_image`).

use super::TensorResult;
use super::checkpoint::Scope;
use super::config::VisionConfig;
use super::layers::{LayerNorm, Linear};
use super::vision::FeatureMap;
use crate::error::CheckpointError;
use tch::Tensor;

/// Position tables, projection and norm.
#[derive(Debug)]
pub struct Projector {
    rows: Tensor,     // [max positions, C/2]
    columns: Tensor,  // [max positions, C − C/2]
    temporal: Tensor, // [C], the embedding of frame 0
    projection: Linear,
    norm: LayerNorm,
}

impl Projector {
    /// Reads `image_pos_embed`, `visual_temporal_embed`, `image_projection` and `image_proj_norm` below `vlm.`.
    pub fn new(scope: &Scope, config: &VisionConfig, projection_dim: i64) -> Result<Self, CheckpointError> {
        let width = config.width();
        let half = width / 2;
        let positions = scope.sub("image_pos_embed");
        let frames = [config.max_temporal_positions, width];
        let temporal = scope.tensor("visual_temporal_embed.pos_idx_to_embed", &frames)?;
        let projection = if scope.layout().native {
            scope.tensor("image_projection", &[projection_dim, width])?
        } else {
            let matrix = scope.tensor("image_projection", &[width, projection_dim])?;
            scope.torch(matrix.f_tr())?
        };
        Ok(Self {
            rows: positions.tensor("row_embeddings.weight", &[config.max_positions, half])?,
            columns: positions.tensor("column_embeddings.weight", &[config.max_positions, width - half])?,
            temporal: scope.torch(temporal.f_select(0, 0))?,
            projection: Linear::from_matrix(projection),
            norm: LayerNorm::new(&scope.sub("image_proj_norm"), projection_dim)?,
        })
    }

    /// The projection's matrix [D, C].
    pub fn projection(&self) -> &Tensor {
        self.projection.weight.dense()
    }

    /// What every map of h×w tokens gets added: positions and the embedding of the only frame, [h·w, C].
    pub fn positions_in_time(&self, height: i64, width: i64) -> TensorResult {
        self.positions(height, width)?.f_add(&self.temporal)
    }

    /// A map of h·w tokens → image tokens [B, N, D], N = h·w + 1: the spatial mean first, then the tokens.
    pub fn forward(&self, map: &FeatureMap) -> TensorResult {
        let tokens = map.tokens.f_add(&self.positions(map.height, map.width)?)?.f_add(&self.temporal)?;
        let mean = tokens.f_mean_dim(1, true, None)?; // [B, 1, C]
        let features = Tensor::f_cat(&[mean, tokens], 1)?; // [B, N, C]
        self.norm.forward(&self.projection.forward(&features)?)
    }

    /// Learned positions of an h×w grid, the column's half first: [h·w, C].
    fn positions(&self, height: i64, width: i64) -> TensorResult {
        let columns = self.columns.f_narrow(0, 0, width)?.f_unsqueeze(0)?.f_expand([height, -1, -1], false)?;
        let rows = self.rows.f_narrow(0, 0, height)?.f_unsqueeze(1)?.f_expand([-1, width, -1], false)?;
        Tensor::f_cat(&[columns, rows], -1)?.f_flatten(0, 1)
    }
}
