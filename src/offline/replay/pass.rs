//! One pass over a bag: a node's turns in recorded time, with a simulated inference thread.

use super::answer::{Answer, Chosen};
use super::feed::{Arrival, Content};
use super::problems::Problems;
use super::recording::Recording;
use super::simulation::{Counts, Ended, Simulation};
use super::timeline::Due;
use crate::config::Config;
use crate::data::DatasetError;
use crate::data::bag::Place;
use crate::pipeline::worker::Delivery;
use crate::robot::camera::Camera;
use crate::robot::health::Health;
use crate::robot::inputs::Inputs;
use crate::robot::instruction::Origin;
use crate::robot::policy_loop::PolicyLoop;
use crate::robot::selection::Undecodable;
use crate::robot::time::Now;
use crate::types::Stamp;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time between two turns of a node that nothing wakes, ns.
const TURN_NS: i64 = 10_000_000;
/// Silence after which nothing changes any more, ns: every input is too old by then.
const SILENCE_NS: i64 = 60_000_000_000;
/// The time between two looks at the counts, ns.
const SECOND_NS: i64 = 1_000_000_000;
/// Frames whose places are remembered.
const PLACES: usize = 1024;

/// What a pass has found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The first and the last moment.
    pub span: Option<(Stamp, Stamp)>,
    /// Every observation that was answered, in the order of publication.
    pub answers: Vec<Answer>,
    /// What became of the others.
    pub counts: Counts,
    /// What became of the frames of each camera.
    pub cameras: Vec<CameraCounts>,
    /// The counts of the cameras, once a second.
    pub seconds: Vec<(Stamp, Vec<CameraCounts>)>,
    /// When the inputs became good or bad, and why.
    pub health: Vec<(Stamp, Health)>,
    /// How often ROS time jumped.
    pub time_jumps: u64,
    /// Messages that the inputs have taken or refused.
    pub messages: u64,
    /// The stamps of all frames in the bag, one list per camera, in order.
    pub frames: Vec<Vec<Stamp>>,
}

/// What became of a camera's frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CameraCounts {
    /// The camera.
    pub camera: String,
    /// Frames in the bag.
    pub received: u64,
    /// Frames on which an inference began.
    pub used: u64,
    /// Frames that newer ones replaced, or that no frame of another camera matched.
    pub skipped: u64,
    /// Frames that repeated the one before.
    pub repeated: u64,
    /// Frames that could not be used.
    pub invalid: u64,
    /// Frames that seem to be missing between the others.
    pub lost: u64,
}

impl CameraCounts {
    fn of(camera: &Camera) -> Self {
        let (topic, frames) = (&camera.topic, camera.frames);
        Self {
            camera: camera.name.clone(),
            received: topic.received,
            used: frames.used,
            skipped: frames.skipped,
            repeated: frames.repeated,
            invalid: topic.dropped_invalid,
            lost: camera.loss.lost(),
        }
    }
}

/// Where a camera's frame stands.
struct FramePlace {
    camera: usize,
    stamp: Stamp,
    place: Place,
}

/// A pass that is under way.
pub struct Pass<'p> {
    policy_loop: PolicyLoop,
    simulation: Simulation<'p>,
    /// The present on the steady clock at the first moment.
    base: Instant,
    /// The first moment.
    start: Option<Stamp>,
    /// Simulated time, if that is ROS time: none before its first message.
    sim_time: Option<Option<Stamp>>,
    /// How long after the first moment inferences begin.
    from: Duration,
    /// What the node would have published; `None` if that is not written.
    recording: Option<Recording>,
    next_tick: Stamp,
    next_second: Stamp,
    /// Where the latest frames stand.
    places: VecDeque<FramePlace>,
    findings: Findings,
}

