//! `xvla checkpoint synth`: writes synthetic checkpoints and calibration batches.

use crate::new_folder::NewFolder;
use crate::output;
use anyhow::Context;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;
use std::time::Instant;
use xvla_ros::config::Dtype;
use xvla_ros::model::action_space::ActionMode;
use xvla_ros::model::synth::dialect::Dialect;
use xvla_ros::model::synth::presets::Preset;
use xvla_ros::model::synth::{self, Recipe, StoredDtype};
use xvla_ros::offline::synthetic_batches::{Batches, write_calibration};
use xvla_ros::pipeline::prepare::TOKENIZER_FILE;
use xvla_ros::transform::train_tokenizer::train_small;

/// The number of token ids of the tokenizer. The sentences that it is trained on have few more pairs to merge.
const TOKENIZER_IDS: usize = 512;

/// Write a valid checkpoint with random weights and a working tokenizer.
///
/// The same seed gives the same weights in every layout, dtype (but for rounding) and number of shards. Weights are
/// scaled so that activations stay of size one; the actions mean nothing.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:\n  xvla checkpoint synth --preset tiny --out tiny\n  \
    xvla checkpoint synth --preset base --dtype f16 --layout lerobot-native --shards 2 --out ckpt --calib calib --batches 8")]
pub struct Args {
    /// tiny: 1 M parameters, 64x64 images; base: the released 0.9 B, 224x224.
    #[arg(long)]
    preset: PresetName,
    /// Folder to make; must not exist or be empty. Appears whole or not at all.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Seed of all random values.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Names of tensors and configuration keys.
    #[arg(long, default_value = "original")]
    layout: LayoutName,
    /// How weights are stored: f32, f16 or bf16.
    #[arg(long, default_value = "f32")]
    dtype: Dtype,
    /// Action space: ee6d, joint, agibot_ee6d, franka_joint7, so101_bimanual or auto.
    #[arg(long, value_name = "M", default_value = "ee6d", value_parser = action_mode)]
    action_mode: ActionMode,
    /// Number of weight files.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Camera views.
    #[arg(long, value_name = "V", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    views: u16,
    /// Side of the square images, pixels [default: the preset's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(32..=256))]
    image_size: Option<i64>,
    /// Also write calibration batches that fit the checkpoint to this folder; must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    calib: Option<PathBuf>,
    /// Number of calibration batches.
    #[arg(long, value_name = "N", default_value_t = 8, requires = "calib", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batches: u32,
    /// Samples per calibration batch.
    #[arg(long, value_name = "B", default_value_t = 1, requires = "calib", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch_size: u16,
    /// Embodiment of all calibration samples, as engines have one [default: another one each time].
    #[arg(long, value_name = "N", requires = "calib", value_parser = clap::value_parser!(i64).range(0..30))]
    domain: Option<i64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PresetName {
    Tiny,
    Base,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LayoutName {
    Original,
    Lerobot,
    LerobotNative,
}

fn action_mode(name: &str) -> Result<ActionMode, String> {
    let known = || ActionMode::ALL.map(ActionMode::name).join(", ");
    ActionMode::from_name(name).ok_or_else(|| format!("expected one of {}", known()))
}

impl Args {
    fn recipe(&self) -> Recipe {
        let preset = match self.preset {
            PresetName::Tiny => Preset::Tiny,
            PresetName::Base => Preset::Base,
        };
        Recipe {
            preset,
            dialect: match self.layout {
                LayoutName::Original => Dialect::Original,
                LayoutName::Lerobot => Dialect::Lerobot,
                LayoutName::LerobotNative => Dialect::LerobotNative,
            },
            dtype: match self.dtype {
                Dtype::F32 => StoredDtype::F32,
                Dtype::F16 => StoredDtype::F16,
                Dtype::Bf16 => StoredDtype::Bf16,
            },
            action_mode: self.action_mode,
            shards: usize::from(self.shards),
            views: usize::from(self.views),
            image_side: self.image_size,
            vocabulary: preset.vocabulary(),
            seed: self.seed,
        }
    }
}

/// Writes both folders under temporary names and renames them once both are complete.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let start = Instant::now();
    let checkpoint = NewFolder::beside(&args.out).context("--out")?;
    let calibration = args.calib.as_deref().map(NewFolder::beside).transpose().context("--calib")?;

    let bar = output::bar(0, "writing weights [{bar:40}] {bytes}/{total_bytes} {bytes_per_sec}");
    let made = synth::write(&args.recipe(), checkpoint.path(), &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    })?;
    bar.finish_and_clear();
    let tokenizer = checkpoint.path().join(TOKENIZER_FILE);
    output::write(&tokenizer, &train_small(TOKENIZER_IDS)?)?;
    if let Some(calibration) = &calibration {
        let batches = Batches {
            count: args.batches as usize,
            size: usize::from(args.batch_size),
            domain: args.domain,
            seed: args.seed,
        };
        write_calibration(checkpoint.path(), calibration.path(), batches)?;
    }

    checkpoint.keep().context("--out")?;
    let mut line = format!(
        "{}: {:.1} M parameters, {} of weights, {:.1} s",
        args.out.display(),
        made.parameters.total() as f64 / 1e6,
        output::size(made.bytes),
        start.elapsed().as_secs_f64()
    );
    if let (Some(calibration), Some(folder)) = (calibration, &args.calib) {
        calibration.keep().context("--calib")?;
        line += &format!("; {} batches in {}", args.batches, folder.display());
    }
    output::print(&line)
}
