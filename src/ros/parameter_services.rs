//! The parameter services of the node. Parameters are fixed at start-up, so every request to set one is refused with
//! the reason.
//!
//! r2r's own handler is not used because it supports neither ranges nor lists nor refusals.

use super::declared::Declared;
use super::error::NodeError;
use super::parameter_messages::{from_message, to_message, type_of};
use super::services::{Requests, answer, offer};
use crate::config::{Domain, Value};
use indexmap::IndexSet;
use r2r::Node;
use r2r::rcl_interfaces::msg::{
    FloatingPointRange, IntegerRange, ListParametersResult, Parameter, ParameterDescriptor, SetParametersResult,
};
use r2r::rcl_interfaces::srv::{
    DescribeParameters, GetParameterTypes, GetParameters, ListParameters, SetParameters, SetParametersAtomically,
};

/// The six parameter services and the parameters that they show.
pub struct ParameterServices {
    table: Vec<Declared>,
    list: Requests<ListParameters::Service>,
    get: Requests<GetParameters::Service>,
    types: Requests<GetParameterTypes::Service>,
    describe: Requests<DescribeParameters::Service>,
    set: Requests<SetParameters::Service>,
    set_atomically: Requests<SetParametersAtomically::Service>,
}

impl ParameterServices {
    /// Offers the services under the node's name.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the service.
    pub fn new(node: &mut Node, table: Vec<Declared>) -> Result<Self, NodeError> {
        Ok(Self {
            table,
            list: offer(node, "~/list_parameters")?,
            get: offer(node, "~/get_parameters")?,
            types: offer(node, "~/get_parameter_types")?,
            describe: offer(node, "~/describe_parameters")?,
            set: offer(node, "~/set_parameters")?,
            set_atomically: offer(node, "~/set_parameters_atomically")?,
        })
    }

    /// The parameters, in the order of their declaration.
    pub fn table(&self) -> &[Declared] {
        &self.table
    }

    /// Answers every request that has arrived since the last call.
    pub fn answer(&mut self) {
        let table = &self.table;
        answer(&mut self.list, |request: &ListParameters::Request| ListParameters::Response {
            result: list(table, &request.prefixes, request.depth),
        });
        answer(&mut self.get, |request: &GetParameters::Request| GetParameters::Response {
            values: request.names.iter().map(|name| to_message(find(table, name))).collect(),
        });
        answer(&mut self.types, |request: &GetParameterTypes::Request| GetParameterTypes::Response {
            types: request.names.iter().map(|name| type_of(find(table, name))).collect(),
        });
        answer(&mut self.describe, |request: &DescribeParameters::Request| DescribeParameters::Response {
            descriptors: request.names.iter().map(|name| describe(name, find(table, name))).collect(),
        });
        answer(&mut self.set, |request: &SetParameters::Request| SetParameters::Response {
            results: request.parameters.iter().map(|parameter| refuse(table, parameter)).collect(),
        });
        answer(&mut self.set_atomically, |request: &SetParametersAtomically::Request| {
            let first = request.parameters.first().map(|parameter| refuse(table, parameter));
            let nothing = SetParametersResult { successful: true, reason: String::new() };
            SetParametersAtomically::Response { result: first.unwrap_or(nothing) }
        });
    }
}

fn find<'t>(table: &'t [Declared], name: &str) -> Option<&'t Declared> {
    table.iter().find(|declared| declared.row.name == name)
}

/// Names below any of `prefixes` (or below the root if there are none), at most `depth` levels down. A depth of 0 means
/// all levels.
fn list(table: &[Declared], prefixes: &[String], depth: u64) -> ListParametersResult {
    let within = |rest: &str| depth == 0 || (rest.matches('.').count() as u64) < depth;
    let selected = |name: &str| {
        (prefixes.is_empty() && within(name))
            || prefixes.iter().any(|prefix| {
                let below = name.strip_prefix(prefix.as_str()).and_then(|rest| rest.strip_prefix('.'));
                name == prefix || below.is_some_and(within)
            })
    };
    let names: Vec<String> =
        table.iter().map(|declared| declared.row.name.clone()).filter(|name| selected(name)).collect();
    let prefixes: IndexSet<&str> =
        names.iter().filter_map(|name| name.rsplit_once('.')).map(|(group, _)| group).collect();
    let prefixes = prefixes.into_iter().map(str::to_owned).collect();
    ListParametersResult { names, prefixes }
}

fn describe(name: &str, declared: Option<&Declared>) -> ParameterDescriptor {
    let mut descriptor =
        ParameterDescriptor { name: name.to_owned(), type_: type_of(declared), ..ParameterDescriptor::default() };
    let Some(declared) = declared else { return descriptor };
    descriptor.description = declared.row.description.to_owned();
    descriptor.read_only = !declared.row.live;
    match (&declared.row.domain, &declared.value) {
        (Domain::Range(from, to), Value::Integer(_)) => {
            let range = IntegerRange { from_value: *from as i64, to_value: *to as i64, step: 1 };
            descriptor.integer_range = vec![range];
        }
        // The range fields of a descriptor are defined for a single number only.
        (Domain::Range(from, to), Value::Integers(_) | Value::Doubles(_)) => {
            descriptor.additional_constraints = format!("each within {from}..={to}");
        }
        (Domain::Range(from, to), _) => {
            let range = FloatingPointRange { from_value: *from, to_value: *to, step: 0.0 };
            descriptor.floating_point_range = vec![range];
        }
        (Domain::Choice(choices), _) => descriptor.additional_constraints = format!("one of: {}", choices.join(", ")),
        (Domain::Any, _) => {}
    }
    descriptor
}

