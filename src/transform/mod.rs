//! Host-side pre- and post-processing: pure functions between [`crate::types`], no tensors.
//!
//! | from | to | file |
//! |---|---|---|
//! | bytes of an image message | [`crate::types::RgbImage`] | [`decode`](mod@decode) |
//! | image | normalised [3, H, W] | [`image`] ([`bicubic`], [`bilinear`], [`normalize`]; for kernels [`resample`], [`resampling`]) |
//! | instruction | token ids | [`tokenize`] ([`train_tokenizer`]) |
//! | joints, poses | proprioception channels | [`state`], [`rotation`] |
//! | poses that the policy predicts | LIBERO's actions | [`axis_angle`] |
//! | a checkpoint's lerobot files | the statistics and settings they prescribe | [`processors`] |

pub mod axis_angle;
pub mod bicubic;
pub mod bilinear;
pub mod decode;
mod error;
pub mod image;
pub mod normalize;
pub mod processors;
pub mod recent;
pub mod resample;
pub mod resampling;
pub mod rotation;
pub mod state;
pub mod tokenize;
pub mod tokenizer_settings;
pub mod train_tokenizer;

pub use decode::decode;
pub use error::TransformError;
