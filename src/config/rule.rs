//! Rules give one parameter its type, default and allowed values, for example `integer(0).within(0..=1000).unless(0)`.

use super::choice::Choice;
use super::error::ConfigError;
use super::parameter::{Domain, Parameter};
use super::schema::{Audience, Entry, Place, Rows};
use super::value::{Parameters, Value};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// A parameter whose value becomes a `T`.
pub struct Rule<T> {
    /// The parameter's name, if it is not the field's.
    name: Option<&'static str>,
    default: Value,
    domain: Domain,
    live: bool,
    /// The default as a `T`.
    typed_default: T,
    typed: Box<dyn Fn(Value) -> Result<T, String>>,
}

/// A parameter that is true or false.
pub fn flag(default: bool) -> Rule<bool> {
    Rule::of(default)
}

/// An integer parameter.
pub fn integer(default: i64) -> Rule<i64> {
    Rule::of(default)
}

/// A floating-point parameter; an integer passes as well.
pub fn number(default: f64) -> Rule<f64> {
    Rule::of(default)
}

/// A text parameter.
pub fn text(default: &str) -> Rule<String> {
    Rule::of(default.to_owned())
}

/// A parameter that is a list of integers.
pub fn integers(default: &[i64]) -> Rule<Vec<i64>> {
    Rule::of(default.to_vec())
}

/// A parameter that is a list of floating-point numbers.
pub fn numbers(default: &[f64]) -> Rule<Vec<f64>> {
    Rule::of(default.to_vec())
}

/// A parameter that is a list of texts.
pub fn texts(default: &[&str]) -> Rule<Vec<String>> {
    Rule::of(default.iter().map(|text| (*text).to_owned()).collect())
}

/// A span of time in whole milliseconds, of at most ten minutes; 0 is `None`.
pub fn milliseconds(default: i64) -> Rule<Option<Duration>> {
    integer(default).within(0..=600_000).unless(0).map(|span| span.map(Duration::from_millis))
}

/// The path of a file or folder; empty text is `None`.
pub fn path() -> Rule<Option<PathBuf>> {
    text("").unless_blank().map(|text| text.map(PathBuf::from))
}

/// A text parameter that must be one of the names of a [`Choice`].
pub fn choice<T: Choice>(default: T) -> Rule<T> {
    let typed =
        |name: String| T::parse(&name).ok_or_else(|| format!("`{name}`: expected one of {}", T::NAMES.join(", ")));
    Rule { domain: Domain::Choice(T::NAMES), ..Rule::parse_with(default.name().to_owned(), default, typed) }
}

/// A text parameter that is empty, for `None`, or one of the names of a [`Choice`].
pub fn choice_or_unknown<T: Choice>() -> Rule<Option<T>> {
    text("").checked(|name| match T::parse(&name) {
        None if !name.is_empty() => Err(format!("`{name}`: expected one of {}, or nothing", T::NAMES.join(", "))),
        known => Ok(known),
    })
}

/// A text parameter that parses to a `T`.
pub fn parsed<T: FromStr<Err = String> + Display + 'static>(default: T) -> Rule<T> {
    Rule::parse_with(default.to_string(), default, |text: String| text.parse())
}

impl<T: Clone + Into<Value> + TryFrom<Value, Error = String> + 'static> Rule<T> {
    fn of(default: T) -> Self {
        Self::parse_with(default.clone(), default, Ok)
    }
}

