//! Every input of a deployment, and the rule for when they make an observation.
//!
//! An observation is the newest set of frames, one from each camera, whose stamps lie within `sync.tolerance_ms` of each
//! other and which no observation has used before; the robot's state at the newest of those stamps; and the instruction.
//! Nothing in it is older than its `max_age_ms`, by its stamp or by its receipt, and nothing lies in the future. A
//! camera that is not required is left out once it is too old; state that is not required is then held. An invalid
//! message is dropped and leaves the latest valid one in place.

use super::camera::{Camera, CameraState};
use super::instruction::{Instruction, Origin};
use super::pace::Pace;
use super::selection::{Selection, View};
use super::state::{self, Freshness, Reading, State};
use super::sync;
use super::time::{JumpDetector, Now};
use super::topic::Topic;
use crate::config::Config;
use crate::error::InputError;
use crate::pipeline::StateSpec;
use crate::types::{EncodedImage, Stamp, Stamped};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// All inputs of a deployment.
#[derive(Debug)]
pub struct Inputs {
    cameras: Vec<Camera>,
    state: Vec<State>,
    instruction: Instruction,
    domain_id: i64,
    tolerance: Duration,
    /// The pace at which observations are made.
    pub pace: Pace,
    jumps: JumpDetector,
    time_jumps: u64,
    /// When it jumped lately, at most [`MANY_JUMPS`] times.
    latest_jumps: VecDeque<Instant>,
    /// Since when required cameras have made sets that an optional camera has no frame for.
    optional_missing_since: Option<Instant>,
    /// Since when every required camera has had a frame and none match.
    unmatched_since: Option<Instant>,
    /// Since when frames of required cameras have waited without a set being made of them.
    stalled_since: Option<Instant>,
    /// Cameras that send and of which the latest observation holds no frame, because none belongs to the others'.
    left_out: Vec<bool>,
    /// The skew of the latest observation.
    last_skew: Option<Duration>,
    new_faults: Vec<String>,
    /// What keeps messages from arriving, in a person's words: publishers whose QoS does not fit.
    pub obstacles: Vec<String>,
    /// What helps against lost frames with this middleware at the moment, if that is known.
    pub loss_remedy: fn() -> Option<&'static str>,
}

/// Jumps of ROS time within [`JUMPS_PERIOD`] that are no bag which starts over.
const MANY_JUMPS: usize = 3;
const JUMPS_PERIOD: Duration = Duration::from_secs(5);

impl Inputs {
    /// The inputs that `config` names, none of which has come.
    pub fn new(config: &Config) -> Self {
        let states = state::topics_of(&config.proprio).into_iter();
        Self {
            cameras: config.cameras.iter().map(|camera| Camera::new(camera, &config.sync)).collect(),
            state: states.map(|(kind, name)| State::new(kind, &name, config)).collect(),
            instruction: Instruction::new(config.instruction.clone()),
            // A deployment without a domain does not start.
            domain_id: config.domain_id.unwrap_or_default(),
            tolerance: config.sync.tolerance,
            pace: Pace::new(config.policy.rate_hz),
            jumps: JumpDetector::default(),
            time_jumps: 0,
            latest_jumps: VecDeque::new(),
            optional_missing_since: None,
            unmatched_since: None,
            stalled_since: None,
            left_out: Vec::new(),
            last_skew: None,
            new_faults: Vec::new(),
            obstacles: Vec::new(),
            loss_remedy: || None,
        }
    }

    /// Takes note of the present. Returns how far ROS time has jumped, ms, if it has: everything that was stamped before
    /// is then forgotten, and what was made of it must be withdrawn.
    pub fn advance(&mut self, now: Now) -> Option<f64> {
        let by_ms = self.jumps.jumped_ms(now)?;
        self.time_jumps += 1;
        self.latest_jumps.truncate(MANY_JUMPS - 1);
        self.latest_jumps.push_front(now.at);
        self.cameras.iter_mut().for_each(Camera::clear);
        self.state.iter_mut().for_each(State::clear);
        (self.optional_missing_since, self.unmatched_since, self.stalled_since) = (None, None, None);
        Some(by_ms)
    }

