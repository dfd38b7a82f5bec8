//! Compares what `config.json` says of a variant with what its weights say: they carry the same section, so that neither
//! can be changed, or put beside another's file, without its being noticed.

use super::variant::{KEY, Method, Variant};
use crate::error::CheckpointError;
use crate::model::checkpoint::{Checkpoint, TensorEntry};
use crate::model::config::ModelConfig;
use crate::model::folders::{CONFIG_FILE, WEIGHTS_FILE};
use crate::model::weight::{fp8, scale_fault, sparse24};
use serde_json::Value;

/// The key of the weights' own metadata with the section of `config.json`, but for the weights' hash.
pub const RECORD: &str = "xvla_quantization";

/// The section as the weights carry it.
pub fn record(variant: &Variant) -> String {
    serde_json::to_value(unhashed(variant)).unwrap_or_default().to_string()
}

/// Checks that `checkpoint` is the one that its configuration describes: the same section, as many matrices in each format,
/// and scales that are positive numbers. Reads headers and scales only.
///
/// # Errors
/// [`CheckpointError::Config`] naming the first key that differs, with both values; a scale that cannot be one.
pub fn check(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    check_record(config.variant.as_ref(), checkpoint)?;
    check_counts(config.variant.as_ref(), checkpoint)?;
    check_scales(checkpoint)
}

/// SHA-256 of the weights, see [`Checkpoint::sha256`]. Those of a variant must have the one that was recorded.
///
/// # Errors
/// A file that can no longer be read; weights that have changed since they were measured.
pub fn sha256(config: &ModelConfig, checkpoint: &Checkpoint) -> Result<String, CheckpointError> {
    let found = checkpoint.sha256()?;
    match &config.variant {
        Some(variant) if variant.weights_sha256 != found => {
            let reason = format!(
                "the SHA-256 of the weights is {found}, and it says {}: they are not those that were measured: \
                 copy the folder anew",
                variant.weights_sha256
            );
            Err(refused(checkpoint, "weights_sha256", reason))
        }
        _ => Ok(found),
    }
}

fn check_record(said: Option<&Variant>, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let recorded = checkpoint.metadata(RECORD).map(serde_json::from_str::<Variant>).transpose();
    let recorded = recorded.map_err(|error| CheckpointError::Malformed {
        path: checkpoint.folder().join(WEIGHTS_FILE),
        reason: format!("its metadata `{RECORD}`: {error}"),
    })?;
    let value = |variant: &Variant| serde_json::to_value(unhashed(variant)).unwrap_or_default();
    match (said, recorded) {
        (None, None) => Ok(()),
        (Some(_), None) => {
            let reason = format!(
                "the weights do not say how they were made (their metadata have no `{RECORD}`), as after another program has saved \
                 them: copy the folder anew, or make the variant again"
            );
            Err(refused(checkpoint, "", reason))
        }
        (None, Some(recorded)) => {
            let reason = format!("it is missing, and the weights say that they are {recorded}: copy the folder anew");
            Err(refused(checkpoint, "", reason))
        }
        (Some(said), Some(recorded)) => match difference("", &value(said), &value(&recorded)) {
            None => Ok(()),
            Some((key, reason)) => Err(refused(
                checkpoint,
                &key,
                format!(
                    "{reason}: it was changed after the measurement: copy the folder anew, or make the variant again"
                ),
            )),
        },
    }
}

