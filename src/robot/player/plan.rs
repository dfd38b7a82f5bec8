//! A plan: the targets of one chunk of actions, each meant for a moment of its own.

use super::super::channels::{Channels, Kind};
use super::super::geodesic::between;
use crate::error::InputError;
use crate::transform::rotation::Quaternion;
use crate::types::Stamp;
use std::sync::Arc;
use std::time::Duration;

/// When a plan's steps are meant for, and which plan it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The moment that the observation stands for. Step k, counted from 0, is meant for `reference + (k + 1) * step`.
    pub reference: Stamp,
    /// Time between two steps.
    pub step: Duration,
    /// The number of the chunk.
    pub sequence: u64,
    /// The epoch in which the chunk was asked for; a stop, a reset or a new instruction begins the next one.
    pub epoch: u64,
}

/// Why actions make no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The time between two actions is zero.
    #[error("`step_dt_s`: a plan cannot be played without the time between two actions")]
    Step,
    /// There is no action to play.
    #[error("`execute_steps`: the chunk has no action that is played")]
    Empty,
    /// The actions have another number of channels, or of samples, than one chunk.
    #[error("`actions`: expected {expected} channels in one sample, found {found:?}")]
    Shape {
        /// Channels of an action.
        expected: usize,
        /// The shape of the array.
        found: Vec<usize>,
    },
    /// A target is not a finite number.
    #[error("`actions`: {channel} of step {step} is not finite")]
    NotFinite {
        /// The step, counted from 0.
        step: usize,
        /// The channel's name.
        channel: String,
    },
    /// Numbers that are no rotation.
    #[error("`actions`: {channel} and what follows of step {step}: {source}")]
    Rotation {
        /// The step, counted from 0.
        step: usize,
        /// The name of the rotation's first channel.
        channel: String,
        /// What is wrong with the numbers.
        source: InputError,
    },
    /// Relative actions without the state that they are relative to.
    #[error("`action.delta`: {channel} is relative, and what it is relative to is unknown")]
    Base {
        /// The name of the first such channel.
        channel: String,
    },
}

/// What a plan says about a moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Due {
    /// Its first step is in the future.
    NotYet { due_in: Duration },
    /// The moment lies `fraction` (0 to below 1) of the way from step `index` to the next.
    At { index: usize, fraction: f64 },
    /// Its last step is in the past.
    Over { by: Duration },
}

/// The absolute targets of one chunk. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Plan {
    channels: Arc<Channels>,
    timing: Timing,
    steps: usize,
    /// [steps, channels], rotations orthonormal.
    targets: Arc<[f32]>,
    /// [steps, arms] the same rotations.
    rotations: Arc<[Quaternion]>,
    /// For each arm, the largest deviation of its rotations from orthonormal, as they arrived.
    deviations: Arc<[f64]>,
}

impl Plan {
    /// The plan of absolute `targets` [steps, channels of a command], all of which are played. Rotations need not be
    /// orthonormal and become so.
    ///
    /// # Errors
    /// A step of no duration, no target, a number of targets that is not a multiple of the channels, a target that is not
    /// finite or that is no rotation.
    pub fn new(channels: Arc<Channels>, timing: Timing, mut targets: Vec<f32>) -> Result<Self, PlanError> {
        let width = channels.count();
        if timing.step.is_zero() {
            return Err(PlanError::Step);
        }
        let steps = targets.len().checked_div(width).unwrap_or(0);
        if steps == 0 {
            return Err(PlanError::Empty);
        }
        if steps * width != targets.len() {
            return Err(PlanError::Shape { expected: width, found: vec![targets.len()] });
        }
        if let Some(index) = targets.iter().position(|value| !value.is_finite()) {
            let channel = channels.name(index % width).to_owned();
            return Err(PlanError::NotFinite { step: index / width, channel });
        }
        let mut rotations = Vec::with_capacity(steps * channels.arms().len());
        let mut deviations = vec![0.0_f64; channels.arms().len()];
        for (step, row) in targets.chunks_exact_mut(width).enumerate() {
            for (arm, deviation) in channels.arms().iter().zip(&mut deviations) {
                let values = row.get_mut(arm.rotation_channels()).unwrap_or_default();
                *deviation = deviation.max(arm.form.deviation(values));
                let rotation = arm.form.read(values).map_err(|source| PlanError::Rotation {
                    step,
                    channel: channels.name(arm.rotation).to_owned(),
                    source,
                })?;
                arm.form.write(&rotation, values);
                rotations.push(rotation);
            }
        }
        let (targets, rotations, deviations) = (targets.into(), rotations.into(), deviations.into());
        Ok(Self { channels, timing, steps, targets, rotations, deviations })
    }

