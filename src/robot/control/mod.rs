//! From plans to commands: once per tick a command is looked up, checked, and sent, or the last one is held, or nothing is
//! sent any more. Without middleware and without clocks of its own, so that a node and a replay do the same.
//!
//! | what | file |
//! |---|---|
//! | the controller of a deployment | [`build`] |
//! | why the robot is held or stopped | [`cause`] |
//! | what has to be well for commands to go on | [`watch`] |
//!
//! Three rules hold whatever happens. What is sent has passed the guard, or is the command before once more. Nothing is
//! made up: there is no command before the first plan, and none beyond the end of one. A stop is final until a person
//! releases it, and nothing from before is played then.

pub mod build;
pub mod cause;
pub mod watch;

pub use cause::Cause;
pub use watch::Watch;

use super::channels::Channels;
use super::guard::{Context, Guard, Rejections, Verdict as Checked};
use super::player::latency::{LatencyEstimate, start_by};
use super::player::{Decoder, Plan, Player, Sample, Timing};
use super::time::Now;
use crate::config::Reaction;
use crate::types::{HostArray, Stamp};
use std::sync::Arc;
use std::time::Duration;

/// How a deployment is played.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Time between two commands.
    pub period: Duration,
    /// Time between two actions of a chunk.
    pub step: Duration,
    /// Actions of a chunk that are played; `None` for all.
    pub execute_steps: Option<usize>,
    /// How long before the end of a plan the next one should be there.
    pub margin: Duration,
    /// Whether relative actions are relative to the last command; otherwise to the state of their observation.
    pub relative_to_command: bool,
    /// Rejections in a row that are answered by `on_rejections`.
    pub rejections: u32,
    /// What is done when so many commands in a row leave the envelope.
    pub on_rejections: Reaction,
    /// What is done when the inputs cannot be acted on.
    pub on_inputs: Reaction,
    /// What is done when an inference hangs, or several have failed.
    pub on_inference: Reaction,
    /// What is done when nobody watches the inputs any more.
    pub on_watchdog: Reaction,
    /// What is done when a plan has ended and no other follows.
    pub at_end: Reaction,
}

/// What became of a command, with the numbers of xvla_ros/Command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the plan's own.
    Pass = 0,
    /// It was brought within its limits.
    Clamped = 1,
    /// It is the one before, once more.
    Held = 2,
}

/// A command that is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Command<'c> {
    /// One value per channel of a command.
    pub values: &'c [f32],
    /// The number of the chunk that it is from; of the last one that was played, for a command that is held.
    pub sequence: u64,
    /// Where it lies in the plan: 0 is the first step.
    pub step: f32,
    /// How old the observation is that the plan was made of.
    pub plan_age: Duration,
    /// What became of it.
    pub verdict: Verdict,
    /// Why it is not the plan's own.
    pub cause: Option<Cause>,
}

/// What has been played so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    /// Commands that were sent.
    pub commands: u64,
    /// Of these, commands that were brought within their limits.
    pub clamped: u64,
    /// Of these, commands that were held.
    pub held: u64,
    /// Ticks for which a plan had ended and no other followed.
    pub starved: u64,
    /// Commands and plans that left the envelope.
    pub rejected: u64,
    /// Plans that were taken.
    pub plans: u64,
    /// From the reference of the latest plan to its first command, ms.
    pub reaction_ms: Option<f64>,
}

/// Where a command lies that was sent.
#[derive(Clone, Copy, Debug, Default)]
struct Played {
    sequence: u64,
    step: f32,
    reference: Stamp,
}

/// Plays a deployment.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    decoder: Decoder,
    guard: Guard,
    player: Player,
    watch: Watch,
    latency: LatencyEstimate,
    rejections: Rejections,
    /// The command of this tick, the one that was sent before, and the one before that.
    command: Vec<f32>,
    last: Vec<f32>,
    before: Vec<f32>,
    /// How many of the latter two are there.
    sent: u8,
    played: Played,
    /// The measured state in the channels of a command, NaN where it is unknown.
    state: Vec<f32>,
    /// Why the robot is stopped, in the words of that moment.
    stopped: Option<String>,
    is_paused: bool,
    epoch: u64,
    counts: Counts,
}

