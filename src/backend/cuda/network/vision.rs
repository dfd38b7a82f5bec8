//! DaViT from cuBLASLt's products and this project's kernels: seven launches a block, token-major throughout, no
//! window partition, no padding, no layout copies. The maths is that of [`crate::model::vision`].

use super::layers::{bias, layer_norm, length, linear, mlp, norm_weights};
use crate::backend::BackendError;
use crate::backend::cuda::device::kernels::{Kernels, Source};
use crate::backend::cuda::device::memory::{Span, buffer};
use crate::backend::cuda::operators::layer_norm::LayerNorm;
use crate::backend::cuda::operators::{
    channel_attention::ChannelAttention,
    depthwise::DepthwiseNorm,
    patches::{PatchSizes, Patches},
    window_attention::WindowAttention,
};
use crate::backend::cuda::product::gemm::{Activation, Formats, Gemm, Linear};
use crate::backend::engine::golden::InputSpec;
use crate::model::config::{ModelConfig, StageConfig, VisionConfig};
use crate::model::layers;
use crate::model::vision;
use crate::model::weight::Weight;
use cudarc::driver::CudaStream;
use tch::{Kind, Tensor};

/// Where maps have more pixels, so many rows are multiplied that the library's dense product is faster than that with a
/// 2:4 matrix; and the matrices are small. Between 14×14 and 28×28, where it was measured with three views.
const MOST_SPARSE_PIXELS: usize = 400;

/// DaViT's weights and kernels.
pub struct VisionTower {
    stages: Vec<Stage>,
    patches: Patches,
}

struct Stage {
    config: StageConfig,
    embed: Embed,
    blocks: Vec<Block>,
}

/// Patches by a strided convolution, with a norm before or after it.
struct Embed {
    projection: Linear,
    norm: LayerNorm,
    pre_norm: bool,
    /// Channels of the input; 3 for images.
    channels: usize,
}

/// A spatial or a channel block.
struct Block {
    conv1: DepthwiseNorm,
    qkv: Linear,
    qkv_bias: Tensor,
    attention: Attention,
    proj: Linear,
    conv2: DepthwiseNorm,
    fc1: Linear,
    fc2: Linear,
}

enum Attention {
    Window(WindowAttention),
    Channel(ChannelAttention),
}

/// Activations of the tower, as large as its largest stage needs, or of the text encoder.
#[derive(Debug)]
pub struct Activations {
    map: Tensor,
    sum: Tensor,
    normed: Tensor,
    qkv: Tensor,
    mixed: Tensor,
    hidden: Tensor,
    scratch: Tensor,
}

/// The patches of one stage.
fn stage_patches(stage: &StageConfig, input: [usize; 2]) -> PatchSizes {
    let (kernel, stride, padding) =
        (length(stage.patch_size), length(stage.patch_stride).max(1), length(stage.patch_padding));
    let output = input.map(|extent| (extent + 2 * padding).saturating_sub(kernel) / stride + 1);
    PatchSizes { kernel, stride, padding, input, output }
}

/// The patches of every stage, for images of one size.
pub fn patch_sizes(config: &VisionConfig, height: usize, width: usize) -> Vec<PatchSizes> {
    let next = |input: &mut [usize; 2], stage: &StageConfig| {
        let sizes = stage_patches(stage, *input);
        *input = sizes.output;
        Some(sizes)
    };
    config.stages.iter().scan([height, width], next).collect()
}

/// Why this tower cannot run on the kernels for images of these sizes; `None` if it can.
pub fn unsupported(config: &ModelConfig, inputs: &InputSpec) -> Option<String> {
    let sizes = patch_sizes(&config.vision, inputs.image_height, inputs.image_width);
    let window = length(config.vision.window_size);
    for (index, (stage, sizes)) in config.vision.stages.iter().zip(&sizes).enumerate() {
        let (head_dim, group_dim) = (stage.width / stage.heads.max(1), stage.width / stage.groups.max(1));
        let reason = if stage.width % 8 != 0 || stage.width > 2048 {
            format!("{} channels", stage.width)
        } else if !WindowAttention::supports(window, length(head_dim)) {
            format!("windows of {window} with heads of {head_dim}")
        } else if !ChannelAttention::supports(length(group_dim)) {
            format!("groups of {group_dim} channels")
        } else if !Patches::supports(sizes, index == 0) {
            format!("patches of {} in maps of {} pixels' width", stage.patch_size, sizes.input[1])
        } else if index == 0 && stage.pre_norm {
            "a norm over the pixels".to_owned()
        } else {
            continue;
        };
        return Some(format!("vision stage {index}: {reason}"));
    }
    match (config.vision.in_channels, inputs.views) {
        (3, ..=16) => None,
        (channels, views) => Some(format!("{views} views of {channels} channels")),
    }
}

