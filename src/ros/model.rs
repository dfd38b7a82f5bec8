//! The model beside the spinning thread: a loading thread loads and rehearses it, then the inference thread runs it.

use super::error::NodeError;
use super::model_info::ModelInfoTopic;
use super::outputs::{Event, Outputs};
use crate::config::Config;
use crate::pipeline::feedback::Feedback;
use crate::pipeline::worker::Worker;
use crate::pipeline::{Options, Pipeline};
use crate::robot::deployment;
use crate::robot::policy_loop::Policy;
use crate::robot::reporting::record::{ModelFacts, SharedRecord};
use crate::robot::selection::Selection;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

/// The model while it is loading, running or has ended.
pub struct Model {
    phase: Phase,
    record: SharedRecord,
    events: mpsc::Receiver<Event>,
}

enum Phase {
    Loading(JoinHandle<Result<Worker<Selection>, NodeError>>),
    Running(Worker<Selection>),
    Over,
}

impl Model {
    /// Starts loading on another thread. Chunks will be published through `outputs`, and what has been loaded through
    /// `model_info`.
    ///
    /// # Errors
    /// [`NodeError::Thread`] if the operating system refuses a thread.
    pub fn start(
        config: Config,
        outputs: Outputs,
        model_info: ModelInfoTopic,
        record: SharedRecord,
    ) -> Result<Self, NodeError> {
        let shared = record.clone();
        let (sender, events) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("loading".to_owned())
            .spawn(move || load(&config, outputs, &model_info, &shared, sender))
            .map_err(NodeError::Thread)?;
        Ok(Self { phase: Phase::Loading(thread), record, events })
    }

    /// Moves on from loading to running once loading is done. Returns whether it did so in this call.
    ///
    /// # Errors
    /// The failure to load; [`NodeError::Died`] if a thread has panicked.
    pub fn advance(&mut self) -> Result<bool, NodeError> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Loading(thread) if thread.is_finished() => {
                let worker = thread.join().map_err(|_| NodeError::Died("loading"))??;
                self.phase = Phase::Running(worker);
                Ok(true)
            }
            Phase::Running(worker) if !worker.is_running() => Err(NodeError::Died("inference")),
            Phase::Over => Err(NodeError::Died("inference")),
            Phase::Running(worker) => {
                let mut record = self.record.lock();
                record.withdrawn = worker.withdrawn();
                record.runtime = Some(worker.runtime());
                drop(record);
                self.phase = Phase::Running(worker);
                Ok(false)
            }
            unchanged @ Phase::Loading(_) => {
                self.phase = unchanged;
                Ok(false)
            }
        }
    }

    /// What has become of selections since the last call.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.events.try_iter()
    }

    /// Ends the threads. Returns `false` if one is still busy after `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        match self.phase {
            // Loading cannot be interrupted, so waiting for it would only delay the end of the node.
            Phase::Loading(thread) if !thread.is_finished() => false,
            // A worker that loading has just started has to end as well.
            Phase::Loading(thread) => match thread.join() {
                Ok(Ok(worker)) => worker.stop(patience),
                _ => true,
            },
            Phase::Running(worker) => worker.stop(patience),
            Phase::Over => true,
        }
    }
}

impl Policy for Model {
    fn is_ready(&self) -> bool {
        matches!(self.phase, Phase::Running(_))
    }

    fn offer(&mut self, selection: Selection) -> Option<Selection> {
        let Phase::Running(worker) = &self.phase else { return None };
        let replaced = worker.offer(selection);
        self.record.lock().superseded += u64::from(replaced.is_some());
        replaced
    }

    fn begin_epoch(&mut self) -> Option<Selection> {
        let Phase::Running(worker) = &self.phase else { return None };
        let withdrawn = worker.withdraw();
        worker.begin_epoch();
        withdrawn
    }

    fn forget_commands(&mut self) {
        if let Phase::Running(worker) = &self.phase {
            worker.forget_commands();
        }
    }
}

fn load(
    config: &Config,
    outputs: Outputs,
    model_info: &ModelInfoTopic,
    record: &SharedRecord,
    events: mpsc::Sender<Event>,
) -> Result<Worker<Selection>, NodeError> {
    if let Some(threads) = config.num_threads {
        crate::backend::device::limit_threads(threads);
    }
    let pipeline = Pipeline::load(&Options::from(config))?;
    let facts = deployment::check(config, &pipeline)?;
    deployment::rehearse(config, &pipeline)?;
    record_loaded(record, &facts, &pipeline);
    model_info.publish(config, &facts, &pipeline);
    let feedback = Feedback::new(config, pipeline.state_spec().channels());
    Ok(Worker::spawn(pipeline, config.seed, feedback, move |delivery| {
        // The spinning thread may have ended, and then nobody needs to know.
        let _ = events.send(outputs.deliver(&facts, delivery));
    })?)
}

/// Records what has been loaded, for diagnostics.
fn record_loaded(record: &SharedRecord, facts: &ModelFacts, pipeline: &Pipeline) {
    let mut record = record.lock();
    record.facts = Some(facts.clone());
    record.runtime = Some(pipeline.runtime());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ViewSettings;
    use crate::pipeline::mock;
    use crate::robot::selection::View;
    use crate::types::{EncodedImage, ImageFormat, Stamp, Stamped};

    #[test]
    fn a_panic_of_the_model_is_noticed() {
        let pipeline = mock::pipeline(mock::options(), || panic!("a defect, on purpose"), mock::nothing);
        let worker = Worker::spawn(pipeline, None, Feedback::measured(), drop).unwrap();
        let (_sender, events) = mpsc::channel();
        let mut model = Model { phase: Phase::Running(worker), record: SharedRecord::default(), events };
        model.offer(selection());
        let end = loop {
            if let Err(end) = model.advance() {
                break end;
            }
            std::thread::yield_now();
        };
        assert!(matches!(end, NodeError::Died("inference")), "{end:?}");
    }

    fn selection() -> Selection {
        let observation = mock::observation(0);
        let format =
            ImageFormat::Raw { encoding: "rgb8".to_owned(), width: 32, height: 32, step: 96, is_bigendian: false };
        let image = Stamped { value: EncodedImage { format, data: vec![90; 32 * 32 * 3] }, stamp: Stamp::default() };
        Selection {
            views: vec![Some(View { topic: "camera_0/image".to_owned(), settings: ViewSettings::default(), image })],
            state: observation.state,
            instruction: observation.instruction,
            domain_id: 0,
        }
    }
}
