//! Parameters that change while the node runs, as one validated set: either every new value is allowed, on its own and
//! together with all others, or none is taken.

use super::error::ConfigError;
use super::facts::{self, Fact, Source};
use super::parameter::{Parameter, unknown};
use super::schema::Audience;
use super::value::{Parameters, Value};
use super::{Config, declared};

/// The parameters of a running deployment.
#[derive(Clone, Debug)]
pub struct Live {
    parameters: Parameters,
    rows: Vec<Parameter>,
    /// What fixes facts about the model; new values are held to it as those of the start were.
    sources: Vec<Source>,
    /// T: actions in a chunk; `None` if it is unknown.
    chunk_length: Option<i64>,
}

/// A set of new values that is valid together with all others, and not taken yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    /// The deployment with the new values.
    pub config: Config,
    /// The facts about the model with the new values.
    pub facts: Vec<Fact>,
    /// The parameters that get another value than they have, with that value, in the order of the table.
    pub changed: Vec<(String, Value)>,
    /// The names that were set, whether to another value or not.
    named: Vec<String>,
    parameters: Parameters,
}

impl Proposal {
    /// Whether the parameter `name` was set, be it to the value that it has.
    pub fn names(&self, name: &str) -> bool {
        self.named.iter().any(|named| named == name)
    }
}

impl Live {
    /// The parameters of a deployment as they were settled with the facts that `sources` give. The checkpoint's chunks
    /// have `chunk_length` actions.
    ///
    /// # Errors
    /// A list of names that is not allowed.
    pub fn new(parameters: Parameters, sources: Vec<Source>, chunk_length: Option<i64>) -> Result<Self, ConfigError> {
        let rows = declared(Audience::Node(&parameters))?;
        Ok(Self { parameters, rows, sources, chunk_length })
    }

    /// What would hold after all of `set`, names and values. Of several values for one name the last counts.
    ///
    /// # Errors
    /// A name that no parameter has, a parameter that is fixed while the node runs, a value that is not allowed by itself
    /// or beside the others; a fact that is contradicted without being forced.
    pub fn propose(&self, set: &[(&str, Value)]) -> Result<Proposal, ConfigError> {
        let mut parameters = self.parameters.clone();
        for (name, value) in set {
            let row = self.rows.iter().find(|row| row.name == *name).ok_or_else(|| unknown(name, &self.rows))?;
            parameters.insert(row.name.clone(), row.accept(value.clone())?);
        }
        let facts = facts::settle(&mut parameters, &self.sources)?;
        facts::check_executed(&facts, self.chunk_length)?;
        // A source may speak of what this deployment does not have.
        parameters.retain(|name, _| self.rows.iter().any(|row| row.name == *name));
        let config = Config::from_parameters(&parameters)?;
        let mut changed = Vec::new();
        for row in &self.rows {
            let value = row.value_among(&parameters)?;
            if value != row.value_among(&self.parameters)? {
                changed.push((row.name.clone(), value));
            }
        }
        let named = set.iter().map(|(name, _)| (*name).to_owned()).collect();
        Ok(Proposal { config, facts, changed, named, parameters })
    }

