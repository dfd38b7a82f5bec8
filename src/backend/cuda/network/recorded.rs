//! Both parts of the network as recordings, on this project's kernels or in libtorch's operators.

use super::policy::{FusedPolicy, FusedPolicyWork};
use super::vlm::{FusedVlm, FusedVlmWork};
use super::works::{LibtorchPolicyWork, LibtorchVlmWork};
use crate::backend::BackendError;
use crate::backend::capture::{PolicyWork, RECORDINGS, Recordings, VlmWork, copy_of, lock};
use crate::backend::cuda::device::recorder::StreamRecorder;
use crate::backend::cuda::device::session::{PipelineStage, Session};
use crate::backend::libtorch::{LibtorchPolicy, LibtorchVlm};
use crate::backend::path::Products;
use crate::backend::{PolicyBackend, PolicyInputs, VlmBackend, VlmInputs, names, part};
use crate::model::action_space::ActionSpace;
use crate::model::config::ModelConfig;
use crate::model::layers::LinearGroup;
use crate::model::policy::Policy;
use crate::model::vlm::{Vlm, VlmTokens};
use std::sync::{Arc, Mutex};
use tch::Tensor;

enum VlmNetwork {
    Fused(Arc<Mutex<FusedVlm>>),
    Libtorch(Arc<Mutex<LibtorchVlm>>),
}

/// What a recording of the vision-language part depends on.
#[derive(Clone, Debug, PartialEq)]
struct VlmKey {
    mask: Vec<bool>,
    images: Vec<i64>,
    ids: Vec<i64>,
}

/// Florence-2 as recordings.
pub struct CapturedVlm {
    network: VlmNetwork,
    session: Arc<Session>,
    recordings: Recordings<VlmKey, Box<dyn VlmWork>, StreamRecorder>,
}

impl CapturedVlm {
    /// Records `vlm` on the session's stream when its first frame comes; `fused`: on this project's kernels.
    ///
    /// # Errors
    /// A kernel that does not compile or load, or not enough memory.
    pub fn new(mut vlm: Vlm, config: &ModelConfig, session: Arc<Session>, fused: bool) -> Result<Self, BackendError> {
        let network = if fused {
            VlmNetwork::Fused(Arc::new(Mutex::new(FusedVlm::new(vlm, config, session.clone())?)))
        } else {
            vlm.linears_mut().into_iter().for_each(LinearGroup::record);
            VlmNetwork::Libtorch(Arc::new(Mutex::new(LibtorchVlm::of(vlm))))
        };
        let recorder = StreamRecorder::new(session.clone(), PipelineStage::Vlm);
        Ok(Self { network, session, recordings: Recordings::new(recorder, RECORDINGS) })
    }

    /// Encodes what a single recording takes: one sample on this project's kernels, any batch with libtorch's
    /// operators.
    fn encode_together(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError> {
        let key = VlmKey { mask: inputs.mask.to_vec(), images: inputs.images.size(), ids: inputs.input_ids.size() };
        let (network, session) = (&self.network, &self.session);
        let prepare = || -> Result<Box<dyn VlmWork>, BackendError> {
            match network {
                VlmNetwork::Fused(network) => Ok(Box::new(FusedVlmWork::new(network.clone(), inputs)?)),
                VlmNetwork::Libtorch(network) => Ok(Box::new(LibtorchVlmWork::new(network.clone(), session, inputs)?)),
            }
        };
        self.recordings.replay(key, prepare, |work| work.load(inputs))?.tokens()
    }
}

impl VlmBackend for CapturedVlm {
    fn encode(&mut self, inputs: &VlmInputs) -> Result<VlmTokens, BackendError> {
        let batch = inputs.images.size().first().copied().unwrap_or(1);
        if batch <= 1 || matches!(self.network, VlmNetwork::Libtorch(_)) {
            return self.encode_together(inputs);
        }
        let samples = (0..batch).map(|sample| {
            let tokens = self.encode_together(&VlmInputs {
                input_ids: &inputs.input_ids.f_narrow(0, sample, 1)?,
                host_ids: part(inputs.host_ids, batch, sample),
                images: &inputs.images.f_narrow(0, sample, 1)?,
                mask: part(inputs.mask, batch, sample),
            })?;
            // The next sample overwrites the buffers of this one.
            Ok([copy_of(&tokens.vlm_features)?, copy_of(&tokens.aux_visual_inputs)?])
        });
        let samples: Vec<[Tensor; 2]> = samples.collect::<Result<_, BackendError>>()?;
        let joined =
            |index: usize| Tensor::f_cat(&samples.iter().filter_map(|tokens| tokens.get(index)).collect::<Vec<_>>(), 0);
        Ok(VlmTokens { vlm_features: joined(0)?, aux_visual_inputs: joined(1)? })
    }

