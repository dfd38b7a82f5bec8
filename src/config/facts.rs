//! Facts about a model: parameters whose values the checkpoint's files or an embodiment fix. A deployment may supply what
//! neither gives; to contradict one it has to say so with `force.<fact>`.

use super::error::ConfigError;
use super::value::{Parameters, Value};
use std::fmt::{self, Display};

/// Where the value of a fact comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of the checkpoint, by its name.
    Checkpoint(String),
    /// The embodiment of this name.
    Embodiment(String),
    /// A parameter, because nothing else gives it.
    Parameter,
    /// A source that was allowed to contradict another one, which is named.
    Forced(String),
}

impl Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(file) => write!(f, "checkpoint ({file})"),
            Self::Embodiment(name) => write!(f, "embodiment {name}"),
            Self::Parameter => f.write_str("parameter"),
            Self::Forced(over) => write!(f, "forced over {over}"),
        }
    }
}

/// The value of a parameter, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The parameter's name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// Where the value comes from.
    pub origin: Origin,
}

/// Values of parameters from one source.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// The source.
    pub origin: Origin,
    /// What it gives.
    pub values: Parameters,
}

/// The facts with names of their own: parameter, flag below `force`, and the value with which a parameter leaves it open,
/// if there is one.
fn named_facts() -> [(&'static str, &'static str, Option<Value>); 14] {
    let (no_text, no_list) = (|| Some(Value::String(String::new())), || Some(Value::Strings(Vec::new())));
    [
        ("domain_id", "domain_id", Some(Value::Integer(-1))),
        ("rotation_6d", "rotation_6d", no_text()),
        ("step_dt_s", "step_dt_s", Some(Value::Double(0.0))),
        ("execute_steps", "execute_steps", Some(Value::Integer(0))),
        ("cameras", "cameras", no_list()),
        ("tokenizer", "tokenizer", no_text()),
        ("proprio.feed", "proprio", no_text()),
        ("proprio.first_rotation", "proprio", no_text()),
        // Here the default says something, so that to write it is to say it.
        ("proprio.gripper.scale", "proprio", None),
        ("proprio.gripper.offset", "proprio", None),
        ("action.delta", "action", None),
        ("action.gripper.threshold", "action", Some(Value::Double(-1.0))),
        ("action.gripper.above", "action", no_text()),
        ("action.gripper.commands", "action", no_list()),
    ]
}

/// A fact by its parameter's name.
struct Kind {
    flag: &'static str,
    /// The value with which a parameter leaves the fact open; `None` if every value is one.
    open: Option<Value>,
}

fn kind_of(name: &str) -> Option<Kind> {
    if name.starts_with("camera.") && name.ends_with(".rotation") {
        return Some(Kind { flag: "camera_rotation", open: None });
    }
    let known = named_facts().into_iter().find(|(known, ..)| *known == name);
    known.map(|(_, flag, open)| Kind { flag, open })
}

/// Adds to `given` what `sources` give, of which earlier ones come first, and returns every fact.
///
/// # Errors
/// [`ConfigError::Contradiction`] if a source contradicts an earlier one, or a parameter contradicts any, unless it is
/// forced; [`ConfigError::Invalid`] for a source that fixes something else than a fact.
pub fn settle(given: &mut Parameters, sources: &[Source]) -> Result<Vec<Fact>, ConfigError> {
    let mut facts: Vec<Fact> = Vec::new();
    let own = Source { origin: Origin::Parameter, values: own_facts(given) };
    for source in sources.iter().chain([&own]) {
        for (name, value) in &source.values {
            let Some(kind) = kind_of(name) else {
                let reason = format!("it is no fact about a model, so the {} cannot fix it", source.origin);
                return Err(ConfigError::invalid(name, reason));
            };
            let fact = Fact { name: name.clone(), value: value.clone(), origin: source.origin.clone() };
            match facts.iter_mut().find(|known| known.name == *name) {
                None => facts.push(fact),
                Some(known) => meet(known, fact, kind.flag, is_forced(given, kind.flag))?,
            }
        }
    }
    for fact in &facts {
        given.insert(fact.name.clone(), fact.value.clone());
    }
    Ok(facts)
}

