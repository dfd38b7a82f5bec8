//! Commands that a node has published live, against what the plans of the replay say about the same moments.
//!
//! Ticks of a replay fall on other moments than those of the node did, so its commands are not compared with one another.
//! A recorded command that was its plan's own tells the tick and the age of its plan's observation, and with that the plan:
//! what the replayed plan of that observation says about that tick should be the same.

use super::difference::{ChannelDifference, Differences};
use super::played::Played;
use crate::data::messages::outputs::Command;
use crate::robot::control::Verdict;
use crate::robot::player::{Plan, Player, Sample};
use crate::types::Stamp;
use serde::Serialize;
use std::collections::BTreeMap;

/// A command that was published live and was its plan's own.
#[derive(Clone, Debug)]
pub struct LiveCommand {
    /// When it was received.
    pub received: Stamp,
    /// Its tick.
    pub tick: Stamp,
    /// The moment that the observation of its plan stands for.
    pub reference: Stamp,
    /// One value per channel.
    pub values: Box<[f32]>,
}

/// Commands that were published live.
#[derive(Clone, Debug, Default)]
pub struct LiveCommands {
    /// Those that were their plans' own.
    pub passed: Vec<LiveCommand>,
    /// When the others were received, which were held or clamped.
    pub others: Vec<Stamp>,
}

impl LiveCommands {
    /// Takes a command that was received at a moment; without one, at its tick.
    pub fn push(&mut self, command: Command, received: Option<Stamp>) {
        let tick = command.header.stamp;
        let received = received.unwrap_or(tick);
        if command.verdict == Verdict::Pass as u8 {
            let reference = Stamp { nanos: tick.nanos.saturating_sub(command.plan_age_ns) };
            self.passed.push(LiveCommand { received, tick, reference, values: command.values.into() });
        } else {
            self.others.push(received);
        }
    }
}

/// What a comparison of commands has found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommandComparison {
    /// Commands in the part of the bag that was replayed.
    pub recorded: usize,
    /// Of these, commands that were held or clamped, which say nothing about a plan.
    pub not_of_a_plan: usize,
    /// Of these, commands of plans that the replay did not play, or not at that moment.
    pub not_replayed: usize,
    /// Of these, commands that were compared.
    pub compared: usize,
    /// The difference to the replayed plans, by channel; empty if none could be compared.
    pub channels: Vec<ChannelDifference>,
}

/// Compares the `live` commands that were received while `is_in_part` with the plans that were `played`.
pub fn compare_commands(
    live: &LiveCommands,
    played: &Played,
    is_in_part: impl Fn(&Stamp) -> bool,
) -> CommandComparison {
    let plans: BTreeMap<Stamp, &Plan> =
        played.plans.iter().map(|played| (played.plan.timing().reference, &played.plan)).collect();
    let width = played.channels.count();
    let mut of_plan = vec![f32::NAN; width];
    let (mut differences, mut not_replayed) = (Differences::of(width), 0);
    for command in live.passed.iter().filter(|command| is_in_part(&command.received)) {
        let plan = plans.get(&command.reference).filter(|_| command.values.len() == width);
        if plan.is_some_and(|plan| says(plan, command.tick, &mut of_plan)) {
            differences.note(&command.values, &of_plan);
        } else {
            not_replayed += 1;
        }
    }
    let not_of_a_plan = live.others.iter().filter(|received| is_in_part(received)).count();
    let compared = differences.pairs();
    CommandComparison {
        recorded: compared + not_replayed + not_of_a_plan,
        not_of_a_plan,
        not_replayed,
        compared,
        channels: differences.found(played.channels.names()),
    }
}

/// Writes what `plan` says about a tick; `false` if that is nothing.
fn says(plan: &Plan, tick: Stamp, out: &mut [f32]) -> bool {
    let mut player = Player::default();
    player.take(plan.clone()).is_ok() && matches!(player.sample(tick, out), Sample::Playing { .. })
}