    fn recordings(&self) -> u64 {
        self.recordings.made()
    }

    fn products(&self) -> Products {
        match &self.network {
            VlmNetwork::Fused(network) => lock(network).products(),
            VlmNetwork::Libtorch(_) => Products::default(),
        }
    }
}

enum PolicyNetwork {
    Fused(Arc<Mutex<FusedPolicy>>),
    Libtorch(Arc<Mutex<LibtorchPolicy>>),
}

/// What a recording of the policy part depends on.
#[derive(Clone, Debug, PartialEq)]
struct PolicyKey {
    features: Vec<i64>,
    others: Vec<i64>,
    steps: usize,
    /// The domain whose matrices the kernels use; `None` for libtorch's operators, which look the matrices up.
    domain: Option<i64>,
}

/// The soft-prompted transformer as recordings.
pub struct CapturedPolicy {
    network: PolicyNetwork,
    session: Arc<Session>,
    recordings: Recordings<PolicyKey, Box<dyn PolicyWork>, StreamRecorder>,
}

impl CapturedPolicy {
    /// As [`CapturedVlm::new`], with the action space that hides channels from the policy.
    ///
    /// # Errors
    /// As [`CapturedVlm::new`].
    pub fn new(
        mut policy: Policy,
        space: &ActionSpace,
        session: Arc<Session>,
        fused: bool,
    ) -> Result<Self, BackendError> {
        let network = if fused {
            PolicyNetwork::Fused(Arc::new(Mutex::new(FusedPolicy::new(policy, space, session.clone())?)))
        } else {
            policy.linears_mut().into_iter().for_each(LinearGroup::record);
            PolicyNetwork::Libtorch(Arc::new(Mutex::new(LibtorchPolicy::of(policy, space)?)))
        };
        let recorder = StreamRecorder::new(session.clone(), PipelineStage::Policy);
        Ok(Self { network, session, recordings: Recordings::new(recorder, RECORDINGS) })
    }

    fn generate_together(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        let (network, session) = (&self.network, &self.session);
        let domain = match network {
            PolicyNetwork::Fused(_) => inputs.host_domain.first().copied(),
            PolicyNetwork::Libtorch(_) => None,
        };
        let (features, others) = (tokens.vlm_features.size(), tokens.aux_visual_inputs.size());
        let key = PolicyKey { features, others, steps: inputs.steps, domain };
        let prepare = || -> Result<Box<dyn PolicyWork>, BackendError> {
            match network {
                PolicyNetwork::Fused(network) => Ok(Box::new(FusedPolicyWork::new(network.clone(), tokens, inputs)?)),
                PolicyNetwork::Libtorch(network) => {
                    Ok(Box::new(LibtorchPolicyWork::new(network.clone(), tokens, inputs)?))
                }
            }
        };
        let load = |work: &mut Box<dyn PolicyWork>| {
            work.load(tokens, inputs)?;
            session.note_inputs_taken()
        };
        self.recordings.replay(key, prepare, load)?.actions()
    }
}

impl PolicyBackend for CapturedPolicy {
    fn name(&self) -> &'static str {
        names::CUDA_GRAPH
    }

    fn generate(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<Tensor, BackendError> {
        match self.network {
            PolicyNetwork::Libtorch(_) => self.generate_together(tokens, inputs),
            PolicyNetwork::Fused(_) => {
                inputs.one_by_one(tokens, |tokens, inputs| self.generate_together(tokens, inputs))
            }
        }
    }

    fn recordings(&self) -> u64 {
        self.recordings.made()
    }

    fn products(&self) -> Products {
        match &self.network {
            PolicyNetwork::Fused(network) => lock(network).products(),
            PolicyNetwork::Libtorch(_) => Products::default(),
        }
    }
}
