//! DaViT's operators besides matrix products.

use super::super::kernels::Argument::{Address, Views};
use super::super::kernels::{Argument, Kernel, Kernels, Source, ViewIndices, source};
use super::super::memory::Span;
use super::super::stored::{StoringKernel, Target};
use super::{NormWeights, int, parameter};
use crate::backend::BackendError;
use cudarc::driver::CudaStream;
use tch::Tensor;

/// A depthwise 3×3 convolution that is added to its input, and the norm that follows (`depthwise.cu`).
#[derive(Debug)]
pub struct DepthwiseNorm {
    kernel: StoringKernel,
    weight: Tensor, // [9, channels]
    bias: Tensor,
    norm: NormWeights,
    channels: usize,
    strip: usize,
}

impl DepthwiseNorm {
    /// Pixels of a row that a block computes: few where the map is small, so that there are enough blocks.
    fn strip(width: usize) -> usize {
        if width <= 16 { 2 } else { 4 }
    }

    /// The source that has to be compiled for maps of `width` pixels.
    pub fn source(channels: usize, width: usize) -> Source {
        source!("depthwise", CHANNELS = channels, STRIP = Self::strip(width))
    }

    /// Takes the convolution's weight [channels, 1, 3, 3] and bias and the norm that follows.
    ///
    /// # Errors
    /// A source that was not compiled, or an operation that libtorch refuses.
    pub fn new(
        kernels: &Kernels,
        weight: &Tensor,
        bias: Tensor,
        norm: NormWeights,
        width: usize,
    ) -> Result<Self, BackendError> {
        let channels = weight.size().first().copied().unwrap_or(0);
        let weight = weight.f_view([channels, 9])?.f_tr()?.f_contiguous()?;
        let channels = channels.unsigned_abs() as usize;
        let kernel = StoringKernel::new(kernels, &Self::source(channels, width), "depthwise_norm")?;
        Ok(Self { kernel, weight, bias, norm, channels, strip: Self::strip(width) })
    }

    /// `sum` = x + conv(x), `normed` = LayerNorm(`sum`), all [images, height, width, channels].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        input: Span,
        sum: Span,
        normed: Target,
        [images, height, width]: [usize; 3],
    ) -> Result<(), BackendError> {
        let count = images * height * width * self.channels;
        let [norm_weight, norm_bias] = self.norm.arguments(self.channels)?;
        let arguments = [
            Address(input.holding(count, "depthwise: input")?),
            parameter(&self.weight, 9 * self.channels, "depthwise: weight")?,
            parameter(&self.bias, self.channels, "depthwise: bias")?,
            norm_weight,
            norm_bias,
            Address(sum.holding(count, "depthwise: sum")?),
            Address(normed.span.holding(count, "depthwise: normed")?),
            int(height),
            int(width),
            normed.stored.argument(),
        ];
        let grid = [width.div_ceil(self.strip), height, images];
        let block = [(self.channels / 8).next_multiple_of(32), 1];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.kernel.storing(normed.stored)?.launch(stream, grid, block, 0, &arguments) }
    }
}

/// Attention within the square windows of a map (`window_attention.cu`).
#[derive(Debug)]
pub struct WindowAttention {
    kernel: StoringKernel,
    window: usize,
    heads: usize,
    head_dim: usize,
}

impl WindowAttention {
    /// Whether the kernel exists: keys and values of a window must fit into a block's shared memory.
    pub fn supports(window: usize, head_dim: usize) -> bool {
        let tokens = (window * window).next_multiple_of(16);
        head_dim.is_multiple_of(16) && 2 * tokens <= 1024 && 4 * tokens * (head_dim + 8) <= 48 << 10
    }

    /// The source that has to be compiled.
    pub fn source(window: usize, head_dim: usize) -> Source {
        source!("window_attention", WINDOW = window, HEAD_DIM = head_dim)
    }

    /// Attention of `heads` heads within windows.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, window: usize, heads: usize, head_dim: usize) -> Result<Self, BackendError> {
        let kernel = StoringKernel::new(kernels, &Self::source(window, head_dim), "window_attention")?;
        Ok(Self { kernel, window, heads, head_dim })
    }

    /// `qkv` [images, height, width, 3C] and the bias [3C] of its projection → `output` [images, height, width, C].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        qkv: Span,
        bias: &Tensor,
        output: Target,
        [images, height, width]: [usize; 3],
    ) -> Result<(), BackendError> {
        let channels = self.heads * self.head_dim;
        let tokens = images * height * width;
        let arguments = [
            Address(qkv.holding(tokens * 3 * channels, "window_attention: qkv")?),
            parameter(bias, 3 * channels, "window_attention: bias")?,
            Address(output.span.holding(tokens * channels, "window_attention: output")?),
            int(height),
            int(width),
            int(self.heads),
            output.stored.argument(),
        ];
        let windows = height.div_ceil(self.window) * width.div_ceil(self.window);
        let block = [2 * (self.window * self.window).next_multiple_of(16), 1];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe {
            let kernel = self.kernel.storing(output.stored)?;
            kernel.launch(stream, [self.heads, images, windows], block, 0, &arguments)
        }
    }
}

