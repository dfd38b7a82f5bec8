//! Everything that a replay has found; [`serde::Serialize`] gives its JSON.

use super::answer::{Answer, Inferred};
use super::command_comparison::compare_commands;
use super::comparison::{Comparison, Live, Replayed, compare};
use super::evidence::Moved;
use super::pass::CameraCounts;
use super::plan::{Clockwork, Latency};
use super::played_report::PlayedReport;
use super::{Plan, Replay, Run};
use crate::data::bag::BagError;
use crate::offline::machine::{Machine, Versions};
use crate::offline::report::Stages;
use crate::pipeline::latency::{Summary, milliseconds};
use crate::types::{HostArray, Stamp};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What a replay has found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The bag.
    pub bag: PathBuf,
    /// Whether the replay was stopped before its end, so that this is a part.
    pub interrupted: bool,
    /// Why there are no runs of further backends.
    pub failure: Option<String>,
    /// What is wrong with the bag, one line per kind of fault and topic.
    pub problems: Vec<String>,
    /// How it was replayed.
    pub configuration: Configuration,
    /// One entry per backend.
    pub runs: Vec<RunReport>,
    /// The chunks in the bag against those of the first backend, if that was asked for.
    pub comparison: Option<Comparison>,
    /// The hardware and operating system that it ran on.
    pub machine: Machine,
    /// The versions of this program and of libtorch.
    pub versions: Versions,
}

/// How a bag was replayed.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// Checkpoint folder.
    pub checkpoint: PathBuf,
    /// Where the network ran.
    pub device: String,
    /// The precision it computed in.
    pub dtype: &'static str,
    /// The times of the bag that were the present: `receive` or `header`.
    pub timeline: &'static str,
    /// How long an inference took in recorded time, ms; `None` for as long as it took.
    pub latency_ms: Option<f64>,
    /// The seed of the noise.
    pub seed: u64,
    /// Whether seeds and durations of the chunks in the bag counted instead, as far as they are known.
    pub as_recorded: bool,
}

/// What one backend made of the bag.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// Its name; empty where observations were only chosen.
    pub backend: String,
    /// ROS time when it was known first, ns.
    pub start_ns: i64,
    /// Recorded time, seconds.
    pub recorded_s: f64,
    /// Messages that were read.
    pub messages: u64,
    /// Observations on which an inference began.
    pub observations: usize,
    /// Chunks that would have been published.
    pub chunks: usize,
    /// Inferences that failed.
    pub failed: usize,
    /// Observations that newer ones replaced before an inference began.
    pub superseded: u64,
    /// Messages that were taken at another moment than that of their record, because chunks tell when the node had them.
    pub moved: Moved,
    /// Observations and answers that a stop, a jump of time or a new instruction made void.
    pub withdrawn: u64,
    /// Summaries of the stages, ms; `None` without chunks.
    pub stages: Option<Stages>,
    /// The time that observations waited for the inference before, in recorded time, ms.
    pub queue_ms: Option<Summary>,
    /// The age of the oldest input when its chunk was published, ms.
    pub observation_age_ms: Option<Summary>,
    /// The difference between the stamps of an observation's frames, ms.
    pub skew_ms: Option<Summary>,
    /// What became of each camera's frames.
    pub cameras: Vec<CameraCounts>,
    /// How often ROS time jumped.
    pub time_jumps: u64,
    /// When the inputs became good or bad.
    pub health: Vec<HealthChange>,
    /// How long the pass took, seconds.
    pub wall_s: f64,
    /// How much of that was inference, seconds.
    pub inferring_s: f64,
    /// Recorded time over the time of the pass without inferences.
    pub speed_without_inference: f64,
    /// max |Δ| of the actions against the first backend, on the same observations.
    pub max_abs_delta: Option<f32>,
    /// Names of the channels of an action.
    pub action_names: Vec<String>,
    /// What was commanded; `None` where chunks are only published.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub played: Option<PlayedReport>,
    /// Every answer.
    pub answers: Vec<AnswerReport>,
    /// The counts of the cameras, once a second.
    pub seconds: Vec<Second>,
}

/// A change of the inputs' health.
#[derive(Clone, Debug, Serialize)]
pub struct HealthChange {
    /// When, seconds after the first moment.
    pub at_s: f64,
    /// The severity.
    pub level: String,
    /// Whether the policy may act.
    pub may_act: bool,
    /// The reason.
    pub reason: String,
}

/// The counts of the cameras at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct Second {
    /// When, seconds after the first moment.
    pub at_s: f64,
    /// The counts until then.
    pub cameras: Vec<CameraCounts>,
}

