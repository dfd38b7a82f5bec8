//! What diagnostics tell of the commands: whether they are sent, why not, and how well in time.

use crate::pipeline::latency::milliseconds;
use crate::robot::control::{Cause, Control, Controller, Halt, Verdict};
use crate::robot::health::{Health, Level};
use std::time::{Duration, Instant};

/// How long after a tick that did not send its plan's own command that is still told, so that a report can be read.
const MEMORY: Duration = Duration::from_secs(1);

/// The health of the commands; `None` where chunks are only published.
pub fn health(control: &Control, now: Instant) -> Option<Health> {
    let controller = control.controller()?;
    if let Some(halted) = halted(control.halt()) {
        return Some(halted);
    }
    if !control.halt().is_active() {
        return Some(Health { may_act: false, ..Health::new(Level::Ok, "inactive: nothing is commanded") });
    }
    Some(match (recent_trouble(controller, now), controller.latest()) {
        (Some(cause), Some(sent)) if sent.verdict != Verdict::Clamped => {
            Health::new(Level::Warn, format!("held: {}", control.words(&cause)))
        }
        (Some(cause), Some(_)) => Health::new(Level::Warn, format!("clamped: {}", control.words(&cause))),
        (Some(cause), None) => Health::new(Level::Warn, format!("not moved yet: {}", control.words(&cause))),
        (None, Some(sent)) => Health::new(Level::Ok, format!("chunk {} is played", sent.sequence)),
        (None, None) => Health::new(Level::Ok, "waiting for the first plan"),
    })
}

/// Why a tick lately did not send its plan's own command.
pub fn recent_trouble(controller: &Controller, now: Instant) -> Option<Cause> {
    let (cause, at) = controller.trouble()?;
    (now.saturating_duration_since(at) < MEMORY).then_some(cause)
}

/// The health of a robot that the node holds by itself, for its inputs, its inferences, its backend or its guard; `None` if it
/// plays, or waits for the next plan. What counts is the latest tick, not the trouble of one before.
pub fn held(control: &Control, now: Instant) -> Option<Health> {
    let controller = control.controller().filter(|_| control.halt().is_active())?;
    let cause = match controller.latest() {
        Some(sent) if sent.verdict == Verdict::Held => sent.cause,
        Some(_) => None,
        None => recent_trouble(controller, now),
    };
    let is_between_plans = |cause: &Cause| matches!(cause, Cause::NoPlan | Cause::Starved(_));
    cause.filter(|cause| !is_between_plans(cause)).map(|cause| Health {
        may_act: false,
        ..Health::new(Level::Warn, format!("the robot is held: {}", control.words(&cause)))
    })
}

/// The health of a robot that a stop or a pause holds; `None` if there is neither.
pub fn halted(halt: &Halt) -> Option<Health> {
    let level = if halt.stopped().is_some() { Level::Error } else { Level::Warn };
    halt.reason().map(|reason| Health { may_act: false, ..Health::new(level, reason) })
}

/// The numbers of the commands, by their names.
pub fn values(control: &Control) -> Vec<(&'static str, String)> {
    let Some(controller) = control.controller() else { return Vec::new() };
    let ms = |ms: f64| format!("{ms:.2}");
    let counts = controller.counts();
    let mut values = vec![
        ("stopped", control.halt().stopped().unwrap_or_default().to_owned()),
        ("paused", control.halt().is_paused().to_string()),
        ("commands", counts.commands.to_string()),
        ("clamped", counts.clamped.to_string()),
        ("held", counts.held.to_string()),
        ("starved", counts.starved.to_string()),
        ("rejected", counts.rejected.to_string()),
        ("plans", counts.plans.to_string()),
    ];
    values.extend(controller.latest().map(|sent| ("plan_age_ms", ms(milliseconds(sent.plan_age)))));
    values.extend(counts.reaction_ms.map(|reaction_ms| ("reaction_ms", ms(reaction_ms))));
    values.extend(controller.latency().map(|latency| ("latency_ms", ms(milliseconds(latency)))));
    if let Some(late) = control.late() {
        values.push(("ticks", late.ticks.to_string()));
        values.push(("missed_ticks", late.missed.to_string()));
        let three = |ms: f64| format!("{ms:.3}");
        values.push(("lateness_ms.p50", three(late.p50_ms)));
        values.push(("lateness_ms.p99", three(late.p99_ms)));
        values.push(("lateness_ms.p99_9", three(late.p999_ms)));
        values.push(("lateness_ms.max", three(late.max_ms)));
    }
    values
}