    /// Takes a frame of camera `index`. `stamp` is the moment it shows; the time of receipt stands for it where the sender
    /// gave none.
    pub fn frame(&mut self, index: usize, image: EncodedImage, stamp: Option<Stamp>, now: Now) {
        let Some(camera) = self.cameras.get_mut(index) else { return };
        camera.topic.count(now);
        // Without ROS time nothing can be said about a stamp.
        if !now.has_begun() {
            camera.frames.skipped += 1;
            return;
        }
        if let Err(error) = camera.take_frame(image, stamp, now) {
            self.new_faults.extend(camera.topic.drop_invalid(&error, now));
        }
    }

    /// Notes that the image last used of camera `index` could be decoded, or why not.
    pub fn decoded(&mut self, index: usize, error: Option<&InputError>, now: Now) {
        if let Some(camera) = self.cameras.get_mut(index) {
            self.new_faults.extend(camera.decoded(error, now));
        }
    }

    /// Takes a message of state topic `index`. The time of receipt stands for a stamp that the sender did not give.
    pub fn state(&mut self, index: usize, reading: Reading, stamp: Option<Stamp>, now: Now) {
        let Some(state) = self.state.get_mut(index) else { return };
        state.topic.count(now);
        if !now.has_begun() {
            return;
        }
        if let Err(error) = state.take(reading, stamp, now) {
            self.new_faults.extend(state.topic.drop_invalid(&error, now));
        }
    }

    /// Whether every value of state topic `index` has come at least once.
    pub fn has_state(&self, index: usize, now: Now) -> bool {
        self.state.get(index).is_some_and(|state| !matches!(state.freshness(now), Freshness::Waiting { .. }))
    }

    /// Takes an instruction. A blank one is dropped.
    pub fn instruction(&mut self, text: String, origin: Origin, now: Now) {
        self.new_faults.extend(self.instruction.take(text, origin, now));
    }

    /// Puts an instruction in the place of what was said on the topic; `None` to wait for one again.
    pub fn instruct(&mut self, text: Option<String>) {
        self.instruction.replace(text);
    }

    /// Holds state that a deployment leaves to the checkpoint to what the checkpoint takes.
    pub fn expect_state(&mut self, spec: &StateSpec) {
        self.state.iter_mut().for_each(|state| state.expect(spec));
    }

    /// Drops frames that are too old to be used.
    pub fn drop_old(&mut self, now: Now) {
        self.cameras.iter_mut().for_each(|camera| camera.drop_old(now));
    }

    /// The observation to infer on, if there is one and the pace asks for it. Its frames then count as used.
    pub fn observe(&mut self, now: Now) -> Option<Selection> {
        self.drop_old(now);
        if !now.has_begun() || !self.pace.is_due(now.at) {
            return None;
        }
        let instruction = self.instruction.text()?.to_owned();
        let some_wait = self.cameras.iter().any(|camera| camera.is_required() && camera.waiting() > 0);
        self.stalled_since = self.stalled_since.or(Some(now.at)).filter(|_| some_wait);
        let set = self.choose_frames(now)?;
        let (reference, oldest) = (set.iter().flatten().copied().max()?, set.iter().flatten().copied().min()?);
        let state = self.state.iter().map(|state| state.at(reference, now)).collect::<Option<_>>()?;
        let take = |(camera, stamp): (&mut Camera, &Option<Stamp>)| {
            let image: Stamped<EncodedImage> = camera.use_frame((*stamp)?)?;
            Some(View { topic: camera.topic.name.clone(), settings: camera.view(), image })
        };
        let views = self.cameras.iter_mut().zip(&set).map(take).collect();
        let is_left_out =
            |(camera, stamp): (&Camera, &Option<Stamp>)| stamp.is_none() && camera.state(now) == CameraState::Fresh;
        self.left_out = self.cameras.iter().zip(&set).map(is_left_out).collect();
        self.pace.begun(now.at);
        self.stalled_since = None;
        self.last_skew = Some(Duration::from_nanos(reference.nanos.abs_diff(oldest.nanos)));
        Some(Selection { views, state, instruction, domain_id: self.domain_id })
    }

