//! What a variant is held to: held-out calibration samples with dense f32's answers to them, in a file beside the
//! weights. Every backend answers them before it may move a robot.
//!
//! The file is a safetensors file: `input_ids` [S, L] I64, `image_input` [S, V, 3, H, W] F32, `image_mask` [S, V] U8,
//! `proprio` [S, P] F32, `noise` [S, T, A] F32, all as the network takes them, and `actions.N` [S, T, A] F32 for each
//! number N of denoising steps.

use super::choice::Answers;
use super::comparison::{Comparison, cosine};
use crate::backend::engine::golden::{GoldenInputs, SMALL_CHANNEL};
use crate::error::{CheckpointError, read_regular};
use crate::model::config::ModelConfig;
use crate::model::variant::{GATE_FILE, GateLimits, Limits};
use crate::types::{HostArray, ModelInputs};
use safetensors::tensor::{SafeTensors, TensorView};
use safetensors::{Dtype, SafeTensorError};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// The most bytes of the file, which holds a few batches of one sample.
const MOST_GATE_BYTES: u64 = 1 << 30;

/// Samples with dense f32's answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Evidence {
    /// One sample each.
    pub samples: Vec<GoldenInputs>,
    /// The raw actions of each sample, by number of denoising steps.
    pub actions: BTreeMap<usize, Answers>,
}

impl Evidence {
    /// The first `most` of `samples` with their answers.
    pub fn new(samples: &[&GoldenInputs], actions: &BTreeMap<usize, Answers>, most: usize) -> Self {
        let first = |answers: &Answers| answers.iter().take(most).cloned().collect();
        Self {
            samples: samples.iter().take(most).map(|sample| (*sample).clone()).collect(),
            actions: actions.iter().map(|(steps, answers)| (*steps, first(answers))).collect(),
        }
    }

    /// The content of the file.
    ///
    /// # Errors
    /// Samples of different sizes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SafeTensorError> {
        let inputs = || self.samples.iter().map(|sample| &sample.inputs);
        let Some(first) = inputs().next() else {
            return safetensors::serialize(Vec::<(String, TensorView)>::new(), None);
        };
        let count = self.samples.len();
        let ModelInputs { views, height, width, tokens, proprio_dim, .. } = *first;
        let ids: Vec<u8> = inputs().flat_map(|inputs| &inputs.input_ids).flat_map(|id| id.to_le_bytes()).collect();
        let images = bytes(inputs().flat_map(|inputs| &inputs.image_input));
        let mask: Vec<u8> = inputs().flat_map(|inputs| &inputs.image_mask).map(|present| u8::from(*present)).collect();
        let proprio = bytes(inputs().flat_map(|inputs| &inputs.proprio));
        let noise = bytes(self.samples.iter().flat_map(|sample| &sample.noise.data));
        let chunk = self.samples.first().map_or(&[][..], |sample| sample.noise.shape.get(1..).unwrap_or_default());
        let chunk: Vec<usize> = std::iter::once(count).chain(chunk.iter().copied()).collect();
        let actions: Vec<(String, Vec<u8>)> = self
            .actions
            .iter()
            .map(|(steps, answers)| (action_name(*steps), bytes(answers.iter().flatten())))
            .collect();
        let mut tensors = vec![
            ("input_ids".to_owned(), TensorView::new(Dtype::I64, vec![count, tokens], &ids)?),
            ("image_input".to_owned(), TensorView::new(Dtype::F32, vec![count, views, 3, height, width], &images)?),
            ("image_mask".to_owned(), TensorView::new(Dtype::U8, vec![count, views], &mask)?),
            ("proprio".to_owned(), TensorView::new(Dtype::F32, vec![count, proprio_dim], &proprio)?),
            ("noise".to_owned(), TensorView::new(Dtype::F32, chunk.clone(), &noise)?),
        ];
        for (name, answers) in &actions {
            tensors.push((name.clone(), TensorView::new(Dtype::F32, chunk.clone(), answers)?));
        }
        safetensors::serialize(tensors, None)
    }

    /// Reads the file in `folder`, which must be the one that `limits` was recorded for, for samples of `domain`.
    ///
    /// # Errors
    /// A file that is missing, changed or malformed.
    pub fn read(folder: &Path, limits: &GateLimits, domain: i64) -> Result<Self, CheckpointError> {
        let path = folder.join(GATE_FILE);
        let malformed = |reason: String| CheckpointError::Malformed { path: path.clone(), reason };
        let file = read_regular(&path, MOST_GATE_BYTES).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                malformed("missing, and nothing may run this checkpoint without it: copy the folder anew".to_owned())
            }
            _ => CheckpointError::Io { path: path.clone(), source: error },
        })?;
        let found = sha256(&file);
        if found != limits.sha256 {
            let wanted = &limits.sha256;
            return Err(malformed(format!(
                "its SHA-256 is {found}, and config.json asks for {wanted}: copy the folder anew"
            )));
        }
        let tensors = SafeTensors::deserialize(&file).map_err(|error| malformed(error.to_string()))?;
        Self::of(&tensors, limits, domain).map_err(malformed)
    }

    /// What the variant in `folder` is held to; `None` for a checkpoint that is none, or that was never measured.
    ///
    /// # Errors
    /// As [`Evidence::read`].
    pub fn of_checkpoint(folder: &Path, config: &ModelConfig) -> Result<Option<Self>, CheckpointError> {
        let Some(variant) = &config.variant else { return Ok(None) };
        variant.gate.as_ref().map(|gate| Self::read(folder, gate, variant.domain)).transpose()
    }

    fn of(tensors: &SafeTensors, limits: &GateLimits, domain: i64) -> Result<Self, String> {
        let images = tensors.tensor("image_input").map_err(|error| error.to_string())?;
        let &[count, views, _, height, width] = images.shape() else {
            return Err("`image_input` is not 5-D".to_owned());
        };
        if count != limits.samples {
            return Err(format!("it holds {count} samples, and config.json says {}", limits.samples));
        }
        let floats = |name: &str| of_samples(tensors, name, count, Dtype::F32, f32::from_le_bytes);
        let ids = of_samples(tensors, "input_ids", count, Dtype::I64, i64::from_le_bytes)?;
        let mask = of_samples(tensors, "image_mask", count, Dtype::U8, u8::from_le_bytes)?;
        let (images, proprio, noise) = (floats("image_input")?, floats("proprio")?, floats("noise")?);
        let chunk = tensors.tensor("noise").map_err(|error| error.to_string())?.shape().to_vec();
        let chunk: Vec<usize> = std::iter::once(1).chain(chunk.into_iter().skip(1)).collect();
        let each = ids.into_iter().zip(mask).zip(images).zip(proprio).zip(noise);
        let samples = each.map(|((((input_ids, mask), image_input), proprio), noise)| GoldenInputs {
            inputs: ModelInputs {
                batch: 1,
                views,
                height,
                width,
                tokens: input_ids.len(),
                proprio_dim: proprio.len(),
                input_ids,
                image_input,
                image_mask: mask.into_iter().map(|present| present != 0).collect(),
                domain_id: vec![domain],
                proprio,
            },
            noise: HostArray { shape: chunk.clone(), data: noise },
        });
        let actions = limits.steps.keys().map(|&steps| Ok((steps, floats(&action_name(steps))?)));
        Ok(Self { samples: samples.collect(), actions: actions.collect::<Result<_, String>>()? })
    }
}

