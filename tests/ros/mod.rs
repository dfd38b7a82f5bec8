//! What the ROS tests share: the node as a process, a robot driven through rclpy, and deployments of both.

#![allow(dead_code, unused_imports, reason = "each test program uses a part of this")]

mod arm;
mod deployment;
mod node;
mod pictures;
mod recorder;
mod robot;
#[path = "../scratch/mod.rs"]
mod scratch;

pub use arm::{Arm, CAMERA};
pub use deployment::{Deployment, Shared, shared};
pub use node::{NodeProcess, domain};
pub use pictures::{hex, noise_image, photograph};
pub use recorder::{Recorder, read_bag};
pub use robot::{Chunk, Robot, count, value};
pub use scratch::folder;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Joints of the synthetic robot.
pub const JOINTS: [&str; 3] = ["shoulder", "elbow", "wrist"];

/// A tiny checkpoint with three views, 64x64 images and a tokenizer. Its action space `auto` leaves the state to the data
/// set, so that it takes the joints of the synthetic robot as well as a pose.
pub fn checkpoint() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| synthesise("tiny", "auto")).clone()
}

/// A tiny checkpoint whose state is two arms' poses.
pub fn checkpoint_of_poses() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| synthesise("tiny_ee6d", "ee6d")).clone()
}

/// A tiny checkpoint whose state is fourteen joints.
pub fn checkpoint_of_joints() -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| synthesise("tiny_joint", "joint")).clone()
}

fn synthesise(name: &str, action_mode: &str) -> PathBuf {
    let out = folder().join(name);
    let path = out.to_str().unwrap();
    xvla(&["checkpoint", "synth", "--preset", "tiny", "--action-mode", action_mode, "--out", path]);
    out
}

/// Writes a file of this program's folder whole, so that whoever reads it meanwhile sees all of it or the one before.
pub fn write(path: &Path, text: &str) {
    let fresh = tempfile::NamedTempFile::new_in(folder()).unwrap();
    std::fs::write(&fresh, text).unwrap();
    fresh.persist(path).unwrap();
}

/// Runs the offline program, which must succeed.
pub fn xvla(arguments: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_xvla")).args(arguments).output().unwrap();
    assert!(output.status.success(), "xvla {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
