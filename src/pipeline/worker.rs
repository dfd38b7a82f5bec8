//! The inference thread of a live pipeline. Callbacks put observations into a latest-wins slot and return at once. So a
//! slow model skips observations instead of queueing them, and no observation is used twice.

use super::epoch::Epoch;
use super::feedback::Feedback;
use super::slot::LatestSlot;
use super::{InFlight, Inference, Noise, Pipeline, PipelineError, Request, Runtime};
use crate::types::Observation;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval between two checks whether the thread has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// The result of one observation, as it is delivered.
#[derive(Debug)]
pub struct Outcome {
    /// The observation that the request was made from.
    pub observation: Arc<Observation>,
    /// The time from [`Worker::offer`] to the start of decoding.
    pub queued: Duration,
    /// The time that decoding took.
    pub decoded: Duration,
    /// The inference, or why it failed.
    pub result: Result<Inference, PipelineError>,
}

/// What a worker can be offered: an observation, or something that an observation can be decoded from. The inference
/// thread decodes it, so that whoever offers it does not wait.
pub trait Offer: Send + 'static {
    /// Why it cannot be decoded.
    type Fault: Send + 'static;

    /// The observation.
    ///
    /// # Errors
    /// Data that cannot be decoded.
    fn decode(self) -> Result<Observation, Self::Fault>;
}

impl Offer for Observation {
    type Fault = Infallible;

    fn decode(self) -> Result<Observation, Infallible> {
        Ok(self)
    }
}

/// What an offer has led to.
#[derive(Debug)]
pub enum Delivery<F> {
    /// An inference, answered or failed.
    Outcome(Box<Outcome>),
    /// The offer could not be decoded.
    Rejected(F),
}

/// An offer in the slot, which no inference has begun on.
#[derive(Debug)]
struct Waiting<O> {
    offer: O,
    offered: Instant,
    epoch: u64,
}

/// An offer whose inference has begun or could not begin.
struct Begun<F> {
    step: Step<F>,
    epoch: u64,
}

enum Step<F> {
    InFlight {
        observation: Arc<Observation>,
        queued: Duration,
        decoded: Duration,
        in_flight: Box<Result<InFlight, PipelineError>>,
    },
    Rejected(F),
}

type Slot<O> = LatestSlot<Waiting<O>>;

/// A running inference thread, and a second one for delivery if the pipeline overlaps.
#[derive(Debug)]
pub struct Worker<O> {
    pipeline: Pipeline,
    slot: Arc<Slot<O>>,
    epoch: Arc<Epoch>,
    feedback: SharedFeedback,
    thread: JoinHandle<()>,
}

/// The state that the checkpoint is fed, shared by the threads that begin and end inferences.
type SharedFeedback = Arc<Mutex<Feedback>>;

