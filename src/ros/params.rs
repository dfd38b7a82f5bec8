//! Validates ROS 2 parameters into a [`Config`], and lists every parameter for the parameter services.

use super::error::NodeError;
use crate::config::{Audience, Config, ConfigError, Domain, Parameter, Parameters, Value, declared};
use crate::pipeline::{PipelineError, camera_names};
use r2r::ParameterValue;

/// The parameter that every ROS 2 node has.
const USE_SIM_TIME: &str = "use_sim_time";

/// A declared parameter with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its name, default, domain and description.
    pub row: Parameter,
    /// Its value for the life of the node.
    pub value: Value,
}

/// All parameters of the node, validated.
#[derive(Clone, Debug)]
pub struct NodeParameters {
    /// Every parameter but `use_sim_time`.
    pub config: Config,
    /// Whether time comes from `/clock`.
    pub use_sim_time: bool,
    /// Every parameter in the order of declaration, `use_sim_time` last.
    pub table: Vec<Declared>,
}

impl NodeParameters {
    /// Validates the overrides that rcl read from the command line and parameter files.
    ///
    /// # Errors
    /// The first parameter that does not exist, has the wrong type, or is out of range.
    pub fn from_overrides<'a>(
        overrides: impl IntoIterator<Item = (&'a String, &'a ParameterValue)>,
    ) -> Result<Self, NodeError> {
        let mut given = Parameters::new();
        for (name, value) in overrides {
            if let Some(value) = from_ros(name, value)? {
                given.insert(name.clone(), value);
            }
        }
        let sim_time = sim_time_row();
        let use_sim_time = sim_time.check(given.remove(USE_SIM_TIME).unwrap_or(Value::Bool(false)))?;
        Config::name_cameras(&mut given, |checkpoint| {
            camera_names(checkpoint).map_err(PipelineError::from).map_err(NodeError::from)
        })?;
        let config = Config::from_parameters(&given)?;

        let mut table = Vec::new();
        for row in declared(Audience::Node(&given))? {
            let value = row.value_among(&given)?;
            table.push(Declared { row, value });
        }
        let enabled = use_sim_time == Value::Bool(true);
        table.push(Declared { row: sim_time, value: use_sim_time });
        Ok(Self { config, use_sim_time: enabled, table })
    }
}

fn sim_time_row() -> Parameter {
    Parameter {
        name: USE_SIM_TIME.to_owned(),
        default: Value::Bool(false),
        domain: Domain::Any,
        live: false,
        description: "Whether time comes from /clock instead of the system.",
    }
}

/// Converts an rcl value; `None` for one that is not set, which is how rcl reads an empty list.
///
/// # Errors
/// [`ConfigError::Invalid`] for a type that no parameter of this node has.
pub fn from_ros(name: &str, value: &ParameterValue) -> Result<Option<Value>, ConfigError> {
    Ok(Some(match value {
        ParameterValue::NotSet => return Ok(None),
        ParameterValue::Bool(value) => Value::Bool(*value),
        ParameterValue::Integer(value) => Value::Integer(*value),
        ParameterValue::Double(value) => Value::Double(*value),
        ParameterValue::String(value) => Value::String(value.clone()),
        ParameterValue::IntegerArray(values) => Value::Integers(values.clone()),
        ParameterValue::DoubleArray(values) => Value::Doubles(values.clone()),
        ParameterValue::StringArray(values) => Value::Strings(values.clone()),
        other => {
            let reason = format!("no parameter of this node is of type {}", other.type_name());
            return Err(ConfigError::Invalid { name: name.to_owned(), reason });
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(extra: &[(&str, ParameterValue)]) -> Result<NodeParameters, NodeError> {
        let mut all = vec![
            ("checkpoint".to_owned(), ParameterValue::String("model".to_owned())),
            ("proprio.joint_names".to_owned(), ParameterValue::StringArray(vec!["a".to_owned()])),
            ("cameras".to_owned(), ParameterValue::StringArray(vec!["front".to_owned(), "wrist".to_owned()])),
        ];
        all.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        NodeParameters::from_overrides(all.iter().map(|(name, value)| (name, value)))
    }

    #[test]
    fn every_parameter_of_the_table_is_declared_with_its_value() {
        let parameters = overrides(&[]).unwrap();
        let names = Value::Strings(vec!["front".to_owned(), "wrist".to_owned()]);
        let given = Parameters::from([("cameras".to_owned(), names.clone())]);
        assert_eq!(parameters.table.len(), declared(Audience::Node(&given)).unwrap().len() + 1);
        let value = |name: &str| parameters.table.iter().find(|p| p.row.name == name).map(|p| p.value.clone());
        assert_eq!(value("cameras"), Some(names));
        assert_eq!(value("camera.wrist.rotation"), Some(Value::Integer(0)));
        assert_eq!(value("use_sim_time"), Some(Value::Bool(false)));
    }

    #[test]
    fn a_whole_number_is_accepted_for_a_number() {
        let parameters = overrides(&[("step_dt_s", ParameterValue::Integer(1))]).unwrap();
        assert_eq!(parameters.config.step_dt_s, 1.0);
    }

    #[test]
    fn a_list_of_the_wrong_type_is_refused_by_name() {
        let refusal = |value| overrides(&[("action_names", value)]).unwrap_err().to_string();
        assert_eq!(
            refusal(ParameterValue::IntegerArray(vec![1])),
            "parameter `action_names`: expected a list of strings, found a list of integers"
        );
        assert_eq!(
            refusal(ParameterValue::DoubleArray(vec![1.5])),
            "parameter `action_names`: expected a list of strings, found a list of numbers"
        );
    }

    #[test]
    fn a_type_that_no_parameter_has_is_refused_by_name() {
        let error = overrides(&[("action_names", ParameterValue::BoolArray(vec![true]))]).unwrap_err();
        assert_eq!(error.to_string(), "parameter `action_names`: no parameter of this node is of type boolean array");
    }

    #[test]
    fn an_empty_list_leaves_the_default() {
        assert!(overrides(&[("action_names", ParameterValue::NotSet)]).unwrap().config.action_names.is_empty());
    }

    #[test]
    fn use_sim_time_must_be_a_boolean() {
        assert!(overrides(&[("use_sim_time", ParameterValue::Bool(true))]).unwrap().use_sim_time);
        assert!(overrides(&[("use_sim_time", ParameterValue::Integer(1))]).is_err());
    }
}
