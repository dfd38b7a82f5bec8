//! What was commanded in a replay: every command in few bytes, and where, how long and why the robot was held or stopped.

use super::reasons::{ReasonId, Reasons};
use crate::robot::channels::Channels;
use crate::robot::control::{Counts, Sent, Verdict};
use crate::robot::player::Plan;
use crate::types::Stamp;
use std::sync::Arc;
use std::time::Duration;

/// A command without its values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Commanded {
    /// Its tick, after the first moment of the bag, ns.
    pub since_start_ns: u64,
    /// The same in ROS time.
    pub stamp: Stamp,
    /// The number of the chunk that it is from.
    pub sequence: u64,
    /// The age of the observation that its plan was made of, ns.
    pub plan_age_ns: i64,
    /// Where it lies in the plan: 0 is the first step.
    pub step: f32,
    /// Why it is not the plan's own.
    pub reason: Option<ReasonId>,
    /// What became of it.
    pub verdict: Verdict,
}

/// A stop. Nothing is commanded after it, because nobody releases a stop in a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stop {
    /// When, after the first moment of the bag.
    pub since_start: Duration,
    /// The same in ROS time.
    pub stamp: Stamp,
    /// Its cause, in words.
    pub cause: String,
}

/// Commands one after the other that were not their plans' own, for one reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first of them, after the first moment of the bag, ns.
    pub from_ns: u64,
    /// The last of them.
    pub to_ns: u64,
    /// How many they are.
    pub commands: u64,
    /// Whether they were held; otherwise they were clamped.
    pub is_held: bool,
    /// The reason.
    pub reason: Option<ReasonId>,
}

/// A plan that was played.
#[derive(Clone, Debug)]
pub struct PlayedPlan {
    /// The plan.
    pub plan: Plan,
    /// The moment of its observation after the first moment of the bag, ns; it may lie before that.
    pub reference_ns: i64,
}

/// Everything that was commanded.
#[derive(Clone, Debug)]
pub struct Played {
    /// The channels of a command, C of them.
    pub channels: Arc<Channels>,
    /// The time between two ticks.
    pub period: Duration,
    /// Every command.
    pub commands: Vec<Commanded>,
    /// [N, C] their values.
    pub values: Vec<f32>,
    /// Why commands were held.
    pub held: Reasons,
    /// Why commands were clamped.
    pub clamped: Reasons,
    /// Why plans were not taken.
    pub refused: Reasons,
    /// From the reference of each plan to its first command, ms.
    pub reaction_ms: Vec<f64>,
    /// The stop, if the robot was stopped.
    pub stops: Vec<Stop>,
    /// The plans that were played, even if none of their commands passed.
    pub plans: Vec<PlayedPlan>,
    /// What the controller has counted.
    pub counts: Counts,
    /// The chunk that a command was played from last.
    playing: Option<u64>,
}

impl Played {
    /// Nothing yet.
    pub fn new(channels: Arc<Channels>, period: Duration) -> Self {
        Self {
            channels,
            period,
            commands: Vec::new(),
            values: Vec::new(),
            held: Reasons::default(),
            clamped: Reasons::default(),
            refused: Reasons::default(),
            reaction_ms: Vec::new(),
            stops: Vec::new(),
            plans: Vec::new(),
            counts: Counts::default(),
            playing: None,
        }
    }

    /// Takes note of what was `sent` at a tick, with its `values` and why it is not the plan's own.
    pub fn note(&mut self, sent: &Sent, reason: Option<String>, values: &[f32], since_start: Duration, stamp: Stamp) {
        let reasons = if sent.verdict == Verdict::Held { &mut self.held } else { &mut self.clamped };
        if sent.verdict != Verdict::Held && self.playing.replace(sent.sequence) != Some(sent.sequence) {
            self.reaction_ms.push(sent.plan_age.as_secs_f64() * 1e3);
        }
        self.commands.push(Commanded {
            since_start_ns: nanos(since_start),
            stamp,
            sequence: sent.sequence,
            plan_age_ns: i64::try_from(sent.plan_age.as_nanos()).unwrap_or(i64::MAX),
            step: sent.step,
            reason: reason.map(|words| reasons.note(words)),
            verdict: sent.verdict,
        });
        self.values.extend_from_slice(values);
    }

