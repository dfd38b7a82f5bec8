//! One inference, from the moment it is queued to its answer: waiting, post-processing, times.

use super::latency::milliseconds;
use super::non_finite::Finite;
use super::provenance::Provenance;
use super::{PipelineError, validate};
use crate::backend::host_stream::download;
use crate::backend::stream::{Finished, Pending};
use crate::model::action_space::ActionSpace;
use crate::model::file_watch::FileWatch;
use crate::model::vlm::VlmTokens;
use crate::transform::axis_angle;
use crate::transform::state::Normalization;
use crate::types::{Chunk, HostArray, StageTimes};
use std::sync::Arc;
use std::time::Instant;

/// The checkpoint's conversion of the network's output to actions that a robot executes.
#[derive(Debug)]
pub(super) struct Postprocess {
    pub(super) space: ActionSpace,
    pub(super) statistics: Option<Normalization>,
    /// Whether 6-D rotations become axis-angles.
    pub(super) axis_angle: bool,
}

impl Postprocess {
    /// Converts raw actions [B, T, A] to a chunk; fails if any action is not finite. `state` is [B, P], as in
    /// [`ActionSpace::postprocess`].
    fn apply(&self, actions_raw: HostArray, state: &[f32]) -> Result<Chunk, PipelineError> {
        let samples = actions_raw.shape.first().copied().unwrap_or(1);
        let real = self.space.real_dim.unsigned_abs() as usize;
        let mut actions = with_channels(&actions_raw, real, self.space.postprocess(&actions_raw.data, state, samples));
        if let Some(statistics) = &self.statistics {
            statistics.unnormalize(&mut actions.data)?;
        }
        // Checked first, because a gripper that is not a number would become -1.
        validate::actions(&actions)?;
        if self.axis_angle {
            actions = with_channels(&actions, axis_angle::CHANNELS.len(), axis_angle::convert(&actions.data, real));
            validate::actions(&actions)?;
        }
        Ok(Chunk { actions, actions_raw })
    }
}

/// `data` in the shape of `like` but for the number of channels, its last extent.
fn with_channels(like: &HostArray, channels: usize, data: Vec<f32>) -> HostArray {
    let mut shape = like.shape.clone();
    if let Some(last) = shape.last_mut() {
        *last = channels;
    }
    HostArray { shape, data }
}

/// An inference that has begun on the backends of one generation.
pub(super) struct Queued {
    /// When the request was first asked.
    pub(super) started: Instant,
    /// When these backends began with it: later, if others failed before.
    pub(super) attempt: Instant,
    /// Time of the host's work before the upload, ms.
    pub(super) prepared_ms: f64,
    pub(super) pending: Box<dyn Pending>,
    pub(super) tokens: VlmTokens,
    pub(super) provenance: Provenance,
    pub(super) postprocess: Arc<Postprocess>,
    /// The state that relative channels of the actions are added to, [B, P]; empty if there are no such channels.
    pub(super) origin: Vec<f32>,
    pub(super) finite: Finite,
    /// The files that the weights lie in, unless they were copied to a device.
    pub(super) files: Option<Arc<FileWatch>>,
    /// The moment at which waiting ends with an error; `None` to wait without limit.
    pub(super) deadline: Option<Instant>,
    /// The generation of the backends that run it; see [`super::core::Core`].
    pub(super) generation: u64,
}

impl Queued {
    /// Waits for the answer of the backends that began it.
    pub(super) fn wait(self) -> Result<Inference, PipelineError> {
        let finished = match self.pending.wait(self.deadline) {
            Ok(finished) => finished,
            Err(error) => {
                error.abandon(self.tokens);
                return Err(error.into());
            }
        };
        // Whatever was written there while the network computed is in its answer.
        self.files.iter().try_for_each(|files| files.check_meanwhile())?;
        let Finished { actions_raw, upload_ms, vlm_ms, policy_ms } = finished;
        let chunk = self.postprocess.apply(actions_raw, &self.origin)?;
        self.finite.note();
        // One end for both, so that the stages never add up to more than the whole.
        let end = Instant::now();
        let e2e_ms = milliseconds(end.duration_since(self.started));
        let preprocess_ms = self.prepared_ms + upload_ms;
        // The rest of the attempt is post-processing: download, action space, de-normalisation.
        let postprocess_ms =
            (milliseconds(end.duration_since(self.attempt)) - preprocess_ms - vlm_ms - policy_ms).max(0.0);
        let times = StageTimes { preprocess_ms, vlm_ms, policy_ms, postprocess_ms, e2e_ms };
        Ok(Inference { chunk, times, provenance: self.provenance, tokens: self.tokens })
    }
}

/// One answer of the pipeline.
#[derive(Debug)]
pub struct Inference {
    /// The actions, as the robot executes them and as the network predicted them.
    pub chunk: Chunk,
    /// The time of each stage.
    pub times: StageTimes,
    /// The backend, seed and denoising steps that it was computed with.
    pub provenance: Provenance,
    tokens: VlmTokens,
}

impl Inference {
    /// Downloads `vlm_features` [B, N + L, D]. Call it before the pipeline's next inference, which may overwrite them.
    ///
    /// # Errors
    /// A failed download from the device.
    pub fn vlm_features(&self) -> Result<HostArray, PipelineError> {
        Ok(download(&self.tokens.vlm_features)?)
    }

    /// Downloads `aux_visual_inputs` [B, (V − 1)·N, D]. Call it before the pipeline's next inference, which may
    /// overwrite them.
    ///
    /// # Errors
    /// A failed download from the device.
    pub fn aux_visual_inputs(&self) -> Result<HostArray, PipelineError> {
        Ok(download(&self.tokens.aux_visual_inputs)?)
    }
}
