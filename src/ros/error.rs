//! The errors of the node: a command line that it cannot take, and failures that end it.

use crate::config::ConfigError;
use crate::pipeline::PipelineError;
use crate::pipeline::facts::FactsError;
use crate::robot::control::build::ControlError;
use crate::robot::deployment::DeploymentError;

/// A command line that ROS 2 cannot take.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// An argument is not valid UTF-8.
    #[error("argument {argument:?} is not UTF-8")]
    NotUtf8 {
        /// The argument, with replacement characters for what is not UTF-8.
        argument: String,
    },
    /// A flag that takes a value is the last argument.
    #[error("{flag}: expected {expected} after it")]
    NothingAfter {
        /// The flag as given.
        flag: String,
        /// What its value must be.
        expected: &'static str,
    },
    /// The value of a flag is not well-formed.
    #[error("{flag} {value:?}: expected {expected}")]
    Rule {
        /// The flag as given.
        flag: String,
        /// Its value.
        value: String,
        /// What its value must be.
        expected: &'static str,
    },
    /// An assignment to a name that rcl's grammar for the command line does not allow.
    #[error(
        "{flag} {value:?}: ROS 2 takes a name with a number after a dot from parameter files only: use --params-file"
    )]
    NumberInName {
        /// The flag as given.
        flag: String,
        /// Its value.
        value: String,
    },
    /// A level of logging that ROS 2 does not know.
    #[error("--log-level {value:?}: expected debug, info, warn, error or fatal, or LOGGER:=LEVEL")]
    Level {
        /// The value as given.
        value: String,
    },
    /// A flag that ROS 2 does not know.
    #[error("{argument:?} is not an argument of ROS 2: those of the program come before --ros-args or after --")]
    Unknown {
        /// The argument as given.
        argument: String,
    },
}

/// Anything that ends the node with a failure.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The command line is at fault.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// A parameter or parameter file is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The checkpoint, backend or device is at fault.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
    /// The checkpoint cannot serve this deployment.
    #[error(transparent)]
    Deployment(#[from] DeploymentError),
    /// Plans of this deployment cannot be played.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// ROS 2 did not start.
    #[error("ROS 2 did not start: {reason}")]
    Start {
        /// rcl's message.
        reason: String,
    },
    /// ROS 2 refused an operation.
    #[error("ROS 2: {doing}: {source}")]
    Middleware {
        /// The operation, or the topic that it was for.
        doing: String,
        /// r2r's error.
        source: r2r::Error,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// The named thread panicked, which is a defect of this program.
    #[error("the {0} thread ended unexpectedly: this is a defect, please report it with the lines above")]
    Died(&'static str),
    /// The inference thread panicked once more than it may be started again.
    #[error(
        "the inference thread panicked more often than {most} times a minute (guard.restarts): {message}: this is a \
         defect unless it is a drill, please report it with the lines above"
    )]
    Panicked {
        /// The message of the last panic.
        message: String,
        /// The number of starts that a minute may have.
        most: u32,
    },
}

impl NodeError {
    /// The program's exit code: 2 for bad usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Arguments(_)) { 2 } else { 1 }
    }

    /// For `map_err`: makes an r2r error into [`NodeError::Middleware`] that names the operation.
    pub fn middleware(doing: impl Into<String>) -> impl FnOnce(r2r::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Middleware { doing, source }
    }
}

impl From<FactsError> for NodeError {
    fn from(error: FactsError) -> Self {
        match error {
            FactsError::Config(error) => error.into(),
            FactsError::Checkpoint(error) => PipelineError::from(error).into(),
        }
    }
}