impl<T: 'static> Rule<T> {
    fn parse_with<Raw>(default: Raw, typed_default: T, typed: impl Fn(Raw) -> Result<T, String> + 'static) -> Self
    where
        Raw: Into<Value> + TryFrom<Value, Error = String>,
    {
        Self {
            name: None,
            default: default.into(),
            domain: Domain::Any,
            live: false,
            typed_default,
            typed: Box::new(move |value| typed(value.try_into()?)),
        }
    }

    /// Gives the parameter another name than the field's, for example one that carries a unit.
    pub fn named(self, name: &'static str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Lets the parameter change while the node runs.
    pub fn live(self) -> Self {
        Self { live: true, ..self }
    }

    /// Converts the value with `map`.
    pub fn map<U: 'static>(self, map: impl Fn(T) -> U + Clone + 'static) -> Rule<U> {
        let convert = map.clone();
        self.converted(map, move |value| Ok(convert(value)))
    }

    /// Converts the value with `check`, which refuses it with a reason. The default has to become `U`'s own default.
    pub fn checked<U: Default + 'static>(self, check: impl Fn(T) -> Result<U, String> + 'static) -> Rule<U> {
        self.converted(|_| U::default(), check)
    }

    fn converted<U: 'static>(
        self,
        default: impl FnOnce(T) -> U,
        convert: impl Fn(T) -> Result<U, String> + 'static,
    ) -> Rule<U> {
        let typed = self.typed;
        Rule {
            name: self.name,
            default: self.default,
            domain: self.domain,
            live: self.live,
            typed_default: default(self.typed_default),
            typed: Box::new(move |value| convert(typed(value)?)),
        }
    }

    /// Refuses a value for which `fault` returns a reason. The default is checked only when it is used.
    fn refuse_if(self, fault: impl Fn(&T) -> Option<String> + 'static) -> Self {
        let typed = self.typed;
        let typed = move |value| {
            let value = typed(value)?;
            fault(&value).map_or(Ok(value), Err)
        };
        Self { typed: Box::new(typed), ..self }
    }

    fn row(&self, place: Place) -> Parameter {
        Parameter {
            name: Place { name: self.name.unwrap_or(place.name), ..place }.full_name(),
            default: self.default.clone(),
            domain: self.domain.clone(),
            live: self.live,
            description: place.description,
        }
    }
}

/// A value that can have bounds: a number, or a list with the same bounds for each number.
pub trait Bounded {
    /// Type of the number or of the list's numbers.
    type Number;

    /// The bound as the table stores it.
    fn bound(number: Self::Number) -> f64;
}

impl Bounded for i64 {
    type Number = i64;

    fn bound(number: i64) -> f64 {
        number as f64
    }
}

impl Bounded for f64 {
    type Number = f64;

    fn bound(number: f64) -> f64 {
        number
    }
}

impl<T: Bounded> Bounded for Vec<T> {
    type Number = T::Number;

    fn bound(number: T::Number) -> f64 {
        T::bound(number)
    }
}

impl<T: Bounded> Rule<T> {
    /// Sets inclusive bounds; in a list, they apply to each number.
    pub fn within(self, range: RangeInclusive<T::Number>) -> Self {
        let (min, max) = range.into_inner();
        Self { domain: Domain::Range(T::bound(min), T::bound(max)), ..self }
    }
}

impl Rule<i64> {
    /// Turns the value `none` into `None`. The range should exclude every other value that a `U` cannot hold, because
    /// it would become `None` as well.
    pub fn unless<U: TryFrom<i64> + 'static>(self, none: i64) -> Rule<Option<U>> {
        self.map(move |value| if value == none { None } else { U::try_from(value).ok() })
    }
}

impl Rule<f64> {
    /// Turns 0 into `None`.
    pub fn unless_zero(self) -> Rule<Option<f64>> {
        self.map(|value| (value != 0.0).then_some(value))
    }

    /// Refuses a factor that cannot be divided by.
    pub fn invertible(self) -> Self {
        const LEAST: f64 = 1e-9;
        self.refuse_if(|factor| {
            (factor.abs() < LEAST)
                .then(|| format!("{factor}: too near 0 to be divided by: expected at least {LEAST:e}"))
        })
    }
}

impl Rule<String> {
    /// Turns text without a visible character into `None`.
    pub fn unless_blank(self) -> Rule<Option<String>> {
        self.map(|text| Some(text).filter(|text| !text.trim().is_empty()))
    }

    /// The name of a topic, relative, absolute or private; empty text is `None`.
    pub fn topic(self) -> Rule<Option<String>> {
        self.checked(|name| match name.as_str() {
            "" => Ok(None),
            topic if is_topic(topic) => Ok(Some(name)),
            _ => Err(format!(
                "`{name}` is no name of a topic: use letters, digits and _ between slashes, and no digit first"
            )),
        })
    }

