//! LeRobot's data sets are read as LeRobot reads them, and batches made of them are answered as LeRobot answers.
//!
//! `tools/lerobot_datasets.py` wrote `tests/fixtures/datasets` with LeRobot itself. What needs the program `ffmpeg` says
//! so and is left out where it is missing. `XVLA_LEROBOT_DATASETS` names another folder of such data sets, each beside what
//! LeRobot gives for its frames.
//!
//! | what | file |
//! |---|---|
//! | what LeRobot gives for each frame | [`golden`] |
//! | data sets that are damaged | [`damaged`] |
//! | batches for calibration | [`batches`] |

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

mod batches;
#[path = "../common/mod.rs"]
mod common;
mod damaged;
mod golden;
#[path = "../lerobot/mod.rs"]
mod lerobot;

use std::path::PathBuf;
use std::process::Command;
use xvla_ros::data::dataset::{Dataset, StepRef};

/// The step of `images` that is the one of the case `renamed`.
const OF_THE_CASE: StepRef = StepRef { episode: 1, frame: 1 };

fn fixture(name: &str) -> PathBuf {
    common::fixtures().join("datasets").join(name)
}

fn open(name: &str) -> Dataset {
    Dataset::open(&fixture(name)).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether `ffmpeg` can be started; says so where it cannot.
fn has_ffmpeg() -> bool {
    let found = Command::new("ffmpeg").arg("-version").output().is_ok_and(|ran| ran.status.success());
    if !found {
        eprintln!("skipped: no ffmpeg on the path (apt install ffmpeg)");
    }
    found
}