fn action_name(steps: usize) -> String {
    format!("actions.{steps}")
}

/// SHA-256 in lowercase hex.
pub fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn bytes<'a>(values: impl Iterator<Item = &'a f32>) -> Vec<u8> {
    values.flat_map(|value| value.to_le_bytes()).collect()
}

/// The values of tensor `name`, split into `count` samples.
fn of_samples<T, const N: usize>(
    tensors: &SafeTensors,
    name: &str,
    count: usize,
    dtype: Dtype,
    value: impl Fn([u8; N]) -> T,
) -> Result<Vec<Vec<T>>, String> {
    let tensor = tensors.tensor(name).map_err(|error| error.to_string())?;
    if tensor.dtype() != dtype || tensor.shape().first() != Some(&count) {
        return Err(format!(
            "`{name}` is {:?} {:?}, expected {count} samples of {dtype:?}",
            tensor.dtype(),
            tensor.shape()
        ));
    }
    let (values, rest) = tensor.data().as_chunks::<N>();
    let width = values.len() / count.max(1);
    if !rest.is_empty() || values.len() != width * count {
        return Err(format!("`{name}` is not made of {count} equal samples"));
    }
    if width == 0 {
        return Ok((0..count).map(|_| Vec::new()).collect());
    }
    Ok(values.chunks(width).map(|sample| sample.iter().map(|bytes| value(*bytes)).collect()).collect())
}

