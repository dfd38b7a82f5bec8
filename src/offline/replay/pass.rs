//! One pass over a bag: a node's turns in recorded time, with a simulated inference thread.

use super::answer::{Answer, Chosen};
use super::evidence::Moved;
use super::feed::{Arrival, Content};
use super::played::Played;
use super::playing::Playing;
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
use crate::types::{Observation, Stamp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time between two turns of a node that nothing wakes, ns.
const TURN_NS: i64 = 10_000_000;
/// Silence after which nothing changes any more, ns: every input is too old by then.
const SILENCE_NS: i64 = 60_000_000_000;
/// How far an inference that a control wants may be from the one that is known to have been made for it, ns.
const WISH_NS: i64 = 50_000_000;
/// The time between two looks at the counts.
const SECOND: Duration = Duration::from_secs(1);
/// Frames whose places are remembered.
const PLACES: usize = 1024;

/// What a pass has found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// ROS time when it was known first.
    pub start: Option<Stamp>,
    /// The first and the last moment at which a message came, on the recorder's clock.
    pub moments: Option<(Stamp, Stamp)>,
    /// The time between them.
    pub recorded: Duration,
    /// Every observation that was answered, in the order of publication.
    pub answers: Vec<Answer>,
    /// What became of the others.
    pub counts: Counts,
    /// What became of the frames of each camera.
    pub cameras: Vec<CameraCounts>,
    /// The counts of the cameras, once a second, at times after the first moment.
    pub seconds: Vec<(Duration, Vec<CameraCounts>)>,
    /// When the inputs became good or bad, after the first moment, and why.
    pub health: Vec<(Duration, Health)>,
    /// Messages that were taken at another moment than that of their record, because chunks tell when the node had them.
    pub moved: Moved,
    /// How often ROS time jumped.
    pub time_jumps: u64,
    /// Messages that the inputs have taken or refused.
    pub messages: u64,
    /// The stamps of all frames in the bag, one list per camera, in order.
    pub frames: Vec<Vec<Stamp>>,
    /// What was commanded; `None` where chunks are only published.
    pub played: Option<Played>,
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

/// What the model saw at a moment that is kept.
#[derive(Debug)]
pub struct Kept {
    /// What was chosen then.
    pub chosen: Chosen,
    /// The observation.
    pub observation: Arc<Observation>,
}

/// Where a camera's frame stands.
struct FramePlace {
    camera: usize,
    stamp: Stamp,
    place: Place,
    /// The topic's index in the bag.
    topic: usize,
}

/// A pass that is under way.
pub struct Pass<'p> {
    /// The names of the bag's topics.
    topics: Vec<String>,
    policy_loop: PolicyLoop,
    simulation: Simulation<'p>,
    /// What plays the plans; `None` where chunks are only published.
    playing: Option<Playing>,
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
    /// Turns in which the node is known to have chosen an observation, those that are to come.
    known_turns: VecDeque<Stamp>,
    /// How long before a known turn an inference that is due is taken for that turn's, ns: half the time between two at the
    /// pace of the deployment; 0 without a rate.
    early_ns: i64,
    /// A known turn whose messages are being taken.
    open: Option<Stamp>,
    next_tick: Stamp,
    next_second: Duration,
    /// Where the latest frames stand.
    places: VecDeque<FramePlace>,
    /// Observations that were asked for and not yet taken.
    kept: Vec<Kept>,
    findings: Findings,
}

impl<'p> Pass<'p> {
    /// A pass of the deployment of `config` with its `inputs`. `sim_time` says that ROS time is simulated; inferences begin
    /// `from` after the first moment, and what a node would publish goes into `recording`. `topics` are those of the bag.
    pub fn new(
        config: &Config,
        topics: Vec<String>,
        inputs: Inputs,
        simulation: Simulation<'p>,
        sim_time: bool,
        from: Duration,
        recording: Option<Recording>,
    ) -> Self {
        let frames = vec![Vec::new(); config.cameras.len()];
        Self {
            topics,
            from,
            recording,
            policy_loop: PolicyLoop::new(config, inputs),
            simulation,
            playing: None,
            base: Instant::now(),
            start: None,
            sim_time: sim_time.then_some(None),
            known_turns: VecDeque::new(),
            early_ns: if config.policy.rate_hz > 0.0 { (0.5e9 / config.policy.rate_hz) as i64 } else { 0 },
            open: None,
            next_tick: Stamp::default(),
            next_second: Duration::ZERO,
            places: VecDeque::new(),
            kept: Vec::new(),
            findings: Findings { frames, ..Findings::default() },
        }
    }

