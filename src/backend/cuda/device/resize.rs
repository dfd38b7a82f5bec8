//! Camera images resized and normalised on the GPU (`resize.cu`): 8-bit pixels are uploaded instead of floats,
//! and the host only copies them.

#![allow(unsafe_code, reason = "copies pinned memory and starts kernels whose buffers have been checked")]

use super::kernels::Argument::{Address, Int};
use super::kernels::{Kernel, Kernels, Source, source};
use super::memory::{Span, buffer};
use super::session::{PipelineStage, Session, wait_for};
use crate::backend::BackendError;
use crate::backend::stream::{Frame, patience};
use crate::transform::recent::Recent;
use crate::transform::resampling::{Axis, ResampleMethod, Resampling};
use cudarc::driver::{CudaEvent, CudaStream, PinnedHostSlice, result};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};

/// Resampling tables that are kept on the device.
const TABLES: usize = 16;

/// Resizes frames into planes. It keeps its buffers and tables for later frames.
pub struct Resizer {
    session: Arc<Session>,
    rows_to_bytes: Kernel,
    rows_to_planes: Kernel,
    columns_to_bytes: Kernel,
    columns_to_planes: Kernel,
    padded_bilinear: Kernel,
    tables: Recent<(Arc<Resampling>, Tables)>,
    buffers: Option<Buffers>,
    /// Recorded after the device has read the pinned buffer.
    read: CudaEvent,
}

/// Resampling tables of both axes on the device.
struct Tables {
    columns: AxisTable,
    rows: AxisTable,
}

struct AxisTable {
    starts: Tensor,
    weights: Tensor,
    taps: usize,
    to: usize,
}

/// Pixels on the host, on the device, and between the two passes.
struct Buffers {
    host: PinnedHostSlice<u8>,
    device: Tensor,
    between: Tensor,
}

impl AxisTable {
    fn new<W: tch::kind::Element>(axis: &Axis<W>, device: Device) -> Result<Self, BackendError> {
        Ok(Self {
            starts: Tensor::f_from_slice(&axis.starts)?.f_to(device)?,
            weights: Tensor::f_from_slice(&axis.weights)?.f_to(device)?,
            taps: axis.taps,
            to: axis.starts.len(),
        })
    }

    fn addresses(&self) -> Result<[super::kernels::Argument; 2], BackendError> {
        Ok([
            Address(Span::of(&self.starts).holding(self.to, "resize: starts")?),
            Address(Span::of(&self.weights).holding(self.taps * self.to, "resize: weights")?),
        ])
    }
}

fn int(value: usize) -> super::kernels::Argument {
    Int(i32::try_from(value).unwrap_or(i32::MAX))
}

impl Buffers {
    fn new(session: &Session, pixels: usize, between: usize) -> Result<Self, BackendError> {
        // SAFETY: every byte of a pixel is written before the device reads it, and the padding may hold anything.
        let host = unsafe { session.context().alloc_pinned_with_flags::<u8>(pixels, 0) }?;
        Ok(Self {
            host,
            device: buffer(&[pixels], Kind::Uint8, session.device())?,
            between: buffer(&[between], Kind::Uint8, session.device())?,
        })
    }

    /// Copies all pixels to the device, and records `read` once it has them.
    fn send(&mut self, frames: &[Frame], stream: &CudaStream, read: &CudaEvent) -> Result<(), BackendError> {
        let host = self.host.as_mut_slice()?;
        let mut rest = &mut *host;
        for frame in frames {
            let pixels = frame.image.data();
            let Some((place, after)) = rest.split_at_mut_checked(pixels.len().next_multiple_of(4)) else { break };
            if let Some(place) = place.get_mut(..pixels.len()) {
                place.copy_from_slice(pixels);
            }
            rest = after;
        }
        // SAFETY: both sides are equally long; the host's side is not written before `read` has passed.
        unsafe { result::memcpy_htod_async(self.device.data_ptr() as u64, host, stream.cu_stream()) }?;
        Ok(read.record(stream)?)
    }
}

/// Frames of one size whose views and pixels follow each other, so that one launch resizes them all.
struct Run<'a> {
    resampling: &'a Resampling,
    views: usize,
    pixels: Span,
    between: Span,
    /// [views, 3, H, W]
    planes: Span,
}

impl Resizer {
    /// The source that has to be compiled.
    pub fn source() -> Source {
        source!("resize")
    }