/// One answer.
#[derive(Clone, Debug, Serialize)]
pub struct AnswerReport {
    /// When its chunk was published, seconds after the first moment.
    pub at_s: f64,
    /// The moment that its observation stands for, ns.
    pub reference_ns: i64,
    /// When its inference began, ns.
    pub began_ns: i64,
    /// When its chunk was published, ns.
    pub published_ns: i64,
    /// The age of its oldest input then, ms.
    pub age_ms: f64,
    /// The difference between the stamps of its frames, ms.
    pub skew_ms: f64,
    /// How long decoding and inference took on this machine, ms; `None` without an inference.
    pub e2e_ms: Option<f64>,
    /// The first action of its chunk; empty without one.
    pub first_action: Vec<f32>,
    /// Why there is no chunk.
    pub failure: Option<String>,
}

impl Report {
    /// Summarises `replay`, which followed `plan`.
    pub fn new(plan: &Plan, replay: &Replay) -> Self {
        let first = replay.runs.first();
        let comparison = first.filter(|_| plan.compares).and_then(|run| comparison(plan, replay, run));
        Self {
            interrupted: replay.interrupted,
            failure: replay.failure.clone(),
            problems: replay.problems.faults().iter().map(ToString::to_string).collect(),
            runs: replay.runs.iter().map(|run| RunReport::new(run, first)).collect(),
            comparison,
            ..Self::of_nothing(plan)
        }
    }

    /// The report about a bag of which nothing can be read, because of `error`.
    pub fn of_unreadable(plan: &Plan, error: &BagError) -> Self {
        Self { problems: vec![error.to_string()], ..Self::of_nothing(plan) }
    }

    fn of_nothing(plan: &Plan) -> Self {
        Self {
            bag: plan.bag.clone(),
            interrupted: false,
            failure: None,
            problems: Vec::new(),
            configuration: Configuration::of(plan),
            runs: Vec::new(),
            comparison: None,
            machine: Machine::read(),
            versions: Versions::read(),
        }
    }
}

impl Configuration {
    fn of(plan: &Plan) -> Self {
        Self {
            checkpoint: plan.config.checkpoint.clone(),
            device: plan.options.device.to_string(),
            dtype: plan.options.dtype.name(),
            timeline: match plan.clockwork {
                Clockwork::Receive => "receive",
                Clockwork::Header => "header",
            },
            latency_ms: match plan.latency {
                Latency::Fixed(latency) => Some(milliseconds(latency)),
                Latency::Measured => None,
            },
            seed: plan.seed,
            as_recorded: plan.compares,
        }
    }
}

impl RunReport {
    fn new(run: &Run, first: Option<&Run>) -> Self {
        let findings = &run.findings;
        let recorded_s = findings.recorded.as_secs_f64();
        let inferred: Vec<&Inferred> = findings.answers.iter().filter_map(Answer::inferred).collect();
        let of_answers =
            |value: fn(&Answer) -> f64| Summary::of(&findings.answers.iter().map(value).collect::<Vec<_>>());
        let without_inference_s = ((run.wall_ms - run.inferring_ms) / 1e3).max(1e-9);
        let other = first.filter(|first| first.backend != run.backend);
        Self {
            backend: run.backend.clone(),
            start_ns: findings.start.unwrap_or_default().nanos,
            recorded_s,
            messages: findings.messages,
            observations: findings.answers.len(),
            chunks: inferred.len(),
            failed: findings.answers.iter().filter(|answer| matches!(answer.inferred, Some(Err(_)))).count(),
            superseded: findings.counts.superseded,
            moved: findings.moved,
            withdrawn: findings.counts.withdrawn,
            stages: stages(&inferred),
            queue_ms: Summary::of(&inferred.iter().map(|inferred| inferred.queue_ms).collect::<Vec<_>>()),
            observation_age_ms: of_answers(Answer::age_ms),
            skew_ms: of_answers(|answer| answer.chosen.skew_ms()),
            cameras: findings.cameras.clone(),
            time_jumps: findings.time_jumps,
            health: findings
                .health
                .iter()
                .map(|(at, health)| HealthChange {
                    at_s: at.as_secs_f64(),
                    level: format!("{:?}", health.level).to_lowercase(),
                    may_act: health.may_act,
                    reason: health.reason.clone(),
                })
                .collect(),
            wall_s: run.wall_ms / 1e3,
            inferring_s: run.inferring_ms / 1e3,
            speed_without_inference: recorded_s / without_inference_s,
            max_abs_delta: other.map(|other| largest_delta(&other.findings.answers, &findings.answers)),
            action_names: run.facts.as_ref().map(|facts| facts.action_names.clone()).unwrap_or_default(),
            played: findings.played.as_ref().map(PlayedReport::new),
            answers: findings.answers.iter().map(AnswerReport::new).collect(),
            seconds: findings
                .seconds
                .iter()
                .map(|(at, cameras)| Second { at_s: at.as_secs_f64(), cameras: cameras.clone() })
                .collect(),
        }
    }
}

