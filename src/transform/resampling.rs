//! Resizing as tables of weights, for whoever executes it: the host here, a GPU in its backend.

/// What each output pixel of an axis mixes: `taps` source pixels in a row from its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis<W> {
    /// First source pixel of each output pixel.
    pub starts: Vec<i32>,
    /// Checkpoint per output pixel; shorter windows are filled up with zeros.
    pub taps: usize,
    /// [taps, outputs]: the first weight of every output pixel, then the second of every one, and so on.
    pub weights: Vec<W>,
}

/// How images of one size become the model's, as tables for whoever resizes them.
#[derive(Clone, Debug, PartialEq)]
pub struct Resampling {
    /// Size of the images, (width, height) in pixels.
    pub from: (usize, usize),
    /// The filter.
    pub method: ResampleMethod,
}

/// A filter by its tables. `columns` holds the weights along a row of pixels, `rows` those along a column.
#[derive(Clone, Debug, PartialEq)]
pub enum ResampleMethod {
    /// Pillow's antialiased bicubic in its fixed point, one axis after the other, rounded to 8 bits in between.
    Bicubic {
        /// Along the width.
        columns: Axis<i32>,
        /// Along the height.
        rows: Axis<i32>,
        /// Whether the height is resampled before the width.
        rows_shrink_first: bool,
    },
    /// lerobot's `resize_with_pad`: bilinear to `content`, the rest on the left and top is zero.
    PaddedBilinear {
        /// Along the width.
        columns: Axis<f32>,
        /// Along the height.
        rows: Axis<f32>,
        /// Size of the content, (width, height) in pixels.
        content: (usize, usize),
    },
}
