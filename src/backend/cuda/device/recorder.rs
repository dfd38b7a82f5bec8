//! The [`crate::backend::capture::Recorder`] of CUDA streams.

use super::session::{PipelineStage, Session};
use crate::backend::BackendError;
use crate::backend::capture::Recorder;
use crate::backend::shim::{self, Graph};
use std::sync::Arc;

/// Records what is queued on the stream of one part of the network.
#[derive(Debug)]
pub struct StreamRecorder {
    session: Arc<Session>,
    stage: PipelineStage,
}

impl StreamRecorder {
    /// A recorder on the stream of `stage`.
    pub fn new(session: Arc<Session>, stage: PipelineStage) -> Self {
        Self { session, stage }
    }
}

impl Recorder for StreamRecorder {
    type Graph = Graph;

    fn record(&mut self, work: &mut dyn FnMut() -> Result<(), BackendError>) -> Result<Graph, BackendError> {
        self.session.enter(self.stage)?;
        Graph::record(work)
    }

    fn replay(&mut self, graph: &Graph) -> Result<(), BackendError> {
        graph.replay()
    }

    fn synchronize(&mut self) -> Result<(), BackendError> {
        self.session.finish(self.stage)
    }

    fn release_unused(&mut self) -> Result<(), BackendError> {
        // Freeing waits for the whole device without a limit.
        self.session.finish(PipelineStage::Vlm)?;
        self.session.finish(PipelineStage::Policy)?;
        shim::release_unused_memory()
    }
}
