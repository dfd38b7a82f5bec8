//! Validates ROS 2 parameters into a [`Config`], and lists every parameter for the parameter services.

use super::declared::Declared;
use super::error::NodeError;
use super::qos::QosOverrides;
use crate::config::live::Live;
use crate::config::overrides::QOS_OVERRIDES;
use crate::config::schema::Table;
use crate::config::{Audience, Config, Domain, Fact, Given, Parameter, ProprioFeed, Value, declared};
use crate::pipeline::facts;

/// The parameter that every ROS 2 node has.
const USE_SIM_TIME: &str = "use_sim_time";

/// All parameters of the node, validated.
#[derive(Clone, Debug)]
pub struct NodeParameters {
    /// Every parameter but `use_sim_time`.
    pub config: Config,
    /// Every parameter in the order of declaration, `use_sim_time` last.
    pub table: Vec<Declared>,
    /// The same parameters, settled, for those that change while the node runs.
    pub live: Live,
    /// The QoS that was asked for, by topic.
    pub qos: QosOverrides,
    /// The facts about the model, with their origins.
    pub facts: Vec<Fact>,
    /// What a person should know about the parameters, one line each.
    pub warnings: Vec<String>,
}

/// The parameters of the node before the files of the checkpoint have been looked into.
#[derive(Debug)]
pub struct Unsettled {
    given: Given,
    use_sim_time: bool,
    qos: QosOverrides,
}

impl Unsettled {
    /// Takes the parameters that the command line and parameter files give to this node. No file is read.
    ///
    /// # Errors
    /// A parameter that does not exist although it was given to this very node, or `use_sim_time` of another type.
    pub fn of(mut given: Given) -> Result<Self, NodeError> {
        let use_sim_time = sim_time_row().check(given.parameters.remove(USE_SIM_TIME).unwrap_or(Value::Bool(false)))?;
        let qos = QosOverrides::from_parameters(given.take_group(QOS_OVERRIDES));
        Config::keep_declared(&mut given)?;
        Ok(Self { given, use_sim_time: use_sim_time == Value::Bool(true), qos })
    }

    /// Whether time comes from `/clock`.
    pub fn use_sim_time(&self) -> bool {
        self.use_sim_time
    }

    /// The deployment as far as diagnostics tell of it before there are inputs.
    pub fn preliminary(&self) -> Config {
        let text = |name: &str| match self.given.parameters.get(name) {
            Some(Value::String(text)) => text.clone(),
            _ => String::new(),
        };
        let mut config = Config::defaults();
        (config.hardware_id, config.frame_id) = (text("hardware_id"), text("frame_id"));
        (config.checkpoint, config.proprio.feed) = (text("checkpoint").into(), Some(ProprioFeed::Zeros));
        config.device = text("device").parse().unwrap_or(config.device);
        config
    }

    /// Settles the facts, for which the checkpoint's files are read, and validates every parameter.
    ///
    /// # Errors
    /// The first parameter that has the wrong type or is out of range, facts that contradict each other or are missing, or
    /// a checkpoint whose files cannot be used.
    pub fn settle(self) -> Result<NodeParameters, NodeError> {
        let Self { mut given, use_sim_time, qos } = self;
        let settled = facts::settle(&mut given.parameters)?;
        Config::keep_declared(&mut given)?;
        let Given { parameters: given, mut warnings, .. } = given;
        let config = Config::from_parameters(&given)?;
        settled.require(&config)?;
        let facts::Settled { facts, warnings: of_facts, sources, chunk_length, .. } = settled;
        warnings.extend(of_facts);
        warnings.extend(crate::robot::control::build::without_effect(&config));
        if config.step_dt_s.is_none() {
            warnings.push(
                "step_dt_s: the time between two actions of a chunk is unknown and published as zero: set it, or the \
                 embodiment"
                    .to_owned(),
            );
        }

        let mut table = Vec::new();
        for row in declared(Audience::Node(&given))? {
            let value = row.value_among(&given)?;
            table.push(Declared { row, value });
        }
        table.push(Declared { row: sim_time_row(), value: Value::Bool(use_sim_time) });
        let live = Live::new(given, sources, chunk_length)?;
        Ok(NodeParameters { config, table, live, qos, facts, warnings })
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
    use std::path::Path;

    fn given(extra: &[(&str, Value)]) -> Given {
        let names = |names: &[&str]| Value::Strings(names.iter().map(|name| (*name).to_owned()).collect());
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints/original_auto");
        let mut all = Parameters::from([
            ("checkpoint".to_owned(), Value::String(folder.display().to_string())),
            ("proprio.joint_names".to_owned(), names(&["a"])),
            ("cameras".to_owned(), names(&["front", "wrist"])),
            ("domain_id".to_owned(), Value::Integer(3)),
        ]);
        all.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        all.into()
    }

    fn parameters(extra: &[(&str, Value)]) -> Result<NodeParameters, NodeError> {
        Unsettled::of(given(extra))?.settle()
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
    fn a_domain_that_nothing_gives_keeps_the_node_from_starting_and_says_which_line_to_add() {
        let refusal = parameters(&[("domain_id", Value::Integer(-1))]).unwrap_err().to_string();
        assert!(refusal.contains("`domain_id`: unknown") && refusal.contains("add `embodiment: NAME`"), "{refusal}");
    }

    #[test]
    fn the_facts_of_an_embodiment_are_declared_as_parameters() {
        let parameters = parameters(&[("embodiment", Value::String("libero".to_owned()))]).unwrap();
        assert_eq!(parameters.config.step_dt_s, Some(0.05));
        let value = |name: &str| parameters.table.iter().find(|p| p.row.name == name).map(|p| p.value.clone());
        assert_eq!(value("camera.front.rotation"), Some(Value::Integer(180)));
        let [warning] = parameters.warnings.as_slice() else { panic!("{:?}", parameters.warnings) };
        assert!(warning.contains("the embodiment libero is one of end-effector poses"), "{warning}");
    }

    #[test]
    fn use_sim_time_must_be_a_boolean() {
        let use_sim_time = |value| Unsettled::of(given(&[("use_sim_time", value)])).map(|given| given.use_sim_time());
        assert!(use_sim_time(Value::Bool(true)).unwrap());
        assert!(use_sim_time(Value::Integer(1)).is_err());
    }
}
