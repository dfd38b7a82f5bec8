//! Tests of [`Pipeline::begin`] and [`InFlight::wait`] with failing backends: which backend answers, and what is
//! reported.

mod drill;

use super::mock::{nothing, observation, options, pipeline};
use super::*;
use crate::backend::BackendError;
use crate::backend::mock::{AtWait, Behaviour};
use crate::config::{Device, Dtype, Fallback};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn request() -> Request {
    Request::new(observation(1), 7)
}

fn answer(pipeline: &Pipeline) -> Result<Inference, PipelineError> {
    pipeline.begin(request()).and_then(InFlight::wait)
}

/// The chunk that libtorch computes for the request on the CPU in single precision.
fn expected() -> crate::types::Chunk {
    answer(&Pipeline::load(&options()).unwrap()).unwrap().chunk
}

/// A pipeline whose first inference fails when it is queued.
fn failing(options: Options, error: fn() -> BackendError) -> Pipeline {
    pipeline(options, move || Behaviour::Fail(error()), nothing)
}

/// A pipeline whose inferences fail when they are waited for.
fn failing_later(error: fn() -> BackendError) -> Pipeline {
    pipeline(options(), || Behaviour::Answer, move || Box::new(move |_| Err(error())) as AtWait)
}

fn lost() -> BackendError {
    BackendError::DeviceLost("an illegal memory access was encountered".to_owned())
}

#[test]
fn a_request_that_fails_when_it_is_queued_is_answered_by_the_fallback() {
    let inference = answer(&failing(options(), lost)).unwrap();
    assert_eq!((inference.provenance.runtime.backend, inference.chunk), ("libtorch", expected()));
}

#[test]
fn a_request_that_fails_when_it_is_waited_for_is_answered_by_the_fallback() {
    let inference = answer(&failing_later(lost)).unwrap();
    assert_eq!((inference.provenance.runtime.backend, inference.chunk), ("libtorch", expected()));
}

#[test]
fn a_request_whose_actions_are_not_finite_is_answered_by_the_fallback() {
    for value in [f64::NAN, f64::INFINITY] {
        let pipeline = pipeline(options(), move || Behaviour::Fill(value), nothing);
        let inference = answer(&pipeline).unwrap();
        assert_eq!(inference.chunk, expected());
        let reason = &pipeline.runtime().degraded.clone().unwrap().reason;
        assert!(reason.contains("non-finite action"), "{reason}");
    }
}

#[test]
fn every_kind_of_failure_is_answered_by_the_fallback() {
    let failures: [fn() -> BackendError; 3] = [
        || BackendError::Capture("not permitted".to_owned()),
        || BackendError::OutOfMemory("2 GiB".to_owned()),
        || BackendError::Library { library: "TensorRT".to_owned(), reason: "refused".to_owned() },
    ];
    for error in failures {
        assert_eq!(answer(&failing(options(), error)).unwrap().chunk, expected());
        assert_eq!(answer(&failing_later(error)).unwrap().chunk, expected());
    }
}

#[test]
fn a_device_that_misses_the_deadline_is_given_up() {
    let strict = Options { deadline: Some(Duration::from_secs(30)), ..options() };
    let begun = Instant::now();
    let at_wait = move || {
        Box::new(move |deadline: Option<Instant>| {
            let deadline = deadline.expect("the deadline is handed on");
            assert!((begun + Duration::from_secs(30)..begun + Duration::from_secs(600)).contains(&deadline));
            Err(BackendError::Deadline)
        }) as AtWait
    };
    let pipeline = pipeline(strict, || Behaviour::Answer, at_wait);
    assert_eq!(answer(&pipeline).unwrap().chunk, expected());
    assert_eq!(pipeline.runtime().device, Device::Cpu);
}

#[test]
fn two_requests_under_way_when_the_device_is_lost_are_both_answered() {
    let pipeline = failing_later(lost);
    let [first, second] = [1, 2].map(|ms| pipeline.begin(Request::new(observation(ms), 7)).unwrap());
    for in_flight in [first, second] {
        let inference = in_flight.wait().unwrap();
        assert_eq!((inference.provenance.runtime.backend, inference.chunk), ("libtorch", expected()));
    }
}

