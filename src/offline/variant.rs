//! Prunes and quantises checkpoints with calibration batches from a folder.

use super::OfflineError;
use super::infer::with_path;
use crate::backend::device;
use crate::backend::engine::golden::InputSpec;
use crate::backend::variant::others::{Counting, Others};
pub use crate::backend::variant::store::Sizes;
use crate::backend::variant::{Calibration, VariantError, make, store};
pub use crate::backend::variant::{Event, Keep, Order, Recipe, Report};
use crate::config::Device;
use crate::data::batch::{Batch, Limits, calibration_files, read_batch};
use crate::model::action_space::ActionMode;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
pub use crate::model::variant::REPORT_FILE;
use crate::model::variant::Variant;
use crate::pipeline::prepare::tokenizer_folder;
use crate::pipeline::validate::own_input_spec;
use crate::pipeline::{Options, PipelineError, Preparation};
use crate::transform::rotation::distance_from_rotation_6d;
use crate::transform::state::EE6D_ARM;
use crate::types::ModelInputs;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// A variant to make, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Folder of the checkpoint.
    pub checkpoint: PathBuf,
    /// Folder of an adapter that is merged into it first.
    pub adapter: Option<PathBuf>,
    /// Folder of calibration batches.
    pub calibration: Option<PathBuf>,
    /// What to make. Without numbers of denoising steps, those of the checkpoint count.
    pub order: Order,
    /// Where the network runs meanwhile, in single precision.
    pub device: Device,
    /// Seed of the noise, for batches without noise.
    pub seed: u64,
    /// Folder for the variant, which exists and is empty.
    pub out: PathBuf,
}

/// What was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Outcome {
    /// What its `config.json` says.
    pub variant: Variant,
    /// Sizes of its weights.
    pub sizes: Sizes,
    /// How far it is from its source.
    pub report: Report,
}

/// Makes and stores the variant of `plan`; `observer` is told of progress.
///
/// # Errors
/// A checkpoint or batch that cannot be used, batches of another domain or of different sizes, and what keeps the variant
/// from being made.
pub fn write(plan: &Plan, observer: &mut dyn FnMut(Event)) -> Result<Outcome, OfflineError> {
    let options = Options { adapter: plan.adapter.clone(), ..Options::new(&plan.checkpoint) };
    let preparation = Preparation::load(&options)?;
    let config = preparation.config();
    let mut order = plan.order.clone();
    if order.steps.is_empty() {
        order.steps.push(config.denoising_steps);
    }
    check_domain(&preparation, order.domain)?;
    let (folders, processors) = (options.folders(), preparation.processors());
    let others = Others::of(Counting { folders, processors, tokenizer: tokenizer_folder(folders, processors) })?;
    let folder = plan.calibration.as_deref();
    let calibration = folder.map(|folder| calibration(&preparation, folder, order.domain, plan.seed)).transpose()?;
    let (calibration, notices) = calibration.unzip();
    let checkpoint = Checkpoint::open_in(options.folders()).map_err(PipelineError::from)?;
    let device = device::resolve(plan.device).map_err(PipelineError::from)?;
    let mut made = make((&checkpoint, config), &order, calibration.as_ref(), device, observer)?;
    made.report.warnings.extend(notices.into_iter().flatten().chain(others.left_behind()));
    let (variant, sizes) = store::write(options.folders(), (&checkpoint, config), &made, &others, &plan.out)?;
    Ok(Outcome { variant, sizes, report: made.report })
}

/// Checks that the checkpoint has `domain` and that its own processors ask for no other.
fn check_domain(preparation: &Preparation, domain: i64) -> Result<(), OfflineError> {
    let domains = preparation.config().policy.domains;
    if !(0..domains).contains(&domain) {
        return Err(OfflineError::Domain {
            domain,
            reason: format!("the checkpoint has domains 0 to {}", domains - 1),
        });
    }
    match preparation.processors().domain_id {
        Some(own) if own != domain => {
            Err(OfflineError::Domain { domain, reason: format!("the checkpoint's own processors feed domain {own}") })
        }
        _ => Ok(()),
    }
}

