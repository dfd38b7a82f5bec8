//! The commands of a tick on every topic that they are asked for on: those of the robot, or in shadow mode those that
//! nothing listens to but people.

use super::convert;
use super::error::NodeError;
use super::messages;
use crate::config::{Config, TrajectoryPer};
use crate::robot::channels::{Arm, Channels};
use crate::robot::control::trajectory::{Point, Splice, Telling};
use crate::robot::control::{Control, Sent};
use crate::robot::envelope::JointScale;
use crate::robot::reporting::command::command;
use crate::types::Stamp;
use r2r::geometry_msgs::msg::{Point as Position, Pose, PoseStamped, Quaternion};
use r2r::std_msgs::msg::{Float32, Float64MultiArray};
use r2r::trajectory_msgs::msg::{JointTrajectory, JointTrajectoryPoint};
use r2r::xvla_ros::msg::Command;
use r2r::{Node, Publisher, QosProfile, WrappedTypesupport};
use std::time::Duration;

/// The publishers of commands.
pub struct Commands {
    frame_id: String,
    command: Publisher<Command>,
    joints: Joints,
    array: Option<Publisher<Float64MultiArray>>,
    trajectory: Option<Trajectories>,
    arms: Vec<ArmTopics>,
}

/// How channels become positions of joints.
struct Joints {
    names: Vec<String>,
    scales: Vec<JointScale>,
}

struct Trajectories {
    publisher: Publisher<JointTrajectory>,
    per: TrajectoryPer,
    splice: Splice,
}

/// The topics of one arm and its gripper.
struct ArmTopics {
    arm: Arm,
    pose: Publisher<PoseStamped>,
    gripper: Publisher<Float32>,
}

impl Commands {
    /// Advertises the topics of commands with these `channels`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic.
    pub fn new(node: &mut Node, config: &Config, channels: &Channels) -> Result<Self, NodeError> {
        let (output, place) = (&config.output, if config.shadow { "~/shadow" } else { "~" });
        // In shadow mode the topics that a controller listens to are left alone.
        let topic = |topic: &String, name: &str| if config.shadow { format!("{place}/{name}") } else { topic.clone() };
        let array = output.float64_multi_array.as_ref().map(|given| topic(given, "float64_multi_array"));
        let trajectory = output.joint_trajectory.as_ref().map(|given| topic(given, "joint_trajectory"));
        let trajectory = match trajectory {
            Some(topic) => Some(Trajectories {
                publisher: publisher(node, &topic)?,
                per: output.joint_trajectory_per,
                splice: Splice::default(),
            }),
            None => None,
        };
        let arms = if output.poses { channels.arms() } else { &[] };
        let is_alone = arms.len() == 1;
        let advertise = |arm: &Arm| {
            let prefix = if is_alone { place.to_owned() } else { format!("{place}/{}", arm.name) };
            Ok(ArmTopics {
                arm: arm.clone(),
                pose: publisher(node, &format!("{prefix}/pose"))?,
                gripper: publisher(node, &format!("{prefix}/gripper"))?,
            })
        };
        let arms = arms.iter().map(advertise).collect::<Result<_, NodeError>>()?;
        Ok(Self {
            frame_id: config.frame_id.clone(),
            command: publisher(node, &format!("{place}/command"))?,
            joints: Joints {
                names: output.joints.iter().map(|joint| joint.name.clone()).collect(),
                scales: output.joints.iter().map(|joint| JointScale::from(&joint.settings)).collect(),
            },
            array: array.map(|topic| publisher(node, &topic)).transpose()?,
            trajectory,
            arms,
        })
    }

    /// Publishes what `control` has just `sent` at `tick`, if it has.
    pub fn publish(&mut self, control: &Control, sent: Option<&Sent>, tick: Stamp) {
        if let Some(trajectories) = &mut self.trajectory {
            trajectories.publish(&self.joints, control, sent, tick);
        }
        let Some(sent) = sent else { return };
        let command = command(control, sent, tick, &self.frame_id);
        if let Some(array) = &self.array {
            let data = self.joints.positions(&command.values);
            send(array, &Float64MultiArray { data, ..Float64MultiArray::default() });
        }
        for arm in &self.arms {
            arm.publish(&command.values, tick, &self.frame_id);
        }
        send(&self.command, &messages::command(command));
    }
}

