//! What the node publishes, in the package's own messages (`msg/*.msg`, where the fields are explained further).

use super::header::{Header, read_duration_ns, read_time, write_duration_ns, write_time};
use super::message::{Message, Read, Write};
use crate::data::cdr::{CdrError, CdrReader, CdrWriter};
use crate::types::Stamp;

/// An xvla_ros/ActionChunk: the actions that follow from one observation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ActionChunk {
    /// The moment that the observation stands for; action k is meant for it + (k + 1) `step_dt_ns`.
    pub header: Header<String>,
    /// Stamp of the oldest input.
    pub oldest_stamp: Stamp,
    /// The inputs used: cameras, then state.
    pub input_names: Vec<String>,
    /// When each of these was measured.
    pub input_stamps: Vec<Stamp>,
    /// The number of the inference, from 0.
    pub sequence: u64,
    /// Seed of the noise.
    pub seed: u64,
    /// Time between two actions, ns.
    pub step_dt_ns: i64,
    /// T: actions in the chunk.
    pub chunk_length: u32,
    /// A': channels of an action.
    pub action_dim: u32,
    /// Name of the action space.
    pub action_mode: String,
    /// One name per channel.
    pub action_names: Vec<String>,
    /// The embodiment whose soft prompts apply.
    pub domain_id: i64,
    /// The instruction that is followed.
    pub instruction: String,
    /// The policy backend that computed it.
    pub backend: String,
    /// SHA-256 of the weights in hex; with an adapter followed by `+` and the adapter's.
    pub checkpoint_sha256: String,
    /// SHA-256 of the engine in hex; empty without one.
    pub engine_sha256: String,
    /// Publication minus `oldest_stamp`, ns; negative for a stamp that lies ahead.
    pub observation_age_ns: i64,
    /// [T, A'] row-major.
    pub actions: Vec<f32>,
}

impl Message for ActionChunk {
    const NAME: &'static str = "xvla_ros/msg/ActionChunk";
}

impl Read<'_> for ActionChunk {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self {
            header: Header::read(reader)?,
            oldest_stamp: read_time(reader, "oldest_stamp")?,
            input_names: reader.strings("input_names")?.to_vec(),
            input_stamps: (0..reader.length("input_stamps", 8)?)
                .map(|_| read_time(reader, "input_stamps"))
                .collect::<Result<_, _>>()?,
            sequence: reader.number("sequence")?,
            seed: reader.number("seed")?,
            step_dt_ns: read_duration_ns(reader, "step_dt")?,
            chunk_length: reader.number("chunk_length")?,
            action_dim: reader.number("action_dim")?,
            action_mode: reader.string("action_mode")?.to_owned(),
            action_names: reader.strings("action_names")?.to_vec(),
            domain_id: reader.number("domain_id")?,
            instruction: reader.string("instruction")?.to_owned(),
            backend: reader.string("backend")?.to_owned(),
            checkpoint_sha256: reader.string("checkpoint_sha256")?.to_owned(),
            engine_sha256: reader.string("engine_sha256")?.to_owned(),
            observation_age_ns: read_duration_ns(reader, "observation_age")?,
            actions: reader.numbers("actions")?.to_vec(),
        })
    }
}

impl Write for ActionChunk {
    fn write(&self, writer: &mut CdrWriter) {
        self.header.write(writer);
        write_time(writer, self.oldest_stamp);
        writer.strings(&self.input_names);
        writer.length(self.input_stamps.len());
        self.input_stamps.iter().for_each(|stamp| write_time(writer, *stamp));
        writer.number(self.sequence);
        writer.number(self.seed);
        write_duration_ns(writer, self.step_dt_ns);
        writer.number(self.chunk_length);
        writer.number(self.action_dim);
        writer.string(&self.action_mode);
        writer.strings(&self.action_names);
        writer.number(self.domain_id);
        writer.string(&self.instruction);
        writer.string(&self.backend);
        writer.string(&self.checkpoint_sha256);
        writer.string(&self.engine_sha256);
        write_duration_ns(writer, self.observation_age_ns);
        writer.numbers(&self.actions);
    }
}

/// An xvla_ros/Command: what the robot is to do at one control tick.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Command {
    /// The tick.
    pub header: Header<String>,
    /// The chunk that is played.
    pub sequence: u64,
    /// Where the command lies in it: 0 is the first action.
    pub step: f32,
    /// The tick minus the moment that the chunk's observation stands for, ns.
    pub plan_age_ns: i64,
    /// 0 for the plan's own, 1 for one that was clamped, 2 for one that is held.
    pub verdict: u8,
    /// Why it is not the plan's own; empty if it is.
    pub reason: String,
    /// One per channel.
    pub values: Vec<f32>,
}

impl Message for Command {
    const NAME: &'static str = "xvla_ros/msg/Command";
}

impl Read<'_> for Command {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self {
            header: Header::read(reader)?,
            sequence: reader.number("sequence")?,
            step: reader.number("step")?,
            plan_age_ns: read_duration_ns(reader, "plan_age")?,
            verdict: reader.number("verdict")?,
            reason: reader.string("reason")?.to_owned(),
            values: reader.numbers("values")?.to_vec(),
        })
    }
}

impl Write for Command {
    fn write(&self, writer: &mut CdrWriter) {
        self.header.write(writer);
        writer.number(self.sequence);
        writer.number(self.step);
        write_duration_ns(writer, self.plan_age_ns);
        writer.number(self.verdict);
        writer.string(&self.reason);
        writer.numbers(&self.values);
    }
}

/// A std_msgs/Bool, such as whether the robot is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bool {
    /// The answer.
    pub data: bool,
}

