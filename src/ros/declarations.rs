//! The parameters that the node has declared, and how they are set.

use super::declared::Declared;
use super::parameter_messages::from_message;
use crate::config::live::{Live, Proposal};
use crate::config::{ConfigError, Value};
use r2r::rcl_interfaces::msg::Parameter as Message;

/// Every parameter of the node.
#[derive(Clone, Debug)]
pub struct Declarations {
    table: Vec<Declared>,
    live: Live,
}

impl Declarations {
    /// The parameters in `table`, of which `live` has those that may change. The others may be of ROS and of no deployment.
    pub fn new(table: Vec<Declared>, live: Live) -> Self {
        Self { table, live }
    }

    /// The parameters, in the order of their declaration.
    pub fn table(&self) -> &[Declared] {
        &self.table
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<&Declared> {
        self.table.iter().find(|declared| declared.row.name == name)
    }

    /// Sets parameters, all of them or none. `apply` is told what would hold, and may still refuse it. Returns the
    /// parameters that have another value than before.
    ///
    /// # Errors
    /// The reason of the first parameter that cannot have its new value, or that of `apply`.
    pub fn set(
        &mut self,
        parameters: &[Message],
        apply: &mut impl FnMut(&Proposal) -> Result<(), String>,
    ) -> Result<Vec<&Declared>, String> {
        let values: Vec<(&str, Value)> =
            parameters.iter().map(|message| self.read(message)).collect::<Result<_, _>>()?;
        let proposal = self.live.propose(&values).map_err(|error| error.to_string())?;
        apply(&proposal)?;
        let changed = self.live.commit(proposal);
        for (name, value) in &changed {
            let declared = self.table.iter_mut().filter(|declared| declared.row.name == *name);
            declared.for_each(|declared| declared.value.clone_from(value));
        }
        Ok(changed.iter().filter_map(|(name, _)| self.find(name)).collect())
    }

    /// The value that a message gives to a parameter. Parameters of ROS, which no deployment knows of, are judged here.
    fn read<'m>(&self, message: &'m Message) -> Result<(&'m str, Value), String> {
        let name = message.name.as_str();
        let declared = self.find(name);
        let value = from_message(&message.value);
        if let (Some(_), None) = (declared, &value) {
            let reason = "no parameter of this node has a value of that type";
            return Err(ConfigError::invalid(name, reason).to_string());
        }
        // A name that does not exist is the better reason, and `propose` gives it whatever the value.
        let value = value.unwrap_or(Value::Bool(false));
        match declared.map(|declared| declared.row.accept(value.clone())) {
            Some(Err(error)) => Err(error.to_string()),
            Some(Ok(_)) | None => Ok((name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::parameter_messages::to_message;
    use super::*;
    use crate::config::{Audience, Domain, Parameter, Parameters, declared};
    use r2r::rcl_interfaces::msg::ParameterValue;

    fn declarations() -> Declarations {
        let given = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("proprio.joint_names".to_owned(), Value::Strings(vec!["a".to_owned()])),
        ]);
        let rows = declared(Audience::Node(&given)).unwrap().into_iter();
        let of_ros = Parameter { name: "use_sim_time".to_owned(), ..row(Value::Bool(false)) };
        let table = rows.chain([of_ros]).map(|row| Declared { value: row.value_among(&given).unwrap(), row });
        Declarations::new(table.collect(), Live::new(given, Vec::new(), None).unwrap())
    }

    fn row(default: Value) -> Parameter {
        Parameter { name: String::new(), default, domain: Domain::Any, live: false, description: "It." }
    }

    fn message(name: &str, value: Value) -> Message {
        let value = to_message(Some(&Declared { row: row(Value::Bool(false)), value }));
        Message { name: name.to_owned(), value }
    }

    /// Sets parameters with a node that agrees to everything; the names of those that have changed, or the reason.
    fn set(declarations: &mut Declarations, parameters: &[Message]) -> Result<Vec<String>, String> {
        let changed = declarations.set(parameters, &mut |_| Ok(()));
        changed.map(|changed| changed.iter().map(|declared| declared.row.name.clone()).collect())
    }

    fn refusal(name: &str, value: Value) -> String {
        set(&mut declarations(), &[message(name, value)]).unwrap_err()
    }

    #[test]
    fn a_new_value_is_shown_from_then_on() {
        let mut declarations = declarations();
        let parameters =
            [message("policy.rate_hz", Value::Integer(5)), message("guard.mode", Value::String("clamp".to_owned()))];
        assert_eq!(set(&mut declarations, &parameters).unwrap(), ["policy.rate_hz", "guard.mode"]);
        assert_eq!(declarations.find("policy.rate_hz").unwrap().value, Value::Double(5.0));
        assert!(set(&mut declarations, &parameters).unwrap().is_empty(), "they have these values");
    }

    #[test]
    fn a_set_with_one_bad_member_changes_nothing_and_the_node_is_not_asked() {
        let mut declarations = declarations();
        let before = declarations.table().to_vec();
        let parameters = [message("policy.rate_hz", Value::Integer(5)), message("seed", Value::Integer(1))];
        let refused = declarations.set(&parameters, &mut |_| panic!("asked")).unwrap_err();
        assert_eq!(refused, "parameter `seed` is read-only: restart the node with another value");
        assert_eq!(declarations.table(), before);
    }

    #[test]
    fn what_the_node_refuses_changes_nothing_and_has_its_reason() {
        let mut declarations = declarations();
        let before = declarations.table().to_vec();
        let parameters = [message("policy.rate_hz", Value::Integer(5))];
        let refused = declarations.set(&parameters, &mut |proposal| {
            assert_eq!(proposal.config.policy.rate_hz, 5.0);
            Err("limits: too fast".to_owned())
        });
        assert_eq!(refused.unwrap_err(), "limits: too fast");
        assert_eq!(declarations.table(), before);
        assert_eq!(set(&mut declarations, &parameters).unwrap(), ["policy.rate_hz"], "it is still new");
    }

    #[test]
    fn nothing_is_set_without_trouble() {
        assert!(set(&mut declarations(), &[]).unwrap().is_empty());
    }

    #[test]
    fn setting_is_refused_with_the_most_specific_reason() {
        assert_eq!(refusal("nothing", Value::Bool(true)), "parameter `nothing` does not exist");
        let out_of_range = refusal("seed", Value::Integer(-2));
        assert!(out_of_range.starts_with("parameter `seed`: -2 is out of range"), "{out_of_range}");
        for (name, value) in [("seed", Value::Integer(3)), ("use_sim_time", Value::Bool(true))] {
            let expected = format!("parameter `{name}` is read-only: restart the node with another value");
            assert_eq!(refusal(name, value), expected);
        }
    }

    #[test]
    fn a_value_of_no_type_is_refused_unless_the_name_is_wrong_already() {
        let unset = |name: &str| {
            let message = Message { name: name.to_owned(), value: ParameterValue::default() };
            set(&mut declarations(), &[message]).unwrap_err()
        };
        assert_eq!(unset("steps"), "parameter `steps`: no parameter of this node has a value of that type");
        assert_eq!(unset("nothing"), "parameter `nothing` does not exist");
    }
}
