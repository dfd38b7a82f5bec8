//! Replays a bag through the pipeline and the robot layer of the node, in recorded time.
//!
//! | what | file |
//! |---|---|
//! | which topics feed which inputs | [`feed`] |
//! | the moments at which messages arrive | [`timeline`] |
//! | a node's turns in recorded time | [`pass`] |
//! | its inference thread in recorded time | [`simulation`] |
//! | one observation and its answer | [`answer`] |
//! | what to replay, and how | [`plan`] |
//! | what the node would have published | [`recording`] |
//! | every answer as arrays | [`arrays`] |
//! | chunks that were recorded live | [`comparison`] |
//! | everything that was found, and as a page | [`report`], [`page`] |
//! | faults of the bag | [`problems`] |

pub mod answer;
pub mod arrays;
pub mod comparison;
pub mod feed;
pub mod page;
pub mod pass;
pub mod plan;
pub mod problems;
pub mod recording;
pub mod report;
pub mod simulation;
pub mod timeline;

pub use plan::{Clockwork, Latency, Plan};

use crate::config::ProprioSource;
use crate::data::bag::Bag;
use crate::data::messages::outputs::ActionChunk;
use crate::offline::OfflineError;
use crate::pipeline::feedback::Feedback;
use crate::pipeline::latency::milliseconds;
use crate::pipeline::{Folders, Options, Pipeline, PipelineError, StateSpec, state_spec};
use crate::robot::deployment;
use crate::robot::inputs::Inputs;
use crate::types::Stamp;
use feed::{Content, Feed, Purpose};
use pass::{Findings, Pass};
use problems::Problems;
use recording::Recording;
use simulation::{Recorded, Simulation};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use timeline::Timeline;

/// How far a replay is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress<'a> {
    /// What is being done.
    pub what: &'a str,
    /// Bytes of the bag that have been read.
    pub done_bytes: u64,
    /// Bytes of the bag.
    pub total_bytes: u64,
}

/// What a replay has found.
#[derive(Clone, Debug)]
pub struct Replay {
    /// One per backend.
    pub runs: Vec<Run>,
    /// What is wrong with the bag.
    pub problems: Problems,
    /// The chunks that were published live, if they are compared.
    pub recorded: Vec<ActionChunk>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
}

/// The pass of one backend.
#[derive(Clone, Debug)]
pub struct Run {
    /// Its name; empty where nothing is inferred.
    pub backend: String,
    /// What was found.
    pub findings: Findings,
    /// How long the pass took, ms.
    pub wall_ms: f64,
    /// How much of that was spent on inferences, ms.
    pub inferring_ms: f64,
    /// Names of the channels of an action.
    pub action_names: Vec<String>,
}

/// Replays the bag of `plan` with each of its backends, until `stop` is set. `observe` is told of progress.
///
/// # Errors
/// A bag of which nothing can be read, or a checkpoint or backend that cannot be used. Anything else that is wrong with
/// the bag is in [`Replay::problems`].
pub fn replay(plan: &Plan, stop: &AtomicBool, mut observe: impl FnMut(Progress)) -> Result<Replay, OfflineError> {
    let bag = Bag::open(&plan.bag)?;
    let mut problems = Problems::default();
    bag.problems().iter().cloned().for_each(|problem| problems.add(problem));
    let state = state_spec(Folders::new(&plan.config.checkpoint, plan.config.adapter.as_deref()))
        .map_err(PipelineError::from)?;
    deployment::check_state(&plan.config, &state)?;
    let (recorded, live) = if plan.compares { chunks(plan, &bag, &mut problems) } else { Default::default() };
    let mut runs = Vec::new();
    let backends: Vec<Option<&String>> =
        if plan.backends.is_empty() { vec![None] } else { plan.backends.iter().map(Some).collect() };
    for (index, backend) in backends.into_iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // What is wrong with the bag is told once, although it is read for every backend.
        let mut of_pass = Problems::default();
        let told = if index == 0 { &mut problems } else { &mut of_pass };
        let recording = plan.recording.as_ref().filter(|_| index == 0);
        runs.push(run(plan, &bag, &state, (backend, recording), live.clone(), stop, told, &mut observe)?);
    }
    Ok(Replay { runs, problems, recorded, interrupted: stop.load(Ordering::Relaxed) })
}

