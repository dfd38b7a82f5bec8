//! The type of a scalar in a parameter file, by the rules of rcl's parser (`rcl_yaml_param_parser/src/parse.c`): what the
//! node reads from a file is what any ROS 2 node would.
//!
//! Quoted text is a string. Anything else is tried as a boolean of YAML 1.1, as an integer as C's `strtoll` reads it
//! (decimal, octal with a leading 0, hexadecimal), as a number as `strtod` reads it, and is a string if all fail.

use super::value::Value;

const TRUE: [&str; 11] = ["Y", "y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"];
const FALSE: [&str; 11] = ["N", "n", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"];

/// The value of a scalar that is neither quoted nor tagged as a string.
pub(super) fn plain(text: &str) -> Value {
    if TRUE.contains(&text) {
        return Value::Bool(true);
    }
    if FALSE.contains(&text) {
        return Value::Bool(false);
    }
    let number = || float(text).map(Value::Double);
    integer(text).map(Value::Integer).or_else(number).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// `strtoll(text, …, 0)`, if it takes the whole text and the integer fits 64 bits.
fn integer(text: &str) -> Option<i64> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("-", digits) => ("-", digits),
        ("+", digits) => ("", digits),
        _ => ("", text),
    };
    // The sign is parsed together with the digits, because the smallest integer has no positive counterpart.
    let parse = |digits: &str, radix| {
        let unsigned = digits.starts_with(|digit: char| digit.is_digit(radix));
        unsigned.then(|| i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()).flatten()
    };
    match (digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")), digits.strip_prefix('0')) {
        (Some(hexadecimal), _) => parse(hexadecimal, 16),
        (None, Some(octal)) if !octal.is_empty() => parse(octal, 8),
        _ => parse(digits, 10),
    }
}

/// `strtod(text)`, if it takes the whole text and the number is neither too large nor too small for double precision.
/// YAML's own spellings of infinity and NaN count as well. Hexadecimal fractions are left as text.
fn float(text: &str) -> Option<f64> {
    match text {
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Some(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let number: f64 = text.parse().ok()?;
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    let is_zero = !mantissa.contains(|digit: char| ('1'..='9').contains(&digit));
    let named = text.contains(['n', 'N']);
    (named || is_zero || number.is_normal()).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_booleans_of_yaml_1_1_are_booleans_in_exactly_these_spellings() {
        for text in ["yes", "on", "y", "True", "ON"] {
            assert_eq!(plain(text), Value::Bool(true), "{text}");
        }
        for text in ["no", "off", "n", "FALSE", "Off"] {
            assert_eq!(plain(text), Value::Bool(false), "{text}");
        }
        for text in ["tRUE", "oN", "yES"] {
            assert_eq!(plain(text), Value::String(text.to_owned()));
        }
    }

    #[test]
    fn integers_are_decimal_octal_or_hexadecimal() {
        for (text, value) in [("10", 10), ("-7", -7), ("+3", 3), ("010", 8), ("0x1F", 31), ("-0x10", -16), ("0", 0)] {
            assert_eq!(plain(text), Value::Integer(value), "{text}");
        }
        assert_eq!(plain("-9223372036854775808"), Value::Integer(i64::MIN));
    }

    #[test]
    fn what_is_no_integer_may_be_a_number() {
        for (text, value) in
            [("08", 8.0), ("1.", 1.0), (".5", 0.5), ("1e3", 1000.0), ("9223372036854775808", 2f64.powi(63))]
        {
            assert_eq!(plain(text), Value::Double(value), "{text}");
        }
        assert_eq!(plain("-.inf"), Value::Double(f64::NEG_INFINITY));
        assert_eq!(plain("infinity"), Value::Double(f64::INFINITY));
        assert!(matches!(plain(".nan"), Value::Double(number) if number.is_nan()));
    }

    #[test]
    fn what_double_precision_cannot_hold_is_text() {
        for text in ["1e999", "1e-999", "1_000", "0b1", "--1", "+", "0x", "1 2", "~", "null"] {
            assert_eq!(plain(text), Value::String(text.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn every_integer_and_every_normal_number_is_read_back(whole: i64, number in proptest::num::f64::NORMAL) {
            prop_assert_eq!(plain(&whole.to_string()), Value::Integer(whole));
            prop_assert_eq!(plain(&format!("{number:e}")), Value::Double(number));
        }
    }
}
