//! What is left of a plan, for a controller that plays trajectories by itself, and when it has to be told.

use super::{Controller, Sent, Verdict};
use crate::robot::guard::{Context, Verdict as Checked};
use crate::types::Stamp;

/// One point of a trajectory.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// When it is due.
    pub due: Stamp,
    /// One value per channel of a command.
    pub values: Vec<f32>,
}

/// What a trajectory controller is told at a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    /// Nothing: it plays what it should.
    Nothing,
    /// All that is left of the present plan.
    Rest,
    /// To stay where the last command was, because the plan that it has is not played any more.
    Stay,
}

/// Knows what a trajectory controller has been told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Splice {
    /// The plan that it plays, and the generation of limits that it was held to.
    playing: Option<(u64, u64)>,
}

impl Splice {
    /// What has to be told after a tick at which `sent` was sent, within limits of this `generation`.
    pub fn next(&mut self, sent: Option<&Sent>, generation: u64) -> Telling {
        match sent.filter(|sent| sent.verdict != Verdict::Held) {
            Some(sent) if self.playing == Some((sent.sequence, generation)) => Telling::Nothing,
            Some(sent) => {
                self.playing = Some((sent.sequence, generation));
                Telling::Rest
            }
            None if self.playing.take().is_some() => Telling::Stay,
            None => Telling::Nothing,
        }
    }
}

impl Controller {
    /// What is left of the present plan after `now`: its commands at the ticks to come, each held to the limits as it will be
    /// then, up to the first that the guard refuses. How far the robot will be from a command is not known, so limits of
    /// jumps are not among them.
    pub fn rest_of_plan(&self, now: Stamp) -> Vec<Point> {
        let Some(plan) = self.present_plan() else { return Vec::new() };
        let period_ns = i64::try_from(self.settings().period.as_nanos()).unwrap_or(i64::MAX);
        let (mut before, mut last) = (self.before().map(<[f32]>::to_vec), self.values().to_vec());
        let mut points = Vec::new();
        loop {
            let ticks = i64::try_from(points.len()).unwrap_or(i64::MAX).saturating_add(1);
            let due = Stamp { nanos: now.nanos.saturating_add(period_ns.saturating_mul(ticks)) };
            let mut values = last.clone();
            let is_over = !plan.command_at(due, &mut values);
            let context = Context {
                last: Some(&last),
                before: before.as_deref(),
                period: self.settings().period,
                state: Some(&last),
                plan_age: plan.age(due),
            };
            if matches!(self.guard().check(&mut values, &context), Checked::Rejected(_)) {
                return points;
            }
            points.push(Point { due, values: values.clone() });
            before = Some(std::mem::replace(&mut last, values));
            if is_over {
                return points;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn sent(sequence: u64, verdict: Verdict) -> Sent {
        Sent { sequence, step: 0.0, plan_age: Duration::ZERO, verdict, cause: None }
    }

    #[test]
    fn a_plan_is_told_once_and_its_end_once() {
        let mut splice = Splice::default();
        let mut next = |sent: Option<Sent>| splice.next(sent.as_ref(), 0);
        assert_eq!(next(None), Telling::Nothing);
        assert_eq!(next(Some(sent(1, Verdict::Pass))), Telling::Rest);
        assert_eq!(next(Some(sent(1, Verdict::Clamped))), Telling::Nothing);
        assert_eq!(next(Some(sent(2, Verdict::Pass))), Telling::Rest);
        assert_eq!(next(Some(sent(2, Verdict::Held))), Telling::Stay);
        assert_eq!(next(Some(sent(2, Verdict::Held))), Telling::Nothing);
    }

    #[test]
    fn a_plan_that_goes_on_after_a_hold_is_told_again() {
        let mut splice = Splice::default();
        splice.next(Some(&sent(1, Verdict::Pass)), 0);
        splice.next(Some(&sent(1, Verdict::Held)), 0);
        assert_eq!(splice.next(Some(&sent(1, Verdict::Pass)), 0), Telling::Rest);
    }

    #[test]
    fn a_stop_is_told_even_if_nothing_is_sent_any_more() {
        let mut splice = Splice::default();
        splice.next(Some(&sent(1, Verdict::Pass)), 0);
        assert_eq!(splice.next(None, 0), Telling::Stay);
    }

    #[test]
    fn a_plan_within_other_limits_is_told_again() {
        let mut splice = Splice::default();
        splice.next(Some(&sent(1, Verdict::Pass)), 0);
        assert_eq!(splice.next(Some(&sent(1, Verdict::Clamped)), 1), Telling::Rest);
    }
}
