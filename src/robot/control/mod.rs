//! From plans to commands: once per tick a command is looked up, checked, and sent, or the last one is held, or nothing is
//! sent any more. Without middleware and without clocks of its own, so that a node and a replay do the same.
//!
//! | what | file |
//! |---|---|
//! | the controller of a deployment | [`build`] |
//! | what is sent at a tick | [`controller`] |
//! | a stop, a pause, and whether the node is active | [`halt`] |
//! | why the robot is held or stopped | [`cause`] |
//! | what has to be well for commands to go on | [`watch`] |
//! | what is left of a plan, for a trajectory | [`trajectory`] |
//! | what was in force at a moment | `sent_commands` |
//! | the moments of ticks, and how late they are | [`schedule`], [`lateness`] |
//!
//! Three rules hold whatever happens. What is sent has passed the guard, or is the command before once more. Nothing is
//! made up: there is no command before the first plan, and none beyond the end of one. A stop is final until a person
//! releases it, and nothing from before is played then.

pub mod build;
pub mod cause;
pub mod controller;
pub mod halt;
pub mod lateness;
pub mod schedule;
mod sent_commands;
pub mod trajectory;
pub mod watch;

pub use cause::Cause;
pub use controller::{Controller, Counts, Sent, Settings, Verdict};
pub use halt::Halt;
pub use watch::Watch;

use super::guard::Guard;
use super::time::Now;
use crate::pipeline::Inference;
use crate::pipeline::feedback::Commanded;
use crate::types::{HostArray, Observation, Stamp};
use lateness::Lateness;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The chunk of an inference, as it is handed over to be played.
#[derive(Clone, Copy, Debug)]
pub struct Chunk<'c> {
    /// The moment that its observation stands for.
    pub reference: Stamp,
    /// Its number.
    pub sequence: u64,
    /// From that moment until now.
    pub took: Duration,
    /// [1, T, A'] its actions.
    pub actions: &'c HostArray,
    /// The robot's measured state at that moment, in the checkpoint's order of channels; empty if nothing is known of it.
    pub state: &'c [f32],
}

/// How long the thread that watches the inputs may say nothing, and how long an inference may take; `None` for ever.
pub type Watched = (Option<Duration>, Option<Duration>);

/// Whether and how the robot is moved. It is there before a model is loaded and after one is dropped, so that a stop
/// outlives both.
#[derive(Debug)]
pub struct Control {
    halt: Halt,
    watch: Watch,
    lateness: Lateness,
    /// What plays plans; `None` where chunks are only published, and while there is no model.
    controller: Option<Controller>,
}

impl Control {
    /// Nothing to play yet. `watch` is told what the rest of the node is like.
    pub fn new(watch: Watch) -> Self {
        Self { halt: Halt::default(), watch, lateness: Lateness::default(), controller: None }
    }

    /// Plays with `controller` from now on. A stop or a pause stays.
    pub fn install(&mut self, controller: Option<Controller>) {
        self.controller = controller;
    }

    /// Goes on with other limits of what is watched, and with other settings and limits of what is `played`. A plan that is
    /// played goes on, within the new limits.
    pub fn reconfigure(&mut self, (watchdog, inference): Watched, played: Option<(Settings, Guard)>) {
        self.watch.reconfigure(watchdog, inference);
        if let (Some(controller), Some((settings, guard))) = (&mut self.controller, played) {
            controller.reconfigure(settings, guard);
        }
    }

    /// A stop, a pause, and whether the node is active.
    pub fn halt(&self) -> &Halt {
        &self.halt
    }

    /// What is watched, to tell it how the rest of the node is.
    pub fn watch(&mut self) -> &mut Watch {
        &mut self.watch
    }

    /// How late ticks are, to tell it.
    pub fn lateness(&mut self) -> &mut Lateness {
        &mut self.lateness
    }

    /// How late ticks were since the node became active; `None` before the first.
    pub fn late(&self) -> Option<lateness::Summary> {
        self.lateness.summary()
    }

    /// What plays plans, if something does.
    pub fn controller(&self) -> Option<&Controller> {
        self.controller.as_ref()
    }

    /// What plays plans, to change how.
    pub fn controller_mut(&mut self) -> Option<&mut Controller> {
        self.controller.as_mut()
    }

    /// How long an inference has been under way that takes longer than it may; `None` if there is none.
    pub fn hanging(&self, now: Now) -> Option<Duration> {
        self.watch.hanging(now)
    }

