//! The one rule of what takes over when a backend fails. It holds at start-up, when a request is queued and when it is
//! waited for, and for errors, lost devices, missed deadlines and values that are not finite.
//!
//! The fallback is libtorch in the same process. It runs on the configured device if that is still usable, else on the
//! CPU in single precision, in which libtorch is fast there. It stays until the process restarts, because a person
//! should look at what failed before it runs again.

use super::provenance::Degraded;
use super::{Options, PipelineError};
use crate::backend::{BackendError, device, select};
use crate::config::{Device, Dtype, Fallback};

/// A backend, the device that it runs on and the precision that it computes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) backend: String,
    pub(super) device: Device,
    pub(super) dtype: Dtype,
}

impl Place {
    /// The place that the options ask for.
    pub(super) fn configured(options: &Options) -> Self {
        Self { backend: options.backend.clone(), device: options.device, dtype: options.dtype }
    }

    fn libtorch(device: Device, dtype: Dtype) -> Self {
        Self { backend: select::DEFAULT.to_owned(), device, dtype }
    }
}

/// The place that is to blame for `failure` at `place`: libtorch's own, in the configured precision, if it has no answer that
/// a backend could be compared with. It must not take over then.
pub(super) fn blamed(options: &Options, place: &Place, failure: &PipelineError) -> Place {
    match failure {
        PipelineError::Backend(BackendError::NoReference { .. }) => Place::libtorch(options.device, options.dtype),
        _ => place.clone(),
    }
}

/// The place that takes over from `failed`: the next one that differs and whose device is usable. A device that is full is: what
/// failed there is freed first. `None` if there is none or the options want no fallback.
pub(super) fn successor(options: &Options, failed: &Place, device_lost: bool) -> Option<Place> {
    if options.fallback == Fallback::None || !select::is_known(&options.backend) {
        return None;
    }
    let places = [Place::libtorch(options.device, options.dtype), Place::libtorch(Device::Cpu, Dtype::F32)];
    // The places before the failed one have been tried and have failed as well.
    let tried = places.iter().rposition(|place| place == failed).map_or(0, |position| position + 1);
    let usable = |place: &Place| place.device == Device::Cpu || (!device_lost && device::resolve(place.device).is_ok());
    places.into_iter().skip(tried).find(usable)
}

/// Whether another place may succeed after `failure`. It cannot if the request or the checkpoint is at fault.
pub(super) fn may_help(failure: &PipelineError) -> bool {
    matches!(failure, PipelineError::Backend(_) | PipelineError::NonFiniteAction { .. })
}

/// Whether `failure` of a request is the backend's, so that another one may answer it. A backend that refuses what it was
/// not made for (another domain, another size) is right to do so.
pub(super) fn is_the_backends_fault(failure: &PipelineError) -> bool {
    match failure {
        PipelineError::Backend(error) => {
            !matches!(error, BackendError::EngineMismatch { .. } | BackendError::Unavailable { .. })
        }
        other => may_help(other),
    }
}

/// What diagnostics and logs say of a fallback to backend `to` on `device`.
pub(super) fn degraded(options: &Options, to: &'static str, device: Device, reason: String) -> Degraded {
    let from = match options.backend.as_str() {
        select::DEFAULT => format!("{} on {}", select::DEFAULT, options.device),
        other => other.to_owned(),
    };
    Degraded { from, to, device, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(backend: &str, device: Device, dtype: Dtype) -> Options {
        Options { backend: backend.to_owned(), device, dtype, fallback: Fallback::Libtorch, ..Options::new("model") }
    }

    fn cpu() -> Place {
        Place::libtorch(Device::Cpu, Dtype::F32)
    }

    #[test]
    fn a_backend_on_the_host_is_followed_by_libtorch_in_the_same_precision() {
        let options = options(select::ONNXRUNTIME, Device::Cpu, Dtype::Bf16);
        let next = successor(&options, &Place::configured(&options), false);
        assert_eq!(next, Some(Place::libtorch(Device::Cpu, Dtype::Bf16)));
    }

    #[test]
    fn whatever_ran_on_a_device_that_is_lost_is_followed_by_the_cpu() {
        for backend in [select::DEFAULT, select::CUDA_GRAPH, select::TENSORRT] {
            let options = options(backend, Device::Cuda(0), Dtype::F16);
            assert_eq!(successor(&options, &Place::configured(&options), true), Some(cpu()), "{backend}");
        }
    }

    #[test]
    fn libtorch_on_a_gpu_is_followed_by_the_cpu_whatever_it_failed_with() {
        let options = options(select::CUDA_GRAPH, Device::Cuda(0), Dtype::F16);
        let fallback = Place::libtorch(Device::Cuda(0), Dtype::F16);
        assert_eq!(successor(&options, &fallback, false), Some(cpu()));
    }

    #[test]
    fn where_libtorch_itself_has_no_finite_answer_it_does_not_take_over_in_that_precision() {
        let options = options(select::ONNXRUNTIME, Device::Cpu, Dtype::F16);
        let place = Place::configured(&options);
        let no_reference = BackendError::NoReference { dtype: Dtype::F16 }.into();
        assert_eq!(successor(&options, &blamed(&options, &place, &no_reference), false), Some(cpu()));
        let parity = BackendError::Capture("not permitted".to_owned()).into();
        let next = successor(&options, &blamed(&options, &place, &parity), false);
        assert_eq!(next, Some(Place::libtorch(Device::Cpu, Dtype::F16)));
    }

    #[test]
    fn nothing_follows_libtorch_on_the_cpu_in_single_precision() {
        for backend in [select::DEFAULT, select::CUDA_GRAPH] {
            for device in [Device::Cpu, Device::Cuda(0)] {
                assert_eq!(successor(&options(backend, device, Dtype::F32), &cpu(), true), None);
            }
        }
    }

    #[test]
    fn nothing_follows_if_no_fallback_is_wanted_or_the_backend_does_not_exist() {
        let strict = Options { fallback: Fallback::None, ..options(select::CUDA_GRAPH, Device::Cuda(0), Dtype::F16) };
        assert_eq!(successor(&strict, &Place::configured(&strict), true), None);
        let unknown = options("no_such_backend", Device::Cuda(0), Dtype::F16);
        assert_eq!(successor(&unknown, &Place::configured(&unknown), true), None);
    }

    #[test]
    fn backend_failures_and_non_finite_actions_are_reasons_to_fall_back_and_a_bad_request_is_not() {
        let reasons = [
            BackendError::DeviceLost("gone".to_owned()).into(),
            BackendError::Capture("not permitted".to_owned()).into(),
            BackendError::Deadline.into(),
            PipelineError::NonFiniteAction { sample: 0, step: 0, channel: 0 },
        ];
        assert!(reasons.iter().all(may_help));
        assert!(reasons.iter().all(is_the_backends_fault));
        assert!(!may_help(&crate::error::InputError::EmptyInstruction.into()));
    }

    #[test]
    fn a_request_of_another_domain_than_the_backend_was_made_for_is_no_reason() {
        let mismatch = BackendError::EngineMismatch {
            path: "policy.engine".into(),
            field: "domain".to_owned(),
            expected: "1".to_owned(),
            found: "3".to_owned(),
            remedy: "build another".to_owned(),
        };
        assert!(!is_the_backends_fault(&mismatch.into()));
    }
}
