//! `adapter_config.json`, as PEFT writes it for LoRA.
//!
//! Only what decides the merged weights is read. A setting that makes an adapter something else than
//! W + scale·B·A is refused by its name.

use crate::error::{CheckpointError, check_content};
use indexmap::IndexMap;
use regex::Regex;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Keys that make a LoRA adapter another method. None of them is set in a plain one.
const OTHER_METHODS: &[(&str, &str)] = &[
    ("use_dora", "DoRA"),
    ("use_qalora", "QALoRA"),
    ("use_bdlora", "block-diagonal LoRA"),
    ("lora_bias", "LoRA with a bias"),
    ("alora_invocation_tokens", "activated LoRA, which depends on the text"),
    ("layer_replication", "LoRA with replicated layers"),
    ("target_parameters", "LoRA on bare parameters"),
    ("trainable_token_indices", "trained single tokens"),
    ("monteclora_config", "MonteCLoRA"),
    ("arrow_config", "Arrow routing"),
    ("kasa_config", "KaSA"),
];

/// Initial values that also change the base's weights, so that the base alone is not what was trained.
const CHANGED_BASES: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga", "kasa"];

#[derive(Deserialize)]
struct Raw {
    peft_type: Option<String>,
    #[serde(default = "rank")]
    r: i64,
    #[serde(default = "alpha")]
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    rank_pattern: Option<IndexMap<String, i64>>,
    alpha_pattern: Option<IndexMap<String, f64>>,
    modules_to_save: Option<Vec<String>>,
    target_modules: Option<Value>,
    init_lora_weights: Option<Value>,
    base_model_name_or_path: Option<String>,
    #[serde(flatten)]
    others: Map<String, Value>,
}

