//! The layers that every part of the network shares. Each is `new(scope, sizes)` and `forward(input)`.

use super::TensorResult;
use super::checkpoint::Scope;
use super::weight::{Watch, Weight};
use crate::error::CheckpointError;
use tch::Tensor;

/// LayerNorm's epsilon everywhere in X-VLA and Florence-2 (PyTorch's default).
pub(super) const LAYER_NORM_EPS: f64 = 1e-5;

/// y = x·Wᵀ + b, as `torch.nn.Linear` stores it.
#[derive(Debug)]
pub struct Linear {
    /// W, [out, in].
    pub weight: Weight,
    /// b, [out]; `None` for a layer without bias.
    pub bias: Option<Tensor>,
    /// What sees the inputs, while formats are chosen; `None` otherwise.
    pub watch: Option<Watch>,
}

impl Linear {
    /// Reads `weight` [out, in], in the format in which it is stored, and `bias` [out].
    ///
    /// # Errors
    /// A tensor that is missing or has another shape; see [`Weight::read`].
    pub fn new(scope: &Scope, inputs: i64, outputs: i64) -> Result<Self, CheckpointError> {
        Self::with_bias(scope, inputs, outputs, true)
    }

    /// As [`Linear::new`], but reads a bias only if `bias` is true.
    ///
    /// # Errors
    /// As [`Linear::new`].
    pub fn with_bias(scope: &Scope, inputs: i64, outputs: i64, bias: bool) -> Result<Self, CheckpointError> {
        let bias = bias.then(|| scope.tensor("bias", &[outputs])).transpose()?;
        Ok(Self { weight: Weight::read(scope, inputs, outputs)?, bias, watch: None })
    }

    /// A Linear without bias from a matrix [out, in] that is already loaded.
    pub fn from_matrix(matrix: Tensor) -> Self {
        Self { weight: Weight::Dense(matrix), bias: None, watch: None }
    }

    /// A second handle to this layer, in the same memory.
    pub fn share(&self) -> Self {
        Self { weight: self.weight.share(), bias: self.bias.as_ref().map(Tensor::shallow_clone), watch: None }
    }

    /// [.., in] → [.., out]
    ///
    /// # Errors
    /// Shapes that do not fit, or an allocation that fails.
    pub fn forward(&self, input: &Tensor) -> TensorResult {
        if let Some(watch) = &self.watch {
            watch.see(input)?;
        }
        self.weight.multiply(input, self.bias.as_ref())
    }
}

/// Layers with one common input, which share their scales where a format has any, and are joined into one product where
/// a backend does so: q, k and v of the text encoder; any other layer alone.
#[derive(Debug)]
pub struct LinearGroup<'a> {
    /// The layers with their names as in the original release, such as `transformer.blocks.0.attn.qkv`.
    pub layers: Vec<(String, &'a mut Linear)>,
}

impl<'a> LinearGroup<'a> {
    /// A layer by itself.
    pub(super) fn single(name: String, layer: &'a mut Linear) -> Self {
        Self { layers: vec![(name, layer)] }
    }

    /// Says that products of these layers are recorded in a graph and replayed, see [`Weight::record`].
    pub fn record(self) {
        self.layers.into_iter().for_each(|(_, layer)| layer.weight.record());
    }

    /// What the group is called: the name of its first layer.
    pub fn name(&self) -> &str {
        self.layers.first().map_or("", |(name, _)| name)
    }
}

/// LayerNorm over the last dimension.
#[derive(Debug)]
pub struct LayerNorm {
    /// Scale of each channel, [width].
    pub weight: Tensor,
    /// Shift of each channel, [width].
    pub bias: Tensor,
    width: i64,
}

impl LayerNorm {
    /// Reads `weight` and `bias`, both [width].
    pub fn new(scope: &Scope, width: i64) -> Result<Self, CheckpointError> {
        Ok(Self { weight: scope.tensor("weight", &[width])?, bias: scope.tensor("bias", &[width])?, width })
    }

    /// Number of channels: the extent of the last dimension.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// [.., width] → [.., width]
    pub fn forward(&self, input: &Tensor) -> TensorResult {
        input.f_layer_norm([self.width], Some(&self.weight), Some(&self.bias), LAYER_NORM_EPS, true)
    }
}

