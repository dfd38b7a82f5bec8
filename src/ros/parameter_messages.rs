//! Parameters as messages of rcl_interfaces, and back.

use super::declared::Declared;
use crate::config::Value;
use r2r::rcl_interfaces::msg::{Parameter, ParameterValue};

/// The constants of `rcl_interfaces/ParameterType`. r2r has them as bindgen constants whose names and types differ
/// between ROS releases.
pub mod kind {
    /// A value of this type is none.
    pub const NOT_SET: u8 = 0;
    /// A value of this type.
    pub const BOOL: u8 = 1;
    /// A value of this type.
    pub const INTEGER: u8 = 2;
    /// A value of this type.
    pub const DOUBLE: u8 = 3;
    /// A value of this type.
    pub const STRING: u8 = 4;
    /// A value of this type.
    pub const BOOL_ARRAY: u8 = 6;
    /// A value of this type.
    pub const INTEGER_ARRAY: u8 = 7;
    /// A value of this type.
    pub const DOUBLE_ARRAY: u8 = 8;
    /// A value of this type.
    pub const STRING_ARRAY: u8 = 9;
}

/// Converts a value to a message; a parameter that does not exist has type `NOT_SET`.
pub fn to_message(declared: Option<&Declared>) -> ParameterValue {
    let mut message = ParameterValue { type_: type_of(declared), ..ParameterValue::default() };
    match declared.map(|declared| declared.value.clone()) {
        None => {}
        Some(Value::Bool(value)) => message.bool_value = value,
        Some(Value::Integer(value)) => message.integer_value = value,
        Some(Value::Double(value)) => message.double_value = value,
        Some(Value::String(value)) => message.string_value = value,
        Some(Value::Bools(values)) => message.bool_array_value = values,
        Some(Value::Integers(values)) => message.integer_array_value = values,
        Some(Value::Doubles(values)) => message.double_array_value = values,
        Some(Value::Strings(values)) => message.string_array_value = values,
    }
    message
}

/// Converts a message to a value; `None` for a type that no parameter of this node has.
pub fn from_message(message: &ParameterValue) -> Option<Value> {
    Some(match message.type_ {
        kind::BOOL => Value::Bool(message.bool_value),
        kind::INTEGER => Value::Integer(message.integer_value),
        kind::DOUBLE => Value::Double(message.double_value),
        kind::STRING => Value::String(message.string_value.clone()),
        kind::BOOL_ARRAY => Value::Bools(message.bool_array_value.clone()),
        kind::INTEGER_ARRAY => Value::Integers(message.integer_array_value.clone()),
        kind::DOUBLE_ARRAY => Value::Doubles(message.double_array_value.clone()),
        kind::STRING_ARRAY => Value::Strings(message.string_array_value.clone()),
        _ => return None,
    })
}

/// The type of a parameter; `NOT_SET` for one that does not exist.
pub fn type_of(declared: Option<&Declared>) -> u8 {
    match declared.map(|declared| &declared.value) {
        None => kind::NOT_SET,
        Some(Value::Bool(_)) => kind::BOOL,
        Some(Value::Integer(_)) => kind::INTEGER,
        Some(Value::Double(_)) => kind::DOUBLE,
        Some(Value::String(_)) => kind::STRING,
        Some(Value::Bools(_)) => kind::BOOL_ARRAY,
        Some(Value::Integers(_)) => kind::INTEGER_ARRAY,
        Some(Value::Doubles(_)) => kind::DOUBLE_ARRAY,
        Some(Value::Strings(_)) => kind::STRING_ARRAY,
    }
}

/// A parameter with its value, as events carry it.
pub fn message_of(declared: &Declared) -> Parameter {
    Parameter { name: declared.row.name.clone(), value: to_message(Some(declared)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Domain;

    #[test]
    fn lists_keep_their_type_in_messages() {
        let row = crate::config::Parameter {
            name: "speeds".to_owned(),
            default: Value::Doubles(vec![]),
            domain: Domain::Any,
            live: false,
            description: "How fast.",
        };
        for (value, kind) in [
            (Value::Bools(vec![true, false]), kind::BOOL_ARRAY),
            (Value::Integers(vec![1, -2]), kind::INTEGER_ARRAY),
            (Value::Doubles(vec![0.5]), kind::DOUBLE_ARRAY),
            (Value::Strings(vec!["a".to_owned()]), kind::STRING_ARRAY),
        ] {
            let declared = Declared { row: row.clone(), value };
            let message = to_message(Some(&declared));
            assert_eq!((message.type_, type_of(Some(&declared))), (kind, kind));
            assert_eq!(from_message(&message), Some(declared.value));
        }
    }
}
