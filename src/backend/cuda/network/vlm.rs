//! The vision-language part on this project's kernels, for one sample.

use super::layers::{formats, layer_norm, length, linear_of_half};
use super::text::{self, TextEncoder};
use super::vision::{self, Activations, VisionTower};
use crate::backend::BackendError;
use crate::backend::VlmInputs;
use crate::backend::capture::{VlmWork, Work, lock};
use crate::backend::cuda::device::kernels::{Kernels, Source};
use crate::backend::cuda::device::memory::{Span, buffer};
use crate::backend::cuda::device::session::{PipelineStage, Session};
use crate::backend::cuda::operators::image_tokens::ImageTokens;
use crate::backend::cuda::operators::layer_norm::LayerNorm;
use crate::backend::cuda::product::gemm::{Activation, Gemm, Linear};
use crate::backend::cuda::product::stored;
use crate::backend::engine::golden::InputSpec;
use crate::backend::path::Products;
use crate::model::config::ModelConfig;
use crate::model::projector::{GridPositions, Projector};
use crate::model::vlm::{Vlm, VlmTokens};
use std::sync::{Arc, Mutex};
use tch::{Kind, Tensor};

/// Everything that has to be compiled for this part, besides matrix products.
pub fn sources(config: &ModelConfig) -> Vec<Source> {
    let mut sources = vision::sources(config);
    sources.extend(text::sources(&config.text));
    sources.extend([ImageTokens::source(), LayerNorm::source(length(config.projection_dim))]);
    sources
}

/// Why this part cannot run on the kernels for inputs of these sizes; `None` if it can.
pub fn unsupported(config: &ModelConfig, inputs: &InputSpec) -> Option<String> {
    let width = config.projection_dim;
    vision::unsupported(config, inputs)
        .or_else(|| text::unsupported(&config.text))
        .or_else(|| (width % 8 != 0 || width > 8192).then(|| format!("tokens of {width}")))
}

/// Florence-2 with its weights in the layout that the kernels need.
pub struct FusedVlm {
    gemm: Gemm,
    network: Network,
}

struct Network {
    session: Arc<Session>,
    vision: VisionTower,
    image_tokens: ImageTokens,
    positions: GridPositions,
    projection: Linear,
    projection_norm: LayerNorm,
    text: TextEncoder,
    config: ModelConfig,
    kind: Kind,
}

impl FusedVlm {
    /// Who multiplies its matrices.
    pub fn products(&self) -> Products {
        self.gemm.products()
    }

    /// The network of `vlm`, whose weights lie on the session's GPU. They are shared where the kernels can use them
    /// unchanged. An original that is not needed any more is freed before the next layer is copied.
    ///
    /// # Errors
    /// A kernel that does not compile or load, or not enough memory.
    pub fn new(mut vlm: Vlm, config: &ModelConfig, session: Arc<Session>) -> Result<Self, BackendError> {
        let kind = vlm.kind();
        let gemm = Gemm::new(session.clone(), session.stream(PipelineStage::Vlm).clone(), kind)?;
        let formats = formats(&vlm.linears_mut(), &gemm)?;
        let kernels = Kernels::compile(&session, kind, stored::variants(sources(config), formats.fp8))?;

        let Projector { positions, projection, norm } = vlm.projector;
        let network = Network {
            vision: VisionTower::new(vlm.vision, config, &kernels, formats)?,
            image_tokens: ImageTokens::new(&kernels)?,
            positions,
            projection: linear_of_half(&projection)?,
            projection_norm: layer_norm(&norm, &kernels)?,
            text: TextEncoder::new(vlm.text, &kernels, formats)?,
            session,
            config: config.clone(),
            kind,
        };
        Ok(Self { gemm, network })
    }
}

/// The buffers for one set of sizes and one set of valid views.
pub struct FusedVlmWork {
    shared: Arc<Mutex<FusedVlm>>,
    views: Vec<usize>,
    image_size: [usize; 2],
    images: Tensor,    // [V, 3, H, W] f32
    words: Tensor,     // [L, D]
    ids: Vec<i64>,     // whose embeddings `words` holds
    positions: Tensor, // [h·w, C]
    tokens: Tensor,    // [V, N, D], zeros for views that are not valid
    features: Tensor,  // [1, N + L, D]
    tower: Activations,
    encoder: Activations,
}