/// Checks that no more of a chunk is executed than the `chunk_length` actions that it has, where that is known.
///
/// # Errors
/// [`ConfigError::Invalid`] for a number of the deployment's or the checkpoint's own. An embodiment executes as much of a
/// chunk as there is.
pub fn check_executed(facts: &[Fact], chunk_length: Option<i64>) -> Result<(), ConfigError> {
    let is_own = |fact: &&Fact| fact.name == "execute_steps" && !matches!(fact.origin, Origin::Embodiment(_));
    let executed = facts.iter().find(is_own).and_then(|fact| fact.value.numbers().first().copied());
    match (executed, chunk_length) {
        (Some(executed), Some(steps)) if executed > steps as f64 => {
            let reason = format!("{executed} steps, but the checkpoint's chunks have {steps}");
            Err(ConfigError::invalid("execute_steps", reason))
        }
        _ => Ok(()),
    }
}

/// The parameters among `given` that are facts and not left open.
fn own_facts(given: &Parameters) -> Parameters {
    let is_settled = |(name, value): &(&String, &Value)| {
        kind_of(name).is_some_and(|kind| kind.open.is_none_or(|open| !is_same(name, value, &open)))
    };
    given.iter().filter(is_settled).map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_forced(given: &Parameters, flag: &str) -> bool {
    given.get(&format!("force.{flag}")) == Some(&Value::Bool(true))
}

/// Takes `other` in the place of a fact that is known, if both agree or the contradiction is forced.
fn meet(known: &mut Fact, other: Fact, flag: &'static str, is_forced: bool) -> Result<(), ConfigError> {
    if is_same(&known.name, &known.value, &other.value) {
        // Names of cameras are the deployment's own, if it gives any.
        if other.origin == Origin::Parameter {
            known.value = other.value;
        }
        return Ok(());
    }
    if !is_forced {
        return Err(ConfigError::Contradiction {
            name: known.name.clone(),
            known: format!("{} by the {}", text(&known.value), known.origin),
            other: format!("{} by the {}", text(&other.value), other.origin),
            flag,
        });
    }
    let over = format!("{} by the {}", text(&known.value), known.origin);
    *known = Fact { origin: Origin::Forced(over), ..other };
    Ok(())
}

/// Whether two values say the same. Numbers may be rounded to three digits.
fn is_same(name: &str, a: &Value, b: &Value) -> bool {
    const ROUNDING: f64 = 2e-3;
    if name == "cameras" {
        return are_same_cameras(a, b);
    }
    match (a.numbers().as_slice(), b.numbers().as_slice()) {
        ([], []) => a.clone().in_type_of(b).is_ok_and(|a| a == *b),
        (a, b) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= ROUNDING * a.abs().max(b.abs())),
    }
}

/// Whether two lists of cameras may stand for the same views: as many, and no name of one at another place of the other.
fn are_same_cameras(a: &Value, b: &Value) -> bool {
    let (Value::Strings(a), Value::Strings(b)) = (a, b) else { return a == b };
    let is_elsewhere = |(index, name): (usize, &String)| b.get(index) != Some(name) && b.contains(name);
    a.len() == b.len() && !a.iter().enumerate().any(is_elsewhere)
}

