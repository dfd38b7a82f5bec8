//! The values of parameters, in the types that ROS 2 parameters have.

use std::collections::BTreeMap;

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A 64-bit integer.
    Integer(i64),
    /// A double-precision number.
    Double(f64),
    /// Text, UTF-8.
    String(String),
    /// A list of truth values, which no parameter has but files for other nodes may hold.
    Bools(Vec<bool>),
    /// A list of integers.
    Integers(Vec<i64>),
    /// A list of double-precision numbers.
    Doubles(Vec<f64>),
    /// A list of texts.
    Strings(Vec<String>),
}

/// Parameters by their dotted names.
pub type Parameters = BTreeMap<String, Value>;

impl Value {
    /// The name of the type for messages, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a boolean",
            Self::Integer(_) => "an integer",
            Self::Double(_) => "a number",
            Self::String(_) => "a string",
            Self::Bools(_) => "a list of booleans",
            Self::Integers(_) => "a list of integers",
            Self::Doubles(_) => "a list of numbers",
            Self::Strings(_) => "a list of strings",
        }
    }

    /// Converts this value to the type of `like`. Integers pass for numbers, an empty list for any list.
    ///
    /// # Errors
    /// A value of any other type; the message names the expected type and this one.
    pub fn in_type_of(self, like: &Self) -> Result<Self, String> {
        match (like, self) {
            (Self::Double(_), Self::Integer(whole)) => Ok(Self::Double(whole as f64)),
            (Self::Doubles(_), Self::Integers(whole)) => {
                Ok(Self::Doubles(whole.into_iter().map(|whole| whole as f64).collect()))
            }
            (Self::Integers(_), value) if value.is_empty_list() => Ok(Self::Integers(Vec::new())),
            (Self::Doubles(_), value) if value.is_empty_list() => Ok(Self::Doubles(Vec::new())),
            (Self::Strings(_), value) if value.is_empty_list() => Ok(Self::Strings(Vec::new())),
            (like, value) if std::mem::discriminant(like) == std::mem::discriminant(&value) => Ok(value),
            (like, value) => Err(format!("expected {}, found {}", like.kind(), value.kind())),
        }
    }

    fn is_empty_list(&self) -> bool {
        match self {
            Self::Bools(list) => list.is_empty(),
            Self::Integers(list) => list.is_empty(),
            Self::Doubles(list) => list.is_empty(),
            Self::Strings(list) => list.is_empty(),
            Self::Bool(_) | Self::Integer(_) | Self::Double(_) | Self::String(_) => false,
        }
    }

    /// The number, or those of the list; empty for other types.
    pub fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Integer(whole) => vec![*whole as f64],
            Self::Double(number) => vec![*number],
            Self::Integers(list) => list.iter().map(|whole| *whole as f64).collect(),
            Self::Doubles(list) => list.clone(),
            Self::Bool(_) | Self::String(_) | Self::Bools(_) | Self::Strings(_) => Vec::new(),
        }
    }
}

/// Implements the conversions between a Rust type and the variant that holds it, in both directions.
macro_rules! stands_for {
    ($($type:ty => $variant:ident),+ $(,)?) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }

        impl TryFrom<Value> for $type {
            type Error = String;

            fn try_from(value: Value) -> Result<Self, String> {
                match value.in_type_of(&Value::$variant(Self::default()))? {
                    Value::$variant(value) => Ok(value),
                    other => Err(format!("unexpectedly {}", other.kind())),
                }
            }
        }
    )+};
}

stands_for! {
    bool => Bool,
    i64 => Integer,
    f64 => Double,
    String => String,
    Vec<bool> => Bools,
    Vec<i64> => Integers,
    Vec<f64> => Doubles,
    Vec<String> => Strings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_pass_for_numbers_in_lists_too() {
        let numbers = Value::Integers(vec![1, 2]).in_type_of(&Value::Doubles(vec![])).unwrap();
        assert_eq!(numbers, Value::Doubles(vec![1.0, 2.0]));
        let refused = Value::Doubles(vec![1.5]).in_type_of(&Value::Integers(vec![])).unwrap_err();
        assert_eq!(refused, "expected a list of integers, found a list of numbers");
    }

    #[test]
    fn an_empty_list_passes_for_any_list_and_for_nothing_else() {
        for like in [Value::Integers(vec![1]), Value::Doubles(vec![1.0]), Value::Strings(vec!["a".to_owned()])] {
            let empty = Value::Strings(vec![]).in_type_of(&like).unwrap();
            assert_eq!((empty.kind(), empty.is_empty_list()), (like.kind(), true));
        }
        assert!(Value::Strings(vec![]).in_type_of(&Value::String(String::new())).is_err());
    }
}
