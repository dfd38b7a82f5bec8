//! The inference thread of a node in recorded time: it takes what is offered, is busy for as long as the inference lasts,
//! and then has an answer. Only the newest offer waits, as in a node.

use super::answer::Chosen;
use super::plan::Latency;
use crate::pipeline::feedback::Feedback;
use crate::pipeline::worker::{Delivery, Offer, Outcome};
use crate::pipeline::{InFlight, Noise, Pipeline, Request};
use crate::robot::control::SharedControl;
use crate::robot::policy_loop::Policy;
use crate::robot::selection::{Selection, Undecodable};
use crate::types::{Observation, Stamp};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The time within which a node that began on another observation did not begin on this one, ns.
const SOON_NS: i64 = 25_000_000;

/// What a recording says of the inferences that were made live, by the moment that their observations stand for.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// The seed of the noise, and when the chunk was published.
    pub chunks: BTreeMap<Stamp, (u64, Stamp)>,
    /// The seed of all of them, if they have one in common.
    pub seed: Option<u64>,
    /// When inferences began.
    pub begun: BTreeSet<Stamp>,
    /// When the node was ready.
    pub ready: Option<Stamp>,
}

impl Recorded {
    /// Whether the node did not begin on `selection`, because it began on another one in a moment.
    fn passed_over(&self, selection: &Selection, now: Stamp) -> bool {
        let soon = Stamp { nanos: now.nanos.saturating_add(SOON_NS) };
        !self.chunks.contains_key(&selection.reference()) && self.begun.range(now..soon).next().is_some()
    }
}

/// What answers observations in recorded time.
pub struct Simulation<'p> {
    /// `None` selects observations and answers none.
    pipeline: Option<&'p Pipeline>,
    feedback: Feedback,
    latency: Latency,
    seed: u64,
    recorded: Recorded,
    /// What plays the plans; `None` where chunks are only published.
    control: Option<SharedControl>,
    /// The inferences of which the observation is kept, by their number.
    kept: BTreeSet<u64>,
    now: Stamp,
    /// ROS time at the present.
    ros_now: Stamp,
    slot: Option<Waiting>,
    under_way: VecDeque<UnderWay>,
    /// Inferences that may have begun at a time.
    depth: usize,
    epoch: u64,
    /// The number of inferences that were begun.
    begun: u64,
    sequence: u64,
    counts: Counts,
}

/// What became of offers that were not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Replaced by newer ones before an inference began.
    pub superseded: u64,
    /// Made void by a stop, a jump of time or a new instruction.
    pub withdrawn: u64,
}

struct Waiting {
    selection: Selection,
    offered: Stamp,
}

struct UnderWay {
    number: u64,
    /// When it began, in recorded time.
    since: Stamp,
    ends: Stamp,
    /// When it began, in ROS time.
    began: Stamp,
    epoch: u64,
    chosen: Chosen,
    observation: Option<Arc<Observation>>,
    delivery: Option<Delivery<Undecodable>>,
}

/// An offer that has been answered, or could not be.
pub struct Ended {
    /// Counts the inferences that were begun, from 0.
    pub number: u64,
    /// When its inference began, in ROS time.
    pub began: Stamp,
    /// What was offered.
    pub chosen: Chosen,
    /// What the model saw, if that is kept.
    pub observation: Option<Arc<Observation>>,
    /// What came of it; `None` where no inference is made.
    pub delivery: Option<Delivery<Undecodable>>,
}

impl<'p> Simulation<'p> {
    /// A thread that is ready. `seed` is that of all noise that the recording says nothing of.
    pub fn new(
        pipeline: Option<&'p Pipeline>,
        feedback: Feedback,
        latency: Latency,
        seed: u64,
        recorded: Recorded,
    ) -> Self {
        Self {
            pipeline,
            feedback,
            latency,
            seed,
            recorded,
            control: None,
            kept: BTreeSet::new(),
            now: Stamp::default(),
            ros_now: Stamp::default(),
            slot: None,
            under_way: VecDeque::new(),
            depth: if pipeline.is_some_and(Pipeline::overlaps) { 2 } else { 1 },
            epoch: 0,
            begun: 0,
            sequence: 0,
            counts: Counts::default(),
        }
    }

    /// Sets the present in recorded time, at which whatever is offered next is offered, and ROS time at that moment.
    pub fn set_now(&mut self, now: Stamp, ros_now: Stamp) {
        (self.now, self.ros_now) = (now, ros_now);
    }

    /// Keeps the observations of the inferences with these numbers.
    pub fn keep(&mut self, numbers: BTreeSet<u64>) {
        self.kept = numbers;
    }

    /// Infers only when `control` wants a plan, and makes those of an epoch that is over count for nothing there as well.
    pub fn plan_for(&mut self, control: SharedControl) {
        self.control = Some(control);
    }

    /// Since when an inference is under way, in recorded time, if one is. It counts even if its answer will not.
    pub fn busy_since(&self) -> Option<Stamp> {
        self.under_way.front().map(|first| first.since)
    }

    /// What became of the configured backend, if it is lost.
    pub fn lost_backend(&self) -> Option<String> {
        self.pipeline?.runtime().degraded.as_ref().map(ToString::to_string)
    }

    /// Lets no inference begin before `moment`.
    pub fn wait_until(&mut self, moment: Stamp) {
        self.recorded.ready = self.recorded.ready.max(Some(moment));
    }

    /// When the next inference ends, if one is under way.
    pub fn next_end(&self) -> Option<Stamp> {
        self.under_way.front().map(|first| first.ends)
    }

