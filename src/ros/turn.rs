//! A turn of the spinning thread: what has arrived goes into the inputs and the services, and what follows from it is asked of
//! the model and told to the control.

use super::clock::RosClock;
use super::commands::Commands;
use super::diagnostics::Diagnostics;
use super::dump_calibration::DumpCalibration;
use super::error::NodeError;
use super::halt::{HaltServices, StoppedTopic, fulfil};
use super::infer_once::InferOnce;
use super::lifecycle::{Lifecycle, Task};
use super::model::{Model, Progress, StepsAreFixed};
use super::model_info::ModelInfoTopic;
use super::namesakes::Namesakes;
use super::outputs::Event;
use super::qos::QosWatch;
use super::reset::Reset;
use super::stream::Stream;
use super::subscriptions::Subscriptions;
use crate::config::Config;
use crate::config::live::Proposal;
use crate::error::in_one_line;
use crate::robot::control::build::ControlError;
use crate::robot::control::{Settings, SharedControl, build};
use crate::robot::guard::Guard;
use crate::robot::health::Health;
use crate::robot::lifecycle::{Outcome, State};
use crate::robot::policy_loop::{PolicyLoop, Step};
use crate::robot::reporting::health::unending;
use crate::robot::reporting::record::SharedRecord;
use crate::robot::rest_log::RestLog;
use crate::robot::selection::Undecodable;
use crate::robot::throttle::Throttle;
use r2r::Node;
use std::time::{Duration, Instant};

/// The time between two looks at the publishers of the inputs.
const QOS_PERIOD: Duration = Duration::from_millis(500);
/// How long the node waits at its end for an inference that has begun, and for a batch that is being written.
const PATIENCE: Duration = Duration::from_millis(200);

/// What the spinning thread does after every wait for messages.
pub(super) struct Turn {
    /// The node's fully qualified name.
    pub(super) own_name: String,
    pub(super) lifecycle: Lifecycle,
    /// Whether the node is on its way to being active without being asked to, as it does once, at its start.
    pub(super) starts_itself: bool,
    pub(super) record: SharedRecord,
    pub(super) clock: RosClock,
    pub(super) diagnostics: Diagnostics,
    pub(super) infer_once: InferOnce,
    pub(super) reset: Reset,
    pub(super) halt: HaltServices,
    pub(super) stopped: StoppedTopic,
    pub(super) dump_calibration: DumpCalibration,
    pub(super) subscriptions: Subscriptions,
    pub(super) qos_watch: QosWatch,
    pub(super) namesakes: Namesakes,
    /// When the publishers were last looked at.
    pub(super) looked: Option<Instant>,
    pub(super) policy_loop: PolicyLoop,
    /// Limits the lines about jumps of ROS time.
    pub(super) jump_log: Throttle,
    /// What the log tells of a policy that stands still.
    pub(super) rest_log: RestLog,
    /// The robot's state of the present.
    pub(super) measured: Vec<f32>,
    pub(super) model_info: ModelInfoTopic,
    pub(super) model: Model,
    pub(super) control: SharedControl,
    /// Sends commands; `None` until there is a model, and where chunks are only published.
    pub(super) stream: Option<Stream>,
}

impl Turn {
    /// Takes what has arrived, and does what follows from it.
    ///
    /// # Errors
    /// What ends the node.
    pub(super) fn take(&mut self, node: &mut Node) -> Result<(), NodeError> {
        self.look_at_publishers(node)?;
        self.receive();
        self.serve_reset();
        self.serve_halt();
        self.dump_calibration.serve();
        if let Some(task) = self.lifecycle.serve() {
            self.begin(task)?;
        }
        match self.model.advance() {
            Ok(Progress::None) => {}
            Ok(Progress::Restarted) => self.infer_once.withdrawn(),
            Ok(Progress::Loaded) => self.configured(node)?,
            Ok(Progress::Unloaded) => self.lifecycle.end(self.outcome_of_unloading()),
            Err(error) => self.failed(error)?,
        }
        self.record.lock().lifecycle = Some(self.lifecycle.state());
        let health = Health::of_inputs(&self.policy_loop.inputs, self.clock.present());
        self.watch(&health)?;
        self.infer(&health);
        self.diagnostics.publish_when_due(&self.policy_loop.inputs, &health);
        Ok(())
    }

