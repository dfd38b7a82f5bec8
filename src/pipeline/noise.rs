//! The noise that denoising starts from. It is always an input: drawn here from a seed, or read from a batch.

use crate::model::config::ModelConfig;
use crate::types::HostArray;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use std::borrow::Cow;
use std::sync::Arc;

/// Where the noise of an inference comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// The pipeline draws the noise from this seed.
    Seed(u64),
    /// The caller supplies the noise [B, T, A].
    Given(Arc<HostArray>),
}

impl Noise {
    /// The noise. `shape` is used only if it is drawn here; supplied noise keeps its own.
    pub fn values(&self, shape: &[usize]) -> Cow<'_, HostArray> {
        match self {
            Self::Seed(seed) => Cow::Owned(draw(*seed, shape)),
            Self::Given(noise) => Cow::Borrowed(noise),
        }
    }

    /// The seed that the noise is drawn from; `None` for supplied noise.
    pub fn seed(&self) -> Option<u64> {
        match self {
            Self::Seed(seed) => Some(*seed),
            Self::Given(_) => None,
        }
    }
}

impl From<u64> for Noise {
    fn from(seed: u64) -> Self {
        Self::Seed(seed)
    }
}

impl From<HostArray> for Noise {
    fn from(noise: HostArray) -> Self {
        Self::Given(Arc::new(noise))
    }
}

/// Shape of the noise for a batch: [B, T, A].
pub fn shape(config: &ModelConfig, batch: usize) -> [usize; 3] {
    let policy = &config.policy;
    [batch, policy.chunk_length.unsigned_abs() as usize, policy.action_dim.unsigned_abs() as usize]
}

/// Draws standard normal values of `shape`. The same `seed` gives the same values on every machine.
pub fn draw(seed: u64, shape: &[usize]) -> HostArray {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let count = shape.iter().product();
    let data = StandardNormal.sample_iter(&mut generator).take(count).collect();
    HostArray { shape: shape.to_vec(), data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_noise() {
        assert_eq!(draw(7, &[2, 30, 20]), draw(7, &[2, 30, 20]));
        assert_ne!(draw(7, &[4]), draw(8, &[4]));
    }

    #[test]
    fn the_first_sample_of_a_batch_has_the_noise_of_a_single() {
        assert_eq!(draw(7, &[2, 3, 4]).data[..12], draw(7, &[1, 3, 4]).data[..]);
    }

    #[test]
    fn noise_is_standard_normal() {
        let noise = draw(1, &[100_000]).data;
        let mean = noise.iter().sum::<f32>() / noise.len() as f32;
        let variance = noise.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / noise.len() as f32;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "mean {mean}, variance {variance}");
    }
}
