//! The table: every parameter once, with its name, type, default, range or choices, and description.
//!
//! A new parameter is one field here, plus its row in the README and, where a deployment wants another value, a line in
//! `config/*.yaml`; `tests/parameters.rs` holds both to this file. [`schema`](super::schema) explains the notation.

use super::camera::{Crop, PixelEncoding, Rotation};
use super::choice::{Device, Dtype, Fallback, JointUnit, Preprocess, ProprioSource, Transport};
use super::group::{Named, flattened, group, per_name};
use super::rule::{Rule, choice, flag, integer, integers, number, parsed, path, text, texts};
use super::schema::{Table, parameters};
use std::path::PathBuf;
use std::time::Duration;

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
        /// Policy backend; `xvla doctor` lists those this build has.
        backend: String = text("libtorch"),
        /// What takes over when the backend cannot run or fails: libtorch (on the CPU if the GPU is at fault), or none.
        fallback: Fallback = choice(Fallback::Libtorch),
        /// Where the network runs: cpu, cuda or cuda:N.
        device: Device = parsed(Device::Cpu),
        /// Precision the network computes in.
        dtype: Dtype = choice(Dtype::F32),
        /// Where images are resized and normalised; device needs backend cuda_graph.
        preprocess: Preprocess = choice(Preprocess::Host),
        /// Whether a frame's vision-language part runs beside the denoising of the frame before; needs backend
        /// cuda_graph.
        overlap: bool = flag(false),
        /// Denoising steps; 0 for the checkpoint's own number.
        steps: Option<usize> = integer(0).within(0..=1000).unless(0),
        /// Seed of the noise, the same for every chunk, so that a chunk depends on its observation only; -1 for fresh
        /// noise in every chunk.
        seed: Option<u64> = integer(0).within(-1..=2_147_483_647).unless(-1),
        /// Embodiment: which soft prompts and projections apply (3 is LIBERO).
        domain_id: i64 = integer(0).within(0..=1_048_576),
        /// Time between two actions of a chunk, seconds.
        step_dt_s: f64 = number(0.1).within(0.0001..=60.0),
        /// Names of the action channels; empty for the action space's own.
        action_names: Vec<String> = texts(&[]),
        /// frame_id of published headers.
        frame_id: String = text(""),
        /// The robot's name in diagnostics; empty for the name of this machine.
        hardware_id: String = text(""),
        /// Instruction until one arrives on the topic; empty to wait for it.
        instruction: Option<String> = text("").unless_blank(),
        /// Threads for libtorch's operators; 0 for its own choice.
        num_threads: Option<usize> = integer(0).within(0..=1024).unless(0),
        /// Names of the cameras, in the checkpoint's order of views; empty for the checkpoint's own, or else camera_0, camera_1 and so on for its views.
        cameras: Vec<Named<CameraConfig>> =
            per_name("camera", texts(&[]).at_most(MAX_CAMERAS).each_once().topic_names()),
        /// The robot's state.
        proprio: ProprioConfig = group(),
        /// Which inputs belong together.
        sync: SyncConfig = group(),
        /// How the policy is run.
        policy: PolicyConfig = group(),
        /// Engines, for the backends that execute one.
        engine: EngineConfig = group(),
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
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct GripperConfig {
        /// Whether grippers are sent only when they change, so that the last opening holds until then.
        latched: bool = flag(true),
        /// Oldest opening that an observation may hold, milliseconds, unless it is latched; 0 for any.
        max_age: Option<Duration> = milliseconds(500).named("max_age_ms"),
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
        /// Longest wait for an inference on a device, milliseconds; after it the fallback takes over; 0 to wait for
        /// ever.
        deadline: Option<Duration> = milliseconds(0).named("deadline_ms"),
        /// Largest number of inferences per second; 0 for one on every new set of inputs, -1 for one when ~/infer_once asks for it.
        rate_hz: f64 = number(0.0).within(-1.0..=1000.0),
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
        /// Whether the engine computes its matrix products in FP8; needs dtype f16.
        fp8: bool = flag(false),
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
        /// Whether the engine's matrices are pruned to 2:4.
        prune_2to4: bool = flag(false),
        /// Whether TensorRT may choose kernels for sparse weights.
        sparse: bool = flag(false),
        /// TensorRT's limit for its workspace while building, MiB; 0 for its own choice.
        workspace_mb: Option<u64> = integer(0).within(0..=1_048_576).unless(0),
    }
}

/// A span of time in whole milliseconds, of at most ten minutes; 0 is `None`.
fn milliseconds(default: i64) -> Rule<Option<Duration>> {
    integer(default).within(0..=600_000).unless(0).map(|span| span.map(Duration::from_millis))
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
