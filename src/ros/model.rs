//! The model beside the spinning thread: a loading thread loads and rehearses it, then the inference thread runs it.

use super::error::NodeError;
use super::model_info::ModelInfoTopic;
use super::outputs::{Event, Outputs};
use crate::backend::capture::RECORDINGS;
use crate::backend::drill::Drill;
use crate::config::Config;
use crate::pipeline::feedback::Feedback;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::worker::Worker;
use crate::pipeline::{Options, Pipeline};
use crate::robot::control::SharedControl;
use crate::robot::control::build::streamed;
use crate::robot::deployment;
use crate::robot::model_facts::ModelFacts;
use crate::robot::policy_loop::Policy;
use crate::robot::reporting::record::{Record, SharedRecord};
use crate::robot::restarts::Restarts;
use crate::robot::selection::Selection;
use crate::types::Stamp;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The model while it is absent, loading, running or being dropped.
pub struct Model {
    /// The deployment as it is now; a model that is loaded later is loaded with it.
    config: Config,
    loader: Loader,
    phase: Phase,
    record: SharedRecord,
    control: SharedControl,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    restarts: Restarts,
    /// The faults that can be set off on purpose, if any may; the same ones for every model that is loaded.
    drill: Option<Drill>,
}

/// Makes a job that loads a model for a deployment. Its events go into the channel.
type Loader = Box<dyn Fn(&Config, mpsc::Sender<Event>) -> Job>;
/// Loads a model on a thread of its own.
type Job = Box<dyn FnOnce() -> Result<Worker<Selection>, NodeError> + Send>;

enum Phase {
    Absent,
    Loading(JoinHandle<Result<Worker<Selection>, NodeError>>),
    Running(Worker<Selection>),
    /// It ends with the inference that it is at.
    Ending(Worker<Selection>),
    Over,
}

/// Why the number of denoising steps cannot change at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StepsAreFixed {
    /// Its first inference with another number would take the time to record a graph, while the robot moves.
    #[error("parameter `steps`: this backend records its work anew for another number: deactivate first")]
    Recorded,
    /// A model is being loaded, or dropped.
    #[error("parameter `steps`: a model is being loaded or dropped: try again")]
    Busy,
    /// A variant of a checkpoint that was not measured for that number.
    #[error("parameter `steps`: {0}")]
    Unmeasured(String),
}

/// What a turn has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing new.
    None,
    /// The model can be offered observations.
    Loaded,
    /// A panic has ended what was under way, and the inference thread runs again.
    Restarted,
    /// The model is gone.
    Unloaded,
}

impl Model {
    /// No model yet. Chunks will be published through `outputs`, and what has been loaded through `model_info`.
    /// What plays its plans is installed in `control`.
    pub fn new(
        config: Config,
        outputs: Outputs,
        model_info: ModelInfoTopic,
        record: SharedRecord,
        control: SharedControl,
    ) -> Self {
        let restarts = Restarts::new(config.guard.restarts);
        let drill = Drill::allowed_by(&config.drill);
        let known = (record.clone(), control.clone(), drill.clone());
        let loader: Loader = Box::new(move |config, events| {
            let (config, outputs, model_info, (record, control, drill)) =
                (config.clone(), outputs.clone(), model_info.clone(), known.clone());
            Box::new(move || load(&config, drill, outputs, &model_info, &record, &control, events))
        });
        let (sender, events) = mpsc::channel();
        Self { config, loader, phase: Phase::Absent, record, control, events, sender, restarts, drill }
    }

    /// The number of denoising steps of the model, if there is one.
    pub fn steps(&self) -> Option<usize> {
        match &self.phase {
            Phase::Running(worker) => Some(worker.pipeline().steps()),
            _ => None,
        }
    }

    /// The parameters that hold.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Whether another set of live parameters can hold. `is_active` says that the robot may be moved.
    ///
    /// # Errors
    /// Another number of denoising steps while the model is on its way, or for a model that records them and is active.
    pub fn check(&self, config: &Config, is_active: bool) -> Result<(), StepsAreFixed> {
        match &self.phase {
            _ if config.steps == self.config.steps => Ok(()),
            Phase::Absent => Ok(()),
            Phase::Running(worker) if is_active && worker.pipeline().records_steps() => Err(StepsAreFixed::Recorded),
            Phase::Running(worker) => worker.pipeline().check_steps(config.steps).map_err(StepsAreFixed::Unmeasured),
            Phase::Loading(_) | Phase::Ending(_) | Phase::Over => Err(StepsAreFixed::Busy),
        }
    }

    /// Goes on with another set of live parameters, which [`Model::check`] has passed.
    pub fn reconfigure(&mut self, config: &Config) {
        self.config = config.clone();
        self.restarts.allow(config.guard.restarts);
        if let Some(drill) = &self.drill {
            drill.set(&config.drill);
        }
        self.follow_config();
    }

