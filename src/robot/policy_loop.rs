//! What happens between messages: which inputs lead to an inference, and what makes those that are under way count for
//! nothing. The node and a replay of what it received follow the same rules here.

use super::health::Health;
use super::inputs::Inputs;
use super::selection::Selection;
use super::time::Now;
use crate::config::Config;
use crate::types::Stamp;

/// What takes observations and answers them: the inference thread of a node, or its simulation.
pub trait Policy {
    /// Whether it is loaded, so that observations can be offered.
    fn is_ready(&self) -> bool;

    /// Offers a selection, and returns the one that it replaces if no inference had begun on that.
    fn offer(&mut self, selection: Selection) -> Option<Selection>;

    /// Makes everything that was offered until now count for nothing, and returns the selection that no inference had
    /// begun on.
    fn begin_epoch(&mut self) -> Option<Selection>;

    /// Forgets the commands that the checkpoint would be fed as the robot's state.
    fn forget_commands(&mut self);

    /// Whether a plan is wanted at `now` and none is on its way.
    fn wants_plan(&self, now: Stamp) -> bool;
}

/// What [`PolicyLoop::infer`] has led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: there is no new observation.
    Nothing,
    /// The inputs can no longer be acted on, and everything that was offered counts for nothing.
    Stopped,
    /// An observation was offered that stands for this moment.
    Offered(Stamp),
}

/// The inputs of a deployment, and whether they could be acted on.
#[derive(Debug)]
pub struct PolicyLoop {
    /// The inputs.
    pub inputs: Inputs,
    /// Whether a new instruction makes the commands forgotten that the checkpoint is fed.
    reset_on_instruction: bool,
    /// Whether the inputs could be acted on in the turn before.
    could_act: bool,
}

impl PolicyLoop {
    /// The loop of a deployment, with its `inputs`.
    pub fn new(config: &Config, inputs: Inputs) -> Self {
        Self { inputs, reset_on_instruction: config.proprio.reset_on_instruction, could_act: false }
    }

    /// Takes note of the present. Returns how far ROS time has jumped, ms, if it has: what was stamped and offered before
    /// is then forgotten.
    pub fn advance(&mut self, now: Now, policy: &mut impl Policy) -> Option<f64> {
        let by_ms = self.inputs.advance(now)?;
        self.reset(policy);
        Some(by_ms)
    }

    /// Withdraws what was offered for an instruction that another one has replaced. Returns whether one has.
    pub fn follow_instruction(&mut self, policy: &mut impl Policy) -> bool {
        let has_changed = self.inputs.take_instruction_changed();
        if has_changed {
            self.begin_epoch(policy);
            if self.reset_on_instruction {
                policy.forget_commands();
            }
        }
        has_changed
    }

    /// Withdraws what was offered, as a pause or a stop does.
    pub fn withdraw(&mut self, policy: &mut impl Policy) {
        self.begin_epoch(policy);
    }

    /// Withdraws what was offered, and forgets the commands that the checkpoint would be fed.
    pub fn reset(&mut self, policy: &mut impl Policy) {
        self.begin_epoch(policy);
        policy.forget_commands();
    }

    /// Offers the next observation, or takes everything back once the inputs can no longer be acted on. `health` is theirs.
    pub fn infer(&mut self, now: Now, health: &Health, policy: &mut impl Policy) -> Step {
        let has_stopped = std::mem::replace(&mut self.could_act, health.may_act) && !health.may_act;
        if has_stopped {
            // No chunk comes after the report that says so, not even one that is under way.
            self.begin_epoch(policy);
            return Step::Stopped;
        }
        // Also while none is wanted, so that frames do not pile up.
        self.inputs.drop_old(now);
        if self.inputs.has_no_time(now) {
            return Step::Nothing;
        }
        let is_wanted = policy.is_ready() && (policy.wants_plan(now.stamp) || self.inputs.pace.is_asked());
        // The inputs hold themselves to their limits, and only a new attempt shows that images can be decoded again.
        let Some(selection) = is_wanted.then(|| self.inputs.observe(now)).flatten() else {
            return Step::Nothing;
        };
        let reference = selection.reference();
        if let Some(replaced) = policy.offer(selection) {
            self.inputs.superseded(&replaced);
        }
        Step::Offered(reference)
    }

    fn begin_epoch(&mut self, policy: &mut impl Policy) {
        if let Some(withdrawn) = policy.begin_epoch() {
            self.inputs.superseded(&withdrawn);
        }
    }
}
