//! Replays a bag through the pipeline and the robot layer of the node, in recorded time.
//!
//! | what | file |
//! |---|---|
//! | which topics feed which inputs | [`feed`] |
//! | the moments at which messages arrive | [`timeline`] |
//! | what chunks tell of those moments | [`evidence`] |
//! | the passes over the bag, one per backend | [`passes`] |
//! | a node's turns in recorded time | [`pass`] |
//! | its inference thread in recorded time | [`simulation`] |
//! | its control in recorded time, and what that has commanded | [`playing`], [`played`], [`reasons`] |
//! | one observation and its answer | [`answer`] |
//! | what to replay, and how | [`plan`] |
//! | what the node would have published | [`recording`] |
//! | every answer as arrays | [`arrays`] |
//! | chunks and commands that were recorded live | [`comparison`], [`command_comparison`], [`difference`] |
//! | everything that was found, and as a page | [`report`], [`page`] |
//! | what was commanded, in numbers and on the page | [`played_report`], [`commands_page`] |
//! | faults of the bag | [`problems`] |

pub mod answer;
pub mod arrays;
pub mod command_comparison;
pub mod commands_page;
pub mod comparison;
pub mod difference;
pub mod evidence;
pub mod feed;
pub mod page;
pub mod pass;
pub mod passes;
pub mod plan;
pub mod played;
pub mod played_report;
pub mod playing;
pub mod problems;
pub mod reasons;
pub mod recording;
pub mod report;
pub mod simulation;
pub mod timeline;

pub use plan::{Clockwork, Latency, Plan};

use crate::data::bag::{At, Bag, Place};
use crate::data::messages::outputs::ActionChunk;
use crate::offline::OfflineError;
use crate::pipeline::{Folders, PipelineError, state_spec};
use crate::robot::deployment;
use crate::robot::model_facts::ModelFacts;
use crate::types::Stamp;
use command_comparison::LiveCommands;
use evidence::{Evidence, published};
use feed::{Content, Feed, Purpose};
use pass::{Findings, Kept};
use passes::Passes;
use problems::Problems;
use simulation::Recorded;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// The chunks that were published live, if they are compared, each with the moment of that.
    pub recorded: Vec<(Stamp, ActionChunk)>,
    /// The commands that were published live, if they are compared.
    pub commands: LiveCommands,
    /// What keeps the comparison from telling more.
    pub notes: Vec<String>,
    /// Why there are no passes of further backends.
    pub failure: Option<String>,
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
    /// Facts about the model; `None` where nothing is inferred.
    pub facts: Option<ModelFacts>,
}

/// Replays the bag of `plan` with each of its backends, until `stop` is set. `observe` is told of progress.
///
/// # Errors
/// A bag of which nothing can be read, or a checkpoint or backend that cannot be used. Anything else that is wrong with
/// the bag is in [`Replay::problems`].
pub fn replay(plan: &Plan, stop: &AtomicBool, observe: impl FnMut(Progress)) -> Result<Replay, OfflineError> {
    replay_keeping(plan, stop, observe, |_| Ok(()))
}