    fn topic(&self, index: usize) -> &str {
        self.topics.get(index).map_or("", String::as_str)
    }

    /// Takes `turns` for those in which the node is known to have chosen an observation.
    pub fn follow(&mut self, turns: impl Iterator<Item = Stamp>) {
        self.known_turns = turns.collect();
    }

    /// Plays the plans with `playing`, and infers when it wants one.
    pub fn play(&mut self, playing: Playing) {
        self.simulation.plan_for(playing.control().clone());
        self.playing = Some(playing);
        self.early_ns = self.early_ns.max(WISH_NS);
    }

    /// Takes a message at its moment, after everything that happens before.
    ///
    /// # Errors
    /// The recording cannot be written.
    pub fn take(&mut self, due: Due, problems: &mut Problems) -> Result<(), DatasetError> {
        let Due { at, late_ms, arrival } = due;
        self.findings.moments.get_or_insert((at, at)).1 = at;
        if self.start.is_none() {
            (self.start, self.next_tick) = (Some(at), at);
            let from_ns = i64::try_from(self.from.as_nanos()).unwrap_or(i64::MAX);
            self.simulation.wait_until(Stamp { nanos: at.nanos.saturating_add(from_ns) });
            self.playing.iter_mut().for_each(|playing| playing.begin(at));
        }
        self.close(Some(at), problems)?;
        self.advance_to(at, problems)?;
        if late_ms > 0.0 {
            let reason = format!("{late_ms:.3} ms before the message in front of it");
            problems.on(self.topic(arrival.topic), &arrival.place, reason);
        }
        let (place, topic) = (arrival.place.clone(), arrival.topic);
        self.arrive(at, arrival);
        if self.known_turns.front() == Some(&at) {
            // What arrives for one turn of the node is taken in one.
            self.open = Some(at);
        } else {
            self.turn(at, problems)?;
        }
        for reason in self.policy_loop.inputs.take_new_faults() {
            problems.on(self.topic(topic), &place, reason);
        }
        Ok(())
    }

    /// What the model saw at the moments that are kept, as far as it is known and was not taken before.
    pub fn take_kept(&mut self) -> impl Iterator<Item = Kept> + use<> {
        std::mem::take(&mut self.kept).into_iter()
    }

    /// Ends what is under way, as if no time passed for the inputs: what a node makes of their silence is nothing that the
    /// bag shows.
    ///
    /// # Errors
    /// The recording cannot be written.
    pub fn end(&mut self, problems: &mut Problems) -> Result<(), DatasetError> {
        self.close(None, problems)?;
        if let Some((_, last)) = self.findings.moments {
            self.tick_until(Stamp { nanos: last.nanos.saturating_add(1) })?;
        }
        while let Some(end) = self.simulation.next_end() {
            let now = self.now(end);
            self.simulation.set_now(end, now.stamp);
            if let Some(ended) = self.simulation.end_next() {
                self.ended(ended, now, problems)?;
            }
        }
        self.recording.take().map_or(Ok(()), Recording::finish)
    }

    /// What was found.
    pub fn findings(mut self) -> Findings {
        self.findings.frames.iter_mut().for_each(|stamps| stamps.sort_unstable());
        if let Some((first, last)) = self.findings.moments {
            self.findings.recorded = Duration::from_nanos(last.nanos.abs_diff(first.nanos));
        }
        self.look(self.findings.recorded);
        let inputs = &self.policy_loop.inputs;
        self.findings.cameras = inputs.cameras().iter().map(CameraCounts::of).collect();
        self.findings.time_jumps = inputs.time_jumps();
        self.findings.counts = self.simulation.counts();
        self.findings.played = self.playing.map(Playing::played);
        self.findings
    }

