//! Prepares an observation on the host: resizes and normalises images, tokenises the instruction, normalises and pads
//! proprioception.

use crate::backend::engine::golden::InputSpec;
use crate::backend::stream::Frame;
use crate::error::{CheckpointError, InputError, printable, shortened};
use crate::model::config::ModelConfig;
use crate::model::folders::Folders;
use crate::pipeline::PipelineError;
use crate::transform::TransformError;
use crate::transform::image::ImageTransform;
use crate::transform::normalize::Pixels;
use crate::transform::processors::{self, Processors};
use crate::transform::recent::Recent;
use crate::transform::resample;
use crate::transform::resampling::Resampling;
use crate::transform::state;
use crate::transform::tokenize::{BART_PAD_ID, Encoded, Padding, PaddingSide, Tokenizer};
use crate::transform::tokenizer_settings::TokenizerSettings;
use crate::types::{ModelInputs, Observation, ResizeMode};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The tokenizer's file within a checkpoint folder, or within its tokenizer's folder.
pub const TOKENIZER_FILE: &str = "tokenizer.json";

/// The folder of a checkpoint in which LeRobot stores the tokenizer.
const TOKENIZER_FOLDER: &str = "tokenizer";
/// Sizes of frames whose resampling tables are kept. The limit bounds the memory if every frame has another size.
const SIZES: usize = 16;

/// Prepares observations one after the other. It keeps buffers and the last instruction's token ids between frames.
pub struct Preparer {
    /// One per kind of pixels.
    images: Vec<(Pixels, ImageTransform)>,
    mode: ResizeMode,
    /// What the network sees of each view's pixels.
    pixels: Vec<Pixels>,
    /// Resampling tables for frames that the device resizes, one per frame size.
    resamplings: Recent<Arc<Resampling>>,
    /// The tokenizer, or why there is none. Batches bring token ids, so only an instruction in words needs it.
    tokenizer: Result<Tokenizer, String>,
    last_instruction: Option<(String, Vec<i64>)>,
    /// When the log was last told of an instruction that is cut.
    told_of_cut: Option<Instant>,
    spare: ModelInputs,
    views: usize,
    height: usize,
    width: usize,
}

impl Preparer {
    /// Reads the tokenizer, if the checkpoint has one. `tokenizer` is a file, or a folder with that file, to read
    /// instead.
    ///
    /// # Errors
    /// A tokenizer that is there but cannot be used.
    pub fn new(
        folder: &Path,
        config: &ModelConfig,
        processors: &Processors,
        tokenizer: Option<&Path>,
    ) -> Result<Self, CheckpointError> {
        let inputs = &config.inputs;
        let (mode, pixels) = (inputs.resize, view_pixels(folder, config, processors)?);
        let mut kinds = pixels.clone();
        kinds.sort_unstable();
        kinds.dedup();
        let transform = |kind| ImageTransform::of_pixels(inputs.image_width, inputs.image_height, mode, kind);
        Ok(Self {
            images: kinds.into_iter().map(|kind| (kind, transform(kind))).collect(),
            mode,
            pixels,
            resamplings: Recent::new(SIZES),
            tokenizer: read_tokenizer(folder, config, processors, tokenizer)?,
            last_instruction: None,
            told_of_cut: None,
            spare: ModelInputs::default(),
            views: inputs.views,
            height: inputs.image_height,
            width: inputs.image_width,
        })
    }

