//! Chunks that a node has published live, against those of the replay: which observations are the same, which are not and
//! why, and how far the actions are apart.

use super::answer::Answer;
use super::command_comparison::CommandComparison;
use super::difference::{ChannelDifference, Differences};
use crate::data::messages::outputs::ActionChunk;
use crate::robot::model_facts::ModelFacts;
use crate::types::Stamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a comparison has found.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Chunks in the part of the bag that was replayed.
    pub recorded: usize,
    /// Chunks of the replay.
    pub replayed: usize,
    /// Chunks on the same observation: the same stamps of every input, and the same instruction.
    pub same: usize,
    /// The share of the recorded chunks that have one on the same observation.
    pub same_share: f64,
    /// Chunks of the same observation whose actions could be compared.
    pub compared: usize,
    /// The difference of the actions on the same observations, by channel; empty if none could be compared.
    pub channels: Vec<ChannelDifference>,
    /// Every observation that was not chosen alike.
    pub differences: Vec<Difference>,
    /// The commands in the bag against the plans of the replay; `None` if there are none, or nothing was played.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commands: Option<CommandComparison>,
    /// What else a person should know before believing the numbers.
    pub notes: Vec<String>,
}

/// Chunks that were published live.
#[derive(Clone, Copy, Debug)]
pub struct Live<'c> {
    /// The chunks.
    pub chunks: &'c [&'c ActionChunk],
    /// The stamps of all frames in the bag, camera by camera, with the cameras' names.
    pub seen: &'c [(String, Vec<Stamp>)],
}

/// Answers of a replay, and the model that gave them.
#[derive(Clone, Copy, Debug)]
pub struct Replayed<'a> {
    /// The answers.
    pub answers: &'a [Answer],
    /// Facts about the model.
    pub facts: &'a ModelFacts,
    /// The domain.
    pub domain_id: i64,
}

/// An observation that was chosen by only one of them, or differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The moment that it stands for, ns.
    pub reference_ns: i64,
    /// Who chose it: `recording`, `replay` or `both`.
    pub chosen_by: &'static str,
    /// What is different, and why.
    pub why: String,
}

/// Compares chunks that were published `live` with those that were `replayed`. `notes` are known already.
pub fn compare(live: Live, replayed: Replayed, notes: Vec<String>) -> Comparison {
    let answers: BTreeMap<Stamp, &Answer> =
        replayed.answers.iter().map(|answer| (answer.chosen.reference, answer)).collect();
    let mut recorded: BTreeMap<Stamp, &ActionChunk> = BTreeMap::new();
    live.chunks.iter().for_each(|chunk| _ = recorded.entry(chunk.header.stamp).or_insert(*chunk));
    let mut differences = Vec::new();
    let mut pairs = Vec::new();
    for (reference, chunk) in &recorded {
        let found = match answers.get(reference) {
            Some(answer) => inputs_differ(chunk, answer).map(|why| ("both", why)),
            None => Some(("recording", why_not_replayed(*reference, chunk, &answers, live.seen))),
        };
        match found {
            Some((chosen_by, why)) => differences.push(Difference { reference_ns: reference.nanos, chosen_by, why }),
            None => pairs.extend(answers.get(reference).map(|answer| (*chunk, *answer))),
        }
    }
    for reference in answers.keys().filter(|reference| !recorded.contains_key(reference)) {
        let why = why_not_recorded(*reference, &recorded);
        differences.push(Difference { reference_ns: reference.nanos, chosen_by: "replay", why });
    }
    differences.sort_by_key(|difference| difference.reference_ns);
    let same = pairs.len();
    let (alike, others): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(chunk, answer)| is_alike(chunk, answer));
    let mut notes = notes;
    notes.extend(what_else(live.chunks, recorded.len(), &others, replayed));
    Comparison {
        recorded: live.chunks.len(),
        replayed: answers.len(),
        same,
        same_share: if live.chunks.is_empty() { 0.0 } else { same as f64 / live.chunks.len() as f64 },
        compared: alike.len(),
        channels: channels(&alike, &replayed.facts.action_names),
        differences,
        commands: None,
        notes,
    }
}

/// Whether the actions of both have as many numbers.
fn is_alike(chunk: &ActionChunk, answer: &Answer) -> bool {
    answer.inferred().is_some_and(|inferred| inferred.actions.data.len() == chunk.actions.len())
}

