//! The vision-language part: camera views and an instruction become the tokens that the policy attends to
//! (X-VLA's `forward_vlm`).

use super::checkpoint::Scope;
use super::config::ModelConfig;
use super::layers::LinearGroup;
use super::projector::Projector;
use super::text::TextEncoder;
use super::vision::VisionTower;
use super::{Hook, TensorResult};
use crate::error::CheckpointError;
use tch::{Device, Kind, TchError, Tensor};

/// The tokens that the policy attends to.
#[derive(Debug)]
pub struct VlmTokens {
    /// [B, N + L, D]: the first view and the instruction, mixed by the text encoder.
    pub vlm_features: Tensor,
    /// [B, (V − 1)·N, D]: the other views as the vision tower saw them.
    pub aux_visual_inputs: Tensor,
}

/// Which camera views are present. It is made from the mask on the host, so that selecting views never waits for the
/// device.
#[derive(Debug)]
pub enum Views {
    /// All views are present.
    All,
    /// Only the views at these indices into B·V are present: [n] i64 on the network's device.
    At(Tensor),
}

impl Views {
    /// The views that are true in `mask` [B·V].
    pub fn of(mask: &[bool], device: Device) -> Result<Self, TchError> {
        if !mask.contains(&false) {
            return Ok(Self::All);
        }
        let valid: Vec<i64> = (0i64..).zip(mask).filter(|(_, valid)| **valid).map(|(index, _)| index).collect();
        Ok(Self::At(Tensor::f_from_slice(&valid)?.f_to(device)?))
    }
}

/// Florence-2 without its decoder.
#[derive(Debug)]
pub struct Vlm {
    pub(crate) vision: VisionTower,
    pub(crate) projector: Projector,
    pub(crate) text: TextEncoder,
}

impl Vlm {
    /// Reads everything below `vlm.`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn new(root: &Scope, config: &ModelConfig) -> Result<Self, CheckpointError> {
        let scope = root.sub("vlm");
        Ok(Self {
            vision: VisionTower::new(&scope.sub("vision_tower"), &config.vision)?,
            projector: Projector::new(&scope, &config.vision, config.projection_dim)?,
            text: TextEncoder::new(&scope.sub("language_model.model"), &config.text)?,
        })
    }

    /// The layers whose matrices a variant stores in another format: those of the tower's blocks and of the encoder's
    /// layers.
    pub fn linears_mut(&mut self) -> Vec<LinearGroup<'_>> {
        let mut groups = self.vision.linears_mut("vlm.vision_tower");
        groups.extend(self.text.linears_mut("vlm.language_model.model.encoder"));
        groups
    }

    /// Dtype of the weights, which is the one that the network computes in.
    pub fn kind(&self) -> Kind {
        self.text.embedding.kind()
    }

    /// Ids [B, L], images [B, V, 3, H, W] and which views are present → tokens. Masked views contribute zeros.
    ///
    /// The hook receives every vision stage, `vlm.image_tokens` [n, N, D] of the valid views, and both results.
    pub fn forward(
        &self,
        input_ids: &Tensor,
        images: &Tensor,
        valid: &Views,
        hook: Hook,
    ) -> Result<VlmTokens, TchError> {
        let (batch, views) = (images.size()[0], images.size()[1]);
        let images = images.f_flatten(0, 1)?; // [B·V, 3, H, W]
        let features = match valid {
            Views::All => self.encode_images(&images, hook)?,
            Views::At(index) => self.encode_some(&images, index, hook)?,
        };
        let (_, tokens, width) = features.size3()?;
        let features = features.f_view([batch, views, tokens, width])?;

        let merged = Tensor::f_cat(&[features.f_select(1, 0)?, self.text.embed(input_ids)?], 1)?; // [B, N + L, D]
        let vlm_features = self.text.forward(&merged)?;
        let aux_visual_inputs = features.f_narrow(1, 1, views - 1)?.f_reshape([batch, (views - 1) * tokens, width])?;
        hook("vlm.vlm_features", &vlm_features);
        hook("vlm.aux_visual_inputs", &aux_visual_inputs);
        Ok(VlmTokens { vlm_features, aux_visual_inputs })
    }

    /// [n, 3, H, W] → [n, N, D]
    fn encode_images(&self, images: &Tensor, hook: Hook) -> TensorResult {
        let map = self.vision.forward(images, hook)?;
        let tokens = self.projector.forward(&map)?;
        hook("vlm.image_tokens", &tokens);
        Ok(tokens)
    }

    /// Encodes the images at `index` [n] only: [B·V, 3, H, W] → [B·V, N, D], zeros elsewhere.
    fn encode_some(&self, images: &Tensor, index: &Tensor, hook: Hook) -> TensorResult {
        let encoded = self.encode_images(&images.f_index_select(0, index)?, hook)?;
        let (_, tokens, width) = encoded.size3()?;
        let options = (encoded.kind(), encoded.device());
        Tensor::f_zeros([images.size()[0], tokens, width], options)?.f_index_copy(0, index, &encoded)
    }
}
