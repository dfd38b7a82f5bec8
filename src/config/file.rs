//! Reads parameters from the YAML files that `--params-file` takes.

use super::error::ConfigError;
use super::value::{Parameters, Value};
use serde_yaml::Value as Yaml;
use std::path::Path;

/// Reads a ROS 2 parameter file (`<node>: ros__parameters: …`), or a file with the bare parameters.
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
            value_of(tree).ok_or_else(|| format!("parameter `{prefix}`: a value of this kind is not supported"))?;
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

fn value_of(tree: &Yaml) -> Option<Value> {
    match tree {
        Yaml::Bool(value) => Some(Value::Bool(*value)),
        Yaml::Number(number) => number.as_i64().map(Value::Integer).or_else(|| number.as_f64().map(Value::Double)),
        Yaml::String(text) => Some(Value::String(text.clone())),
        Yaml::Sequence(items) => list_of(items),
        _ => None,
    }
}

/// A list whose items all have one type, as ROS 2 requires; an empty list counts as a list of texts.
fn list_of(items: &[Yaml]) -> Option<Value> {
    let texts = || items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>();
    let integers = || items.iter().map(Yaml::as_i64).collect::<Option<_>>();
    let numbers = || items.iter().map(|item| item.as_f64().filter(|_| item.is_f64())).collect::<Option<_>>();
    texts().map(Value::Strings).or_else(|| integers().map(Value::Integers)).or_else(|| numbers().map(Value::Doubles))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(yaml: &str) -> Option<Value> {
        value_of(&serde_yaml::from_str(yaml).unwrap())
    }

    #[test]
    fn a_list_has_the_type_that_all_its_items_have() {
        assert_eq!(list("[a, b]"), Some(Value::Strings(vec!["a".to_owned(), "b".to_owned()])));
        assert_eq!(list("[1, -2]"), Some(Value::Integers(vec![1, -2])));
        assert_eq!(list("[1.5, 2.0]"), Some(Value::Doubles(vec![1.5, 2.0])));
        assert_eq!(list("[]"), Some(Value::Strings(vec![])));
    }

    #[test]
    fn a_list_of_several_types_is_none() {
        assert_eq!(list("[1, 2.5]"), None);
        assert_eq!(list("[a, 1]"), None);
        assert_eq!(list("[true]"), None);
    }
}
