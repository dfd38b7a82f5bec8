//! Pruned and quantised checkpoints: what they are made of and what they answer, against an oracle that shares no code
//! with this project (`tools/oracle/variants.py`); what they are held to; what is refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a panic is how a test fails"
)]

#[path = "../common/mod.rs"]
mod common;
mod gate;
mod golden;
mod refused;
mod storage;

use common::fixtures;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use xvla_ros::config::Device;
use xvla_ros::model::variant::Part;
use xvla_ros::offline::OfflineError;
use xvla_ros::offline::variant::{Keep, Order, Outcome, Plan, Recipe, write};

/// The domain of the calibration batches.
const DOMAIN: i64 = 2;
/// Denoising steps of the oracle.
const STEPS: usize = 4;
/// The percentile of its ranges.
const PERCENTILE: f64 = 90.0;

const FP8: Recipe = Recipe::Fp8 { percentile: PERCENTILE };
const MAGNITUDE: Recipe = Recipe::TwoToFour { wanda: false, dense_zeros: false };
const WANDA: Recipe = Recipe::TwoToFour { wanda: true, dense_zeros: false };

/// The checkpoint that variants are made of.
fn source() -> PathBuf {
    fixtures().join("checkpoints/native_ee6d")
}

/// The oracle's calibration batches and answers.
fn oracle() -> PathBuf {
    fixtures().join("variants")
}

/// A plan that accepts any distance from the source and keeps nothing.
fn plan(recipe: Recipe, part: Part, out: &Path) -> Plan {
    Plan {
        checkpoint: source(),
        adapter: None,
        calibration: Some(oracle()),
        order: Order {
            recipe,
            domain: DOMAIN,
            part,
            keep: Keep::Named(Vec::new()),
            steps: vec![STEPS],
            least_cosine: -1.0,
            least_mean_cosine: -1.0,
        },
        device: Device::Cpu,
        seed: 0,
        out: out.to_owned(),
    }
}

/// A variant with what was said of it.
struct Made {
    folder: tempfile::TempDir,
    outcome: Outcome,
}

/// Makes the variant of a plan that is changed first.
fn try_make(recipe: Recipe, part: Part, change: impl FnOnce(&mut Plan)) -> Result<Made, OfflineError> {
    let folder = tempfile::tempdir().unwrap();
    let mut plan = plan(recipe, part, folder.path());
    change(&mut plan);
    let outcome = write(&plan, &mut |_| ())?;
    Ok(Made { folder, outcome })
}

fn make(recipe: Recipe, part: Part) -> Made {
    try_make(recipe, part, |_| ()).unwrap()
}

static FP8_ALL: LazyLock<Made> = LazyLock::new(|| make(FP8, Part::All));
static SPARSE: LazyLock<Made> = LazyLock::new(|| make(MAGNITUDE, Part::Transformer));
