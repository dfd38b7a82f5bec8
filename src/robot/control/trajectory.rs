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
    /// The plan that it plays.
    playing: Option<u64>,
}

impl Splice {
    /// What has to be told after a tick at which `sent` was sent.
    pub fn next(&mut self, sent: Option<&Sent>) -> Telling {
        match sent.filter(|sent| sent.verdict != Verdict::Held) {
            Some(sent) if self.playing == Some(sent.sequence) => Telling::Nothing,
            Some(sent) => {
                self.playing = Some(sent.sequence);
                Telling::Rest
            }
            None if self.playing.take().is_some() => Telling::Stay,
            None => Telling::Nothing,
        }
    }
}

impl Controller {
    /// What is left of the present plan after `now`, up to the first step that the guard refuses. Each step is held to the
    /// velocity, acceleration and jump that are allowed from the step before.
    pub fn rest_of_plan(&self, now: Stamp) -> Vec<Point> {
        let Some(plan) = self.present_plan() else { return Vec::new() };
        let step_ns = i64::try_from(plan.timing().step.as_nanos()).unwrap_or(i64::MAX);
        let due = |index: usize| {
            let steps = i64::try_from(index).unwrap_or(i64::MAX).saturating_add(1);
            Stamp { nanos: plan.timing().reference.nanos.saturating_add(step_ns.saturating_mul(steps)) }
        };
        let mut points: Vec<Point> = Vec::new();
        for index in (0..plan.steps()).filter(|index| due(*index) > now) {
            let Some(mut values) = plan.step(index).map(<[f32]>::to_vec) else { break };
            let last = points.last().map_or(self.values(), |point| &point.values);
            let before =
                points.len().checked_sub(2).and_then(|two| points.get(two)).map(|point| point.values.as_slice());
            // The measured state says nothing about a step that lies ahead; the one before it does.
            let (last, state) = (Some(last), Some(last));
            let context = Context { last, before, period: plan.timing().step, state, plan_age: plan.age(now) };
            if matches!(self.guard().check(&mut values, &context), Checked::Rejected(_)) {
                break;
            }
            points.push(Point { due: due(index), values });
        }
        points
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
        let mut next = |sent: Option<Sent>| splice.next(sent.as_ref());
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
        splice.next(Some(&sent(1, Verdict::Pass)));
        splice.next(Some(&sent(1, Verdict::Held)));
        assert_eq!(splice.next(Some(&sent(1, Verdict::Pass))), Telling::Rest);
    }

    #[test]
    fn a_stop_is_told_even_if_nothing_is_sent_any_more() {
        let mut splice = Splice::default();
        splice.next(Some(&sent(1, Verdict::Pass)));
        assert_eq!(splice.next(None), Telling::Stay);
    }
}
