//! The robot's state: joints merged by name over any number of publishers, poses of end effectors, or channels that the
//! sender has put into order. Each is looked up at the moment that the cameras show.

use super::history::{Found, History};
use super::time::{Now, stamps_lag};
use super::topic::Topic;
use crate::config::{Config, JointConfig, JointUnit, Named, ProprioConfig, ProprioFeed, ProprioSource, RotationLayout};
use crate::error::{InputError, listed};
use crate::pipeline::{StateSpec, StateWidth};
use crate::transform::rotation::Quaternion;
use crate::transform::state::{EE6D_ARM, check_finite, ee6d_arm};
use crate::types::{Stamp, Stamped};
use std::time::{Duration, Instant};

/// A message about the robot's state, as it was sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    /// Positions of joints, rad or m, by name: sensor_msgs/JointState.
    Joints {
        /// The joints' names.
        names: Vec<String>,
        /// One position per name.
        positions: Vec<f64>,
    },
    /// The pose of an end effector: geometry_msgs/PoseStamped.
    Pose {
        /// The frame in which the pose is given.
        frame_id: String,
        /// Position, m.
        position_m: [f64; 3],
        /// Orientation, xyzw.
        orientation: Quaternion,
    },
    /// Channels in the checkpoint's order: std_msgs/Float32MultiArray, or std_msgs/Float32 for a gripper.
    Channels(Vec<f32>),
}

/// What a topic of the robot's state carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Positions of joints.
    Joints,
    /// The pose of an end effector.
    Pose,
    /// The opening of a gripper.
    Gripper,
    /// Channels in the checkpoint's order.
    Channels,
}

/// The topics of the robot's state in the order in which their channels are concatenated; none if nothing that the robot
/// measures is used.
pub fn topics_of(config: &ProprioConfig) -> Vec<(Kind, String)> {
    match config.source {
        _ if config.feed == Some(ProprioFeed::Zeros) && !config.measure => Vec::new(),
        ProprioSource::JointStates => vec![(Kind::Joints, "joint_states".to_owned())],
        ProprioSource::Proprio => vec![(Kind::Channels, "proprio".to_owned())],
        ProprioSource::EePose if config.arms.is_empty() => {
            vec![(Kind::Pose, "ee_pose".to_owned()), (Kind::Gripper, "gripper".to_owned())]
        }
        ProprioSource::EePose => {
            let arm =
                |arm: &String| [(Kind::Pose, format!("{arm}/ee_pose")), (Kind::Gripper, format!("{arm}/gripper"))];
            config.arms.iter().flat_map(arm).collect()
        }
    }
}

/// Channels that the robot's state has; `None` where they are left to the checkpoint.
pub fn channels_of(config: &ProprioConfig) -> Option<usize> {
    match config.source {
        _ if config.feed == Some(ProprioFeed::Zeros) => None,
        ProprioSource::JointStates => Some(config.joints.len()),
        ProprioSource::EePose => Some(EE6D_ARM * config.arms.len().max(1)),
        ProprioSource::Proprio => None,
    }
}

/// Whether the last value of a topic holds until the next, so that a publisher may keep it for latecomers.
pub fn is_latched(kind: Kind, config: &ProprioConfig) -> bool {
    match kind {
        Kind::Gripper => config.gripper.latched,
        Kind::Joints => config.latched || config.joints.iter().any(|joint| joint.settings.latched),
        Kind::Pose | Kind::Channels => config.latched,
    }
}

/// Joints that a complaint names.
const STRANGERS_NAMED: usize = 8;
/// The shortest time between two such messages that are looked at.
const STRANGERS_PERIOD: Duration = Duration::from_secs(1);
/// How long a message that names other joints is remembered.
const STRANGERS_REMEMBERED: Duration = Duration::from_secs(5);

/// How old a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limits {
    /// Both by receipt and from the reference; `None` for any age.
    max_age: Option<Duration>,
    /// Whether the last value holds until the next, however old it is.
    latched: bool,
    /// Whether the policy stops when the value is too old.
    required: bool,
}

