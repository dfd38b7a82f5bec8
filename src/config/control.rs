//! The part of the table that is about moving a robot: what is published of plans, how they are played, what is refused,
//! and how far the robot may go.

use super::choice::{GuardMode, JointUnit, OnBackend, OutputMode, Reaction, TrajectoryPer};
use super::error::ConfigError;
use super::group::{Named, per_name};
use super::rule::{choice, flag, integer, milliseconds, number, numbers, path, text, texts};
use super::schema::parameters;
use std::path::PathBuf;
use std::time::Duration;

/// The largest magnitude of a bound, in whatever unit.
const FAR: f64 = 1e9;
/// The largest velocity, acceleration or jump that can be limited.
const FAST: f64 = 1e6;

/// The smallest and the largest of something, both finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// The smallest.
    pub min: f64,
    /// The largest, at least the smallest.
    pub max: f64,
}

impl Bounds {
    fn of(min: f64, max: f64) -> Result<Self, String> {
        if min <= max { Ok(Self { min, max }) } else { Err(format!("[{min}, {max}]: the smaller number comes first")) }
    }

    /// The bounds that a parameter's list gives; an empty list gives none.
    fn from_list(list: Vec<f64>) -> Result<Option<Self>, String> {
        match *list.as_slice() {
            [] => Ok(None),
            [min, max] => Self::of(min, max).map(Some),
            _ => Err(format!("{} numbers: expected two, [min, max]", list.len())),
        }
    }
}

/// The box that an arm's position stays in: the bounds of x, y and z, m.
pub type Workspace = [Bounds; 3];

/// The boxes that a parameter's list gives.
fn workspaces(list: Vec<f64>) -> Result<Vec<Workspace>, String> {
    if !list.len().is_multiple_of(6) {
        return Err(format!(
            "{} numbers: expected six per arm, [x min, x max, y min, y max, z min, z max]",
            list.len()
        ));
    }
    let arms = list.chunks_exact(6).filter_map(|arm| <[f64; 6]>::try_from(arm).ok());
    arms.map(|[ax, bx, ay, by, az, bz]| Ok([Bounds::of(ax, bx)?, Bounds::of(ay, by)?, Bounds::of(az, bz)?])).collect()
}

