//! A row of the parameter table, as ROS 2 declares it and the README lists it.

use super::error::ConfigError;
use super::value::{Parameters, Value};

/// The values that a parameter may have.
#[derive(Clone, Debug, PartialEq)]
pub enum Domain {
    /// Any value of the default's type.
    Any,
    /// A number, or numbers, within both bounds.
    Range(f64, f64),
    /// One of these texts.
    Choice(&'static [&'static str]),
}

/// One parameter as the table describes it.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Dotted name, as in parameter files.
    pub name: String,
    /// Default value, which also determines the type.
    pub default: Value,
    /// The values that it may have.
    pub domain: Domain,
    /// Whether it may change while the node runs.
    pub live: bool,
    /// One sentence for `ros2 param describe` and the README.
    pub description: &'static str,
}

impl Parameter {
    /// Converts `value` to this parameter's type and checks that it is allowed. Integers pass for numbers, an empty
    /// list for any list.
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

    /// Checks `value` as a new one while the node runs.
    ///
    /// # Errors
    /// As [`Parameter::check`]; [`ConfigError::ReadOnly`] for a parameter that is fixed.
    pub fn accept(&self, value: Value) -> Result<Value, ConfigError> {
        let value = self.check(value)?;
        if self.live { Ok(value) } else { Err(ConfigError::ReadOnly { name: self.name.clone() }) }
    }

    /// The checked value that this parameter has in `given`, or its default.
    ///
    /// # Errors
    /// As [`Parameter::check`].
    pub fn value_among(&self, given: &Parameters) -> Result<Value, ConfigError> {
        self.check(given.get(&self.name).unwrap_or(&self.default).clone())
    }
}

/// How much of two names must agree for one to be suggested for the other, 0 to 1.
const SIMILAR: f64 = 0.75;

/// Parameters that are gone, each with what takes its place.
const RETIRED: [(&str, &str); 2] = [
    (
        "engine.fp8",
        "leave it out: FP8 is a property of the checkpoint now, with ranges from real inputs; make one with `xvla quantize \
         --format fp8 --calib DIR`",
    ),
    (
        "engine.prune_2to4",
        "leave it out: 2:4 sparsity is a property of the checkpoint now; make one with `xvla checkpoint prune --2to4`",
    ),
];

/// What takes the place of the parameter `name`, if there was one of that name once.
pub fn retired(name: &str) -> Option<&'static str> {
    RETIRED.into_iter().find_map(|(gone, instead)| (gone == name).then_some(instead))
}

/// The error for a `name` that no row has. It suggests a row that shares the last part of the name, contains all of it,
/// or differs by little, if there is one.
pub(super) fn unknown(name: &str, rows: &[Parameter]) -> ConfigError {
    if let Some(instead) = retired(name) {
        return ConfigError::Unknown { name: name.to_owned(), hint: format!(" any more: {instead}") };
    }
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let similarity = |row: &&Parameter| strsim::normalized_damerau_levenshtein(&row.name, name);
    let closest = || {
        let closest = rows.iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)));
        closest.filter(|row| similarity(row) >= SIMILAR)
    };
    let similar = rows.iter().find(|row| last(&row.name) == last(name) || row.name.contains(name)).or_else(closest);
    let hint = similar.map_or(String::new(), |row| format!(": did you mean `{}`?", row.name));
    ConfigError::Unknown { name: name.to_owned(), hint }
}