/// One topic of the robot's state.
#[derive(Debug)]
pub struct State {
    /// The counts of its topic.
    pub topic: Topic,
    limits: Limits,
    /// The frame in which poses must be given; `None` for any.
    frame_id: Option<String>,
    /// How rotations become channels.
    layout: RotationLayout,
    content: Content,
    /// The latest message that names no joint of these: when it came, and what it names.
    strangers: Option<(Instant, String)>,
}

#[derive(Debug)]
enum Content {
    Joints(Vec<Joint>),
    Pose(History<Pose>),
    Channels { field: &'static str, width: Width, scaling: Scaling, history: History<Vec<f32>> },
}

/// How a value becomes a channel: multiplied, then added to.
#[derive(Clone, Copy, Debug)]
struct Scaling {
    scale: f64,
    offset: f64,
}

impl Scaling {
    const NONE: Self = Self { scale: 1.0, offset: 0.0 };

    fn apply(self, value: f32) -> f32 {
        (f64::from(value) * self.scale + self.offset) as f32
    }
}

/// How many channels a message has.
#[derive(Debug)]
enum Width {
    /// This many: those of a gripper, or of the first message.
    Exactly(usize),
    /// What the checkpoint takes.
    OfCheckpoint(StateWidth),
    /// Any number; the first message decides.
    Open,
}

#[derive(Debug)]
struct Joint {
    name: String,
    settings: JointConfig,
    history: History<f64>,
}

#[derive(Clone, Copy, Debug)]
struct Pose {
    position_m: [f64; 3],
    orientation: Quaternion,
}

/// Whether a state can be acted on.
#[derive(Clone, Debug, PartialEq)]
pub enum Freshness {
    /// It is as fresh as it must be, or holds until the next.
    Fresh,
    /// Nothing has come yet, of a joint or of all.
    Waiting {
        /// The joints that nothing has come of, unless it is all.
        joints: Vec<String>,
    },
    /// It is too old.
    TooOld {
        /// The joints that are too old, unless it is all.
        joints: Vec<String>,
        /// Time since the last value, seconds.
        seconds: f64,
    },
    /// Messages come, and their stamps are too old.
    Behind {
        /// Age of the newest stamp, seconds.
        seconds: f64,
    },
}

impl State {
    /// The topic `name` of a state, on which nothing has been received.
    pub fn new(kind: Kind, name: &str, deployment: &Config) -> Self {
        let (config, frame_id) = (&deployment.proprio, deployment.frame_id.as_str());
        let gripper = (config.gripper.max_age, config.gripper.latched);
        let (max_age, latched) = if kind == Kind::Gripper { gripper } else { (config.max_age, config.latched) };
        let joint = |joint: &Named<JointConfig>| Joint {
            name: joint.name.clone(),
            settings: joint.settings,
            history: History::default(),
        };
        Self {
            topic: Topic::new(name),
            limits: Limits { max_age, latched, required: config.required },
            frame_id: Some(without_slash(frame_id).to_owned()).filter(|frame_id| !frame_id.is_empty()),
            // A deployment whose poses go in does not start without a layout.
            layout: deployment.rotation_6d.unwrap_or(RotationLayout::Columns),
            content: match kind {
                Kind::Joints => Content::Joints(config.joints.iter().map(joint).collect()),
                Kind::Pose => Content::Pose(History::default()),
                Kind::Gripper => Content::Channels {
                    field: "gripper",
                    width: Width::Exactly(1),
                    scaling: Scaling { scale: config.gripper.scale, offset: config.gripper.offset },
                    history: History::default(),
                },
                Kind::Channels => Content::Channels {
                    field: "proprio",
                    width: Width::Open,
                    scaling: Scaling::NONE,
                    history: History::default(),
                },
            },
            strangers: None,
        }
    }

    /// Holds a topic that leaves its channels to the checkpoint to what the checkpoint takes.
    pub fn expect(&mut self, spec: &StateSpec) {
        if let Content::Channels { width: width @ Width::Open, .. } = &mut self.content {
            *width = Width::OfCheckpoint(StateWidth::new(spec.clone()));
        }
    }

    /// Whether the policy stops when this state is too old.
    pub fn is_required(&self) -> bool {
        self.limits.required
    }