parameters! {
    /// What is published of plans.
    #[derive(Clone, Debug, PartialEq)]
    pub struct OutputConfig {
        /// What happens to plans: chunk publishes them for somebody else to play, stream publishes commands at control.rate_hz as well.
        mode: OutputMode = choice(OutputMode::Chunk),
        /// Joints that a command's channels are the positions of, in the order of the channels; required for float64_multi_array and joint_trajectory, empty if commands are poses.
        joints: Vec<Named<JointOutputConfig>> = per_name("joint", texts(&[]).each_once().named("joint_names")),
        /// Topic for commands of joints as std_msgs/Float64MultiArray, which ros2_control's forward controllers take; empty for none.
        float64_multi_array: Option<String> = text("").topic(),
        /// Topic for commands of joints as trajectory_msgs/JointTrajectory, which joint_trajectory_controller takes; empty for none.
        joint_trajectory: Option<String> = text("").topic(),
        /// How often a trajectory is sent: on every tick, or once per chunk with all that is left of its plan.
        joint_trajectory_per: TrajectoryPer = choice(TrajectoryPer::Tick),
        /// Whether commands of poses are published as geometry_msgs/PoseStamped and std_msgs/Float32 for each arm and its gripper.
        poses: bool = flag(false),
    }

    /// How a channel of a command becomes one joint's position. The three numbers mean what they mean for
    /// [`JointConfig`](super::JointConfig), so that a joint whose state and commands are in the same numbers has the same
    /// settings twice; here they are undone.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct JointOutputConfig {
        /// The checkpoint's unit for this joint's command: si for radians or metres as ROS takes them, deg for degrees, mm for millimetres.
        unit: JointUnit = choice(JointUnit::Si),
        /// Factor that the checkpoint has on the position in that unit, as in proprio.joint: a command is divided by it. Not 0.
        scale: f64 = number(1.0).within(-1e6..=1e6).invertible(),
        /// What the checkpoint adds after the factor, as in proprio.joint: it is subtracted from a command before the factor is undone.
        offset: f64 = number(0.0).within(-1e6..=1e6),
    }

    /// How plans are played.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ControlConfig {
        /// Commands per second in output.mode stream, Hz.
        rate_hz: f64 = number(50.0).within(1.0..=1000.0).live(),
        /// Real-time priority (SCHED_FIFO) of the thread that sends commands; 0 for none.
        priority: Option<u8> = integer(0).within(0..=99).unless(0),
        /// What happens when a plan ends and no other follows: hold repeats the last command, stop sends nothing more until ~/release_stop.
        at_end: Reaction = choice(Reaction::Hold).live(),
        /// How long before a plan's end the next one should be there, milliseconds.
        margin: Duration =
            integer(20).within(0..=60_000).map(|ms| Duration::from_millis(ms.unsigned_abs())).named("margin_ms").live(),
    }

    /// What is refused, and what happens then.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct GuardConfig {
        /// What happens to a command beyond a limit: reject refuses it, clamp brings it within its limits where that is possible.
        mode: GuardMode = choice(GuardMode::Reject).live(),
        /// Oldest observation whose plan may be played, milliseconds; 0 for any.
        plan_age: Option<Duration> = milliseconds(5000).named("plan_age_ms").live(),
        /// Commands refused in a row after which guard.on_rejections applies.
        rejections: u32 = integer(10).within(1..=1_000_000).map(|count| u32::try_from(count).unwrap_or(1)).live(),
        /// What happens after that many refused commands: hold or stop.
        on_rejections: Reaction = choice(Reaction::Stop).live(),
        /// What happens when an input is stale, skewed or frozen: hold or stop.
        on_input: Reaction = choice(Reaction::Hold).live(),
        /// What happens when an inference fails, hangs or gives what is no plan: hold or stop.
        on_inference: Reaction = choice(Reaction::Hold).live(),
        /// What happens while the configured backend is lost and the fallback answers: hold, stop, or go_on to play the fallback's plans. Without a fallback inferences fail, and guard.on_inference applies.
        on_backend: OnBackend = choice(OnBackend::Hold).live(),
        /// What happens when the thread that watches inputs says nothing: hold or stop.
        on_watchdog: Reaction = choice(Reaction::Stop).live(),
        /// How long an inference may take before it counts as hanging, milliseconds; 0 to wait for ever.
        inference: Option<Duration> = milliseconds(2000).named("inference_ms").live(),
        /// How long the thread that watches inputs may say nothing, milliseconds.
        watchdog: Duration =
            integer(500).within(10..=60_000).map(|ms| Duration::from_millis(ms.unsigned_abs())).named("watchdog_ms").live(),
        /// How often per minute the inference thread is started again after a panic.
        restarts: u32 = integer(3).within(0..=1000).map(|count| u32::try_from(count).unwrap_or_default()).live(),
    }

    /// How far and how fast the robot may go.
    #[derive(Clone, Debug, PartialEq)]
    pub struct LimitsConfig {
        /// URDF of the robot, expanded, whose joints limit the joints of the same names (output.joint_names, or else the channels' own); empty for none.
        urdf: Option<PathBuf> = path(),
        /// Channels of a command that have limits of their own, by name. Where there are others, as in the URDF, these may only be narrower.
        channels: Vec<Named<ChannelLimitsConfig>> = per_name("channel", texts(&[]).each_once()),
        /// The box that an arm's position stays in, [x min, x max, y min, y max, z min, z max] in m, for one arm after the other; empty for none.
        workspace: Vec<Workspace> = numbers(&[]).within(-FAR..=FAR).checked(workspaces).named("workspace_m").live(),
        /// Range of every gripper's command, [min, max] in its own unit; empty for none.
        gripper: Option<Bounds> = numbers(&[]).within(-FAR..=FAR).checked(Bounds::from_list).live(),
        /// How far a rotation of six numbers may be from orthonormal: the largest entry of C'C - I, where C is the 3x2 matrix of its columns; 0 for any.
        rotation_deviation: Option<f64> = number(0.1).within(0.0..=FAST).unless_zero().live(),
        /// Largest angular velocity of an arm, rad/s; 0 for any.
        angular_velocity_rad_s: Option<f64> = number(0.0).within(0.0..=FAST).unless_zero().live(),
        /// Largest angular acceleration of an arm, rad/s²; 0 for any.
        angular_acceleration_rad_s2: Option<f64> = number(0.0).within(0.0..=FAST).unless_zero().live(),
        /// Largest angle between a commanded rotation and the measured one, rad; 0 for any.
        angular_jump_rad: Option<f64> = number(0.0).within(0.0..=FAST).unless_zero().live(),
    }

    /// The limits of one channel, in the checkpoint's unit for it.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ChannelLimitsConfig {
        /// Values that this channel may have, [min, max] in its own unit; empty for no range of its own.
        range: Option<Bounds> = numbers(&[]).within(-FAR..=FAR).checked(Bounds::from_list).live(),
        /// Largest velocity, units per second; 0 for none of its own.
        velocity: Option<f64> = number(0.0).within(0.0..=FAST).unless_zero().live(),
        /// Largest acceleration, units per second squared; 0 for none of its own.
        acceleration: Option<f64> = number(0.0).within(0.0..=FAST).unless_zero().live(),
        /// Largest distance from the measured state, units; 0 for any.
        jump: Option<f64> = number(0.0).within(0.0..=FAST).unless_zero().live(),
    }

    /// The states of a managed node.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct LifecycleConfig {
        /// Whether the node configures and activates itself at its start; otherwise it waits to be told.
        autostart: bool = flag(true),
    }
}

