//! The policy of one domain as an ONNX graph: one denoising step, with static shapes and a batch of one.
//!
//! | tensor | shape | dtype | |
//! |---|---|---|---|
//! | `vlm_tokens` | [1, N + L, H] | the graph's | projected once per frame, without positions |
//! | `aux_tokens` | [1, (V − 1)·N, H] | the graph's | likewise; absent with one view |
//! | `x_t` | [1, T, A] | f32 | the noisy actions |
//! | `proprio` | [1, P] | f32 | absent if P = 0 |
//! | `t` | [1] | f32 | the step's time |
//! | `action` | [1, T, A] | f32 | the predicted clean actions |
//!
//! DomainAwareLinear is a plain matrix product here, positions and soft prompts are constants, and the channels that
//! the action space hides from the network have rows of zeros in the action encoder. Only the actions' tokens leave the
//! last block. A matrix in FP8 stays so, and its input is quantised in the graph; a 2:4 matrix is written with its zeros.
//! The same policy always gives the same bytes.
//!
//! | file | |
//! |---|---|
//! | [`graph`] | nodes and constants |
//! | [`transformer`] | the network as nodes and constants |
//! | [`file`](mod@file) | the file, with its weights inside or beside it |

mod error;
pub mod file;
pub mod graph;
pub mod transformer;

pub use error::ExportError;

use serde::{Deserialize, Serialize};
use tch::Kind;

/// The ONNX opset that graphs are written for by default.
pub const DEFAULT_OPSET: i64 = 18;
/// The opsets that graphs can be written for. The first is the earliest that has LayerNormalization and Split as used
/// here.
pub const OPSETS: std::ops::RangeInclusive<i64> = 18..=22;
/// The earliest opset with FP8.
pub const FP8_OPSET: i64 = 19;
/// Counts the changes to what is written for the same checkpoint and plan, apart from names. An engine that was built
/// from a graph of another revision is not the same engine.
pub const REVISION: u32 = 2;

/// An input or output of the graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IoTensor {
    /// Name in the graph.
    pub name: String,
    /// Whether it is an input or an output.
    pub direction: Direction,
    /// Type of its elements.
    pub dtype: Element,
    /// Extent of each dimension; shapes are static.
    pub shape: Vec<i64>,
}

/// Whether a tensor enters or leaves the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// The caller provides it.
    Input,
    /// The graph computes it.
    Output,
}

/// Type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    /// IEEE single precision, 32 bits.
    F32,
    /// IEEE half precision, 16 bits.
    F16,
    /// bfloat16, 16 bits.
    Bf16,
}

impl Element {
    /// The name, as in `--dtype`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// The corresponding dtype of libtorch.
    pub fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F16 => Kind::Half,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// The precision that a graph computes in, apart from the products of matrices that the checkpoint stores in FP8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// IEEE single precision, 32 bits.
    F32,
    /// IEEE half precision, 16 bits.
    F16,
    /// bfloat16, 16 bits.
    Bf16,
}

impl Precision {
    /// Names in the order of the variants.
    pub const NAMES: [&'static str; 3] = ["f32", "f16", "bf16"];

    /// The name, as in parameters and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        }
    }

    /// Type of the tokens and of everything that is not quantised.
    pub fn element(self) -> Element {
        match self {
            Self::F32 => Element::F32,
            Self::F16 => Element::F16,
            Self::Bf16 => Element::Bf16,
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "fp8" {
            return Err("FP8 is a property of the checkpoint now: make one with `xvla quantize --format fp8`, and \
                        export it in f16, bf16 or f32"
                .to_owned());
        }
        [Self::F32, Self::F16, Self::Bf16]
            .into_iter()
            .find(|precision| precision.name() == name)
            .ok_or_else(|| format!("`{name}` is not a precision: expected {}", Self::NAMES.join(", ")))
    }
}