    /// Tells the control what the rest of the node is like. If this is not done for a while, the robot is held or stopped.
    fn watch(&mut self, health: &Health) -> Result<(), NodeError> {
        let now = self.clock.present();
        self.policy_loop.inputs.measured(now, &mut self.measured);
        let lost =
            self.record.lock().runtime.as_ref().and_then(|runtime| runtime.degraded.as_ref().map(ToString::to_string));
        let mut control = self.control.lock();
        control.watch().inputs(health.may_act, &health.reason, now.at);
        control.watch().inference_since(self.model.busy_since());
        control.watch().backend(lost);
        if let Some(controller) = control.controller_mut() {
            controller.state(&self.measured);
        }
        self.stopped.say(control.halt().stopped());
        let busy = control.hanging(now);
        drop(control);
        let hanging = self.record.lock().hanging(busy);
        self.log_rest(health, hanging, now.at);
        match &self.stream {
            Some(stream) if !stream.is_running() => Err(NodeError::Died("control")),
            _ => Ok(()),
        }
    }

    fn log_rest(&mut self, inputs: &Health, hanging: Option<Duration>, now: Instant) {
        // A node that is not active does not act, which is told elsewhere; each activation is told anew.
        if self.lifecycle.state() != State::Active {
            self.rest_log = RestLog::default();
            return;
        }
        let unending = hanging.filter(|_| inputs.may_act).map(unending);
        if let Some(health) = self.rest_log.news(unending.as_ref().unwrap_or(inputs), now) {
            match health.may_act {
                true => tracing::info!("the policy can act"),
                false => tracing::warn!("the policy stands still: {}", in_one_line(&health.reason)),
            }
        }
    }

    /// Makes parameters hold that somebody has set, or refuses them with the reason.
    pub(super) fn adopt(&mut self, proposal: &Proposal) -> Result<(), String> {
        if !proposal.changed.is_empty() {
            self.reconfigure(&proposal.config)?;
            self.model_info.restate(&proposal.facts, self.model.steps(), self.control.lock().controller());
        }
        if let Some(stall) = proposal.config.drill.stall.filter(|_| proposal.names("drill.stall_ms")) {
            tracing::warn!("drill: the inputs are not watched for {} ms", stall.as_millis());
            std::thread::sleep(stall);
        }
        // The topic may have said something else since, so that the value which the parameter had already is news.
        if proposal.names("instruction") {
            self.policy_loop.inputs.instruct(proposal.config.instruction.clone());
            // Before the answer, so that nothing comes after it of the instruction before.
            self.follow_instruction();
        }
        Ok(())
    }

    /// Goes on with another set of live parameters. Whatever may refuse them is asked first, so that a refusal changes
    /// nothing.
    fn reconfigure(&mut self, config: &Config) -> Result<(), String> {
        let deactivate = || format!("`ros2 lifecycle set {} deactivate`", self.own_name);
        let is_active = self.lifecycle.state() == State::Active;
        self.model.check(config, is_active).map_err(|refusal| match refusal {
            StepsAreFixed::Recorded => format!("{refusal}: {}", deactivate()),
            StepsAreFixed::Busy | StepsAreFixed::Unmeasured(_) => refusal.to_string(),
        })?;
        let played = self.played(config).map_err(|refusal| refusal.to_string())?;

        self.control.lock().reconfigure(build::watched(config), played);
        self.model.reconfigure(config);
        self.policy_loop.inputs.pace.set_rate(config.policy.rate_hz);
        Ok(())
    }

