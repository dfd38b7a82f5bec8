//! The health of the inference and of the robot, from what is known of the parts.

use super::record::Record;
use crate::error::shortened;
use crate::robot::health::{Health, Level};
use crate::robot::inputs::Inputs;
use crate::robot::lifecycle::State;
use std::borrow::Cow;
use std::time::{Duration, Instant};

/// Inferences withdrawn since the latest chunk, from which on that is worth a warning.
const MANY_WITHDRAWN: u64 = 5;
/// Characters of an instruction that a report quotes.
const QUOTED: usize = 200;

/// The beginning of an instruction, which may be longer than a line.
pub(super) fn quoted(instruction: &str) -> Cow<'_, str> {
    shortened(instruction, QUOTED)
}

/// What keeps the robot from being moved: a stop or pause that somebody has asked for, and what the node holds it for.
#[derive(Default)]
pub(super) struct Rest {
    pub(super) halted: Option<Health>,
    pub(super) held: Option<Health>,
}

/// Whether the robot may be acted on: an inference runs on inputs that can be trusted, and nothing keeps the robot at rest.
pub(super) fn robot_health(inputs: &Inputs, inputs_health: &Health, inference: &Health, rest: Rest) -> Health {
    if let Some(halted) = rest.halted {
        return halted;
    }
    let stopped = [inputs_health, inference].into_iter().find(|health| !health.may_act);
    if let Some(held) = rest.held.filter(|_| stopped.is_none()) {
        return held;
    }
    match (stopped, inputs.instruction_text()) {
        (Some(stopped), _) => Health {
            level: stopped.level,
            reason: format!("the policy stands still: {}", stopped.reason),
            may_act: false,
        },
        (None, Some(instruction)) => Health::new(Level::Ok, format!("acting on \"{}\"", quoted(instruction))),
        (None, None) => Health::new(Level::Stale, "the policy stands still: no instruction"),
    }
}

/// The health of the inference. What a drill sets off is told first, whatever it has led to. `hanging` is how long an inference
/// has been under way that takes longer than `guard.inference_ms`.
pub(super) fn inference_health(record: &Record, hanging: Option<Duration>, now: Instant) -> Health {
    let health = with_hanging(health_without_drill(record, now), record, hanging);
    match record.drill.as_deref() {
        None | Some("") => health,
        Some(drill) => Health {
            level: health.level.max(Level::Warn),
            reason: format!("drill: {drill}; {}", health.reason),
            may_act: health.may_act,
        },
    }
}

/// Adds an inference that does not end.
fn with_hanging(health: Health, record: &Record, hanging: Option<Duration>) -> Health {
    match record.hanging(hanging).map(unending) {
        None => health,
        Some(unending) => Health { reason: format!("{}; {}", unending.reason, health.reason), ..unending },
    }
}

/// The health of an inference that has been under way for `busy` and should have ended long before.
pub fn unending(busy: Duration) -> Health {
    Health::new(Level::Error, format!("an inference has not ended after {:.1} s", busy.as_secs_f64()))
}