    /// Tells a running model what may change while it runs.
    fn follow_config(&self) {
        if let Phase::Running(worker) = &self.phase {
            worker.set_execute_steps(self.config.execute_steps);
            worker.pipeline().set_steps(self.config.steps);
            if let Some(facts) = &mut self.record.lock().facts {
                facts.steps = worker.pipeline().steps();
            }
        }
    }

    /// Starts loading on another thread, unless there is a model.
    ///
    /// # Errors
    /// [`NodeError::Thread`] if the operating system refuses a thread.
    pub fn load(&mut self) -> Result<(), NodeError> {
        if matches!(self.phase, Phase::Absent) {
            let job = (self.loader)(&self.config, self.sender.clone());
            let thread = std::thread::Builder::new().name("loading".to_owned()).spawn(job);
            self.phase = Phase::Loading(thread.map_err(NodeError::Thread)?);
        }
        Ok(())
    }

    /// Lets the model go once the inference that it is at has ended.
    pub fn unload(&mut self) {
        if let Phase::Running(worker) = std::mem::replace(&mut self.phase, Phase::Absent) {
            worker.close();
            self.phase = Phase::Ending(worker);
        }
    }

    /// Whether there is no model, and none on its way.
    pub fn is_absent(&self) -> bool {
        matches!(self.phase, Phase::Absent)
    }

    /// Moves on from loading to running once loading is done, and from running to nothing once that is. An inference thread
    /// that has panicked is started again.
    ///
    /// # Errors
    /// The failure to load, after which there is no model; [`NodeError::Panicked`] if the inference thread has panicked
    /// too often, [`NodeError::Died`] if another one has panicked.
    pub fn advance(&mut self) -> Result<Progress, NodeError> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Loading(thread) if thread.is_finished() => {
                self.phase = Phase::Absent;
                let worker = thread.join().map_err(|_| NodeError::Died("loading"))??;
                self.phase = Phase::Running(worker);
                // It was loaded with the parameters of then.
                self.follow_config();
                return Ok(Progress::Loaded);
            }
            Phase::Ending(worker) if !worker.is_running() => {
                self.phase = Phase::Absent;
                self.record.lock().unloaded();
                self.control.lock().install(None);
                return Ok(Progress::Unloaded);
            }
            Phase::Running(mut worker) if !worker.is_running() => {
                self.restart(&mut worker)?;
                self.phase = Phase::Running(worker);
                return Ok(Progress::Restarted);
            }
            Phase::Over => return Err(NodeError::Died("inference")),
            Phase::Running(worker) => {
                let mut record = self.record.lock();
                note_recordings(&mut record, worker.recordings());
                record.withdrawn = worker.withdrawn();
                record.runtime = Some(worker.runtime());
                record.drill = worker.drill().map(|drill| drill.told().unwrap_or_default());
                drop(record);
                self.phase = Phase::Running(worker);
            }
            unchanged => self.phase = unchanged,
        }
        Ok(Progress::None)
    }

    /// Since when an inference is under way, if one is.
    pub fn busy_since(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Running(worker) | Phase::Ending(worker) => worker.busy_since(),
            Phase::Absent | Phase::Loading(_) | Phase::Over => None,
        }
    }

    /// Starts the thread of `worker` again after a panic, unless that has been done too often.
    fn restart(&mut self, worker: &mut Worker<Selection>) -> Result<(), NodeError> {
        let message = worker.panicked().ok_or(NodeError::Died("inference"))?;
        let (now, most) = (Instant::now(), self.restarts.most());
        let Some(count) = self.restarts.start(now) else { return Err(NodeError::Panicked { message, most }) };
        worker.restart()?;
        let reason = format!("the inference thread has panicked: {message}; started again, {count} of {most} a minute");
        tracing::error!("{reason}");
        let mut record = self.record.lock();
        record.restarts += 1;
        record.failed(&reason, now);
        drop(record);
        self.control.lock().failed(&reason);
        Ok(())
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
            Phase::Running(worker) | Phase::Ending(worker) => worker.stop(patience),
            Phase::Absent | Phase::Over => true,
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
        // After this nothing of the epoch before is handed over any more.
        self.control.lock().begin_epoch();
        withdrawn
    }

    fn forget_commands(&mut self) {
        if let Phase::Running(worker) = &self.phase {
            worker.forget_commands();
        }
    }

    fn wants_plan(&self, now: Stamp) -> bool {
        let control = self.control.lock();
        let is_on_its_way = matches!(&self.phase, Phase::Running(worker) if !worker.is_idle());
        // Where chunks are only published, the newest observation waits for its turn.
        control.wants_plan(now) && !(control.controller().is_some() && is_on_its_way)
    }
}

