//! How the random values of each tensor are distributed: uniform around a mean, scaled by fan-in, so that
//! activations keep a size of about one through the whole network.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Values per random stream. Changing this number changes the values of every seed.
pub(super) const BLOCK: usize = 1 << 18;

/// The one matrix that native `transformers` stores transposed.
const TRANSPOSED: &str = ".image_projection.weight";

/// One tensor to be written.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    /// The name in the file.
    pub stored: String,
    /// The shape in the file.
    pub shape: Vec<i64>,
    /// Number of values.
    pub count: usize,
    /// (rows, columns) of the values as they are drawn, if the file holds the matrix transposed.
    pub transposed: Option<(usize, usize)>,
    distribution: Distribution,
    key: [u8; 32],
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Distribution {
    mean: f32,
    std: f32,
}

/// Pairs the inventory in the original release's names with that of the file. The original names determine the values,
/// so that every layout holds the same ones.
pub(super) fn plan(canonical: &[(String, Vec<i64>)], stored: Vec<(String, Vec<i64>)>, seed: u64) -> Vec<Tensor> {
    let shapes: BTreeMap<&str, &[i64]> =
        canonical.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    let tensors = canonical.iter().zip(stored).map(|((name, drawn), (stored, shape))| {
        let transposed = match drawn.as_slice() {
            // The name decides rather than the shape, because the matrix may be square.
            [rows, columns] if stored.ends_with(TRANSPOSED) => Some((extent(*rows), extent(*columns))),
            _ => None,
        };
        Tensor {
            count: shape.iter().copied().map(extent).product(),
            transposed,
            distribution: distribution(name, drawn, &shapes),
            key: Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize().into(),
            stored,
            shape,
        }
    });
    tensors.collect()
}

fn extent(extent: i64) -> usize {
    extent.unsigned_abs() as usize
}

/// Spread of LayerNorm weights around one, and of biases around zero.
const SMALL: f32 = 0.02;
/// Spread of position embeddings, which are added to tokens of size one.
const POSITIONS: f32 = 0.1;
/// Factor for matrices that end a residual branch. Dozens of branches then add up to about one, as in trained networks,
/// instead of swamping the residual stream and multiplying rounding errors (Radford et al. 2019, GPT-2's
/// initialisation).
const BRANCH_END: f32 = 0.2;
/// Factor for depth-wise convolutions. They stand in residual branches without a norm, so each must stay close to the
/// identity; otherwise tens of them would multiply up to overflow in half precision.
const DEPTHWISE: f32 = 0.1;

fn distribution(name: &str, shape: &[i64], shapes: &BTreeMap<&str, &[i64]>) -> Distribution {
    let spread = |std| Distribution { mean: 0.0, std };
    let fan_in = |inputs: i64| spread((inputs.max(1) as f32).sqrt().recip());
    match (name, shape) {
        (_, [_]) if name.ends_with(".weight") => Distribution { mean: 1.0, std: SMALL },
        (_, [_]) => spread(SMALL),
        _ if name.ends_with(".bias.weight") => spread(SMALL), // a bias per domain
        ("vlm.language_model.model.shared.weight" | "transformer.soft_prompt_hub.weight", _) => spread(1.0),
        _ if name.contains("pos") && name.contains("emb") => spread(POSITIONS),
        ("vlm.image_projection", [inputs, _]) => fan_in(*inputs),
        (_, [_, table]) if name.ends_with(".fc.weight") => {
            let bias = format!("{}.bias.weight", name.trim_end_matches(".fc.weight"));
            let outputs = shapes.get(bias.as_str()).and_then(|shape| shape.last()).copied().unwrap_or(1);
            fan_in(table / outputs.max(1)) // a matrix [in, out] per domain
        }
        (_, [_, 1, height, width]) => spread(DEPTHWISE * ((height * width) as f32).sqrt().recip()),
        (_, [_, inputs]) if ends_branch(name) => spread(BRANCH_END * (*inputs as f32).sqrt().recip()),
        (_, [_, inputs @ ..]) => fan_in(inputs.iter().product()),
        (_, []) => spread(SMALL),
    }
}

