//! Which of the parameters that files and `-p` give are for a node, and which of several wins: the rules of rcl and rclcpp.
//!
//! - A section is for a node if its name matches the node's fully qualified one: `/left/xvla`, `left/xvla`, or with
//!   wildcards `/**`, `/*/xvla`, `/left/**`. `*` stands for one name, `**` for any number of them. A name without a
//!   namespace, `xvla`, is `/xvla`.
//! - Sections of one name are one section, at the place of the first; what comes later replaces values in it. `-p a:=1`
//!   belongs to the section `/**`, `-p xvla:a:=1` to `xvla`.
//! - Of the sections that match, later ones win.
//!
//! Where rcl keeps the first of two values that differ in type, the later one wins here.

use super::error::ConfigError;
use super::file;
use super::value::{Parameters, Value};
use indexmap::IndexMap;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The node that parameters are for unless something else is said: its name in the root namespace.
pub const DEFAULT_NODE: &str = "/xvla";

/// The section that an assignment without a node belongs to.
const EVERY_NODE: &str = "/**";

/// Parameters that every ROS 2 node has, whatever it does: they mean nothing offline.
const OF_EVERY_NODE: [&str; 2] = ["use_sim_time", "start_type_description_service"];
/// The group of parameters that override QoS, which mean nothing offline.
pub const QOS_OVERRIDES: &str = "qos_overrides.";

/// Everything that parameter files and assignments give, for whatever node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Values by section and parameter, both in the order of their first appearance.
    sections: IndexMap<String, IndexMap<String, Override>>,
    /// The files that were added, with the names of their sections.
    files: Vec<(PathBuf, Vec<String>)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Override {
    value: Value,
    /// The assignment on the command line, if it was one.
    assignment: Option<String>,
}

impl Overrides {
    /// Adds what a parameter file gives.
    ///
    /// # Errors
    /// A file that cannot be read, or that rcl would refuse.
    pub fn add_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let malformed = |reason: String| ConfigError::Malformed { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
        let sections = file::sections(&text).map_err(malformed)?;
        self.files.push((path.to_owned(), sections.iter().map(|section| section.node.clone()).collect()));
        for section in sections {
            let known = self.sections.entry(section.node).or_default();
            for (name, value) in section.parameters {
                known.insert(name, Override { value, assignment: None });
            }
        }
        Ok(())
    }

    /// Adds an assignment `name:=value` or `node:name:=value`, as `-p` takes it.
    ///
    /// # Errors
    /// A value that rcl would refuse, or no assignment at all.
    pub fn assign(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let malformed = |reason: String| ConfigError::Assignment { assignment: assignment.to_owned(), reason };
        let (left, value) =
            assignment.split_once(":=").ok_or_else(|| malformed("expected `name:=value`".to_owned()))?;
        let (node, name) = left.split_once(':').unwrap_or((EVERY_NODE, left));
        let value = file::value(value).map_err(malformed)?;
        let assignment = Some(assignment.to_owned());
        self.sections.entry(node.to_owned()).or_default().insert(name.to_owned(), Override { value, assignment });
        Ok(())
    }

    /// The parameters for the node with this fully qualified name, such as `/left/xvla`. That a file has none is no
    /// fault in ROS, but seldom meant, so there is a warning of it.
    pub fn for_node(&self, node: &str) -> Given {
        let mut given = Given::default();
        for (path, sections) in &self.files {
            if !sections.is_empty() && !sections.iter().any(|section| is_for(section, node)) {
                let error = ConfigError::NoSection { node: node.to_owned(), sections: sections.join(", ") };
                given.warnings.push(format!("{}: {error}", path.display()));
            }
        }
        let mut assignments = IndexMap::new();
        for (section, parameters) in self.sections.iter().filter(|(section, _)| is_for(section, node)) {
            let exact = !section.contains('*');
            for (name, Override { value, assignment }) in parameters {
                given.parameters.insert(name.clone(), value.clone());
                if exact || assignment.is_some() {
                    given.deliberate.insert(name.clone());
                }
                match assignment {
                    Some(assignment) => assignments.insert(name, assignment),
                    None => {
                        assignments.shift_remove(name).inspect(|lost| given.warnings.push(outranked(lost, section)))
                    }
                };
            }
        }
        given
    }