/// The first key below `key` at which `said` differs from `recorded`, and how.
fn difference(key: &str, said: &Value, recorded: &Value) -> Option<(String, String)> {
    let below = |name: &dyn std::fmt::Display| if key.is_empty() { name.to_string() } else { format!("{key}.{name}") };
    match (said, recorded) {
        (Value::Object(said), Value::Object(recorded)) => {
            let names = said.keys().chain(recorded.keys().filter(|name| !said.contains_key(*name)));
            let value = |of: &serde_json::Map<String, Value>, name: &String| of.get(name).cloned().unwrap_or_default();
            names.into_iter().find_map(|name| difference(&below(name), &value(said, name), &value(recorded, name)))
        }
        (Value::Array(said), Value::Array(recorded)) if said.len() == recorded.len() => {
            let mut pairs = said.iter().zip(recorded).enumerate();
            pairs.find_map(|(index, (said, recorded))| difference(&below(&index), said, recorded))
        }
        _ if said == recorded => None,
        (Value::Null, _) => Some((key.to_owned(), "it is missing, and the weights have it".to_owned())),
        (_, Value::Null) => Some((key.to_owned(), format!("it is {}, and the weights have none", shown(said)))),
        _ => Some((key.to_owned(), format!("it is {}, and the weights say {}", shown(said), shown(recorded)))),
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("a list of {}", values.len()),
        Value::Object(_) => "a section".to_owned(),
        other => other.to_string(),
    }
}

fn check_counts(said: Option<&Variant>, checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let count =
        |is: fn(&str, &TensorEntry) -> bool| checkpoint.entries().filter(|(name, entry)| is(name, entry)).count();
    let stored = [
        (Method::Fp8, count(|_, entry| entry.dtype == safetensors::Dtype::F8_E4M3)),
        (Method::Int8, count(|_, entry| entry.dtype == safetensors::Dtype::I8)),
        (Method::Sparse24, count(|name, _| name.ends_with(sparse24::METADATA))),
    ];
    for (method, found) in stored {
        let expected = said.filter(|variant| variant.method == method).map_or(0, |said| said.matrices);
        if found != expected {
            let reason = format!(
                "{found} matrices are stored as {}, and it says {expected}: config.json and weights are not of one checkpoint",
                method.name()
            );
            return Err(refused(checkpoint, "", reason));
        }
    }
    Ok(())
}

fn check_scales(checkpoint: &Checkpoint) -> Result<(), CheckpointError> {
    let is_scale = |name: &str| matches!(name.rsplit('.').next(), Some(fp8::WEIGHT_SCALE | fp8::INPUT_SCALE));
    for (name, _) in checkpoint.entries().filter(|(name, _)| is_scale(name)) {
        let torch = |error: tch::TchError| CheckpointError::Libtorch {
            path: checkpoint.folder().join(WEIGHTS_FILE),
            source: error.into(),
        };
        let Some(scales) = checkpoint.merged(name)? else { continue };
        if let Some(fault) = scale_fault(&scales).map_err(torch)? {
            let path = checkpoint.folder().join(WEIGHTS_FILE);
            return Err(CheckpointError::Malformed { path, reason: format!("tensor `{name}`: {fault}") });
        }
    }
    Ok(())
}

/// The variant without its weights' hash, which the weights themselves cannot hold.
fn unhashed(variant: &Variant) -> Variant {
    Variant { weights_sha256: String::new(), ..variant.clone() }
}

fn refused(checkpoint: &Checkpoint, key: &str, reason: String) -> CheckpointError {
    let field = if key.is_empty() { KEY.to_owned() } else { format!("{KEY}.{key}") };
    CheckpointError::Config { path: checkpoint.folder().join(CONFIG_FILE), field, reason }
}

#[cfg(test)]
mod tests {
    use super::difference;
    use serde_json::json;

    #[test]
    fn the_first_key_that_differs_is_named_with_both_values() {
        let (said, recorded) = (json!({"a": 1, "b": {"c": [1, 2]}}), json!({"a": 1, "b": {"c": [1, 3]}}));
        let (key, reason) = difference("", &said, &recorded).unwrap();
        assert_eq!((key.as_str(), reason.as_str()), ("b.c.1", "it is 2, and the weights say 3"));
    }

    #[test]
    fn a_key_that_is_missing_on_either_side_differs() {
        for (said, recorded) in [(json!({}), json!({"a": {}})), (json!({"a": []}), json!({}))] {
            assert_eq!(difference("", &said, &recorded).unwrap().0, "a");
        }
    }

    #[test]
    fn equal_sections_do_not_differ() {
        let section = json!({"a": 0.25, "b": [1, {"c": null}]});
        assert_eq!(difference("", &section, &section.clone()), None);
    }
}