    /// A preparer for the checkpoint in `folder`, whose weights are not loaded.
    ///
    /// # Errors
    /// A configuration, processors or a tokenizer that cannot be used.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        Self::new(folder, &ModelConfig::from_folder(folder)?, &Processors::load(folder)?, None)
    }

    /// Inputs of `sizes` with a state of `channels`, all zero, with every view marked valid as for live frames.
    pub fn zeros(&self, sizes: InputSpec, channels: usize) -> ModelInputs {
        let InputSpec { domain, views, text_tokens, image_height: height, image_width: width } = sizes;
        ModelInputs {
            views,
            height,
            width,
            input_ids: vec![0; text_tokens],
            tokens: text_tokens,
            image_mask: vec![true; views],
            image_input: vec![0.0; views * 3 * height * width],
            domain_id: vec![domain],
            proprio_dim: channels,
            proprio: vec![0.0; channels],
            ..self.sizes()
        }
    }

    /// Prepares one observation. Its images are resized only if `images` is set, because the device may do that
    /// instead. Give the result back with [`Preparer::recycle`] to save the next call an allocation.
    ///
    /// # Errors
    /// More views than the checkpoint has, an empty instruction, an image that cannot be resized, images of different
    /// sizes if the checkpoint does not resize them.
    pub fn prepare(&mut self, observation: &Observation, images: bool) -> Result<ModelInputs, PipelineError> {
        if observation.views.len() > self.views {
            return Err(InputError::Shape {
                field: "views",
                expected: format!("at most {} (the checkpoint's number of camera views)", self.views),
                found: observation.views.len().to_string(),
            }
            .into());
        }
        let (width, height) = self.size_of(observation)?;
        let image_len = 3 * height * width;
        let input_ids = self.tokens_of(&observation.instruction)?;
        let mut inputs = std::mem::take(&mut self.spare);
        let view = |index: usize| observation.views.get(index).and_then(Option::as_ref).map(|view| &view.value);
        inputs.image_mask.clear();
        inputs.image_mask.extend((0..self.views).map(|index| view(index).is_some()));
        inputs.image_input.resize(if images { self.views * image_len } else { 0 }, 0.0);
        let views = inputs.image_input.chunks_exact_mut(image_len).zip(&self.pixels);
        for (index, (planes, pixels)) in views.enumerate() {
            let transform = self.images.iter_mut().find(|(kind, _)| kind == pixels);
            match (view(index), transform) {
                (Some(image), Some((_, transform))) => transform.apply(image, planes)?,
                _ => planes.fill(0.0),
            }
        }
        let proprio = observation.proprio();
        Ok(ModelInputs {
            tokens: input_ids.len(),
            input_ids,
            proprio_dim: proprio.len(),
            proprio,
            domain_id: vec![observation.domain_id],
            image_input: inputs.image_input,
            image_mask: inputs.image_mask,
            height,
            width,
            ..self.sizes()
        })
    }

    /// The size (width, height) of the model's images for this observation: the checkpoint's, unless it takes frames as
    /// they come.
    fn size_of(&self, observation: &Observation) -> Result<(usize, usize), InputError> {
        let own = (self.width, self.height);
        if self.mode != ResizeMode::AsIs {
            return Ok(own);
        }
        let views = observation.views.iter().enumerate();
        let mut sizes = views
            .filter_map(|(index, view)| view.as_ref().map(|view| (index, view.value.width(), view.value.height())));
        let Some((first, width, height)) = sizes.next() else { return Ok(own) };
        match sizes.find(|(_, other_width, other_height)| (*other_width, *other_height) != (width, height)) {
            None => Ok((width, height)),
            Some((other, other_width, other_height)) => Err(InputError::Shape {
                field: "views",
                expected: format!(
                    "frames of one size, because this checkpoint does not resize them: view {first} is {width}x{height}"
                ),
                found: format!("{other_width}x{other_height} in view {other}"),
            }),
        }
    }

    /// Whether the network sees ImageNet-normalised pixels in every view. Only those can be checked by their range, and only
    /// those can a device make in the host's place.
    pub fn normalises_all(&self) -> bool {
        self.pixels.iter().all(|pixels| *pixels == Pixels::ImageNet)
    }

    /// The frames of an observation with their resampling tables, for a device that resizes them.
    ///
    /// # Errors
    /// An image that cannot be resized.
    pub fn frames(&mut self, observation: &Observation) -> Result<Vec<Frame>, PipelineError> {
        let views = observation.views.iter().enumerate();
        let present = views.filter_map(|(view, image)| Some((view, image.as_ref()?.value.clone())));
        present
            .map(|(view, image)| {
                let resampling = self.resampling((image.width(), image.height()))?;
                Ok(Frame { view, image, resampling })
            })
            .collect()
    }

    /// The resampling tables for images of size `from` (width, height), pixels. They are made once per size.
    fn resampling(&mut self, from: (usize, usize)) -> Result<Arc<Resampling>, TransformError> {
        let to = if self.mode == ResizeMode::AsIs { from } else { (self.width, self.height) };
        let make = || resample::resampling(self.mode, from, to).map(Arc::new);
        self.resamplings.get_or_make(|known| known.from == from, make).map(|known| known.clone())
    }

    /// Keeps the buffers of `inputs` for the next frame.
    pub fn recycle(&mut self, inputs: ModelInputs) {
        self.spare = inputs;
    }

    fn sizes(&self) -> ModelInputs {
        ModelInputs { batch: 1, views: self.views, height: self.height, width: self.width, ..ModelInputs::default() }
    }

    /// Token ids [L]. The last result is kept, because an instruction usually stays the same for thousands of frames.
    fn tokens_of(&mut self, instruction: &str) -> Result<Vec<i64>, TransformError> {
        if let Some((last, ids)) = &self.last_instruction
            && last == instruction
        {
            return Ok(ids.clone());
        }
        let tokenizer = self.tokenizer.as_ref().map_err(|missing| TransformError::Tokenizer(missing.clone()))?;
        let Encoded { ids, tokens } = tokenizer.encode(instruction)?;
        let cut = if tokenizer.cuts_beginning() { "beginning" } else { "end" };
        if let Some(notice) = cut_notice(instruction, tokens, ids.len(), cut)
            && self.told_of_cut.is_none_or(|told| told.elapsed() > NOTICE_PERIOD)
        {
            self.told_of_cut = Some(Instant::now());
            tracing::warn!("{notice}");
        }
        self.last_instruction = Some((instruction.to_owned(), ids.clone()));
        Ok(ids)
    }
}

