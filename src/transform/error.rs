//! Why host-side pre- or post-processing fails.

use crate::error::InputError;

/// Failure of host-side pre- or post-processing.
#[derive(Debug, thiserror::Error)]
pub enum TransformError {
    /// The input itself is at fault.
    #[error(transparent)]
    Input(#[from] InputError),
    /// An image cannot be resized to the model's size.
    #[error("resize of a {from_width}x{from_height} image to {to_width}x{to_height}: {reason}")]
    Resize {
        /// Source width, pixels.
        from_width: usize,
        /// Source height, pixels.
        from_height: usize,
        /// Target width, pixels.
        to_width: usize,
        /// Target height, pixels.
        to_height: usize,
        /// Why it cannot.
        reason: String,
    },
    /// The tokenizer refused a text or cannot be trained; the value says why.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}