    /// Compiles the kernels.
    ///
    /// # Errors
    /// An error that the compiler or the driver reports.
    pub fn new(session: Arc<Session>) -> Result<Self, BackendError> {
        let source = Self::source();
        let kernels = Kernels::compile(&session, Kind::Half, vec![source.clone()])?.one_after_the_other();
        Ok(Self {
            rows_to_bytes: kernels.get(&source, "resample_rows_to_bytes")?,
            rows_to_planes: kernels.get(&source, "resample_rows_to_planes")?,
            columns_to_bytes: kernels.get(&source, "resample_columns_to_bytes")?,
            columns_to_planes: kernels.get(&source, "resample_columns_to_planes")?,
            padded_bilinear: kernels.get(&source, "padded_bilinear")?,
            tables: Recent::new(TABLES),
            buffers: None,
            read: session.context().new_event(None)?,
            session,
        })
    }

    /// Writes `frames` as planes of `images` [1, V, 3, H, W] f32. Planes of other views are left as they are.
    ///
    /// # Errors
    /// A view that `images` has no plane for, or an error that the driver reports.
    pub fn run(&mut self, frames: &[Frame], images: &Tensor, size: [usize; 2]) -> Result<(), BackendError> {
        // None of this frame's may make room for another of its own.
        self.tables.hold(frames.len());
        for frame in frames {
            self.ensure_tables(&frame.resampling)?;
        }
        // The kernels read whole words of four bytes.
        let length = |frame: &Frame| frame.image.data().len().next_multiple_of(4);
        let needed = frames.iter().map(length).sum();
        wait_for(self.session.context(), &self.read, Some(patience()))?;
        let [pixels, between] = self.send(needed, frames, size)?;

        let [height, width] = size;
        let plane = 3 * height * width;
        let planes = Span::of(images);
        let mut start = 0;
        let alike = |a: &Frame, b: &Frame| {
            a.view + 1 == b.view && Arc::ptr_eq(&a.resampling, &b.resampling) && length(a) == a.image.data().len()
        };
        for run in frames.chunk_by(alike) {
            let Some(first) = run.first() else { continue };
            self.resize(
                &Run {
                    resampling: &first.resampling,
                    views: run.len(),
                    pixels: pixels.from(start),
                    // Launches on one stream run one after the other, so all runs can share this buffer.
                    between,
                    planes: planes.from(first.view * plane),
                },
                size,
            )?;
            start += run.iter().map(length).sum::<usize>();
        }
        Ok(())
    }

    /// Copies resampling tables to the device, unless they are there already.
    fn ensure_tables(&mut self, resampling: &Arc<Resampling>) -> Result<(), BackendError> {
        let device = Device::Cuda(self.session.device());
        let session = &self.session;
        let make = || -> Result<_, BackendError> {
            // The copies wait for what is queued, and would do so without a limit.
            session.finish(PipelineStage::Vlm)?;
            let tables = match &resampling.method {
                ResampleMethod::Bicubic { columns, rows, .. } => {
                    Tables { columns: AxisTable::new(columns, device)?, rows: AxisTable::new(rows, device)? }
                }
                ResampleMethod::PaddedBilinear { columns, rows, .. } => {
                    Tables { columns: AxisTable::new(columns, device)?, rows: AxisTable::new(rows, device)? }
                }
            };
            Ok((resampling.clone(), tables))
        };
        self.tables.get_or_make(|(known, _)| Arc::ptr_eq(known, resampling), make).map(drop)
    }

    /// Copies all pixels, `needed` bytes, to the device. Returns where they are, and the place between the two passes. The
    /// buffers are those of the last frame if they are large enough, and stay in `self` whatever fails, because the device
    /// may still read them.
    fn send(&mut self, needed: usize, frames: &[Frame], size: [usize; 2]) -> Result<[Span; 2], BackendError> {
        let [height, width] = size;
        let between_of = |frame: &Frame| {
            let (from_width, from_height) = frame.resampling.from;
            3 * (from_width * height).max(from_height * width)
        };
        let between = frames.iter().map(between_of).sum::<usize>() + 4;
        let is_small = |buffers: &mut Buffers| buffers.host.len() < needed || buffers.between.numel() < between;
        drop(self.buffers.take_if(is_small));
        let buffers = match &mut self.buffers {
            Some(buffers) => buffers,
            none => none.insert(Buffers::new(&self.session, needed, between)?),
        };
        buffers.send(frames, self.session.stream(PipelineStage::Vlm), &self.read)?;
        Ok([Span::of(&buffers.device), Span::of(&buffers.between)])
    }