    /// The parameters for a node, for a program that has no other use of them than that node's.
    ///
    /// # Errors
    /// [`ConfigError::NoSection`] if there are sections and none is for the node.
    pub fn for_chosen_node(&self, node: &str) -> Result<Given, ConfigError> {
        let sections: Vec<&str> = self.sections.keys().map(String::as_str).collect();
        if !sections.is_empty() && !sections.iter().any(|section| is_for(section, node)) {
            return Err(ConfigError::NoSection { node: node.to_owned(), sections: sections.join(", ") });
        }
        let mut given = self.for_node(node);
        given.parameters.retain(|name, _| !OF_EVERY_NODE.contains(&name.as_str()) && !name.starts_with(QOS_OVERRIDES));
        Ok(given)
    }
}

fn outranked(assignment: &str, section: &str) -> String {
    let (name, node) = (assignment.split(":=").next().unwrap_or_default(), section.trim_start_matches('/'));
    format!(
        "`-p {assignment}` has no effect: by the rules of ROS 2 the parameter file's section `{section}` comes after \
         `{EVERY_NODE}`, to which it belongs; write -p {node}:{name}:=... instead"
    )
}

/// Whether a section is for the node with this fully qualified name.
fn is_for(section: &str, node: &str) -> bool {
    fn matches(pattern: &[&str], names: &[&str]) -> bool {
        match (pattern.split_first(), names.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), None) => matches(rest, names),
            (Some((&"**", rest)), Some((_, later))) => matches(rest, names) || matches(pattern, later),
            (Some((first, rest)), Some((name, later))) => (*first == "*" || first == name) && matches(rest, later),
            _ => false,
        }
    }
    let parts =
        |path: &'_ str| path.strip_prefix('/').unwrap_or(path).split('/').map(str::to_owned).collect::<Vec<_>>();
    let (pattern, names) = (parts(section), parts(node));
    let [pattern, names] = [&pattern, &names].map(|parts| parts.iter().map(String::as_str).collect::<Vec<_>>());
    matches(&pattern, &names)
}

/// The parameters that one node is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// Values by name.
    pub parameters: Parameters,
    /// What a person should know about them, one line each.
    pub warnings: Vec<String>,
    /// Names that were given to this very node: by `-p`, or in a section without wildcards.
    deliberate: BTreeSet<String>,
}

impl Given {
    /// Whether a parameter was given to this very node, not to any that matches.
    pub fn is_deliberate(&self, name: &str) -> bool {
        self.deliberate.contains(name)
    }

    /// Takes out every parameter of a group, whose prefix ends with a dot.
    pub fn take_group(&mut self, prefix: &str) -> Parameters {
        let (taken, kept) =
            std::mem::take(&mut self.parameters).into_iter().partition(|(name, _)| name.starts_with(prefix));
        self.parameters = kept;
        taken
    }
}

