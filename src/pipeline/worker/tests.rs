//! Tests of the inference thread: what is answered, in which order, and what is known of it meanwhile.

mod panics;

use super::*;
use crate::backend::mock::{AtWait, Behaviour};
use crate::pipeline::Options;
use crate::pipeline::mock::{self, PATIENCE, until};
use std::sync::mpsc;

/// A worker whose inferences end when the test says so.
struct Bench {
    worker: Worker<Observation>,
    /// Receives one message for each inference that begins.
    begun: mpsc::Receiver<()>,
    /// Each message ends the wait of one inference.
    release: mpsc::Sender<()>,
    /// Receives the stamp, ms, of each delivered observation.
    delivered: mpsc::Receiver<i64>,
}

impl Bench {
    fn new(overlap: bool) -> Self {
        let (tell_begun, begun) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let (deliver, delivered) = mpsc::channel();
        let released = Arc::new(std::sync::Mutex::new(released));
        let behave = move || {
            let _ = tell_begun.send(());
            Behaviour::Answer
        };
        let at_wait = move || {
            let released = released.clone();
            Box::new(move |_| {
                let _ = released.lock().map(|released| released.recv_timeout(PATIENCE));
                Ok(())
            }) as AtWait
        };
        let pipeline = mock::pipeline(Options { overlap, ..mock::options() }, behave, at_wait);
        let worker = Worker::spawn(pipeline, Some(0), Feedback::measured(), move |delivery| {
            let Delivery::Outcome(outcome) = delivery;
            let _ = deliver.send(outcome.observation.reference().nanos / 1_000_000);
        });
        Self { worker: worker.unwrap(), begun, release, delivered }
    }

    fn offer(&self, ms: i64) {
        self.worker.offer(mock::observation(ms));
    }

    fn await_begun(&self) {
        self.begun.recv_timeout(PATIENCE).unwrap();
    }

    fn finish(&self) {
        self.release.send(()).unwrap();
    }

    fn next_delivered(&self) -> i64 {
        self.delivered.recv_timeout(PATIENCE).unwrap()
    }
}

#[test]
fn with_overlap_the_second_inference_begins_before_the_first_is_delivered() {
    let bench = Bench::new(true);
    for ms in [1, 2] {
        bench.offer(ms);
        bench.await_begun();
    }
    assert!(bench.delivered.try_recv().is_err(), "neither has ended yet");
    (0..2).for_each(|_| bench.finish());
    assert_eq!([bench.next_delivered(), bench.next_delivered()], [1, 2]);
}

#[test]
fn with_overlap_no_third_inference_begins_before_the_first_has_ended() {
    let bench = Bench::new(true);
    for ms in [1, 2] {
        bench.offer(ms);
        bench.await_begun();
    }
    bench.offer(3);
    assert!(bench.begun.try_recv().is_err(), "two in flight are enough");
    bench.finish();
    assert_eq!(bench.next_delivered(), 1);
    bench.await_begun();
    (0..2).for_each(|_| bench.finish());
    assert_eq!([bench.next_delivered(), bench.next_delivered()], [2, 3]);
}

#[test]
fn an_observation_in_the_slot_is_replaced_by_a_newer_one() {
    let bench = Bench::new(false);
    bench.offer(1);
    bench.await_begun();
    assert!(bench.worker.offer(mock::observation(2)).is_none());
    assert!(bench.worker.offer(mock::observation(3)).is_some(), "the second was never looked at");
    (0..2).for_each(|_| bench.finish());
    assert_eq!([bench.next_delivered(), bench.next_delivered()], [1, 3]);
}

/// Something that is an observation of that stamp, ms, or cannot be decoded.
struct Coded(Result<i64, &'static str>);

impl Offer for Coded {
    type Fault = &'static str;

    fn decode(self) -> Result<Observation, &'static str> {
        self.0.map(mock::observation)
    }
}

#[test]
fn what_cannot_be_decoded_is_delivered_as_such_and_no_number_is_spent_on_it() {
    for overlap in [false, true] {
        let (deliver, delivered) = mpsc::channel();
        let options = Options { overlap, ..mock::options() };
        let pipeline = mock::pipeline(options, || Behaviour::Answer, mock::nothing);
        let worker = Worker::spawn(pipeline, Some(0), Feedback::measured(), move |delivery| {
            let _ = deliver.send(match delivery {
                Delivery::Rejected(fault) => Err(fault),
                Delivery::Outcome(outcome) => Ok(outcome.result.map(|inference| inference.provenance.sequence).ok()),
            });
        });
        let worker = worker.unwrap();
        let answer_to = |coded| {
            worker.offer(Coded(coded));
            delivered.recv_timeout(PATIENCE).unwrap()
        };
        assert_eq!(answer_to(Err("cut short")), Err("cut short"));
        assert_eq!(answer_to(Ok(1)), Ok(Some(0)), "overlap {overlap}");
    }
}

