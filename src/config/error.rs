//! Why parameters cannot be used.

use std::path::PathBuf;

/// Why a set of parameters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not a parameter file.
    #[error("{}: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No parameter has this name.
    #[error("parameter `{name}` does not exist{hint}")]
    Unknown {
        /// The name given.
        name: String,
        /// A similar name, if there is one.
        hint: String,
    },
    /// A parameter's value is of the wrong type or out of range.
    #[error("parameter `{name}`: {reason}")]
    Invalid {
        /// The parameter.
        name: String,
        /// What is wrong with its value.
        reason: String,
    },
}

impl ConfigError {
    /// The parameter `name` has a value that it may not have.
    pub fn invalid(name: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { name: name.to_owned(), reason: reason.into() }
    }
}
