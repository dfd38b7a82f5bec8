//! The parameter services of the node, and the events that tell of what they have changed.
//!
//! r2r's own handler is not used because it supports neither ranges nor lists nor refusals.

use super::clock::RosClock;
use super::declarations::Declarations;
use super::declared::Declared;
use super::error::NodeError;
use super::parameter_events::ParameterEvents;
use super::parameter_messages::{to_message, type_of};
use super::services::{Requests, answer, offer};
use crate::config::live::Proposal;
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
    declarations: Declarations,
    events: ParameterEvents,
    list: Requests<ListParameters::Service>,
    get: Requests<GetParameters::Service>,
    types: Requests<GetParameterTypes::Service>,
    describe: Requests<DescribeParameters::Service>,
    set: Requests<SetParameters::Service>,
    set_atomically: Requests<SetParametersAtomically::Service>,
}

impl ParameterServices {
    /// Offers the services under the node's name, and advertises the events.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the service or the topic.
    pub fn new(node: &mut Node, declarations: Declarations, clock: RosClock) -> Result<Self, NodeError> {
        Ok(Self {
            declarations,
            events: ParameterEvents::new(node, clock)?,
            list: offer(node, "~/list_parameters")?,
            get: offer(node, "~/get_parameters")?,
            types: offer(node, "~/get_parameter_types")?,
            describe: offer(node, "~/describe_parameters")?,
            set: offer(node, "~/set_parameters")?,
            set_atomically: offer(node, "~/set_parameters_atomically")?,
        })
    }

    /// Answers every request that has arrived since the last call, and tells of declarations and changes. `apply` is told
    /// what would hold with the parameters that are set, and refuses it with a reason or makes it hold.
    pub fn answer(&mut self, mut apply: impl FnMut(&Proposal) -> Result<(), String>) {
        self.events.declare_when_heard(self.declarations.table());
        self.show();
        let Self { declarations, events, set, set_atomically, .. } = self;
        let mut set_together = |parameters: &[Parameter]| {
            let result = declarations.set(parameters, &mut apply);
            if let Ok(changed) = &result
                && !changed.is_empty()
            {
                events.publish(&[], changed);
            }
            let reason = result.err();
            SetParametersResult { successful: reason.is_none(), reason: reason.unwrap_or_default() }
        };
        answer(set, |request: &SetParameters::Request| SetParameters::Response {
            results: request.parameters.iter().map(std::slice::from_ref).map(&mut set_together).collect(),
        });
        answer(set_atomically, |request: &SetParametersAtomically::Request| SetParametersAtomically::Response {
            result: set_together(&request.parameters),
        });
    }

    /// Answers those that only ask.
    fn show(&mut self) {
        let declarations = &self.declarations;
        answer(&mut self.list, |request: &ListParameters::Request| ListParameters::Response {
            result: list(declarations.table(), &request.prefixes, request.depth),
        });
        answer(&mut self.get, |request: &GetParameters::Request| GetParameters::Response {
            values: request.names.iter().map(|name| to_message(declarations.find(name))).collect(),
        });
        answer(&mut self.types, |request: &GetParameterTypes::Request| GetParameterTypes::Response {
            types: request.names.iter().map(|name| type_of(declarations.find(name))).collect(),
        });
        answer(&mut self.describe, |request: &DescribeParameters::Request| DescribeParameters::Response {
            descriptors: request.names.iter().map(|name| describe(name, declarations.find(name))).collect(),
        });
    }
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

    fn find<'t>(table: &'t [Declared], name: &str) -> Option<&'t Declared> {
        table.iter().find(|declared| declared.row.name == name)
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
                "drill",
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
        assert!(!steps.read_only && !steps.description.is_empty());
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
}
