//! The inference thread of a live pipeline. Callbacks put observations into a latest-wins slot and return at once. So a
//! slow model skips observations instead of queueing them, and no observation is used twice.

use super::epoch::Epoch;
use super::slot::LatestSlot;
use super::{InFlight, Inference, Noise, Pipeline, PipelineError, Request, Runtime};
use crate::types::Observation;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval between two checks whether the thread has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// The result of one observation, as it is delivered.
#[derive(Debug)]
pub struct Outcome {
    /// The observation that the request was made from.
    pub observation: Arc<Observation>,
    /// The time from [`Worker::offer`] to the start of inference.
    pub queued: Duration,
    /// The inference, or why it failed.
    pub result: Result<Inference, PipelineError>,
}

/// An observation in the slot, which no inference has begun on.
#[derive(Debug)]
struct Waiting {
    observation: Arc<Observation>,
    offered: Instant,
    epoch: u64,
}

/// An observation whose inference has begun, or could not begin.
struct Begun {
    observation: Arc<Observation>,
    queued: Duration,
    in_flight: Result<InFlight, PipelineError>,
    epoch: u64,
}

type Slot = LatestSlot<Waiting>;

/// A running inference thread, and a second one for delivery if the pipeline overlaps.
#[derive(Debug)]
pub struct Worker {
    pipeline: Pipeline,
    slot: Arc<Slot>,
    epoch: Arc<Epoch>,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts the thread. Every chunk's noise is drawn from `seed`; without one, each chunk has a fresh seed. `deliver`
    /// is called with every outcome of the present epoch, on the inference thread or, if the pipeline overlaps, on a
    /// delivery thread.
    ///
    /// # Errors
    /// [`PipelineError::Thread`] if the operating system refuses a thread.
    pub fn spawn(
        pipeline: Pipeline,
        seed: Option<u64>,
        deliver: impl FnMut(Outcome) + Send + 'static,
    ) -> Result<Self, PipelineError> {
        let (slot, epoch) = (Arc::new(Slot::default()), Arc::new(Epoch::default()));
        let mut delivery = Delivery { epoch: epoch.clone(), deliver };
        let requests = RequestLoop { pipeline: pipeline.clone(), seed, source: slot.clone(), epoch: epoch.clone() };
        let thread = if requests.pipeline.overlaps() {
            // The channel has no buffer, so at most two inferences have begun: one is waited for and the next is on its
            // way into the channel.
            let (sender, receiver) = mpsc::sync_channel::<Begun>(0);
            let deliveries = thread("delivery", move || receiver.iter().for_each(|begun| delivery.finish(begun)))?;
            thread("inference", move || {
                requests.run(|begun| sender.send(begun).is_ok());
                drop(sender);
                // A panic of the delivery thread ends this thread too, because the node checks only this one.
                if let Err(panic) = deliveries.join() {
                    std::panic::resume_unwind(panic);
                }
            })?
        } else {
            thread("inference", move || {
                requests.run(|begun| {
                    delivery.finish(begun);
                    true
                });
            })?
        };
        Ok(Self { pipeline, slot, epoch, thread })
    }

    /// Offers an observation. Returns whether it replaced one that no inference had begun on.
    pub fn offer(&self, observation: Observation) -> bool {
        let waiting =
            Waiting { observation: Arc::new(observation), offered: Instant::now(), epoch: self.epoch.present() };
        self.slot.put(waiting).is_some()
    }

    /// Begins a new epoch. Once this has returned, nothing that was offered before is delivered.
    pub fn begin_epoch(&self) {
        self.epoch.advance();
    }

    /// The number of observations and answers that were dropped because their epoch was over.
    pub fn withdrawn(&self) -> u64 {
        self.epoch.withdrawn()
    }

    /// What runs at present.
    pub fn runtime(&self) -> Arc<Runtime> {
        self.pipeline.runtime()
    }

    /// Whether the thread still runs. It ends when it is stopped or when the model panics.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends the thread after its current inference, whose chunk is not delivered. Returns `false` if that takes longer
    /// than `patience`; the thread is then left running.
    pub fn stop(self, patience: Duration) -> bool {
        self.epoch.advance();
        self.slot.close();
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(JOIN_POLL);
        }
        self.thread.is_finished()
    }
}

/// The loop that takes observations from the slot and begins an inference for each.
struct RequestLoop {
    pipeline: Pipeline,
    seed: Option<u64>,
    source: Arc<Slot>,
    epoch: Arc<Epoch>,
}

impl RequestLoop {
    /// Passes every inference that has begun to `pass_on`, until the slot is closed or `pass_on` returns `false`.
    fn run(self, mut pass_on: impl FnMut(Begun) -> bool) {
        let mut sequence = 0;
        while let Some(Waiting { observation, offered, epoch }) = self.source.take() {
            if epoch != self.epoch.present() {
                self.epoch.withdraw();
                continue;
            }
            let queued = offered.elapsed();
            let noise = Noise::Seed(self.seed.unwrap_or_else(rand::random));
            let request = Request { sequence, ..Request::new(observation.clone(), noise) };
            sequence += 1;
            let in_flight = self.pipeline.begin(request);
            if !pass_on(Begun { observation, queued, in_flight, epoch }) {
                return;
            }
        }
    }
}

/// Waits for inferences and hands their outcomes to the caller's `deliver`.
struct Delivery<F> {
    epoch: Arc<Epoch>,
    deliver: F,
}

impl<F: FnMut(Outcome)> Delivery<F> {
    fn finish(&mut self, begun: Begun) {
        let Begun { observation, queued, in_flight, epoch } = begun;
        let outcome = Outcome { observation, queued, result: in_flight.and_then(InFlight::wait) };
        self.epoch.deliver(epoch, || (self.deliver)(outcome));
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, PipelineError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(PipelineError::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::mock::{AtWait, Behaviour};
    use crate::pipeline::{Options, mock};

    /// Much longer than any inference of the tiny checkpoint takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// A worker whose inferences end when the test says so.
    struct Bench {
        worker: Worker,
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
            let worker = Worker::spawn(pipeline, Some(0), move |outcome| {
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
        assert!(!bench.worker.offer(mock::observation(2)));
        assert!(bench.worker.offer(mock::observation(3)), "the second was never looked at");
        (0..2).for_each(|_| bench.finish());
        assert_eq!([bench.next_delivered(), bench.next_delivered()], [1, 3]);
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
        let worker = Worker::spawn(pipeline, None, move |outcome| {
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
}