impl<'p> Pass<'p> {
    /// A pass of the deployment of `config` with its `inputs`. `sim_time` says that ROS time is simulated; inferences begin
    /// `from` after the first moment, and what a node would publish goes into `recording`.
    pub fn new(
        config: &Config,
        inputs: Inputs,
        simulation: Simulation<'p>,
        sim_time: bool,
        from: Duration,
        recording: Option<Recording>,
    ) -> Self {
        let frames = vec![Vec::new(); config.cameras.len()];
        Self {
            from,
            recording,
            policy_loop: PolicyLoop::new(config, inputs),
            simulation,
            base: Instant::now(),
            start: None,
            sim_time: sim_time.then_some(None),
            next_tick: Stamp::default(),
            next_second: Stamp::default(),
            places: VecDeque::new(),
            findings: Findings { frames, ..Findings::default() },
        }
    }

    /// Takes a message at its moment, after everything that happens before.
    ///
    /// # Errors
    /// The recording cannot be written.
    pub fn take(&mut self, due: Due, problems: &mut Problems, topic: &str) -> Result<(), DatasetError> {
        let Due { at, late_ms, arrival } = due;
        if self.start.is_none() {
            (self.start, self.next_tick) = (Some(at), at);
            let from_ns = i64::try_from(self.from.as_nanos()).unwrap_or(i64::MAX);
            self.simulation.wait_until(Stamp { nanos: at.nanos.saturating_add(from_ns) });
        }
        self.advance_to(at, problems)?;
        if late_ms > 0.0 {
            problems.on(topic, &arrival.place, format!("{late_ms:.3} ms before the message in front of it"));
        }
        let place = arrival.place.clone();
        self.turn(at, problems, Some(arrival))?;
        for reason in self.policy_loop.inputs.take_new_faults() {
            problems.on(topic, &place, reason);
        }
        Ok(())
    }

    /// Ends what is under way.
    ///
    /// # Errors
    /// The recording cannot be written.
    pub fn finish(mut self, problems: &mut Problems) -> Result<Findings, DatasetError> {
        while let Some(end) = self.simulation.next_end() {
            self.advance_to(end, problems)?;
        }
        self.recording.take().map_or(Ok(()), Recording::finish)?;
        self.findings.frames.iter_mut().for_each(|stamps| stamps.sort_unstable());
        self.look();
        let inputs = &self.policy_loop.inputs;
        self.findings.cameras = inputs.cameras().iter().map(CameraCounts::of).collect();
        self.findings.time_jumps = inputs.time_jumps();
        self.findings.counts = self.simulation.counts();
        Ok(self.findings)
    }

    /// Takes the turns in which nothing arrives: those of a node that waits, and those in which an inference ends.
    fn advance_to(&mut self, at: Stamp, problems: &mut Problems) -> Result<(), DatasetError> {
        if at.nanos.saturating_sub(self.next_tick.nanos) > 2 * SILENCE_NS {
            self.advance_to(Stamp { nanos: self.next_tick.nanos + SILENCE_NS }, problems)?;
            self.next_tick = at;
        }
        loop {
            let end = self.simulation.next_end();
            let next = end.map_or(self.next_tick, |end| end.min(self.next_tick));
            // What arrives at the same moment arrives first.
            if next > at || (next == at && end != Some(at)) {
                return Ok(());
            }
            if next == self.next_tick {
                self.next_tick = Stamp { nanos: next.nanos.saturating_add(TURN_NS) };
            }
            self.turn(next, problems, None)?;
        }
    }

    fn now(&self, at: Stamp) -> Now {
        let since = at.nanos.saturating_sub(self.start.unwrap_or(at).nanos);
        let steady = self.base + Duration::from_nanos(u64::try_from(since).unwrap_or(0));
        Now { stamp: self.sim_time.map_or(at, Option::unwrap_or_default), at: steady }
    }

