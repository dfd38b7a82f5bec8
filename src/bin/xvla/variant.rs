//! What `xvla quantize` and `xvla checkpoint prune` share: arguments, progress and the report.

use crate::new_folder::NewFolder;
use crate::output;
use anyhow::{Context, bail};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;
use xvla_ros::backend::device;
use xvla_ros::backend::variant::VariantError;
use xvla_ros::config::Device;
use xvla_ros::data::batch::calibration_files;
use xvla_ros::error::listed;
use xvla_ros::model::variant::Part;
use xvla_ros::offline::OfflineError;
use xvla_ros::offline::variant::{self, Event, Keep, Order, Outcome, Plan, REPORT_FILE, Recipe, Report};

/// Layers that the report names, those furthest from dense first.
const LAYERS_SHOWN: usize = 3;

/// Layers that stay as they are which the report names; the file has all.
const KEPT_SHOWN: usize = 8;

/// The least cosine of a held-out sample unless another is asked for.
const LEAST_COSINE: f64 = 0.995;

/// The least mean of the cosines unless another is asked for.
const LEAST_MEAN_COSINE: f64 = 0.999;

/// Arguments of both commands.
#[derive(Clone, Debug, clap::Args)]
pub struct VariantArgs {
    /// Folder with config.json and model.safetensors.
    #[arg(long, value_name = "DIR")]
    checkpoint: PathBuf,
    /// Folder of a LoRA adapter (PEFT) that is merged into the checkpoint's weights first.
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Embodiment whose parameters are kept (3 is LIBERO). The result is for this one alone.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(0..))]
    domain: i64,
    /// Matrices of: transformer (the policy's blocks), vlm (vision tower and text encoder), or all.
    #[arg(long, value_name = "PART", default_value = "transformer")]
    scope: Part,
    /// Numbers of denoising steps that it is made and measured for, and may be run with; the first decides [default: the
    /// checkpoint's].
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1000))]
    steps: Vec<u16>,
    /// The least cosine that every held-out sample's actions must have with those of dense f32 [default: 0.995].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = cosine)]
    least_cosine: Option<f64>,
    /// The least mean of these cosines [default: 0.999].
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = cosine)]
    least_mean_cosine: Option<f64>,
    /// Where the network runs meanwhile, in single precision: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Threads of the CPU [default: one per core].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Seed of the noise, for batches without noise [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Folder for the result; must not exist or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

impl VariantArgs {
    /// The first of the arguments that was given and says how to measure, which takes calibration batches.
    pub fn measured_by(&self) -> Option<&'static str> {
        let given = [
            (!self.steps.is_empty(), "--steps"),
            (self.least_cosine.is_some(), "--least-cosine"),
            (self.least_mean_cosine.is_some(), "--least-mean-cosine"),
            (self.seed.is_some(), "--seed"),
        ];
        given.into_iter().find_map(|(given, name)| given.then_some(name))
    }

    /// The first number of steps that was given twice.
    fn repeated_steps(&self) -> Option<u16> {
        let mut seen = BTreeSet::new();
        self.steps.iter().copied().find(|steps| !seen.insert(*steps))
    }
}

fn cosine(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (-1.0..=1.0).contains(&number) => Ok(number),
        _ => Err("expected a cosine, -1 to 1".to_owned()),
    }
}

/// Which matrices stay as they are: `auto`, `none`, or names.
pub fn keep(text: &str) -> Result<Keep, String> {
    Ok(match text {
        "auto" => Keep::Auto,
        "none" => Keep::Named(Vec::new()),
        "" => return Err("expected auto, none, or names of layers".to_owned()),
        names => {
            let names: Vec<String> = names.split(',').map(|name| name.trim().to_owned()).collect();
            if names.iter().any(String::is_empty) {
                return Err(
                    "a name is empty: expected auto, none, or names of layers with one comma between".to_owned()
                );
            }
            Keep::Named(names)
        }
    })
}

/// Checks that the result is not written into what it is made from, whose files are copied.
fn check_apart(out: &Path, source: &Path) -> anyhow::Result<()> {
    let (place, source) = (resolved(out)?, resolved(source)?);
    if place.starts_with(&source) {
        bail!(
            "--out {}: lies in {}, which it is made from: choose a folder beside it",
            out.display(),
            source.display()
        );
    }
    Ok(())
}

/// Where a path leads to, links followed, although its end may not be there yet.
fn resolved(path: &Path) -> std::io::Result<PathBuf> {
    let mut place = PathBuf::new();
    for component in std::path::absolute(path)?.components() {
        match component {
            Component::ParentDir => drop(place.pop()),
            other => place.push(other),
        }
        place = place.canonicalize().unwrap_or(place);
    }
    Ok(place)
}

