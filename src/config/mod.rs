//! Deployment parameters: the facts about a robot, as opposed to those about a checkpoint.
//!
//! One [`table`] describes every parameter. The node declares exactly this table on ROS 2. Node and command line read
//! the same YAML files through [`Overrides`] and call [`Config::from_parameters`], so a file that starts the node also
//! drives the bench.
//!
//! | file | |
//! |---|---|
//! | [`table`] | every parameter, and the structs that hold their values |
//! | [`control`] | those of moving a robot: outputs, control, guard, limits |
//! | [`drill`] | those of faults that are set off on purpose |
//! | [`camera`] | encodings, crops and rotations of pictures |
//! | [`rule`] | the type, default and allowed values of one parameter |
//! | [`group`](mod@group) | several parameters as one entry of the table |
//! | [`schema`] | turns the table into structs, rows and readers |
//! | [`live`] | new values while the node runs, as one set |
//! | `parameter`, `value`, `choice` | a row, the values it can hold, and enumerations by name |
//! | [`overrides`] | which parameters of files and command line are for a node |
//! | [`topic_names`] | names of topics, resolved and remapped as rcl does |
//! | `file`, `scalar` | reads parameters from YAML as rcl does |
//! | [`facts`], [`embodiment`] | parameters that a checkpoint or an embodiment fixes |
//! | [`environment`] | environment variables that libraries read before `main` |

pub mod camera;
mod choice;
pub mod control;
pub mod drill;
pub mod embodiment;
pub mod environment;
mod error;
pub mod facts;
mod file;
pub mod group;
pub mod live;
pub mod overrides;
mod parameter;
pub mod rule;
mod scalar;
pub mod schema;
pub mod table;
pub mod topic_names;
mod value;

pub use camera::{Crop, PixelEncoding, Rotation};
pub use choice::{
    Choice, Device, DrillFault, Dtype, Fallback, FirstRotation, Grip, GuardMode, JointUnit, OnBackend, OutputMode,
    Preprocess, ProprioFeed, ProprioSource, Reaction, RotationLayout, TrajectoryPer, Transport,
};
pub use control::{
    Bounds, ChannelLimitsConfig, ControlConfig, GuardConfig, JointOutputConfig, LifecycleConfig, LimitsConfig,
    OutputConfig, Workspace,
};
pub use drill::DrillConfig;
pub use embodiment::Embodiment;
pub use error::ConfigError;
pub use facts::{Fact, Origin};
pub use group::Named;
pub use overrides::{Given, Overrides};
pub use parameter::{Domain, Parameter, retired};
pub use schema::Audience;
pub use table::{
    ActionConfig, ActionGripperConfig, BuildOptions, CalibrationConfig, CameraConfig, Config, EngineConfig,
    ForceConfig, GripperCommands, GripperConfig, JointConfig, MAX_CAMERAS, PolicyConfig, ProprioConfig, SyncConfig,
    ViewSettings,
};
pub use value::{Parameters, Value};

use schema::{Rows, Table};

/// How the names of a camera's parameters start.
const OF_A_CAMERA: &str = "camera.";

/// Every parameter, in the order of the table; those that repeat for each name in a list come last.
///
/// # Errors
/// A list of names that is not allowed.
pub fn declared(audience: Audience) -> Result<Vec<Parameter>, ConfigError> {
    let mut rows = Rows::default();
    Config::declare("", audience, &mut rows)?;
    Ok(rows.fixed.into_iter().chain(rows.repeated).collect())
}

impl Config {
    /// Drops parameters that do not exist if they were meant for any node, as those of a shared file are, and warns of
    /// each. Those of cameras are left as they are until the cameras have names, so that a misspelt name is told before a
    /// checkpoint is opened.
    ///
    /// # Errors
    /// The first parameter that does not exist although it was given to this very node.
    pub fn keep_declared(given: &mut Given) -> Result<(), ConfigError> {
        let rows = declared(Audience::Node(&given.parameters))?;
        let are_named = rows.iter().any(|row| row.name.starts_with(OF_A_CAMERA));
        let is_declared = |name: &str| rows.iter().any(|row| row.name == name);
        let may_be_declared = |name: &str| !are_named && name.starts_with(OF_A_CAMERA);
        let unknown: Vec<String> =
            given.parameters.keys().filter(|name| !is_declared(name) && !may_be_declared(name)).cloned().collect();
        for name in unknown {
            let error = parameter::unknown(&name, &rows);
            if given.is_deliberate(&name) {
                return Err(error);
            }
            given.warnings.push(format!("ignored, because it is not given to this node alone: {error}"));
            given.parameters.remove(&name);
        }
        Ok(())
    }

