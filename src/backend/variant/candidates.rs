//! Each matrix of a part in the wanted format, beside what it was.

use super::network::Network;
use super::ranges::Seen;
use super::{Recipe, VariantError};
use crate::model::variant::Part;
use crate::model::weight::sparse24::{Criterion, MULTIPLE, is_two_to_four, pack, two_to_four};
use crate::model::weight::{Int8, Weight, fp8};
use tch::Tensor;

/// The matrices of layers with one common input, in two forms.
#[derive(Debug)]
pub struct Candidate {
    /// Names as in the original release.
    pub names: Vec<String>,
    /// As they are, f32.
    pub dense: Vec<Weight>,
    /// In the wanted format; `None` for sizes that the format does not take.
    pub made: Option<Vec<Weight>>,
}

/// The matrices of a part.
#[derive(Debug)]
pub struct Candidates {
    /// The part.
    pub part: Part,
    /// Its groups, in the order of [`Network::groups`].
    pub groups: Vec<Candidate>,
}

impl Candidates {
    /// Makes every matrix of `part` as `recipe` says; `seen` is what entered each group, if the recipe asks for it.
    ///
    /// # Errors
    /// [`VariantError::Pattern`] for a matrix that is not 2:4 afterwards, or an operation that libtorch refuses.
    pub fn of(network: &mut Network, part: Part, recipe: &Recipe, seen: &[Seen]) -> Result<Self, VariantError> {
        let mut groups = Vec::new();
        for (index, group) in network.groups(part).iter().enumerate() {
            let names: Vec<String> = group.layers.iter().map(|(name, _)| name.clone()).collect();
            let dense: Vec<Weight> = group.layers.iter().map(|(_, layer)| layer.weight.share()).collect();
            let matrices: Vec<Tensor> = dense.iter().map(Weight::to_dense).collect::<Result<_, _>>()?;
            let made = match recipe {
                Recipe::Fp8 { percentile } => {
                    let range = seen.get(index).map_or(0.0, |seen| seen.range(*percentile));
                    Some(fp8::quantise(&matrices, range)?.into_iter().map(Weight::Fp8).collect())
                }
                Recipe::Int8 => {
                    let made: Result<Vec<_>, _> = matrices.iter().map(Int8::quantise).collect();
                    Some(made?.into_iter().map(Weight::Int8).collect())
                }
                Recipe::TwoToFour { dense_zeros, .. } => prune(&names, &matrices, seen.get(index), *dense_zeros)?,
            };
            groups.push(Candidate { names, dense, made });
        }
        Ok(Self { part, groups })
    }
}

/// The matrices pruned to 2:4, by their inputs' norms if these were seen; `None` if their width is no multiple of eight.
fn prune(
    names: &[String],
    matrices: &[Tensor],
    seen: Option<&Seen>,
    dense_zeros: bool,
) -> Result<Option<Vec<Weight>>, VariantError> {
    let criterion = match seen.map(Seen::norms).transpose()?.flatten() {
        Some(norms) => Criterion::Wanda(norms),
        None => Criterion::Magnitude,
    };
    let mut made = Vec::with_capacity(matrices.len());
    for (name, matrix) in names.iter().zip(matrices) {
        if matrix.size2()?.1 % MULTIPLE != 0 {
            return Ok(None);
        }
        let mask = two_to_four(matrix, &criterion)?;
        let masked = matrix.f_mul(&mask.f_to_kind(matrix.kind())?)?;
        let weight = if dense_zeros { Weight::Dense(masked) } else { Weight::Sparse24(pack(&masked, &mask)?) };
        // What is verified is what will be read back.
        if !is_two_to_four(&weight.to_dense()?)? {
            return Err(VariantError::Pattern { layer: name.clone() });
        }
        made.push(weight);
    }
    Ok(Some(made))
}