/// Reads every batch of `folder` as the network would take it. Returns what to say about them, too.
fn calibration(
    preparation: &Preparation,
    folder: &Path,
    domain: i64,
    seed: u64,
) -> Result<(Calibration, Vec<String>), OfflineError> {
    let mut rotations = Rotations::default();
    let mut hasher = Sha256::new();
    let (mut samples, mut origins) = (Vec::new(), Vec::new());
    let mut sizes = None;
    for path in calibration_files(folder)? {
        let io = |source| crate::data::DatasetError::Io { path: path.clone(), source };
        hasher.update(std::fs::read(&path).map_err(io)?);
        let Batch { inputs, noise, .. } = read_batch(&path, Limits::default())?;
        if let Some(found) = inputs.domain_id.iter().find(|found| **found != domain) {
            let reason = format!("{}: its `domain_id` is {found}: give batches of that domain", path.display());
            return Err(OfflineError::Domain { domain, reason });
        }
        let found = [inputs.views, inputs.height, inputs.width, inputs.tokens];
        let first = *sizes.get_or_insert(found);
        if found != first {
            let reason = format!("views, height, width and tokens are {found:?}, and {first:?} in the batches before");
            return Err(OfflineError::Sizes { path, reason });
        }
        rotations.look(preparation.config(), &inputs, &path)?;
        if let Some(noise) = &noise {
            check_noise(&noise.data, &path)?;
        }
        let first_seed = seed.wrapping_add(samples.len() as u64);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        origins.extend((0..inputs.batch).map(|sample| match inputs.batch {
            1 => name.clone(),
            _ => format!("{name}, sample {sample}"),
        }));
        let more = preparation.network_inputs(&inputs, noise.as_ref(), first_seed);
        samples.extend(more.map_err(|error| with_path(&path, error))?);
    }
    let other_sizes = sizes.and_then(|found| {
        other_sizes(own_input_spec(preparation.config(), preparation.processors(), domain), folder, found)
    });
    let warnings = rotations.warning().into_iter().chain(other_sizes).collect();
    Ok((Calibration { samples, origins, sha256: format!("{:x}", hasher.finalize()) }, warnings))
}

/// The noise of a batch is drawn from a normal distribution of deviation 1, which does not come this far.
const LARGEST_NOISE: f32 = 10.0;

fn check_noise(noise: &[f32], path: &Path) -> Result<(), OfflineError> {
    match noise.iter().find(|value| value.abs() > LARGEST_NOISE) {
        None => Ok(()),
        Some(value) => {
            let reason = format!(
                "its `noise` has {value:.1e}: it is drawn from a normal distribution of deviation 1; without `noise`, --seed \
                 draws it"
            );
            Err(OfflineError::Values { path: path.to_owned(), reason })
        }
    }
}

/// What to say of batches whose views, height, width and tokens are not those that the node feeds.
fn other_sizes(own: InputSpec, folder: &Path, found: [usize; 4]) -> Option<String> {
    let fed = [own.views, own.image_height, own.image_width, own.text_tokens];
    let names = ["views", "height (pixels)", "width (pixels)", "text tokens"];
    let other = names.iter().zip(found.iter().zip(fed)).filter(|(_, (found, fed))| *found != fed);
    let other: Vec<String> = other.map(|(name, (found, fed))| format!("{name} {found}, not {fed}")).collect();
    let text = other.join(", ");
    (!other.is_empty()).then(|| {
        format!(
            "{}: not the sizes that the node feeds: {text}: ranges and gate hold for the batches' sizes, and an engine has to be \
             built for them",
            folder.display()
        )
    })
}

/// A rotation may be off by so much, as [`distance_from_rotation_6d`] has it. More is odd, but may be what a model was
/// trained with, or random.
const ODD: f64 = 0.1;
/// No number of a rotation is larger than this, whatever was rounded or filtered.
const LARGEST: f32 = 10.0;

/// What was found of rotations in states.
#[derive(Default)]
struct Rotations {
    samples: usize,
    /// Samples with numbers that are no rotation.
    odd: usize,
    /// The first of them.
    first: Option<String>,
}

impl Rotations {
    /// Looks at the states of a batch for an ee6d checkpoint. Six zeros are meant: some embodiments are fed nothing else.
    fn look(&mut self, config: &ModelConfig, inputs: &ModelInputs, path: &Path) -> Result<(), OfflineError> {
        if config.action_space.mode != ActionMode::Ee6d {
            return Ok(());
        }
        for (sample, state) in inputs.proprio.chunks(inputs.proprio_dim.max(1)).enumerate() {
            self.samples += 1;
            let mut is_odd = false;
            for (arm, channels) in state.chunks_exact(EE6D_ARM).enumerate() {
                let &[_, _, _, a, b, c, d, e, f, _] = channels else { continue };
                let numbers = [a, b, c, d, e, f];
                if numbers.iter().all(|value| *value == 0.0)
                    || distance_from_rotation_6d(&numbers.map(f64::from)) <= ODD
                {
                    continue;
                }
                let (first, last) = (EE6D_ARM * arm + 3, EE6D_ARM * arm + 8);
                let reason = format!(
                    "sample {sample}: channels {first} to {last} of `proprio` are no rotation, whose two columns are 1 long and at a \
                     right angle: {numbers:?}: ee6d states are xyz in metres, two columns of the rotation, gripper"
                );
                if numbers.iter().any(|value| value.abs() > LARGEST) {
                    return Err(OfflineError::Values { path: path.to_owned(), reason });
                }
                is_odd = true;
                self.first.get_or_insert_with(|| format!("{}: {reason}", path.display()));
            }
            self.odd += usize::from(is_odd);
        }
        Ok(())
    }

    fn warning(self) -> Option<String> {
        let (odd, samples) = (self.odd, self.samples);
        self.first.map(|first| format!("{first} (found in {odd} of {samples} samples)"))
    }
}

impl From<VariantError> for OfflineError {
    fn from(error: VariantError) -> Self {
        match error {
            VariantError::Checkpoint(error) => PipelineError::from(error).into(),
            VariantError::Backend(error) => PipelineError::from(error).into(),
            other => Self::Variant(Box::new(other)),
        }
    }
}
