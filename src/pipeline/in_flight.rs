//! An inference on its way, and the answer it ends in.

use super::validate;
use crate::backend::host_stream::download;
use crate::backend::stream::{Finished, Pending};
use crate::model::action_space::ActionSpace;
use crate::model::vlm::VlmTokens;
use crate::pipeline::PipelineError;
use crate::pipeline::latency::milliseconds;
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

/// An inference that has been queued and whose actions are still to come.
pub struct InFlight {
    pub(super) started: Instant,
    /// Host work before the upload, ms.
    pub(super) prepared_ms: f64,
    pub(super) pending: Box<dyn Pending>,
    pub(super) tokens: VlmTokens,
    pub(super) backend: &'static str,
    pub(super) postprocess: Arc<Postprocess>,
}

impl InFlight {
    /// Waits for the actions.
    ///
    /// # Errors
    /// The device's failure, or actions that are not finite.
    pub fn wait(self) -> Result<Inference, PipelineError> {
        let Finished { actions_raw, upload_ms, vlm_ms, policy_ms } = self.pending.wait()?;
        let chunk = self.postprocess.apply(actions_raw)?;
        let e2e_ms = milliseconds(self.started.elapsed());
        let preprocess_ms = self.prepared_ms + upload_ms;
        // What is left of the whole is the way back: download, action space, de-normalisation.
        let postprocess_ms = (e2e_ms - preprocess_ms - vlm_ms - policy_ms).max(0.0);
        let times = StageTimes { preprocess_ms, vlm_ms, policy_ms, postprocess_ms, e2e_ms };
        Ok(Inference { chunk, times, backend: self.backend, tokens: self.tokens })
    }
}

#[cfg(test)]
impl InFlight {
    /// One that `pending` ends.
    pub(super) fn for_test(pending: Box<dyn Pending>, tokens: VlmTokens) -> Self {
        let space = ActionSpace::fixed(crate::model::action_space::ActionMode::Ee6d);
        let postprocess = Arc::new(Postprocess { space, statistics: None });
        Self { started: Instant::now(), prepared_ms: 0.0, pending, tokens, backend: "test", postprocess }
    }
}

/// One answer of the pipeline.
#[derive(Debug)]
pub struct Inference {
    /// Actions, as executed and as predicted.
    pub chunk: Chunk,
    /// Where the time went.
    pub times: StageTimes,
    /// The policy backend that computed it.
    pub backend: &'static str,
    tokens: VlmTokens,
}

impl Inference {
    /// `vlm_features` [B, N + L, D], downloaded now: to be called before the pipeline's next inference.
    pub fn vlm_features(&self) -> Result<HostArray, PipelineError> {
        Ok(download(&self.tokens.vlm_features)?)
    }

    /// `aux_visual_inputs` [B, (V − 1)·N, D], as [`Inference::vlm_features`].
    pub fn aux_visual_inputs(&self) -> Result<HostArray, PipelineError> {
        Ok(download(&self.tokens.aux_visual_inputs)?)
    }
}