    /// Takes a proposal, which was made of the present parameters. Returns what has changed.
    pub fn commit(&mut self, proposal: Proposal) -> Vec<(String, Value)> {
        self.parameters = proposal.parameters;
        proposal.changed
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Origin;
    use super::*;
    use std::time::Duration;

    fn names(names: &[&str]) -> Value {
        Value::Strings(names.iter().map(|name| (*name).to_owned()).collect())
    }

    /// A running deployment with `extra` parameters, of a checkpoint whose chunks have 30 actions and of which `habit` are
    /// executed, if that is said.
    fn live(extra: &[(&str, Value)], habit: Option<i64>) -> Live {
        let mut parameters = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("proprio.joint_names".to_owned(), names(&["a", "b"])),
        ]);
        parameters.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let source = |steps| Source {
            origin: Origin::Embodiment("libero".to_owned()),
            values: Parameters::from([("execute_steps".to_owned(), Value::Integer(steps))]),
        };
        let sources: Vec<Source> = habit.map(source).into_iter().collect();
        facts::settle(&mut parameters, &sources).unwrap();
        Live::new(parameters, sources, Some(30)).unwrap()
    }

    fn refusal(live: &Live, set: &[(&str, Value)]) -> String {
        live.propose(set).unwrap_err().to_string()
    }

    #[test]
    fn several_parameters_change_as_one_set() {
        let mut live = live(&[], None);
        let set = [("policy.rate_hz", Value::Double(5.0)), ("guard.plan_age_ms", Value::Integer(900))];
        let proposal = live.propose(&set).unwrap();
        let (rate_hz, plan_age) = (proposal.config.policy.rate_hz, proposal.config.guard.plan_age);
        assert_eq!((rate_hz, plan_age), (5.0, Some(Duration::from_millis(900))));
        assert_eq!(live.commit(proposal), set.clone().map(|(name, value)| (name.to_owned(), value)));
        assert!(live.propose(&set).unwrap().changed.is_empty(), "they hold now");
    }

    #[test]
    fn one_value_that_is_not_allowed_refuses_the_set_by_its_name() {
        let set = [("policy.rate_hz", Value::Double(5.0)), ("control.rate_hz", Value::Double(0.5))];
        assert_eq!(
            refusal(&live(&[], None), &set),
            "parameter `control.rate_hz`: 0.5 is out of range: expected 1..=1000"
        );
    }

    #[test]
    fn a_value_that_only_the_rule_of_its_parameter_can_judge_is_judged() {
        let refused = refusal(&live(&[], None), &[("limits.gripper", Value::Doubles(vec![1.0, 0.0]))]);
        assert!(refused.contains("`limits.gripper`: [1, 0]: the smaller number comes first"), "{refused}");
        assert!(refusal(&live(&[], None), &[("policy.rate_hz", Value::Double(-0.5))]).contains("expected -1"));
    }

    #[test]
    fn a_parameter_that_is_fixed_is_refused_with_the_way_out_even_at_its_own_value() {
        for name in ["seed", "limits.urdf", "limits.channels", "force.execute_steps"] {
            let live = live(&[], None);
            let value = live.rows.iter().find(|row| row.name == name).unwrap().default.clone();
            let expected = format!("parameter `{name}` is read-only: restart the node with another value");
            assert_eq!(refusal(&live, &[(name, value)]), expected);
        }
    }

    #[test]
    fn a_name_that_does_not_exist_is_refused_with_a_similar_one() {
        let refused = refusal(&live(&[], None), &[("stepz", Value::Integer(3))]);
        assert_eq!(refused, "parameter `stepz` does not exist: did you mean `steps`?");
    }

    #[test]
    fn types_are_as_strict_as_at_the_start() {
        let live = live(&[], None);
        assert_eq!(
            refusal(&live, &[("steps", Value::Double(3.0))]),
            "parameter `steps`: expected an integer, found a number"
        );
        let proposal = live.propose(&[("policy.rate_hz", Value::Integer(5))]).unwrap();
        assert_eq!(proposal.changed, [("policy.rate_hz".to_owned(), Value::Double(5.0))]);
    }

    #[test]
    fn a_value_that_a_parameter_has_already_is_no_change_but_is_told_to_be_set() {
        let proposal = live(&[], None).propose(&[("policy.rate_hz", Value::Integer(0))]).unwrap();
        assert!(proposal.changed.is_empty());
        assert!(proposal.names("policy.rate_hz") && !proposal.names("steps"));
    }

    #[test]
    fn of_two_values_for_one_parameter_the_last_counts() {
        let set = [("steps", Value::Integer(3)), ("steps", Value::Integer(4))];
        assert_eq!(live(&[], None).propose(&set).unwrap().config.steps, Some(4));
    }

    #[test]
    fn the_limits_of_a_channel_that_is_listed_change_under_its_name() {
        let live = live(&[("limits.channels", names(&["elbow"]))], None);
        let proposal = live.propose(&[("limits.channel.elbow.velocity", Value::Double(0.5))]).unwrap();
        assert_eq!(proposal.config.limits.channels[0].settings.velocity, Some(0.5));
        let refused = refusal(&live, &[("limits.channel.wrist.velocity", Value::Double(0.5))]);
        assert!(refused.contains("`limits.channel.wrist.velocity` does not exist"), "{refused}");
    }

    #[test]
    fn no_more_of_a_chunk_is_executed_than_there_is() {
        let live = live(&[], None);
        assert_eq!(live.propose(&[("execute_steps", Value::Integer(30))]).unwrap().config.execute_steps, Some(30));
        assert_eq!(
            refusal(&live, &[("execute_steps", Value::Integer(31))]),
            "parameter `execute_steps`: 31 steps, but the checkpoint's chunks have 30"
        );
    }

    #[test]
    fn a_fact_is_contradicted_only_where_that_is_forced_as_at_the_start() {
        let fewer = [("execute_steps", Value::Integer(5))];
        let refused = refusal(&live(&[], Some(20)), &fewer);
        assert!(refused.contains("5 by the parameter, but 20 by the embodiment libero"), "{refused}");
        let live = live(&[("force.execute_steps", Value::Bool(true))], Some(20));
        let proposal = live.propose(&fewer).unwrap();
        assert_eq!(proposal.config.execute_steps, Some(5));
        assert_eq!(proposal.facts[0].origin.to_string(), "forced over 20 by the embodiment libero");
    }

    #[test]
    fn a_fact_that_is_left_open_again_is_what_its_source_says() {
        let mut live = live(&[("force.execute_steps", Value::Bool(true))], Some(20));
        let fewer = live.propose(&[("execute_steps", Value::Integer(5))]).unwrap();
        live.commit(fewer);
        let open = live.propose(&[("execute_steps", Value::Integer(0))]).unwrap();
        assert_eq!(open.changed, [("execute_steps".to_owned(), Value::Integer(20))]);
    }

    #[test]
    fn exactly_these_parameters_change_while_the_node_runs() {
        let is_live_group =
            |name: &str| ["guard.", "limits.", "control.", "drill."].iter().any(|group| name.starts_with(group));
        let fixed_in_groups = ["limits.urdf", "limits.channels", "control.priority", "drill.allowed"];
        let live = ["steps", "execute_steps", "instruction", "policy.rate_hz"];
        for row in declared(Audience::Readers).unwrap() {
            let name = row.name.as_str();
            let expected = live.contains(&name) || (is_live_group(name) && !fixed_in_groups.contains(&name));
            assert_eq!(row.live, expected, "{name}");
        }
    }
}