    /// Takes note of the `plan` that is played at `stamp`, so long after the first moment of the bag.
    pub fn note_plan(&mut self, plan: &Plan, since_start: Duration, stamp: Stamp) {
        let timing = plan.timing();
        if self.plans.last().is_none_or(|last| last.plan.timing() != timing) {
            let from_tick_ns = timing.reference.nanos.saturating_sub(stamp.nanos);
            let reference_ns = from_tick_ns.saturating_add_unsigned(nanos(since_start));
            self.plans.push(PlayedPlan { plan: plan.clone(), reference_ns });
        }
    }

    /// The words for why a command is not its plan's own; empty if it is.
    pub fn words(&self, is_held: bool, reason: Option<ReasonId>) -> &str {
        let reasons = if is_held { &self.held } else { &self.clamped };
        reason.map_or("", |reason| reasons.words(reason))
    }

    /// The commands that were not their plans' own, in spans of one reason each.
    pub fn spans(&self) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        let mut last_ns = None;
        for command in &self.commands {
            let (at_ns, is_held) = (command.since_start_ns, command.verdict == Verdict::Held);
            let before = last_ns.replace(at_ns);
            if command.verdict == Verdict::Pass {
                continue;
            }
            let goes_on = |span: &&mut Span| {
                Some(span.to_ns) == before && span.is_held == is_held && span.reason == command.reason
            };
            match spans.last_mut().filter(goes_on) {
                Some(span) => (span.to_ns, span.commands) = (at_ns, span.commands + 1),
                None => {
                    let reason = command.reason;
                    spans.push(Span { from_ns: at_ns, to_ns: at_ns, commands: 1, is_held, reason });
                }
            }
        }
        spans
    }
}

impl PlayedPlan {
    /// When each step is due after the first moment of the bag, ns, and what it asks for.
    pub fn steps(&self) -> impl Iterator<Item = (i64, &[f32])> {
        let step_ns = i64::try_from(self.plan.timing().step.as_nanos()).unwrap_or(i64::MAX);
        (0..self.plan.steps()).filter_map(move |index| {
            let steps = i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1);
            Some((self.reference_ns.saturating_add(step_ns.saturating_mul(steps)), self.plan.step(index)?))
        })
    }
}

fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(commands: &[(Verdict, u64, &str)]) -> Played {
        let channels =
            Channels::of("franka_joint7", &(0..7).map(|n| format!("a{n}")).collect::<Vec<_>>(), false, None, 1);
        let mut played = Played::new(Arc::new(channels.unwrap()), Duration::from_millis(20));
        for (tick, (verdict, sequence, reason)) in (0..).zip(commands) {
            let plan_age = Duration::from_millis(100 + u64::from(tick) * 20);
            let sent = Sent { sequence: *sequence, step: 0.0, plan_age, verdict: *verdict, cause: None };
            let reason = (!reason.is_empty()).then(|| (*reason).to_owned());
            played.note(&sent, reason, &[0.0; 7], Duration::from_millis(20) * tick, Stamp::default());
        }
        played
    }

    #[test]
    fn a_span_ends_where_a_command_is_the_plans_own_and_where_the_reason_is_another() {
        use Verdict::{Clamped, Held, Pass};
        let commands =
            [(Pass, 0, ""), (Held, 0, "late"), (Held, 0, "late"), (Held, 0, "dark"), (Pass, 0, ""), (Held, 0, "dark")];
        let played = played(&[&commands[..], &[(Clamped, 0, "fast")]].concat());
        let spans: Vec<_> = played.spans().iter().map(|span| (span.from_ns / 20_000_000, span.commands)).collect();
        assert_eq!(spans, [(1, 2), (3, 1), (5, 1), (6, 1)]);
        let reasons: Vec<&str> = played.spans().iter().map(|span| played.words(span.is_held, span.reason)).collect();
        assert_eq!(reasons, ["late", "dark", "dark", "fast"]);
    }

    #[test]
    fn a_chunk_has_one_reaction_time_even_if_it_was_held_in_between() {
        use Verdict::{Held, Pass};
        let played = played(&[(Pass, 3, ""), (Held, 3, "late"), (Pass, 3, ""), (Pass, 4, "")]);
        assert_eq!(played.reaction_ms, [100.0, 160.0]);
    }

    #[test]
    fn a_command_without_its_values_takes_no_more_than_48_bytes() {
        assert!(size_of::<Commanded>() <= 48);
    }
}