    /// How commands are played with these parameters; `None` if none are.
    fn played(&self, config: &Config) -> Result<Option<(Settings, Guard)>, ControlError> {
        let channels = self.control.lock().controller().map(|controller| controller.channels().clone());
        channels.map(|channels| build::played(config, channels)).transpose()
    }

    /// Listens to publishers that keep what they said before the node started, and names those that cannot reach it.
    fn look_at_publishers(&mut self, node: &mut Node) -> Result<(), NodeError> {
        if self.looked.is_some_and(|looked| looked.elapsed() < QOS_PERIOD) {
            return Ok(());
        }
        self.looked = Some(Instant::now());
        self.subscriptions.listen_to_latched(node)?;
        let unreachable = self.qos_watch.look(node).into_iter().map(|publisher| publisher.to_string());
        self.policy_loop.inputs.obstacles = unreachable.chain(self.namesakes.look(node)).collect();
        Ok(())
    }

    /// Moves what has arrived into the inputs, and drops what it has made invalid.
    fn receive(&mut self) {
        let now = self.clock.present();
        if let Some(by_ms) = self.policy_loop.advance(now, &mut self.model) {
            if self.jump_log.lets_pass(now.at) {
                tracing::warn!("ROS time jumped by {:.3} s: inputs from before are forgotten", by_ms / 1e3);
            }
            self.infer_once.withdrawn();
        }
        let inputs = &mut self.policy_loop.inputs;
        self.subscriptions.drain(inputs, now);
        for event in self.model.events() {
            match event {
                Event::Rejected(Undecodable { camera, error }) => inputs.decoded(camera, Some(&error), now),
                Event::Answered { reference, views, result } => {
                    let used = views.iter().enumerate().filter(|(_, used)| **used);
                    used.for_each(|(camera, _)| inputs.decoded(camera, None, now));
                    self.infer_once.answered(reference, &result);
                }
            }
        }
        for reason in inputs.take_new_faults() {
            tracing::warn!("dropped: {reason}");
        }
        self.follow_instruction();
    }

    fn follow_instruction(&mut self) {
        if self.policy_loop.follow_instruction(&mut self.model) {
            self.infer_once.withdrawn();
        }
    }

    fn serve_reset(&mut self) {
        let mut is_asked = false;
        self.reset.serve(|| is_asked = true);
        if is_asked {
            self.policy_loop.reset(&mut self.model);
            self.infer_once.withdrawn();
        }
    }

    fn serve_halt(&mut self) {
        let (halt, policy_loop, model, control) =
            (&mut self.halt, &mut self.policy_loop, &mut self.model, &self.control);
        let mut is_over = false;
        halt.serve(|wish| {
            // First nothing that is under way counts any more, then the robot is held, stopped or released.
            policy_loop.withdraw(model);
            is_over = true;
            let done = fulfil(wish, control, &self.stopped);
            self.stream.iter().for_each(Stream::settle);
            done
        });
        if is_over {
            self.infer_once.withdrawn();
        }
    }

    /// Makes a transition that nobody has asked for.
    pub(super) fn transit(&mut self, label: &str) -> Result<(), NodeError> {
        let task = self.lifecycle.begin(label);
        task.map_or(Ok(()), |task| self.begin(task))
    }

    /// Does what a transition asks for, or begins it if it takes longer than a turn.
    fn begin(&mut self, task: Task) -> Result<(), NodeError> {
        match task {
            Task::Configure => return self.model.load(),
            Task::Activate => {
                self.control.lock().activate();
                tracing::info!("ready");
            }
            Task::Deactivate => self.stand_still(),
            Task::CleanUp | Task::ShutDown => {
                self.stand_still();
                self.model.unload();
                if !self.model.is_absent() {
                    return Ok(());
                }
            }
        }
        self.lifecycle.end(Outcome::Success);
        Ok(())
    }

