//! DaViT, Florence-2's vision tower: four stages of alternating window attention (tokens attend to tokens
//! of their window) and channel attention (channels attend to channels of their group).
//!
//! Between blocks, activations are token-major, [B, h·w, C]. Viewed as [B, C, h, w], this is the channels-last layout,
//! in which depth-wise convolutions need no copies.

use super::checkpoint::Scope;
use super::config::{StageConfig, VisionConfig};
use super::layers::{Conv2d, ConvSizes, Gelu, LayerNorm, Linear, LinearGroup, Mlp, attention, join_heads, split_heads};
use super::{Hook, TensorResult};
use crate::error::CheckpointError;
use tch::{TchError, Tensor};

/// A feature map: tokens [B, h·w, C] and its sides.
#[derive(Debug)]
pub struct FeatureMap {
    /// The tokens, row by row: [B, h·w, C].
    pub tokens: Tensor,
    /// h: rows of the map.
    pub height: i64,
    /// w: columns of the map.
    pub width: i64,
}

impl FeatureMap {
    /// The map as [B, C, h, w], a view.
    pub fn as_image(&self) -> TensorResult {
        let (batch, _, channels) = self.tokens.size3()?;
        self.tokens.f_transpose(1, 2)?.f_view([batch, channels, self.height, self.width])
    }

    /// Takes tokens from an image [B, C, h, w].
    fn from_image(image: &Tensor) -> Result<Self, TchError> {
        let (_, _, height, width) = image.size4()?;
        Ok(Self { tokens: image.f_flatten(2, -1)?.f_transpose(1, 2)?, height, width })
    }
}

/// The tower: patch embeddings and blocks, stage by stage.
#[derive(Debug)]
pub struct VisionTower {
    pub(crate) stages: Vec<Stage>,
}

/// Blocks on maps of one size. Spatial and channel blocks alternate, spatial first.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) embed: ConvEmbed,
    pub(crate) blocks: Vec<Block>,
}

impl VisionTower {
    /// Reads `convs.S.*` and `blocks.S.B.{spatial_block,channel_block}.*`.
    pub fn new(scope: &Scope, config: &VisionConfig) -> Result<Self, CheckpointError> {
        let mut inputs = config.in_channels;
        let mut stages = Vec::with_capacity(config.stages.len());
        for (index, stage) in config.stages.iter().enumerate() {
            let embed = ConvEmbed::new(&scope.sub(format!("convs.{index}")), stage, inputs)?;
            let mut blocks = Vec::with_capacity(2 * stage.depth);
            for block in 0..stage.depth {
                let scope = scope.sub(format!("blocks.{index}.{block}"));
                blocks.push(Block::spatial(&scope.sub("spatial_block"), config, stage)?);
                blocks.push(Block::channel(&scope.sub("channel_block"), config, stage)?);
            }
            stages.push(Stage { embed, blocks });
            inputs = stage.width;
        }
        Ok(Self { stages })
    }

    /// The layers of all blocks, whose names begin with `prefix`.
    pub(super) fn linears_mut(&mut self, prefix: &str) -> Vec<LinearGroup<'_>> {
        let mut groups = Vec::new();
        for (stage, blocks) in self.stages.iter_mut().enumerate() {
            for (index, block) in blocks.blocks.iter_mut().enumerate() {
                // A pair of blocks, spatial and channel, has one number.
                let pair = format!("{prefix}.blocks.{stage}.{}", index / 2);
                groups.extend(
                    block.linears_mut().map(|(name, layer)| LinearGroup::single(format!("{pair}.{name}"), layer)),
                );
            }
        }
        groups
    }

    /// Images [B, 3, H, W] → the last stage's map. The hook receives `vision.stage{S}` as [B, C, h, w].
    pub fn forward(&self, images: &Tensor, hook: Hook) -> Result<FeatureMap, TchError> {
        let mut image = images.shallow_clone();
        let mut map = FeatureMap::from_image(images)?;
        for (index, stage) in self.stages.iter().enumerate() {
            map = stage.embed.forward(&image)?;
            for block in &stage.blocks {
                block.forward(&mut map)?;
            }
            image = map.as_image()?;
            hook(&format!("vision.stage{index}"), &image);
        }
        Ok(map)
    }
}

