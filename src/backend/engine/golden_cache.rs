//! libtorch's answers to cases, kept from one start to the next for backends that have no engine file to keep them in.
//!
//! An answer that cannot be kept or read again costs a second or a few at the next start, and nothing else.

use super::files::{read_hashed, replace_hashed, short_hash};
use super::golden::{InputSpec, SEED};
use crate::backend::device;
use crate::config::{Device, Dtype};
use crate::error::CheckpointError;
use crate::model::checkpoint::Checkpoint;
use std::path::{Path, PathBuf};

/// The sources that decide what libtorch is asked and what it computes.
const NETWORK: [&str; 14] = [
    include_str!("golden.rs"),
    include_str!("../libtorch.rs"),
    include_str!("../libtorch_gpu.rs"),
    include_str!("../../../csrc/cuda_shim.cpp"),
    include_str!("../../model/action_space.rs"),
    include_str!("../../model/domain.rs"),
    include_str!("../../model/flow.rs"),
    include_str!("../../model/layers.rs"),
    include_str!("../../model/policy.rs"),
    include_str!("../../model/projector.rs"),
    include_str!("../../model/text.rs"),
    include_str!("../../model/vision.rs"),
    include_str!("../../model/vlm.rs"),
    include_str!("../../model/weight/mod.rs"),
];

/// What libtorch was asked, and what asked and answered, as far as the answer depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoldenKey {
    checkpoint: [String; 2],
    dtype: &'static str,
    sizes: InputSpec,
    steps: usize,
    seed: u64,
    network: String,
    /// See [`device::fingerprint`].
    machine: String,
}

impl GoldenKey {
    /// The key that a pipeline on `device` of `dtype` for inputs of `sizes` asks about a checkpoint. Reads no weights: files
    /// that were written anew count as others.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn new(
        weights: &Checkpoint,
        (device, dtype): (Device, Dtype),
        sizes: InputSpec,
        steps: usize,
    ) -> Result<Self, CheckpointError> {
        Ok(Self {
            checkpoint: [weights.fingerprint()?, weights.config_sha256()?],
            dtype: dtype.name(),
            sizes,
            steps,
            seed: SEED,
            network: short_hash(&NETWORK.concat()),
            machine: device::fingerprint(device),
        })
    }

    /// Where the answer lies in `cache`.
    pub fn path_in(&self, cache: &Path) -> PathBuf {
        let (domain, dtype, key) = (self.sizes.domain, self.dtype, short_hash(&format!("{self:?}")));
        cache.join("answers").join(format!("libtorch-d{domain}-{dtype}-{key}.json"))
    }

    /// The answer, raw actions [T·A], if it is in `cache`.
    pub fn recall(&self, cache: &Path) -> Option<Vec<f32>> {
        let text = read_hashed(&self.path_in(cache)).ok()?;
        let actions: Vec<f32> = serde_json::from_slice(&text).ok()?;
        actions.iter().all(|value| value.is_finite()).then_some(actions)
    }

    /// Keeps the answer in `cache`.
    pub fn keep(&self, cache: &Path, actions: &[f32]) {
        let path = self.path_in(cache);
        let kept = serde_json::to_string(actions).map_err(std::io::Error::from).and_then(|text| {
            std::fs::create_dir_all(path.parent().unwrap_or(cache))?;
            replace_hashed(&path, text.as_bytes())
        });
        if let Err(error) = kept {
            tracing::warn!("{}: libtorch's answer is not kept for the next start: {error}", path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, FileTimes};
    use std::time::{Duration, SystemTime};

    const SIZES: InputSpec = InputSpec { domain: 1, views: 2, text_tokens: 6, image_height: 32, image_width: 32 };

    fn checkpoint() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints/original_ee6d");
        for name in ["config.json", "model.safetensors"] {
            std::fs::copy(fixture.join(name), folder.path().join(name)).unwrap();
        }
        folder
    }

    fn key(folder: &Path) -> GoldenKey {
        GoldenKey::new(&Checkpoint::open(folder).unwrap(), (Device::Cpu, Dtype::F16), SIZES, 4).unwrap()
    }

    #[test]
    fn an_answer_is_recalled_for_the_same_question_only() {
        let (checkpoint, cache) = (checkpoint(), tempfile::tempdir().unwrap());
        let asked = key(checkpoint.path());
        assert_eq!(asked.recall(cache.path()), None);
        asked.keep(cache.path(), &[0.5, -0.25]);
        assert_eq!(key(checkpoint.path()).recall(cache.path()), Some(vec![0.5, -0.25]));
        let others = [
            GoldenKey { steps: 5, ..asked.clone() },
            GoldenKey { dtype: "bf16", ..asked.clone() },
            GoldenKey { sizes: InputSpec { domain: 2, ..SIZES }, ..asked.clone() },
            GoldenKey { machine: "another GPU".to_owned(), ..asked.clone() },
            GoldenKey { network: "another build".to_owned(), ..asked.clone() },
        ];
        assert!(others.iter().all(|other| other.recall(cache.path()).is_none()));
    }

    #[test]
    fn weights_that_were_written_anew_are_another_question() {
        let checkpoint = checkpoint();
        let before = key(checkpoint.path());
        let later = SystemTime::now() + Duration::from_secs(5);
        let file = File::options().write(true).open(checkpoint.path().join("model.safetensors")).unwrap();
        file.set_times(FileTimes::new().set_modified(later)).unwrap();
        assert_ne!(key(checkpoint.path()), before);
    }

    #[test]
    fn a_damaged_answer_and_a_cache_that_cannot_be_written_are_as_good_as_none() {
        let (checkpoint, cache) = (checkpoint(), tempfile::tempdir().unwrap());
        let asked = key(checkpoint.path());
        let path = asked.path_in(cache.path());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        for damaged in ["[0.5, ", "[0.5, 1e60]", "{}"] {
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(asked.recall(cache.path()), None, "{damaged}");
        }
        asked.keep(cache.path(), &[0.5]);
        let whole = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, whole.replace("0.5", "0.7")).unwrap();
        assert_eq!(asked.recall(cache.path()), None, "another number");
        let file = cache.path().join("file");
        std::fs::write(&file, "").unwrap();
        asked.keep(&file, &[0.5]);
        assert_eq!(asked.recall(&file), None);
    }
}