impl Commands {
    /// Tells those who play plans by themselves to stay where `control` has commanded them last, if they play one.
    pub fn leave(&mut self, control: &Control, tick: Stamp) {
        if let Some(trajectories) = &mut self.trajectory
            && trajectories.per == TrajectoryPer::Chunk
        {
            trajectories.publish(&self.joints, control, None, tick);
        }
    }
}

impl Joints {
    /// The positions, rad or m, that a command means.
    fn positions(&self, values: &[f32]) -> Vec<f64> {
        self.scales.iter().zip(values).map(|(scale, value)| scale.position(*value)).collect()
    }
}

impl Trajectories {
    fn publish(&mut self, joints: &Joints, control: &Control, sent: Option<&Sent>, tick: Stamp) {
        let Some(controller) = control.controller() else { return };
        let now =
            |values: &[f32]| vec![Point { due: after(tick, controller.settings().period), values: values.to_vec() }];
        let telling = self.splice.next(sent, controller.generation());
        let points = match (self.per, telling) {
            (TrajectoryPer::Tick, _) if sent.is_some() => now(controller.values()),
            (TrajectoryPer::Chunk, Telling::Rest) => controller.rest_of_plan(tick),
            // A stop or a hold would not reach a robot that goes on with what it was told before.
            (TrajectoryPer::Chunk, Telling::Stay) => now(controller.values()),
            _ => return,
        };
        if points.is_empty() || points.iter().any(|point| point.values.iter().any(|value| !value.is_finite())) {
            return;
        }
        let point = |point: Point| JointTrajectoryPoint {
            positions: joints.positions(&point.values),
            time_from_start: convert::duration_ns(point.due.nanos.saturating_sub(tick.nanos)),
            ..JointTrajectoryPoint::default()
        };
        let mut message = JointTrajectory {
            joint_names: joints.names.clone(),
            points: points.into_iter().map(point).collect(),
            ..JointTrajectory::default()
        };
        message.header.stamp = convert::time(tick);
        send(&self.publisher, &message);
    }
}

impl ArmTopics {
    fn publish(&self, values: &[f32], tick: Stamp, frame_id: &str) {
        let [x, y, z] = self.arm.position.map(|channel| values.get(channel).copied().map_or(f64::NAN, f64::from));
        let rotation = values.get(self.arm.rotation_channels()).map(|values| self.arm.form.read(values));
        // What was sent has passed the guard, so it is a rotation.
        if let Some(Ok(rotation)) = rotation {
            let [qx, qy, qz, qw] = rotation;
            let mut pose = PoseStamped {
                pose: Pose { position: Position { x, y, z }, orientation: Quaternion { x: qx, y: qy, z: qz, w: qw } },
                ..PoseStamped::default()
            };
            pose.header.stamp = convert::time(tick);
            pose.header.frame_id = frame_id.to_owned();
            send(&self.pose, &pose);
        }
        if let Some(data) = values.get(self.arm.gripper).copied() {
            send(&self.gripper, &Float32 { data });
        }
    }
}

fn publisher<T: WrappedTypesupport>(node: &mut Node, topic: &str) -> Result<Publisher<T>, NodeError> {
    let qos = QosProfile::default().keep_last(10).reliable();
    node.create_publisher(topic, qos).map_err(NodeError::middleware(topic.to_owned()))
}

fn send<T: WrappedTypesupport + 'static>(publisher: &Publisher<T>, message: &T) {
    if let Err(error) = publisher.publish(message) {
        tracing::warn!("a command could not be published: {error}");
    }
}

fn after(stamp: Stamp, span: Duration) -> Stamp {
    Stamp { nanos: stamp.nanos.saturating_add(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)) }
}