    /// The stamps of the frames to use, one per camera, `None` for a camera that is left out.
    fn choose_frames(&mut self, now: Now) -> Option<Vec<Option<Stamp>>> {
        let lines: Vec<Vec<Stamp>> = self.cameras.iter().map(|camera| camera.stamps(now)).collect();
        let is_required = self.required(now);
        let required: Vec<Vec<Stamp>> =
            lines.iter().zip(&is_required).filter(|(_, required)| **required).map(|(line, _)| line.clone()).collect();
        let all_have_come = !required.is_empty() && required.iter().all(|line| !line.is_empty());
        let Some(chosen) = sync::newest_set(&required, self.tolerance) else {
            self.unmatched_since = self.unmatched_since.or(Some(now.at)).filter(|_| all_have_come);
            return None;
        };
        self.unmatched_since = None;
        let chosen: Vec<Stamp> =
            required.iter().zip(chosen).filter_map(|(line, index)| line.get(index).copied()).collect();
        let (oldest, newest) = (chosen.iter().min().copied()?, chosen.iter().max().copied()?);

        let mut chosen = chosen.into_iter();
        let join = |camera: &Camera, line: &[Stamp]| {
            let at = sync::joining(line, oldest, newest, self.tolerance).filter(|_| !camera.rests(now))?;
            line.get(at).copied()
        };
        let each = self.cameras.iter().zip(&lines).zip(&is_required);
        let set: Vec<Option<Stamp>> =
            each.map(|((camera, line), required)| if *required { chosen.next() } else { join(camera, line) }).collect();
        (self.is_complete(&set, now) && !self.is_about_to_be_beaten(&set, now)).then_some(set)
    }

    /// Which cameras a set needs: those that are required, or all that are fresh if none is.
    fn required(&self, now: Now) -> Vec<bool> {
        let any = self.cameras.iter().any(Camera::is_required);
        let needed = |camera: &Camera| if any { camera.is_required() } else { camera.state(now) == CameraState::Fresh };
        self.cameras.iter().map(needed).collect()
    }

    /// Whether no optional camera that is fresh is missing from `set`, or has been missing for so long that sets go on
    /// without it.
    fn is_complete(&mut self, set: &[Option<Stamp>], now: Now) -> bool {
        let missing = self.cameras.iter().zip(set).filter(|(camera, stamp)| {
            stamp.is_none() && !camera.is_required() && camera.state(now) == CameraState::Fresh
        });
        let patience = missing.map(|(camera, _)| camera.max_age().unwrap_or_default()).max();
        let Some(patience) = patience else {
            self.optional_missing_since = None;
            return true;
        };
        let since = *self.optional_missing_since.get_or_insert(now.at);
        now.at.saturating_duration_since(since) > patience
    }

    /// Whether a camera is about to send a frame that matches the newest of `set` better than its own does.
    fn is_about_to_be_beaten(&self, set: &[Option<Stamp>], now: Now) -> bool {
        let Some(newest) = set.iter().flatten().max() else { return false };
        let each = self.cameras.iter().zip(set).filter_map(|(camera, stamp)| Some((camera, (*stamp)?)));
        each.filter(|(_, stamp)| stamp < newest).any(|(camera, stamp)| camera.is_about_to_beat(stamp, *newest, now))
    }

    /// Corrects the counts of used frames: no inference began on `replaced`.
    pub fn superseded(&mut self, replaced: &Selection) {
        let used = self.cameras.iter_mut().zip(&replaced.views).filter(|(_, view)| view.is_some());
        used.for_each(|(camera, _)| camera.superseded());
    }