/// The first way in which `answers` are too far from `references`; `None` if they are near enough. Beyond the limit that
/// was recorded for f32, a channel may deviate by `allowance` times its root mean square, for the dtype that flows.
pub fn fault(references: &[Vec<f32>], answers: &[Vec<f32>], limits: &Limits, allowance: f32) -> Option<String> {
    let channels = limits.deviation.len().max(1);
    let found = Comparison::of(references, answers, channels);
    for (sample, (reference, answer)) in references.iter().zip(answers).enumerate() {
        let cosine = cosine(reference, answer);
        if answer.len() != reference.len() || cosine.is_nan() || cosine < limits.least_cosine {
            let least = limits.least_cosine;
            return Some(format!(
                "the cosine of sample {sample} with dense f32 is {cosine:.6}, at least {least} is required"
            ));
        }
    }
    let all = rms(&found.root_mean_square);
    let each = found.deviation.iter().zip(&limits.deviation).zip(&found.root_mean_square);
    each.enumerate().find_map(|(channel, ((&deviation, &recorded), &own))| {
        let most = RECORDED_MARGIN * recorded + allowance * own.max(SMALL_CHANNEL * all);
        let far = deviation > most || deviation.is_nan();
        far.then(|| {
            format!("action channel {channel} is {deviation:.3e} from dense f32's, at most {most:.3e} is allowed")
        })
    })
}

/// The recorded deviations are those of f32 on one machine. Roundings elsewhere fall on other sides.
const RECORDED_MARGIN: f32 = 1.5;

fn rms(channels: &[f32]) -> f32 {
    let sum: f32 = channels.iter().map(|channel| channel * channel).sum();
    (sum / channels.len().max(1) as f32).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: f32) -> GoldenInputs {
        GoldenInputs {
            inputs: ModelInputs {
                batch: 1,
                views: 2,
                height: 1,
                width: 2,
                tokens: 3,
                proprio_dim: 2,
                input_ids: vec![1, 2, 3],
                image_input: (0..12).map(|value| value as f32 * seed).collect(),
                image_mask: vec![true, false],
                domain_id: vec![4],
                proprio: vec![seed, -seed],
            },
            noise: HostArray { shape: vec![1, 2, 1], data: vec![seed, 1.0] },
        }
    }

    fn evidence() -> Evidence {
        let samples = vec![sample(0.5), sample(2.0)];
        Evidence { samples, actions: BTreeMap::from([(10, vec![vec![1.0, 2.0], vec![3.0, 4.0]])]) }
    }

    fn limits(bytes: &[u8]) -> GateLimits {
        let limits = Limits { least_cosine: 0.995, deviation: vec![0.1] };
        GateLimits { sha256: sha256(bytes), samples: 2, steps: BTreeMap::from([(10, limits)]) }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = evidence().to_bytes().unwrap();
        std::fs::write(folder.path().join(GATE_FILE), &bytes).unwrap();
        assert_eq!(Evidence::read(folder.path(), &limits(&bytes), 4).unwrap(), evidence());
    }

    #[test]
    fn a_file_that_has_changed_is_refused_with_both_hashes() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = evidence().to_bytes().unwrap();
        let limits = limits(&bytes);
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(folder.path().join(GATE_FILE), &bytes).unwrap();
        let error = Evidence::read(folder.path(), &limits, 4).unwrap_err().to_string();
        assert!(error.contains(&limits.sha256) && error.contains(&sha256(&bytes)), "{error}");
    }

    fn limit(deviation: f32) -> Limits {
        Limits { least_cosine: 0.995, deviation: vec![deviation] }
    }

    #[test]
    fn an_answer_as_far_as_recorded_passes() {
        assert_eq!(fault(&[vec![1.0, 2.0]], &[vec![1.05, 2.0]], &limit(0.05), 0.0), None);
    }

    #[test]
    fn an_answer_in_another_direction_is_refused_by_its_cosine() {
        let fault = fault(&[vec![1.0, 2.0]], &[vec![2.0, 1.0]], &limit(9.0), 0.0).unwrap();
        assert!(fault.starts_with("the cosine of sample 0 with dense f32 is 0.8000"), "{fault}");
    }

    #[test]
    fn a_channel_that_is_further_off_than_recorded_is_refused_by_its_number() {
        let limits = Limits { least_cosine: 0.0, deviation: vec![9.0, 0.01] };
        let fault = fault(&[vec![1.0, 1.0, 1.0, 1.0]], &[vec![1.0, 1.0, 1.0, 1.1]], &limits, 0.0).unwrap();
        assert!(fault.starts_with("action channel 1 is 1.000e-1"), "{fault}");
    }

    #[test]
    fn an_answer_that_is_not_a_number_is_refused() {
        assert!(fault(&[vec![1.0]], &[vec![f32::NAN]], &limit(9.0), 9.0).is_some());
    }

    #[test]
    fn an_answer_of_another_length_is_refused() {
        assert!(fault(&[vec![1.0, 1.0]], &[vec![1.0]], &limit(9.0), 9.0).is_some());
    }
}
