//! The node's subscriptions: they move what has arrived into [`Inputs`].
//!
//! r2r keeps ten messages per topic and drops the newest beyond that, so every topic is drained after every turn of the
//! spinning thread. Images are taken as the middleware's own message, so that their pixels are copied once.

use super::convert;
use super::error::NodeError;
use super::qos::QosOverrides;
use crate::config::{Config, Transport};
use crate::robot::camera;
use crate::robot::inputs::Inputs;
use crate::robot::instruction::Origin;
use crate::robot::state::{self, Kind, Reading};
use crate::robot::time::Now;
use crate::types::Stamp;
use futures::{FutureExt, Stream, StreamExt};
use r2r::geometry_msgs::msg::PoseStamped;
use r2r::qos::DurabilityPolicy;
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
    latched: Vec<Latched>,
}

/// An input that may have been published before the node started, and is not listened to for that yet.
struct Latched {
    topic: String,
    /// The topic's fully qualified name.
    resolved: String,
    what: LatchedInput,
}

#[derive(Clone, Copy)]
enum LatchedInput {
    State(usize, Kind),
    Instruction,
}

impl Subscriptions {
    /// Subscribes to the cameras, the state's topics and the instruction, with the QoS that `qos` overrides.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic; [`NodeError::Config`] for a QoS that there is not.
    pub fn new(node: &mut Node, config: &Config, qos: &mut QosOverrides) -> Result<Self, NodeError> {
        let (mut sources, mut latched) = (Vec::new(), Vec::new());
        for (index, camera) in config.cameras.iter().enumerate() {
            let topic = camera::topic_of(camera);
            let profile = qos.subscription(&topic, SENSOR)?;
            sources.push(match camera.settings.transport {
                Transport::Raw => {
                    let messages = node.subscribe_native(&topic, profile).map_err(refused(&topic))?;
                    Source::Image { camera: index, messages: Box::new(messages) }
                }
                Transport::Compressed => {
                    Source::CompressedImage { camera: index, messages: subscribe(node, &topic, profile)? }
                }
            });
        }
        for (index, (kind, topic)) in state::topics_of(&config.proprio).into_iter().enumerate() {
            sources.push(of_state(node, (index, kind), &topic, qos.subscription(&topic, SENSOR)?, false)?);
            if state::is_latched(kind, &config.proprio) {
                let resolved = qos.resolve(&topic);
                latched.push(Latched { topic, resolved, what: LatchedInput::State(index, kind) });
            }
        }
        let topic = "instruction".to_owned();
        let messages = subscribe(node, &topic, qos.subscription(&topic, VOLATILE)?)?;
        sources.push(Source::Instruction { origin: Origin::Volatile, messages });
        latched.push(Latched { resolved: qos.resolve(&topic), topic, what: LatchedInput::Instruction });
        Ok(Self { sources, latched })
    }

    /// Subscribes once more, to receive what was published before, to topics of which a publisher keeps that. Where none
    /// does, such a subscription would only make volatile publishers warn of one that they do not match.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic.
    pub fn listen_to_latched(&mut self, node: &mut Node) -> Result<(), NodeError> {
        for latched in std::mem::take(&mut self.latched) {
            if !keeps_messages(node, &latched.resolved) {
                self.latched.push(latched);
                continue;
            }
            let topic = &latched.topic;
            self.sources.push(match latched.what {
                LatchedInput::State(index, kind) => of_state(node, (index, kind), topic, LATCHED, true)?,
                LatchedInput::Instruction => {
                    Source::Instruction { origin: Origin::Latched, messages: subscribe(node, topic, LATCHED)? }
                }
            });
        }
        Ok(())
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

/// Whether a publisher of `topic` keeps its messages for those who come later.
fn keeps_messages(node: &Node, topic: &str) -> bool {
    let publishers = node.get_publishers_info_by_topic(topic, false).unwrap_or_else(|error| {
        tracing::debug!("the publishers of {topic}: {error}");
        Vec::new()
    });
    publishers.iter().any(|publisher| matches!(publisher.qos_profile.durability, DurabilityPolicy::TransientLocal))
}

fn of_state(
    node: &mut Node,
    (state, kind): (usize, Kind),
    topic: &str,
    qos: QosProfile,
    is_historic: bool,
) -> Result<Source, NodeError> {
    Ok(match kind {
        Kind::Joints => Source::Joints(StateTopic { state, is_historic, messages: subscribe(node, topic, qos)? }),
        Kind::Pose => Source::Pose(StateTopic { state, is_historic, messages: subscribe(node, topic, qos)? }),
        Kind::Gripper => Source::Gripper(StateTopic { state, is_historic, messages: subscribe(node, topic, qos)? }),
        Kind::Channels => Source::Channels(StateTopic { state, is_historic, messages: subscribe(node, topic, qos)? }),
    })
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
