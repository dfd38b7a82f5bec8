//! What takes over when the configured backend cannot run: libtorch, in the same process.

use super::Options;
use crate::backend::BackendError;
use crate::backend::device;
use crate::backend::select::{self, Backends, Target};
use crate::config::{Device, Dtype, Fallback};
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::pipeline::PipelineError;

/// The configured backend could not run, and another one does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Degraded {
    /// The backend that was configured.
    pub from: String,
    /// The one that runs.
    pub to: &'static str,
    /// Where it runs.
    pub device: Device,
    /// Why.
    pub reason: String,
}

impl std::fmt::Display for Degraded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "fallback {} on {} instead of {}: {}", self.to, self.device, self.from, self.reason)
    }
}

/// Whether another backend may take over: asked for, and not the one that fails already.
pub(super) fn is_allowed(options: &Options) -> bool {
    options.fallback == Fallback::Libtorch && options.backend != select::DEFAULT && select::is_known(&options.backend)
}

/// Loads what takes over after `error`: libtorch on the same device if that is usable, else on the CPU in single
/// precision, which is what libtorch is fast in there.
pub(super) fn load(
    options: &Options,
    weights: &Checkpoint,
    config: &ModelConfig,
    wanted: &Target,
    error: &BackendError,
) -> Result<(Backends, Degraded), PipelineError> {
    let usable = !error.loses_device() && device::resolve(options.device).is_ok();
    let target = if usable {
        Target { overlap: false, ..wanted.clone() }
    } else {
        Target { device: Device::Cpu, dtype: Dtype::F32, overlap: false, ..wanted.clone() }
    };
    let backends = select::load(select::DEFAULT, weights, config, &target)?;
    let degraded = Degraded {
        from: options.backend.clone(),
        to: backends.policy.name(),
        device: target.device,
        reason: error.to_string(),
    };
    tracing::warn!("{degraded}");
    Ok((backends, degraded))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{PolicyBackend, PolicyInputs};
    use crate::model::vlm::VlmTokens;
    use crate::pipeline::Pipeline;
    use crate::types::{HostArray, ModelInputs};
    use std::path::Path;
    use tch::Tensor;

    /// A policy whose device fails.
    struct Fails(fn() -> BackendError);

    impl PolicyBackend for Fails {
        fn name(&self) -> &'static str {
            select::CUDA_GRAPH
        }

        fn generate(&mut self, _: &VlmTokens, _: &PolicyInputs) -> Result<Tensor, BackendError> {
            Err((self.0)())
        }
    }

    fn options() -> Options {
        let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints/original_ee6d");
        Options { steps: Some(1), ..Options::new(checkpoint) }
    }

    /// A pipeline whose policy, configured as captured graphs, fails at its first inference.
    fn failing(fallback: Fallback, error: fn() -> BackendError) -> Pipeline {
        let mut pipeline = Pipeline::load(&options()).unwrap();
        pipeline.options.backend = select::CUDA_GRAPH.to_owned();
        pipeline.options.fallback = fallback;
        pipeline.backends.policy = Box::new(Fails(error));
        pipeline
    }

    fn inputs(pipeline: &Pipeline) -> ModelInputs {
        pipeline.preparer.zeros(pipeline.target.sizes)
    }

    fn answer(pipeline: &mut Pipeline) -> Result<crate::pipeline::Inference, PipelineError> {
        let inputs = inputs(pipeline);
        let shape = pipeline.noise_shape(1).to_vec();
        let noise = HostArray { data: vec![0.5; shape.iter().product()], shape };
        pipeline.generate(&inputs, &noise)
    }

    fn lost() -> BackendError {
        BackendError::DeviceLost("an illegal memory access was encountered".to_owned())
    }

    #[test]
    fn libtorch_answers_the_very_observation_that_the_backend_failed_on() {
        let mut pipeline = failing(Fallback::Libtorch, lost);
        let found = answer(&mut pipeline).unwrap();
        let expected = answer(&mut Pipeline::load(&options()).unwrap()).unwrap();
        assert_eq!((found.backend, found.chunk), ("libtorch", expected.chunk));
    }

    #[test]
    fn the_reason_is_kept_and_libtorch_stays() {
        let mut pipeline = failing(Fallback::Libtorch, lost);
        for _ in 0..2 {
            answer(&mut pipeline).unwrap();
        }
        assert_eq!(pipeline.backend(), "libtorch");
        let told = pipeline.degraded().unwrap().to_string();
        let expected =
            "fallback libtorch on cpu instead of cuda_graph: GPU failed: an illegal memory access was encountered";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_recording_that_is_refused_leaves_the_device_in_use() {
        let mut pipeline = failing(Fallback::Libtorch, || BackendError::Capture("not permitted".to_owned()));
        pipeline.options.dtype = Dtype::Bf16;
        answer(&mut pipeline).unwrap();
        // The device here is the CPU; what matters is that its precision was kept with it.
        assert_eq!(pipeline.degraded().unwrap().reason, "graph capture: not permitted");
        assert_eq!(pipeline.options.dtype, Dtype::Bf16);
    }

    #[test]
    fn a_fallback_on_the_gpu_goes_on_to_the_cpu_when_the_gpu_is_lost_and_only_then() {
        let on_the_gpu = |error: fn() -> BackendError| {
            let mut pipeline = failing(Fallback::Libtorch, error);
            let (from, reason) = (select::CUDA_GRAPH.to_owned(), "graph capture: not permitted".to_owned());
            pipeline.degraded = Some(Degraded { from, to: select::DEFAULT, device: Device::Cuda(0), reason });
            pipeline
        };
        let mut pipeline = on_the_gpu(lost);
        assert_eq!(answer(&mut pipeline).unwrap().backend, "libtorch");
        assert_eq!(pipeline.degraded().unwrap().device, Device::Cpu);
        assert!(answer(&mut on_the_gpu(|| BackendError::Capture("again".to_owned()))).is_err());
    }

    #[test]
    fn without_a_fallback_the_failure_is_the_answer() {
        let mut pipeline = failing(Fallback::None, lost);
        assert!(matches!(answer(&mut pipeline), Err(PipelineError::Backend(BackendError::DeviceLost(_)))));
        assert!(pipeline.degraded().is_none());
    }

    #[test]
    fn an_observation_at_fault_is_no_reason_to_fall_back() {
        let mut pipeline = failing(Fallback::Libtorch, lost);
        let wrong = HostArray { shape: vec![1], data: vec![0.0] };
        let inputs = inputs(&pipeline);
        assert!(matches!(pipeline.generate(&inputs, &wrong), Err(PipelineError::Input(_))));
        assert!(pipeline.degraded().is_none());
    }

    #[test]
    fn a_build_without_the_backend_or_a_machine_without_a_gpu_starts_on_the_cpu_and_says_so() {
        let asked = Options {
            backend: select::CUDA_GRAPH.to_owned(),
            device: Device::Cuda(0),
            dtype: Dtype::F16,
            fallback: Fallback::Libtorch,
            ..options()
        };
        if crate::backend::device::gpus() == 0 {
            let pipeline = Pipeline::load(&asked).unwrap();
            let degraded = pipeline.degraded().unwrap();
            assert_eq!((degraded.from.as_str(), degraded.device), ("cuda_graph", Device::Cpu));
        }
        let unknown = Options { backend: "no_such_backend".to_owned(), ..asked };
        assert!(Pipeline::load(&unknown).is_err());
    }
}