/// Whether a matrix is the last one before a residual sum: of an attention or of an MLP.
fn ends_branch(name: &str) -> bool {
    let attention = ["attn.proj.weight", "attn.fn.proj.weight", "self_attn.out_proj.weight"];
    attention.iter().any(|end| name.ends_with(end)) || name.ends_with("fc2.weight")
}

impl Tensor {
    /// Number of blocks that can be drawn independently of each other.
    pub(super) fn blocks(&self) -> usize {
        self.count.div_ceil(BLOCK)
    }

    /// Appends the values of `block` to `values`, in the order of the original release.
    pub(super) fn draw(&self, block: usize, values: &mut Vec<f32>) {
        let start = block.saturating_mul(BLOCK).min(self.count);
        let count = BLOCK.min(self.count - start);
        let mut generator = ChaCha8Rng::from_seed(self.key);
        generator.set_stream(block as u64);
        let Distribution { mean, std } = self.distribution;
        let reach = std * 3f32.sqrt(); // half the width of a uniform distribution with this standard deviation
        values.extend((0..count).map(|_| {
            let unit = (generator.next_u32() >> 8) as f32 * (1.0 / 8_388_608.0) - 1.0; // [-1, 1) in steps of 2^-23
            mean + reach * unit
        }));
    }

    /// All values in the order of the file.
    pub(super) fn draw_all(&self) -> Vec<f32> {
        let mut values = Vec::with_capacity(self.count);
        (0..self.blocks()).for_each(|block| self.draw(block, &mut values));
        let Some((_, columns)) = self.transposed else { return values };
        (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns).copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensors(shapes: &[(&str, &[i64])]) -> Vec<Tensor> {
        let inventory: Vec<_> = shapes.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect();
        plan(&inventory, inventory.clone(), 1)
    }

    fn std(values: &[f32]) -> f32 {
        let mean = values.iter().sum::<f32>() / values.len() as f32;
        (values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt()
    }

    #[test]
    fn a_linear_layer_is_scaled_by_its_inputs() {
        let values = tensors(&[("transformer.vlm_proj.weight", &[300, 400])])[0].draw_all();
        assert!((std(&values) - 0.05).abs() < 1e-3, "{}", std(&values));
    }

    #[test]
    fn a_table_of_matrices_is_scaled_by_the_inputs_of_one() {
        let shapes: [(&str, &[i64]); 2] = [
            ("transformer.action_encoder.fc.weight", &[30, 100 * 64]),
            ("transformer.action_encoder.bias.weight", &[30, 64]),
        ];
        let tensors = tensors(&shapes);
        assert!((std(&tensors[0].draw_all()) - 0.1).abs() < 2e-3);
        assert!((std(&tensors[1].draw_all()) - SMALL).abs() < 2e-3);
    }

    #[test]
    fn norms_are_near_one() {
        let values = tensors(&[("vlm.image_proj_norm.weight", &[64])])[0].draw_all();
        assert!(values.iter().all(|value| (value - 1.0).abs() < 0.1), "{values:?}");
    }

    #[test]
    fn a_transposed_matrix_holds_the_same_values() {
        let canonical = vec![("vlm.image_projection".to_owned(), vec![3, 2])];
        let plain = plan(&canonical, canonical.clone(), 1)[0].draw_all();
        let stored = "model.vlm.multi_modal_projector.image_projection.weight";
        let transposed = plan(&canonical, vec![(stored.to_owned(), vec![2, 3])], 1)[0].draw_all();
        assert_eq!(transposed, [plain[0], plain[2], plain[4], plain[1], plain[3], plain[5]]);
    }

    #[test]
    fn blocks_join_into_the_whole() {
        let tensor = &tensors(&[("transformer.norm.bias", &[(BLOCK + 5) as i64])])[0];
        assert_eq!(tensor.blocks(), 2);
        let mut last = Vec::new();
        tensor.draw(1, &mut last);
        assert_eq!(tensor.draw_all()[BLOCK..], last[..]);
    }
}
