//! Both parts of a network in libtorch and single precision, for one domain, whose matrices can be exchanged.

use crate::backend::BackendError;
use crate::backend::engine::golden::GoldenInputs;
use crate::backend::host_stream::HostStream;
use crate::backend::libtorch::{LibtorchPolicy, LibtorchVlm};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::layers::LinearGroup;
use crate::model::variant::Part;
use crate::model::weight::Weight;
use tch::{Device, Kind};

/// Vision-language part and policy, both dense f32 at first.
pub struct Network {
    vlm: LibtorchVlm,
    policy: LibtorchPolicy,
    stream: HostStream,
    channels: usize,
}

impl Network {
    /// Loads `checkpoint` onto `device` and keeps the parameters of `domain`.
    ///
    /// # Errors
    /// A checkpoint that does not fit the model, a domain that it does not have, or not enough memory.
    pub fn load(
        checkpoint: &Checkpoint,
        config: &ModelConfig,
        domain: i64,
        device: Device,
    ) -> Result<Self, BackendError> {
        let root = checkpoint.root(Kind::Float, device);
        let vlm = LibtorchVlm::new(&root, config)?;
        let policy = LibtorchPolicy::new(&root, config)?.specialise(domain)?;
        checkpoint.check_all_taken()?;
        let channels = config.policy.action_dim.unsigned_abs() as usize;
        Ok(Self { vlm, policy, stream: HostStream::new(device), channels })
    }

    /// A: channels of an action.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The raw actions [T·A] for `sample` after so many denoising steps.
    ///
    /// # Errors
    /// An operation that libtorch refuses.
    pub fn answer(&mut self, sample: &GoldenInputs, steps: usize) -> Result<Vec<f32>, BackendError> {
        sample.answer((&mut self.vlm, &mut self.policy, &mut self.stream), steps)
    }

    /// The layers of `part`, those of the vision-language part first.
    pub fn groups(&mut self, part: Part) -> Vec<LinearGroup<'_>> {
        let mut groups = Vec::new();
        if part.has_vlm() {
            groups.extend(self.vlm.network_mut().linears_mut());
        }
        if part.has_policy() {
            groups.extend(self.policy.network_mut().linears_mut());
        }
        groups
    }

    /// Puts `weights` in the place of the matrices of group `index` of `part`.
    pub fn exchange(&mut self, part: Part, index: usize, weights: &[Weight]) {
        if let Some(group) = self.groups(part).get_mut(index) {
            for ((_, layer), weight) in group.layers.iter_mut().zip(weights) {
                layer.weight = weight.share();
            }
        }
    }
}