    /// Takes a message. A missing stamp is replaced by the time of receipt.
    ///
    /// # Errors
    /// Values that are not finite or not as many as expected, another frame, a stamp of another clock.
    pub(super) fn take(&mut self, reading: Reading, stamp: Option<Stamp>, now: Now) -> Result<(), InputError> {
        // Only joints and poses have a header.
        if stamp.is_none() && !matches!(self.content, Content::Channels { .. }) {
            self.topic.count_unstamped(now);
        }
        let stamp = stamp.unwrap_or(now.stamp);
        self.topic.check_stamp(stamp, now)?;
        match (&mut self.content, reading) {
            (Content::Joints(joints), Reading::Joints { names, positions }) => {
                // Others may publish on this topic as often as they like.
                let is_known = self
                    .strangers
                    .as_ref()
                    .is_some_and(|(at, _)| now.at.saturating_duration_since(*at) < STRANGERS_PERIOD);
                if !is_known && !names.is_empty() && !joints.iter().any(|joint| names.contains(&joint.name)) {
                    self.strangers = Some((now.at, listed(&names, STRANGERS_NAMED)));
                }
                take_joints(joints, &names, &positions, stamp, now)
            }
            (Content::Pose(history), Reading::Pose { frame_id, position_m, orientation }) => {
                check_frame(&self.topic.name, self.frame_id.as_deref(), &frame_id)?;
                ee6d_arm(position_m, &orientation, 0.0, self.layout)?;
                history.push(Pose { position_m, orientation }, stamp, now);
                Ok(())
            }
            (Content::Channels { field, width, scaling, history }, Reading::Channels(channels)) => {
                check_finite(field, &channels)?;
                width.check(field, &channels)?;
                history.push(channels.into_iter().map(|value| scaling.apply(value)).collect(), stamp, now);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Forgets values that are not latched, because ROS time has jumped.
    pub(super) fn clear(&mut self) {
        if self.limits.latched {
            return;
        }
        match &mut self.content {
            Content::Joints(joints) => {
                joints.iter_mut().filter(|joint| !joint.settings.latched).for_each(|joint| joint.history.clear());
            }
            Content::Pose(history) => history.clear(),
            Content::Channels { history, .. } => history.clear(),
        }
    }

    /// The channels at `reference`; `None` if a value is missing or too old. A latched value counts as of the reference.
    pub(super) fn at(&self, reference: Stamp, now: Now) -> Option<Stamped<Vec<f32>>> {
        let limits = self.limits;
        match &self.content {
            Content::Joints(joints) => {
                let found: Vec<Found<f64>> =
                    joints.iter().map(|joint| joint.at(reference, limits, now)).collect::<Option<_>>()?;
                let value = joints.iter().zip(&found).map(|(joint, found)| joint.channel(found.value)).collect();
                let oldest = found.iter().map(|found| found.stamp).min()?;
                Some(Stamped { value, stamp: oldest })
            }
            Content::Pose(history) => {
                let Found { value, stamp } =
                    limits.at(history, reference, now, |a, b, share| Some(between(a, b, share)))?;
                let [channels @ .., _gripper] =
                    ee6d_arm(value.position_m, &value.orientation, 0.0, self.layout).ok()?;
                Some(Stamped { value: channels.to_vec(), stamp })
            }
            Content::Channels { history, .. } => {
                // Nothing is known of these channels, so nothing is interpolated.
                let Found { value, stamp } = limits.at(history, reference, now, |_, _, _| None)?;
                Some(Stamped { value, stamp })
            }
        }
    }

    /// Whether this state can be acted on.
    pub fn freshness(&self, now: Now) -> Freshness {
        match &self.content {
            Content::Joints(joints) => {
                let limits_of =
                    |joint: &Joint| Limits { latched: self.limits.latched || joint.settings.latched, ..self.limits };
                let each =
                    joints.iter().map(|joint| (joint.name.as_str(), limits_of(joint).freshness(&joint.history, now)));
                worst(each)
            }
            Content::Pose(history) => self.limits.freshness(history, now),
            Content::Channels { history, .. } => self.limits.freshness(history, now),
        }
    }

    /// What to say of messages that name other joints than these, while nothing comes of any of these.
    pub fn strangers(&self, now: Now) -> Option<String> {
        let Content::Joints(joints) = &self.content else { return None };
        let (at, names) = self.strangers.as_ref()?;
        let is_of_all = match self.freshness(now) {
            Freshness::Waiting { joints } | Freshness::TooOld { joints, .. } => joints.is_empty(),
            Freshness::Fresh | Freshness::Behind { .. } => false,
        };
        if !is_of_all || now.at.saturating_duration_since(*at) > STRANGERS_REMEMBERED {
            return None;
        }
        let wanted: Vec<&str> = joints.iter().map(|joint| joint.name.as_str()).collect();
        let (topic, wanted) = (&self.topic.name, listed(&wanted, STRANGERS_NAMED));
        Some(format!("messages on {topic} name {names}, and none of {wanted} (proprio.joint_names)"))
    }

    /// Age of the newest stamp, ms, negative if it lies ahead; of the joint that is oldest.
    pub fn age_ms(&self, now: Now) -> Option<f64> {
        let newest = match &self.content {
            Content::Joints(joints) => joints.iter().map(|joint| joint.history.newest()).min()?,
            Content::Pose(history) => history.newest(),
            Content::Channels { history, .. } => history.newest(),
        };
        newest.map(|newest| now.stamp.ms_since(newest))
    }
}

impl Limits {
    fn at<T: Clone>(
        self,
        history: &History<T>,
        reference: Stamp,
        now: Now,
        mix: impl Fn(&T, &T, f64) -> Option<T>,
    ) -> Option<Found<T>> {
        let found = history.at(reference, self.max_age, mix)?;
        if self.latched {
            return Some(Found { stamp: reference, ..found });
        }
        let is_apart = self
            .max_age
            .is_some_and(|max_age| u128::from(reference.nanos.abs_diff(found.stamp.nanos)) > max_age.as_nanos());
        let is_fresh = self.freshness(history, now) == Freshness::Fresh;
        (!self.required || (is_fresh && !is_apart)).then_some(found)
    }

    fn freshness<T: Clone>(self, history: &History<T>, now: Now) -> Freshness {
        let (Some(newest), Some(received)) = (history.newest(), history.last_received()) else {
            return Freshness::Waiting { joints: Vec::new() };
        };
        let behind_ms = now.stamp.ms_since(newest);
        if self.latched {
            Freshness::Fresh
        } else if now.is_past(received, self.max_age) {
            let seconds = now.at.saturating_duration_since(received).as_secs_f64();
            Freshness::TooOld { joints: Vec::new(), seconds }
        } else if self.max_age.is_some_and(|max_age| behind_ms > max_age.as_secs_f64() * 1e3) {
            match self.max_age.is_some_and(|max_age| stamps_lag(newest, received, now, max_age)) {
                true => Freshness::Behind { seconds: behind_ms / 1e3 },
                false => Freshness::TooOld {
                    joints: Vec::new(),
                    seconds: now.at.saturating_duration_since(received).as_secs_f64(),
                },
            }
        } else {
            Freshness::Fresh
        }
    }
}

impl Width {
    fn check(&mut self, field: &'static str, state: &[f32]) -> Result<(), InputError> {
        let found = state.len();
        let expected = match self {
            Self::OfCheckpoint(width) => return width.check(state),
            Self::Exactly(expected) if *expected != found => format!("{expected} channels"),
            Self::Open if found == 0 => "at least 1 channel".to_owned(),
            Self::Exactly(_) | Self::Open => {
                *self = Self::Exactly(found);
                return Ok(());
            }
        };
        Err(InputError::Shape { field, expected, found: found.to_string() })
    }
}

impl Joint {
    fn at(&self, reference: Stamp, limits: Limits, now: Now) -> Option<Found<f64>> {
        let limits = Limits { latched: limits.latched || self.settings.latched, ..limits };
        limits.at(&self.history, reference, now, |a, b, share| {
            // A joint that turns without end steps from π to −π, and the middle of that step is nowhere near either.
            ((b - a).abs() <= std::f64::consts::PI).then(|| a + (b - a) * share)
        })
    }

    /// The channel of the state that a position, rad or m, becomes.
    fn channel(&self, position: f64) -> f32 {
        let in_unit = match self.settings.unit {
            JointUnit::Si => position,
            JointUnit::Degree => position.to_degrees(),
            JointUnit::Millimetre => position * 1e3,
        };
        (in_unit * self.settings.scale + self.settings.offset) as f32
    }
}

/// Takes the positions of the joints that are wanted; a message may hold some of them, or none.
fn take_joints(
    joints: &mut [Joint],
    names: &[String],
    positions: &[f64],
    stamp: Stamp,
    now: Now,
) -> Result<(), InputError> {
    const FIELD: &str = "joint_states";
    if names.len() != positions.len() {
        return Err(InputError::Shape {
            field: FIELD,
            expected: format!("a position for each of {} names", names.len()),
            found: format!("{} positions", positions.len()),
        });
    }
    let is_twice = |joint: &&Joint| names.iter().filter(|name| **name == joint.name).nth(1).is_some();
    if let Some(joint) = joints.iter().find(is_twice) {
        return Err(InputError::Shape {
            field: FIELD,
            expected: "each joint once".to_owned(),
            found: format!("`{}` more than once", joint.name),
        });
    }
    let position_of =
        |joint: &Joint| names.iter().zip(positions).find(|(name, _)| **name == joint.name).map(|(_, p)| *p);
    let found: Vec<Option<f64>> = joints.iter().map(position_of).collect();
    let in_single_precision: Vec<f32> = found.iter().map(|position| position.unwrap_or_default() as f32).collect();
    check_finite(FIELD, &in_single_precision)?;
    for (joint, position) in joints.iter_mut().zip(found) {
        if let Some(position) = position {
            joint.history.push(position, stamp, now);
        }
    }
    Ok(())
}

fn check_frame(topic: &str, expected: Option<&str>, found: &str) -> Result<(), InputError> {
    match expected {
        Some(expected) if without_slash(found) != expected => {
            Err(InputError::Frame { field: topic.to_owned(), expected: expected.to_owned(), found: found.to_owned() })
        }
        _ => Ok(()),
    }
}

/// tf once wrote frames with a leading slash.
fn without_slash(frame_id: &str) -> &str {
    frame_id.trim_start_matches('/')
}

/// The pose between two others: the position on the line, the orientation on the shorter way (normalised linear
/// interpolation, which for the small turns between two samples equals the spherical one).
fn between(a: &Pose, b: &Pose, share: f64) -> Pose {
    let dot: f64 = a.orientation.iter().zip(&b.orientation).map(|(a, b)| a * b).sum();
    let sign = if dot < 0.0 { -1.0 } else { 1.0 };
    let mut pose = *a;
    for (value, (a, b)) in pose.position_m.iter_mut().zip(a.position_m.iter().zip(&b.position_m)) {
        *value = a + (b - a) * share;
    }
    for (value, (a, b)) in pose.orientation.iter_mut().zip(a.orientation.iter().zip(&b.orientation)) {
        *value = a * (1.0 - share) + sign * b * share;
    }
    // Opposite orientations have no shorter way, and their middle may vanish.
    if pose.orientation.iter().all(|value| value.abs() < 1e-6) { *a } else { pose }
}

/// The worst of several joints, with the names of those that are alike in it unless all are.
fn worst<'j>(each: impl Iterator<Item = (&'j str, Freshness)>) -> Freshness {
    let (mut waiting, mut old, mut longest_s, mut behind_s) = (Vec::new(), Vec::new(), 0.0_f64, None::<f64>);
    let mut count = 0;
    for (name, freshness) in each {
        count += 1;
        match freshness {
            Freshness::Fresh => {}
            Freshness::Waiting { .. } => waiting.push(name.to_owned()),
            Freshness::TooOld { seconds, .. } => {
                old.push(name.to_owned());
                longest_s = longest_s.max(seconds);
            }
            Freshness::Behind { seconds } => behind_s = Some(behind_s.map_or(seconds, |most| most.max(seconds))),
        }
    }
    let unless_all = |names: Vec<String>| if names.len() == count { Vec::new() } else { names };
    if !waiting.is_empty() {
        Freshness::Waiting { joints: unless_all(waiting) }
    } else if !old.is_empty() {
        Freshness::TooOld { joints: unless_all(old), seconds: longest_s }
    } else {
        behind_s.map_or(Freshness::Fresh, |seconds| Freshness::Behind { seconds })
    }
}
