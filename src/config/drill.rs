//! The part of the table that is about drills: faults of the policy that are set off on purpose, so that a cell's reaction
//! to them can be tried with the node that will run there.

use super::choice::DrillFault;
use super::error::ConfigError;
use super::rule::{choice, flag, integer, milliseconds};
use super::schema::parameters;
use std::time::Duration;

parameters! {
    /// Faults of the policy that are set off on purpose.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DrillConfig {
        /// Whether faults of the policy may be set off on purpose, to try what the cell makes of them.
        allowed: bool = flag(false),
        /// What happens to every inference: error makes it fail, nan makes it answer NaN, hang keeps it from ending until this changes, panic ends its thread; none for nothing.
        fault: DrillFault = choice(DrillFault::None).live(),
        /// Time that every inference takes longer, milliseconds.
        latency: Option<Duration> = milliseconds(0).named("latency_ms").live(),
        /// Time that one inference of every drill.spike_every takes longer, milliseconds.
        spike: Option<Duration> = milliseconds(0).named("spike_ms").live(),
        /// Every how many inferences one takes drill.spike_ms longer; 0 for none.
        spike_every: Option<u64> = integer(0).within(0..=1_000_000).unless(0).live(),
        /// How long the thread that watches the inputs stands still, once, when this is set, milliseconds.
        stall: Option<Duration> = milliseconds(0).named("stall_ms").live(),
    }
}

/// Checks that nothing is set off unless drills are allowed, so that the rule of none can.
///
/// # Errors
/// The first parameter that would set something off.
pub(super) fn check(drill: &DrillConfig) -> Result<(), ConfigError> {
    let set = [
        ("drill.fault", drill.fault != DrillFault::None),
        ("drill.latency_ms", drill.latency.is_some()),
        ("drill.spike_ms", drill.spike.is_some()),
        ("drill.spike_every", drill.spike_every.is_some()),
        ("drill.stall_ms", drill.stall.is_some()),
    ];
    match set.into_iter().find(|(_, is_set)| *is_set && !drill.allowed) {
        Some((name, _)) => {
            let reason = "disturbs the policy on purpose, which needs `drill.allowed: true` when the node starts";
            Err(ConfigError::invalid(name, reason))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::value::{Parameters, Value};
    use super::super::{Audience, Config, declared};
    use super::*;

    fn with(extra: &[(&str, Value)]) -> Result<DrillConfig, ConfigError> {
        let text = |text: &str| Value::String(text.to_owned());
        let mut given = Parameters::from([
            ("checkpoint".to_owned(), text("model")),
            ("proprio.joint_names".to_owned(), Value::Strings(vec!["a".to_owned()])),
        ]);
        given.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Config::from_parameters(&given).map(|config| config.drill)
    }

    fn faults() -> [(&'static str, Value); 5] {
        [
            ("drill.fault", Value::String("hang".to_owned())),
            ("drill.latency_ms", Value::Integer(20)),
            ("drill.spike_ms", Value::Integer(500)),
            ("drill.spike_every", Value::Integer(10)),
            ("drill.stall_ms", Value::Integer(700)),
        ]
    }

    #[test]
    fn without_parameters_no_drill_is_allowed_and_nothing_is_set_off() {
        let nothing = DrillConfig {
            allowed: false,
            fault: DrillFault::None,
            latency: None,
            spike: None,
            spike_every: None,
            stall: None,
        };
        assert_eq!(with(&[]).unwrap(), nothing);
    }

    #[test]
    fn nothing_can_be_set_off_unless_drills_are_allowed() {
        for (name, value) in faults() {
            for refused in
                [with(&[(name, value.clone())]), with(&[("drill.allowed", Value::Bool(false)), (name, value)])]
            {
                let expected = format!(
                    "parameter `{name}`: disturbs the policy on purpose, which needs `drill.allowed: true` when the node starts"
                );
                assert_eq!(refused.unwrap_err().to_string(), expected);
            }
        }
    }

    #[test]
    fn whatever_sets_nothing_off_is_accepted_without_a_drill() {
        let none = ("drill.fault", Value::String("none".to_owned()));
        assert!(with(&[none, ("drill.latency_ms", Value::Integer(0))]).is_ok());
    }

    #[test]
    fn where_drills_are_allowed_each_fault_can_be_set_off() {
        let mut given = faults().to_vec();
        given.push(("drill.allowed", Value::Bool(true)));
        let expected = DrillConfig {
            allowed: true,
            fault: DrillFault::Hang,
            latency: Some(Duration::from_millis(20)),
            spike: Some(Duration::from_millis(500)),
            spike_every: Some(10),
            stall: Some(Duration::from_millis(700)),
        };
        assert_eq!(with(&given).unwrap(), expected);
    }

    #[test]
    fn faults_may_be_set_off_while_the_node_runs_and_the_permission_may_not_be_given_then() {
        let rows = declared(Audience::Readers).unwrap().into_iter().filter(|row| row.name.starts_with("drill."));
        let live: Vec<bool> = rows.map(|row| row.live).collect();
        assert_eq!(live, [false, true, true, true, true, true]);
    }
}