    /// Takes the turn that is open, unless the next message arrives in it as well, at `next`.
    fn close(&mut self, next: Option<Stamp>, problems: &mut Problems) -> Result<(), DatasetError> {
        match self.open.take_if(|open| Some(*open) != next) {
            Some(at) => self.turn(at, problems),
            None => Ok(()),
        }
    }

    /// Takes the turns in which nothing arrives: those of a node that waits, and those in which an inference ends.
    fn advance_to(&mut self, at: Stamp, problems: &mut Problems) -> Result<(), DatasetError> {
        if at.nanos.saturating_sub(self.next_tick.nanos) > 2 * SILENCE_NS {
            self.advance_to(Stamp { nanos: self.next_tick.nanos + SILENCE_NS }, problems)?;
            self.next_tick = at;
            self.playing.iter_mut().for_each(|playing| playing.skip_to(at));
        }
        loop {
            let end = self.simulation.next_end();
            let others = end.into_iter().chain(self.known_turns.front().copied());
            let next = others.fold(self.next_tick, Stamp::min);
            // What arrives at the same moment arrives first.
            let is_over = next > at || (next == at && end != Some(at));
            self.tick_until(next.min(at))?;
            if is_over {
                return Ok(());
            }
            self.turn(next, problems)?;
        }
    }

    fn now(&self, at: Stamp) -> Now {
        Now { stamp: self.sim_time.map_or(at, Option::unwrap_or_default), at: self.steady(at) }
    }

    /// A moment on the steady clock.
    fn steady(&self, at: Stamp) -> Instant {
        let since = at.nanos.saturating_sub(self.start.unwrap_or(at).nanos);
        self.base + Duration::from_nanos(u64::try_from(since).unwrap_or(0))
    }

    /// Sends what the ticks before `moment` have. A tick at the moment of a turn comes after it.
    fn tick_until(&mut self, moment: Stamp) -> Result<(), DatasetError> {
        while let Some(at) = self.playing.as_mut().and_then(|playing| playing.next_before(moment)) {
            let now = self.now(at);
            let since_start = now.at.saturating_duration_since(self.base);
            let sent = self.playing.as_mut().and_then(|playing| playing.tick(now, since_start));
            if let Some(recording) = &mut self.recording {
                recording.ticked(sent.as_ref(), now)?;
            }
        }
        Ok(())
    }

    /// Takes a message into the inputs.
    fn arrive(&mut self, at: Stamp, arrival: Arrival) {
        if let Content::Clock(stamp) = &arrival.content {
            self.sim_time = self.sim_time.map(|_| Some(*stamp));
        }
        let now = self.now(at);
        self.simulation.set_now(at, now.stamp);
        self.policy_loop.advance(now, &mut self.simulation);
        self.feed(arrival, now);
    }

    /// What a node does after every wait for messages.
    fn turn(&mut self, at: Stamp, problems: &mut Problems) -> Result<(), DatasetError> {
        let now = self.now(at);
        self.next_tick = Stamp { nanos: at.nanos.saturating_add(TURN_NS) };
        self.simulation.set_now(at, now.stamp);
        self.policy_loop.advance(now, &mut self.simulation);
        while let Some(ended) = self.simulation.end_next() {
            self.ended(ended, now, problems)?;
        }
        self.policy_loop.follow_instruction(&mut self.simulation);
        let health = Health::of_inputs(&self.policy_loop.inputs, now);
        let is_halted = self.watch(&health, now);
        let mut is_known = false;
        while self.known_turns.front().is_some_and(|turn| *turn <= at) {
            is_known = self.known_turns.pop_front().is_some();
        }
        if is_known {
            // That it was due is known, whatever the pace.
            self.policy_loop.inputs.pace.ask();
        }
        let is_next = |turn: &Stamp| turn.nanos.saturating_sub(at.nanos) < self.early_ns;
        // An inference that is due now and known to have begun a moment later is the same one.
        let is_early = !is_known && self.known_turns.front().is_some_and(is_next);
        if !(is_halted || is_early && health.may_act) {
            self.policy_loop.infer(now, &health, &mut self.simulation);
        }
        if is_known {
            self.policy_loop.inputs.pace.forget();
        }
        if let Some(recording) = &mut self.recording {
            recording.turn(&self.policy_loop.inputs, &health, self.simulation.counts(), now)?;
        }
        if now.has_begun() {
            self.note(now, health);
        }
        Ok(())
    }

