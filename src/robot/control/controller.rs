//! What is sent at a tick: what the present plan has for it, if the guard lets it pass, or the last command once more.

use super::super::channels::Channels;
use super::super::guard::{Context, Guard, Mode, Rejections, Verdict as Checked};
use super::super::player::latency::{LatencyEstimate, start_by};
use super::super::player::{Decoder, Plan, Player, Sample, Timing};
use super::super::time::Now;
use super::sent_commands::SentCommands;
use super::{Cause, Chunk, Halt, Watch};
use crate::config::{OnBackend, Reaction};
use crate::types::Stamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// Whether relative actions are relative to the command that was in force when their observation was made; otherwise,
    /// and as long as there was none, to the state that was measured then.
    pub relative_to_command: bool,
    /// Rejections in a row that are answered by `on_rejections`.
    pub rejections: u32,
    /// What is done when so many commands in a row leave the envelope.
    pub on_rejections: Reaction,
    /// What is done when the inputs cannot be acted on.
    pub on_inputs: Reaction,
    /// What is done when an inference hangs, or several have failed.
    pub on_inference: Reaction,
    /// What is done while a backend is lost and its fallback answers.
    pub on_backend: OnBackend,
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

/// What was sent at a tick; its values are [`Controller::values`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sent {
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
    latency: LatencyEstimate,
    rejections: Rejections,
    /// The command of this tick, the one that was sent before, and the one before that.
    command: Vec<f32>,
    last: Vec<f32>,
    before: Vec<f32>,
    /// How many of the latter two are there.
    sent: u8,
    history: SentCommands,
    played: Played,
    /// The measured state in the channels of a command, NaN where it is unknown.
    state: Vec<f32>,
    epoch: u64,
    /// Counts the sets of limits and settings.
    generation: u64,
    counts: Counts,
    /// What was sent last.
    latest: Option<Sent>,
    /// Why a tick did not send its plan's own command, and when that was so last.
    trouble: Option<(Cause, Instant)>,
}

impl Controller {
    /// A controller that has no plan and has been told nothing.
    pub fn new(settings: Settings, decoder: Decoder, guard: Guard) -> Self {
        let width = decoder.channels().count();
        Self {
            settings,
            decoder,
            guard,
            player: Player::default(),
            latency: LatencyEstimate::default(),
            rejections: Rejections::default(),
            command: vec![f32::NAN; width],
            last: vec![f32::NAN; width],
            before: vec![f32::NAN; width],
            sent: 0,
            history: SentCommands::new(width, settings.period),
            played: Played::default(),
            state: vec![f32::NAN; width],
            epoch: 0,
            generation: 0,
            counts: Counts::default(),
            latest: None,
            trouble: None,
        }
    }

    /// Goes on with other settings and limits. `guard` has the same channels.
    pub fn reconfigure(&mut self, settings: Settings, guard: Guard) {
        if settings.period != self.settings.period {
            self.history = SentCommands::new(self.last.len(), settings.period);
        }
        self.generation += 1;
        (self.settings, self.guard) = (settings, guard);
    }

    /// Counts the sets of limits and settings that have held.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The command before the last, if there is one.
    pub(super) fn before(&self) -> Option<&[f32]> {
        (self.sent > 1).then_some(self.before.as_slice())
    }

    /// How plans are played.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The channels of a command.
    pub fn channels(&self) -> &Arc<Channels> {
        self.decoder.channels()
    }

    /// What holds commands within their limits.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// What has been played so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What was sent last.
    pub fn latest(&self) -> Option<Sent> {
        self.latest
    }

    /// Why a tick did not send its plan's own command, and when that was so last. To wait for the first plan is no trouble.
    pub fn trouble(&self) -> Option<(Cause, Instant)> {
        self.trouble
    }

    /// The command that was sent last, one value per channel; NaN before the first.
    pub fn values(&self) -> &[f32] {
        &self.last
    }

    /// What the robot was commanded at `moment`, with NaN for grippers, whose commands are no actions; `None` if it was not
    /// commanded then.
    pub fn commanded_at(&self, moment: Stamp) -> Option<Vec<f32>> {
        let mut command = self.history.at(moment)?.to_vec();
        for gripper in self.channels().grippers() {
            command.get_mut(gripper).into_iter().for_each(|value| *value = f32::NAN);
        }
        Some(command)
    }

    /// How long an inference takes from its observation to its plan, as far as that is known.
    pub fn latency(&self) -> Option<Duration> {
        self.latency.estimate()
    }

    pub(super) fn words(&self, cause: &Cause, watch: &Watch) -> String {
        cause.of(self.channels(), watch).to_string()
    }

    /// Takes the measured state in the checkpoint's order of channels, as far as it is known.
    pub fn state(&mut self, state: &[f32]) {
        self.decoder.channels().clone().state(state, &mut self.state);
    }

    pub(super) fn plan(&mut self, chunk: Chunk) -> Result<(), String> {
        self.latency.note(chunk.took);
        let Chunk { reference, sequence, actions, .. } = chunk;
        let timing = Timing { reference, step: self.settings.step, sequence, epoch: self.epoch };
        let mut state = vec![f32::NAN; self.last.len()];
        self.channels().state(chunk.state, &mut state);
        let commanded = self.settings.relative_to_command.then(|| self.history.at(reference)).flatten();
        let base = commanded.unwrap_or(&state);
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

    pub(super) fn wants_plan(&self, now: Stamp) -> bool {
        // As long as nothing is known of the latency, the next inference cannot begin too early.
        let (Some(newest), Some(estimate)) = (self.player.newest(), self.latency.estimate()) else { return true };
        // A plan is of no use beyond its end, or once it is too old.
        let age = self.guard.limits().plan_age.map_or(i64::MAX, nanos);
        let oldest = Stamp { nanos: newest.timing().reference.nanos.saturating_add(age) };
        // The first step of the next one is due one step after its observation, however fast the inference is.
        let lead = estimate.max(self.settings.step);
        now >= start_by(newest.ends().min(oldest), lead, self.settings.margin)
    }

    /// The plan that was played last.
    pub fn present_plan(&self) -> Option<&Plan> {
        self.player.current()
    }

    pub(super) fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.player.clear(self.epoch);
    }