/// The chunks that a live node has published, in the order of the bag, and what they say of its inferences.
fn chunks(plan: &Plan, bag: &Bag, problems: &mut Problems) -> (Vec<ActionChunk>, Recorded) {
    let mut feed = Feed::new(bag, plan, Purpose::Outputs, problems);
    let (mut chunks, mut recorded) = (Vec::new(), Recorded::default());
    let mut reader = bag.read(|topic| feed.wants(topic));
    while let Some(message) = reader.next() {
        // What is wrong with the bag is told when its inputs are read.
        let Ok(message) = message else { continue };
        let received = message.received;
        feed.read(&message, problems, |arrival| match arrival.content {
            Content::Chunk(chunk) => {
                recorded.chunks.insert(chunk.header.stamp, (chunk.seed, received));
                chunks.push(*chunk);
            }
            Content::Loaded(_) => recorded.ready = recorded.ready.or(Some(received)),
            _ => {}
        });
    }
    (chunks, recorded)
}

/// One pass over the bag.
#[expect(clippy::too_many_arguments, reason = "what a pass needs and nothing else")]
fn run(
    plan: &Plan,
    bag: &Bag,
    state: &StateSpec,
    (backend, recording): (Option<&String>, Option<&PathBuf>),
    live: Recorded,
    stop: &AtomicBool,
    problems: &mut Problems,
    observe: &mut impl FnMut(Progress),
) -> Result<Run, OfflineError> {
    let name = backend.cloned().unwrap_or_default();
    let total_bytes = bag.bytes();
    observe(Progress { what: "loading", done_bytes: 0, total_bytes });
    let load = |backend: &String| Pipeline::load(&Options { backend: backend.clone(), ..plan.options.clone() });
    let pipeline = backend.map(load).transpose()?;
    let facts = pipeline.as_ref().map(|pipeline| deployment::check(&plan.config, pipeline)).transpose()?;
    if let Some(pipeline) = &pipeline {
        deployment::rehearse(&plan.config, pipeline)?;
    }
    let mut inputs = Inputs::new(&plan.config);
    if plan.config.proprio.source == ProprioSource::Proprio {
        inputs.expect_state(state);
    }
    let feedback = Feedback::new(&plan.config, state.channels());
    let mut simulation = Simulation::new(pipeline.as_ref(), feedback, plan.latency, plan.seed, live);
    simulation.keep(plan.kept.clone());
    let recording = match (recording, &facts, &pipeline) {
        (Some(path), Some(facts), Some(pipeline)) => Some(Recording::create(path, plan, facts, pipeline)?),
        _ => None,
    };
    let mut pass = Pass::new(&plan.config, inputs, simulation, plan.sim_time, plan.from, recording);

    let started = Instant::now();
    let mut feed = Feed::new(bag, plan, Purpose::Inputs { sim_time: plan.sim_time }, problems);
    let mut timeline = Timeline::new(plan.clockwork);
    let mut first: Option<Stamp> = None;
    let mut reader = bag.read(|topic| feed.wants(topic));
    let what = if name.is_empty() { "choosing observations" } else { name.as_str() };
    'messages: loop {
        let next = reader.next();
        let has_ended = next.is_none();
        match next {
            Some(Ok(message)) => {
                feed.read(&message, problems, |arrival| timeline.push(arrival));
            }
            Some(Err(problem)) => problems.add(problem),
            None => {}
        }
        while let Some(due) = timeline.pop(has_ended) {
            let first = *first.get_or_insert(due.at);
            let since = Duration::from_nanos(u64::try_from(due.at.nanos.saturating_sub(first.nanos)).unwrap_or(0));
            if plan.to.is_some_and(|to| since > to) || stop.load(Ordering::Relaxed) {
                break 'messages;
            }
            if plan.as_recorded {
                sleep_until(started + since, stop);
            }
            let topic = due.arrival.topic;
            pass.take(due, problems, feed.name(topic))?;
            observe(Progress { what, done_bytes: reader.position_bytes(), total_bytes });
        }
        if has_ended {
            break;
        }
    }
    let findings = pass.finish(problems)?;
    let inferred = findings.answers.iter().filter_map(|answer| answer.inferred());
    Ok(Run {
        backend: name,
        // An empty sum of floats is negative zero.
        inferring_ms: inferred.map(|inferred| inferred.times.e2e_ms + inferred.decode_ms).sum::<f64>() + 0.0,
        findings,
        wall_ms: milliseconds(started.elapsed()),
        action_names: facts.map(|facts| facts.action_names).unwrap_or_default(),
    })
}

/// Sleeps until `moment`, or `stop` is set.
fn sleep_until(moment: Instant, stop: &AtomicBool) {
    const NAP: Duration = Duration::from_millis(50);
    while !stop.load(Ordering::Relaxed) {
        match moment.saturating_duration_since(Instant::now()) {
            Duration::ZERO => return,
            left => std::thread::sleep(left.min(NAP)),
        }
    }
}
