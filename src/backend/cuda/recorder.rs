//! Streams that record: [`crate::backend::capture`] on CUDA.

use super::session::{PipelineStage, Session};
use super::shim::Graph;
use crate::backend::BackendError;
use crate::backend::capture::Recorder;
use std::sync::Arc;

/// Records what is queued on the stream of one half.
#[derive(Debug)]
pub struct StreamRecorder {
    session: Arc<Session>,
    half: PipelineStage,
}

impl StreamRecorder {
    /// A recorder on `half`'s stream.
    pub fn new(session: Arc<Session>, half: PipelineStage) -> Self {
        Self { session, half }
    }
}

impl Recorder for StreamRecorder {
    type Graph = Graph;

    fn record(&mut self, work: &mut dyn FnMut() -> Result<(), BackendError>) -> Result<Graph, BackendError> {
        self.session.enter(self.half)?;
        Graph::record(work)
    }

    fn replay(&mut self, graph: &Graph) -> Result<(), BackendError> {
        graph.replay()
    }

    fn synchronize(&mut self) -> Result<(), BackendError> {
        Ok(self.session.stream(self.half).synchronize()?)
    }
}