    pub(super) fn forget_commands(&mut self) {
        self.sent = 0;
        self.history.clear();
        (self.latest, self.trouble) = (None, None);
        self.rejections.reset();
        self.begin_epoch();
    }

    pub(super) fn tick(&mut self, now: Now, halt: &mut Halt, watch: &Watch) -> Option<Sent> {
        let sent = match self.next(halt.is_paused(), watch, now) {
            Next::Send(sent) => {
                self.trouble = sent.cause.map(|cause| (cause, now.at)).or(self.trouble);
                Some(sent)
            }
            Next::React(cause, reaction) => {
                // A robot that was not moved yet waits for what has not come.
                let is_waiting = self.sent == 0 && matches!(cause, Cause::Inputs | Cause::NoPlan | Cause::Starved(_));
                self.trouble = (!is_waiting).then_some((cause, now.at)).or(self.trouble);
                self.react(cause, reaction, now, halt, watch)
            }
        };
        self.latest = sent.or(self.latest);
        sent
    }

    fn next(&mut self, is_paused: bool, watch: &Watch, now: Now) -> Next {
        let cause = if is_paused { Some(Cause::Paused) } else { watch.cause(now) };
        if let Some(cause) = cause.filter(|cause| !self.is_accepted(cause)) {
            return Next::React(cause, self.reaction(&cause));
        }
        match self.player.sample(now.stamp, &mut self.command) {
            Sample::Nothing | Sample::NotYet { .. } => Next::React(Cause::NoPlan, Reaction::Hold),
            Sample::Over { by, .. } => {
                self.counts.starved += 1;
                Next::React(Cause::Starved(by), self.settings.at_end)
            }
            Sample::Playing { sequence, step, age } => self.play(sequence, step, age, now),
        }
    }

    /// Whether plans are played in spite of `cause`.
    fn is_accepted(&self, cause: &Cause) -> bool {
        *cause == Cause::Backend && self.settings.on_backend == OnBackend::GoOn
    }

    fn reaction(&self, cause: &Cause) -> Reaction {
        match cause {
            Cause::Inputs => self.settings.on_inputs,
            Cause::Watchdog(_) => self.settings.on_watchdog,
            Cause::Hanging(_) | Cause::Failing => self.settings.on_inference,
            Cause::Backend if self.settings.on_backend == OnBackend::Stop => Reaction::Stop,
            _ => Reaction::Hold,
        }
    }

    /// Sends the command that was looked up, unless the guard refuses it.
    fn play(&mut self, sequence: u64, step: f32, plan_age: Duration, now: Now) -> Next {
        let is_first = self.sent == 0;
        if is_first {
            self.start_from_state();
        }
        // Where commands are not clamped, the first one may be as far as the robot can have come since the observation.
        let is_within_reach = is_first && self.guard.mode() == Mode::Reject;
        let period = if is_within_reach { plan_age.max(self.settings.period) } else { self.settings.period };
        let context = Context {
            last: Some(if is_first { &self.before } else { &self.last }),
            before: (self.sent > 1).then_some(self.before.as_slice()),
            period,
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
                return Next::React(Cause::Guard(reason), reaction);
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
        self.history.push(now.stamp, &self.last);
        self.sent = self.sent.saturating_add(1).min(2);
        self.counts.commands += 1;
        Next::Send(Sent { sequence, step, plan_age, verdict, cause })
    }

    /// Puts the measured state in the place of a command before the first; where it is unknown, the command itself.
    fn start_from_state(&mut self) {
        self.before.copy_from_slice(&self.state);
        for arm in self.decoder.channels().arms() {
            if let Some(rotation) = self.before.get_mut(arm.rotation_channels())
                && arm.form.read(rotation).is_err()
            {
                rotation.fill(f32::NAN);
            }
        }
        let unknown = self.before.iter_mut().zip(&self.command).filter(|(known, _)| !known.is_finite());
        unknown.for_each(|(known, command)| *known = *command);
    }

    /// Holds the last command, if there is one, or stops.
    fn react(&mut self, cause: Cause, reaction: Reaction, now: Now, halt: &mut Halt, watch: &Watch) -> Option<Sent> {
        // A robot that was not moved yet waits for its inputs. Only a plan that leaves the envelope is told by a stop even then.
        let has_begun = self.sent > 0 || matches!(cause, Cause::Guard(_));
        if reaction == Reaction::Stop && has_begun {
            halt.stop(|| self.words(&cause, watch));
            return None;
        }
        if self.sent == 0 {
            return None;
        }
        self.before.copy_from_slice(&self.last);
        self.history.push(now.stamp, &self.last);
        self.sent = 2;
        self.counts.commands += 1;
        self.counts.held += 1;
        let Played { sequence, step, reference } = self.played;
        let age_ns = now.stamp.nanos.saturating_sub(reference.nanos);
        let plan_age = Duration::from_nanos(u64::try_from(age_ns).unwrap_or(0));
        Some(Sent { sequence, step, plan_age, verdict: Verdict::Held, cause: Some(cause) })
    }
}

/// What a tick is to do.
enum Next {
    Send(Sent),
    React(Cause, Reaction),
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}
