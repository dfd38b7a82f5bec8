//! The types in which [`super::resample`] describes a resize, as tables of weights that a backend's kernels execute.

/// The source pixels that each output pixel of an axis mixes: `taps` consecutive pixels from its start.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis<W> {
    /// First source pixel of each output pixel.
    pub starts: Vec<i32>,
    /// Source pixels per output pixel; shorter windows are filled up with zero weights.
    pub taps: usize,
    /// [taps, outputs]: the first weight of every output pixel, then the second of every one, and so on.
    pub weights: Vec<W>,
}

/// The tables that resize images of one size to the model's.
#[derive(Clone, Debug, PartialEq)]
pub struct Resampling {
    /// Size of the images, (width, height) in pixels.
    pub from: (usize, usize),
    /// The filter and its tables.
    pub method: ResampleMethod,
}

/// A filter with its tables. `columns` holds the weights along a row of pixels, `rows` those along a column.
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
    /// lerobot's `resize_with_pad`: bilinear to `content`, with zeros on the left and top.
    PaddedBilinear {
        /// Along the width.
        columns: Axis<f32>,
        /// Along the height.
        rows: Axis<f32>,
        /// Size of the content, (width, height) in pixels.
        content: (usize, usize),
    },
}