#[test]
fn the_fallback_stays_and_its_reason_is_kept() {
    let pipeline = failing(options(), lost);
    for _ in 0..2 {
        answer(&pipeline).unwrap();
    }
    let runtime = pipeline.runtime();
    assert_eq!((runtime.backend, runtime.device, runtime.dtype), ("libtorch", Device::Cpu, Dtype::F32));
    let told = runtime.degraded.as_ref().unwrap().to_string();
    let expected =
        "fallback libtorch on cpu instead of cuda_graph: GPU failed: an illegal memory access was encountered";
    assert_eq!(told, expected);
}

#[test]
fn the_fallback_is_loaded_from_the_weights_that_were_opened_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("checkpoint");
    std::os::unix::fs::symlink(options().checkpoint, &link).unwrap();
    let pipeline = failing(Options { checkpoint: link.clone(), ..options() }, lost);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    assert_eq!(answer(&pipeline).unwrap().chunk, expected());
}

#[test]
fn without_a_fallback_the_failure_is_returned() {
    let strict = Options { fallback: Fallback::None, ..options() };
    let pipeline = failing(strict, lost);
    assert!(matches!(answer(&pipeline), Err(PipelineError::Backend(BackendError::DeviceLost(_)))));
    assert_eq!(pipeline.runtime().degraded, None);
}

#[test]
fn a_request_at_fault_is_no_reason_to_fall_back() {
    let pipeline = failing(options(), lost);
    let wrong = crate::types::HostArray { shape: vec![1], data: vec![0.0] };
    let refused = pipeline.begin(Request::new(observation(1), wrong));
    assert!(matches!(refused.map(drop), Err(PipelineError::Input(_))));
    assert_eq!(pipeline.runtime().degraded, None);
}

#[test]
fn an_answer_names_the_backend_that_computed_it_even_after_a_fallback() {
    let mut left = 1;
    let first_only = move || {
        left -= 1;
        if left >= 0 { Behaviour::Answer } else { Behaviour::Fail(lost()) }
    };
    let pipeline = pipeline(options(), first_only, nothing);
    let [before, after] = [answer(&pipeline).unwrap(), answer(&pipeline).unwrap()];
    assert_eq!(before.provenance.runtime.degraded, None);
    assert_eq!(after.provenance.runtime.backend, "libtorch");
    assert!(after.provenance.runtime.degraded.is_some());
}

#[test]
fn an_answer_names_its_seed_its_steps_and_its_sequence_number() {
    let pipeline = Pipeline::load(&options()).unwrap();
    let request = Request { sequence: 12, ..request() };
    let provenance = pipeline.begin(request).and_then(InFlight::wait).unwrap().provenance;
    assert_eq!((provenance.seed, provenance.steps, provenance.sequence), (Some(7), 1, 12));
}

#[test]
fn a_machine_without_the_configured_gpu_starts_on_the_cpu_and_says_so() {
    if crate::backend::device::gpus() > 0 {
        return;
    }
    for backend in ["libtorch", "cuda_graph"] {
        let wanted = Options { backend: backend.to_owned(), device: Device::Cuda(0), dtype: Dtype::F16, ..options() };
        let runtime = Pipeline::load(&wanted).unwrap().runtime();
        assert_eq!((runtime.device, runtime.dtype), (Device::Cpu, Dtype::F32));
        let told = runtime.degraded.as_ref().unwrap().to_string();
        assert!(told.starts_with(&format!("fallback libtorch on cpu instead of {backend}")), "{told}");
    }
}

#[test]
fn an_unknown_backend_is_an_error_whatever_the_fallback() {
    let unknown = Options { backend: "no_such_backend".to_owned(), ..options() };
    assert!(Pipeline::load(&unknown).is_err());
}

#[test]
fn the_deadline_begins_once_a_request_is_queued_whatever_was_compiled_for_it_before() {
    let deadline = Duration::from_millis(1_000);
    let slow = || {
        std::thread::sleep(Duration::from_millis(1_200));
        Behaviour::Answer
    };
    let queued_in_time = || {
        Box::new(|deadline: Option<Instant>| {
            assert!(deadline > Some(Instant::now()), "the deadline passed before the wait began");
            Ok(())
        }) as AtWait
    };
    let pipeline = pipeline(Options { deadline: Some(deadline), ..options() }, slow, queued_in_time);
    assert_eq!(answer(&pipeline).unwrap().provenance.runtime.degraded, None);
}

