//! The largest numbers of a sample, for errors about values that are not finite.

use crate::backend::engine::golden::GoldenInputs;
use std::fmt;

/// The largest magnitudes of a sample's inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Magnitudes {
    pixels: f32,
    state: f32,
    noise: f32,
}

impl Magnitudes {
    /// Those of `sample`.
    pub fn of(sample: &GoldenInputs) -> Self {
        let largest = |values: &[f32]| values.iter().fold(0.0, |largest: f32, value| largest.max(value.abs()));
        Self {
            pixels: largest(&sample.inputs.image_input),
            state: largest(&sample.inputs.proprio),
            noise: largest(&sample.noise.data),
        }
    }
}

impl fmt::Display for Magnitudes {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { pixels, state, noise } = self;
        write!(
            f,
            "its largest numbers are {pixels:.1e} (`image_input`), {state:.1e} (`proprio`, as the network takes it) and \
             {noise:.1e} (`noise`): if these are plausible, the checkpoint is at fault"
        )
    }
}
