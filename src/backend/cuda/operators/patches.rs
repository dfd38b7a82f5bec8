//! Patches of images and of maps as rows of a matrix.

use super::int;
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::Argument::{Address, Views};
use crate::backend::cuda::device::kernels::{Argument, Kernel, Kernels, Source, ViewIndices, source};
use crate::backend::cuda::device::memory::Span;
use cudarc::driver::CudaStream;

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
    /// Buffers that are too small, images that are too wide, or an error that the driver reports.
    pub fn of_images(
        &self,
        stream: &CudaStream,
        images: Span,
        output: Span,
        valid: &[usize],
        sizes: &PatchSizes,
    ) -> Result<(), BackendError> {
        if !Self::supports(sizes, true) {
            let reason = format!("a row of images {} pixels wide does not fit a multiprocessor", sizes.input[1]);
            return Err(BackendError::Kernel { kernel: "image_patches".to_owned(), reason });
        }
        let mut views = ViewIndices::default();
        if valid.len() > views.0.len() {
            let reason = format!("{} views that are present: at most {}", valid.len(), views.0.len());
            return Err(BackendError::Kernel { kernel: "image_patches".to_owned(), reason });
        }
        let last = valid.iter().max().map_or(0, |last| last + 1);
        let row = Self::image_row(sizes.kernel);
        let [out_height, out_width] = sizes.output;
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
        let grid = [out_height, valid.len(), 1];
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