/// What the network sees of the pixels of each of its views.
///
/// # Errors
/// A step of the preprocessor in `folder` that gets values which LeRobot refuses.
pub fn view_pixels(
    folder: &Path,
    config: &ModelConfig,
    processors: &Processors,
) -> Result<Vec<Pixels>, CheckpointError> {
    /// Stands for cameras whose keys the checkpoint does not give.
    const ANY: &str = "observation.images.camera";
    let keys = config.inputs.camera_keys.iter().map(String::as_str).chain(std::iter::repeat(ANY));
    let pixels = keys.take(config.inputs.views).map(|key| processors.pixels.of(key)).collect::<Result<_, _>>();
    let path = || folder.join(processors::PREPROCESSOR_FILE);
    pixels.map_err(|reason| CheckpointError::Malformed { path: path(), reason })
}

/// The shortest time between two lines about instructions that are cut.
const NOTICE_PERIOD: Duration = Duration::from_secs(1);

/// What to say about an instruction of so many `tokens`, whose beginning or end is `cut` if the model takes fewer.
fn cut_notice(instruction: &str, tokens: usize, limit: usize, cut: &str) -> Option<String> {
    /// Characters of the instruction that are quoted.
    const QUOTED: usize = 60;
    if tokens <= limit {
        return None;
    }
    let printable = printable(instruction);
    let start = shortened(&printable, QUOTED);
    Some(format!(
        "the instruction has {tokens} tokens and the checkpoint takes {limit}: its {cut} is cut off, shorten it: \"{start}\""
    ))
}

fn read_tokenizer(
    folder: &Path,
    config: &ModelConfig,
    processors: &Processors,
    tokenizer: Option<&Path>,
) -> Result<Result<Tokenizer, String>, CheckpointError> {
    let path = match tokenizer_file(folder, processors, tokenizer) {
        Ok(path) => path,
        Err(missing) => return Ok(Err(missing)),
    };
    let length = processors.max_length.unwrap_or(config.inputs.max_text_tokens);
    let config_side = if config.inputs.pad_left { PaddingSide::Left } else { PaddingSide::Right };
    let side = processors.padding_side.unwrap_or(config_side);
    let config_padding = if config.inputs.unpadded_text { Padding::None } else { Padding::ToLength };
    let padding = processors.padding.unwrap_or(config_padding);
    let tokenizer = Tokenizer::from_file(&path, length, BART_PAD_ID)?.with_padding_side(side).with_padding(padding);
    let tokenizer = tokenizer.with_cutting(!processors.keeps_long_texts);
    let settled = tokenizer.with_settings(&TokenizerSettings::beside(&path)?);
    settled.map(Ok).map_err(|reason| CheckpointError::Malformed { path, reason })
}