/// As [`replay`], and hands what the model saw at each moment of [`Plan::kept`] to `keep`.
///
/// # Errors
/// As [`replay`], and those of `keep`, which end the replay.
pub fn replay_keeping(
    plan: &Plan,
    stop: &AtomicBool,
    mut observe: impl FnMut(Progress),
    mut keep: impl FnMut(Kept) -> Result<(), OfflineError>,
) -> Result<Replay, OfflineError> {
    let bag = Bag::open(&plan.bag)?;
    let mut problems = Problems::default();
    bag.problems().iter().cloned().for_each(|problem| problems.add(problem));
    let state = state_spec(Folders::new(&plan.config.checkpoint, plan.config.adapter.as_deref()))
        .map_err(PipelineError::from)?;
    deployment::check_state(&plan.config, &state)?;
    let Chunks { recorded, commands, live, evidence, notes } =
        if plan.compares { chunks(plan, &bag, &mut problems, stop) } else { Chunks::default() };
    let passes = Passes { plan, bag: &bag, state: &state, live, evidence, stop };
    let (mut runs, mut failure): (Vec<Run>, _) = (Vec::new(), None);
    let backends: Vec<Option<&String>> =
        if plan.backends.is_empty() { vec![None] } else { plan.backends.iter().map(Some).collect() };
    for (index, backend) in backends.into_iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        // What is wrong with the bag is told once, although it is read for every backend.
        let mut of_pass = Problems::default();
        let told = if index == 0 { &mut problems } else { &mut of_pass };
        let recording = plan.recording.as_deref().filter(|_| index == 0);
        match passes.run(backend, recording, told, &mut observe, &mut keep) {
            Ok(run) => runs.push(run),
            Err(error) if runs.is_empty() => return Err(error),
            // What the backends before have found is not lost with it.
            Err(error) => {
                failure = Some(error.to_string());
                break;
            }
        }
    }
    Ok(Replay { runs, problems, recorded, commands, notes, failure, interrupted: stop.load(Ordering::Relaxed) })
}

/// What a bag says of a live node.
#[derive(Default)]
struct Chunks {
    recorded: Vec<(Stamp, ActionChunk)>,
    commands: LiveCommands,
    live: Recorded,
    evidence: Option<Evidence>,
    notes: Vec<String>,
}

/// Reads the chunks that a live node has published, and what else tells of its inferences.
fn chunks(plan: &Plan, bag: &Bag, problems: &mut Problems, stop: &AtomicBool) -> Chunks {
    let mut feed = Feed::new(bag, plan, Purpose::Outputs, problems);
    let (mut found, mut latencies) = (Chunks::default(), Vec::new());
    let live = &mut found.live;
    let mut reader = bag.read(|topic| feed.wants(topic));
    while let Some(message) = reader.next().filter(|_| !stop.load(Ordering::Relaxed)) {
        // What is wrong with the bag is told when its inputs are read.
        let Ok(message) = message else { continue };
        feed.read(&message, problems, |arrival| match arrival.content {
            Content::Chunk(chunk) => {
                let published = published(&chunk, arrival.received);
                live.chunks.entry(chunk.header.stamp).or_insert((chunk.seed, published));
                found.recorded.push((published, *chunk));
            }
            Content::Latency(latency) => latencies.push(*latency),
            Content::Command(command) => found.commands.push(*command, arrival.received),
            Content::Loaded(_) => live.ready = live.ready.or(arrival.received),
            _ => {}
        });
    }
    if found.recorded.is_empty() {
        let place = Place { file: plan.bag.as_path().into(), at: At::File };
        let topic = plan.names.resolve("~/action_chunk");
        problems.on(&topic, &place, "no chunk to compare with");
    }
    let mut seeds = live.chunks.values().map(|(seed, _)| *seed);
    live.seed = seeds.next().filter(|first| seeds.all(|seed| seed == *first));
    if latencies.is_empty() && !found.recorded.is_empty() {
        found.notes.push(
            "no ~/stage_latency is in the bag, so nothing corrects the order in which messages were recorded"
                .to_owned(),
        );
    }
    let by_receipt = plan.clockwork == Clockwork::Receive;
    found.evidence = by_receipt.then(|| Evidence::new(&plan.config, &found.recorded, &latencies));
    live.begun = found.evidence.iter().flat_map(Evidence::begun).collect();
    if let Some(first) = found.evidence.as_ref().and_then(|evidence| evidence.turns().next()) {
        // The node was ready by its first inference, and its pace counts from one that is known.
        let counts_from_first = plan.config.policy.rate_hz > 0.0 || live.ready.is_none_or(|ready| ready > first);
        live.ready = if counts_from_first { Some(first) } else { live.ready };
    }
    found
}