impl From<Parameters> for Given {
    /// Parameters that were all given to this very node.
    fn from(parameters: Parameters) -> Self {
        Self { deliberate: parameters.keys().cloned().collect(), parameters, warnings: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is given in a file, then by assignments.
    fn overrides(file: &str, assignments: &[&str]) -> Overrides {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("robot.yaml");
        std::fs::write(&path, file).unwrap();
        let mut overrides = Overrides::default();
        overrides.add_file(&path).unwrap();
        assignments.iter().for_each(|assignment| overrides.assign(assignment).unwrap());
        overrides
    }

    /// A file with one parameter `a` per section: the number of the section.
    fn numbered(sections: &[&str]) -> String {
        let section = |(index, name): (usize, &&str)| format!("{name}: {{ros__parameters: {{a: {index}}}}}\n");
        sections.iter().enumerate().map(section).collect()
    }

    fn a(overrides: &Overrides, node: &str) -> Option<i64> {
        match overrides.for_node(node).parameters.get("a") {
            Some(Value::Integer(value)) => Some(*value),
            _ => None,
        }
    }

    #[test]
    fn a_section_is_for_the_nodes_that_its_name_matches() {
        for (section, node, matches) in [
            ("/**", "/left/xvla", true),
            ("**", "/xvla", true),
            ("/*", "/xvla", true),
            ("/*", "/left/xvla", false),
            ("/*/xvla", "/left/xvla", true),
            ("/left/**", "/left/xvla", true),
            ("/left/**", "/right/xvla", false),
            ("/**/xvla", "/a/b/xvla", true),
            ("/**/xvla", "/xvla", true),
            ("xvla", "/xvla", true),
            ("/xvla", "/xvla", true),
            ("left/xvla", "/left/xvla", true),
            ("xvla", "/left/xvla", false),
            ("xvl", "/xvla", false),
        ] {
            assert_eq!(is_for(section, node), matches, "{section} for {node}");
        }
    }

    #[test]
    fn of_sections_that_match_the_later_wins() {
        assert_eq!(a(&overrides(&numbered(&["/**", "xvla"]), &[]), "/xvla"), Some(1));
        assert_eq!(a(&overrides(&numbered(&["xvla", "/**"]), &[]), "/xvla"), Some(1));
        assert_eq!(a(&overrides(&numbered(&["xvla", "/**", "other"]), &[]), "/other"), Some(2));
    }

    #[test]
    fn an_assignment_wins_over_a_file_before_it() {
        assert_eq!(a(&overrides(&numbered(&["/**"]), &["a:=7"]), "/xvla"), Some(7));
        assert_eq!(a(&overrides(&numbered(&["xvla"]), &["a:=7"]), "/xvla"), Some(7));
        assert_eq!(a(&overrides(&numbered(&["/**", "xvla"]), &["xvla:a:=7"]), "/xvla"), Some(7));
        assert_eq!(a(&overrides(&numbered(&["xvla"]), &["other:a:=7"]), "/xvla"), Some(0));
    }

    #[test]
    fn an_assignment_that_ros_lets_a_section_outrank_is_warned_of() {
        let given = overrides(&numbered(&["/**", "xvla"]), &["a:=7"]).for_node("/xvla");
        assert_eq!(given.parameters["a"], Value::Integer(1));
        assert!(given.warnings[0].contains("write -p xvla:a:=... instead"), "{:?}", given.warnings);
        assert!(overrides(&numbered(&["/**"]), &["a:=7"]).for_node("/xvla").warnings.is_empty());
    }

    #[test]
    fn the_later_of_two_files_wins_whatever_the_types() {
        let mut both = overrides(&numbered(&["/**"]), &[]);
        both.assign("a:=0.5").unwrap();
        assert_eq!(both.for_node("/xvla").parameters["a"], Value::Double(0.5));
    }

    #[test]
    fn only_what_is_given_to_this_very_node_is_deliberate() {
        let overrides = overrides("/**: {ros__parameters: {a: 1}}\nxvla: {ros__parameters: {b: 1}}\n", &["c:=1"]);
        let given = overrides.for_node("/xvla");
        assert_eq!(["a", "b", "c"].map(|name| given.is_deliberate(name)), [false, true, true]);
    }

    #[test]
    fn a_node_that_no_section_is_for_is_told_which_there_are() {
        let overrides = overrides(&numbered(&["left/xvla", "right/xvla"]), &[]);
        let refusal = overrides.for_chosen_node("/xvla").unwrap_err().to_string();
        assert_eq!(refusal, "no parameters for the node /xvla: there are sections for left/xvla, right/xvla");
        assert!(overrides.for_chosen_node("/left/xvla").is_ok());
        assert!(Overrides::default().for_chosen_node("/xvla").is_ok());
    }

    #[test]
    fn a_file_that_has_nothing_for_a_running_node_is_warned_of() {
        let given = overrides(&numbered(&["xvla"]), &["a:=7"]).for_node("/left/xvla");
        assert!(given.warnings[0].ends_with("no parameters for the node /left/xvla: there are sections for xvla"));
        assert_eq!(given.parameters["a"], Value::Integer(7));
    }

    #[test]
    fn offline_what_only_ros_knows_is_left_out() {
        let file =
            "xvla: {ros__parameters: {use_sim_time: true, qos_overrides: {/a: {subscription: {depth: 1}}}, a: 1}}\n";
        let given = overrides(file, &[]).for_chosen_node("/xvla").unwrap();
        assert_eq!(given.parameters.into_keys().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_malformed_assignment_is_named() {
        let refusal = Overrides::default().assign("a:=[1, b]").unwrap_err().to_string();
        assert_eq!(refusal, "-p \"a:=[1, b]\": line 1: the values of a list must be of one type");
    }

    proptest! {
        #[test]
        fn two_stars_match_everything_that_a_name_without_wildcards_does(
            names in proptest::collection::vec("[a-c]{1,2}", 1..5),
        ) {
            let node = format!("/{}", names.join("/"));
            prop_assert!(is_for(&node, &node) && is_for("/**", &node));
            for position in 0..names.len() {
                let with = |star: &str| {
                    let mut pattern = names.clone();
                    pattern[position] = star.to_owned();
                    is_for(&pattern.join("/"), &node)
                };
                prop_assert!(with("*") && with("**"));
                prop_assert!(!with("other"));
            }
        }
    }
}