impl ControlConfig {
    /// Time between two commands.
    pub fn period(&self) -> Duration {
        // The rate is at least 1 Hz.
        Duration::try_from_secs_f64(1.0 / self.rate_hz).unwrap_or(Duration::from_secs(1))
    }
}

/// Checks what depends on several parameters of outputs and on the time between two actions, so that the rule of none can.
///
/// # Errors
/// Outputs that would never be sent, outputs of joints that have no names, one topic for two of them, commands of a plan
/// whose steps have no duration.
pub(super) fn check(output: &OutputConfig, step_dt_s: Option<f64>) -> Result<(), ConfigError> {
    let topics = [
        ("output.float64_multi_array", output.float64_multi_array.as_ref()),
        ("output.joint_trajectory", output.joint_trajectory.as_ref()),
    ];
    for (name, _) in topics.iter().filter(|(_, topic)| topic.is_some()) {
        if output.joints.is_empty() {
            let reason = "has commands of joints: name them in output.joint_names, one for each channel of a command";
            return Err(ConfigError::invalid(name, reason));
        }
    }
    if let Some(topic) =
        output.float64_multi_array.as_ref().filter(|topic| output.joint_trajectory.as_ref() == Some(*topic))
    {
        let reason = format!("`{topic}` is the topic of output.float64_multi_array, whose type is another");
        return Err(ConfigError::invalid("output.joint_trajectory", reason));
    }
    if output.mode == OutputMode::Stream {
        let reason = "unknown, and commands are streamed: add the time between two actions, or the `embodiment`";
        return step_dt_s.map(drop).ok_or_else(|| ConfigError::invalid("step_dt_s", reason));
    }
    let sent = topics.iter().filter(|(_, topic)| topic.is_some()).map(|(name, _)| *name);
    match sent.chain(output.poses.then_some("output.poses")).next() {
        Some(name) => {
            Err(ConfigError::invalid(name, "is what plans become as they are played: it needs `output.mode: stream`"))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::super::value::{Parameters, Value};
    use super::*;

    fn text(text: &str) -> Value {
        Value::String(text.to_owned())
    }

    fn names(names: &[&str]) -> Value {
        Value::Strings(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// A deployment whose steps have a duration, with `extra` parameters.
    fn with(extra: &[(&str, Value)]) -> Result<Config, ConfigError> {
        let mut given = Parameters::from([
            ("checkpoint".to_owned(), text("model")),
            ("proprio.joint_names".to_owned(), names(&["a", "b"])),
            ("step_dt_s".to_owned(), Value::Double(0.1)),
        ]);
        given.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Config::from_parameters(&given)
    }

    fn refusal(extra: &[(&str, Value)]) -> String {
        with(extra).unwrap_err().to_string()
    }

    #[test]
    fn without_parameters_plans_are_published_for_others_and_what_goes_wrong_too_often_stops() {
        let config = with(&[]).unwrap();
        assert_eq!((config.output.mode, config.shadow, config.lifecycle.autostart), (OutputMode::Chunk, false, true));
        assert_eq!((config.control.rate_hz, config.control.priority), (50.0, None));
        assert_eq!((config.guard.on_rejections, config.guard.on_watchdog), (Reaction::Stop, Reaction::Stop));
        assert_eq!((config.guard.on_input, config.guard.on_backend), (Reaction::Hold, OnBackend::Hold));
        assert_eq!((config.guard.mode, config.guard.plan_age), (GuardMode::Reject, Some(Duration::from_secs(5))));
        assert_eq!(config.limits.rotation_deviation, Some(0.1));
        assert_eq!((config.limits.gripper, config.limits.angular_velocity_rad_s), (None, None));
    }

    #[test]
    fn each_joint_of_an_output_has_a_unit_scale_and_offset_of_its_own() {
        let config = with(&[
            ("output.joint_names", names(&["a", "b"])),
            ("output.joint.b.unit", text("deg")),
            ("output.joint.b.scale", Value::Integer(-1)),
        ]);
        let joints = config.unwrap().output.joints;
        let second = JointOutputConfig { unit: JointUnit::Degree, scale: -1.0, offset: 0.0 };
        assert_eq!((joints[0].settings.scale, joints[1].settings), (1.0, second));
    }

    #[test]
    fn a_factor_that_cannot_be_undone_is_refused() {
        let refused = refusal(&[("output.joint_names", names(&["a"])), ("output.joint.a.scale", Value::Double(0.0))]);
        assert!(refused.contains("`output.joint.a.scale`: 0: too near 0 to be divided by"), "{refused}");
    }

    #[test]
    fn each_channel_that_is_listed_has_limits_of_its_own() {
        let config = with(&[
            ("limits.channels", names(&["elbow"])),
            ("limits.channel.elbow.range", Value::Doubles(vec![-1.5, 2.0])),
            ("limits.channel.elbow.velocity", Value::Double(0.5)),
        ]);
        let expected = ChannelLimitsConfig {
            range: Some(Bounds { min: -1.5, max: 2.0 }),
            velocity: Some(0.5),
            acceleration: None,
            jump: None,
        };
        assert_eq!(config.unwrap().limits.channels, [Named { name: "elbow".to_owned(), settings: expected }]);
    }

    #[test]
    fn a_channel_that_is_named_twice_or_not_listed_is_refused() {
        assert!(refusal(&[("limits.channels", names(&["a", "a"]))]).contains("`a` is named twice"));
        let refused = refusal(&[("limits.channel.elbow.velocity", Value::Double(0.5))]);
        assert!(refused.contains("`limits.channel.elbow.velocity` does not exist"), "{refused}");
    }

    #[test]
    fn bounds_are_two_finite_numbers_with_the_smaller_one_first() {
        for (list, expected) in [
            (vec![0.1], "1 numbers: expected two, [min, max]"),
            (vec![0.2, 0.1], "[0.2, 0.1]: the smaller number comes first"),
            (vec![f64::NAN, 0.1], "NaN is out of range"),
            (vec![0.0, f64::INFINITY], "inf is out of range"),
        ] {
            let refused = refusal(&[("limits.gripper", Value::Doubles(list))]);
            assert!(refused.contains(expected), "{refused}");
        }
        let same = with(&[("limits.gripper", Value::Doubles(vec![0.5, 0.5]))]).unwrap().limits.gripper;
        assert_eq!(same, Some(Bounds { min: 0.5, max: 0.5 }));
    }

    #[test]
    fn a_workspace_has_six_numbers_for_each_arm() {
        let workspace = |list: &[f64]| with(&[("limits.workspace_m", Value::Doubles(list.to_vec()))]);
        let side = |min, max| Bounds { min, max };
        assert_eq!(
            workspace(&[0.1, 0.6, -0.3, 0.3, 0.0, 0.5]).unwrap().limits.workspace,
            [[side(0.1, 0.6), side(-0.3, 0.3), side(0.0, 0.5)]]
        );
        assert_eq!(workspace(&[0.0; 12]).unwrap().limits.workspace.len(), 2);
        assert!(workspace(&[0.0; 8]).unwrap_err().to_string().contains("8 numbers: expected six per arm"));
        let turned = workspace(&[0.6, 0.1, 0.0, 0.0, 0.0, 0.0]).unwrap_err().to_string();
        assert!(turned.contains("[0.6, 0.1]: the smaller number comes first"), "{turned}");
    }

    #[test]
    fn outputs_of_joints_need_the_names_of_the_joints() {
        for name in ["output.float64_multi_array", "output.joint_trajectory"] {
            let refused = refusal(&[("output.mode", text("stream")), (name, text("/arm/commands"))]);
            assert!(refused.starts_with(&format!("parameter `{name}`: has commands of joints")), "{refused}");
        }
    }

    #[test]
    fn an_output_of_commands_needs_a_stream() {
        let joints = ("output.joint_names", names(&["a"]));
        let trajectory = ("output.joint_trajectory", text("/arm/joint_trajectory"));
        for output in
            [("output.float64_multi_array", text("/arm/commands")), trajectory, ("output.poses", Value::Bool(true))]
        {
            let refused = refusal(&[joints.clone(), output.clone()]);
            assert!(refused.contains(output.0) && refused.contains("needs `output.mode: stream`"), "{refused}");
            assert!(with(&[joints.clone(), output, ("output.mode", text("stream"))]).is_ok());
        }
    }

    #[test]
    fn one_topic_cannot_carry_two_types() {
        let outputs = ["output.float64_multi_array", "output.joint_trajectory"].map(|name| (name, text("/arm")));
        let refused = refusal(&[&outputs[..], &[("output.joint_names", names(&["a"]))]].concat());
        assert!(refused.contains("`/arm` is the topic of output.float64_multi_array"), "{refused}");
    }

    #[test]
    fn a_stream_needs_the_duration_of_a_step() {
        let refused = refusal(&[("output.mode", text("stream")), ("step_dt_s", Value::Double(0.0))]);
        assert!(refused.starts_with("parameter `step_dt_s`: unknown, and commands are streamed"), "{refused}");
    }

    #[test]
    fn what_cannot_be_a_topic_is_refused() {
        let output = |topic: &str| {
            with(&[
                ("output.mode", text("stream")),
                ("output.joint_names", names(&["a"])),
                ("output.float64_multi_array", text(topic)),
            ])
        };
        for topic in ["arm commands", "/arm//commands", "/arm/", "/", "arm/7dof", "~arm"] {
            assert!(output(topic).unwrap_err().to_string().contains("is no name of a topic"), "{topic}");
        }
        for topic in ["commands", "/arm/commands", "~/commands"] {
            assert_eq!(output(topic).unwrap().output.float64_multi_array.as_deref(), Some(topic));
        }
    }
}