    /// Names of the inputs that have no valid value yet.
    pub fn waiting_for(&self, now: Now) -> Vec<String> {
        let silent = |camera: &&Camera| camera.is_required() && camera.state(now) == CameraState::Waiting;
        let cameras = self.cameras.iter().filter(silent).map(|camera| camera.topic.name.clone());
        let state = self.state.iter().filter_map(|state| match state.freshness(now) {
            Freshness::Waiting { joints } => Some(with_joints(&state.topic.name, &joints)),
            _ => None,
        });
        let instruction = self.instruction.text().is_none().then(|| self.instruction.topic.name.clone());
        cameras.chain(state).chain(instruction).collect()
    }

    /// How far apart the required cameras' frames are, if that has kept every set from being made for over a second.
    pub fn mismatch(&self, now: Now) -> Option<Duration> {
        let since = self.unmatched_since?;
        let lines: Vec<Vec<Stamp>> =
            self.cameras.iter().filter(|camera| camera.is_required()).map(|camera| camera.stamps(now)).collect();
        let is_lasting = now.at.saturating_duration_since(since) > Duration::from_secs(1);
        sync::smallest_span(&lines).filter(|span| is_lasting && *span > self.tolerance)
    }

    /// How long frames of some cameras have waited for those of others, if that is long, and the topics of which nothing new
    /// has come meanwhile.
    pub fn stalled(&self, now: Now) -> Option<(Duration, Vec<&str>)> {
        const LONG: Duration = Duration::from_secs(2);
        let waited = now.at.saturating_duration_since(self.stalled_since?);
        let missing = self.cameras.iter().filter(|camera| camera.is_required() && camera.waiting() == 0);
        (waited > LONG).then(|| (waited, missing.map(|camera| camera.topic.name.as_str()).collect()))
    }

    /// The cameras that send and of which the latest observation holds no frame.
    pub fn left_out(&self) -> impl Iterator<Item = &Camera> {
        self.cameras.iter().zip(&self.left_out).filter(|(_, left_out)| **left_out).map(|(camera, _)| camera)
    }

    /// The cameras, in the order of views.
    pub fn cameras(&self) -> &[Camera] {
        &self.cameras
    }

    /// The topics of the state, in the order of channels.
    pub fn states(&self) -> &[State] {
        &self.state
    }

    /// Writes the robot's state of the present into `out`, in the checkpoint's order of channels, up to the first topic of
    /// which nothing usable has come.
    pub fn measured(&self, now: Now, out: &mut Vec<f32>) {
        out.clear();
        let known = self.state.iter().map_while(|state| state.at(now.stamp, now));
        known.for_each(|topic| out.extend(topic.value));
    }

    /// The instruction that holds.
    pub fn instruction_text(&self) -> Option<&str> {
        self.instruction.text()
    }

    /// Largest difference between the stamps of the frames of one observation.
    pub fn tolerance(&self) -> Duration {
        self.tolerance
    }

    /// The difference between the stamps of the frames of the latest observation.
    pub fn last_skew(&self) -> Option<Duration> {
        self.last_skew
    }

    /// How often ROS time has jumped.
    pub fn time_jumps(&self) -> u64 {
        self.time_jumps
    }

    /// Whether ROS time has jumped so often of late that it is no time.
    pub fn has_no_time(&self, now: Now) -> bool {
        let earliest = self.latest_jumps.get(MANY_JUMPS - 1);
        earliest.is_some_and(|at| now.at.saturating_duration_since(*at) < JUMPS_PERIOD)
    }

    /// Every topic: the cameras', the state's, then the instruction's.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        let cameras = self.cameras.iter().map(|camera| &camera.topic);
        let state = self.state.iter().map(|state| &state.topic);
        cameras.chain(state).chain([&self.instruction.topic])
    }

    /// Whether a different instruction has replaced the previous one since the last call.
    pub fn take_instruction_changed(&mut self) -> bool {
        self.instruction.take_changed()
    }

    /// New faults since the last call: a reason is left out if the topic's previous fault had the same one.
    pub fn take_new_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new_faults)
    }
}

/// A topic's name, with the joints that something is said of.
pub(super) fn with_joints(topic: &str, joints: &[String]) -> String {
    if joints.is_empty() { topic.to_owned() } else { format!("{topic} ({})", joints.join(", ")) }
}