    /// Validates `given`; absent parameters have their defaults.
    ///
    /// # Errors
    /// The first parameter that does not exist, has another type, or is out of range.
    pub fn from_parameters(given: &Parameters) -> Result<Self, ConfigError> {
        let rows = declared(Audience::Node(given))?;
        if let Some(name) = given.keys().find(|name| !rows.iter().any(|row| row.name == **name)) {
            return Err(parameter::unknown(name, &rows));
        }
        let config = Self::read("", given)?;
        // This depends on two parameters, so the rule of neither can check it.
        let is_measured = config.proprio.feed != Some(ProprioFeed::Zeros);
        if config.proprio.source == ProprioSource::JointStates && config.proprio.joints.is_empty() && is_measured {
            let reason = "empty: name the joints in the order the checkpoint was trained with";
            return Err(ConfigError::invalid("proprio.joint_names", reason));
        }
        if config.proprio.source == ProprioSource::EePose && config.rotation_6d.is_none() && is_measured {
            let reason = "unknown, and poses go in: add `rotation_6d: columns` (r11 r21 r31 r12 r22 r32), \
                          `rotation_6d: rows` (r11 r12 r21 r22 r31 r32), or the `embodiment`";
            return Err(ConfigError::invalid("rotation_6d", reason));
        }
        control::check(&config.output, config.step_dt_s)?;
        drill::check(&config.drill)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn minimal() -> Parameters {
        Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("proprio.joint_names".to_owned(), Value::Strings(vec!["a".to_owned(), "b".to_owned()])),
        ])
    }

    fn rows() -> Vec<Parameter> {
        declared(Audience::Node(&minimal())).unwrap()
    }

    fn with(name: &str, value: Value) -> Result<Config, ConfigError> {
        let mut parameters = minimal();
        parameters.insert(name.to_owned(), value);
        Config::from_parameters(&parameters)
    }

    fn refusal(name: &str, value: Value) -> String {
        with(name, value).unwrap_err().to_string()
    }

    #[test]
    fn a_checkpoint_and_joint_names_are_all_that_is_required() {
        let config = Config::from_parameters(&minimal()).unwrap();
        assert!(config.cameras.is_empty(), "the checkpoint names them");
        assert_eq!(config.seed, Some(0));
        assert_eq!(config.steps, None);
        assert!(Config::from_parameters(&Parameters::new()).unwrap_err().to_string().contains("checkpoint"));
    }

    #[test]
    fn a_misspelt_parameter_is_refused_with_a_hint() {
        let message = refusal("state.joint_names", Value::Strings(vec![]));
        assert_eq!(message, "parameter `state.joint_names` does not exist: did you mean `proprio.joint_names`?");
        let message = refusal("stepz", Value::Integer(1));
        assert_eq!(message, "parameter `stepz` does not exist: did you mean `steps`?");
        assert_eq!(refusal("voltage", Value::Integer(1)), "parameter `voltage` does not exist");
    }

    fn names(names: &[&str]) -> Value {
        Value::Strings(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn each_camera_has_parameters_of_its_own_under_its_name() {
        let mut parameters = minimal();
        parameters.insert("cameras".to_owned(), names(&["front", "wrist"]));
        parameters.insert("camera.wrist.rotation".to_owned(), Value::Integer(180));
        let cameras = Config::from_parameters(&parameters).unwrap().cameras;
        let turned: Vec<_> =
            cameras.iter().map(|camera| (camera.name.as_str(), camera.settings.view.rotation)).collect();
        assert_eq!(turned, [("front", Rotation::None), ("wrist", Rotation::Half)]);
    }

    #[test]
    fn the_picture_of_a_camera_is_checked_at_the_start() {
        let refusal = |name: &str, value: Value| {
            let mut parameters = minimal();
            parameters.insert("cameras".to_owned(), names(&["wrist"]));
            parameters.insert(name.to_owned(), value);
            Config::from_parameters(&parameters).unwrap_err().to_string()
        };
        assert_eq!(
            refusal("camera.wrist.rotation", Value::Integer(45)),
            "parameter `camera.wrist.rotation`: 45: expected one of 0, 90, 180, 270"
        );
        assert!(refusal("camera.wrist.crop", Value::Integers(vec![0, 0, 5])).contains("[x, y, width, height]"));
        let encoding = refusal("camera.wrist.encoding", Value::String("rgb".to_owned()));
        assert!(encoding.contains("\"rgb\" is not supported: expected one of rgb8, bgr8"), "{encoding}");
    }

    #[test]
    fn parameters_of_a_camera_that_is_not_listed_are_refused() {
        assert!(refusal("camera.wrist.rotation", Value::Integer(180)).contains("does not exist"));
    }

    #[test]
    fn a_camera_whose_name_no_topic_can_have_is_refused() {
        for name in ["", "0", "left wrist", "left/wrist", "wríst"] {
            assert!(
                refusal("cameras", names(&["front", name])).contains("cannot stand in the name of a topic"),
                "{name}"
            );
        }
        assert!(refusal("cameras", names(&["front", "front"])).contains("`front` is named twice"));
    }

    #[test]
    fn a_wrong_type_a_value_out_of_range_and_an_unknown_choice_are_refused_by_name() {
        assert_eq!(
            refusal("steps", Value::Integer(2000)),
            "parameter `steps`: 2000 is out of range: expected 0..=1000"
        );
        assert_eq!(
            refusal("steps", Value::String("ten".to_owned())),
            "parameter `steps`: expected an integer, found a string"
        );
        assert!(refusal("dtype", Value::String("f64".to_owned())).contains("expected one of f32, f16, bf16"));
        assert!(refusal("device", Value::String("tpu".to_owned())).contains("`tpu` is not a device"));
        assert!(refusal("step_dt_s", Value::Double(f64::NAN)).contains("out of range"));
    }

    #[test]
    fn a_whole_number_passes_for_a_number() {
        assert_eq!(with("step_dt_s", Value::Integer(1)).unwrap().step_dt_s, Some(1.0));
    }

    #[test]
    fn a_negative_seed_means_fresh_noise() {
        assert_eq!(with("seed", Value::Integer(-1)).unwrap().seed, None);
    }

    #[test]
    fn a_deadline_of_zero_means_to_wait_for_ever() {
        assert_eq!(Config::from_parameters(&minimal()).unwrap().policy.deadline, None);
        let deadline = with("policy.deadline_ms", Value::Integer(250)).unwrap().policy.deadline;
        assert_eq!(deadline, Some(Duration::from_millis(250)));
        assert!(refusal("policy.deadline", Value::Integer(250)).contains("does not exist"));
    }

    #[test]
    fn a_parameter_that_is_gone_is_refused_with_what_takes_its_place() {
        let refused = refusal("engine.fp8", Value::Bool(true));
        assert!(refused.starts_with("parameter `engine.fp8` does not exist any more: "), "{refused}");
        assert!(refused.contains("`xvla quantize"), "{refused}");
        assert!(refusal("engine.prune_2to4", Value::Bool(true)).contains("`xvla checkpoint prune --2to4`"));
    }

    #[test]
    fn engine_options_are_read_beside_those_of_their_group() {
        assert_eq!(Config::from_parameters(&minimal()).unwrap().engine, EngineConfig::default());
        let engine = with("engine.workspace_mb", Value::Integer(256)).unwrap().engine;
        assert_eq!(engine.build, BuildOptions { workspace_mb: Some(256), ..BuildOptions::default() });
        assert!(engine.cuda_graph);
    }

    #[test]
    fn readers_see_one_group_for_all_cameras() {
        let rows = declared(Audience::Readers).unwrap();
        let cameras: Vec<_> = rows.iter().map(|row| row.name.as_str()).filter(|n| n.starts_with("camera")).collect();
        assert_eq!(
            cameras,
            [
                "cameras",
                "camera.<name>.transport",
                "camera.<name>.rotation",
                "camera.<name>.crop",
                "camera.<name>.encoding",
                "camera.<name>.required",
                "camera.<name>.max_age_ms",
                "camera.<name>.rate_hz",
            ]
        );
    }

    #[test]
    fn every_name_is_declared_once_and_described_in_a_sentence() {
        let rows = rows();
        let names: std::collections::BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
        assert_eq!(names.len(), rows.len());
        for row in &rows {
            assert!(row.description.ends_with('.') && !row.description.contains("  "), "{}", row.description);
            assert_eq!(row.check(row.default.clone()).unwrap(), row.default, "{}", row.name);
        }
    }

    #[test]
    fn a_joint_named_twice_is_refused() {
        let names = Value::Strings(vec!["a".to_owned(), "b".to_owned(), "a".to_owned()]);
        assert!(refusal("proprio.joint_names", names).contains("`a` is named twice"));
    }

    #[test]
    fn a_parameter_that_does_not_exist_is_dropped_only_if_it_was_meant_for_any_node() {
        let given = |node: &str| {
            let mut overrides = Overrides::default();
            overrides.assign("checkpoint:=model").unwrap();
            let file = format!("{node}: {{ros__parameters: {{steps: 3, battery: {{cells: [true, false]}}}}}}\n");
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&path, file).unwrap();
            overrides.add_file(path.path()).unwrap();
            overrides.for_node("/xvla")
        };
        let mut shared = given("/**");
        Config::keep_declared(&mut shared).unwrap();
        assert_eq!(shared.parameters.keys().collect::<Vec<_>>(), ["checkpoint", "steps"]);
        assert_eq!(
            shared.warnings,
            ["ignored, because it is not given to this node alone: parameter `battery.cells` does not exist"]
        );
        let refusal = Config::keep_declared(&mut given("xvla")).unwrap_err();
        assert_eq!(refusal.to_string(), "parameter `battery.cells` does not exist");
    }

    #[test]
    fn a_misspelt_name_is_told_before_the_cameras_have_names_but_not_that_of_a_cameras_parameter() {
        let mut given = Parameters::from([("camera.top.transport".to_owned(), Value::String("raw".to_owned()))]);
        assert!(Config::keep_declared(&mut given.clone().into()).is_ok());
        given.insert("stepz".to_owned(), Value::Integer(1));
        let refusal = Config::keep_declared(&mut given.clone().into()).unwrap_err().to_string();
        assert!(refusal.contains("`stepz`"), "{refusal}");
        given.remove("stepz");
        given.insert("cameras".to_owned(), names(&["front"]));
        let refusal = Config::keep_declared(&mut given.into()).unwrap_err().to_string();
        assert!(refusal.contains("`camera.top.transport` does not exist"), "{refusal}");
    }

    #[test]
    fn a_value_of_a_type_that_no_parameter_has_is_refused_where_a_parameter_gets_it() {
        let refused = refusal("action_names", Value::Bools(vec![true]));
        assert_eq!(refused, "parameter `action_names`: expected a list of strings, found a list of booleans");
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::Bool),
            any::<i64>().prop_map(Value::Integer),
            any::<f64>().prop_map(Value::Double),
            ".{0,8}".prop_map(Value::String),
            proptest::collection::vec(".{0,4}", 0..3).prop_map(Value::Strings),
            proptest::collection::vec(any::<i64>(), 0..3).prop_map(Value::Integers),
            proptest::collection::vec(any::<f64>(), 0..3).prop_map(Value::Doubles),
        ]
    }

    proptest! {
        #[test]
        fn whatever_is_accepted_is_well_formed(row in 0..rows().len(), value in any_value()) {
            let name = rows()[row].name.clone();
            if let Ok(config) = with(&name, value) {
                prop_assert!(config.cameras.len() <= MAX_CAMERAS);
                prop_assert!(config.step_dt_s.is_none_or(|seconds| seconds.is_finite() && seconds > 0.0));
                prop_assert!(config.steps.is_none_or(|steps| (1..=1000).contains(&steps)));
                prop_assert!(config.domain_id.is_none_or(|domain| domain >= 0));
            }
        }
    }
}
