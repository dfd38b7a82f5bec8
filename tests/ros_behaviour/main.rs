//! How the node behaves on a real ROS 2: its parameters, names, QoS and log, bad input, another instruction, a model that is slow or
//! cannot run, and its end.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

#[path = "../ros/mod.rs"]
mod ros;

mod bad_input;
mod calibration;
mod completeness;
mod end;
mod facts;
mod fallback;
mod instruction;
mod live_parameters;
mod log;
mod names;
mod parameter_files;
mod parameters;
mod qos;
mod slow_model;
mod state;
mod variant;

use ros::{JOINTS, checkpoint, folder};

/// What a node with one camera listens to, below its namespace.
const ONE_CAMERA: [(&str, &str); 3] =
    [("image", "camera_0/image"), ("joints", "joint_states"), ("instruction", "instruction")];

/// A parameter file for the tiny checkpoint. Messages come one by one and not as streams, so nothing is ever too old, too
/// far apart or frozen.
fn params_file(cameras: usize) -> String {
    let path = folder().join(format!("{cameras}_cameras.yaml"));
    let text = format!(
        "/**:\n  ros__parameters:\n    checkpoint: {}\n    num_threads: 1\n    domain_id: 0\n    steps: 2\n    step_dt_s: 1\n    \
         action_names: []\n    sync: {{tolerance_ms: 60000, frozen_after: 0}}\n    cameras: [{}]\n    camera:\n{}    \
         proprio:\n      latched: true\n      joint_names: [{}]\n",
        checkpoint().display(),
        (0..cameras).map(|view| format!("camera_{view}")).collect::<Vec<_>>().join(", "),
        (0..cameras).map(|view| format!("      camera_{view}: {{max_age_ms: 0}}\n")).collect::<String>(),
        JOINTS.join(", ")
    );
    ros::write(&path, &text);
    path.to_str().unwrap().to_owned()
}