    fn resize(&self, run: &Run, size: [usize; 2]) -> Result<(), BackendError> {
        let known = self.tables.find(|(known, _)| std::ptr::eq(&**known, run.resampling));
        // Without a plane of its own the network would see the frame before.
        let (_, tables) = known.ok_or_else(|| BackendError::Kernel {
            kernel: "resize".to_owned(),
            reason: format!("no tables for frames of {:?} pixels", run.resampling.from),
        })?;
        let stream = self.session.stream(PipelineStage::Vlm).clone();
        match &run.resampling.method {
            ResampleMethod::Bicubic { rows_shrink_first, .. } => self.bicubic(&stream, run, tables, *rows_shrink_first),
            ResampleMethod::PaddedBilinear { content, .. } => self.bilinear(&stream, run, tables, *content, size),
        }
    }

    /// Resizes one axis to bytes, then the other to planes.
    fn bicubic(
        &self,
        stream: &CudaStream,
        run: &Run,
        tables: &Tables,
        rows_shrink_first: bool,
    ) -> Result<(), BackendError> {
        let (from_width, from_height) = run.resampling.from;
        let (to_width, to_height) = (tables.columns.to, tables.rows.to);
        let pixels = Address(run.pixels.holding(run.views * 3 * from_width * from_height, "resize: pixels")?);
        let planes = Address(run.planes.holding(run.views * 3 * to_width * to_height, "resize: planes")?);
        let between_pixels = if rows_shrink_first { from_width * to_height } else { to_width * from_height };
        let between = Address(run.between.holding(run.views * 3 * between_pixels, "resize: between")?);
        let (columns, rows) = (tables.columns.addresses()?, tables.rows.addresses()?);
        let row_grid = |height: usize| [to_width.div_ceil(32), height.div_ceil(16), run.views];
        let column_grid = |width: usize| [width.div_ceil(32), to_height.div_ceil(4), run.views];
        let row_sizes = [int(tables.columns.taps), int(from_width), int(to_width)];
        let column_sizes = [int(tables.rows.taps), int(from_height), int(to_height)];

        let along_width = (columns, row_sizes);
        let along_height = (rows, column_sizes);
        // Each pass is (kernel, table and sizes, extent of the other axis, grid).
        let (first, first_is_idle, last) = if rows_shrink_first {
            let first = (&self.columns_to_bytes, along_height, from_width, column_grid(from_width));
            let last = (&self.rows_to_planes, along_width, to_height, row_grid(to_height));
            (first, from_height == to_height, last)
        } else {
            let first = (&self.rows_to_bytes, along_width, from_height, row_grid(from_height));
            let last = (&self.columns_to_planes, along_height, to_width, column_grid(to_width));
            (first, from_width == to_width, last)
        };
        // An axis that keeps its size needs no pass of its own.
        if !first_is_idle {
            let (kernel, (table, sizes), other, grid) = first;
            let arguments = [[between, pixels].as_slice(), &table, &sizes, &[int(other)]].concat();
            // SAFETY: `holding` has checked the length of every buffer above.
            unsafe { kernel.launch(stream, grid, [32, 4], 0, &arguments) }?;
        }
        let (kernel, (table, sizes), other, grid) = last;
        let input = if first_is_idle { pixels } else { between };
        let arguments = [[planes, input].as_slice(), &table, &sizes, &[int(other)]].concat();
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { kernel.launch(stream, grid, [32, 4], 0, &arguments) }
    }

    fn bilinear(
        &self,
        stream: &CudaStream,
        run: &Run,
        tables: &Tables,
        (content_width, content_height): (usize, usize),
        [height, width]: [usize; 2],
    ) -> Result<(), BackendError> {
        let (from_width, from_height) = run.resampling.from;
        let [column_starts, column_weights] = tables.columns.addresses()?;
        let [row_starts, row_weights] = tables.rows.addresses()?;
        let arguments = [
            Address(run.planes.holding(run.views * 3 * width * height, "resize: planes")?),
            Address(run.pixels.holding(run.views * 3 * from_width * from_height, "resize: pixels")?),
            column_starts,
            column_weights,
            row_starts,
            row_weights,
            int(from_height),
            int(from_width),
            int(content_height),
            int(content_width),
            int(height),
            int(width),
        ];
        let grid = [width.div_ceil(32), height.div_ceil(4), run.views];
        // SAFETY: `holding` has checked the length of every buffer above.
        unsafe { self.padded_bilinear.launch(stream, grid, [32, 4], 0, &arguments) }
    }
}