/// Everything that has to be compiled for this tower.
pub fn sources(config: &ModelConfig) -> Vec<Source> {
    let sizes = patch_sizes(&config.vision, config.inputs.image_height, config.inputs.image_width);
    let mut sources = vec![Patches::source()];
    let mut inputs = 3;
    for (stage, sizes) in config.vision.stages.iter().zip(&sizes) {
        let width = length(stage.width);
        sources.push(DepthwiseNorm::source(width, sizes.output[1]));
        sources.push(WindowAttention::source(length(config.vision.window_size), width / length(stage.heads).max(1)));
        sources.push(ChannelAttention::source(width / length(stage.groups).max(1)));
        sources.push(LayerNorm::source(if stage.pre_norm { inputs } else { width }));
        inputs = width;
    }
    sources
}

/// The formats of `formats` for a stage whose maps have [h, w] pixels. The log says if 2:4 is not used for its size.
fn formats_for(blocks: &[vision::Block], [height, width]: [usize; 2], formats: Formats) -> Formats {
    let large = height * width > MOST_SPARSE_PIXELS;
    let sparse = |block: &vision::Block| matches!(block.mlp.fc1.weight, Weight::Sparse24(_));
    if large && formats.sparse24 && blocks.iter().any(sparse) {
        tracing::info!("2:4 matrices for maps of {height}×{width} pixels are made dense, which is faster");
    }
    Formats { sparse24: formats.sparse24 && !large, ..formats }
}

impl VisionTower {
    /// The tower with the weights of `model`, block by block, so that the original of each copy is freed before the
    /// next copy.
    ///
    /// # Errors
    /// A kernel that does not compile or load, or not enough memory.
    pub fn new(
        model: vision::VisionTower,
        config: &ModelConfig,
        kernels: &Kernels,
        formats: Formats,
    ) -> Result<Self, BackendError> {
        let sizes = patch_sizes(&config.vision, config.inputs.image_height, config.inputs.image_width);
        let mut stages = Vec::with_capacity(sizes.len());
        for ((stage, config), sizes) in model.stages.into_iter().zip(&config.vision.stages).zip(&sizes) {
            let embed = Embed::new(stage.embed, kernels)?;
            let formats = formats_for(&stage.blocks, sizes.output, formats);
            let blocks = stage.blocks.into_iter().map(|block| Block::new(block, sizes.output[1], kernels, formats));
            stages.push(Stage { config: *config, embed, blocks: blocks.collect::<Result<_, _>>()? });
        }
        Ok(Self { stages, patches: Patches::new(kernels)? })
    }

    /// The `valid` views of `images` [V, 3, H, W] f32 → the last map [n, h·w, C] in [`Activations::map`]; its h and w.
    ///
    /// # Errors
    /// An operation that the device refuses.
    pub fn run(
        &self,
        gemm: &mut Gemm,
        images: (&Tensor, [usize; 2]),
        valid: &[usize],
        buffers: &Activations,
    ) -> Result<[usize; 2], BackendError> {
        let (images, mut input) = (Span::of(images.0), images.1);
        let stream = &gemm.stream().clone();
        for (index, stage) in self.stages.iter().enumerate() {
            let sizes = stage_patches(&stage.config, input);
            let patches = Span::of(&buffers.hidden);
            let rows = valid.len() * sizes.output[0] * sizes.output[1];
            if index == 0 {
                self.patches.of_images(stream, images, patches, valid, &sizes)?;
            } else {
                let source = stage.embed.normed_input(stream, buffers, valid.len() * input[0] * input[1])?;
                self.patches.of_maps(stream, source, patches, valid.len(), stage.embed.channels, &sizes)?;
            }
            stage.embed.project(stream, gemm, buffers, rows)?;
            for block in &stage.blocks {
                block.run(stream, gemm, [valid.len(), sizes.output[0], sizes.output[1]], buffers)?;
            }
            input = sizes.output;
        }
        Ok(input)
    }
}

