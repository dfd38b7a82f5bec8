//! The command line as ROS 2 defines it: `program [its own] --ros-args … [--] [its own]`.
//!
//! r2r passes the whole command line to rcl and panics if rcl refuses it, so it is checked here first. What this check
//! misses (a name that rcl refuses) is caught in [`create_context`].

use super::error::{ArgumentError, NodeError};
use crate::config::topic_names::Remap;
use crate::config::{ConfigError, Overrides};
use std::ffi::OsString;
use std::path::Path;
use tracing::level_filters::LevelFilter;

/// Flags that take a value: both spellings, what the value must be, and the characters it must contain.
const WITH_VALUE: &[(&str, &str, &str, &str)] = &[
    ("-r", "--remap", "a rule `from:=to`", ":="),
    ("-p", "--param", "an assignment `name:=value`", ":="),
    ("--params-file", "--params-file", "a parameter file", ""),
    ("-e", "--enclave", "an enclave", ""),
    ("--log-level", "--log-level", "a level", ""),
    ("--log-config-file", "--log-config-file", "a file", ""),
    ("--log-file-name", "--log-file-name", "a name", ""),
];

/// Flags without a value, each with an `--enable-` and a `--disable-` form.
const SWITCHES: &[&str] = &["rosout-logs", "stdout-logs", "external-lib-logs"];

/// A command line that ROS 2 will accept.
#[derive(Debug, PartialEq)]
pub struct Arguments {
    /// The program's name and its own arguments, without those of ROS 2.
    pub own: Vec<String>,
    /// Where parameters come from, in the order given.
    pub parameters: Vec<ParameterSource>,
    /// The remapping rules of topics, in the order given.
    pub remaps: Vec<Remap>,
    /// The other rules, which name the node or its namespace, in the order given.
    own_name_rules: Vec<String>,
    /// Levels of logging by the name of a logger, in the order given; an empty name stands for all.
    pub log_levels: Vec<(String, LevelFilter)>,
    /// Whether log lines go to `/rosout`.
    pub rosout_logs: bool,
}

/// An argument that gives parameters.
#[derive(Debug, PartialEq)]
pub enum ParameterSource {
    /// The path of a parameter file.
    File(String),
    /// An assignment `name:=value` or `node:name:=value`.
    Assignment(String),
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            own: vec![],
            parameters: vec![],
            remaps: vec![],
            own_name_rules: vec![],
            log_levels: vec![],
            rosout_logs: true,
        }
    }
}

impl Arguments {
    /// Parses a command line, whose first element is the program's name.
    ///
    /// # Errors
    /// The first argument that ROS 2 would refuse.
    pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, ArgumentError> {
        let mut arguments = arguments.into_iter().map(|argument| {
            argument
                .into_string()
                .map_err(|raw| ArgumentError::NotUtf8 { argument: raw.to_string_lossy().into_owned() })
        });
        let mut parsed = Self::default();
        let mut inside = false;
        while let Some(argument) = arguments.next().transpose()? {
            match (inside, argument.as_str()) {
                (_, "--ros-args") => inside = true,
                (true, "--") => inside = false,
                (false, _) => parsed.own.push(argument),
                (true, _) if is_switch(&argument) => parsed.switch(&argument),
                (true, _) => parsed.flag(argument, arguments.next().transpose()?)?,
            }
        }
        Ok(parsed)
    }

    fn flag(&mut self, flag: String, value: Option<String>) -> Result<(), ArgumentError> {
        let known = WITH_VALUE.iter().find(|(short, long, ..)| flag == *short || flag == *long);
        let Some((_, name, expected, holds)) = known else {
            return Err(ArgumentError::Unknown { argument: flag });
        };
        let Some(value) = value else { return Err(ArgumentError::NothingAfter { flag, expected }) };
        let well_formed = value.find(holds).is_some_and(|at| at > 0 || holds.is_empty());
        if !well_formed {
            return Err(ArgumentError::Rule { flag, value, expected });
        }
        if *name == "--param" && has_number_after_dot(&value) {
            return Err(ArgumentError::NumberInName { flag, value });
        }
        match *name {
            "--params-file" => self.parameters.push(ParameterSource::File(value)),
            "--param" => self.parameters.push(ParameterSource::Assignment(value)),
            "--remap" => match Remap::of_topic(&value) {
                Some(remap) => self.remaps.push(remap),
                None => self.own_name_rules.push(value),
            },
            "--log-level" => self.log_levels.push(log_level(&value).ok_or(ArgumentError::Level { value })?),
            _ => {}
        }
        Ok(())
    }