    /// Ends the inference that ends next, if it does so by now. `None` as well for one that counts for nothing.
    pub fn end_next(&mut self) -> Option<Ended> {
        if self.under_way.front()?.ends > self.now {
            return None;
        }
        let first = self.under_way.pop_front()?;
        let is_void = first.epoch != self.epoch;
        if is_void {
            self.counts.withdrawn += 1;
        } else if let Some(Delivery::Outcome(outcome)) = &first.delivery
            && let Ok(inference) = &outcome.result
        {
            self.feedback.answered(outcome.observation.reference(), &inference.chunk.actions);
        }
        self.begin_next();
        let UnderWay { number, began, chosen, observation, delivery, .. } = first;
        (!is_void).then_some(Ended { number, began, chosen, observation, delivery })
    }

    /// What became of offers that were not answered.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn begin_next(&mut self) {
        if self.under_way.len() >= self.depth {
            return;
        }
        let may_begin = |waiting: &mut Waiting| !self.recorded.passed_over(&waiting.selection, self.now);
        let Some(Waiting { selection, offered }) = self.slot.take_if(may_begin) else { return };
        let (chosen, wall) = (Chosen::from(&selection), Instant::now());
        let waited = Duration::from_nanos(self.now.nanos.abs_diff(offered.nanos));
        let number = self.begun;
        self.begun += 1;
        let is_kept = self.kept.contains(&number);
        let (observation, delivery) = match self.pipeline {
            Some(pipeline) => {
                let delivery = self.answer(pipeline, selection, waited);
                let observation = match &delivery {
                    Delivery::Outcome(outcome) => Some(outcome.observation.clone()),
                    Delivery::Rejected(_) => None,
                };
                (observation, Some(delivery))
            }
            // What is not needed is not decoded.
            None if !is_kept => (None, None),
            None => match self.observe(selection) {
                Ok((observation, _)) => (Some(Arc::new(observation)), None),
                Err(fault) => (None, Some(Delivery::Rejected(fault))),
            },
        };
        let observation = observation.filter(|_| is_kept);
        let is_rejected = matches!(delivery, Some(Delivery::Rejected(_)));
        let took = match (self.recorded.chunks.get(&chosen.reference), self.latency) {
            (Some((_, published)), _) => {
                Duration::from_nanos((published.nanos - self.now.nanos).try_into().unwrap_or(0))
            }
            // An image that cannot be decoded costs no inference.
            (None, Latency::Fixed(_)) if is_rejected => Duration::ZERO,
            (None, Latency::Fixed(duration)) => duration,
            (None, Latency::Measured) => wall.elapsed(),
        };
        let ends = after(self.now, took).max(self.under_way.back().map_or(self.now, |last| last.ends));
        self.under_way.push_back(UnderWay {
            number,
            since: self.now,
            ends,
            began: self.ros_now,
            epoch: self.epoch,
            chosen,
            observation,
            delivery,
        });
    }

    fn observe(&mut self, selection: Selection) -> Result<(Observation, Vec<f32>), Undecodable> {
        let mut observation = selection.decode()?;
        let measured = self.feedback.fill(&mut observation);
        Ok((observation, measured))
    }

    fn answer(&mut self, pipeline: &Pipeline, selection: Selection, queued: Duration) -> Delivery<Undecodable> {
        let decoding = Instant::now();
        let (observation, measured) = match self.observe(selection) {
            Ok(observed) => observed,
            Err(fault) => return Delivery::Rejected(fault),
        };
        let (observation, decoded) = (Arc::new(observation), decoding.elapsed());
        let recorded = self.recorded.chunks.get(&observation.reference()).map(|(seed, _)| *seed);
        let seed = recorded.or(self.recorded.seed).unwrap_or(self.seed);
        let request = Request { sequence: self.sequence, ..Request::new(observation.clone(), Noise::Seed(seed)) };
        self.sequence += 1;
        let result = pipeline.begin(request).and_then(InFlight::wait);
        Delivery::Outcome(Box::new(Outcome { observation, measured, queued, decoded, result }))
    }
}

impl Policy for Simulation<'_> {
    fn is_ready(&self) -> bool {
        self.recorded.ready.is_none_or(|ready| self.now >= ready)
    }

    fn offer(&mut self, selection: Selection) -> Option<Selection> {
        let is_recorded = |selection: &Selection| self.recorded.chunks.contains_key(&selection.reference());
        if self.slot.as_ref().is_some_and(|waiting| is_recorded(&waiting.selection)) && !is_recorded(&selection) {
            // The node has answered the one that waits, so it began that before this one came.
            self.counts.superseded += 1;
            return Some(selection);
        }
        let replaced = self.slot.replace(Waiting { selection, offered: self.now });
        self.counts.superseded += u64::from(replaced.is_some());
        self.begin_next();
        replaced.map(|replaced| replaced.selection)
    }

    fn begin_epoch(&mut self) -> Option<Selection> {
        self.epoch += 1;
        if let Some(control) = &self.control {
            control.lock().begin_epoch();
        }
        let withdrawn = self.slot.take()?;
        self.counts.withdrawn += 1;
        Some(withdrawn.selection)
    }

    fn forget_commands(&mut self) {
        self.feedback.reset();
    }

    fn wants_plan(&self, now: Stamp) -> bool {
        // What waits while nothing is under way is what the node has passed over.
        let is_idle = self.under_way.is_empty();
        // Where chunks are only published, the newest observation waits for its turn.
        self.control.as_ref().is_none_or(|control| is_idle && control.lock().wants_plan(now))
    }
}

fn after(stamp: Stamp, span: Duration) -> Stamp {
    Stamp { nanos: stamp.nanos.saturating_add(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)) }
}
