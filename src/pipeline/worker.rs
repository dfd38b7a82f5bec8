//! The inference thread of a live pipeline. Callbacks put observations into a latest-wins slot and return at once. So a
//! slow model skips observations instead of queueing them, and no observation is used twice.

//!
//! | what | file |
//! |---|---|
//! | what is offered and delivered, and the worker as its owner sees it | this one |
//! | the threads: from the slot to the inference, from the inference to its delivery | [`threads`] |
//! | what the threads are at, and the panic that has ended them | [`watch`] |

#[cfg(test)]
mod tests;
mod threads;
mod watch;

use self::watch::Watch;
use super::epoch::Epoch;
use super::feedback::Feedback;
use super::slot::LatestSlot;
use super::{Inference, Pipeline, PipelineError, Runtime};
use crate::backend::drill::Drill;
use crate::types::Observation;
use std::convert::Infallible;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Interval between two checks whether the thread has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// The result of one observation, as it is delivered.
#[derive(Debug)]
pub struct Outcome {
    /// The observation that the request was made from.
    pub observation: Arc<Observation>,
    /// The robot's measured state at its moment, which the checkpoint may not have been fed.
    pub measured: Vec<f32>,
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

type Slot<O> = LatestSlot<Waiting<O>>;

/// What the threads share with their worker, and hand on to those that follow them after a panic.
struct Shared<O: Offer> {
    pipeline: Pipeline,
    /// Recordings that requests had waited for before this worker's first.
    recorded_before: u64,
    seed: Option<u64>,
    slot: Slot<O>,
    epoch: Epoch,
    /// The state that the checkpoint is fed.
    feedback: Mutex<Feedback>,
    /// The number of the next chunk.
    sequence: AtomicU64,
    deliver: Mutex<Deliver<O::Fault>>,
    watch: Arc<Watch>,
}

type Deliver<F> = Box<dyn FnMut(Delivery<F>) + Send>;

/// Locks `mutex`. A poisoned one is accepted: a panic leaves nothing half-written that the next inference would read.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running inference thread, and a second one for delivery if the pipeline overlaps.
pub struct Worker<O: Offer> {
    shared: Arc<Shared<O>>,
    /// The thread that ends last.
    thread: JoinHandle<()>,
}

impl<O: Offer> std::fmt::Debug for Worker<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("pipeline", &self.shared.pipeline).finish_non_exhaustive()
    }
}

impl<O: Offer> Worker<O> {
    /// Starts the thread. Every chunk's noise is drawn from `seed`; without one, each chunk has a fresh seed. `feedback`
    /// decides what the checkpoint takes for the robot's state. `deliver` is called with every outcome of the present
    /// epoch, on the inference thread or, if the pipeline overlaps, on a delivery thread. A drill that the pipeline allows
    /// is armed.
    ///
    /// # Errors
    /// [`PipelineError::Thread`] if the operating system refuses a thread.
    pub fn spawn(
        pipeline: Pipeline,
        seed: Option<u64>,
        feedback: Feedback,
        deliver: impl FnMut(Delivery<O::Fault>) + Send + 'static,
    ) -> Result<Self, PipelineError> {
        let shared = Arc::new(Shared {
            recorded_before: pipeline.recordings(),
            pipeline,
            seed,
            slot: Slot::default(),
            epoch: Epoch::default(),
            feedback: Mutex::new(feedback),
            sequence: AtomicU64::new(0),
            deliver: Mutex::new(Box::new(deliver)),
            watch: Arc::default(),
        });
        let thread = threads::start(&shared)?;
        shared.pipeline.drill().into_iter().for_each(Drill::arm);
        Ok(Self { shared, thread })
    }

    /// Starts the thread again after a panic has ended it; does nothing while it runs. Pipeline, feedback, epoch and the
    /// numbers of chunks are as they were. What was under way is not delivered; what waits in the slot is answered.
    ///
    /// # Errors
    /// [`PipelineError::Thread`] if the operating system refuses a thread; a later attempt may succeed.
    pub fn restart(&mut self) -> Result<(), PipelineError> {
        if self.is_running() {
            return Ok(());
        }
        let panic = self.shared.watch.forget_panic();
        match threads::start(&self.shared) {
            Ok(thread) => self.thread = thread,
            Err(error) => {
                panic.into_iter().for_each(|message| self.shared.watch.note_panic(message));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Offers an observation, and returns the one it replaces if no inference had begun on that.
    pub fn offer(&self, offer: O) -> Option<O> {
        let waiting = Waiting { offer, offered: Instant::now(), epoch: self.shared.epoch.present() };
        self.shared.slot.put(waiting).map(|replaced| replaced.offer)
    }

    /// Takes back the observation that no inference has begun on, if there is one.
    pub fn withdraw(&self) -> Option<O> {
        let withdrawn = self.shared.slot.take_back()?;
        self.shared.epoch.withdraw();
        Some(withdrawn.offer)
    }

    /// Begins a new epoch. Once this has returned, nothing that was offered before is delivered.
    pub fn begin_epoch(&self) {
        self.shared.epoch.advance();
    }

    /// Forgets the commands that the checkpoint would be fed as the robot's state.
    pub fn forget_commands(&self) {
        locked(&self.shared.feedback).reset();
    }

    /// Takes note that another number of a chunk's actions is executed from now on; `None` for all.
    pub fn set_execute_steps(&self, steps: Option<usize>) {
        locked(&self.shared.feedback).set_execute_steps(steps);
    }

    /// The number of observations and answers that were dropped because their epoch was over.
    pub fn withdrawn(&self) -> u64 {
        self.shared.epoch.withdrawn()
    }

    /// How many recordings its requests have waited for.
    pub fn recordings(&self) -> u64 {
        self.shared.pipeline.recordings().saturating_sub(self.shared.recorded_before)
    }

    /// The pipeline that it runs.
    pub fn pipeline(&self) -> &Pipeline {
        &self.shared.pipeline
    }

    /// What runs at present.
    pub fn runtime(&self) -> Arc<Runtime> {
        self.shared.pipeline.runtime()
    }

    /// When the oldest inference that is under way was begun, its decoding included and whatever its epoch; `None` if
    /// none is. It stays under way until it has been delivered.
    pub fn busy_since(&self) -> Option<Instant> {
        self.shared.watch.busy_since()
    }

    /// Whether nothing waits in the slot and nothing is under way or being delivered.
    pub fn is_idle(&self) -> bool {
        // In this order: what leaves the slot in between is under way by then.
        self.shared.slot.is_empty() && self.busy_since().is_none()
    }

    /// Whether the thread still runs. It ends when it is stopped or when an inference or its delivery panics.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// The message of the panic that has ended the thread; `None` while it runs or if it was stopped.
    pub fn panicked(&self) -> Option<String> {
        if self.is_running() { None } else { self.shared.watch.panic() }
    }

    /// What makes inferences fail on purpose; `None` if no drill is allowed.
    pub fn drill(&self) -> Option<&Drill> {
        self.shared.pipeline.drill()
    }

    /// Lets the thread end after its current inference, whose chunk is not delivered. A drill ends, so that it cannot keep
    /// that inference from ending.
    pub fn close(&self) {
        self.drill().into_iter().for_each(Drill::disarm);
        self.shared.epoch.advance();
        self.shared.slot.close();
    }

    /// Ends the thread after its current inference, whose chunk is not delivered. Returns `false` if that takes longer
    /// than `patience`; the thread is then left running.
    pub fn stop(self, patience: Duration) -> bool {
        self.close();
        let deadline = Instant::now() + patience;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(JOIN_POLL);
        }
        !self.is_running()
    }
}
