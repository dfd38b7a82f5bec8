//! The node's subscriptions: they move what has arrived into [`Inputs`].
//!
//! r2r keeps ten messages per topic and drops the newest beyond that, so every topic is drained after every turn of the
//! spinning thread. Images are taken as the middleware's own message, so that their pixels are copied once.

use super::convert;
use super::error::NodeError;
use crate::config::{Config, Transport};
use crate::robot::camera;
use crate::robot::inputs::Inputs;
use crate::robot::instruction::Origin;
use crate::robot::state::{Kind, Reading};
use crate::robot::time::Now;
use crate::types::Stamp;
use futures::{FutureExt, Stream, StreamExt};
use r2r::geometry_msgs::msg::PoseStamped;
use r2r::sensor_msgs::msg::{CompressedImage, Image, JointState};
use r2r::std_msgs::msg::{Float32, Float32MultiArray, String as Text};
use r2r::{NativeMsg, Node, QosProfile, WrappedTypesupport};

/// The QoS that sensor drivers publish with: losing a message is better than waiting for it. It matches every publisher.
const SENSOR: QosProfile = QosProfile::sensor_data();
/// The QoS that matches every publisher and, from those that are reliable, loses nothing that fits the queue.
const VOLATILE: QosProfile = QosProfile::default().keep_last(10).best_effort().volatile();
/// The QoS that receives what was published before the node started, from publishers that keep it.
const LATCHED: QosProfile = QosProfile::default().keep_last(1).reliable().transient_local();

type Messages<T> = Box<dyn Stream<Item = T> + Unpin>;

/// One subscription, with the input that it feeds.
enum Source {
    Image { camera: usize, messages: Messages<NativeMsg<Image>> },
    CompressedImage { camera: usize, messages: Messages<CompressedImage> },
    Joints(StateTopic<JointState>),
    Pose(StateTopic<PoseStamped>),
    Gripper(StateTopic<Float32>),
    Channels(StateTopic<Float32MultiArray>),
    Instruction { origin: Origin, messages: Messages<Text> },
}

/// A subscription to the robot's state.
struct StateTopic<T> {
    state: usize,
    /// Whether it is there for what was published before the node started, which another subscription does not receive.
    is_historic: bool,
    messages: Messages<T>,
}

/// Every subscription of a deployment.
pub struct Subscriptions {
    sources: Vec<Source>,
}

impl Subscriptions {
    /// Subscribes to the topics of `inputs`: cameras, state and instruction.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic; a checkpoint that does not say which state it expects.
    pub fn new(node: &mut Node, config: &Config) -> Result<Self, NodeError> {
        let mut sources = Vec::new();
        for (index, camera) in config.cameras.iter().enumerate() {
            let topic = camera::topic_of(camera);
            sources.push(match camera.settings.transport {
                Transport::Raw => {
                    let messages = node.subscribe_native(&topic, SENSOR).map_err(refused(&topic))?;
                    Source::Image { camera: index, messages: Box::new(messages) }
                }
                Transport::Compressed => {
                    Source::CompressedImage { camera: index, messages: subscribe(node, &topic, SENSOR)? }
                }
            });
        }
        for (index, (kind, topic)) in crate::robot::state::topics_of(&config.proprio).into_iter().enumerate() {
            sources.push(of_state(node, index, kind, &topic, false)?);
            let is_latched =
                if kind == Kind::Gripper { config.proprio.gripper.latched } else { config.proprio.latched };
            if is_latched {
                sources.push(of_state(node, index, kind, &topic, true)?);
            }
        }
        for (origin, qos) in [(Origin::Volatile, VOLATILE), (Origin::Latched, LATCHED)] {
            sources.push(Source::Instruction { origin, messages: subscribe(node, "instruction", qos)? });
        }
        Ok(Self { sources })
    }

    /// Moves every message that has arrived into `inputs`.
    pub fn drain(&mut self, inputs: &mut Inputs, now: Now) {
        for source in &mut self.sources {
            source.drain(inputs, now);
        }
    }
}

impl Source {
    fn drain(&mut self, inputs: &mut Inputs, now: Now) {
        match self {
            Self::Image { camera, messages } => each(messages, |message| {
                let (image, stamp) = convert::image(&message);
                inputs.frame(*camera, image, stamp, now);
            }),
            Self::CompressedImage { camera, messages } => each(messages, |message| {
                let stamp = convert::stamp_of(&message.header);
                inputs.frame(*camera, convert::compressed_image(message), stamp, now);
            }),
            Self::Joints(topic) => {
                topic.drain(inputs, now, |message| (convert::stamp_of(&message.header), convert::joints(message)))
            }
            Self::Pose(topic) => {
                topic.drain(inputs, now, |message| (convert::stamp_of(&message.header), convert::pose(message)))
            }
            Self::Gripper(topic) => topic.drain(inputs, now, |message| (None, Reading::Channels(vec![message.data]))),
            Self::Channels(topic) => topic.drain(inputs, now, |message| (None, convert::channels(&message))),
            Self::Instruction { origin, messages } => each(messages, |message| {
                inputs.instruction(message.data, *origin, now);
            }),
        }
    }
}

impl<T> StateTopic<T> {
    fn drain(&mut self, inputs: &mut Inputs, now: Now, convert: impl Fn(T) -> (Option<Stamp>, Reading)) {
        let Self { state, is_historic, messages } = self;
        each(messages, |message| {
            // What comes now comes on the other subscription as well.
            if *is_historic && inputs.has_state(*state, now) {
                return;
            }
            let (stamp, reading) = convert(message);
            inputs.state(*state, reading, stamp, now);
        });
    }
}

fn of_state(node: &mut Node, state: usize, kind: Kind, topic: &str, is_historic: bool) -> Result<Source, NodeError> {
    Ok(match kind {
        Kind::Joints => Source::Joints(state_topic(node, state, topic, is_historic)?),
        Kind::Pose => Source::Pose(state_topic(node, state, topic, is_historic)?),
        Kind::Gripper => Source::Gripper(state_topic(node, state, topic, is_historic)?),
        Kind::Channels => Source::Channels(state_topic(node, state, topic, is_historic)?),
    })
}

fn state_topic<T: WrappedTypesupport + 'static>(
    node: &mut Node,
    state: usize,
    topic: &str,
    is_historic: bool,
) -> Result<StateTopic<T>, NodeError> {
    let qos = if is_historic { LATCHED } else { SENSOR };
    Ok(StateTopic { state, is_historic, messages: subscribe(node, topic, qos)? })
}

fn subscribe<T: WrappedTypesupport + 'static>(
    node: &mut Node,
    topic: &str,
    qos: QosProfile,
) -> Result<Messages<T>, NodeError> {
    Ok(Box::new(node.subscribe::<T>(topic, qos).map_err(refused(topic))?))
}

fn refused(topic: &str) -> impl FnOnce(r2r::Error) -> NodeError {
    NodeError::middleware(format!("subscribing to {topic}"))
}

/// Passes each message that has arrived to `apply`.
fn each<T>(messages: &mut Messages<T>, mut apply: impl FnMut(T)) {
    while let Some(Some(message)) = messages.next().now_or_never() {
        apply(message);
    }
}