/// Overlapping patches by a strided convolution, normalised before or after it.
#[derive(Debug)]
pub(crate) struct ConvEmbed {
    pub(crate) proj: Conv2d,
    pub(crate) norm: LayerNorm,
    pub(crate) pre_norm: bool,
}

impl ConvEmbed {
    fn new(scope: &Scope, stage: &StageConfig, inputs: i64) -> Result<Self, CheckpointError> {
        let sizes = ConvSizes {
            inputs,
            outputs: stage.width,
            kernel: stage.patch_size,
            stride: stage.patch_stride,
            padding: stage.patch_padding,
            groups: 1,
        };
        let norm_width = if stage.pre_norm { inputs } else { stage.width };
        Ok(Self {
            proj: Conv2d::new(&scope.sub("proj"), sizes)?,
            norm: LayerNorm::new(&scope.sub("norm"), norm_width)?,
            pre_norm: stage.pre_norm,
        })
    }

    /// [B, in, h, w] → the stage's map.
    fn forward(&self, image: &Tensor) -> Result<FeatureMap, TchError> {
        if self.pre_norm {
            let normed = self.norm.forward(&image.f_permute([0, 2, 3, 1])?)?; // [B, h, w, in]
            return FeatureMap::from_image(&self.proj.forward(&normed.f_permute([0, 3, 1, 2])?)?);
        }
        let mut map = FeatureMap::from_image(&self.proj.forward(image)?)?;
        map.tokens = self.norm.forward(&map.tokens)?;
        Ok(map)
    }
}

/// x + dw(x): a 3×3 depth-wise convolution that carries position.
#[derive(Debug)]
pub(crate) struct DepthwiseConv(pub(crate) Conv2d);

impl DepthwiseConv {
    fn new(scope: &Scope, width: i64) -> Result<Self, CheckpointError> {
        let sizes = ConvSizes { inputs: width, outputs: width, kernel: 3, stride: 1, padding: 1, groups: width };
        Ok(Self(Conv2d::new(scope, sizes)?))
    }

    fn forward(&self, map: &mut FeatureMap) -> Result<(), TchError> {
        let image = map.as_image()?;
        *map = FeatureMap::from_image(&self.0.forward(&image)?.f_add(&image)?)?;
        Ok(())
    }
}

/// Depth-wise convolution and attention, then depth-wise convolution and MLP; all four residual.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) conv1: DepthwiseConv,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) qkv: Linear,
    pub(crate) proj: Linear,
    pub(crate) attention: Attention,
    pub(crate) conv2: DepthwiseConv,
    pub(crate) mlp_norm: LayerNorm,
    pub(crate) mlp: Mlp,
}

/// Which elements attend to each other in a [`Block`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    /// Tokens attend to the tokens of their window of `side`×`side`.
    Window { side: i64, heads: i64 },
    /// Channels attend to the channels of their group.
    Channel { groups: i64 },
}

impl Block {
    fn spatial(scope: &Scope, config: &VisionConfig, stage: &StageConfig) -> Result<Self, CheckpointError> {
        let attention = Attention::Window { side: config.window_size, heads: stage.heads };
        Self::new(scope, &scope.sub("window_attn"), attention, config, stage.width)
    }

    fn channel(scope: &Scope, config: &VisionConfig, stage: &StageConfig) -> Result<Self, CheckpointError> {
        let attention = Attention::Channel { groups: stage.groups };
        Self::new(scope, &scope.sub("channel_attn"), attention, config, stage.width)
    }

    fn new(
        scope: &Scope,
        attn: &Scope,
        attention: Attention,
        config: &VisionConfig,
        width: i64,
    ) -> Result<Self, CheckpointError> {
        let hidden = (width as f64 * config.mlp_ratio) as i64;
        Ok(Self {
            conv1: DepthwiseConv::new(&scope.sub("conv1.fn.dw"), width)?,
            attention_norm: LayerNorm::new(&attn.sub("norm"), width)?,
            qkv: Linear::with_bias(&attn.sub("fn.qkv"), width, 3 * width, config.qkv_bias)?,
            proj: Linear::new(&attn.sub("fn.proj"), width, width)?,
            attention,
            conv2: DepthwiseConv::new(&scope.sub("conv2.fn.dw"), width)?,
            mlp_norm: LayerNorm::new(&scope.sub("ffn.norm"), width)?,
            mlp: Mlp::new(&scope.sub("ffn.fn.net"), width, hidden, Gelu::Exact)?,
        })
    }