fn load(
    config: &Config,
    drill: Option<Drill>,
    outputs: Outputs,
    model_info: &ModelInfoTopic,
    record: &SharedRecord,
    control: &SharedControl,
    events: mpsc::Sender<Event>,
) -> Result<Worker<Selection>, NodeError> {
    if let Some(threads) = config.num_threads {
        crate::backend::device::limit_threads(threads);
    }
    let pipeline = Pipeline::load(&Options { drill, ..Options::from(config) })?;
    let facts = deployment::check(config, &pipeline)?;
    let rehearsal = deployment::rehearse(config, &pipeline)?;
    record_loaded(record, &facts, &pipeline, rehearsal);
    let controller = streamed(config, &facts, &pipeline)?;
    let commanded = controller.is_some().then(|| control.commanded());
    model_info.publish(config, &facts, &pipeline, controller.as_ref());
    control.lock().install(controller);
    let feedback = Feedback::new(config, pipeline.state_spec().channels());
    let feedback = match commanded {
        Some(commanded) => feedback.follow(commanded),
        None => feedback,
    };
    Ok(Worker::spawn(pipeline, config.seed, feedback, move |delivery| {
        // The spinning thread may have ended, and then nobody needs to know.
        let _ = events.send(outputs.deliver(&facts, delivery));
    })?)
}

/// Notes how many recordings chunks have waited for, and warns of new ones. The rehearsal makes those that it can foresee.
fn note_recordings(record: &mut Record, recordings: u64) {
    if recordings > record.recorded_in_operation {
        tracing::warn!(
            "a chunk had to wait, up to seconds, until its sizes were recorded: an instruction of another length, other views, \
             another domain or number of steps, not among the latest {RECORDINGS} of their kind"
        );
    }
    record.recorded_in_operation = recordings;
}