#[test]
fn a_lost_device_that_nothing_replaces_is_not_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let behave = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Behaviour::Fail(lost())
    };
    let pipeline = pipeline(Options { fallback: Fallback::None, ..options() }, behave, nothing);
    for _ in 0..3 {
        let error = answer(&pipeline).unwrap_err().to_string();
        assert!(error.contains("an illegal memory access was encountered"), "{error}");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

/// A request from which no backend computes finite actions.
fn overflowing(pipeline: &Pipeline) -> Request {
    let shape = pipeline.noise_shape(1);
    let noise = HostArray { data: vec![f32::MAX; shape.iter().product()], shape: shape.to_vec() };
    Request::new(observation(1), noise)
}

#[test]
fn values_that_the_fallback_finds_not_finite_either_are_the_requests_fault_and_change_nothing() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = asked.clone();
    let behave = move || {
        counter.fetch_add(1, Ordering::Relaxed);
        Behaviour::Answer
    };
    let pipeline = pipeline(options(), behave, nothing);
    for _ in 0..2 {
        let error = pipeline.begin(overflowing(&pipeline)).and_then(InFlight::wait).unwrap_err();
        assert!(matches!(error, PipelineError::NonFiniteAction { .. }), "{error}");
    }
    assert_eq!(pipeline.runtime().degraded, None);
    answer(&pipeline).unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 3, "the first backend answers again");
}

#[test]
fn a_device_that_breaks_after_a_request_at_fault_is_replaced_after_a_few_answers() {
    let breaks = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let broken = breaks.clone();
    let behave = move || if broken.load(Ordering::Relaxed) { Behaviour::Fill(f64::NAN) } else { Behaviour::Answer };
    let pipeline = pipeline(options(), behave, nothing);
    pipeline.begin(overflowing(&pipeline)).and_then(InFlight::wait).unwrap_err();
    answer(&pipeline).unwrap();
    breaks.store(true, Ordering::Relaxed);
    let answers: Vec<_> = (0..3).map(|_| answer(&pipeline).map(|inference| inference.chunk)).collect();
    assert!(answers[..2].iter().all(Result::is_err), "what is not finite is withheld");
    assert_eq!(answers[2].as_ref().unwrap(), &expected());
}

#[test]
fn a_request_that_a_backend_was_not_made_for_changes_nothing() {
    let mismatch = || BackendError::EngineMismatch {
        path: "policy.engine".into(),
        field: "domain".to_owned(),
        expected: "1".to_owned(),
        found: "0".to_owned(),
        remedy: "build another".to_owned(),
    };
    let pipeline = failing(options(), mismatch);
    assert!(answer(&pipeline).is_err());
    assert_eq!(pipeline.runtime().degraded, None);
}

#[test]
fn overlap_with_libtorch_is_refused_whatever_the_fallback() {
    let error = Pipeline::load(&Options { overlap: true, ..options() }).unwrap_err().to_string();
    assert!(error.contains("libtorch runs one frame after the other"), "{error}");
}

#[test]
fn the_time_of_a_request_includes_the_attempt_that_failed() {
    let slow = || {
        std::thread::sleep(Duration::from_millis(50));
        Behaviour::Fail(lost())
    };
    let times = answer(&pipeline(options(), slow, nothing)).unwrap().times;
    assert!(times.e2e_ms >= 50.0, "{times:?}");
}

#[test]
fn weights_that_somebody_writes_to_answer_nothing_any_more_and_those_of_another_time_do() {
    let (folder, options) = (tempfile::tempdir().unwrap(), options());
    for entry in std::fs::read_dir(&options.checkpoint).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let pipeline = Pipeline::load(&Options { checkpoint: folder.path().to_owned(), ..options }).unwrap();
    pipeline.checkpoint_sha256().unwrap();
    answer(&pipeline).unwrap();
    let weights = folder.path().join("model.safetensors");
    let file = std::fs::File::options().append(true).open(&weights).unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5)).unwrap();
    answer(&pipeline).expect("another time alone is no other content");
    let mut other = std::fs::read(&weights).unwrap();
    other.iter_mut().rev().take(100).for_each(|byte| *byte = 0);
    std::fs::write(&weights, other).unwrap();
    for _ in 0..2 {
        let error = answer(&pipeline).map(drop).unwrap_err().to_string();
        assert!(error.contains("model.safetensors: was written to"), "{error}");
    }
}
