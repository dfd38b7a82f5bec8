//! Why the node cannot start or go on.

use crate::config::ConfigError;
use crate::pipeline::PipelineError;

/// A command line that ROS 2 cannot take.
#[derive(Debug, thiserror::Error)]
pub enum ArgumentError {
    /// An argument is not UTF-8.
    #[error("argument {argument:?} is not UTF-8")]
    NotUtf8 {
        /// The argument, made printable.
        argument: String,
    },
    /// A flag at the end, without what belongs to it.
    #[error("{flag}: expected {expected} after it")]
    NothingAfter {
        /// The flag.
        flag: String,
        /// What belongs to it.
        expected: &'static str,
    },
    /// A rule that is none.
    #[error("{flag} {value:?}: expected {expected}")]
    Rule {
        /// The flag.
        flag: String,
        /// What follows it.
        value: String,
        /// What should.
        expected: &'static str,
    },
    /// An assignment to a name that rcl's grammar for the command line does not have.
    #[error(
        "{flag} {value:?}: ROS 2 takes a name with a number after a dot from parameter files only: use --params-file"
    )]
    NumberInName {
        /// The flag.
        flag: String,
        /// What follows it.
        value: String,
    },
    /// A flag that ROS 2 does not know.
    #[error("{argument:?} is not an argument of ROS 2: those of the program come before --ros-args or after --")]
    Unknown {
        /// The argument.
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
    /// The checkpoint loads but cannot serve this deployment: other cameras, another state, another embodiment.
    #[error("the checkpoint does not fit the parameters: {source}")]
    Deployment {
        /// What the pipeline said about an observation of this deployment's shape.
        source: PipelineError,
    },
    /// ROS 2 did not start.
    #[error("ROS 2 did not start: {reason}")]
    Start {
        /// What rcl said.
        reason: String,
    },
    /// ROS 2 refused an operation.
    #[error("ROS 2: {doing}: {source}")]
    Middleware {
        /// What was being done.
        doing: String,
        /// What it said.
        source: r2r::Error,
    },
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
    /// A thread of the node ended by a panic, which is a defect of this program.
    #[error("the {0} thread ended unexpectedly: this is a defect, please report it with the lines above")]
    Died(&'static str),
}

impl NodeError {
    /// 2 for bad usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Self::Arguments(_)) { 2 } else { 1 }
    }

    /// Names what was being done when ROS 2 refused.
    pub fn middleware(doing: impl Into<String>) -> impl FnOnce(r2r::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Middleware { doing, source }
    }
}