impl AnswerReport {
    fn new(answer: &Answer) -> Self {
        let first_action = |inferred: &Inferred| {
            let width = inferred.actions.shape.last().copied().unwrap_or_default();
            inferred.actions.data.iter().take(width).copied().collect()
        };
        Self {
            at_s: answer.since_start.as_secs_f64(),
            reference_ns: answer.chosen.reference.nanos,
            began_ns: answer.began.nanos,
            published_ns: answer.published.nanos,
            age_ms: answer.age_ms(),
            skew_ms: answer.chosen.skew_ms(),
            e2e_ms: answer.inferred().map(|inferred| inferred.times.e2e_ms + inferred.decode_ms),
            first_action: answer.inferred().map(first_action).unwrap_or_default(),
            failure: answer.inferred.as_ref().and_then(|inferred| inferred.as_ref().err().cloned()),
        }
    }
}

/// The chunks of the part of the bag that was replayed against the answers of `run`; `None` where it inferred nothing.
fn comparison(plan: &Plan, replay: &Replay, run: &Run) -> Option<Comparison> {
    let facts = run.facts.as_ref()?;
    let findings = &run.findings;
    let names = plan.config.cameras.iter().map(|camera| camera.name.clone());
    let seen: Vec<_> = names.zip(findings.frames.iter().cloned()).collect();
    let after = |moment: Stamp, span: Duration| Stamp {
        nanos: moment.nanos.saturating_add(i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)),
    };
    let is_whole = plan.from.is_zero() && plan.to.is_none() && !replay.interrupted;
    let part = findings.moments.filter(|_| !is_whole).map(|(first, last)| {
        let ended = findings.answers.last().map_or(last, |answer| after(first, answer.since_start));
        after(first, plan.from)..=last.max(ended)
    });
    let is_in_part = |published: &Stamp| part.as_ref().is_none_or(|part| part.contains(published));
    let chunks: Vec<_> =
        replay.recorded.iter().filter(|(published, _)| is_in_part(published)).map(|(_, chunk)| chunk).collect();
    let replayed = Replayed { answers: &findings.answers, facts, domain_id: plan.config.domain_id.unwrap_or_default() };
    let found = compare(Live { chunks: &chunks, seen: &seen }, replayed, replay.notes.clone());
    let commands = findings.played.as_ref().map(|played| compare_commands(&replay.commands, played, is_in_part));
    Some(Comparison { commands: commands.filter(|commands| commands.recorded > 0), ..found })
}

/// The summaries of the stages. Decoding is part of preprocessing, as in `~/stage_latency`.
fn stages(inferred: &[&Inferred]) -> Option<Stages> {
    let summary =
        |value: fn(&Inferred) -> f64| Summary::of(&inferred.iter().map(|inferred| value(inferred)).collect::<Vec<_>>());
    Some(Stages {
        preprocess_ms: summary(|inferred| inferred.times.preprocess_ms + inferred.decode_ms)?,
        vlm_ms: summary(|inferred| inferred.times.vlm_ms)?,
        policy_ms: summary(|inferred| inferred.times.policy_ms)?,
        postprocess_ms: summary(|inferred| inferred.times.postprocess_ms)?,
        e2e_ms: summary(|inferred| inferred.times.e2e_ms + inferred.decode_ms)?,
    })
}

/// The largest difference of the actions on the observations that both have chosen.
fn largest_delta(first: &[Answer], other: &[Answer]) -> f32 {
    let actions = |answer: &'_ Answer| answer.inferred().map(|inferred| inferred.actions.clone());
    let known: BTreeMap<Stamp, HostArray> =
        first.iter().filter_map(|answer| Some((answer.chosen.reference, actions(answer)?))).collect();
    let pairs = other.iter().filter_map(|answer| Some((known.get(&answer.chosen.reference)?, answer.inferred()?)));
    pairs
        .flat_map(|(known, inferred)| known.data.iter().zip(&inferred.actions.data))
        .map(|(known, other)| (known - other).abs())
        .fold(0.0, f32::max)
}
