//! Which topics of a bag feed which inputs of a deployment, and what their messages hold.

use super::plan::Plan;
use super::problems::Problems;
use crate::config::{Config, OutputMode, Transport};
use crate::data::bag::{At, Bag, BagMessage, BagTopic, Place, Problem};
use crate::data::cdr::CdrError;
use crate::data::messages::inputs::{
    Clock, CompressedImage, Float32, Float32MultiArray, Image, JointState, PoseStamped, Text,
};
use crate::data::messages::outputs::{ActionChunk, Command, ModelInfo, StageLatency};
use crate::data::messages::{Message, Read, check_definition};
use crate::robot::camera;
use crate::robot::state::{self, Kind, Reading};
use crate::transform::decode;
use crate::types::{EncodedImage, ImageFormat, Stamp};
use std::path::Path;
use std::sync::Arc;

/// A message of the bag, read.
#[derive(Debug)]
pub struct Arrival {
    /// When it was received; `None` if the recorder does not say.
    pub received: Option<Stamp>,
    /// What its header says of the moment that it describes; `None` without a header or with one of zero.
    pub stamp: Option<Stamp>,
    /// Where it stands.
    pub place: Place,
    /// The topic's index in the bag.
    pub topic: usize,
    /// What it holds.
    pub content: Content,
}

/// What a message holds.
#[derive(Debug)]
pub enum Content {
    /// A frame of the camera of this index.
    Frame(usize, EncodedImage),
    /// A message of the state's topic of this index.
    State(usize, Reading),
    /// An instruction.
    Instruction(String),
    /// Simulated time.
    Clock(Stamp),
    /// A chunk that was published live.
    Chunk(Box<ActionChunk>),
    /// Where the time of a live inference went.
    Latency(Box<StageLatency>),
    /// What a live node has commanded.
    Command(Box<Command>),
    /// What a live node has loaded.
    Loaded(Box<ModelInfo>),
}

/// What a topic feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    Image(usize),
    CompressedImage(usize),
    State(usize, Kind),
    Instruction,
    Clock,
    Chunk,
    Latency,
    Command,
    Loaded,
}

impl Route {
    fn type_name(self) -> &'static str {
        match self {
            Self::Image(_) => Image::NAME,
            Self::CompressedImage(_) => CompressedImage::NAME,
            Self::State(_, Kind::Joints) => JointState::NAME,
            Self::State(_, Kind::Pose) => PoseStamped::NAME,
            Self::State(_, Kind::Gripper) => Float32::NAME,
            Self::State(_, Kind::Channels) => Float32MultiArray::NAME,
            Self::Instruction => Text::NAME,
            Self::Clock => Clock::NAME,
            Self::Chunk => ActionChunk::NAME,
            Self::Latency => StageLatency::NAME,
            Self::Command => Command::NAME,
            Self::Loaded => ModelInfo::NAME,
        }
    }

    /// Whether it can be missing without a word.
    fn is_optional(self) -> bool {
        matches!(self, Self::Instruction | Self::Chunk | Self::Latency | Self::Command | Self::Loaded)
    }
}

/// What to read a bag for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The inputs of a deployment; with its simulated time, if it has one.
    Inputs {
        /// Whether `/clock` is ROS time.
        sim_time: bool,
    },
    /// What a live node has published.
    Outputs,
}

/// The topics of a bag that are read.
pub struct Feed {
    /// What each topic of the bag feeds.
    routes: Vec<Vec<Route>>,
    topics: Vec<BagTopic>,
    watched: Vec<Watched>,
}

/// What the messages of a topic have had in common so far.
#[derive(Clone, Debug, Default)]
struct Watched {
    stamp: Option<Stamp>,
    /// Width and height of the frames, pixels.
    size: Option<(u32, u32)>,
}

