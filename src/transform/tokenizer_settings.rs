//! What Hugging Face's files beside a `tokenizer.json` say of padding and cutting. The side that is padded is not taken
//! from them, because lerobot's processor and X-VLA's own name one.

use crate::error::{CheckpointError, MOST_BYTES, check_content, read_regular};
use serde_json::Value;
use std::path::Path;

/// The files that may name the padding token, the one that counts first.
const FILES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// How a tokenizer pads and cuts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenizerSettings {
    /// The token that fills short texts; `None` for BART's.
    pub pad_token: Option<String>,
    /// Whether texts that are too long lose their beginning rather than their end.
    pub cuts_beginning: bool,
}

impl TokenizerSettings {
    /// Reads the files beside `tokenizer`, as far as they are there.
    ///
    /// # Errors
    /// A file that is not a JSON object, or a value of another type than it has to be.
    pub fn beside(tokenizer: &Path) -> Result<Self, CheckpointError> {
        let mut settings = Self::default();
        for name in FILES {
            let path = tokenizer.with_file_name(name);
            let Some(file) = object(&path)? else { continue };
            let fault = |field: &str, expected: &str| CheckpointError::Config {
                path: path.clone(),
                field: field.to_owned(),
                reason: format!("expected {expected}"),
            };
            if settings.pad_token.is_none() {
                // Older files have the token with its properties.
                settings.pad_token = match file.get("pad_token") {
                    None | Some(Value::Null) => None,
                    Some(Value::String(token)) => Some(token.clone()),
                    Some(token) => match token.get("content").and_then(Value::as_str) {
                        Some(token) => Some(token.to_owned()),
                        None => return Err(fault("pad_token", "a token, or null")),
                    },
                };
            }
            match file.get("truncation_side").map(Value::as_str) {
                None | Some(Some("right")) => {}
                Some(Some("left")) => settings.cuts_beginning = true,
                Some(_) => return Err(fault("truncation_side", "\"left\" or \"right\"")),
            }
        }
        Ok(settings)
    }
}

/// The file at `path`; `None` if there is none.
fn object(path: &Path) -> Result<Option<Value>, CheckpointError> {
    let malformed = |reason| CheckpointError::Malformed { path: path.to_owned(), reason };
    let bytes = match read_regular(path, MOST_BYTES) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(CheckpointError::Io { path: path.to_owned(), source }),
    };
    check_content(&bytes).map_err(malformed)?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|error| malformed(format!("not JSON: {error}")))?;
    if value.is_object() { Ok(Some(value)) } else { Err(malformed("not a JSON object".to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(files: &[(&str, &str)]) -> Result<TokenizerSettings, String> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        TokenizerSettings::beside(&folder.path().join("tokenizer.json")).map_err(|error| error.to_string())
    }

    fn pads_with(token: &str) -> TokenizerSettings {
        TokenizerSettings { pad_token: Some(token.to_owned()), ..TokenizerSettings::default() }
    }

    #[test]
    fn without_files_nothing_is_set() {
        assert_eq!(settings(&[]), Ok(TokenizerSettings::default()));
    }

    #[test]
    fn a_padding_token_is_a_name_or_has_one() {
        assert_eq!(settings(&[(FILES[0], r#"{"pad_token": "</s>"}"#)]), Ok(pads_with("</s>")));
        let old = r#"{"pad_token": {"content": "<pad>", "lstrip": false}}"#;
        assert_eq!(settings(&[(FILES[1], old)]), Ok(pads_with("<pad>")));
    }

    #[test]
    fn the_configuration_comes_before_the_map_of_tokens() {
        let files = [(FILES[0], r#"{"pad_token": "a"}"#), (FILES[1], r#"{"pad_token": "b"}"#)];
        assert_eq!(settings(&files), Ok(pads_with("a")));
    }

    #[test]
    fn the_beginning_is_cut_if_that_is_asked_for() {
        assert!(settings(&[(FILES[0], r#"{"truncation_side": "left"}"#)]).unwrap().cuts_beginning);
        assert!(!settings(&[(FILES[0], r#"{"truncation_side": "right"}"#)]).unwrap().cuts_beginning);
    }

    #[test]
    fn a_value_of_another_type_is_refused_with_its_file() {
        for text in [r#"{"pad_token": 1}"#, r#"{"truncation_side": "up"}"#, r#"{"truncation_side": 1}"#, "[]", "{"] {
            let refusal = settings(&[(FILES[0], text)]).unwrap_err();
            assert!(refusal.contains("tokenizer_config.json"), "{refusal}");
        }
    }
}
