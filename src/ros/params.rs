//! Validates ROS 2 parameters into a [`Config`], and lists every parameter for the parameter services.

use super::declared::Declared;
use super::error::NodeError;
use super::qos::QosOverrides;
use crate::config::overrides::QOS_OVERRIDES;
use crate::config::{Audience, Config, Domain, Given, Parameter, Value, declared};
use crate::pipeline::{Folders, PipelineError, camera_names};

/// The parameter that every ROS 2 node has.
const USE_SIM_TIME: &str = "use_sim_time";

/// All parameters of the node, validated.
#[derive(Clone, Debug)]
pub struct NodeParameters {
    /// Every parameter but `use_sim_time`.
    pub config: Config,
    /// Whether time comes from `/clock`.
    pub use_sim_time: bool,
    /// Every parameter in the order of declaration, `use_sim_time` last.
    pub table: Vec<Declared>,
    /// The QoS that was asked for, by topic.
    pub qos: QosOverrides,
    /// What a person should know about the parameters, one line each.
    pub warnings: Vec<String>,
}

impl NodeParameters {
    /// Validates the parameters that the command line and parameter files give to this node.
    ///
    /// # Errors
    /// The first parameter that does not exist although it was given to this very node, has the wrong type, or is out of
    /// range.
    pub fn of(mut given: Given) -> Result<Self, NodeError> {
        let sim_time = sim_time_row();
        let use_sim_time = sim_time.check(given.parameters.remove(USE_SIM_TIME).unwrap_or(Value::Bool(false)))?;
        let qos = QosOverrides::from_parameters(given.take_group(QOS_OVERRIDES));
        Config::keep_declared(&mut given)?;
        Config::name_cameras(&mut given.parameters, |checkpoint, adapter| {
            camera_names(Folders::new(checkpoint, adapter)).map_err(PipelineError::from).map_err(NodeError::from)
        })?;
        Config::keep_declared(&mut given)?;
        let Given { parameters: given, warnings, .. } = given;
        let config = Config::from_parameters(&given)?;

        let mut table = Vec::new();
        for row in declared(Audience::Node(&given))? {
            let value = row.value_among(&given)?;
            table.push(Declared { row, value });
        }
        let enabled = use_sim_time == Value::Bool(true);
        table.push(Declared { row: sim_time, value: use_sim_time });
        Ok(Self { config, use_sim_time: enabled, table, qos, warnings })
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

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::Parameters;

    fn parameters(extra: &[(&str, Value)]) -> Result<NodeParameters, NodeError> {
        let names = |names: &[&str]| Value::Strings(names.iter().map(|name| (*name).to_owned()).collect());
        let mut all = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("proprio.joint_names".to_owned(), names(&["a"])),
            ("cameras".to_owned(), names(&["front", "wrist"])),
        ]);
        all.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        NodeParameters::of(all.into())
    }

    #[test]
    fn every_parameter_of_the_table_is_declared_with_its_value() {
        let parameters = parameters(&[]).unwrap();
        let names = Value::Strings(vec!["front".to_owned(), "wrist".to_owned()]);
        let joints = ("proprio.joint_names".to_owned(), Value::Strings(vec!["a".to_owned()]));
        let given = Parameters::from([("cameras".to_owned(), names.clone()), joints]);
        assert_eq!(parameters.table.len(), declared(Audience::Node(&given)).unwrap().len() + 1);
        let value = |name: &str| parameters.table.iter().find(|p| p.row.name == name).map(|p| p.value.clone());
        assert_eq!(value("cameras"), Some(names));
        assert_eq!(value("camera.wrist.rotation"), Some(Value::Integer(0)));
        assert_eq!(value("use_sim_time"), Some(Value::Bool(false)));
    }

    #[test]
    fn use_sim_time_must_be_a_boolean() {
        assert!(parameters(&[("use_sim_time", Value::Bool(true))]).unwrap().use_sim_time);
        assert!(parameters(&[("use_sim_time", Value::Integer(1))]).is_err());
    }
}