    /// Tells the control what the rest of the node is like. Returns whether the robot is stopped.
    fn watch(&mut self, health: &Health, now: Now) -> bool {
        let busy = self.simulation.busy_since().map(|since| self.steady(since));
        let Some(playing) = &mut self.playing else { return false };
        playing.watch(&self.policy_loop.inputs, health, busy, self.simulation.lost_backend(), now);
        playing.is_halted()
    }

    fn feed(&mut self, arrival: Arrival, now: Now) {
        self.findings.messages += 1;
        let inputs = &mut self.policy_loop.inputs;
        match arrival.content {
            Content::Frame(camera, image) => {
                let stamp = arrival.stamp.unwrap_or(now.stamp);
                self.findings.frames.get_mut(camera).into_iter().for_each(|stamps| stamps.push(stamp));
                self.places.truncate(PLACES - 1);
                self.places.push_front(FramePlace { camera, stamp, place: arrival.place, topic: arrival.topic });
                inputs.frame(camera, image, arrival.stamp, now);
            }
            Content::State(index, reading) => inputs.state(index, reading, arrival.stamp, now),
            Content::Instruction(text) => inputs.instruction(text, Origin::Volatile, now),
            Content::Clock(_) | Content::Chunk(_) | Content::Latency(_) | Content::Command(_) | Content::Loaded(_) => {}
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
                if let Some(frame) = frame {
                    let name = self.topics.get(frame.topic).map_or("", String::as_str);
                    faults.into_iter().for_each(|reason| problems.on(name, &frame.place, reason));
                }
                return Ok(());
            }
            Some(Delivery::Outcome(mut outcome)) => {
                let used = outcome.observation.views.iter().enumerate().filter(|(_, view)| view.is_some());
                used.for_each(|(camera, _)| inputs.decoded(camera, None, now));
                if let Some(playing) = &mut self.playing {
                    match &outcome.result {
                        Ok(inference) => {
                            playing.inferred((&outcome.observation, &outcome.measured), inference, now.stamp)
                        }
                        Err(error) => playing.failed(&error.to_string()),
                    }
                }
                if let Some(recording) = &mut self.recording {
                    recording.answered(&mut outcome, now)?;
                }
                (Chosen::from(outcome.observation.as_ref()), Some((*outcome).into()))
            }
            None => (ended.chosen, None),
        };
        self.kept.extend(ended.observation.map(|observation| Kept { chosen: chosen.clone(), observation }));
        let since_start = now.at.saturating_duration_since(self.base);
        let (number, began, published) = (ended.number, ended.began, now.stamp);
        self.findings.answers.push(Answer { number, chosen, since_start, began, published, inferred });
        Ok(())
    }

    /// Takes note of a change of health, and once a second of the counts.
    fn note(&mut self, now: Now, health: Health) {
        self.findings.start.get_or_insert(now.stamp);
        let since_start = now.at.saturating_duration_since(self.base);
        let is_new = self
            .findings
            .health
            .last()
            .is_none_or(|(_, last)| last.may_act != health.may_act || last.level != health.level);
        if is_new {
            self.findings.health.push((since_start, health));
        }
        if since_start >= self.next_second {
            self.look(since_start);
            self.next_second = since_start.saturating_add(SECOND);
        }
    }

    fn look(&mut self, since_start: Duration) {
        let counts = self.policy_loop.inputs.cameras().iter().map(CameraCounts::of).collect();
        self.findings.seconds.push((since_start, counts));
    }
}