/// The folder whose tokenizer counts: the adapter's if it has one, else the base's.
pub fn tokenizer_folder<'f>(folders: Folders<'f>, processors: &Processors) -> &'f Path {
    let has_one = |folder: &&Path| tokenizer_file(folder, processors, None).is_ok();
    folders.adapter.filter(has_one).unwrap_or(folders.base)
}

/// The tokenizer's file: `tokenizer`, which may also be a folder with it, or else the one in the checkpoint's `folder`.
///
/// The checkpoint's is where its processors say that LeRobot has stored it, or beside the weights, or in the folder
/// that LeRobot's name of the tokenizer happens to be.
///
/// # Errors
/// What is missing, and where to put it.
pub fn tokenizer_file(folder: &Path, processors: &Processors, tokenizer: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(given) = tokenizer {
        let path = if given.is_dir() { given.join(TOKENIZER_FILE) } else { given.to_owned() };
        return if path.exists() { Ok(path) } else { Err(format!("{}: missing", path.display())) };
    }
    let name = processors.tokenizer_name.as_deref();
    let places = [
        processors.tokenizer_folder.clone(),
        Some(PathBuf::new()),
        name.map(PathBuf::from).filter(|name| processors::is_within(name)),
        Some(PathBuf::from(TOKENIZER_FOLDER)),
    ];
    let files = places.iter().flatten().map(|place| folder.join(place).join(TOKENIZER_FILE));
    files.into_iter().find(|path| path.exists()).ok_or_else(|| {
        let whose = match name.filter(|_| processors.tokenizer_folder.is_none()) {
            Some(name) => {
                format!("the {TOKENIZER_FILE} of `{name}`, which LeRobot does not store with its checkpoints,")
            }
            None => "the checkpoint's".to_owned(),
        };
        // Slow tokenizers are stored as a vocabulary and its merges.
        let parts = places.iter().flatten().map(|place| folder.join(place)).find(|place| place.join("vocab.json").exists());
        let hint = parts.map_or(String::new(), |place| {
            format!(
                "; `python3 -c \"from transformers import BartTokenizerFast as T; T.from_pretrained('{0}').save_pretrained('{0}')\"` \
                 makes it from the vocab.json in {0}",
                place.display()
            )
        });
        format!(
            "{}: missing: put {whose} there, or name one with the parameter `tokenizer`{hint}",
            folder.join(TOKENIZER_FILE).display()
        )
    })
}

/// Proprioception for the network: [B, P], normalised by the checkpoint's statistics, then padded with zeros or cut to
/// P.
///
/// # Errors
/// [`InputError::Shape`] when it is not as wide as the statistics.
pub fn proprio(config: &ModelConfig, processors: &Processors, inputs: &ModelInputs) -> Result<Vec<f32>, InputError> {
    let wide = config.policy.proprio_dim.unsigned_abs() as usize;
    let narrow = inputs.proprio_dim;
    if wide == 0 || inputs.batch == 0 {
        return Ok(Vec::new());
    }
    let mut values = inputs.proprio.clone();
    if let Some(statistics) = &processors.state {
        if statistics.dim() != narrow {
            return Err(InputError::Shape {
                field: "proprio",
                expected: format!("{} channels (the checkpoint has statistics for those)", statistics.dim()),
                found: narrow.to_string(),
            });
        }
        statistics.normalize(&mut values)?;
    }
    if narrow == 0 {
        return Ok(vec![0.0; inputs.batch * wide]);
    }
    Ok(values.chunks_exact(narrow).flat_map(|sample| state::fit_to(sample, wide)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_that_is_cut_is_told_with_both_numbers() {
        let notice = cut_notice(&"fold the towel ".repeat(200), 602, 50, "end").unwrap();
        assert!(notice.starts_with("the instruction has 602 tokens and the checkpoint takes 50"), "{notice}");
        assert!(notice.len() < 300 && notice.contains("fold the towel"), "{notice}");
    }

    #[test]
    fn an_instruction_that_fits_is_not_told_of() {
        assert_eq!(cut_notice("go", 50, 50, "end"), None);
    }
}