impl Feed {
    /// The topics of `bag`, which is that of `plan`, that its node listens to. What is missing or of another type is told.
    pub fn new(bag: &Bag, plan: &Plan, purpose: Purpose, problems: &mut Problems) -> Self {
        let (config, names) = (&plan.config, &plan.names);
        let topics = bag.topics().to_vec();
        let file: Arc<Path> = plan.bag.as_path().into();
        let mut routes = vec![Vec::new(); topics.len()];
        let all = wanted(config, purpose);
        let taken: Vec<String> = all.iter().map(|(_, topic)| names.resolve(topic)).collect();
        for (route, topic) in all {
            let name = names.resolve(&topic);
            let told = |reason: String| Problem {
                place: Place { file: file.clone(), at: At::File },
                topic: Some(name.clone()),
                reason,
            };
            // Several types under one name are several topics of the bag.
            let mut is_there = false;
            for (found, slot) in topics.iter().zip(&mut routes).filter(|(found, _)| found.name == name) {
                is_there = true;
                match check(found, route) {
                    Ok(()) => slot.push(route),
                    Err(reason) => problems.add(told(reason)),
                }
            }
            if !is_there && !route.is_optional() {
                problems.add(told(missing(&topics, route, &topic, &taken)));
            }
        }
        Self { watched: vec![Watched::default(); topics.len()], routes, topics }
    }

    /// Whether messages of `topic` are read.
    pub fn wants(&self, topic: &BagTopic) -> bool {
        self.topics.iter().zip(&self.routes).any(|(known, routes)| known == topic && !routes.is_empty())
    }

    fn name(&self, topic: usize) -> &str {
        self.topics.get(topic).map_or("", |topic| topic.name.as_str())
    }

    /// Reads a message, once for each input that it feeds, and hands it to `take`. One that cannot be used is told.
    pub fn read(&mut self, message: &BagMessage, problems: &mut Problems, mut take: impl FnMut(Arrival)) {
        let Some(count) = self.routes.get(message.topic).map(Vec::len) else { return };
        for at in 0..count {
            let Some(route) = self.routes.get(message.topic).and_then(|routes| routes.get(at)).copied() else { return };
            let (content, stamp) = match content(route, message.data) {
                Ok(read) => read,
                // It is as wrong for the other inputs.
                Err(error) => return problems.on(self.name(message.topic), &message.place, error.to_string()),
            };
            if at == 0 {
                self.watch(message, &content, stamp, problems);
            }
            let stamp = stamp.filter(|stamp| *stamp != Stamp::default());
            let received = Some(message.received).filter(|received| received.nanos > 0);
            take(Arrival { received, stamp, place: message.place.clone(), topic: message.topic, content });
        }
    }

    /// Tells of stamps that are zero or go back, and of frames of another size than the ones before.
    fn watch(&mut self, message: &BagMessage, content: &Content, stamp: Option<Stamp>, problems: &mut Problems) {
        let Some(watched) = self.watched.get_mut(message.topic) else { return };
        let mut told: Vec<String> = Vec::new();
        if message.received.nanos <= 0 {
            told.push("received at time zero: it is taken with the message in front of it".to_owned());
        }
        if let Some(stamp) = stamp {
            if stamp == Stamp::default() {
                told.push("the stamp is zero: the time of receipt stands for it".to_owned());
            } else {
                if let Some(before) = watched.stamp.filter(|before| stamp < *before) {
                    told.push(format!("the stamp lies {:.3} ms before the one in front of it", before.ms_since(stamp)));
                }
                watched.stamp = Some(stamp);
            }
        }
        if let Content::Frame(_, image) = content
            && let Some((width, height)) = decode::size(image)
        {
            let before = watched.size.replace((width, height)).filter(|before| *before != (width, height));
            told.extend(before.map(|(w, h)| format!("a frame of {width}x{height} follows one of {w}x{h}")));
        }
        let name = self.topics.get(message.topic).map_or("", |topic| topic.name.as_str());
        told.into_iter().for_each(|reason| problems.on(name, &message.place, reason));
    }
}

/// What is read for `purpose`, with the names that a node has for the topics.
fn wanted(config: &Config, purpose: Purpose) -> Vec<(Route, String)> {
    let Purpose::Inputs { sim_time } = purpose else {
        let outputs =
            [(Route::Chunk, "~/action_chunk"), (Route::Latency, "~/stage_latency"), (Route::Loaded, "~/model_info")];
        let command = if config.shadow { "~/shadow/command" } else { "~/command" };
        let commands = (config.output.mode == OutputMode::Stream).then_some((Route::Command, command));
        return outputs.into_iter().chain(commands).map(|(route, topic)| (route, topic.to_owned())).collect();
    };
    let cameras = config.cameras.iter().enumerate().map(|(index, camera)| {
        let route = match camera.settings.transport {
            Transport::Raw => Route::Image(index),
            Transport::Compressed => Route::CompressedImage(index),
        };
        (route, camera::topic_of(camera))
    });
    let states = state::topics_of(&config.proprio).into_iter().enumerate();
    let states = states.map(|(index, (kind, topic))| (Route::State(index, kind), topic));
    let clock = sim_time.then(|| (Route::Clock, "/clock".to_owned()));
    cameras.chain(states).chain([(Route::Instruction, "instruction".to_owned())]).chain(clock).collect()
}