    fn switch(&mut self, switch: &str) {
        match switch {
            "--enable-rosout-logs" => self.rosout_logs = true,
            "--disable-rosout-logs" => self.rosout_logs = false,
            // rcl acts on the others.
            _ => {}
        }
    }

    /// The name of the node's logger: its fully qualified name with dots, `left.xvla`. `name` is the node's own name,
    /// without the rules of the command line.
    pub fn logger(&self, name: &str) -> String {
        let rule = |keys: [&str; 2]| {
            let applies = |rule: &&String| {
                let left = rule.split(":=").next().unwrap_or_default();
                keys.contains(&left.strip_prefix(name).and_then(|rest| rest.strip_prefix(':')).unwrap_or(left))
            };
            self.own_name_rules.iter().find(applies).and_then(|rule| rule.split_once(":=")).map(|(_, to)| to)
        };
        let node = rule(["__node", "__name"]).unwrap_or(name);
        let namespace = rule(["__ns", "__ns"]).unwrap_or_default().trim_matches('/').replace('/', ".");
        if namespace.is_empty() { node.to_owned() } else { format!("{namespace}.{node}") }
    }

    /// Reads the parameter files and assignments.
    ///
    /// # Errors
    /// The first file that cannot be read, or value that is not well-formed.
    pub fn overrides(&self) -> Result<Overrides, ConfigError> {
        let mut overrides = Overrides::default();
        for source in &self.parameters {
            match source {
                ParameterSource::File(path) => overrides.add_file(Path::new(path))?,
                ParameterSource::Assignment(assignment) => overrides.assign(assignment)?,
            }
        }
        Ok(overrides)
    }
}

/// The value of `--log-level`: a level, or `name:=level` for one logger.
fn log_level(value: &str) -> Option<(String, LevelFilter)> {
    let (logger, level) = value.split_once(":=").unwrap_or(("", value));
    let level = match level.to_ascii_lowercase().as_str() {
        "debug" => LevelFilter::DEBUG,
        "info" | "unset" => LevelFilter::INFO,
        "warn" => LevelFilter::WARN,
        "error" => LevelFilter::ERROR,
        // No line of this node is more than an error.
        "fatal" => LevelFilter::OFF,
        _ => return None,
    };
    Some((logger.to_owned(), level))
}

/// Whether the name in `name:=value` has a part that starts with a digit, as `limits.0.speed` does.
fn has_number_after_dot(assignment: &str) -> bool {
    let name = assignment.split(":=").next().unwrap_or_default();
    name.split('.').any(|part| part.starts_with(|first: char| first.is_ascii_digit()))
}

fn is_switch(argument: &str) -> bool {
    let name = argument.strip_prefix("--enable-").or_else(|| argument.strip_prefix("--disable-"));
    name.is_some_and(|name| SWITCHES.contains(&name))
}