fn locked(feedback: &SharedFeedback) -> MutexGuard<'_, Feedback> {
    feedback.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<O: Offer> Worker<O> {
    /// Starts the thread. Every chunk's noise is drawn from `seed`; without one, each chunk has a fresh seed. `feedback`
    /// decides what the checkpoint takes for the robot's state. `deliver` is called with every outcome of the present
    /// epoch, on the inference thread or, if the pipeline overlaps, on a delivery thread.
    ///
    /// # Errors
    /// [`PipelineError::Thread`] if the operating system refuses a thread.
    pub fn spawn(
        pipeline: Pipeline,
        seed: Option<u64>,
        feedback: Feedback,
        deliver: impl FnMut(Delivery<O::Fault>) + Send + 'static,
    ) -> Result<Self, PipelineError> {
        let (slot, epoch) = (Arc::new(Slot::default()), Arc::new(Epoch::default()));
        let feedback = Arc::new(Mutex::new(feedback));
        let mut delivery = DeliveryLoop { epoch: epoch.clone(), feedback: feedback.clone(), deliver };
        let requests = RequestLoop {
            pipeline: pipeline.clone(),
            seed,
            source: slot.clone(),
            epoch: epoch.clone(),
            feedback: feedback.clone(),
        };
        let thread = if requests.pipeline.overlaps() {
            // The channel has no buffer, so at most two inferences have begun: one is waited for and the next is on its
            // way into the channel.
            let (sender, receiver) = mpsc::sync_channel::<Begun<O::Fault>>(0);
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
        Ok(Self { pipeline, slot, epoch, feedback, thread })
    }

    /// Offers an observation, and returns the one it replaces if no inference had begun on that.
    pub fn offer(&self, offer: O) -> Option<O> {
        let waiting = Waiting { offer, offered: Instant::now(), epoch: self.epoch.present() };
        self.slot.put(waiting).map(|replaced| replaced.offer)
    }

    /// Takes back the observation that no inference has begun on, if there is one.
    pub fn withdraw(&self) -> Option<O> {
        let withdrawn = self.slot.take_back()?;
        self.epoch.withdraw();
        Some(withdrawn.offer)
    }

    /// Begins a new epoch. Once this has returned, nothing that was offered before is delivered.
    pub fn begin_epoch(&self) {
        self.epoch.advance();
    }

    /// Forgets the commands that the checkpoint would be fed as the robot's state.
    pub fn forget_commands(&self) {
        locked(&self.feedback).reset();
    }

    /// Takes note that another number of a chunk's actions is executed from now on; `None` for all.
    pub fn set_execute_steps(&self, steps: Option<usize>) {
        locked(&self.feedback).set_execute_steps(steps);
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

    /// Lets the thread end after its current inference, whose chunk is not delivered.
    pub fn close(&self) {
        self.epoch.advance();
        self.slot.close();
    }

    /// Ends the thread after its current inference, whose chunk is not delivered. Returns `false` if that takes longer
    /// than `patience`; the thread is then left running.
    pub fn stop(self, patience: Duration) -> bool {
        self.close();
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(JOIN_POLL);
        }
        self.thread.is_finished()
    }
}

/// The loop that takes observations from the slot and begins an inference for each.
struct RequestLoop<O> {
    pipeline: Pipeline,
    seed: Option<u64>,
    source: Arc<Slot<O>>,
    epoch: Arc<Epoch>,
    feedback: SharedFeedback,
}

impl<O: Offer> RequestLoop<O> {
    /// Passes every inference that has begun to `pass_on`, until the slot is closed or `pass_on` returns `false`.
    fn run(self, mut pass_on: impl FnMut(Begun<O::Fault>) -> bool) {
        let mut sequence = 0;
        while let Some(Waiting { offer, offered, epoch }) = self.source.take() {
            if epoch != self.epoch.present() {
                self.epoch.withdraw();
                continue;
            }
            let step = self.begin(offer, offered, &mut sequence);
            if !pass_on(Begun { step, epoch }) {
                return;
            }
        }
    }

    fn begin(&self, offer: O, offered: Instant, sequence: &mut u64) -> Step<O::Fault> {
        let (queued, decoding) = (offered.elapsed(), Instant::now());
        let mut observation = match offer.decode() {
            Ok(observation) => observation,
            Err(fault) => return Step::Rejected(fault),
        };
        locked(&self.feedback).fill(&mut observation);
        let observation = Arc::new(observation);
        let decoded = decoding.elapsed();
        let noise = Noise::Seed(self.seed.unwrap_or_else(rand::random));
        let request = Request { sequence: *sequence, ..Request::new(observation.clone(), noise) };
        *sequence += 1;
        Step::InFlight { observation, queued, decoded, in_flight: Box::new(self.pipeline.begin(request)) }
    }
}

/// Waits for inferences and hands what they led to to the caller's `deliver`.
struct DeliveryLoop<D> {
    epoch: Arc<Epoch>,
    feedback: SharedFeedback,
    deliver: D,
}

impl<D> DeliveryLoop<D> {
    fn finish<F>(&mut self, begun: Begun<F>)
    where
        D: FnMut(Delivery<F>),
    {
        let delivery = match begun.step {
            Step::Rejected(fault) => Delivery::Rejected(fault),
            Step::InFlight { observation, queued, decoded, in_flight } => {
                let result = in_flight.and_then(InFlight::wait);
                Delivery::Outcome(Box::new(Outcome { observation, queued, decoded, result }))
            }
        };
        self.epoch.deliver(begun.epoch, || {
            if let Delivery::Outcome(outcome) = &delivery
                && let Ok(inference) = &outcome.result
            {
                locked(&self.feedback).answered(outcome.observation.reference(), &inference.chunk.actions);
            }
            (self.deliver)(delivery);
        });
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
                    Delivery::Outcome(outcome) => {
                        Ok(outcome.result.map(|inference| inference.provenance.sequence).ok())
                    }
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
}