/// Attention between the channels of each group (`channel_attention.cu`).
#[derive(Debug)]
pub struct ChannelAttention {
    whole: StoringKernel,
    scores: Kernel,
    mix: StoringKernel,
    groups: usize,
    group_dim: usize,
}

impl ChannelAttention {
    /// Blocks that mix the channels of a large map.
    const MIX_BLOCKS: usize = 264;

    /// Whether the kernel exists for groups of this many channels.
    pub fn supports(group_dim: usize) -> bool {
        matches!(group_dim, 16 | 32 | 64)
    }

    /// The source that has to be compiled.
    pub fn source(group_dim: usize) -> Source {
        source!("channel_attention", GROUP_DIM = group_dim)
    }

    /// Attention within `groups` groups of channels.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels, groups: usize, group_dim: usize) -> Result<Self, BackendError> {
        let source = Self::source(group_dim);
        Ok(Self {
            whole: StoringKernel::new(kernels, &source, "channel_attention")?,
            scores: kernels.get(&source, "channel_scores")?,
            mix: StoringKernel::new(kernels, &source, "channel_mix")?,
            groups,
            group_dim,
        })
    }

    /// Tokens that a block scores at a time.
    fn slice(group_dim: usize) -> usize {
        7168 / group_dim
    }

    /// Floats of scratch memory for maps of `tokens`.
    pub fn scratch(images: usize, tokens: usize, groups: usize, group_dim: usize) -> usize {
        let slices = tokens.div_ceil(Self::slice(group_dim));
        if slices > 1 { images * groups * slices * group_dim * group_dim } else { 0 }
    }

    /// `qkv` [images, tokens, 3C] → `output` [images, tokens, C], with `scratch` floats for large maps.
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        qkv: Span,
        output: Target,
        scratch: Span,
        images: usize,
        tokens: usize,
    ) -> Result<(), BackendError> {
        let channels = self.groups * self.group_dim;
        let qkv = Address(qkv.holding(images * tokens * 3 * channels, "channel_attention: qkv")?);
        let (stored, inverse_scale) = (output.stored, output.stored.argument());
        let output = Address(output.span.holding(images * tokens * channels, "channel_attention: output")?);
        let (tokens_int, groups_int) = (int(tokens), int(self.groups));
        let block = [if self.group_dim > 32 { 512 } else { 256 }, 1];
        let slices = tokens.div_ceil(Self::slice(self.group_dim));
        if slices <= 1 {
            let arguments = [qkv, output, tokens_int, groups_int, inverse_scale];
            let kernel = self.whole.storing(stored)?;
            // SAFETY: `holding` has checked the length of every buffer above.
            return unsafe { kernel.launch(stream, [1, self.groups, images], block, 0, &arguments) };
        }
        let needed = Self::scratch(images, tokens, self.groups, self.group_dim);
        let partial = Address(scratch.holding(needed, "channel_attention: scratch")?);
        let blocks = (Self::MIX_BLOCKS / (self.groups * images).max(1)).clamp(1, tokens.div_ceil(128));
        // SAFETY: `holding` has checked the length of every buffer of both kernels above.
        unsafe {
            let (grid, arguments) = ([slices, self.groups, images], [qkv, partial, tokens_int, groups_int]);
            self.scores.launch(stream, grid, block, 0, &arguments)?;
            let arguments = [qkv, partial, output, tokens_int, groups_int, inverse_scale];
            self.mix.storing(stored)?.launch(stream, [blocks, self.groups, images], block, 0, &arguments)
        }
    }
}

/// Sizes of a strided convolution whose patches are gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchSizes {
    /// Side of a patch, pixels.
    pub kernel: usize,
    /// Distance between neighbouring patches, pixels.
    pub stride: usize,
    /// Width of the border of zeros around the input, pixels.
    pub padding: usize,
    /// Height and width of the input, pixels.
    pub input: [usize; 2],
    /// Height and width of the output, patches.
    pub output: [usize; 2],
}

impl PatchSizes {
    fn arguments(&self) -> [Argument; 7] {
        let [height, width] = self.input;
        let [out_height, out_width] = self.output;
        [height, width, out_height, out_width, self.kernel, self.stride, self.padding].map(int)
    }
}