/// Reasons not to take the numbers for more than they are.
fn what_else(
    chunks: &[&ActionChunk],
    moments: usize,
    others: &[(&ActionChunk, &Answer)],
    replayed: Replayed,
) -> Vec<String> {
    let mut notes = Vec::new();
    if moments < chunks.len() {
        let count = chunks.len() - moments;
        notes
            .push(format!("{count} chunks stand for a moment that another one stands for too: of more than one node?"));
    }
    let count = |is_other: &dyn Fn(&&&ActionChunk) -> bool| chunks.iter().filter(is_other).count();
    let weights = replayed.facts.weights_sha256();
    match count(&|chunk| chunk.checkpoint_sha256 != weights) {
        0 => {}
        count => notes.push(format!("{count} chunks were made with other weights than those of the replay")),
    }
    match count(&|chunk| chunk.domain_id != replayed.domain_id) {
        0 => {}
        count => notes.push(format!("{count} chunks were made for another domain than {}", replayed.domain_id)),
    }
    let unlike = others.iter().filter_map(|(chunk, answer)| Some((chunk, answer.inferred()?))).next();
    if let Some((chunk, inferred)) = unlike {
        let shape = inferred.actions.shape.get(1..).unwrap_or_default();
        notes.push(format!(
            "the actions of {} chunks cannot be compared: [{}, {}] in the bag, {shape:?} in the replay",
            others.len(),
            chunk.chunk_length,
            chunk.action_dim
        ));
    }
    notes
}

/// What is different about two observations of the same moment.
fn inputs_differ(chunk: &ActionChunk, answer: &Answer) -> Option<String> {
    if chunk.instruction != answer.chosen.instruction {
        return Some(format!("the instruction was \"{}\" and is \"{}\"", chunk.instruction, answer.chosen.instruction));
    }
    if chunk.input_stamps.len() != answer.chosen.inputs.len() {
        let (live, now) = (chunk.input_stamps.len(), answer.chosen.inputs.len());
        return Some(format!("{live} inputs were used ({}), {now} are now", chunk.input_names.join(", ")));
    }
    let inputs = chunk.input_names.iter().zip(chunk.input_stamps.iter().zip(&answer.chosen.inputs));
    let different: Vec<String> = inputs
        .filter(|(_, (live, now))| live != now)
        .map(|(name, (live, now))| format!("{name} is {:+.3} ms from the one used live", now.ms_since(*live)))
        .collect();
    (!different.is_empty()).then(|| different.join(", "))
}

fn why_not_replayed(
    reference: Stamp,
    chunk: &ActionChunk,
    replayed: &BTreeMap<Stamp, &Answer>,
    seen: &[(String, Vec<Stamp>)],
) -> String {
    let inputs = || chunk.input_names.iter().zip(&chunk.input_stamps);
    let is_missing = |(name, stamp): &(&String, &Stamp)| {
        let camera = seen.iter().find(|(camera, _)| camera == *name);
        camera.is_some_and(|(_, stamps)| stamps.binary_search(stamp).is_err())
    };
    let missing: Vec<&str> = inputs().filter(is_missing).map(|(name, _)| name.as_str()).collect();
    if !missing.is_empty() {
        return format!("its frame of {} is not in the bag", missing.join(" and "));
    }
    let before = replayed.range(..reference).next_back();
    let after = replayed.range(reference..).next();
    match (before, after) {
        (Some((_, answer)), _) if answer.published > reference && answer.chosen.reference < reference => {
            let late_ms = answer.published.ms_since(reference);
            format!("the inference before lasts {late_ms:.1} ms beyond it in the replay")
        }
        (Some((moment, _)), Some((next, _))) => format!(
            "the replay chose the sets {:.1} ms before and {:.1} ms after it instead",
            reference.ms_since(*moment),
            next.ms_since(reference)
        ),
        (None, _) => "it lies before the first observation of the replay".to_owned(),
        (_, None) => "it lies after the last observation of the replay".to_owned(),
    }
}

fn why_not_recorded(reference: Stamp, recorded: &BTreeMap<Stamp, &ActionChunk>) -> String {
    let before = recorded.range(..reference).next_back().map(|(_, chunk)| chunk);
    let after = recorded.range(reference..).next().map(|(_, chunk)| chunk);
    match (before, after) {
        (None, _) => "no chunk from before it is in the bag".to_owned(),
        (_, None) => "no chunk from after it is in the bag".to_owned(),
        (Some(before), Some(after)) if after.sequence > before.sequence + 1 => {
            format!("chunk {} is missing in the bag: it failed, was withdrawn or was not recorded", before.sequence + 1)
        }
        (Some(_), Some(_)) => {
            "the node passed it over: it was busy, kept another pace, or received its frames in another order"
                .to_owned()
        }
    }
}

fn channels(pairs: &[(&ActionChunk, &Answer)], names: &[String]) -> Vec<ChannelDifference> {
    let mut differences = Differences::of(names.len());
    for (chunk, answer) in pairs {
        if let Some(inferred) = answer.inferred() {
            differences.note(&chunk.actions, &inferred.actions.data);
        }
    }
    differences.found(names)
}
