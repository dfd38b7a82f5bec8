//! Turns DaViT's feature map into image tokens: positions, spatial mean, projection (Florence-2's `_encode_image`).

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
    pub(crate) positions: GridPositions,
    pub(crate) projection: Linear, // from C to D, without bias
    pub(crate) norm: LayerNorm,
}

impl Projector {
    /// Reads `image_pos_embed`, `visual_temporal_embed`, `image_projection` and `image_proj_norm` below `vlm.`.
    pub fn new(scope: &Scope, config: &VisionConfig, projection_dim: i64) -> Result<Self, CheckpointError> {
        let width = config.width();
        let frames = [config.max_temporal_positions, width];
        let temporal = scope.tensor("visual_temporal_embed.pos_idx_to_embed", &frames)?;
        let projection = if scope.layout().native {
            scope.tensor("image_projection", &[projection_dim, width])?
        } else {
            let matrix = scope.tensor("image_projection", &[width, projection_dim])?;
            scope.torch(matrix.f_tr())?
        };
        Ok(Self {
            positions: GridPositions::new(scope, config, scope.torch(temporal.f_select(0, 0))?)?,
            projection: Linear::from_matrix(projection),
            norm: LayerNorm::new(&scope.sub("image_proj_norm"), projection_dim)?,
        })
    }

    /// A map of h·w tokens → image tokens [B, N, D], N = h·w + 1: the spatial mean first, then the tokens.
    ///
    /// # Errors
    /// A map larger than the position tables, or an allocation that fails.
    pub fn forward(&self, map: &FeatureMap) -> TensorResult {
        let positions = &self.positions;
        let tokens = map.tokens.f_add(&positions.in_space(map.height, map.width)?)?.f_add(&positions.temporal)?;
        let mean = tokens.f_mean_dim(1, true, None)?; // [B, 1, C]
        let features = Tensor::f_cat(&[mean, tokens], 1)?; // [B, N, C]
        self.norm.forward(&self.projection.forward(&features)?)
    }
}

/// Learned embeddings of a token's position in the map and of frame 0, the only frame.
#[derive(Debug)]
pub struct GridPositions {
    rows: Tensor,     // [max positions, C/2]
    columns: Tensor,  // [max positions, C − C/2]
    temporal: Tensor, // [C], the embedding of frame 0
}

impl GridPositions {
    fn new(scope: &Scope, config: &VisionConfig, temporal: Tensor) -> Result<Self, CheckpointError> {
        let (scope, width) = (scope.sub("image_pos_embed"), config.width());
        let row_width = width / 2;
        Ok(Self {
            rows: scope.tensor("row_embeddings.weight", &[config.max_positions, row_width])?,
            columns: scope.tensor("column_embeddings.weight", &[config.max_positions, width - row_width])?,
            temporal,
        })
    }

    /// Embeddings of the positions in a map of h×w tokens, [h·w, C]; the column's channels come first.
    fn in_space(&self, height: i64, width: i64) -> TensorResult {
        let columns = self.columns.f_narrow(0, 0, width)?.f_unsqueeze(0)?.f_expand([height, -1, -1], false)?;
        let rows = self.rows.f_narrow(0, 0, height)?.f_unsqueeze(1)?.f_expand([-1, width, -1], false)?;
        Tensor::f_cat(&[columns, rows], -1)?.f_flatten(0, 1)
    }

    /// The embedding that is added to every map of h×w tokens, including that of the frame: [h·w, C].
    ///
    /// # Errors
    /// A map larger than the position tables, or an allocation that fails.
    pub fn in_space_and_time(&self, height: i64, width: i64) -> TensorResult {
        self.in_space(height, width)?.f_add(&self.temporal)
    }
}
