//! A parameter as the node has declared it.

use crate::config::{Parameter, Value};

/// A declared parameter with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Declared {
    /// Its name, default, domain and description.
    pub row: Parameter,
    /// Its present value.
    pub value: Value,
}
