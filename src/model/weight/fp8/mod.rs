//! FP8 in its E4M3 form (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): one sign, four exponent and three
//! mantissa bits, at most ±448, no infinities. Matrix and activations are divided by one static scale each, so that a
//! product needs no reduction over its inputs at run time.

mod quantise;

pub use quantise::{input_scale, quantise};

use super::super::TensorResult;
use super::super::checkpoint::Scope;
use super::scale_fault;
use crate::error::CheckpointError;
use tch::{Kind, TchError, Tensor};

/// The largest finite value.
pub const MAX: f64 = 448.0;
/// The tensor with the elements.
pub(super) const VALUES: &str = "weight";
/// The tensor with [`Fp8::weight_scale`].
pub const WEIGHT_SCALE: &str = "weight_scale";
/// The tensor with [`Fp8::input_scale`].
pub const INPUT_SCALE: &str = "input_scale";
/// Of these, the tensor cores' FP8 products need multiples.
const MULTIPLE: i64 = 16;

/// A matrix whose products are computed in FP8: y = (q(x / s)·Wᵀ)·s·t + b, where q rounds to the nearest E4M3 (ties to
/// even) within ±448.
#[derive(Debug)]
pub struct Fp8 {
    /// W / t, [out, in] E4M3.
    pub values: Tensor,
    /// t: the value that 1 stands for in `values`.
    pub weight_scale: f32,
    /// s: the value that 1 stands for in a quantised input.
    pub input_scale: f32,
    /// The dtype that flows: of the input before it is quantised, of the result and the bias.
    pub kind: Kind,
}

impl Fp8 {
    /// Reads `weight` [outputs, inputs] F8_E4M3, `weight_scale` and `input_scale`.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape or dtype; a scale that is not a positive number; an element that is
    /// not a number.
    pub(super) fn read(scope: &Scope, inputs: i64, outputs: i64) -> Result<Self, CheckpointError> {
        let values = scope.stored(VALUES, &[outputs, inputs], Kind::Float8e4m3fn)?;
        let scale = |name| -> Result<f32, CheckpointError> {
            let stored = scope.stored(name, &[], Kind::Float)?;
            if scope.only_surveys() {
                return Ok(1.0);
            }
            match scope.torch(scale_fault(&stored))? {
                None => Ok(scope.torch(stored.f_double_value(&[]))? as f32),
                Some(fault) => Err(scope.refused(name, fault)),
            }
        };
        let (weight_scale, input_scale) = (scale(WEIGHT_SCALE)?, scale(INPUT_SCALE)?);
        let (kind, device) = scope.options();
        let values = scope.torch(values.f_to(device))?;
        Ok(Self { values, weight_scale, input_scale, kind })
    }

    /// The tensors that hold this matrix in a checkpoint, with their names within the layer's scope.
    ///
    /// # Errors
    /// An allocation that fails.
    pub fn stored(&self) -> Result<Vec<(&'static str, Tensor)>, TchError> {
        let scalar = |value: f32| Tensor::f_from_slice(&[value])?.f_view([0i64; 0]);
        Ok(vec![
            (VALUES, self.values.shallow_clone()),
            (WEIGHT_SCALE, scalar(self.weight_scale)?),
            (INPUT_SCALE, scalar(self.input_scale)?),
        ])
    }

    pub(super) fn to_dense(&self) -> TensorResult {
        self.values.f_to_kind(Kind::Float)?.f_mul_scalar(f64::from(self.weight_scale))?.f_to_kind(self.kind)
    }

    pub(super) fn share(&self) -> Self {
        Self { values: self.values.shallow_clone(), ..*self }
    }

    /// `input` [.., in] as the product takes it: E4M3 of the same shape.
    ///
    /// # Errors
    /// An allocation that fails.
    pub fn quantise_input(&self, input: &Tensor) -> TensorResult {
        to_e4m3(input, f64::from(self.input_scale))
    }

    /// On a GPU with FP8 tensor cores by the library's product, elsewhere with the same operands in the dtype that flows.
    pub(super) fn multiply(&self, input: &Tensor, bias: Option<&Tensor>) -> TensorResult {
        let quantised = self.quantise_input(input)?;
        // GPUs before Ada have no such product, and the library says so at once.
        if self.has_library_product(input)
            && let Ok(product) = self.multiply_by_library(&quantised, bias)
        {
            return Ok(product);
        }
        // The operands are exact in f16 and in bf16. The scales are applied to the product, so that nothing else is
        // rounded than the library's product rounds.
        let scale = f64::from(self.input_scale) * f64::from(self.weight_scale);
        let product = quantised.f_to_kind(Kind::Float)?.f_matmul(&self.values.f_to_kind(Kind::Float)?.f_tr()?)?;
        let product = product.f_mul_scalar(scale)?;
        let sum = match bias {
            Some(bias) => product.f_add(&bias.f_to_kind(Kind::Float)?)?,
            None => product,
        };
        sum.f_to_kind(self.kind)
    }

    fn has_library_product(&self, input: &Tensor) -> bool {
        let multiple = self.values.size().iter().all(|extent| extent % MULTIPLE == 0);
        input.device().is_cuda() && multiple && self.kind != Kind::Float
    }

    fn multiply_by_library(&self, quantised: &Tensor, bias: Option<&Tensor>) -> TensorResult {
        let mut shape = quantised.size();
        let (outputs, inputs) = self.values.size2()?;
        let rows = quantised.f_reshape([-1, inputs])?;
        // A fill is recorded in a graph, a copy from the host is not.
        let scale = |value: f32| Tensor::f_full([1i64; 0], f64::from(value), (Kind::Float, quantised.device()));
        let (input_scale, weight_scale) = (scale(self.input_scale)?, scale(self.weight_scale)?);
        let product =
            rows.f_internal_scaled_mm(&self.values.f_tr()?, &input_scale, &weight_scale, bias, None, self.kind, true)?;
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        product.f_view(shape.as_slice())
    }
}

/// q(`tensor` / `scale`): divided in single precision, limited to ±448, rounded to the nearest E4M3.
pub(super) fn to_e4m3(tensor: &Tensor, scale: f64) -> TensorResult {
    // Multiplying by the reciprocal is what the kernels do; a division would round differently now and then.
    let inverse = f64::from((scale as f32).recip());
    tensor.f_to_kind(Kind::Float)?.f_mul_scalar(inverse)?.f_clamp(-MAX, MAX)?.f_to_kind(Kind::Float8e4m3fn)
}