    /// Refuses empty text; `what` tells the user what to enter.
    pub fn required(self, what: &'static str) -> Self {
        self.refuse_if(move |text| text.is_empty().then(|| format!("empty: {what}")))
    }
}

impl Rule<Vec<String>> {
    /// Refuses a list with more than `most` texts.
    pub fn at_most(self, most: usize) -> Self {
        self.refuse_if(move |names| (names.len() > most).then(|| format!("{} names: at most {most}", names.len())))
    }

    /// Refuses a text that cannot stand in the name of a topic: letters, digits and `_`, and no digit first.
    pub fn topic_names(self) -> Self {
        self.refuse_if(|names| {
            names.iter().find(|name| !is_topic_name(name)).map(|name| {
                format!("`{name}` cannot stand in the name of a topic: use letters, digits and _, and no digit first")
            })
        })
    }

    /// Refuses a list that holds a text twice.
    pub fn each_once(self) -> Self {
        self.refuse_if(|names| {
            let twice = names.iter().enumerate().find(|(index, name)| names.iter().take(*index).any(|n| n == *name));
            twice.map(|(_, name)| format!("`{name}` is named twice"))
        })
    }
}

fn is_topic(name: &str) -> bool {
    let relative = name.strip_prefix("~/").or_else(|| name.strip_prefix('/')).unwrap_or(name);
    relative.split('/').all(is_topic_name)
}

fn is_topic_name(name: &str) -> bool {
    let rest_is_well_formed = name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    rest_is_well_formed && name.starts_with(|first: char| !first.is_ascii_digit())
}

impl<T: 'static> Entry<T> for Rule<T> {
    fn declare(&self, place: Place, _: Audience, rows: &mut Rows) -> Result<(), ConfigError> {
        rows.fixed.push(self.row(place));
        Ok(())
    }

    fn read(&self, place: Place, given: &Parameters) -> Result<T, ConfigError> {
        let row = self.row(place);
        (self.typed)(row.value_among(given)?).map_err(|reason| ConfigError::invalid(&row.name, reason))
    }

    fn default(self) -> T {
        self.typed_default
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place<'static> {
        Place { prefix: "limits", name: "speed", description: "How fast." }
    }

    fn read<T: 'static>(rule: &Rule<T>, value: Value) -> Result<T, String> {
        let given = Parameters::from([(rule.row(place()).name, value)]);
        rule.read(place(), &given).map_err(|error| error.to_string())
    }

    #[test]
    fn the_range_of_a_list_holds_for_each_number() {
        let rule = numbers(&[1.0]).within(0.0..=2.0);
        assert_eq!(read(&rule, Value::Doubles(vec![0.5, 2.0])), Ok(vec![0.5, 2.0]));
        assert_eq!(read(&rule, Value::Integers(vec![2])), Ok(vec![2.0]));
        assert_eq!(
            read(&rule, Value::Doubles(vec![0.5, 2.5])),
            Err("parameter `limits.speed`: 2.5 is out of range: expected 0..=2".to_owned())
        );
        let refused = read(&integers(&[]).within(-1..=1), Value::Integers(vec![0, -2]));
        assert_eq!(refused, Err("parameter `limits.speed`: -2 is out of range: expected -1..=1".to_owned()));
    }

    #[test]
    fn a_name_of_its_own_replaces_the_fields_below_the_same_group() {
        assert_eq!(integer(0).named("speed_mm_s").row(place()).name, "limits.speed_mm_s");
    }

    #[test]
    fn a_parameter_is_fixed_unless_it_is_said_to_be_live() {
        assert!(!flag(true).row(place()).live);
        assert!(flag(true).live().map(|set| !set).row(place()).live);
    }

    #[test]
    fn an_absent_parameter_has_its_default_which_is_checked_like_any_value() {
        assert_eq!(integer(3).read(place(), &Parameters::new()).unwrap(), 3);
        assert!(text("").required("name it").read(place(), &Parameters::new()).is_err());
    }
}