/// Refuses to set `parameter`. The reason is the most specific one: no such parameter, an invalid value, or read-only.
fn refuse(table: &[Declared], parameter: &Parameter) -> SetParametersResult {
    let name = &parameter.name;
    let reason = match (find(table, name), from_message(&parameter.value)) {
        (None, _) => format!("parameter `{name}` does not exist"),
        (_, None) => format!("parameter `{name}`: no parameter of this node has a value of that type"),
        (Some(declared), Some(value)) => match declared.row.check(value) {
            Err(error) => error.to_string(),
            Ok(_) => format!("parameter `{name}` is read-only: restart the node with another value"),
        },
    };
    SetParametersResult { successful: false, reason }
}

#[cfg(test)]
mod tests {
    use super::super::parameter_messages::kind;
    use super::*;
    use crate::config::{Audience, Parameters, declared};

    fn table() -> Vec<Declared> {
        let front = Value::Strings(vec!["front".to_owned()]);
        declared(Audience::Node(&Parameters::from([("cameras".to_owned(), front)])))
            .unwrap()
            .into_iter()
            .map(|row| Declared { value: row.default.clone(), row })
            .collect()
    }

    /// A parameter that the node does not have.
    fn row(domain: Domain, live: bool) -> crate::config::Parameter {
        let default = Value::Doubles(vec![0.5]);
        crate::config::Parameter { name: "speeds".to_owned(), default, domain, live, description: "How fast." }
    }

    fn set(name: &str, value: Value) -> String {
        let value = to_message(Some(&Declared { row: row(Domain::Any, false), value }));
        let result = refuse(&table(), &Parameter { name: name.to_owned(), value });
        assert!(!result.successful);
        result.reason
    }

    #[test]
    fn a_listing_respects_prefixes_and_depth() {
        let names = |prefixes: &[&str], depth| {
            let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            list(&table(), &prefixes, depth).names
        };
        assert_eq!(names(&[], 0).len(), table().len());
        assert!(names(&[], 1).iter().all(|name| !name.contains('.')));
        assert_eq!(names(&["policy"], 1), ["policy.deadline_ms", "policy.rate_hz"]);
        assert_eq!(
            names(&["camera.front"], 0),
            ["transport", "rotation", "crop", "encoding", "required", "max_age_ms", "rate_hz"]
                .map(|name| format!("camera.front.{name}"))
        );
        assert_eq!(names(&["camera"], 1), [""; 0]);
        assert_eq!(
            list(&table(), &[], 0).prefixes,
            [
                "proprio",
                "proprio.gripper",
                "action",
                "action.gripper",
                "sync",
                "policy",
                "output",
                "control",
                "guard",
                "limits",
                "lifecycle",
                "engine",
                "calibration",
                "force",
                "camera.front"
            ]
        );
    }

    #[test]
    fn a_description_carries_type_range_and_choices() {
        let table = table();
        let steps = describe("steps", find(&table, "steps"));
        assert_eq!(steps.type_, kind::INTEGER);
        assert_eq!((steps.integer_range[0].from_value, steps.integer_range[0].to_value), (0, 1000));
        assert!(steps.read_only && !steps.description.is_empty());
        assert_eq!(describe("step_dt_s", find(&table, "step_dt_s")).floating_point_range[0].to_value, 60.0);
        assert_eq!(describe("dtype", find(&table, "dtype")).additional_constraints, "one of: f32, f16, bf16");
        assert_eq!(describe("nothing", None).type_, kind::NOT_SET);
    }

    #[test]
    fn the_range_of_a_list_is_in_the_additional_constraints() {
        let row = row(Domain::Range(0.0, 1.5), false);
        let described = describe("speeds", Some(&Declared { value: row.default.clone(), row }));
        assert_eq!(described.additional_constraints, "each within 0..=1.5");
        assert!(described.floating_point_range.is_empty() && described.integer_range.is_empty());
    }

    #[test]
    fn every_parameter_but_a_live_one_is_read_only() {
        for live in [false, true] {
            let row = row(Domain::Any, live);
            let described = describe("speeds", Some(&Declared { value: row.default.clone(), row }));
            assert_eq!(described.read_only, !live);
        }
    }

    #[test]
    fn setting_is_refused_with_the_most_specific_reason() {
        assert_eq!(set("nothing", Value::Bool(true)), "parameter `nothing` does not exist");
        let out_of_range = set("steps", Value::Integer(1001));
        assert_eq!(out_of_range, "parameter `steps`: 1001 is out of range: expected 0..=1000");
        let read_only = set("steps", Value::Integer(3));
        assert_eq!(read_only, "parameter `steps` is read-only: restart the node with another value");
    }
}