    /// What a node does after every wait for messages.
    fn turn(&mut self, at: Stamp, problems: &mut Problems, arrival: Option<Arrival>) -> Result<(), DatasetError> {
        if let Some(Arrival { content: Content::Clock(stamp), .. }) = &arrival {
            self.sim_time = self.sim_time.map(|_| Some(*stamp));
        }
        let now = self.now(at);
        self.simulation.set_now(at, now.stamp);
        self.policy_loop.advance(now, &mut self.simulation);
        if let Some(arrival) = arrival {
            self.feed(arrival, now);
        }
        while let Some(ended) = self.simulation.end_next() {
            self.ended(ended, now, problems)?;
        }
        self.policy_loop.follow_instruction(&mut self.simulation);
        let health = Health::of_inputs(&self.policy_loop.inputs, now);
        self.policy_loop.infer(now, &health, &mut self.simulation);
        if let Some(recording) = &mut self.recording {
            recording.turn(&self.policy_loop.inputs, &health, self.simulation.counts(), now)?;
        }
        if now.has_begun() {
            self.note(now.stamp, health);
        }
        Ok(())
    }

    fn feed(&mut self, arrival: Arrival, now: Now) {
        self.findings.messages += 1;
        let inputs = &mut self.policy_loop.inputs;
        match arrival.content {
            Content::Frame(camera, image) => {
                let stamp = arrival.stamp.unwrap_or(now.stamp);
                self.findings.frames.get_mut(camera).into_iter().for_each(|stamps| stamps.push(stamp));
                self.places.truncate(PLACES - 1);
                self.places.push_front(FramePlace { camera, stamp, place: arrival.place });
                inputs.frame(camera, image, arrival.stamp, now);
            }
            Content::State(index, reading) => inputs.state(index, reading, arrival.stamp, now),
            Content::Instruction(text) => inputs.instruction(text, Origin::Volatile, now),
            Content::Clock(_) | Content::Chunk(_) | Content::Loaded(_) => {}
        }
    }

    fn ended(&mut self, ended: Ended, now: Now, problems: &mut Problems) -> Result<(), DatasetError> {
        let inputs = &mut self.policy_loop.inputs;
        let (chosen, inferred) = match ended.delivery {
            Some(Delivery::Rejected(Undecodable { camera, error })) => {
                inputs.decoded(camera, Some(&error), now);
                let faults = inputs.take_new_faults();
                let stamp = ended.chosen.cameras.get(camera).copied().flatten();
                let frame = self.places.iter().find(|frame| frame.camera == camera && Some(frame.stamp) == stamp);
                let place = frame.map(|frame| frame.place.clone());
                let name = inputs.cameras().get(camera).map_or("", |camera| camera.topic.name.as_str()).to_owned();
                if let Some(place) = place {
                    faults.into_iter().for_each(|reason| problems.on(&name, &place, reason));
                }
                return Ok(());
            }
            Some(Delivery::Outcome(mut outcome)) => {
                let used = outcome.observation.views.iter().enumerate().filter(|(_, view)| view.is_some());
                used.for_each(|(camera, _)| inputs.decoded(camera, None, now));
                if let Some(recording) = &mut self.recording {
                    recording.answered(&mut outcome, now)?;
                }
                (Chosen::from(outcome.observation.as_ref()), Some((*outcome).into()))
            }
            None => (ended.chosen, None),
        };
        let observation = ended.observation;
        self.findings.answers.push(Answer { chosen, began: ended.began, published: now.stamp, observation, inferred });
        Ok(())
    }

    /// Takes note of a change of health, and once a second of the counts.
    fn note(&mut self, at: Stamp, health: Health) {
        let span = self.findings.span.get_or_insert((at, at));
        span.1 = at;
        let is_new = self
            .findings
            .health
            .last()
            .is_none_or(|(_, last)| last.may_act != health.may_act || last.level != health.level);
        if is_new {
            self.findings.health.push((at, health));
        }
        if at >= self.next_second {
            self.look();
            self.next_second = Stamp { nanos: at.nanos.saturating_add(SECOND_NS) };
        }
    }

    fn look(&mut self) {
        let Some((_, at)) = self.findings.span else { return };
        let counts = self.policy_loop.inputs.cameras().iter().map(CameraCounts::of).collect();
        self.findings.seconds.push((at, counts));
    }
}