fn health_without_drill(record: &Record, now: Instant) -> Health {
    let at_rest = |reason: &str| Health { may_act: false, ..Health::new(Level::Ok, reason) };
    match record.lifecycle {
        None | Some(State::Configuring | State::Active | State::ErrorProcessing) => {}
        Some(State::Inactive | State::Activating | State::Deactivating) => {
            return at_rest("inactive: the model is loaded");
        }
        Some(State::Unconfigured | State::CleaningUp) => {
            return match &record.not_configured {
                None => at_rest("unconfigured: no model is loaded"),
                Some(reason) => Health::new(Level::Error, format!("not configured: {reason}")),
            };
        }
        Some(State::Finalized | State::ShuttingDown) => return at_rest("finalized: the node has been shut down"),
    }
    let Some(runtime) = &record.runtime else {
        return Health { may_act: false, ..Health::new(Level::Warn, "loading the checkpoint") };
    };
    match (&record.last_failure, &runtime.degraded) {
        (Some(failure), _) if failure.is_recent(now) && record.is_failing => {
            Health::new(Level::Error, format!("no chunk: {}", failure.reason))
        }
        (_, Some(degraded)) => Health::new(Level::Warn, degraded.to_string()),
        (Some(failure), _) if failure.is_recent(now) => {
            Health::new(Level::Warn, format!("an inference failed a moment ago: {}", failure.reason))
        }
        _ if record.withdrawn.saturating_sub(record.withdrawn_before_chunk) >= MANY_WITHDRAWN => {
            Health::new(Level::Warn, "no chunk: instructions change, or inputs stop, faster than an inference takes")
        }
        _ if record.chunks_published == 0 => Health::new(Level::Ok, "ready, no chunk yet"),
        _ => Health::new(Level::Ok, format!("{} chunks published", record.chunks_published)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Device, Dtype};
    use crate::pipeline::{Degraded, ExecutionPath, Operators, Runtime};
    use crate::robot::topic::Fault;
    use std::sync::Arc;

    pub(in super::super) fn running(degraded: Option<Degraded>) -> Record {
        let runtime = Runtime {
            backend: "libtorch",
            device: Device::Cpu,
            dtype: Dtype::F32,
            engine_sha256: None,
            path: ExecutionPath::of_both(Operators::Libtorch),
            degraded,
        };
        Record { runtime: Some(Arc::new(runtime)), ..Record::default() }
    }

    pub(in super::super) fn fallback() -> Degraded {
        let (from, reason) = ("cuda_graph".to_owned(), "GPU failed".to_owned());
        Degraded { from, to: "libtorch", device: Device::Cpu, reason }
    }

    pub(in super::super) fn after_ms(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn an_inference_that_does_not_end_is_an_error_and_no_reason_to_act() {
        let health = inference_health(&running(Some(fallback())), Some(Duration::from_millis(2300)), Instant::now());
        assert_eq!((health.level, health.may_act), (Level::Error, false));
        assert!(health.reason.starts_with("an inference has not ended after 2.3 s; fallback"), "{}", health.reason);
    }

    #[test]
    fn an_inference_that_is_as_slow_as_those_before_is_no_error() {
        let slow = Record { e2e_ms: [2900.0].into(), ..running(None) };
        let level = |ms| inference_health(&slow, Some(Duration::from_millis(ms)), Instant::now()).level;
        assert_eq!([2300, 8000, 9000].map(level), [Level::Ok, Level::Ok, Level::Error]);
    }

    #[test]
    fn one_that_hung_does_not_hide_the_next_that_does() {
        let e2e_ms = [30.0, 30.0, 11_000.0, 30.0].into();
        let health =
            inference_health(&Record { e2e_ms, ..running(None) }, Some(Duration::from_millis(2300)), Instant::now());
        assert_eq!(health.level, Level::Error);
    }

    #[test]
    fn the_first_inference_is_measured_by_the_rehearsal() {
        let slow = Record { rehearsal_ms: Some(2900.0), ..running(None) };
        assert_eq!(inference_health(&slow, Some(Duration::from_millis(8000)), Instant::now()).level, Level::Ok);
    }

    #[test]
    fn loading_is_no_error_and_no_reason_to_act() {
        let health = inference_health(&Record::default(), None, Instant::now());
        assert_eq!((health.level, health.may_act), (Level::Warn, false));
        assert_eq!(inference_health(&running(None), None, Instant::now()).level, Level::Ok);
    }

    #[test]
    fn a_failed_inference_is_an_error_for_a_few_seconds() {
        let at = Instant::now();
        let last_failure = Some(Fault { reason: "not finite".to_owned(), at });
        let record = Record { last_failure, is_failing: true, ..running(None) };
        let health = |ms| inference_health(&record, None, after_ms(at, ms));
        assert_eq!(health(1_000), Health::new(Level::Error, "no chunk: not finite"));
        assert_eq!(health(7_000).level, Level::Ok);
    }

    #[test]
    fn a_failure_that_a_chunk_has_followed_is_told_and_no_reason_to_stand_still() {
        let mut record = running(None);
        let at = Instant::now();
        record.failed("not finite", at);
        record.chunk_published(10.0, 20.0);
        let health = inference_health(&record, None, after_ms(at, 100));
        assert_eq!(health, Health::new(Level::Warn, "an inference failed a moment ago: not finite"));
        assert!(health.may_act);
    }

    #[test]
    fn a_fallback_warns_for_as_long_as_it_runs_and_says_why() {
        let health = inference_health(&running(Some(fallback())), None, Instant::now());
        assert_eq!(health, Health::new(Level::Warn, "fallback libtorch on cpu instead of cuda_graph: GPU failed"));
    }

    #[test]
    fn what_a_drill_sets_off_is_a_warning_at_least_and_told_before_all_else() {
        let at = Instant::now();
        let drilled = |record| Record { drill: Some("error".to_owned()), ..record };
        let health = inference_health(&drilled(running(None)), None, at);
        assert_eq!(health, Health::new(Level::Warn, "drill: error; ready, no chunk yet"));
        let last_failure = Some(Fault { reason: "made to fail".to_owned(), at });
        let failing = Record { last_failure, is_failing: true, ..running(None) };
        let health = inference_health(&drilled(failing), None, at);
        assert_eq!(health, Health::new(Level::Error, "drill: error; no chunk: made to fail"));
    }

    #[test]
    fn a_drill_that_sets_nothing_off_is_no_warning() {
        let record = Record { drill: Some(String::new()), ..running(None) };
        assert_eq!(inference_health(&record, None, Instant::now()).level, Level::Ok);
    }
}