    /// Makes everything that was offered count for nothing: no chunk comes after this.
    fn stand_still(&mut self) {
        self.policy_loop.reset(&mut self.model);
        self.control.lock().deactivate();
        self.stream.iter().for_each(Stream::settle);
        self.infer_once.withdrawn();
    }

    fn configured(&mut self, node: &mut Node) -> Result<(), NodeError> {
        if let Err(error) = self.prepare_commands(node) {
            self.model.unload();
            return self.failed(error);
        }
        self.record.lock().not_configured = None;
        self.lifecycle.end(Outcome::Success);
        if std::mem::take(&mut self.starts_itself) { self.transit("activate") } else { Ok(()) }
    }

    fn prepare_commands(&mut self, node: &mut Node) -> Result<(), NodeError> {
        // Parameters may have changed while the model was loading.
        let (watched, played) = (build::watched(self.model.config()), self.played(self.model.config())?);
        self.control.lock().reconfigure(watched, played);
        self.start_stream(node)
    }

    /// Starts the thread that sends commands, if commands are streamed.
    fn start_stream(&mut self, node: &mut Node) -> Result<(), NodeError> {
        let channels = self.control.lock().controller().map(|controller| controller.channels().clone());
        let Some(channels) = channels.filter(|_| self.stream.is_none()) else { return Ok(()) };
        let commands = Commands::new(node, self.model.config(), &channels)?;
        let (control, stopped, clock) = (self.control.clone(), self.stopped.clone(), self.clock.clone());
        self.stream = Some(Stream::start(control, commands, stopped, clock, self.model.config().control.priority)?);
        if self.model.config().shadow {
            tracing::warn!("shadow: commands go to ~/shadow/... only, the robot is not moved");
        }
        Ok(())
    }

    /// A model that cannot be loaded leaves the node as it was where somebody else manages it. Otherwise a failure of the
    /// model ends the node, so that whoever has started it knows.
    fn failed(&mut self, error: NodeError) -> Result<(), NodeError> {
        if self.lifecycle.state() == State::Configuring && !self.starts_itself {
            tracing::error!("not configured: {error}");
            self.record.lock().not_configured = Some(error.to_string());
            // A model that is there already has to go first: until then nothing can be configured.
            if self.model.is_absent() {
                self.lifecycle.end(Outcome::Failure);
            }
            return Ok(());
        }
        let inputs = &self.policy_loop.inputs;
        let health = Health::of_inputs(inputs, self.clock.present());
        self.diagnostics.publish(inputs, &health, Some(&error));
        Err(error)
    }

    /// Who wanted a model and has none now has failed.
    fn outcome_of_unloading(&self) -> Outcome {
        if self.lifecycle.state() == State::Configuring { Outcome::Failure } else { Outcome::Success }
    }

    fn infer(&mut self, health: &Health) {
        let inputs = &mut self.policy_loop.inputs;
        let obstacle = match self.lifecycle.state() {
            State::Active => self.control.lock().halt().reason(),
            State::Configuring => Some("the model is still loading".to_owned()),
            _ => Some("the node is not active".to_owned()),
        };
        self.infer_once.receive(obstacle.as_deref(), health, &mut inputs.pace);
        if obstacle.is_some() {
            return;
        }
        match self.policy_loop.infer(self.clock.present(), health, &mut self.model) {
            Step::Nothing => {}
            Step::Stopped => self.infer_once.withdrawn(),
            Step::Offered(reference) => self.infer_once.offered(reference),
        }
    }

    /// Ends everything that runs. Returns whether all threads have ended.
    pub(super) fn end(mut self) -> bool {
        self.infer_once.end();
        self.lifecycle.give_up();
        let streamed = self.stream.take().is_none_or(|stream| stream.end(PATIENCE));
        [streamed, self.model.stop(PATIENCE), self.dump_calibration.end(PATIENCE)] == [true; 3]
    }
}