impl Activations {
    /// Activations of the tower for `images` images of `height`×`width` pixels.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn of_tower(
        model: &ModelConfig,
        [images, height, width]: [usize; 3],
        place: (Kind, usize),
    ) -> Result<Self, BackendError> {
        let config = &model.vision;
        let (mut map, mut hidden, mut scratch, mut inputs) = (0, 0, 1, 3);
        for (index, (stage, sizes)) in config.stages.iter().zip(patch_sizes(config, height, width)).enumerate() {
            let tokens = sizes.output[0] * sizes.output[1];
            let (rows, channels) = (images * tokens, length(stage.width));
            let mlp = (channels as f64 * config.mlp_ratio) as usize;
            let row = if index == 0 { Patches::image_row(sizes.kernel) } else { sizes.kernel.pow(2) * inputs };
            // Each image gets one more token, the spatial mean, and the last map is projected.
            map = map.max((rows + images) * channels);
            if index + 1 == config.stages.len() {
                map = map.max((rows + images) * length(model.projection_dim));
            }
            hidden = hidden.max(rows * mlp.max(row));
            let groups = length(stage.groups).max(1);
            scratch = scratch.max(ChannelAttention::scratch(images, tokens, groups, channels / groups));
            inputs = channels;
        }
        Self::new(map, hidden, scratch, place)
    }

    /// Activations of the text encoder for `rows` tokens.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn of_text(rows: usize, width: usize, mlp: usize, place: (Kind, usize)) -> Result<Self, BackendError> {
        Self::new(rows * width, rows * mlp, 1, place)
    }

    fn new(map: usize, hidden: usize, scratch: usize, (kind, device): (Kind, usize)) -> Result<Self, BackendError> {
        Ok(Self {
            map: buffer(&[map], kind, device)?,
            sum: buffer(&[map], kind, device)?,
            normed: buffer(&[map], kind, device)?,
            qkv: buffer(&[3 * map], kind, device)?,
            mixed: buffer(&[map], kind, device)?,
            hidden: buffer(&[hidden], kind, device)?,
            scratch: buffer(&[scratch], Kind::Float, device)?,
        })
    }

    /// The tower's result; see [`VisionTower::run`].
    pub fn map(&self) -> Span {
        Span::of(&self.map)
    }

    /// Three buffers as large as the map, for the layers after the tower. They are free from the end of the tower to
    /// its next run.
    pub fn others(&self) -> [Span; 3] {
        [Span::of(&self.sum), Span::of(&self.normed), Span::of(&self.mixed)]
    }

    /// A buffer three times as large as the map, free at the same time.
    pub fn qkv(&self) -> Span {
        Span::of(&self.qkv)
    }

    /// A buffer as wide as the MLP's hidden layer, free at the same time.
    pub fn hidden(&self) -> Span {
        Span::of(&self.hidden)
    }
}

impl Embed {
    fn new(embed: vision::ConvEmbed, kernels: &Kernels) -> Result<Self, BackendError> {
        let vision::ConvEmbed { proj, norm, pre_norm } = embed;
        let (outputs, inputs, height, width) = proj.weight.size4()?;
        let row = height * width * inputs;
        // A patch runs over (ky, kx, channel) and is padded to a multiple of eight elements.
        let rows = proj.weight.f_permute([0, 2, 3, 1])?.f_reshape([outputs, row])?;
        let rows = rows.f_constant_pad_nd([0, (8 - row % 8) % 8])?;
        Ok(Self {
            projection: Linear::dense(&rows, Some(&proj.bias))?,
            norm: layer_norm(&norm, kernels)?,
            pre_norm,
            channels: length(inputs),
        })
    }