impl Controller {
    /// A controller that has no plan and has been told nothing.
    pub fn new(settings: Settings, decoder: Decoder, guard: Guard, watch: Watch) -> Self {
        let width = decoder.channels().count();
        Self {
            settings,
            decoder,
            guard,
            player: Player::default(),
            watch,
            latency: LatencyEstimate::default(),
            rejections: Rejections::default(),
            command: vec![f32::NAN; width],
            last: vec![f32::NAN; width],
            before: vec![f32::NAN; width],
            sent: 0,
            played: Played::default(),
            state: vec![f32::NAN; width],
            stopped: None,
            is_paused: false,
            epoch: 0,
            counts: Counts::default(),
        }
    }

    /// The channels of a command.
    pub fn channels(&self) -> &Arc<Channels> {
        self.decoder.channels()
    }

    /// What has been played so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Why the robot is stopped; `None` if it is not.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// What is watched, to tell it how the rest of the node is.
    pub fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// The words for `cause`.
    pub fn words<'a>(&'a self, cause: &'a Cause) -> impl std::fmt::Display + use<'a> {
        cause.of(self.decoder.channels(), self.watch.reason())
    }

    /// Takes the measured state, in an action's order of channels as far as it is known.
    pub fn state(&mut self, state: &[f32]) {
        self.state.fill(f32::NAN);
        self.state.iter_mut().zip(state).for_each(|(known, value)| *known = *value);
    }

    /// Takes the chunk with this number, made of the observation that stands for `reference` and took the inference so long.
    /// `state` is that of its observation, in an action's order of channels.
    ///
    /// # Errors
    /// Why it is not played: its numbers make no plan, it leaves the envelope as a whole, or it is older than one that was
    /// taken. What is played goes on.
    pub fn plan(
        &mut self,
        (reference, sequence, took): (Stamp, u64, Duration),
        actions: &HostArray,
        state: &[f32],
    ) -> Result<(), String> {
        self.latency.note(took);
        let timing = Timing { reference, step: self.settings.step, sequence, epoch: self.epoch };
        let base = if self.settings.relative_to_command && self.sent > 0 { &self.last } else { state };
        let plan = self.decoder.plan(timing, actions, self.settings.execute_steps, Some(base));
        let plan: Plan = plan.map_err(|error| error.to_string())?;
        if let Checked::Rejected(reason) = self.guard.check_plan(&plan) {
            self.counts.rejected += 1;
            return Err(reason.of(self.decoder.channels()).to_string());
        }
        self.player.take(plan).map_err(|refusal| refusal.to_string())?;
        self.counts.plans += 1;
        Ok(())
    }

    /// Whether the next inference has to begin for its plan to be there before the one that is played ends.
    pub fn wants_plan(&self, now: Stamp) -> bool {
        if self.stopped.is_some() || self.is_paused {
            return false;
        }
        let Some(newest) = self.player.newest() else { return true };
        let estimate = self.latency.estimate().unwrap_or_default();
        now >= start_by(newest.ends(), estimate, self.settings.margin)
    }