/// Makes the variant and prints how far it is from its source.
pub fn run(args: &VariantArgs, recipe: Recipe, keep: Keep, calibration: Option<PathBuf>) -> anyhow::Result<()> {
    let start = Instant::now();
    if let Some(steps) = args.repeated_steps() {
        return Err(output::usage(format!("--steps: {steps} is given twice")));
    }
    if let Some(threads) = args.threads {
        device::limit_threads(usize::from(threads));
    }
    for source in [Some(&args.checkpoint), args.adapter.as_ref(), calibration.as_ref()].into_iter().flatten() {
        check_apart(&args.out, source)?;
    }
    if let Some(calibration) = &calibration {
        calibration_files(calibration).context("--calib")?;
    }
    let folder = NewFolder::beside(&args.out).context("--out")?;
    let plan = Plan {
        checkpoint: args.checkpoint.clone(),
        adapter: args.adapter.clone(),
        calibration,
        order: Order {
            recipe,
            domain: args.domain,
            part: args.scope,
            keep,
            steps: args.steps.iter().copied().map(usize::from).collect(),
            least_cosine: args.least_cosine.unwrap_or(LEAST_COSINE),
            least_mean_cosine: args.least_mean_cosine.unwrap_or(LEAST_MEAN_COSINE),
        },
        device: args.device,
        seed: args.seed.unwrap_or_default(),
        out: folder.path().to_owned(),
    };
    let bar = output::bar(0, "{msg} [{bar:40}] {pos}/{len} {elapsed}");
    let made = variant::write(&plan, &mut |Event::Answered { stage, done, total }| {
        bar.set_message(stage);
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let made = made.map_err(usage)?;
    folder.keep().context("--out")?;
    if args.json {
        return output::print_json(&made);
    }
    output::print(&text(args, &made, start.elapsed().as_secs_f64())?)
}

/// The error as bad usage, if what was asked for does not go with the checkpoint.
fn usage(error: OfflineError) -> anyhow::Error {
    match &error {
        OfflineError::Domain { .. } => output::usage(error),
        OfflineError::Variant(reason)
            if matches!(**reason, VariantError::Unknown { .. } | VariantError::Nothing { named: true }) =>
        {
            output::usage(error)
        }
        _ => error.into(),
    }
}

fn text(args: &VariantArgs, made: &Outcome, took_s: f64) -> anyhow::Result<String> {
    let Outcome { variant, sizes, report } = made;
    let all = variant.matrices + report.kept.len();
    let mut text = format!(
        "{}: {}, {}, domain {}: {} of {all} matrices, {} of weights (source {}; these matrices {:.2} of theirs), {took_s:.1} s",
        args.out.display(),
        variant.method.name(),
        variant.scope.name(),
        variant.domain,
        variant.matrices,
        output::size(sizes.bytes),
        output::size(sizes.source_bytes),
        sizes.matrix_bytes as f64 / sizes.source_matrix_bytes.max(1) as f64,
    );
    if report.actions.is_empty() {
        text += "\nnot compared with its source: no calibration batches were given (--calib)";
    } else {
        write_comparison(&mut text, report)?;
    }
    write!(text, "\n  kept as they are: {}", listed(&report.kept, KEPT_SHOWN))?;
    if report.kept.len() > KEPT_SHOWN {
        write!(text, " ({REPORT_FILE} names all)")?;
    }
    for warning in &report.warnings {
        write!(text, "\n  warning: {warning}")?;
    }
    Ok(text)
}

/// Adds how far the variant is from its source.
fn write_comparison(text: &mut String, report: &Report) -> std::fmt::Result {
    write!(
        text,
        "\nagainst dense f32 on {} held-out sample{} ({} to calibrate):",
        report.held_out_samples,
        output::plural(report.held_out_samples),
        report.calibration_samples
    )?;
    for (steps, found) in &report.actions {
        let relative = found.deviation.iter().zip(&found.root_mean_square).map(|(far, own)| far / own);
        let worst = relative.enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b));
        write!(
            text,
            "\n  {steps} step{}: cosine {:.5} at worst ({}), {:.5} in the mean; error {:.2} %",
            output::plural(*steps),
            found.worst_cosine,
            report.held_out.get(found.worst_sample).map_or("", String::as_str),
            found.mean_cosine,
            100.0 * found.relative_error
        )?;
        if let Some((channel, relative)) = worst {
            write!(text, "; channel {channel} is off by {:.1} % of its own size at most", 100.0 * relative)?;
        }
    }
    for (steps, wrong) in &report.wrong {
        let error = 100.0 * wrong.relative_error;
        write!(
            text,
            "\n  {steps} step{}: the gate refuses a wrong network (error {error:.2} %)",
            output::plural(*steps)
        )?;
    }
    let furthest = report.layers.iter().take(LAYERS_SHOWN);
    let furthest = furthest.map(|error| format!("{} {:.1} %", error.layer, 100.0 * error.relative_error));
    write!(text, "\n  products furthest from dense: {}", furthest.collect::<Vec<_>>().join(", "))?;
    Ok(())
}
