//! The inference thread. Callbacks put observations into a latest-wins slot and go on; a slow model therefore
//! skips observations instead of queueing them, and no observation is used twice.

use super::slot::LatestSlot;
use super::{Degraded, InFlight, Inference, Pipeline, noise};
use crate::pipeline::PipelineError;
use crate::types::Observation;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the thread is waited for between looks whether it has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// Whatever answers observations; [`Pipeline`] with its noise in production.
pub trait Infer: Send {
    /// Computes the chunk for one observation, or begins to.
    ///
    /// # Errors
    /// Whatever is wrong with the observation or the model.
    fn begin(&mut self, observation: &Observation) -> Result<Begun, PipelineError>;

    /// Whether the next observation may begin while the chunk for this one is still to come.
    fn overlaps(&self) -> bool {
        false
    }

    /// Why another backend runs than the one that was asked for, if so.
    fn degraded(&self) -> Option<Degraded> {
        None
    }
}

/// An inference that has begun.
pub enum Begun {
    /// And ended.
    Done(Box<Inference>),
    /// And is still to end.
    InFlight(Box<InFlight>),
}

impl Begun {
    /// Waits for its end.
    ///
    /// # Errors
    /// The device's failure, or actions that are not finite.
    pub fn wait(self) -> Result<Inference, PipelineError> {
        match self {
            Self::Done(inference) => Ok(*inference),
            Self::InFlight(flight) => flight.wait(),
        }
    }
}

/// A pipeline that draws noise by itself, for live use.
#[derive(Debug)]
pub struct Seeded {
    /// What runs.
    pub pipeline: Pipeline,
    /// The same noise for every chunk, or fresh noise for each.
    pub seed: Option<u64>,
}

impl Infer for Seeded {
    fn begin(&mut self, observation: &Observation) -> Result<Begun, PipelineError> {
        let noise = noise::draw(self.seed.unwrap_or_else(rand::random), &self.pipeline.noise_shape(1));
        if self.overlaps() {
            return Ok(Begun::InFlight(Box::new(self.pipeline.begin(observation, &noise)?)));
        }
        Ok(Begun::Done(Box::new(self.pipeline.infer(observation, &noise)?)))
    }

    fn overlaps(&self) -> bool {
        self.pipeline.overlaps()
    }

    fn degraded(&self) -> Option<Degraded> {
        self.pipeline.degraded().cloned()
    }
}

/// What became of one observation.
#[derive(Debug)]
pub struct Outcome {
    /// What the model was shown.
    pub observation: Observation,
    /// From the observation being offered to the start of inference.
    pub queued: Duration,
    /// The chunk, or why there is none.
    pub result: Result<Inference, PipelineError>,
    /// Why another backend ran than the one that was asked for, if so.
    pub degraded: Option<Degraded>,
}

/// An observation that the model has begun to answer.
struct Answering {
    observation: Observation,
    queued: Duration,
    begun: Result<Begun, PipelineError>,
    degraded: Option<Degraded>,
}

impl Answering {
    fn outcome(self) -> Outcome {
        let Self { observation, queued, begun, degraded } = self;
        Outcome { observation, queued, result: begun.and_then(Begun::wait), degraded }
    }
}

/// A running inference thread.
#[derive(Debug)]
pub struct Worker {
    slot: Arc<Slot>,
    thread: JoinHandle<()>,
}

type Slot = LatestSlot<(Observation, Instant)>;

impl Worker {
    /// Starts the thread; `deliver` is called with every outcome, on it or, for a model that overlaps, on one of its
    /// own.
    ///
    /// # Errors
    /// When the operating system refuses a thread.
    pub fn spawn(
        model: impl Infer + 'static,
        mut deliver: impl FnMut(Outcome) + Send + 'static,
    ) -> Result<Self, PipelineError> {
        let slot = Arc::new(Slot::default());
        let source = slot.clone();
        let thread = if model.overlaps() {
            // Without a queue: one inference is waited for, one more has begun, and no third begins.
            let (sender, receiver) = mpsc::sync_channel::<Answering>(0);
            let deliveries =
                thread("delivery", move || receiver.iter().for_each(|answering| deliver(answering.outcome())))?;
            thread("inference", move || {
                answer_all(model, &source, |answering| sender.send(answering).is_ok());
                drop(sender);
                // Whatever ended it there ends it here, so that the node notices.
                if let Err(panic) = deliveries.join() {
                    std::panic::resume_unwind(panic);
                }
            })?
        } else {
            thread("inference", move || {
                answer_all(model, &source, |answering| {
                    deliver(answering.outcome());
                    true
                });
            })?
        };
        Ok(Self { slot, thread })
    }