/// Records what has been loaded, for diagnostics.
fn record_loaded(record: &SharedRecord, facts: &ModelFacts, pipeline: &Pipeline, rehearsal: Duration) {
    let mut record = record.lock();
    record.rehearsal_ms = Some(milliseconds(rehearsal));
    record.facts = Some(facts.clone());
    record.runtime = Some(pipeline.runtime());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::drill::Drill;
    use crate::backend::mock::Behaviour;
    use crate::config::schema::Table;
    use crate::config::{DrillConfig, DrillFault, ViewSettings};
    use crate::pipeline::{InFlight, Request, mock};
    use crate::robot::control::{Control, Watch};
    use crate::robot::selection::View;
    use crate::types::{EncodedImage, ImageFormat, Stamp, Stamped};

    /// A model that panics `times` times and may be started again `restarts` times a minute.
    fn panicking(mut times: u32, restarts: u32) -> Model {
        let behave = move || {
            let left = times;
            times = times.saturating_sub(1);
            assert!(left == 0, "a defect {left}");
            Behaviour::Answer
        };
        let pipeline = mock::pipeline(mock::options(), behave, mock::nothing);
        let worker = Worker::spawn(pipeline, None, Feedback::measured(), drop).unwrap();
        Model { restarts: Restarts::new(restarts), ..model(worker) }
    }

    #[test]
    fn a_panic_within_the_budget_is_recorded_and_the_model_goes_on() {
        let mut model = panicking(1, 3);
        model.offer(selection());
        assert_eq!(next(&mut model), Progress::Restarted);
        assert!(model.is_ready());
        let record = model.record.lock();
        let told = record.last_failure.as_ref().map(|failure| failure.reason.as_str());
        let expected = "the inference thread has panicked: a defect 1; started again, 1 of 3 a minute";
        assert_eq!((record.restarts, record.failed, told), (1, 1, Some(expected)));
    }

    #[test]
    fn a_panic_beyond_the_budget_ends_the_model_with_its_message() {
        let mut model = panicking(3, 2);
        for _ in 0..2 {
            model.offer(selection());
            assert_eq!(next(&mut model), Progress::Restarted);
        }
        model.offer(selection());
        let end = loop {
            if let Err(end) = model.advance() {
                break end;
            }
            std::thread::yield_now();
        };
        assert!(matches!(&end, NodeError::Panicked { message, most: 2 } if message == "a defect 1"), "{end:?}");
        assert!(!model.is_ready());
    }

    #[test]
    fn recordings_that_chunks_waited_for_are_counted_and_those_of_the_rehearsal_are_not() {
        let pipeline = mock::pipeline(mock::options(), || Behaviour::Record, mock::nothing);
        pipeline.begin(Request::new(mock::observation(1), 7)).and_then(InFlight::wait).unwrap();
        let (answered, answers) = mpsc::channel();
        let deliver = move |_| answered.send(()).unwrap();
        let mut model = model(Worker::spawn(pipeline, None, Feedback::measured(), deliver).unwrap());
        for expected in 1..3 {
            model.offer(selection());
            answers.recv().unwrap();
            assert_eq!(model.advance().unwrap(), Progress::None);
            assert_eq!(model.record.lock().recorded_in_operation, expected);
        }
    }

    #[test]
    fn what_a_drill_sets_off_is_recorded_while_one_is_allowed() {
        let config = DrillConfig { allowed: true, ..DrillConfig::defaults() };
        let drill = Drill::allowed_by(&config);
        let told = |drill: Option<Drill>, config: &DrillConfig| {
            let options = Options { drill, ..mock::options() };
            let pipeline = Pipeline::load(&options).unwrap();
            let worker = Worker::spawn(pipeline, None, Feedback::measured(), drop).unwrap();
            options.drill.iter().for_each(|drill| drill.set(config));
            let mut model = model(worker);
            model.advance().unwrap();
            model.record.lock().drill.clone()
        };
        assert_eq!(told(None, &config), None);
        assert_eq!(told(drill.clone(), &config), Some(String::new()));
        assert_eq!(told(drill, &DrillConfig { fault: DrillFault::Hang, ..config }).as_deref(), Some("hang"));
    }

    #[test]
    fn a_model_that_is_dropped_is_gone_once_its_thread_has_ended_and_can_be_loaded_again() {
        let worker = || {
            let pipeline = mock::pipeline(mock::options(), || Behaviour::Answer, mock::nothing);
            Worker::spawn(pipeline, None, Feedback::measured(), drop).unwrap()
        };
        let mut model = model(worker());
        model.loader = Box::new(move |_, _| Box::new(move || Ok(worker())));
        model.unload();
        assert!(!model.is_ready() && !model.is_absent());
        assert_eq!(next(&mut model), Progress::Unloaded);
        assert!(model.is_absent());
        model.load().unwrap();
        assert_eq!(next(&mut model), Progress::Loaded);
        assert!(model.is_ready());
    }

    #[test]
    fn the_number_of_steps_changes_unless_a_model_is_on_its_way() {
        let worker = || {
            let pipeline = mock::pipeline(mock::options(), || Behaviour::Answer, mock::nothing);
            Worker::spawn(pipeline, None, Feedback::measured(), drop).unwrap()
        };
        let (tell, told) = mpsc::channel();
        let mut model = model(worker());
        model.loader = Box::new(move |config, _| {
            tell.send(config.steps).unwrap();
            Box::new(move || Ok(worker()))
        });
        let three = Config { steps: Some(3), ..Config::defaults() };
        assert_eq!(model.check(&three, true), Ok(()), "libtorch records nothing");
        model.unload();
        assert_eq!(model.check(&three, false), Err(StepsAreFixed::Busy), "it still ends");
        assert_eq!(next(&mut model), Progress::Unloaded);
        assert_eq!(model.check(&three, false), Ok(()));
        model.reconfigure(&three);
        model.load().unwrap();
        assert_eq!(told.recv().unwrap(), Some(3));
        assert_eq!(model.check(&Config::defaults(), false), Err(StepsAreFixed::Busy), "it is loading");
        assert_eq!(next(&mut model), Progress::Loaded);
        assert_eq!(model.check(&Config { execute_steps: Some(2), ..three }, true), Ok(()), "the steps are the same");
    }

    fn next(model: &mut Model) -> Progress {
        loop {
            match model.advance().unwrap() {
                Progress::None => std::thread::yield_now(),
                progress => return progress,
            }
        }
    }

    fn model(worker: Worker<Selection>) -> Model {
        let (sender, events) = mpsc::channel();
        let loader: Loader = Box::new(|_, _| Box::new(|| Err(NodeError::Died("loading"))));
        let control = SharedControl::new(Control::new(Watch::new(None, None)));
        Model {
            config: Config::defaults(),
            loader,
            phase: Phase::Running(worker),
            record: SharedRecord::default(),
            control,
            events,
            sender,
            restarts: Restarts::new(0),
            drill: None,
        }
    }

    fn selection() -> Selection {
        let observation = mock::observation(0);
        let format =
            ImageFormat::Raw { encoding: "rgb8".to_owned(), width: 32, height: 32, step: 96, is_bigendian: false };
        let image =
            Stamped { value: EncodedImage { format, data: vec![90; 32 * 32 * 3].into() }, stamp: Stamp::default() };
        Selection {
            views: vec![Some(View { topic: "camera_0/image".to_owned(), settings: ViewSettings::default(), image })],
            state: observation.state,
            instruction: observation.instruction,
            domain_id: 0,
        }
    }
}
