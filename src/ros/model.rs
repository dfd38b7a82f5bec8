//! The model beside the spinning thread: a loading thread loads and rehearses it, then the inference thread runs it.

use super::error::NodeError;
use super::model_info::ModelInfoTopic;
use super::outputs::{Event, Outputs};
use crate::config::{Config, ConfigError, ProprioFeed};
use crate::pipeline::PipelineError;
use crate::pipeline::feedback::Feedback;
use crate::pipeline::worker::Worker;
use crate::pipeline::{InFlight, Options, Pipeline, Request};
use crate::robot::policy_loop::Policy;
use crate::robot::reporting::record::{ModelFacts, SharedRecord};
use crate::robot::selection::Selection;
use crate::robot::state::channels_of;
use crate::robot::state_source::check_source;
use crate::transform::TransformError;
use crate::types::{Observation, RgbImage, Stamp, Stamped};
use std::sync::{Arc, mpsc};
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
    check_source(config.proprio.source, channels_of(&config.proprio), pipeline.state_spec())?;
    check_feed(config, &pipeline)?;
    let facts = facts(config, &pipeline)?;
    rehearse(config, &pipeline)?;
    record_loaded(record, &facts, &pipeline);
    model_info.publish(config, &facts, &pipeline);
    let feedback = Feedback::new(config, pipeline.state_spec().channels());
    Ok(Worker::spawn(pipeline, config.seed, feedback, move |delivery| {
        // The spinning thread may have ended, and then nobody needs to know.
        let _ = events.send(outputs.deliver(&facts, delivery));
    })?)
}

/// Checks that a command can stand for the state, if the deployment feeds commands.
fn check_feed(config: &Config, pipeline: &Pipeline) -> Result<(), ConfigError> {
    let state = channels_of(&config.proprio).unwrap_or_else(|| pipeline.state_spec().channels());
    let actions = pipeline.action_names(None).len();
    if config.proprio.feed != Some(ProprioFeed::LastCommand) {
        return Ok(());
    }
    let reason = if state > actions || pipeline.processors().axis_angle {
        format!("an action has {actions} channels that are no state of {state}")
    } else if !config.action.delta.is_empty() {
        format!("channels {:?} of an action are differences, which are no state", config.action.delta)
    } else {
        return Ok(());
    };
    Err(ConfigError::invalid("proprio.feed", format!("last_command, but {reason}: use measured")))
}

/// Records what has been loaded, for diagnostics.
fn record_loaded(record: &SharedRecord, facts: &ModelFacts, pipeline: &Pipeline) {
    let mut record = record.lock();
    record.facts = Some(facts.clone());
    record.runtime = Some(pipeline.runtime());
}

fn facts(config: &Config, pipeline: &Pipeline) -> Result<ModelFacts, NodeError> {
    let own_names = pipeline.action_names(config.rotation_6d);
    let action_names = if config.action_names.is_empty() { own_names.clone() } else { config.action_names.clone() };
    if action_names.len() != own_names.len() {
        let reason = format!(
            "{} names, but an action of this checkpoint has {} channels: {}",
            action_names.len(),
            own_names.len(),
            own_names.join(", ")
        );
        return Err(ConfigError::Invalid { name: "action_names".to_owned(), reason }.into());
    }
    Ok(ModelFacts {
        action_names,
        action_mode: pipeline.config().action_space.mode.name().to_owned(),
        steps: pipeline.steps(),
        checkpoint_sha256: pipeline.checkpoint_sha256().map_err(PipelineError::from)?,
        adapter_sha256: pipeline.adapter_sha256().map_err(PipelineError::from)?,
    })
}

/// Width and height of the frames of the rehearsal, pixels, unless the checkpoint takes frames as they come and
/// declares their size. No camera has told its size yet, and this is what most send: with `preprocess: device` their
/// resampling tables and buffers are on the device before the first frame comes. Frames of another size bring their own
/// when the first one arrives.
const REHEARSED_FRAME: (usize, usize) = (640, 480);

/// Runs one inference on a black observation of this deployment's shape. It warms everything up, and it shows before
/// the robot moves whether cameras, state and embodiment fit the checkpoint.
fn rehearse(config: &Config, pipeline: &Pipeline) -> Result<(), NodeError> {
    let (width, height) = pipeline.declared_frame_size().unwrap_or(REHEARSED_FRAME);
    let black = RgbImage::new(width, height, vec![0; width * height * 3]).map(Arc::new);
    let black = black.map(|value| Stamped { value, stamp: Stamp::default() });
    let channels = channels_of(&config.proprio).unwrap_or_else(|| pipeline.state_spec().channels());
    let observation = Observation {
        views: vec![black; config.cameras.len()],
        state: vec![Stamped { value: vec![0.0; channels], stamp: Stamp::default() }],
        instruction: config.instruction.clone().unwrap_or_else(|| "warm up".to_owned()),
        domain_id: config.domain_id.unwrap_or_default(),
    };
    let request = Request::new(observation, config.seed.unwrap_or(0));
    pipeline.begin(request).and_then(InFlight::wait).map(drop).map_err(|source| match source {
        PipelineError::Input(_) | PipelineError::Transform(TransformError::Input(_)) => {
            NodeError::Deployment { source }
        }
        other => other.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ViewSettings;
    use crate::pipeline::mock;
    use crate::robot::selection::View;
    use crate::types::{EncodedImage, ImageFormat};

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
