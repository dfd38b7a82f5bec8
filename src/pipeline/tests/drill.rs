//! Faults that are set off on purpose, as they come out of a pipeline and of the worker that runs it.

use super::{answer, expected};
use crate::backend::BackendError;
use crate::backend::drill::Drill;
use crate::backend::mock::Behaviour;
use crate::config::schema::Table;
use crate::config::{Config, DrillConfig, DrillFault, Parameters, Value};
use crate::pipeline::feedback::Feedback;
use crate::pipeline::mock::{self, PATIENCE, nothing, observation, until};
use crate::pipeline::worker::{Delivery, Worker};
use crate::pipeline::{Options, Pipeline, PipelineError};
use crate::types::{Chunk, Observation};
use std::sync::mpsc;
use std::time::Duration;

fn setting(fault: DrillFault) -> DrillConfig {
    DrillConfig { allowed: true, fault, ..DrillConfig::defaults() }
}

fn options(fault: DrillFault) -> Options {
    Options { drill: Drill::allowed_by(&setting(fault)), ..mock::options() }
}

/// A pipeline of libtorch on the CPU, which nothing takes over from, with its drill.
fn armed(fault: DrillFault) -> (Pipeline, Drill) {
    let pipeline = Pipeline::load(&options(fault)).unwrap();
    let drill = pipeline.drill().unwrap().clone();
    drill.arm();
    (pipeline, drill)
}

#[test]
fn the_fault_error_is_a_failed_chunk_and_the_next_one_is_as_ever_once_it_is_over() {
    let (pipeline, drill) = armed(DrillFault::Error);
    assert!(matches!(answer(&pipeline), Err(PipelineError::Backend(BackendError::Drill))));
    drill.set(&setting(DrillFault::None));
    assert_eq!(answer(&pipeline).unwrap().chunk, expected());
    assert_eq!(pipeline.runtime().degraded, None);
}

#[test]
fn the_fault_nan_is_a_chunk_that_is_withheld_and_the_next_one_is_as_ever_once_it_is_over() {
    let (pipeline, drill) = armed(DrillFault::Nan);
    assert!(matches!(answer(&pipeline), Err(PipelineError::NonFiniteAction { .. })));
    drill.set(&setting(DrillFault::None));
    assert_eq!(answer(&pipeline).unwrap().chunk, expected());
    assert_eq!(pipeline.runtime().degraded, None);
}

#[test]
fn a_rehearsal_is_not_disturbed_by_any_fault() {
    for fault in [DrillFault::Error, DrillFault::Nan, DrillFault::Hang, DrillFault::Panic] {
        let pipeline = Pipeline::load(&options(fault)).unwrap();
        pipeline.warm_up().unwrap();
        assert_eq!(answer(&pipeline).unwrap().chunk, expected(), "{fault:?}");
    }
}

#[test]
fn the_fallback_that_takes_over_in_a_drill_is_not_disturbed() {
    for fault in [DrillFault::Error, DrillFault::Nan] {
        let pipeline = mock::pipeline(options(fault), || Behaviour::Answer, nothing);
        pipeline.drill().unwrap().arm();
        assert_eq!(answer(&pipeline).unwrap().chunk, expected(), "{fault:?}");
        assert!(pipeline.runtime().degraded.is_some(), "{fault:?}: the backend was disturbed");
    }
}

/// A worker that is in a drill, and the chunks that it delivers.
fn worker(fault: DrillFault) -> (Worker<Observation>, mpsc::Receiver<Option<Chunk>>) {
    let (deliver, delivered) = mpsc::channel();
    let pipeline = Pipeline::load(&options(fault)).unwrap();
    let worker = Worker::spawn(pipeline, Some(7), Feedback::measured(), move |delivery| {
        let Delivery::Outcome(outcome) = delivery;
        let _ = deliver.send(outcome.result.ok().map(|inference| inference.chunk));
    });
    (worker.unwrap(), delivered)
}

#[test]
fn a_worker_arms_the_drill_of_its_pipeline() {
    let (worker, delivered) = worker(DrillFault::Error);
    worker.offer(observation(1));
    assert_eq!(delivered.recv_timeout(PATIENCE).unwrap(), None);
}

#[test]
fn the_fault_hang_keeps_a_worker_busy_until_it_is_over() {
    let (worker, delivered) = worker(DrillFault::Hang);
    worker.offer(observation(1));
    until(|| worker.busy_since().is_some_and(|since| since.elapsed() > Duration::from_millis(100)));
    assert!(delivered.try_recv().is_err());
    worker.drill().unwrap().set(&setting(DrillFault::None));
    assert_eq!(delivered.recv_timeout(PATIENCE).unwrap(), Some(expected()));
}

#[test]
fn the_fault_hang_does_not_keep_a_worker_from_ending() {
    let (worker, delivered) = worker(DrillFault::Hang);
    worker.offer(observation(1));
    until(|| worker.busy_since().is_some());
    assert!(worker.stop(PATIENCE));
    assert!(delivered.recv_timeout(PATIENCE).is_err(), "nothing is delivered on the way");
}

#[test]
fn the_fault_panic_ends_the_thread_which_answers_as_ever_when_it_is_started_again() {
    let (mut worker, delivered) = worker(DrillFault::Panic);
    worker.offer(observation(1));
    until(|| !worker.is_running());
    assert_eq!(worker.panicked().as_deref(), Some("a drill"));
    worker.drill().unwrap().set(&setting(DrillFault::None));
    worker.restart().unwrap();
    worker.offer(observation(1));
    assert_eq!(delivered.recv_timeout(PATIENCE).unwrap(), Some(expected()));
}

#[test]
fn a_deployment_has_a_drill_only_if_it_allows_one() {
    let drill = |allowed: bool| {
        let given = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("proprio.joint_names".to_owned(), Value::Strings(vec!["a".to_owned()])),
            ("drill.allowed".to_owned(), Value::Bool(allowed)),
        ]);
        Options::from(&Config::from_parameters(&given).unwrap()).drill
    };
    assert!(drill(true).is_some() && drill(false).is_none());
    assert_eq!(Options::new("model").drill, None);
}