#[test]
fn an_observation_that_is_taken_back_is_not_answered() {
    let bench = Bench::new(false);
    bench.offer(1);
    bench.await_begun();
    bench.offer(2);
    assert!(bench.worker.withdraw().is_some());
    assert!(bench.worker.withdraw().is_none(), "the one under way goes on");
    bench.offer(3);
    (0..2).for_each(|_| bench.finish());
    assert_eq!([bench.next_delivered(), bench.next_delivered()], [1, 3]);
    assert_eq!(bench.worker.withdrawn(), 1);
}

#[test]
fn nothing_from_before_a_new_epoch_is_delivered_after_it() {
    for overlap in [false, true] {
        let bench = Bench::new(overlap);
        bench.offer(1);
        bench.await_begun();
        bench.offer(2);
        bench.worker.begin_epoch();
        bench.offer(3);
        (0..3).for_each(|_| bench.finish());
        assert_eq!(bench.next_delivered(), 3, "overlap {overlap}");
        assert!(bench.worker.withdrawn() >= 1, "the one under way is counted");
    }
}

#[test]
fn a_chunk_under_way_at_the_stop_is_not_delivered() {
    let bench = Bench::new(false);
    bench.offer(1);
    bench.await_begun();
    let Bench { worker, release, delivered, .. } = bench;
    assert!(!worker.stop(Duration::ZERO), "it is busy");
    release.send(()).unwrap();
    assert!(delivered.recv_timeout(PATIENCE).is_err(), "the thread ended without a delivery");
}

#[test]
fn chunks_are_numbered_in_the_order_in_which_they_begin() {
    let (deliver, delivered) = mpsc::channel();
    let pipeline = mock::pipeline(mock::options(), || Behaviour::Answer, mock::nothing);
    let worker = Worker::<Observation>::spawn(pipeline, None, Feedback::measured(), move |delivery| {
        let Delivery::Outcome(outcome) = delivery;
        let _ = deliver.send(outcome.result.map(|inference| inference.provenance));
    });
    let worker = worker.unwrap();
    let mut numbers = Vec::new();
    for ms in 0..3 {
        worker.offer(mock::observation(ms));
        let provenance = delivered.recv_timeout(PATIENCE).unwrap().unwrap();
        assert!(provenance.seed.is_some(), "a fresh seed is recorded");
        numbers.push(provenance.sequence);
    }
    assert_eq!(numbers, [0, 1, 2]);
}

#[test]
fn a_worker_is_busy_from_the_beginning_of_an_inference_until_it_has_been_delivered() {
    for overlap in [false, true] {
        let bench = Bench::new(overlap);
        assert!(bench.worker.is_idle() && bench.worker.busy_since().is_none());
        let before = Instant::now();
        bench.offer(1);
        bench.await_begun();
        let since = bench.worker.busy_since().unwrap();
        assert!((before..=Instant::now()).contains(&since) && !bench.worker.is_idle(), "overlap {overlap}");
        bench.finish();
        bench.next_delivered();
        until(|| bench.worker.is_idle());
        assert_eq!(bench.worker.busy_since(), None);
    }
}

/// An observation whose decoding ends when the test says so.
struct Slow(mpsc::Receiver<()>);

impl Offer for Slow {
    type Fault = Infallible;

    fn decode(self) -> Result<Observation, Infallible> {
        let _ = self.0.recv_timeout(PATIENCE);
        Ok(mock::observation(1))
    }
}

#[test]
fn a_worker_is_busy_while_it_decodes() {
    let pipeline = mock::pipeline(mock::options(), || Behaviour::Answer, mock::nothing);
    let worker = Worker::spawn(pipeline, Some(0), Feedback::measured(), drop).unwrap();
    let (release, released) = mpsc::channel();
    worker.offer(Slow(released));
    until(|| worker.busy_since().is_some());
    release.send(()).unwrap();
    until(|| worker.is_idle());
}

#[test]
fn a_worker_stays_busy_with_an_inference_whose_epoch_is_over() {
    let bench = Bench::new(false);
    bench.offer(1);
    bench.await_begun();
    let since = bench.worker.busy_since();
    bench.worker.begin_epoch();
    assert!(since.is_some() && bench.worker.busy_since() == since && !bench.worker.is_idle());
    bench.finish();
    until(|| bench.worker.is_idle());
}

#[test]
fn of_two_inferences_under_way_the_older_one_says_since_when_the_worker_is_busy() {
    let bench = Bench::new(true);
    bench.offer(1);
    bench.await_begun();
    let first = bench.worker.busy_since();
    bench.offer(2);
    bench.await_begun();
    assert_eq!(bench.worker.busy_since(), first);
    bench.finish();
    assert_eq!(bench.next_delivered(), 1);
    until(|| bench.worker.busy_since() != first);
    assert!(bench.worker.busy_since() > first, "the second is still under way");
    bench.finish();
    assert_eq!(bench.next_delivered(), 2);
    until(|| bench.worker.is_idle());
}