/// Gathers the patches of a strided convolution as rows of a matrix (`patches.cu`).
#[derive(Debug)]
pub struct Patches {
    images: Kernel,
    maps: Kernel,
}

impl Patches {
    /// The source that has to be compiled.
    pub fn source() -> Source {
        source!("patches")
    }

    /// Takes both kernels from those that were compiled.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels) -> Result<Self, BackendError> {
        let source = Self::source();
        Ok(Self { images: kernels.get(&source, "image_patches")?, maps: kernels.get(&source, "map_patches")? })
    }

    /// Shared memory for patches of images, bytes; at most 48 KiB are supported.
    pub fn shared_bytes(sizes: &PatchSizes) -> usize {
        2 * 3 * sizes.kernel * ((sizes.output[1].max(1) - 1) * sizes.stride + sizes.kernel)
    }

    /// Whether both kernels exist for such patches.
    pub fn supports(sizes: &PatchSizes, of_images: bool) -> bool {
        if of_images { Self::shared_bytes(sizes) <= 48 << 10 } else { sizes.kernel <= 5 }
    }

    /// Length of a row of patches of images.
    pub fn image_row(kernel: usize) -> usize {
        (3 * kernel * kernel).next_multiple_of(8)
    }

    /// Valid views of `images` [V, 3, H, W] f32 → `output` [valid·h'·w', row].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn of_images(
        &self,
        stream: &CudaStream,
        images: Span,
        output: Span,
        valid: &[usize],
        sizes: &PatchSizes,
    ) -> Result<(), BackendError> {
        let last = valid.iter().max().map_or(0, |last| last + 1);
        let row = Self::image_row(sizes.kernel);
        let [out_height, out_width] = sizes.output;
        let mut views = ViewIndices::default();
        for (place, &view) in views.0.iter_mut().zip(valid) {
            *place = i32::try_from(view).unwrap_or(0);
        }
        let [height, width] = sizes.input;
        let mut arguments = vec![
            Address(images.holding(last * 3 * height * width, "image_patches: images")?),
            Address(output.holding(valid.len() * out_height * out_width * row, "image_patches: output")?),
            Views(views),
        ];
        arguments.extend(sizes.arguments());
        arguments.push(int(row));
        let grid = [out_height, valid.len().min(views.0.len()), 1];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.images.launch(stream, grid, [32, 8], Self::shared_bytes(sizes), &arguments) }
    }

    /// Maps `input` [images, h, w, channels] → `output` [images·h'·w', kernel²·channels].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn of_maps(
        &self,
        stream: &CudaStream,
        input: Span,
        output: Span,
        images: usize,
        channels: usize,
        sizes: &PatchSizes,
    ) -> Result<(), BackendError> {
        let [height, width] = sizes.input;
        let [out_height, out_width] = sizes.output;
        let patch = sizes.kernel * sizes.kernel;
        let [height_int, width_int, rest @ ..] = sizes.arguments();
        let mut arguments = vec![
            Address(input.holding(images * height * width * channels, "map_patches: input")?),
            Address(output.holding(images * out_height * out_width * patch * channels, "map_patches: output")?),
            height_int,
            width_int,
            int(channels),
        ];
        arguments.extend(rest);
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.maps.launch(stream, [out_width, out_height, images], [32, patch], 0, &arguments) }
    }
}

/// Adds positions to the last map and puts its mean in front (`image_tokens.cu`).
#[derive(Debug)]
pub struct ImageTokens(Kernel);

impl ImageTokens {
    /// The source that has to be compiled.
    pub fn source() -> Source {
        source!("image_tokens")
    }

    /// Takes the kernel from those that were compiled.
    ///
    /// # Errors
    /// A source that was not compiled.
    pub fn new(kernels: &Kernels) -> Result<Self, BackendError> {
        Ok(Self(kernels.get(&Self::source(), "image_tokens")?))
    }

    /// `map` [images, count, channels] and `positions` [count, channels] → `output` [images, count + 1, channels].
    ///
    /// # Errors
    /// Buffers that are too small, or an error that the driver reports.
    pub fn run(
        &self,
        stream: &CudaStream,
        map: Span,
        positions: &Tensor,
        output: Span,
        [images, count, channels]: [usize; 3],
    ) -> Result<(), BackendError> {
        let arguments = [
            Address(map.holding(images * count * channels, "image_tokens: map")?),
            parameter(positions, count * channels, "image_tokens: positions")?,
            Address(output.holding(images * (count + 1) * channels, "image_tokens: output")?),
            int(count),
            int(channels),
        ];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.0.launch(stream, [channels.div_ceil(64), images, 1], [256, 1], 0, &arguments) }
    }
}
