//! One row of the table, as ROS 2 declares it and the README lists it.

use super::error::ConfigError;
use super::value::{Parameters, Value};

/// What a parameter may be.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// Any value of the default's type.
    Any,
    /// A number, or numbers, within both bounds.
    Range(f64, f64),
    /// One of these texts.
    Choice(&'static [&'static str]),
}

/// One row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted name.
    pub name: String,
    /// Default, which also fixes the type.
    pub default: Value,
    /// What it may be.
    pub domain: Domain,
    /// Whether it may change while the node runs.
    pub live: bool,
    /// One sentence for `ros2 param describe` and the README.
    pub description: &'static str,
}

impl Parameter {
    /// `value` in this parameter's type, if it may have it. Whole numbers pass for numbers, an empty list for any list.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] saying what was expected.
    pub fn check(&self, value: Value) -> Result<Value, ConfigError> {
        let invalid = |reason: String| ConfigError::invalid(&self.name, reason);
        let value = value.in_type_of(&self.default).map_err(invalid)?;
        match (&self.domain, &value) {
            (Domain::Range(min, max), value) => {
                match value.numbers().into_iter().find(|number| !(*min..=*max).contains(number)) {
                    Some(number) => Err(invalid(format!("{number} is out of range: expected {min}..={max}"))),
                    None => Ok(value.clone()),
                }
            }
            (Domain::Choice(choices), Value::String(text)) if !choices.contains(&text.as_str()) => {
                Err(invalid(format!("`{text}`: expected one of {}", choices.join(", "))))
            }
            _ => Ok(value),
        }
    }

    /// The value that this parameter has among those `given`, else its default.
    ///
    /// # Errors
    /// As [`Parameter::check`].
    pub fn value_among(&self, given: &Parameters) -> Result<Value, ConfigError> {
        self.check(given.get(&self.name).unwrap_or(&self.default).clone())
    }
}

/// That no row is called `name`, pointing at one that shares the last part of it, if there is one.
pub(super) fn unknown(name: &str, rows: &[Parameter]) -> ConfigError {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let similar = rows.iter().find(|row| last(&row.name) == last(name) || row.name.contains(name));
    let hint = similar.map_or(String::new(), |row| format!(": did you mean `{}`?", row.name));
    ConfigError::Unknown { name: name.to_owned(), hint }
}