impl Message for Bool {
    const NAME: &'static str = "std_msgs/msg/Bool";
}

impl Write for Bool {
    fn write(&self, writer: &mut CdrWriter) {
        writer.number(u8::from(self.data));
    }
}

/// An xvla_ros/StageLatency: where the time of one inference went. Its header and number are those of the chunk.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StageLatency {
    /// The chunk's header.
    pub header: Header<String>,
    /// The chunk's number.
    pub sequence: u64,
    /// The policy backend that ran.
    pub backend: String,
    /// Denoising steps.
    pub steps: u32,
    /// From the complete observation to the start of the inference.
    pub queue_ms: f64,
    /// Decoding, resizing, normalising, tokenising, upload.
    pub preprocess_ms: f64,
    /// The vision-language part.
    pub vlm_ms: f64,
    /// All denoising steps.
    pub policy_ms: f64,
    /// Action space, de-normalisation, download.
    pub postprocess_ms: f64,
    /// From the start of preprocessing to the actions.
    pub e2e_ms: f64,
    /// From the oldest input's stamp to the publication.
    pub observation_age_ms: f64,
}

impl Message for StageLatency {
    const NAME: &'static str = "xvla_ros/msg/StageLatency";
}

impl Read<'_> for StageLatency {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self {
            header: Header::read(reader)?,
            sequence: reader.number("sequence")?,
            backend: reader.string("backend")?.to_owned(),
            steps: reader.number("steps")?,
            queue_ms: reader.number("queue_ms")?,
            preprocess_ms: reader.number("preprocess_ms")?,
            vlm_ms: reader.number("vlm_ms")?,
            policy_ms: reader.number("policy_ms")?,
            postprocess_ms: reader.number("postprocess_ms")?,
            e2e_ms: reader.number("e2e_ms")?,
            observation_age_ms: reader.number("observation_age_ms")?,
        })
    }
}

impl Write for StageLatency {
    fn write(&self, writer: &mut CdrWriter) {
        self.header.write(writer);
        writer.number(self.sequence);
        writer.string(&self.backend);
        writer.number(self.steps);
        writer.number(self.queue_ms);
        writer.number(self.preprocess_ms);
        writer.number(self.vlm_ms);
        writer.number(self.policy_ms);
        writer.number(self.postprocess_ms);
        writer.number(self.e2e_ms);
        writer.number(self.observation_age_ms);
    }
}

/// An xvla_ros/ModelInfo: what runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelInfo {
    /// The time of publication.
    pub header: Header<String>,
    /// Its folder.
    pub checkpoint: String,
    /// SHA-256 of the weights in hex; with an adapter followed by `+` and the adapter's.
    pub checkpoint_sha256: String,
    /// Name of the action space.
    pub action_mode: String,
    /// The channels of an action.
    pub action_names: Vec<String>,
    /// The channels of a command; empty unless commands are streamed.
    pub command_names: Vec<String>,
    /// How far commands may go, one line each.
    pub limits: Vec<String>,
    /// T: actions in a chunk.
    pub chunk_length: u32,
    /// Denoising steps.
    pub steps: u32,
    /// The cameras in the order of views.
    pub cameras: Vec<String>,
    /// The state that the checkpoint expects, in words.
    pub state: String,
    /// What the checkpoint's processors do, in words.
    pub processors: String,
    /// What is known about the model, and from where.
    pub facts: Vec<Fact>,
}

/// An xvla_ros/Fact: one fact about the model of a deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fact {
    /// The parameter that holds it.
    pub name: String,
    /// As a parameter file has it.
    pub value: String,
    /// Where it comes from.
    pub origin: String,
}

impl Message for ModelInfo {
    const NAME: &'static str = "xvla_ros/msg/ModelInfo";
}

impl Read<'_> for ModelInfo {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self {
            header: Header::read(reader)?,
            checkpoint: reader.string("checkpoint")?.to_owned(),
            checkpoint_sha256: reader.string("checkpoint_sha256")?.to_owned(),
            action_mode: reader.string("action_mode")?.to_owned(),
            action_names: reader.strings("action_names")?.to_vec(),
            command_names: reader.strings("command_names")?.to_vec(),
            limits: reader.strings("limits")?.to_vec(),
            chunk_length: reader.number("chunk_length")?,
            steps: reader.number("steps")?,
            cameras: reader.strings("cameras")?.to_vec(),
            state: reader.string("state")?.to_owned(),
            processors: reader.string("processors")?.to_owned(),
            // A fact is three strings, each at least its length.
            facts: (0..reader.length("facts", 12)?).map(|_| Fact::read(reader)).collect::<Result<_, _>>()?,
        })
    }
}

impl Write for ModelInfo {
    fn write(&self, writer: &mut CdrWriter) {
        self.header.write(writer);
        writer.string(&self.checkpoint);
        writer.string(&self.checkpoint_sha256);
        writer.string(&self.action_mode);
        writer.strings(&self.action_names);
        writer.strings(&self.command_names);
        writer.strings(&self.limits);
        writer.number(self.chunk_length);
        writer.number(self.steps);
        writer.strings(&self.cameras);
        writer.string(&self.state);
        writer.string(&self.processors);
        writer.length(self.facts.len());
        for fact in &self.facts {
            writer.string(&fact.name);
            writer.string(&fact.value);
            writer.string(&fact.origin);
        }
    }
}

impl Fact {
    fn read(reader: &mut CdrReader) -> Result<Self, CdrError> {
        Ok(Self {
            name: reader.string("facts.name")?.to_owned(),
            value: reader.string("facts.value")?.to_owned(),
            origin: reader.string("facts.origin")?.to_owned(),
        })
    }
}
