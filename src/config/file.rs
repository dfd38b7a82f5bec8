//! Parameters from YAML, as `--params-file` takes them.

use super::ConfigError;
use super::parameters::{Parameters, Value};
use serde_yaml::Value as Yaml;
use std::path::Path;

/// Reads a ROS 2 parameter file (`<node>: ros__parameters: …`), or the bare parameters.
///
/// # Errors
/// A file that cannot be read, is not YAML, or holds a value no parameter can have.
pub fn read_parameters_file(path: &Path) -> Result<Parameters, ConfigError> {
    let malformed = |reason: String| ConfigError::Malformed { path: path.to_owned(), reason };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
    let root: Yaml = serde_yaml::from_str(&text).map_err(|error| malformed(format!("not YAML: {error}")))?;
    let mut parameters = Parameters::new();
    let Some(nodes) = root.as_mapping() else {
        return Err(malformed("no parameters: expected `<node>: ros__parameters:`".to_owned()));
    };
    let mut found = false;
    for section in nodes.values().filter_map(|node| node.get("ros__parameters")) {
        found = true;
        flatten("", section, &mut parameters).map_err(malformed)?;
    }
    if !found {
        flatten("", &root, &mut parameters).map_err(malformed)?;
    }
    Ok(parameters)
}

/// Adds the leaves of `tree` under their dotted names.
fn flatten(prefix: &str, tree: &Yaml, into: &mut Parameters) -> Result<(), String> {
    let Some(mapping) = tree.as_mapping() else {
        let value =
            scalar(tree).ok_or_else(|| format!("parameter `{prefix}`: a value of this kind is not supported"))?;
        into.insert(prefix.to_owned(), value);
        return Ok(());
    };
    for (key, value) in mapping {
        let key = match key {
            Yaml::String(key) => key.clone(),
            Yaml::Number(key) => key.to_string(),
            other => return Err(format!("`{prefix}`: {other:?} is not a parameter name")),
        };
        let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        flatten(&name, value, into)?;
    }
    Ok(())
}

fn scalar(value: &Yaml) -> Option<Value> {
    match value {
        Yaml::Bool(value) => Some(Value::Bool(*value)),
        Yaml::Number(number) => number.as_i64().map(Value::Integer).or_else(|| number.as_f64().map(Value::Double)),
        Yaml::String(text) => Some(Value::String(text.clone())),
        Yaml::Sequence(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>()?;
            Some(Value::Strings(texts))
        }
        _ => None,
    }
}
