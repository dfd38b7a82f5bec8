//! Chunks that a node has published live, against those of the replay: which observations are the same, which are not and
//! why, and how far the actions are apart.

use super::answer::Answer;
use crate::data::messages::outputs::ActionChunk;
use crate::types::Stamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// What a comparison has found.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Chunks in the bag.
    pub recorded: usize,
    /// Chunks of the replay.
    pub replayed: usize,
    /// Chunks on the same observation: the same stamps of every input, and the same instruction.
    pub same: usize,
    /// The share of the recorded chunks that have one on the same observation.
    pub same_share: f64,
    /// The difference of the actions on the same observations, by channel.
    pub channels: Vec<ChannelDifference>,
    /// Every observation that was not chosen alike.
    pub differences: Vec<Difference>,
}

/// How far a channel of the actions is apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChannelDifference {
    /// The channel.
    pub name: String,
    /// The largest difference.
    pub max_abs: f32,
    /// The mean of the differences.
    pub mean_abs: f64,
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

/// Compares the `recorded` chunks with the `answers` of a replay. `seen` are the stamps of all frames in the bag, camera by
/// camera, with the cameras' names.
pub fn compare(
    recorded: &[ActionChunk],
    answers: &[Answer],
    names: &[String],
    seen: &[(String, Vec<Stamp>)],
) -> Comparison {
    let replayed: BTreeMap<Stamp, &Answer> = answers.iter().map(|answer| (answer.chosen.reference, answer)).collect();
    let of_recording: BTreeMap<Stamp, &ActionChunk> =
        recorded.iter().map(|chunk| (chunk.header.stamp, chunk)).collect();
    let mut differences = Vec::new();
    let mut pairs = Vec::new();
    for (reference, chunk) in &of_recording {
        let found = match replayed.get(reference) {
            Some(answer) => inputs_differ(chunk, answer).map(|why| ("both", why)),
            None => Some(("recording", why_not_replayed(*reference, chunk, &replayed, seen))),
        };
        match found {
            Some((chosen_by, why)) => differences.push(Difference { reference_ns: reference.nanos, chosen_by, why }),
            None => pairs.extend(replayed.get(reference).map(|answer| (*chunk, *answer))),
        }
    }
    for reference in replayed.keys().filter(|reference| !of_recording.contains_key(reference)) {
        let why = why_not_recorded(*reference, &of_recording);
        differences.push(Difference { reference_ns: reference.nanos, chosen_by: "replay", why });
    }
    differences.sort_by_key(|difference| difference.reference_ns);
    Comparison {
        recorded: of_recording.len(),
        replayed: replayed.len(),
        same: pairs.len(),
        same_share: if of_recording.is_empty() { 0.0 } else { pairs.len() as f64 / of_recording.len() as f64 },
        channels: channels(&pairs, names),
        differences,
    }
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
            "the replay chose the sets {:.1} ms before and {:.1} ms after it: its frames came together too late for one of \
             its own",
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
        (None, _) => "the bag holds no chunk from before: the node was not ready yet, or not recorded".to_owned(),
        (_, None) => "the bag holds no chunk from after: the node or the recording had ended".to_owned(),
        (Some(before), Some(after)) if after.sequence > before.sequence + 1 => {
            format!("chunk {} is missing in the bag: it failed, was withdrawn or was not recorded", before.sequence + 1)
        }
        (Some(_), Some(_)) => "the node passed it over: it was busy, or its frames came in another order".to_owned(),
    }
}

fn channels(pairs: &[(&ActionChunk, &Answer)], names: &[String]) -> Vec<ChannelDifference> {
    let width = names.len();
    let mut found: Vec<(f32, f64, u64)> = vec![(0.0, 0.0, 0); width];
    for (chunk, answer) in pairs {
        let Some(inferred) = answer.inferred() else { continue };
        if chunk.actions.len() != inferred.actions.data.len() {
            continue;
        }
        for (index, (live, now)) in chunk.actions.iter().zip(&inferred.actions.data).enumerate() {
            let Some((max, sum, count)) = found.get_mut(index % width.max(1)) else { continue };
            let apart = (live - now).abs();
            (*max, *sum, *count) = (max.max(apart), *sum + f64::from(apart), *count + 1);
        }
    }
    let named = names.iter().zip(found);
    named
        .map(|(name, (max_abs, sum, count))| ChannelDifference {
            name: name.clone(),
            max_abs,
            mean_abs: if count == 0 { 0.0 } else { sum / count as f64 },
        })
        .collect()
}
