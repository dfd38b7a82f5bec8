//! The table: every parameter once, with its name, type, default, range or choices, and description.
//!
//! A new parameter is one field here, plus its row in the README and, where a deployment wants another value, a line in
//! `config/*.yaml`; `tests/parameters.rs` holds both to this file. [`schema`](super::schema) explains the notation.

use super::camera::{Crop, PixelEncoding, Rotation};
use super::choice::{
    Device, Dtype, Fallback, FirstRotation, Grip, JointUnit, Preprocess, ProprioFeed, ProprioSource, RotationLayout,
    Transport,
};
use super::control::{ControlConfig, GuardConfig, LifecycleConfig, LimitsConfig, OutputConfig};
use super::drill::DrillConfig;
use super::group::{Named, flattened, group, per_name};
use super::rule::{
    choice, choice_or_unknown, flag, integer, integers, milliseconds, number, numbers, parsed, path, text, texts,
};
use super::schema::{Table, parameters};
use crate::error::{InputError, MOST_INSTRUCTION_BYTES, check_instruction};
use std::path::PathBuf;
use std::time::Duration;

/// The commands of a gripper, in its own unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GripperCommands {
    /// Opens it.
    pub open: f64,
    /// Closes it.
    pub closed: f64,
}

impl GripperCommands {
    /// The commands that a parameter's list gives; an empty list gives none.
    fn from_list(list: Vec<f64>) -> Result<Option<Self>, String> {
        match *list.as_slice() {
            [] => Ok(None),
            [open, closed] => Ok(Some(Self { open, closed })),
            _ => Err(format!("{} numbers: expected two, the command that opens and the one that closes", list.len())),
        }
    }
}

/// The most cameras a node subscribes to.
pub const MAX_CAMERAS: usize = 16;