/// What to say of a topic that the bag lacks, which the node calls `own`. Topics that are `taken` feed other inputs.
fn missing(topics: &[BagTopic], route: Route, own: &str, taken: &[String]) -> String {
    let wanted = route.type_name();
    let is_free = |topic: &&BagTopic| topic.message_type == wanted && !taken.contains(&topic.name);
    let alike: Vec<&str> = topics.iter().filter(is_free).map(|topic| topic.name.as_str()).collect();
    match alike.as_slice() {
        [] => format!("not in the bag, and no other free topic of type {wanted} is"),
        alike => {
            let first = alike.first().copied().unwrap_or_default();
            format!(
                "not in the bag; of type {wanted} are {}: use another one with --remap {own}:={first}",
                alike.join(", ")
            )
        }
    }
}

fn check(topic: &BagTopic, route: Route) -> Result<(), String> {
    let wanted = route.type_name();
    if topic.message_type != wanted {
        return Err(format!("its type is {}, expected {wanted}", topic.message_type));
    }
    if !topic.serialization.is_empty() && topic.serialization != "cdr" {
        return Err(format!("its messages are serialised as {}, expected cdr", topic.serialization));
    }
    let Some(definition) = &topic.definition else { return Ok(()) };
    check_definition(wanted, &definition.encoding, &definition.text).map(drop)
}

/// What a message holds, and the stamp of its header if its type has one.
fn content(route: Route, data: &[u8]) -> Result<(Content, Option<Stamp>), CdrError> {
    Ok(match route {
        Route::Image(camera) => {
            let Image { header, height, width, encoding, is_bigendian, step, data } = Image::from_cdr(data)?;
            let format = ImageFormat::Raw { encoding: encoding.to_owned(), width, height, step, is_bigendian };
            (Content::Frame(camera, EncodedImage { format, data: data.to_vec().into() }), Some(header.stamp))
        }
        Route::CompressedImage(camera) => {
            let CompressedImage { header, format, data } = CompressedImage::from_cdr(data)?;
            let format = ImageFormat::Compressed { format: format.to_owned() };
            (Content::Frame(camera, EncodedImage { format, data: data.to_vec().into() }), Some(header.stamp))
        }
        Route::State(index, Kind::Joints) => {
            let message = JointState::from_cdr(data)?;
            let reading = Reading::Joints { names: message.name.to_vec(), positions: message.position.to_vec() };
            (Content::State(index, reading), Some(message.header.stamp))
        }
        Route::State(index, Kind::Pose) => {
            let PoseStamped { header, position_m, orientation } = PoseStamped::from_cdr(data)?;
            let reading = Reading::Pose { position_m, orientation, frame_id: header.frame_id.to_owned() };
            (Content::State(index, reading), Some(header.stamp))
        }
        Route::State(index, Kind::Gripper) => {
            (Content::State(index, Reading::Channels(vec![Float32::from_cdr(data)?.data])), None)
        }
        Route::State(index, Kind::Channels) => {
            let message = Float32MultiArray::from_cdr(data)?;
            let channels = message.data.iter().skip(message.data_offset as usize).collect();
            (Content::State(index, Reading::Channels(channels)), None)
        }
        Route::Instruction => (Content::Instruction(Text::from_cdr(data)?.data.to_owned()), None),
        Route::Clock => (Content::Clock(Clock::from_cdr(data)?.clock), None),
        Route::Chunk => {
            let chunk = ActionChunk::from_cdr(data)?;
            let stamp = chunk.header.stamp;
            (Content::Chunk(Box::new(chunk)), Some(stamp))
        }
        Route::Latency => (Content::Latency(Box::new(StageLatency::from_cdr(data)?)), None),
        Route::Command => (Content::Command(Box::new(Command::from_cdr(data)?)), None),
        Route::Loaded => (Content::Loaded(Box::new(ModelInfo::from_cdr(data)?)), None),
    })
}
