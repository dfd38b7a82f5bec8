//! The node's subscriptions. r2r keeps ten messages per topic and drops the newest beyond that, so every topic is
//! drained after every turn of the spinning thread; [`Inputs`] then keeps the latest value of each.
//!
//! Images are decoded here, on the spinning thread. Packing a 640×480 frame takes a tenth of a millisecond, decoding a
//! JPEG of that size some milliseconds, and the middleware keeps only the newest frame meanwhile.

use super::convert;
use super::error::NodeError;
use super::qos::QosOverrides;
use crate::config::{CameraConfig, Config, Named, ProprioConfig, ProprioSource, Transport};
use crate::robot::inputs::Inputs;
use crate::transform::state::EE6D_ARM;
use crate::types::Stamp;
use futures::{FutureExt, Stream, StreamExt};
use r2r::geometry_msgs::msg::PoseStamped;
use r2r::sensor_msgs::msg::{CompressedImage, Image, JointState};
use r2r::std_msgs::msg::{Float32, Float32MultiArray};
use r2r::{Node, QosProfile, WrappedTypesupport};

/// The QoS that sensor drivers publish with: losing a frame is better than waiting for it.
const SENSOR: QosProfile = QosProfile::sensor_data().keep_last(1);
/// The QoS of the instruction: one that was published before the node started still arrives, if its publisher is
/// transient local too.
const LATCHED: QosProfile = QosProfile::default().keep_last(1).reliable().transient_local();

type Messages<T> = Box<dyn Stream<Item = T> + Unpin>;

/// Moves the messages of one topic into the inputs; the stamp is the time of receipt.
type Drain = Box<dyn FnMut(&mut Inputs, Stamp)>;

/// Every subscription that the configuration asks for.
pub struct Subscriptions {
    drains: Vec<Drain>,
}

impl Subscriptions {
    /// Subscribes to the cameras, the state's topics and the instruction, with the QoS that `qos` overrides.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic; [`NodeError::Config`] for a QoS that there is not.
    pub fn new(node: &mut Node, config: &Config, qos: &mut QosOverrides) -> Result<Self, NodeError> {
        let mut drains = Vec::new();
        for (index, (topic, camera)) in camera_topics(config).into_iter().zip(&config.cameras).enumerate() {
            drains.push(match camera.settings.transport {
                Transport::Raw => on(node, (qos, SENSOR), &topic.clone(), move |inputs, message: Image, now| {
                    let stamp = convert::stamp_of(&message.header, now);
                    inputs.frame(index, convert::image(&topic, &message), stamp, now);
                })?,
                Transport::Compressed => {
                    on(node, (qos, SENSOR), &topic.clone(), move |inputs, message: CompressedImage, now| {
                        let stamp = convert::stamp_of(&message.header, now);
                        inputs.frame(index, convert::compressed_image(&topic, &message), stamp, now);
                    })?
                }
            });
        }
        match config.proprio.source {
            ProprioSource::JointStates => {
                let wanted = config.proprio.joint_names.clone();
                drains.push(on(node, (qos, SENSOR), "joint_states", move |inputs, message: JointState, now| {
                    let stamp = convert::stamp_of(&message.header, now);
                    inputs.state(0, convert::joint_state(&wanted, &message), stamp, now);
                })?);
            }
            ProprioSource::EePose => {
                drains.push(on(node, (qos, SENSOR), "ee_pose", |inputs, message: PoseStamped, now| {
                    inputs.state(0, convert::ee_pose(&message), convert::stamp_of(&message.header, now), now);
                })?);
                drains.push(on(node, (qos, SENSOR), "gripper", |inputs, message: Float32, now| {
                    inputs.state(1, convert::gripper(&message), now, now);
                })?);
            }
            ProprioSource::Proprio => {
                drains.push(on(node, (qos, SENSOR), "proprio", |inputs, message: Float32MultiArray, now| {
                    inputs.state(0, convert::proprio(&message), now, now);
                })?);
            }
        }
        drains.push(on(node, (qos, LATCHED), "instruction", |inputs, message: r2r::std_msgs::msg::String, now| {
            inputs.instruction(message.data, now);
        })?);
        Ok(Self { drains })
    }

    /// Moves every message that has arrived into `inputs`. `now` is the time of receipt, in ROS time.
    pub fn drain(&mut self, inputs: &mut Inputs, now: Stamp) {
        for drain in &mut self.drains {
            drain(inputs, now);
        }
    }
}

/// The topic of each camera in the order of views, relative to the node's namespace.
pub fn camera_topics(config: &Config) -> Vec<String> {
    let topic = |camera: &Named<CameraConfig>| match camera.settings.transport {
        Transport::Raw => format!("{}/image", camera.name),
        Transport::Compressed => format!("{}/image/compressed", camera.name),
    };
    config.cameras.iter().map(topic).collect()
}

/// The topics of the robot's state, in the order in which their channels are concatenated.
pub fn state_topics(source: ProprioSource) -> &'static [&'static str] {
    match source {
        ProprioSource::JointStates => &["joint_states"],
        ProprioSource::EePose => &["ee_pose", "gripper"],
        ProprioSource::Proprio => &["proprio"],
    }
}

/// Channels that the robot's state has; `None` where the source leaves them to the checkpoint.
pub fn state_channels(proprio: &ProprioConfig) -> Option<usize> {
    match proprio.source {
        ProprioSource::JointStates => Some(proprio.joint_names.len()),
        ProprioSource::EePose => Some(EE6D_ARM),
        ProprioSource::Proprio => None,
    }
}

/// Subscribes to `topic` with the default QoS unless it is overridden. The returned function passes each message that has arrived to `apply`.
fn on<T: WrappedTypesupport + 'static>(
    node: &mut Node,
    (qos, default): (&mut QosOverrides, QosProfile),
    topic: &str,
    mut apply: impl FnMut(&mut Inputs, T, Stamp) + 'static,
) -> Result<Drain, NodeError> {
    let qos = qos.subscription(topic, default)?;
    let stream = node.subscribe::<T>(topic, qos).map_err(NodeError::middleware(format!("subscribing to {topic}")))?;
    let mut messages: Messages<T> = Box::new(stream);
    Ok(Box::new(move |inputs, now| {
        while let Some(Some(message)) = messages.next().now_or_never() {
            apply(inputs, message, now);
        }
    }))
}