    /// Which plan it is, and when its steps are meant for.
    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// What its targets mean.
    pub fn channels(&self) -> &Channels {
        &self.channels
    }

    /// The number of steps, at least 1; all of them are played.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The targets of a step, counted from 0, one for each channel of a command.
    pub fn step(&self, index: usize) -> Option<&[f32]> {
        self.targets.chunks_exact(self.channels.count().max(1)).nth(index)
    }

    /// The moment of its last step. Beyond the range of stamps it is the last stamp there is.
    pub fn ends(&self) -> Stamp {
        let steps = i128::try_from(self.steps).unwrap_or(i128::MAX);
        let nanos = i128::from(self.timing.reference.nanos).saturating_add(self.step_ns().saturating_mul(steps));
        Stamp { nanos: i64::try_from(nanos).unwrap_or(i64::MAX) }
    }

    /// How far the rotations of each arm, as they arrived, are from orthonormal, at most.
    pub fn deviations(&self) -> &[f64] {
        &self.deviations
    }

    /// How long before `now` its observation was made; zero if that is in the future.
    pub fn age(&self, now: Stamp) -> Duration {
        duration(i128::from(now.nanos) - i128::from(self.timing.reference.nanos))
    }

    fn step_ns(&self) -> i128 {
        i128::try_from(self.timing.step.as_nanos()).unwrap_or(i128::MAX).max(1)
    }

    /// What the plan says about `now`.
    pub(super) fn due(&self, now: Stamp) -> Due {
        let step = self.step_ns();
        // Since the first step, which is due one step after the reference.
        let since = i128::from(now.nanos) - i128::from(self.timing.reference.nanos) - step;
        if since < 0 {
            return Due::NotYet { due_in: duration(-since) };
        }
        let last = i128::try_from(self.steps.saturating_sub(1)).unwrap_or(i128::MAX);
        let over = since.saturating_sub(step.saturating_mul(last));
        match usize::try_from(since / step) {
            Ok(index) if over <= 0 => Due::At { index, fraction: (since % step) as f64 / step as f64 },
            _ => Due::Over { by: duration(over) },
        }
    }

    /// Writes the command for `moment` to `out`: what lies between two steps, or the last step for one that is past it. The
    /// answer is whether the plan lasts longer than that; before its first step nothing is written.
    pub fn command_at(&self, moment: Stamp, out: &mut [f32]) -> bool {
        match self.due(moment) {
            Due::NotYet { .. } => true,
            Due::At { index, fraction } => self.write(index, fraction, out) && index + 1 < self.steps,
            Due::Over { .. } => {
                self.write(self.steps.saturating_sub(1), 0.0, out);
                false
            }
        }
    }

    /// Writes what lies `fraction` of the way from step `index` to the next. If `out` has another size than a command, or
    /// there is no such step, nothing is written and the answer is false.
    pub(super) fn write(&self, index: usize, fraction: f64, out: &mut [f32]) -> bool {
        let Some(from) = self.step(index).filter(|from| from.len() == out.len()) else { return false };
        out.copy_from_slice(from);
        let Some(to) = self.step(index.saturating_add(1)).filter(|_| fraction > 0.0) else { return true };
        for ((value, to), kind) in out.iter_mut().zip(to).zip(self.channels.kinds()) {
            match kind {
                Kind::Position | Kind::Joint => *value = on_line(*value, *to, fraction),
                Kind::Gripper | Kind::Rotation => {}
            }
        }
        let arms = self.channels.arms();
        let from = self.rotations.iter().skip(index * arms.len());
        let to = self.rotations.iter().skip((index + 1) * arms.len());
        for ((arm, from), to) in arms.iter().zip(from).zip(to) {
            if let Some(values) = out.get_mut(arm.rotation_channels()) {
                arm.form.write(&between(from, to, fraction), values);
            }
        }
        true
    }
}

/// The value that lies `fraction` of the way from `from` to `to`; rounding does not take it beyond either.
fn on_line(from: f32, to: f32, fraction: f64) -> f32 {
    // The difference of two f32 is always finite in f64.
    let value = f64::from(from) + (f64::from(to) - f64::from(from)) * fraction;
    (value as f32).clamp(from.min(to), from.max(to))
}

/// A span of nanoseconds; nothing for a negative one, and the longest there is for one beyond 584 years.
fn duration(nanos: i128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX))
}