    /// Offers an observation; whether it replaced one that was never looked at.
    pub fn offer(&self, observation: Observation) -> bool {
        self.slot.put((observation, Instant::now())).is_some()
    }

    /// Whether the thread still runs (it ends when stopped, or if the model panics).
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends the thread after the inference it is in; `false` if that took longer than `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        self.slot.close();
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(JOIN_POLL);
        }
        self.thread.is_finished()
    }
}

/// Begins to answer one observation after the other and passes each on, until the slot is closed or nobody takes them.
fn answer_all(mut model: impl Infer, source: &Slot, mut pass_on: impl FnMut(Answering) -> bool) {
    while let Some((observation, offered)) = source.take() {
        let queued = offered.elapsed();
        let begun = model.begin(&observation);
        if !pass_on(Answering { observation, queued, begun, degraded: model.degraded() }) {
            return;
        }
    }
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, PipelineError> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(PipelineError::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::BackendError;
    use crate::backend::stream::{Finished, Pending};
    use crate::model::vlm::VlmTokens;
    use crate::types::Stamp;
    use std::sync::Mutex;
    use tch::{Device, Kind, Tensor};

    /// Ends when it is told to.
    struct Gate(mpsc::Receiver<()>);

    impl Pending for Gate {
        fn wait(self: Box<Self>) -> Result<Finished, BackendError> {
            let _ = self.0.recv_timeout(Duration::from_secs(10));
            Err(BackendError::Capture("of no interest here".to_owned()))
        }
    }

    /// A model whose inferences end one by one, when the test says so.
    struct Gated {
        gates: Vec<mpsc::Receiver<()>>,
        begun: mpsc::Sender<i64>,
    }

    impl Infer for Gated {
        fn begin(&mut self, observation: &Observation) -> Result<Begun, PipelineError> {
            let _ = self.begun.send(observation.stamp.nanos);
            let nothing = || Tensor::zeros([0], (Kind::Float, Device::Cpu));
            let tokens = VlmTokens { vlm_features: nothing(), aux_visual_inputs: nothing() };
            Ok(Begun::InFlight(Box::new(InFlight::for_test(Box::new(Gate(self.gates.remove(0))), tokens))))
        }

        fn overlaps(&self) -> bool {
            true
        }
    }

    fn observation(number: i64) -> Observation {
        let views = Vec::new();
        Observation {
            views,
            instruction: String::new(),
            proprio: Vec::new(),
            domain_id: 0,
            stamp: Stamp { nanos: number },
        }
    }

    #[test]
    fn the_second_observation_begins_before_the_first_is_answered_and_answers_keep_their_order() {
        let (open, gates): (Vec<_>, Vec<_>) = (0..3).map(|_| mpsc::channel()).unzip();
        let (begun, beginnings) = mpsc::channel();
        let delivered = Arc::new(Mutex::new(Vec::new()));
        let (log, (told, deliveries)) = (delivered.clone(), mpsc::channel());
        let worker = Worker::spawn(Gated { gates, begun }, move |outcome| {
            log.lock().unwrap().push(outcome.observation.stamp.nanos);
            let _ = told.send(());
        })
        .unwrap();

        let patience = Duration::from_secs(10);
        for number in [1, 2] {
            worker.offer(observation(number));
            assert_eq!(beginnings.recv_timeout(patience), Ok(number));
        }
        assert!(delivered.lock().unwrap().is_empty(), "neither has ended yet");
        worker.offer(observation(3));
        assert!(beginnings.recv_timeout(Duration::from_millis(50)).is_err(), "two in flight are enough");
        for gate in &open {
            gate.send(()).unwrap();
            deliveries.recv_timeout(patience).unwrap();
        }
        assert_eq!(*delivered.lock().unwrap(), [1, 2, 3]);
        assert!(worker.stop(patience));
    }
}
