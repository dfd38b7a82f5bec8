//! The threads of a worker. One takes offers from the slot and begins an inference for each. The same one, or a second
//! one if the pipeline overlaps, waits for the inferences and delivers what they led to.
//!
//! A panic of either ends both, and neither delivers anything after it.

use super::watch::{UnderWay, Watch};
use super::{Delivery, Offer, Outcome, Shared, Waiting, locked};
use crate::pipeline::{InFlight, Noise, PipelineError, Request};
use crate::types::Observation;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// An offer whose inference has begun or could not begin.
struct Begun<F> {
    step: Step<F>,
    epoch: u64,
    under_way: UnderWay,
}

enum Step<F> {
    InFlight {
        observation: Arc<Observation>,
        measured: Vec<f32>,
        queued: Duration,
        decoded: Duration,
        in_flight: Box<Result<InFlight, PipelineError>>,
    },
    Rejected(F),
}

/// Starts the threads, and returns the one that ends last.
///
/// # Errors
/// [`PipelineError::Thread`] if the operating system refuses a thread.
pub(super) fn start<O: Offer>(shared: &Arc<Shared<O>>) -> Result<JoinHandle<()>, PipelineError> {
    let shared = shared.clone();
    if shared.pipeline.overlaps() {
        return start_overlapping(shared);
    }
    thread("inference", move || {
        shared.watched(|| {
            shared.begin_each(|begun| {
                shared.finish(begun);
                true
            });
        });
    })
}

fn start_overlapping<O: Offer>(shared: Arc<Shared<O>>) -> Result<JoinHandle<()>, PipelineError> {
    // The channel has no buffer, so at most two inferences have begun: one is waited for and the next is on its way into
    // the channel.
    let (sender, receiver) = mpsc::sync_channel::<Begun<O::Fault>>(0);
    let delivering = shared.clone();
    let deliveries = thread("delivery", move || {
        delivering.watched(|| receiver.iter().for_each(|begun| delivering.finish(begun)));
    })?;
    thread("inference", move || {
        shared.watched(|| shared.begin_each(|begun| sender.send(begun).is_ok()));
        drop(sender);
        // Its panics are noted by then, so this has nothing to add.
        let _ = deliveries.join();
    })
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, PipelineError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(PipelineError::Thread)
}

/// The message of a panic, in one line.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.map_or_else(|| "no message".to_owned(), |text| text.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl<O: Offer> Shared<O> {
    /// Runs what a thread does until it ends or panics. What is shared is behind locks, and a value that a panic has
    /// interrupted is still a value.
    fn watched(&self, body: impl FnOnce()) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            self.watch.note_panic(message(panic.as_ref()));
            // The other thread may be waiting for an offer, and the worker waits for both.
            self.slot.wake();
        }
    }

    /// Passes every inference that has begun to `pass_on`, until the slot is closed, a thread has panicked or `pass_on`
    /// returns `false`.
    fn begin_each(&self, mut pass_on: impl FnMut(Begun<O::Fault>) -> bool) {
        let goes_on = || !self.watch.has_panicked();
        while let Some((waiting, under_way)) = self.slot.take_marked(goes_on, || Watch::begin(&self.watch)) {
            let Waiting { offer, offered, epoch } = waiting;
            if epoch != self.epoch.present() {
                self.epoch.withdraw();
                continue;
            }
            let step = self.begin(offer, offered);
            if !pass_on(Begun { step, epoch, under_way }) {
                return;
            }
        }
    }

    fn begin(&self, offer: O, offered: Instant) -> Step<O::Fault> {
        let (queued, decoding) = (offered.elapsed(), Instant::now());
        let mut observation = match offer.decode() {
            Ok(observation) => observation,
            Err(fault) => return Step::Rejected(fault),
        };
        let measured = locked(&self.feedback).fill(&mut observation);
        let observation = Arc::new(observation);
        let decoded = decoding.elapsed();
        let noise = Noise::Seed(self.seed.unwrap_or_else(rand::random));
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let request = Request { sequence, ..Request::new(observation.clone(), noise) };
        let in_flight = Box::new(self.pipeline.begin(request));
        Step::InFlight { observation, measured, queued, decoded, in_flight }
    }

    /// Waits for an inference and delivers what it led to, unless its epoch is over or a thread has panicked.
    fn finish(&self, begun: Begun<O::Fault>) {
        let Begun { step, epoch, under_way: _until_delivered } = begun;
        let delivery = match step {
            Step::Rejected(fault) => Delivery::Rejected(fault),
            Step::InFlight { observation, measured, queued, decoded, in_flight } => {
                let result = in_flight.and_then(InFlight::wait);
                Delivery::Outcome(Box::new(Outcome { observation, measured, queued, decoded, result }))
            }
        };
        if self.watch.has_panicked() {
            return;
        }
        self.epoch.deliver(epoch, || {
            if let Delivery::Outcome(outcome) = &delivery
                && let Ok(inference) = &outcome.result
            {
                locked(&self.feedback).answered(outcome.observation.reference(), &inference.chunk.actions);
            }
            locked(&self.deliver)(delivery);
        });
    }
}