/// The names in a list; none where a pattern or a word stands for them.
fn names(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// PEFT's default of `r`.
fn rank() -> i64 {
    8
}

/// PEFT's default of `lora_alpha`.
fn alpha() -> f64 {
    8.0
}

/// The settings of a LoRA adapter that decide the merged weights.
#[derive(Debug)]
pub struct LoraConfig {
    /// The name or path of the base that it was trained on, if it says so.
    pub base: Option<String>,
    /// Names of modules, or of their ends, of which it stores whole tensors.
    pub modules_to_save: Vec<String>,
    /// Names of modules, or of their ends, that it changes; empty where a pattern says which.
    pub target_modules: Vec<String>,
    rank: i64,
    alpha: f64,
    rank_stabilised: bool,
    /// In the order of the file: the first that matches counts.
    ranks: Vec<(Regex, i64)>,
    alphas: Vec<(Regex, f64)>,
}

impl LoraConfig {
    /// Reads `bytes`, the content of the file at `path`.
    ///
    /// # Errors
    /// A file that is not JSON, or an adapter that is not plain LoRA.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CheckpointError> {
        let file = InFile(path.to_owned());
        check_content(bytes).map_err(|reason| CheckpointError::Malformed { path: path.to_owned(), reason })?;
        let mut deserializer = serde_json::Deserializer::from_slice(bytes);
        let raw: Raw = serde_path_to_error::deserialize(&mut deserializer)
            .map_err(|error| file.error(&error.path().to_string(), error.inner().to_string()))?;
        file.check_method(&raw)?;
        let rank = file.positive("r", raw.r as f64).map(|_| raw.r)?;
        let compiled = |field: &str, pattern: &str| {
            // As PEFT matches them: the pattern is the end of the module's name, after a dot or from its start.
            Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .map_err(|_| file.error(field, format!("`{pattern}` is no regular expression that is understood")))
        };
        let mut ranks = Vec::new();
        for (pattern, rank) in raw.rank_pattern.into_iter().flatten() {
            file.positive("rank_pattern", rank as f64)?;
            ranks.push((compiled("rank_pattern", &pattern)?, rank));
        }
        let mut alphas = Vec::new();
        for (pattern, alpha) in raw.alpha_pattern.into_iter().flatten() {
            alphas.push((compiled("alpha_pattern", &pattern)?, alpha));
        }
        Ok(Self {
            base: raw.base_model_name_or_path.filter(|base| !base.is_empty()),
            modules_to_save: raw.modules_to_save.unwrap_or_default(),
            target_modules: names(raw.target_modules.as_ref()),
            rank,
            alpha: raw.lora_alpha,
            rank_stabilised: raw.use_rslora,
            ranks,
            alphas,
        })
    }

    /// r: the rank of the matrices of `module`, a name in the base model.
    pub fn rank(&self, module: &str) -> i64 {
        first_match(&self.ranks, module).unwrap_or(self.rank)
    }

    /// The factor of B·A for `module`: α/r, or α/√r for rank-stabilised LoRA (Kalajdzievski 2023).
    pub fn scale(&self, module: &str) -> f64 {
        let alpha = first_match(&self.alphas, module).unwrap_or(self.alpha);
        let rank = self.rank(module) as f64;
        alpha / if self.rank_stabilised { rank.sqrt() } else { rank }
    }
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

/// Makes errors that name the file.
struct InFile(PathBuf);

impl InFile {
    fn error(&self, field: &str, reason: impl Into<String>) -> CheckpointError {
        CheckpointError::Config { path: self.0.clone(), field: field.to_owned(), reason: reason.into() }
    }

    fn positive(&self, field: &str, value: f64) -> Result<(), CheckpointError> {
        if (1.0..=f64::from(1 << 20)).contains(&value) {
            return Ok(());
        }
        Err(self.error(field, format!("{value} is out of range: expected 1..={}", 1 << 20)))
    }

    /// Checks that the adapter is W + scale·B·A and nothing else.
    fn check_method(&self, raw: &Raw) -> Result<(), CheckpointError> {
        let remedy = "merge it into its base with PEFT (`merge_and_unload`) and give the merged checkpoint";
        let kind = raw.peft_type.as_deref().unwrap_or("not set");
        if !kind.eq_ignore_ascii_case("lora") {
            return Err(self.error("peft_type", format!("`{kind}` is not supported, only `LORA` is: {remedy}")));
        }
        let is_set = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(items) => !items.is_empty(),
            Value::Object(items) => !items.is_empty(),
            _ => true,
        };
        for (key, method) in OTHER_METHODS {
            if raw.others.get(*key).is_some_and(is_set) {
                return Err(self.error(key, format!("{method} is not supported: {remedy}")));
            }
        }
        if let Some(Value::String(start)) = &raw.init_lora_weights
            && CHANGED_BASES.iter().any(|method| start.to_ascii_lowercase().starts_with(method))
        {
            let reason = format!("`{start}` has changed the base's weights when the training began: {remedy}");
            return Err(self.error("init_lora_weights", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(config: &Value) -> Result<LoraConfig, String> {
        let bytes = serde_json::to_vec(config).unwrap();
        LoraConfig::parse(Path::new("adapter_config.json"), &bytes).map_err(|error| error.to_string())
    }

    #[test]
    fn the_scale_is_alpha_over_the_rank_or_over_its_root() {
        let mut config = json!({"peft_type": "LORA", "r": 4, "lora_alpha": 16});
        assert_eq!(parse(&config).unwrap().scale("a.b"), 4.0);
        config["use_rslora"] = true.into();
        assert_eq!(parse(&config).unwrap().scale("a.b"), 8.0);
    }

    #[test]
    fn the_first_pattern_that_is_the_end_of_a_name_counts() {
        let config = parse(&json!({
            "peft_type": "LORA", "r": 8, "lora_alpha": 8,
            "rank_pattern": {"attn.proj": 2, r"blocks\.\d+\.attn\.proj": 4, "fc[12]": 1},
            "alpha_pattern": {"^vlm.fc1": 5}
        }))
        .unwrap();
        for (module, rank, scale) in [
            ("transformer.blocks.1.attn.proj", 2, 4.0),
            ("transformer.blocks.1.myattn.proj", 8, 1.0),
            ("transformer.blocks.1.attn.proj.more", 8, 1.0),
            ("vlm.fc1", 1, 5.0),
            ("a.vlm.fc1", 1, 8.0),
            ("fc2", 1, 8.0),
        ] {
            assert_eq!((config.rank(module), config.scale(module)), (rank, scale), "{module}");
        }
    }

    #[test]
    fn an_adapter_that_is_not_plain_lora_is_refused_by_its_name() {
        for (key, value, expected) in [
            ("peft_type", json!("LOHA"), "`LOHA` is not supported"),
            ("peft_type", json!(null), "`not set` is not supported"),
            ("use_dora", json!(true), "DoRA is not supported"),
            ("lora_bias", json!(true), "LoRA with a bias is not supported"),
            ("trainable_token_indices", json!([1]), "trained single tokens is not supported"),
            ("init_lora_weights", json!("pissa_niter_16"), "`pissa_niter_16` has changed the base's weights"),
            ("r", json!(0), "0 is out of range"),
            ("rank_pattern", json!({"(": 2}), "`(` is no regular expression"),
        ] {
            let mut config = json!({"peft_type": "LORA"});
            config[key] = value;
            let refusal = parse(&config).unwrap_err();
            assert!(refusal.contains(&format!("`{key}`: ")) && refusal.contains(expected), "{refusal}");
        }
    }

    #[test]
    fn settings_that_decide_nothing_may_have_any_value() {
        let config = json!({
            "peft_type": "LORA", "use_dora": false, "loftq_config": {}, "layer_replication": null,
            "init_lora_weights": "gaussian", "fan_in_fan_out": true, "bias": "all", "lora_dropout": 0.1
        });
        assert!(parse(&config).is_ok());
    }
}