impl FusedVlmWork {
    /// Buffers for one sample with the images [1, V, 3, H, W], the mask [V] and the ids [1, L] of `inputs`.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn new(shared: Arc<Mutex<FusedVlm>>, inputs: &VlmInputs) -> Result<Self, BackendError> {
        let mut guard = lock(&shared);
        guard.gemm.forget_untuned();
        let network = &guard.network;
        let config = &network.config;
        let (device, kind) = (network.session.device(), network.kind);
        let sizes: Vec<usize> = inputs.images.size().iter().map(|&extent| length(extent)).collect();
        let &[_, views, _, height, width] = sizes.as_slice() else {
            return Err(BackendError::Capture(format!("images of shape {sizes:?}")));
        };
        let (rows, columns) = config.feature_map(height as i64, width as i64);
        let count = length(config.tokens_per_view(height as i64, width as i64));
        let (words, depth) = (inputs.host_ids.len(), length(config.projection_dim));
        let valid: Vec<usize> = (0..views).filter(|&view| inputs.mask.get(view) == Some(&true)).collect();
        let tower = Activations::of_tower(config, [valid.len(), height, width], (kind, device))?;
        let wide = length(config.text.ffn_width);
        let encoder = Activations::of_text(count + words, depth, wide, (kind, device))?;
        let positions = network.positions.in_space_and_time(rows, columns)?.f_contiguous()?;
        drop(guard);
        Ok(Self {
            images: buffer(&[views, 3, height, width], Kind::Float, device)?,
            words: buffer(&[words, depth], kind, device)?,
            ids: Vec::new(),
            positions,
            tokens: buffer(&[views, count, depth], kind, device)?,
            features: buffer(&[1, count + words, depth], kind, device)?,
            image_size: [height, width],
            views: valid,
            tower,
            encoder,
            shared,
        })
    }
}

impl FusedVlmWork {
    /// Runs the tower and the projector, which fill the tokens of the valid views.
    fn encode_images(&self, network: &Network, gemm: &mut Gemm) -> Result<(), BackendError> {
        let (views, buffers) = (&self.views, &self.tower);
        let [height, width] = network.vision.run(gemm, (&self.images, self.image_size), views, buffers)?;
        let stream = &gemm.stream().clone();
        let (count, depth) = (height * width, network.projection.outputs());
        let [features, projected, _] = buffers.others();
        let shape = [views.len(), count, length(network.config.vision.width())];
        network.image_tokens.run(stream, buffers.map(), &self.positions, features, shape)?;
        let rows = views.len() * (count + 1);
        gemm.linear(&network.projection, features, projected, rows, Activation::None, None)?;
        let per_view = (count + 1) * depth;
        let mut place = 0;
        // Views that follow each other are normalised together.
        for run in views.chunk_by(|before, after| before + 1 == *after) {
            let first = run.first().copied().unwrap_or(0);
            let (from, to) = (projected.from(place * per_view), Span::of(&self.tokens).from(first * per_view));
            network.projection_norm.run(stream, from, to, run.len() * (count + 1))?;
            place += run.len();
        }
        Ok(())
    }

    /// Runs the text encoder over the words and the first view's tokens, which are zeros if that view is missing.
    fn encode_text(&self, network: &Network, gemm: &mut Gemm) -> Result<(), BackendError> {
        let extent = |tensor: &Tensor, dimension: usize| length(tensor.size().get(dimension).copied().unwrap_or(0));
        let image = (Span::of(&self.tokens), extent(&self.tokens, 1));
        let words = (Span::of(&self.words), extent(&self.words, 0));
        network.text.run(gemm, image, words, &self.encoder, Span::of(&self.features))
    }
}

impl Work for FusedVlmWork {
    fn run(&mut self) -> Result<(), BackendError> {
        let FusedVlm { gemm, network } = &mut *lock(&self.shared);
        self.encode_images(network, gemm)?;
        self.encode_text(network, gemm)
    }

    fn settle(&mut self) -> Result<(), BackendError> {
        lock(&self.shared).gemm.tune()
    }
}

impl VlmWork for FusedVlmWork {
    fn load(&mut self, inputs: &VlmInputs) -> Result<(), BackendError> {
        self.images.f_copy_(&inputs.images.f_squeeze_dim(0)?)?;
        if self.ids != inputs.host_ids {
            lock(&self.shared).network.text.embed(inputs.input_ids, &self.words)?;
            self.ids = inputs.host_ids.to_vec();
        }
        Ok(())
    }

    fn tokens(&self) -> Result<VlmTokens, BackendError> {
        let (views, count, depth) = self.tokens.size3()?;
        let others = self.tokens.f_narrow(0, 1, views - 1)?;
        Ok(VlmTokens {
            vlm_features: self.features.shallow_clone(),
            aux_visual_inputs: others.f_view([1, (views - 1) * count, depth])?,
        })
    }
}