/// A square 2-D convolution.
#[derive(Debug)]
pub struct Conv2d {
    /// Kernels, [out, in/groups, k, k].
    pub weight: Tensor,
    /// Bias of each output channel, [out].
    pub bias: Tensor,
    stride: i64,
    padding: i64,
    groups: i64,
}

/// The sizes of a [`Conv2d`].
#[derive(Clone, Copy, Debug)]
pub struct ConvSizes {
    /// Input channels.
    pub inputs: i64,
    /// Output channels.
    pub outputs: i64,
    /// Side of the square kernel.
    pub kernel: i64,
    /// Distance between neighbouring windows, input pixels.
    pub stride: i64,
    /// Zeros added on each side.
    pub padding: i64,
    /// 1, or `inputs` for a depth-wise convolution.
    pub groups: i64,
}

impl Conv2d {
    /// Reads `weight` [out, in/groups, k, k] and `bias` [out].
    pub fn new(scope: &Scope, sizes: ConvSizes) -> Result<Self, CheckpointError> {
        let ConvSizes { inputs, outputs, kernel, stride, padding, groups } = sizes;
        Ok(Self {
            weight: scope.tensor("weight", &[outputs, inputs / groups, kernel, kernel])?,
            bias: scope.tensor("bias", &[outputs])?,
            stride,
            padding,
            groups,
        })
    }

    /// [B, in, h, w] → [B, out, h', w']
    pub fn forward(&self, input: &Tensor) -> TensorResult {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        input.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], self.groups)
    }
}

/// The activation between the two matrices of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// x·Φ(x), computed with erf.
    Exact,
    /// The tanh approximation.
    Tanh,
}

/// fc1 → GELU → fc2.
#[derive(Debug)]
pub struct Mlp {
    /// The matrix that widens, [.., width] → [.., hidden].
    pub fc1: Linear,
    /// The matrix that narrows, [.., hidden] → [.., width].
    pub fc2: Linear,
    gelu: Gelu,
}

impl Mlp {
    /// Reads `fc1` [hidden, width] and `fc2` [width, hidden] with their biases.
    pub fn new(scope: &Scope, width: i64, hidden: i64, gelu: Gelu) -> Result<Self, CheckpointError> {
        Ok(Self {
            fc1: Linear::new(&scope.sub("fc1"), width, hidden)?,
            fc2: Linear::new(&scope.sub("fc2"), hidden, width)?,
            gelu,
        })
    }

    /// [.., width] → [.., width]
    pub fn forward(&self, input: &Tensor) -> TensorResult {
        self.fc2.forward(&self.widen(input)?)
    }

    /// The input of `fc2`: [.., width] → [.., hidden].
    pub(super) fn widen(&self, input: &Tensor) -> TensorResult {
        let approximate = match self.gelu {
            Gelu::Exact => "none",
            Gelu::Tanh => "tanh",
        };
        self.fc1.forward(input)?.f_gelu(approximate)
    }
}

/// softmax(q·kᵀ·scale)·v without mask or dropout; `scale` is 1/√d unless given. All [.., tokens, d].
pub fn attention(query: &Tensor, key: &Tensor, value: &Tensor, scale: Option<f64>) -> TensorResult {
    Tensor::f_scaled_dot_product_attention::<&Tensor>(query, key, value, None, 0.0, false, scale, false)
}

/// Splits a fused projection: [B, n, 3·heads·d] → three tensors [B, heads, n, d].
pub fn split_heads(qkv: &Tensor, heads: i64) -> Result<[Tensor; 3], tch::TchError> {
    let (batch, tokens, width) = qkv.size3()?;
    let qkv = qkv.f_view([batch, tokens, 3, heads, width / (3 * heads)])?; // [B, n, 3, heads, d]
    let qkv = qkv.f_permute([2, 0, 3, 1, 4])?; // [3, B, heads, n, d]
    Ok([qkv.f_select(0, 0)?, qkv.f_select(0, 1)?, qkv.f_select(0, 2)?])
}

/// Joins attention heads: [B, heads, n, d] → [B, n, heads·d].
pub fn join_heads(heads: &Tensor) -> TensorResult {
    let (batch, count, tokens, width) = heads.size4()?;
    heads.f_transpose(1, 2)?.f_reshape([batch, tokens, count * width])
}