    /// The words for `cause`.
    pub fn words(&self, cause: &Cause) -> String {
        self.controller.as_ref().map_or(String::new(), |controller| controller.words(cause, &self.watch))
    }

    /// Takes the chunk that an inference has led to at `now`, to be played next. `measured` is the robot's state at the moment
    /// of the observation, whatever the checkpoint was fed.
    ///
    /// # Errors
    /// As [`Control::plan`].
    pub fn inferred(
        &mut self,
        (observation, measured): (&Observation, &[f32]),
        inference: &Inference,
        now: Stamp,
    ) -> Result<(), String> {
        let reference = observation.reference();
        let took = u64::try_from(now.nanos.saturating_sub(reference.nanos)).unwrap_or(0);
        self.plan(Chunk {
            reference,
            sequence: inference.provenance.sequence,
            took: Duration::from_nanos(took),
            actions: &inference.chunk.actions,
            state: measured,
        })
    }

    /// Takes note of an inference that has failed for this reason.
    pub fn failed(&mut self, reason: &str) {
        self.watch.inference_ended(Some(reason));
    }

    /// Takes a chunk to be played next.
    ///
    /// # Errors
    /// Why it is not played: its numbers make no plan, it leaves the envelope as a whole, or it is older than one that was
    /// taken. What is played goes on.
    pub fn plan(&mut self, chunk: Chunk) -> Result<(), String> {
        let taken = self.controller.as_mut().map_or(Ok(()), |controller| controller.plan(chunk));
        self.watch.inference_ended(taken.as_ref().err().map(String::as_str));
        taken
    }

    /// Whether an inference is wanted: always where chunks are only published, otherwise once the next plan has to be begun
    /// to be there in time; never during a stop or a pause.
    pub fn wants_plan(&self, now: Stamp) -> bool {
        let is_halted = self.halt.stopped().is_some() || self.halt.is_paused();
        !is_halted && self.controller.as_ref().is_none_or(|controller| controller.wants_plan(now))
    }

    /// Makes everything that was planned count for nothing, as a new instruction, a reset or a jump of time does. The last
    /// command stays, to be held.
    pub fn begin_epoch(&mut self) {
        self.watch.forget_failures();
        if let Some(controller) = &mut self.controller {
            controller.begin_epoch();
        }
    }

    /// Lets commands be sent.
    pub fn activate(&mut self) {
        self.lateness = Lateness::default();
        self.halt.set_active(true);
    }

    /// Lets nothing be sent, and forgets what was: the robot may be moved by somebody else now.
    pub fn deactivate(&mut self) {
        self.halt.set_active(false);
        self.forget_commands();
    }

    /// Holds the last command until [`Control::resume`].
    pub fn pause(&mut self) {
        self.halt.set_paused(true);
        self.begin_epoch();
    }

    /// Goes on after a pause, with plans that are made from now on.
    pub fn resume(&mut self) {
        self.halt.set_paused(false);
    }

    /// Sends nothing any more until [`Control::release`].
    pub fn stop(&mut self) {
        self.halt.stop(|| Cause::Asked.words().to_owned());
        self.begin_epoch();
    }

    /// Releases a stop. The robot may have been moved since, so that nothing from before is held or played.
    pub fn release(&mut self) {
        self.halt.release();
        self.forget_commands();
    }

    fn forget_commands(&mut self) {
        self.watch.forget_failures();
        if let Some(controller) = &mut self.controller {
            controller.forget_commands();
        }
    }

    /// What is sent at `now`, and by the caller at once; `None` if nothing is.
    pub fn tick(&mut self, now: Now) -> Option<Sent> {
        if !self.halt.is_active() || self.halt.stopped().is_some() {
            return None;
        }
        let controller = self.controller.as_mut()?;
        let sent = controller.tick(now, &mut self.halt, &self.watch);
        if self.halt.stopped().is_some() {
            self.begin_epoch();
        }
        sent
    }
}

/// The control of a deployment, shared by the threads that watch, infer and send.
#[derive(Clone, Debug)]
pub struct SharedControl(Arc<Mutex<Control>>);

impl SharedControl {
    /// Shares `control`.
    pub fn new(control: Control) -> Self {
        Self(Arc::new(Mutex::new(control)))
    }

    /// What the robot was commanded at a moment, for a checkpoint that is fed its last command.
    pub fn commanded(&self) -> Commanded {
        let control = self.clone();
        Arc::new(move |moment| control.lock().controller()?.commanded_at(moment))
    }

    /// Locks it. Hold it only for a moment, because commands wait for it.
    pub fn lock(&self) -> MutexGuard<'_, Control> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