parameters! {
    /// The parameters of a deployment, validated.
    #[derive(Clone, Debug, PartialEq)]
    pub struct Config {
        /// Folder of the checkpoint: config.json, model.safetensors, tokenizer.json. Required.
        checkpoint: PathBuf =
            text("").required("name the folder that holds config.json and model.safetensors").map(PathBuf::from),
        /// Folder of a LoRA adapter (PEFT) that is merged into the checkpoint's weights; empty for none.
        adapter: Option<PathBuf> = path(),
        /// Tokenizer, a tokenizer.json or its folder, for a checkpoint that has none; empty for the checkpoint's own.
        tokenizer: Option<PathBuf> = path(),
        /// Policy backend; `xvla doctor` lists those this build has.
        backend: String = text("libtorch"),
        /// What takes over when the backend cannot run or fails: libtorch (on the CPU if the GPU is at fault), or none.
        fallback: Fallback = choice(Fallback::Libtorch),
        /// Where the network runs: cpu, cuda or cuda:N.
        device: Device = parsed(Device::Cpu),
        /// Precision the network computes in.
        dtype: Dtype = choice(Dtype::F32),
        /// Where images are resized and normalised; device needs backend cuda_graph or tensorrt.
        preprocess: Preprocess = choice(Preprocess::Host),
        /// Whether a frame's vision-language part runs beside the denoising of the frame before; needs backend
        /// cuda_graph or tensorrt.
        overlap: bool = flag(false),
        /// Denoising steps; 0 for the checkpoint's own number. A backend that records graphs takes another number only while the node is not active.
        steps: Option<usize> = integer(0).within(0..=1000).unless(0).live(),
        /// Seed of the noise, the same for every chunk, so that a chunk depends on its observation only; -1 for fresh
        /// noise in every chunk.
        seed: Option<u64> = integer(0).within(-1..=2_147_483_647).unless(-1),
        /// Robot whose facts apply where the checkpoint's files give none: a name that `xvla checkpoint inspect` lists, or a YAML file like those in config/embodiments; empty for none.
        embodiment: Option<String> = text("").unless_blank(),
        /// Domain: which soft prompts and projections apply (3 is LIBERO); -1 for that of the checkpoint or embodiment.
        domain_id: Option<i64> = integer(-1).within(-1..=1_048_576).unless(-1),
        /// Layout of rotations as six numbers: columns (r11 r21 r31 r12 r22 r32, LIBERO and LeRobot) or rows (r11 r12 r21 r22 r31 r32, every other released checkpoint); empty for that of the checkpoint or embodiment.
        rotation_6d: Option<RotationLayout> = choice_or_unknown(),
        /// Time between two actions of a chunk, seconds; 0 for that of the embodiment, or unknown.
        step_dt_s: Option<f64> = number(0.0).within(0.0..=60.0).map(|seconds| (seconds > 0.0).then_some(seconds)),
        /// Actions of a chunk that are executed before the next one; 0 for the embodiment's number, or all.
        execute_steps: Option<usize> = integer(0).within(0..=10_000).unless(0).live(),
        /// Names of the action channels; empty for the action space's own.
        action_names: Vec<String> = texts(&[]),
        /// frame_id of published headers.
        frame_id: String = text(""),
        /// The robot's name in diagnostics; empty for the name of this machine.
        hardware_id: String = text(""),
        /// Instruction until one arrives on the topic; empty to wait for it. When it is set, it replaces what the topic said.
        instruction: Option<String> = text("").checked(|text| match check_instruction(&text) {
            Ok(()) => Ok(Some(text)),
            Err(InputError::EmptyInstruction) => Ok(None),
            Err(_) => Err(format!("{} bytes, at most {MOST_INSTRUCTION_BYTES} are taken", text.len())),
        }).live(),
        /// Threads for libtorch's operators; 0 for its own choice.
        num_threads: Option<usize> = integer(0).within(0..=1024).unless(0),
        /// Names of the cameras, in the checkpoint's order of views; empty for the checkpoint's own, or else camera_0, camera_1 and so on for its views.
        cameras: Vec<Named<CameraConfig>> =
            per_name("camera", texts(&[]).at_most(MAX_CAMERAS).each_once().topic_names()),
        /// The robot's state.
        proprio: ProprioConfig = group(),
        /// What the actions mean.
        action: ActionConfig = group(),
        /// Which inputs belong together.
        sync: SyncConfig = group(),
        /// How the policy is run.
        policy: PolicyConfig = group(),
        /// What is published of plans.
        output: OutputConfig = group(),
        /// Whether commands go to ~/shadow/... only, so that the robot does not move.
        shadow: bool = flag(false),
        /// How plans are played.
        control: ControlConfig = group(),
        /// What is refused, and what happens then.
        guard: GuardConfig = group(),
        /// How far and how fast the robot may go.
        limits: LimitsConfig = group(),
        /// The states of a managed node.
        lifecycle: LifecycleConfig = group(),
        /// Faults of the policy that are set off on purpose.
        drill: DrillConfig = group(),
        /// Engines, for the backends that execute one.
        engine: EngineConfig = group(),
        /// Batches that ~/dump_calibration writes.
        calibration: CalibrationConfig = group(),
        /// Which facts of the checkpoint or embodiment a parameter may contradict.
        force: ForceConfig = group(),
    }

    /// What the actions mean, beyond what the action space says.
    #[derive(Clone, Debug, PartialEq)]
    pub struct ActionConfig {
        /// Channels of an action that are differences to the state at the chunk's start, by index; the others are absolute.
        delta: Vec<i64> = integers(&[]).within(0..=4096),
        /// The grippers of an action.
        gripper: ActionGripperConfig = group(),
    }

    /// How a gripper's channel of an action becomes a command.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct ActionGripperConfig {
        /// Value between open and closed, 0 to 1; -1 if it is unknown.
        threshold: Option<f64> = number(-1.0).within(-1.0..=1.0).map(|value| (value >= 0.0).then_some(value)),
        /// What the gripper does above the threshold: open or closed; empty if it is unknown.
        above: Option<Grip> = choice_or_unknown(),
        /// The commands that open and that close the gripper, in its own unit; empty if they are unknown.
        commands: Option<GripperCommands> = numbers(&[]).within(-1e9..=1e9).checked(GripperCommands::from_list),
    }

    /// Which facts a parameter may contradict. Without its flag, a parameter that differs from what the checkpoint or the
    /// embodiment says is an error that names both.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ForceConfig {
        /// Whether domain_id may differ.
        domain_id: bool = flag(false),
        /// Whether rotation_6d may differ.
        rotation_6d: bool = flag(false),
        /// Whether step_dt_s may differ.
        step_dt_s: bool = flag(false),
        /// Whether execute_steps may differ.
        execute_steps: bool = flag(false),
        /// Whether cameras may be in another order or of another number.
        cameras: bool = flag(false),
        /// Whether the rotation of a camera may differ.
        camera_rotation: bool = flag(false),
        /// Whether proprio.feed, proprio.first_rotation and the scale and offset of proprio.gripper may differ.
        proprio: bool = flag(false),
        /// Whether action.delta and action.gripper may differ.
        action: bool = flag(false),
        /// Whether the tokenizer may be another.
        tokenizer: bool = flag(false),
    }

    /// The parameters of one camera.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct CameraConfig {
        /// How this camera's images travel.
        transport: Transport = choice(Transport::Raw),
        /// What the model sees of them.
        view: ViewSettings = flattened(),
        /// Whether the policy stops without this camera; otherwise its view is masked while it is too old.
        required: bool = flag(true),
        /// Oldest frame that an observation may hold, milliseconds, by its stamp and by its receipt; 0 for any.
        max_age: Option<Duration> = milliseconds(500).named("max_age_ms"),
        /// Rate at which the camera sends, Hz, so that lost frames can be counted; 0 to estimate it from the stamps.
        rate_hz: Option<f64> = number(0.0).within(0.0..=1000.0).map(|rate_hz| (rate_hz > 0.0).then_some(rate_hz)),
    }

    /// What the model sees of a camera's images: how their bytes are read, which part is kept, how that is turned.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ViewSettings {
        /// How far this camera's images are turned clockwise, degrees: 0, 90, 180 (LIBERO's agent view) or 270.
        rotation: Rotation = integer(0).within(0..=270).checked(Rotation::from_degrees),
        /// Part that is kept, [x, y, width, height] in pixels of the image as received, before it is turned; empty for all
        /// of it.
        crop: Option<Crop> = integers(&[]).checked(|list| Crop::from_list(&list)),
        /// Encoding of the pixels, whatever the message says; empty for the message's own.
        encoding: Option<PixelEncoding> = text("").checked(|name| PixelEncoding::from_setting(&name)),
    }

    /// How the robot's state is obtained.
    #[derive(Clone, Debug, PartialEq)]
    pub struct ProprioConfig {
        /// Where proprioception comes from.
        source: ProprioSource = choice(ProprioSource::JointStates),
        /// Joints of joint_states in the checkpoint's order of channels; required for that source.
        joints: Vec<Named<JointConfig>> = per_name("joint", texts(&[]).each_once().named("joint_names")),
        /// Arms of source ee_pose, in the checkpoint's order, each with the topics <arm>/ee_pose and <arm>/gripper; empty for one arm on ee_pose and gripper.
        arms: Vec<String> = texts(&[]).each_once().topic_names(),
        /// Whether the policy stops when the state is too old; otherwise the last one is held.
        required: bool = flag(true),
        /// Whether the state is sent only when it changes, so that the last one holds until then.
        latched: bool = flag(false),
        /// Oldest state that an observation may hold, milliseconds, by its stamp and by its receipt; 0 for any.
        max_age: Option<Duration> = milliseconds(500).named("max_age_ms"),
        /// The grippers of source ee_pose.
        gripper: GripperConfig = group(),
        /// What the checkpoint takes for the state: measured, last_command (the command that was due last) or zeros; empty for what the embodiment says, or measured.
        feed: Option<ProprioFeed> = choice_or_unknown(),
        /// Whether the state is subscribed to although feed is zeros, for what is not the checkpoint's: relative actions that are played, and limits of jumps.
        measure: bool = flag(false),
        /// Rotations before the first command, with feed last_command: measured or identity; empty for what the embodiment says, or measured.
        first_rotation: Option<FirstRotation> = choice_or_unknown(),
        /// Whether a new instruction makes the last command forgotten, with feed last_command.
        reset_on_instruction: bool = flag(false),
    }

    /// How one joint's position becomes a channel of the state.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct JointConfig {
        /// The checkpoint's unit for this joint: si for radians or metres as ROS sends them, deg for degrees, mm for millimetres.
        unit: JointUnit = choice(JointUnit::Si),
        /// Factor that the position in that unit is multiplied by.
        scale: f64 = number(1.0).within(-1e6..=1e6),
        /// What is added after the factor.
        offset: f64 = number(0.0).within(-1e6..=1e6),
        /// Whether this joint is sent only when it changes, so that its last position holds until then.
        latched: bool = flag(false),
    }

    /// How grippers that have a topic of their own are taken.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct GripperConfig {
        /// Whether grippers are sent only when they change, so that the last opening holds until then.
        latched: bool = flag(true),
        /// Oldest opening that an observation may hold, milliseconds, unless it is latched; 0 for any.
        max_age: Option<Duration> = milliseconds(500).named("max_age_ms"),
        /// Factor that an opening is multiplied by.
        scale: f64 = number(1.0).within(-1e6..=1e6),
        /// What is added after the factor.
        offset: f64 = number(0.0).within(-1e6..=1e6),
    }

    /// Which inputs belong together.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SyncConfig {
        /// Largest difference between the stamps of the frames of one observation, milliseconds.
        tolerance: Duration =
            integer(50).within(0..=60_000).map(|ms| Duration::from_millis(ms.unsigned_abs())).named("tolerance_ms"),
        /// Frames with the same stamp or the same bytes after which a camera counts as frozen and is not used; 0 for never, as a simulation that stands still needs.
        frozen_after: Option<u64> = integer(30).within(0..=1_000_000).unless(0),
    }

    /// How the policy is run.
    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct PolicyConfig {
        /// Longest wait for an inference of cuda_graph or tensorrt, milliseconds; after it the fallback takes over; 0 to wait for ever.
        deadline: Option<Duration> = milliseconds(0).named("deadline_ms"),
        /// Largest number of inferences per second; 0 for one on every new set of inputs, -1 for one when ~/infer_once asks for it.
        rate_hz: f64 = number(0.0).within(-1.0..=1000.0).checked(|rate_hz| {
            let is_meant = rate_hz >= 0.0 || rate_hz == -1.0;
            is_meant.then_some(rate_hz).ok_or_else(|| format!("{rate_hz}: expected -1, or at least 0"))
        }).live(),
    }

    /// What the node writes when `~/dump_calibration` asks for it.
    #[derive(Clone, Debug, PartialEq)]
    pub struct CalibrationConfig {
        /// Folder for the calibration batches that ~/dump_calibration writes; empty to write none.
        folder: Option<PathBuf> = path(),
        /// Number of these batches, of one observation each.
        count: usize = integer(32).within(1..=100_000).map(|count| usize::try_from(count).unwrap_or(1)),
        /// Least time between two of these observations, seconds; 0 to take every one.
        every_s: f64 = number(0.0).within(0.0..=86_400.0),
    }

    /// Which engine is used, where its file lies, and how it runs. An engine is the exported policy as a file that ONNX
    /// Runtime or TensorRT executes.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct EngineConfig {
        /// Engine file for the backends onnxruntime and tensorrt; empty to find one in the cache.
        path: Option<PathBuf> = path(),
        /// Folder of the engine cache; empty for ~/.cache/xvla_ros/engines.
        cache: Option<PathBuf> = path(),
        /// Whether an engine that is missing or does not fit is built at start-up, which takes up to minutes.
        rebuild: bool = flag(false),
        /// How it is built, beyond its precision.
        build: BuildOptions = flattened(),
        /// Folder or file of ONNX Runtime's or TensorRT's library; empty to search for it.
        library: Option<PathBuf> = path(),
        /// Whether TensorRT's launches are captured in a CUDA graph with the rest of the pipeline.
        cuda_graph: bool = flag(true),
    }

    /// How an engine is built, beyond its precision and its inputs. Everything that names, builds or looks up an engine
    /// takes this struct, so a new option is one field here and one argument on the command line.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BuildOptions {
        /// Whether TensorRT may choose kernels for sparse weights of a checkpoint that is not pruned to 2:4; of one that is, it always may.
        sparse: bool = flag(false),
        /// TensorRT's limit for its workspace while building, MiB; 0 for its own choice.
        workspace_mb: Option<u64> = integer(0).within(0..=1_048_576).unless(0),
    }
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self::defaults()
    }
}

impl Default for ViewSettings {
    fn default() -> Self {
        Self::defaults()
    }
}

impl Default for BuildOptions {
    fn default() -> Self {
        Self::defaults()
    }
}
