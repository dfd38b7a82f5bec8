//! One inference from the moment it is queued to the answer that it ends in.

use super::latency::milliseconds;
use super::provenance::Provenance;
use super::{PipelineError, validate};
use crate::backend::host_stream::download;
use crate::backend::stream::{Finished, Pending};
use crate::model::action_space::ActionSpace;
use crate::model::vlm::VlmTokens;
use crate::transform::state::MeanStd;
use crate::types::{Chunk, HostArray, StageTimes};
use std::sync::Arc;
use std::time::Instant;

/// How the network's output becomes what a robot executes.
#[derive(Debug)]
pub(super) struct Postprocess {
    pub(super) space: ActionSpace,
    pub(super) statistics: Option<MeanStd>,
}

impl Postprocess {
    /// [B, T, A] → a chunk; refuses to hand on what is not a number.
    fn apply(&self, actions_raw: HostArray) -> Result<Chunk, PipelineError> {
        let mut shape = actions_raw.shape.clone();
        if let Some(channels) = shape.last_mut() {
            *channels = self.space.real_dim.unsigned_abs() as usize;
        }
        let mut actions = HostArray { shape, data: self.space.postprocess(&actions_raw.data) };
        if let Some(statistics) = &self.statistics {
            statistics.unnormalize(&mut actions.data)?;
        }
        validate::actions(&actions)?;
        Ok(Chunk { actions, actions_raw })
    }
}

/// An inference that one place has begun.
pub(super) struct Queued {
    pub(super) started: Instant,
    /// Host work before the upload, ms.
    pub(super) prepared_ms: f64,
    pub(super) pending: Box<dyn Pending>,
    pub(super) tokens: VlmTokens,
    pub(super) provenance: Provenance,
    pub(super) postprocess: Arc<Postprocess>,
    /// Until when it is waited for.
    pub(super) deadline: Option<Instant>,
    /// Of what runs it.
    pub(super) generation: u64,
}

impl Queued {
    /// Waits for the answer of the place that began it.
    pub(super) fn wait(self) -> Result<Inference, PipelineError> {
        let finished = match self.pending.wait(self.deadline) {
            Ok(finished) => finished,
            Err(error) => {
                error.abandon(self.tokens);
                return Err(error.into());
            }
        };
        let Finished { actions_raw, upload_ms, vlm_ms, policy_ms } = finished;
        let chunk = self.postprocess.apply(actions_raw)?;
        let e2e_ms = milliseconds(self.started.elapsed());
        let preprocess_ms = self.prepared_ms + upload_ms;
        // What is left of the whole is the way back: download, action space, de-normalisation.
        let postprocess_ms = (e2e_ms - preprocess_ms - vlm_ms - policy_ms).max(0.0);
        let times = StageTimes { preprocess_ms, vlm_ms, policy_ms, postprocess_ms, e2e_ms };
        Ok(Inference { chunk, times, provenance: self.provenance, tokens: self.tokens })
    }
}

/// One answer of the pipeline.
#[derive(Debug)]
pub struct Inference {
    /// Actions, as executed and as predicted.
    pub chunk: Chunk,
    /// Where the time went.
    pub times: StageTimes,
    /// What computed it, from which noise.
    pub provenance: Provenance,
    tokens: VlmTokens,
}

impl Inference {
    /// `vlm_features` [B, N + L, D], downloaded now: to be called before the pipeline's next inference.
    ///
    /// # Errors
    /// What the device refuses.
    pub fn vlm_features(&self) -> Result<HostArray, PipelineError> {
        Ok(download(&self.tokens.vlm_features)?)
    }

    /// `aux_visual_inputs` [B, (V − 1)·N, D], as [`Inference::vlm_features`].
    ///
    /// # Errors
    /// What the device refuses.
    pub fn aux_visual_inputs(&self) -> Result<HostArray, PipelineError> {
        Ok(download(&self.tokens.aux_visual_inputs)?)
    }
}
