//! The control of a node in recorded time. It is told in every turn what a node's turn tells it, and ticks on a schedule of
//! its own.

use super::played::{Played, Stop};
use crate::config::Config;
use crate::pipeline::{Inference, Pipeline};
use crate::robot::control::build::{ControlError, control, streamed};
use crate::robot::control::{Sent, SharedControl};
use crate::robot::health::Health;
use crate::robot::inputs::Inputs;
use crate::robot::model_facts::ModelFacts;
use crate::robot::time::Now;
use crate::types::{Observation, Stamp};
use std::time::{Duration, Instant};

/// A control that is active, and what it has commanded.
#[derive(Debug)]
pub struct Playing {
    control: SharedControl,
    period_ns: i64,
    /// The next tick, in recorded time; `None` before the first moment.
    next: Option<Stamp>,
    /// The robot's state of the present.
    measured: Vec<f32>,
    played: Played,
}

impl Playing {
    /// The control of the deployment of `config` with the model of `facts`; `None` where chunks are only published.
    ///
    /// # Errors
    /// The deployment cannot be played.
    pub fn of(config: &Config, facts: &ModelFacts, pipeline: &Pipeline) -> Result<Option<Self>, ControlError> {
        let Some(controller) = streamed(config, facts, pipeline)? else { return Ok(None) };
        let period = controller.settings().period;
        let played = Played::new(controller.channels().clone(), period);
        let mut control = control(config);
        control.install(Some(controller));
        control.activate();
        Ok(Some(Self {
            control: SharedControl::new(control),
            period_ns: i64::try_from(period.as_nanos()).unwrap_or(i64::MAX).max(1),
            next: None,
            measured: Vec::new(),
            played,
        }))
    }

    /// The control.
    pub fn control(&self) -> &SharedControl {
        &self.control
    }

    /// Takes a chunk that was inferred, to be played next.
    pub fn inferred(&mut self, observed: (&Observation, &[f32]), inference: &Inference, now: Stamp) {
        if let Err(refusal) = self.control.lock().inferred(observed, inference, now) {
            self.played.refused.note(refusal);
        }
    }

    /// Takes note of an inference that has failed.
    pub fn failed(&self, reason: &str) {
        self.control.lock().failed(reason);
    }

    /// Tells the control what the rest of the node is like: its inputs and their health, since when an inference is under
    /// way, and what became of the backend if it is lost.
    pub fn watch(&mut self, inputs: &Inputs, health: &Health, busy: Option<Instant>, lost: Option<String>, now: Now) {
        inputs.measured(now, &mut self.measured);
        let mut control = self.control.lock();
        control.watch().inputs(health.may_act, &health.reason, now.at);
        control.watch().inference_since(busy);
        control.watch().backend(lost);
        if let Some(controller) = control.controller_mut() {
            controller.state(&self.measured);
        }
    }

    /// Whether the robot is stopped, so that nothing is inferred any more.
    pub fn is_halted(&self) -> bool {
        self.control.lock().halt().reason().is_some()
    }

    /// Lets the schedule begin at `moment`.
    pub fn begin(&mut self, moment: Stamp) {
        self.next.get_or_insert(moment);
    }

    /// Leaves out the ticks before `moment`, through which nothing happens.
    pub fn skip_to(&mut self, moment: Stamp) {
        if let Some(next) = &mut self.next {
            let left_ns = moment.nanos.saturating_sub(next.nanos).max(0);
            let ticks = left_ns / self.period_ns + i64::from(left_ns % self.period_ns > 0);
            next.nanos = next.nanos.saturating_add(ticks.saturating_mul(self.period_ns));
        }
    }

    /// The next tick, if it is due before `moment`.
    pub fn next_before(&mut self, moment: Stamp) -> Option<Stamp> {
        let next = self.next.as_mut().filter(|next| **next < moment)?;
        let due = *next;
        next.nanos = next.nanos.saturating_add(self.period_ns);
        Some(due)
    }

    /// What is sent at `now`, so long after the first moment.
    pub fn tick(&mut self, now: Now, since_start: Duration) -> Option<Sent> {
        let mut control = self.control.lock();
        let sent = control.tick(now);
        let controller = control.controller()?;
        if let Some(plan) = controller.present_plan() {
            self.played.note_plan(plan, since_start, now.stamp);
        }
        if let Some(sent) = &sent {
            let reason = sent.cause.as_ref().map(|cause| control.words(cause));
            self.played.note(sent, reason, controller.values(), since_start, now.stamp);
        }
        if let Some(cause) = control.halt().stopped().filter(|_| self.played.stops.is_empty()) {
            self.played.stops.push(Stop { since_start, stamp: now.stamp, cause: cause.to_owned() });
        }
        sent
    }

    /// What was commanded.
    pub fn played(mut self) -> Played {
        self.played.counts = self.control.lock().controller().map(|controller| controller.counts()).unwrap_or_default();
        self.played
    }
}