    /// The input of the patches: the map, normalised if the norm comes first.
    fn normed_input(&self, stream: &CudaStream, buffers: &Activations, rows: usize) -> Result<Span, BackendError> {
        let (map, normed) = (Span::of(&buffers.map), Span::of(&buffers.normed));
        if !self.pre_norm {
            return Ok(map);
        }
        self.norm.run(stream, map, normed, rows)?;
        Ok(normed)
    }

    /// Patches in `hidden` → the stage's map.
    fn project(
        &self,
        stream: &CudaStream,
        gemm: &mut Gemm,
        buffers: &Activations,
        rows: usize,
    ) -> Result<(), BackendError> {
        let (patches, map, sum) = (Span::of(&buffers.hidden), Span::of(&buffers.map), Span::of(&buffers.sum));
        if self.pre_norm {
            return gemm.linear(&self.projection, patches, map, rows, Activation::None, None);
        }
        gemm.linear(&self.projection, patches, sum, rows, Activation::None, None)?;
        self.norm.run(stream, sum, map, rows)
    }
}

impl Block {
    /// A block for maps of `map_width` pixels.
    fn new(block: vision::Block, map_width: usize, kernels: &Kernels, formats: Formats) -> Result<Self, BackendError> {
        let width = length(block.attention_norm.width());
        let conv = |conv: layers::Conv2d, norm: &layers::LayerNorm| {
            DepthwiseNorm::new(kernels, &conv.weight, conv.bias, norm_weights(norm), map_width)
        };
        let attention = match block.attention {
            vision::Attention::Window { side, heads } => {
                let heads = length(heads);
                Attention::Window(WindowAttention::new(kernels, length(side), heads, width / heads.max(1))?)
            }
            vision::Attention::Channel { groups } => {
                let groups = length(groups);
                Attention::Channel(ChannelAttention::new(kernels, groups, width / groups.max(1))?)
            }
        };
        // A padded token's key and value are the bias, so the window kernel needs one even where the layer has none.
        let qkv_bias = bias(&block.qkv)?;
        let [fc1, fc2] = mlp(&block.mlp, formats)?;
        Ok(Self {
            conv1: conv(block.conv1.0, &block.attention_norm)?,
            qkv: Linear::new(&block.qkv.weight, Some(&qkv_bias), formats)?,
            qkv_bias,
            attention,
            proj: linear(&block.proj, formats)?,
            conv2: conv(block.conv2.0, &block.mlp_norm)?,
            fc1,
            fc2,
        })
    }

    /// Runs the block on the map [images, height, width, C], in place.
    fn run(
        &self,
        stream: &CudaStream,
        gemm: &mut Gemm,
        [images, height, width]: [usize; 3],
        buffers: &Activations,
    ) -> Result<(), BackendError> {
        let (map, sum, normed) = (Span::of(&buffers.map), Span::of(&buffers.sum), Span::of(&buffers.normed));
        let (qkv, mixed, hidden) = (Span::of(&buffers.qkv), Span::of(&buffers.mixed), Span::of(&buffers.hidden));
        let (tokens, shape) = (height * width, [images, height, width]);
        let rows = images * tokens;

        let mixed_as = self.proj.reads(mixed);
        self.conv1.run(stream, map, sum, self.qkv.reads(normed), shape)?;
        gemm.linear(&self.qkv, normed, qkv, rows, Activation::None, None)?;
        match &self.attention {
            Attention::Window(attention) => attention.run(stream, qkv, &self.qkv_bias, mixed_as, shape)?,
            Attention::Channel(attention) => {
                attention.run(stream, qkv, mixed_as, Span::of(&buffers.scratch), images, tokens)?;
            }
        }
        gemm.linear(&self.proj, mixed, sum, rows, Activation::None, Some(sum))?;
        self.conv2.run(stream, sum, map, self.fc1.reads(normed), shape)?;
        gemm.linear(&self.fc1, normed, self.fc2.reads(hidden), rows, Activation::Gelu, None)?;
        gemm.linear(&self.fc2, hidden, map, rows, Activation::None, Some(map))
    }
}
