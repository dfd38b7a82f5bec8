//! The error of parameters that cannot be used.

use std::path::PathBuf;

/// A set of parameters that cannot be used, with the reason.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The parameter file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The file is not a parameter file.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The parameter file.
        path: PathBuf,
        /// What is wrong with its content.
        reason: String,
    },
    /// An assignment on the command line is not well-formed.
    #[error("-p {assignment:?}: {reason}")]
    Assignment {
        /// The assignment as given.
        assignment: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There are parameters, but none of them is for this node.
    #[error("no parameters for the node {node}: there are sections for {sections}")]
    NoSection {
        /// The node's fully qualified name.
        node: String,
        /// The names of the sections.
        sections: String,
    },
    /// No parameter has this name.
    #[error("parameter `{name}` does not exist{hint}")]
    Unknown {
        /// The name that was given.
        name: String,
        /// The end of the message, which suggests a similar name; empty if there is none.
        hint: String,
    },
    /// A parameter that is fixed while the node runs.
    #[error("parameter `{name}` is read-only: restart the node with another value")]
    ReadOnly {
        /// Dotted name of the parameter.
        name: String,
    },
    /// Two sources of a fact about the model disagree.
    #[error("parameter `{name}`: {other}, but {known}: leave it out, or set `force.{flag}: true` if that is meant")]
    Contradiction {
        /// Dotted name of the parameter.
        name: String,
        /// Value and source that come first.
        known: String,
        /// Value and source that contradict them.
        other: String,
        /// The flag that allows it.
        flag: &'static str,
    },
    /// A parameter's value is of the wrong type or out of range.
    #[error("parameter `{name}`: {reason}")]
    Invalid {
        /// Dotted name of the parameter.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
}

impl ConfigError {
    /// The error for a parameter `name` whose value is not allowed.
    pub fn invalid(name: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { name: name.to_owned(), reason: reason.into() }
    }
}