    /// Makes everything that was planned count for nothing, as a new instruction, a reset or a jump of time does. The last
    /// command stays, to be held.
    pub fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.player.clear(self.epoch);
        self.watch.forget_inferences();
    }

    /// Holds the last command until [`Controller::resume`].
    pub fn pause(&mut self) {
        self.is_paused = true;
        self.begin_epoch();
    }

    /// Goes on after a pause, with plans that are made from now on.
    pub fn resume(&mut self) {
        self.is_paused = false;
    }

    /// Sends nothing any more until [`Controller::release`].
    pub fn stop(&mut self) {
        self.stop_for(Cause::Asked);
    }

    /// Releases a stop. The robot may have been moved since, so that nothing from before is held or played.
    pub fn release(&mut self) {
        self.stopped = None;
        self.rejections.reset();
        self.forget_commands();
    }

    /// Forgets what was commanded, as after a time in which the robot was not ours.
    pub fn forget_commands(&mut self) {
        self.sent = 0;
        self.begin_epoch();
    }

    /// The command for `now`, which the caller sends; `None` if there is none.
    pub fn tick(&mut self, now: Now) -> Option<Command<'_>> {
        if self.stopped.is_some() {
            return None;
        }
        let cause = if self.is_paused { Some(Cause::Paused) } else { self.watch.cause(now) };
        if let Some(cause) = cause {
            return self.react(cause, self.reaction(&cause), now);
        }
        match self.player.sample(now.stamp, &mut self.command) {
            Sample::Nothing | Sample::NotYet { .. } => self.react(Cause::NoPlan, Reaction::Hold, now),
            Sample::Over { by, .. } => {
                self.counts.starved += 1;
                self.react(Cause::Starved(by), self.settings.at_end, now)
            }
            Sample::Playing { sequence, step, age } => self.play(sequence, step, age, now),
        }
    }

    fn reaction(&self, cause: &Cause) -> Reaction {
        match cause {
            Cause::Inputs => self.settings.on_inputs,
            Cause::Watchdog(_) => self.settings.on_watchdog,
            Cause::Hanging(_) | Cause::Failing => self.settings.on_inference,
            _ => Reaction::Hold,
        }
    }

    /// Sends the command that was looked up, unless the guard refuses it.
    fn play(&mut self, sequence: u64, step: f32, plan_age: Duration, now: Now) -> Option<Command<'_>> {
        let context = Context {
            last: (self.sent > 0).then_some(self.last.as_slice()),
            before: (self.sent > 1).then_some(self.before.as_slice()),
            period: self.settings.period,
            state: Some(&self.state),
            plan_age,
        };
        let checked = self.guard.check(&mut self.command, &context);
        let in_a_row = self.rejections.note(checked);
        let (verdict, cause) = match checked {
            Checked::Pass => (Verdict::Pass, None),
            Checked::Clamped(reason) => (Verdict::Clamped, Some(Cause::Guard(reason))),
            Checked::Rejected(reason) => {
                self.counts.rejected += 1;
                let is_enough = in_a_row >= self.settings.rejections.max(1);
                let reaction = if is_enough { self.settings.on_rejections } else { Reaction::Hold };
                return self.react(Cause::Guard(reason), reaction, now);
            }
        };
        let reference = Stamp { nanos: now.stamp.nanos.saturating_sub(nanos(plan_age)) };
        if self.sent == 0 || self.played.sequence != sequence {
            self.counts.reaction_ms = Some(plan_age.as_secs_f64() * 1e3);
        }
        self.played = Played { sequence, step, reference };
        self.counts.clamped += u64::from(verdict == Verdict::Clamped);
        std::mem::swap(&mut self.before, &mut self.last);
        self.last.copy_from_slice(&self.command);
        self.sent = self.sent.saturating_add(1).min(2);
        self.counts.commands += 1;
        Some(Command { values: &self.last, sequence, step, plan_age, verdict, cause })
    }

    /// Holds the last command, if there is one, or stops.
    fn react(&mut self, cause: Cause, reaction: Reaction, now: Now) -> Option<Command<'_>> {
        // A robot that was not moved yet waits for its inputs. Only a plan that leaves the envelope is told by a stop even then.
        let has_begun = self.sent > 0 || matches!(cause, Cause::Guard(_));
        if reaction == Reaction::Stop && has_begun {
            self.stop_for(cause);
            return None;
        }
        if self.sent == 0 {
            return None;
        }
        self.before.copy_from_slice(&self.last);
        self.sent = 2;
        self.counts.commands += 1;
        self.counts.held += 1;
        let Played { sequence, step, reference } = self.played;
        let age_ns = now.stamp.nanos.saturating_sub(reference.nanos);
        let plan_age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
        Some(Command { values: &self.last, sequence, step, plan_age, verdict: Verdict::Held, cause: Some(cause) })
    }

    fn stop_for(&mut self, cause: Cause) {
        if self.stopped.is_none() {
            let words = self.words(&cause).to_string();
            self.stopped = Some(words);
        }
        self.begin_epoch();
    }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
