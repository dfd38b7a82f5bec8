//! Tests of inferences that panic: what is known of it, and what is answered once the thread runs again.

use crate::backend::mock::{AtWait, Behaviour};
use crate::pipeline::Options;
use crate::pipeline::feedback::Feedback;
use crate::pipeline::mock::{self, PATIENCE, until};
use crate::pipeline::worker::{Delivery, Offer, Worker};
use crate::types::Observation;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, mpsc};

/// Where an inference panics on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    Decode,
    Begin,
    Wait,
    Deliver,
}

/// What is offered to a [`Panicky`]: an observation of that stamp, ms. Stamp 0 panics at that stage.
struct Marked(i64, Stage);

impl Offer for Marked {
    type Fault = Infallible;

    fn decode(self) -> Result<Observation, Infallible> {
        assert!((self.0, self.1) != (0, Stage::Decode), "on purpose");
        Ok(mock::observation(self.0))
    }
}

/// A worker that panics at one stage of its first inference.
struct Panicky {
    worker: Worker<Marked>,
    stage: Stage,
    /// Receives stamp, ms, and number of each chunk.
    delivered: mpsc::Receiver<(i64, u64)>,
}

impl Panicky {
    fn new(overlap: bool, stage: Stage) -> Self {
        let (deliver, delivered) = mpsc::channel();
        let (mut begins, mut waits) = (0, 0);
        let behave = move || {
            begins += 1;
            assert!((begins, stage) != (1, Stage::Begin), "on purpose");
            Behaviour::Answer
        };
        let at_wait = move || {
            waits += 1;
            let panics = (waits, stage) == (1, Stage::Wait);
            Box::new(move |_| {
                assert!(!panics, "on purpose");
                Ok(())
            }) as AtWait
        };
        let pipeline = mock::pipeline(Options { overlap, ..mock::options() }, behave, at_wait);
        let worker = Worker::spawn(pipeline, Some(0), Feedback::measured(), move |delivery| {
            let Delivery::Outcome(outcome) = delivery;
            let ms = outcome.observation.reference().nanos / 1_000_000;
            assert!((ms, stage) != (0, Stage::Deliver), "on purpose");
            let _ = deliver.send((ms, outcome.result.unwrap().provenance.sequence));
        });
        Self { worker: worker.unwrap(), stage, delivered }
    }

    fn offer(&self, ms: i64) {
        self.worker.offer(Marked(ms, self.stage));
    }

    fn until_ended(&self) {
        until(|| !self.worker.is_running());
    }
}

#[test]
fn after_a_panic_at_any_stage_the_message_is_known_and_the_thread_can_be_started_again() {
    for overlap in [false, true] {
        for stage in [Stage::Decode, Stage::Begin, Stage::Wait, Stage::Deliver] {
            let mut panicky = Panicky::new(overlap, stage);
            assert_eq!(panicky.worker.panicked(), None);
            panicky.offer(0);
            panicky.until_ended();
            assert_eq!(panicky.worker.panicked().as_deref(), Some("on purpose"), "{stage:?}, overlap {overlap}");
            assert!(panicky.worker.is_idle(), "{stage:?}, overlap {overlap}: nothing is under way any more");
            panicky.worker.restart().unwrap();
            assert!(panicky.worker.is_running() && panicky.worker.panicked().is_none());
            panicky.offer(1);
            let spent = u64::from(stage != Stage::Decode);
            let answer = panicky.delivered.recv_timeout(PATIENCE).unwrap();
            assert_eq!(answer, (1, spent), "{stage:?}, overlap {overlap}: numbers go on");
        }
    }
}

#[test]
fn what_waits_in_the_slot_at_a_panic_is_answered_once_the_thread_runs_again() {
    for overlap in [false, true] {
        let mut panicky = Panicky::new(overlap, Stage::Begin);
        panicky.offer(0);
        panicky.until_ended();
        panicky.offer(1);
        assert!(!panicky.worker.is_idle(), "it waits");
        assert_eq!(panicky.worker.busy_since(), None);
        panicky.worker.restart().unwrap();
        assert_eq!(panicky.delivered.recv_timeout(PATIENCE).unwrap(), (1, 1), "overlap {overlap}");
    }
}

#[test]
fn an_epoch_that_began_before_a_panic_is_still_the_present_one_after_it() {
    let mut panicky = Panicky::new(false, Stage::Deliver);
    panicky.offer(0);
    panicky.until_ended();
    panicky.offer(1);
    panicky.worker.begin_epoch();
    panicky.worker.restart().unwrap();
    until(|| panicky.worker.withdrawn() == 1);
    panicky.offer(2);
    assert_eq!(panicky.delivered.recv_timeout(PATIENCE).unwrap().0, 2);
}

#[test]
fn what_was_under_way_beside_a_panic_is_never_delivered() {
    let (tell_begun, begun) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (deliver, delivered) = mpsc::channel();
    let mut begins = 0;
    let behave = move || {
        begins += 1;
        let _ = tell_begun.send(());
        assert!(begins != 2, "on purpose");
        Behaviour::Answer
    };
    let released = Arc::new(Mutex::new(released));
    let at_wait = move || {
        let released = released.clone();
        Box::new(move |_| {
            let _ = released.lock().unwrap().recv_timeout(PATIENCE);
            Ok(())
        }) as AtWait
    };
    let pipeline = mock::pipeline(Options { overlap: true, ..mock::options() }, behave, at_wait);
    let mut worker = Worker::spawn(pipeline, Some(0), Feedback::measured(), move |delivery| {
        let Delivery::Outcome(outcome) = delivery;
        let _ = deliver.send(outcome.observation.reference().nanos / 1_000_000);
    })
    .unwrap();
    for ms in [1, 2] {
        worker.offer(mock::observation(ms));
        begun.recv_timeout(PATIENCE).unwrap();
    }
    until(|| worker.shared.watch.has_panicked());
    assert!(worker.is_running(), "the first is still waited for");
    release.send(()).unwrap();
    until(|| !worker.is_running());
    worker.restart().unwrap();
    worker.offer(mock::observation(3));
    release.send(()).unwrap();
    assert_eq!(delivered.recv_timeout(PATIENCE).unwrap(), 3);
}

#[test]
fn a_thread_that_runs_or_was_stopped_has_not_panicked_and_is_not_doubled() {
    let mut panicky = Panicky::new(false, Stage::Begin);
    panicky.worker.restart().unwrap();
    assert!(panicky.worker.is_running());
    panicky.worker.close();
    panicky.until_ended();
    assert_eq!(panicky.worker.panicked(), None);
}