/// Starts ROS 2 with this process's command line.
///
/// # Errors
/// [`NodeError::Start`] with rcl's message.
pub fn create_context() -> Result<r2r::Context, NodeError> {
    // r2r panics with rcl's message. It is returned as an error, so the panic hook must not print it.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = std::panic::catch_unwind(r2r::Context::create);
    std::panic::set_hook(hook);
    match outcome {
        // rcl has accepted the arguments, so what failed is its logging, which r2r does not tell.
        Ok(context) => context.map_err(|_| NodeError::Start {
            reason:
                "its log could not be set up: its folder (ROS_LOG_DIR) must be writable, and the usual implementation \
                     takes no --log-config-file"
                    .to_owned(),
        }),
        Err(panic) => {
            let message = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            let line = message.unwrap_or("no reason given").split_whitespace().collect::<Vec<_>>().join(" ");
            Err(NodeError::Start { reason: line })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(line.split(' ').map(OsString::from))
    }

    #[test]
    fn arguments_of_ros_are_kept_from_those_of_the_program() {
        let line = "xvla_node --help --ros-args -r __ns:=/left -p a:=1 --params-file f.yaml --enable-rosout-logs -- -V";
        let arguments = parse(line).unwrap();
        assert_eq!(arguments.own, ["xvla_node", "--help", "-V"]);
        let sources = [ParameterSource::Assignment("a:=1".to_owned()), ParameterSource::File("f.yaml".to_owned())];
        assert_eq!(arguments.parameters, sources);
        assert_eq!(parse("xvla_node --ros-args").unwrap().own, ["xvla_node"]);
    }

    #[test]
    fn a_malformed_assignment_is_named_with_what_was_expected() {
        let message = parse("xvla_node --ros-args -p steps=3").unwrap_err().to_string();
        assert_eq!(message, "-p \"steps=3\": expected an assignment `name:=value`");
        assert!(parse("xvla_node --ros-args -p :=3").is_err());
        assert!(parse("xvla_node --ros-args --remap chatter").is_err());
    }

    #[test]
    fn a_name_that_only_a_file_can_hold_is_refused_with_the_remedy() {
        let message = parse("xvla_node --ros-args -p limits.0.speed:=1").unwrap_err().to_string();
        assert!(message.ends_with("use --params-file"), "{message}");
        assert!(parse("xvla_node --ros-args -p xvla:camera.top.transport:=raw -p seed:=0.5").is_ok());
    }

    #[test]
    fn levels_are_kept_by_logger_and_an_unknown_one_is_refused() {
        let arguments = parse("xvla_node --ros-args --log-level WARN --log-level left.xvla:=debug").unwrap();
        let levels = [(String::new(), LevelFilter::WARN), ("left.xvla".to_owned(), LevelFilter::DEBUG)];
        assert_eq!(arguments.log_levels, levels);
        let message = parse("xvla_node --ros-args --log-level loud").unwrap_err().to_string();
        assert_eq!(message, "--log-level \"loud\": expected debug, info, warn, error or fatal, or LOGGER:=LEVEL");
    }

    #[test]
    fn the_logger_is_named_like_the_node_with_its_namespace() {
        let logger = |line: &str| parse(&format!("xvla_node --ros-args {line}")).unwrap().logger("xvla");
        assert_eq!(logger("-p a:=1"), "xvla");
        assert_eq!(logger("-r __ns:=/left/arm -r __node:=policy"), "left.arm.policy");
        assert_eq!(logger("-r xvla:__ns:=/left -r other:__node:=policy"), "left.xvla");
    }

    #[test]
    fn the_last_switch_for_rosout_counts() {
        let enabled = |line: &str| parse(&format!("xvla_node --ros-args {line}")).unwrap().rosout_logs;
        assert!(enabled("--disable-stdout-logs"));
        assert!(!enabled("--disable-rosout-logs"));
        assert!(enabled("--disable-rosout-logs --enable-rosout-logs"));
    }

    #[test]
    fn a_flag_without_its_value_is_named() {
        let message = parse("xvla_node --ros-args --params-file").unwrap_err().to_string();
        assert_eq!(message, "--params-file: expected a parameter file after it");
    }

    #[test]
    fn a_flag_that_ros_does_not_know_is_named() {
        assert!(parse("xvla_node --ros-args --help").unwrap_err().to_string().starts_with("\"--help\" is not"));
    }

    #[test]
    fn an_argument_that_is_not_utf8_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let raw = OsString::from_vec(vec![b'a', 0xff]);
        assert!(matches!(Arguments::parse([raw]), Err(ArgumentError::NotUtf8 { .. })));
    }
}
