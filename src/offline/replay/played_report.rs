//! What was commanded, in numbers: how much, how often and why it was held or clamped, how soon, and what stopped it.

use super::played::{Played, PlayedPlan, Span};
use super::reasons::Reasons;
use crate::pipeline::latency::Summary;
use serde::Serialize;

/// The most points of a channel that a plot shows.
const POINTS: usize = 1200;
/// The most steps of plans that a plot shows for each channel.
const DOTS: usize = 600;
/// The most spans that are listed and marked.
const SPANS: usize = 1000;

/// What was commanded.
#[derive(Clone, Debug, Serialize)]
pub struct PlayedReport {
    /// Names of the channels of a command.
    pub command_names: Vec<String>,
    /// Ticks per second.
    pub rate_hz: f64,
    /// Commands that were sent.
    pub commands: u64,
    /// Of these, commands that were brought within their limits.
    pub clamped: u64,
    /// Of these, commands that repeat the one before.
    pub held: u64,
    /// Ticks for which a plan had ended and no other followed.
    pub starved: u64,
    /// Commands and plans that left the envelope.
    pub rejected: u64,
    /// Plans that were taken.
    pub plans: u64,
    /// Plans that were not.
    pub refused_plans: u64,
    /// From the moment of each played plan's observation to its first command, ms.
    pub reaction_ms: Option<Summary>,
    /// Why commands were held or clamped, or plans not taken, the most frequent first.
    pub reasons: Vec<ReasonReport>,
    /// When commands were not their plans' own.
    pub spans: Vec<SpanReport>,
    /// How many spans there are besides.
    pub more_spans: usize,
    /// What stopped the robot.
    pub stops: Vec<StopReport>,
    /// The channels over time, for the page.
    #[serde(skip)]
    pub plots: Vec<ChannelPlot>,
    /// Of so many steps of the plans one is shown there.
    #[serde(skip)]
    pub every_step: usize,
}

/// A reason, and how often it counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReasonReport {
    /// What it led to: `held`, `clamped` or `refused_plan`.
    pub led_to: &'static str,
    /// The words of the first case.
    pub reason: String,
    /// Commands or plans.
    pub count: u64,
}

/// Commands one after the other that were not their plans' own, for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SpanReport {
    /// `held` or `clamped`.
    pub verdict: &'static str,
    /// The first of them, seconds after the first moment.
    pub from_s: f64,
    /// The last of them.
    pub to_s: f64,
    /// How many they are.
    pub commands: u64,
    /// The reason.
    pub reason: String,
}

/// What stopped the robot.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StopReport {
    /// When, seconds after the first moment.
    pub at_s: f64,
    /// The same in ROS time, ns.
    pub stamp_ns: i64,
    /// The cause.
    pub cause: String,
}

/// A channel over time. Moments are seconds after the first one.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelPlot {
    /// Its name.
    pub name: String,
    /// What was commanded, cut where nothing was for a while.
    pub lines: Vec<Vec<(f64, f64)>>,
    /// The steps of the plans.
    pub dots: Vec<(f64, f64)>,
}

impl PlayedReport {
    /// Summarises what was `played`.
    pub fn new(played: &Played) -> Self {
        let counts = played.counts;
        let spans = played.spans();
        let every_step = played.plans.iter().map(|played| played.plan.steps()).sum::<usize>().div_ceil(DOTS).max(1);
        Self {
            command_names: played.channels.names().to_vec(),
            rate_hz: 1.0 / played.period.as_secs_f64().max(1e-9),
            commands: counts.commands,
            clamped: counts.clamped,
            held: counts.held,
            starved: counts.starved,
            rejected: counts.rejected,
            plans: counts.plans,
            refused_plans: played.refused.all().iter().map(|reason| reason.count).sum(),
            reaction_ms: Summary::of(&played.reaction_ms),
            reasons: reasons(played),
            spans: spans.iter().take(SPANS).map(|span| SpanReport::new(span, played)).collect(),
            more_spans: spans.len().saturating_sub(SPANS),
            stops: played
                .stops
                .iter()
                .map(|stop| StopReport {
                    at_s: stop.since_start.as_secs_f64(),
                    stamp_ns: stop.stamp.nanos,
                    cause: stop.cause.clone(),
                })
                .collect(),
            plots: plots(played, every_step),
            every_step,
        }
    }
}