/// A value as YAML has it.
pub fn text(value: &Value) -> String {
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    match value {
        Value::Bool(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bools(values) => list(values.iter().map(ToString::to_string).collect()),
        Value::Integers(values) => list(values.iter().map(ToString::to_string).collect()),
        Value::Doubles(values) => list(values.iter().map(ToString::to_string).collect()),
        Value::Strings(values) => list(values.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, Value)]) -> Parameters {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    fn names(names: &[&str]) -> Value {
        Value::Strings(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn checkpoint(pairs: &[(&str, Value)]) -> Source {
        Source { origin: Origin::Checkpoint("policy_preprocessor.json".to_owned()), values: values(pairs) }
    }

    fn embodiment(pairs: &[(&str, Value)]) -> Source {
        Source { origin: Origin::Embodiment("libero".to_owned()), values: values(pairs) }
    }

    /// What `domain_id` is for these sources.
    fn domain(given: &[(&str, Value)], sources: &[Source]) -> Result<(Value, String), String> {
        let mut given = values(given);
        let facts = settle(&mut given, sources).map_err(|error| error.to_string())?;
        let fact = facts.iter().find(|fact| fact.name == "domain_id").unwrap();
        assert_eq!(given["domain_id"], fact.value);
        Ok((fact.value.clone(), fact.origin.to_string()))
    }

    const THREE: (&str, Value) = ("domain_id", Value::Integer(3));
    const ZERO: (&str, Value) = ("domain_id", Value::Integer(0));
    const OPEN: (&str, Value) = ("domain_id", Value::Integer(-1));
    const FORCE: (&str, Value) = ("force.domain_id", Value::Bool(true));

    #[test]
    fn the_checkpoint_comes_before_the_embodiment_and_that_before_a_parameter() {
        let of_checkpoint = "checkpoint (policy_preprocessor.json)".to_owned();
        let both = [checkpoint(&[THREE]), embodiment(&[THREE])];
        assert_eq!(domain(&[THREE], &both), Ok((Value::Integer(3), of_checkpoint)));
        assert_eq!(domain(&[OPEN], &both[1..]), Ok((Value::Integer(3), "embodiment libero".to_owned())));
        assert_eq!(domain(&[ZERO], &[]), Ok((Value::Integer(0), "parameter".to_owned())));
    }

    #[test]
    fn a_contradiction_is_refused_with_both_sources_and_the_flag_that_forces_it() {
        let refusal = domain(&[ZERO], &[checkpoint(&[THREE])]).unwrap_err();
        let expected = "parameter `domain_id`: 0 by the parameter, but 3 by the checkpoint (policy_preprocessor.json): \
                        leave it out, or set `force.domain_id: true` if that is meant";
        assert_eq!(refusal, expected);
        let refusal = domain(&[], &[checkpoint(&[ZERO]), embodiment(&[THREE])]).unwrap_err();
        assert!(refusal.contains("3 by the embodiment libero, but 0 by the checkpoint"), "{refusal}");
    }

    #[test]
    fn a_forced_parameter_wins_and_says_over_what() {
        let (value, origin) = domain(&[ZERO, FORCE], &[checkpoint(&[THREE])]).unwrap();
        assert_eq!(value, Value::Integer(0));
        assert_eq!(origin, "forced over 3 by the checkpoint (policy_preprocessor.json)");
    }

    #[test]
    fn rounded_numbers_agree_and_others_do_not() {
        let meets = |seconds: f64| {
            let mut given = values(&[("step_dt_s", Value::Double(seconds))]);
            settle(&mut given, &[embodiment(&[("step_dt_s", Value::Double(1.0 / 30.0))])]).is_ok()
        };
        assert!(meets(0.0333) && meets(0.0) && !meets(0.05));
    }

    #[test]
    fn cameras_may_have_other_names_but_no_other_order_or_number() {
        let meets = |given: &[&str]| {
            let mut given = values(&[("cameras", names(given))]);
            settle(&mut given, &[checkpoint(&[("cameras", names(&["image", "wrist"]))])]).is_ok()
        };
        assert!(meets(&["image", "wrist"]) && meets(&["front", "wrist"]) && meets(&["front", "hand"]) && meets(&[]));
        assert!(!meets(&["wrist", "image"]) && !meets(&["wrist", "front"]) && !meets(&["image"]));
    }

    #[test]
    fn an_embodiment_does_not_rename_the_cameras_of_the_checkpoint_and_a_deployment_does() {
        let sources = [
            checkpoint(&[("cameras", names(&["image", "image2"]))]),
            embodiment(&[("cameras", names(&["front", "hand"]))]),
        ];
        let cameras = |given: &[&str]| {
            let mut given = values(&[("cameras", names(given))]);
            settle(&mut given, &sources).map(|_| given["cameras"].clone())
        };
        assert_eq!(cameras(&[]).unwrap(), names(&["image", "image2"]));
        assert_eq!(cameras(&["top", "side"]).unwrap(), names(&["top", "side"]));
        assert!(cameras(&["image2", "image"]).is_err(), "in another order than the checkpoint's");
    }

    #[test]
    fn a_rotation_of_a_camera_is_a_fact_even_where_it_is_none() {
        let mut given = values(&[("camera.front.rotation", Value::Integer(0))]);
        let turned = embodiment(&[("camera.front.rotation", Value::Integer(180))]);
        assert!(settle(&mut given, &[turned]).unwrap_err().to_string().contains("force.camera_rotation"));
    }

    #[test]
    fn a_parameter_that_says_what_the_default_is_contradicts_all_the_same() {
        for (name, own, said) in [
            ("proprio.gripper.scale", Value::Double(-2.0), Value::Double(1.0)),
            ("action.delta", Value::Integers(vec![0, 1, 2]), Value::Integers(Vec::new())),
        ] {
            let mut given = values(&[(name, said)]);
            assert!(settle(&mut given, &[embodiment(&[(name, own)])]).is_err(), "{name}");
        }
    }

    #[test]
    fn an_embodiment_fixes_facts_only() {
        let refusal = settle(&mut Parameters::new(), &[embodiment(&[("device", Value::String("cpu".to_owned()))])]);
        assert!(refusal.unwrap_err().to_string().contains("`device`"));
    }
}