    fn linears_mut(&mut self) -> [(&'static str, &mut Linear); 4] {
        let [qkv, proj, fc1, fc2] = match self.attention {
            Attention::Window { .. } => [
                "spatial_block.window_attn.fn.qkv",
                "spatial_block.window_attn.fn.proj",
                "spatial_block.ffn.fn.net.fc1",
                "spatial_block.ffn.fn.net.fc2",
            ],
            Attention::Channel { .. } => [
                "channel_block.channel_attn.fn.qkv",
                "channel_block.channel_attn.fn.proj",
                "channel_block.ffn.fn.net.fc1",
                "channel_block.ffn.fn.net.fc2",
            ],
        };
        let mlp = &mut self.mlp;
        [(qkv, &mut self.qkv), (proj, &mut self.proj), (fc1, &mut mlp.fc1), (fc2, &mut mlp.fc2)]
    }

    fn forward(&self, map: &mut FeatureMap) -> Result<(), TchError> {
        self.conv1.forward(map)?;
        let normed = FeatureMap { tokens: self.attention_norm.forward(&map.tokens)?, ..*map };
        let mixed = match self.attention {
            Attention::Window { side, heads } => self.window_attention(&normed, side, heads)?,
            Attention::Channel { groups } => self.channel_attention(&normed.tokens, groups)?,
        };
        map.tokens = map.tokens.f_add(&mixed)?;
        self.conv2.forward(map)?;
        let mixed = self.mlp.forward(&self.mlp_norm.forward(&map.tokens)?)?;
        map.tokens = map.tokens.f_add(&mixed)?;
        Ok(())
    }

    /// Attention within windows. The map is padded with zeros on the right and below until windows tile it; tokens
    /// attend to the padding as well.
    fn window_attention(&self, map: &FeatureMap, side: i64, heads: i64) -> TensorResult {
        let (batch, _, width) = map.tokens.size3()?;
        let windows_along = |length: i64| (length + side - 1) / side;
        let (rows, columns) = (windows_along(map.height), windows_along(map.width));
        let (below, right) = (rows * side - map.height, columns * side - map.width);

        let padded =
            map.tokens.f_view([batch, map.height, map.width, width])?.f_constant_pad_nd([0, 0, 0, right, 0, below])?; // [B, rows·side, columns·side, C]
        let windows = padded
            .f_view([batch, rows, side, columns, side, width])?
            .f_permute([0, 1, 3, 2, 4, 5])?
            .f_reshape([batch * rows * columns, side * side, width])?; // [windows, tokens of a window, C]
        let [query, key, value] = split_heads(&self.qkv.forward(&windows)?, heads)?;
        let mixed = join_heads(&attention(&query, &key, &value, None)?)?;
        self.proj
            .forward(&mixed)?
            .f_view([batch, rows, columns, side, side, width])?
            .f_permute([0, 1, 3, 2, 4, 5])?
            .f_reshape([batch, rows * side, columns * side, width])?
            .f_narrow(1, 0, map.height)?
            .f_narrow(2, 0, map.width)?
            .f_reshape([batch, map.height * map.width, width])
    }

    /// Channels attend to channels of their group, with the tokens as features: scale 1/√n.
    fn channel_attention(&self, tokens: &Tensor, groups: i64) -> TensorResult {
        let (_, count, _) = tokens.size3()?;
        let scale = (count as f64).powf(-0.5);
        let [query, key, value] = split_heads(&self.qkv.forward(tokens)?, groups)?; // [B, groups, n, C/groups]
        let transposed = |tensor: &Tensor| tensor.f_transpose(-2, -1); // [B, groups, C/groups, n]
        let mixed = attention(&transposed(&query)?, &transposed(&key)?, &transposed(&value)?, Some(scale))?;
        self.proj.forward(&join_heads(&transposed(&mixed)?)?)
    }
}