impl SpanReport {
    fn new(span: &Span, played: &Played) -> Self {
        Self {
            verdict: if span.is_held { "held" } else { "clamped" },
            from_s: seconds(span.from_ns),
            to_s: seconds(span.to_ns),
            commands: span.commands,
            reason: played.words(span.is_held, span.reason).to_owned(),
        }
    }
}

fn reasons(played: &Played) -> Vec<ReasonReport> {
    let of = |led_to: &'static str, reasons: &Reasons| -> Vec<ReasonReport> {
        let report = |reason: &super::reasons::Reason| ReasonReport {
            led_to,
            reason: reason.words.clone(),
            count: reason.count,
        };
        reasons.all().iter().map(report).collect()
    };
    let mut all = of("held", &played.held);
    all.extend(of("clamped", &played.clamped));
    all.extend(of("refused_plan", &played.refused));
    all.sort_by_key(|reason| std::cmp::Reverse(reason.count));
    all
}

/// The channels over time, each with few enough points to be looked at.
fn plots(played: &Played, every_step: usize) -> Vec<ChannelPlot> {
    let width = played.channels.count();
    let gap_ns = u64::try_from(played.period.as_nanos()).unwrap_or(u64::MAX).saturating_mul(2);
    let rows: Vec<usize> = (0..played.commands.len()).collect();
    let at_ns = |row: usize| played.commands.get(row).map_or(0, |command| command.since_start_ns);
    let pieces: Vec<&[usize]> =
        rows.chunk_by(|before, after| at_ns(*after).saturating_sub(at_ns(*before)) < gap_ns).collect();
    // The smallest and the largest of so many commands are shown.
    let bucket = (rows.len() * 2).div_ceil(POINTS);
    let channel_plot = |channel: usize, name: &String| {
        let point = |row: &usize| {
            let value = played.values.get(row * width + channel).copied().unwrap_or(f32::NAN);
            (seconds(at_ns(*row)), f64::from(value))
        };
        let steps = played.plans.iter().flat_map(PlayedPlan::steps).step_by(every_step);
        let dots = steps.filter_map(|(due_ns, values)| Some((due_ns as f64 / 1e9, f64::from(*values.get(channel)?))));
        ChannelPlot {
            name: name.clone(),
            lines: pieces.iter().map(|piece| thinned(piece.iter().map(point).collect(), bucket)).collect(),
            dots: dots.collect(),
        }
    };
    played.channels.names().iter().enumerate().map(|(channel, name)| channel_plot(channel, name)).collect()
}

/// The smallest and the largest of every `bucket` points, in their order, and the last one.
fn thinned(points: Vec<(f64, f64)>, bucket: usize) -> Vec<(f64, f64)> {
    if bucket <= 2 {
        return points;
    }
    let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    let mut few: Vec<(f64, f64)> = Vec::new();
    for bucket in points.chunks(bucket) {
        let (low, high) = (bucket.iter().min_by(by_value), bucket.iter().max_by(by_value));
        if let (Some(low), Some(high)) = (low, high) {
            few.extend(if low.0 <= high.0 { [*low, *high] } else { [*high, *low] });
        }
    }
    few.extend(points.last());
    few
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spike_outlives_the_thinning_of_a_line() {
        let spike = |at: f64| if at == 5003.0 { 9.0 } else { 0.0 };
        let points = (0..10_000).map(f64::from).map(|at| (at, spike(at))).collect();
        let few = thinned(points, 20);
        assert!(few.len() < 1100 && few.contains(&(5003.0, 9.0)), "{}", few.len());
        assert!(few.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }
}
