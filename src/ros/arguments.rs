//! The command line as ROS 2 defines it: `program [its own] --ros-args … [--] [its own]`.
//!
//! r2r passes the whole command line to rcl and panics if rcl refuses it, so it is checked here first. What this check
//! misses (a file that rcl's YAML parser refuses) is caught in [`create_context`].

use super::error::{ArgumentError, NodeError};
use crate::config::read_parameters_file;
use std::ffi::OsString;
use std::path::Path;

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
#[derive(Debug, Default, PartialEq)]
pub struct Arguments {
    /// The program's name and its own arguments, without those of ROS 2.
    pub own: Vec<String>,
    /// The values of `--params-file`, in the order given; later files win.
    pub params_files: Vec<String>,
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
                (true, _) if is_switch(&argument) => {}
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
        if *name == "--params-file" {
            self.params_files.push(value);
        }
        Ok(())
    }

    /// Reads the parameter files, so that a missing or malformed one gives a clearer error than rcl's.
    ///
    /// # Errors
    /// [`NodeError::Config`] for the first file that cannot be read.
    pub fn check_files(&self) -> Result<(), NodeError> {
        for file in &self.params_files {
            read_parameters_file(Path::new(file))?;
        }
        Ok(())
    }
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
        Ok(context) => context.map_err(NodeError::middleware("starting")),
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
        assert_eq!(arguments.params_files, ["f.yaml"]);
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
