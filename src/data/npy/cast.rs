//! Casts of an array's values that lose nothing.

use super::NpyData;
use half::f16;

/// The first value of an array that has no equal in another type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inexact {
    /// Row-major index of the value.
    pub index: usize,
    /// The value, as it is written in decimals.
    pub value: String,
}

/// A type that values of all others can be cast to where nothing is lost.
pub trait Cast: Copy + Default {
    /// NumPy's name of it.
    const DTYPE: &'static str;

    /// The values as this type.
    ///
    /// # Errors
    /// The first value that has no equal.
    fn cast(data: NpyData) -> Result<Vec<Self>, Inexact>;
}

impl Cast for f32 {
    const DTYPE: &'static str = "float32";

    fn cast(data: NpyData) -> Result<Vec<Self>, Inexact> {
        data.into_f32()
    }
}

impl Cast for i64 {
    const DTYPE: &'static str = "int64";

    fn cast(data: NpyData) -> Result<Vec<Self>, Inexact> {
        data.into_i64()
    }
}

impl Cast for bool {
    const DTYPE: &'static str = "bool";

    fn cast(data: NpyData) -> Result<Vec<Self>, Inexact> {
        data.into_bool()
    }
}

/// A number of any element type.
#[derive(Clone, Copy)]
enum Number {
    /// Booleans are 0 and 1, as in NumPy.
    Integer(i128),
    Float(f64),
}

impl Number {
    fn to_f32(self) -> Option<f32> {
        match self {
            Self::Integer(value) => Some(value as f32).filter(|cast| *cast as i128 == value),
            // NaN stays NaN; whether it is allowed is for others to say.
            Self::Float(value) => Some(value as f32).filter(|cast| f64::from(*cast) == value || value.is_nan()),
        }
    }

    fn to_i64(self) -> Option<i64> {
        match self {
            Self::Integer(value) => i64::try_from(value).ok(),
            Self::Float(value) => Some(value as i64).filter(|cast| *cast as f64 == value && *cast != i64::MAX),
        }
    }

    fn to_bool(self) -> Option<bool> {
        match self.to_i64()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Integer(value) => value.fmt(f),
            Self::Float(value) => value.fmt(f),
        }
    }
}

impl NpyData {
    /// The values as float32; values that are not finite stay as they are.
    ///
    /// # Errors
    /// The first value that float32 cannot hold exactly.
    pub fn into_f32(self) -> Result<Vec<f32>, Inexact> {
        match self {
            Self::F32(values) => Ok(values),
            // Half precision is common for images, and each of its values is one of single precision.
            Self::F16(values) => Ok(values.into_iter().map(f16::to_f32).collect()),
            other => other.cast(Number::to_f32),
        }
    }

    /// The values as int64.
    ///
    /// # Errors
    /// The first value that is no integer, or too large.
    pub fn into_i64(self) -> Result<Vec<i64>, Inexact> {
        match self {
            Self::I64(values) => Ok(values),
            other => other.cast(Number::to_i64),
        }
    }

    /// The values as booleans.
    ///
    /// # Errors
    /// The first value that is neither 0 nor 1.
    pub fn into_bool(self) -> Result<Vec<bool>, Inexact> {
        match self {
            Self::Bool(values) => Ok(values),
            other => other.cast(Number::to_bool),
        }
    }

    fn cast<T>(self, cast: fn(Number) -> Option<T>) -> Result<Vec<T>, Inexact> {
        fn all<S, T>(
            values: Vec<S>,
            number: impl Fn(S) -> Number,
            cast: fn(Number) -> Option<T>,
        ) -> Result<Vec<T>, Inexact> {
            let numbers = values.into_iter().map(number).enumerate();
            numbers
                .map(|(index, number)| cast(number).ok_or_else(|| Inexact { index, value: number.to_string() }))
                .collect()
        }
        match self {
            Self::Bool(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::I8(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::U8(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::I16(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::U16(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::I32(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::U32(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::I64(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::U64(values) => all(values, |value| Number::Integer(value.into()), cast),
            Self::F16(values) => all(values, |value| Number::Float(value.to_f64()), cast),
            Self::F32(values) => all(values, |value| Number::Float(value.into()), cast),
            Self::F64(values) => all(values, Number::Float, cast),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inexact<T>(index: usize, value: &str) -> Result<Vec<T>, Inexact> {
        Err(Inexact { index, value: value.to_owned() })
    }

    #[test]
    fn a_float64_is_a_float32_only_if_nothing_is_lost() {
        assert_eq!(NpyData::F64(vec![0.5, -3.0, f64::INFINITY]).into_f32(), Ok(vec![0.5, -3.0, f32::INFINITY]));
        assert_eq!(NpyData::F64(vec![0.5, 0.1]).into_f32(), inexact(1, "0.1"));
        assert_eq!(NpyData::F64(vec![1e300]).into_f32(), inexact(0, &1e300f64.to_string()));
        assert!(NpyData::F64(vec![f64::NAN]).into_f32().unwrap()[0].is_nan());
    }

    #[test]
    fn an_integer_is_a_float32_up_to_24_bits() {
        assert_eq!(NpyData::U8(vec![0, 255]).into_f32(), Ok(vec![0.0, 255.0]));
        assert_eq!(NpyData::I32(vec![1 << 24, (1 << 24) + 1]).into_f32(), inexact(1, "16777217"));
        assert_eq!(NpyData::U64(vec![u64::MAX]).into_f32(), inexact(0, "18446744073709551615"));
    }

    #[test]
    fn a_number_without_a_fraction_is_an_int64() {
        assert_eq!(NpyData::F64(vec![-2.0, 7.0]).into_i64(), Ok(vec![-2, 7]));
        assert_eq!(NpyData::U16(vec![9]).into_i64(), Ok(vec![9]));
        assert_eq!(NpyData::F32(vec![7.0, 7.5]).into_i64(), inexact(1, "7.5"));
        assert_eq!(NpyData::U64(vec![1 << 63]).into_i64(), inexact(0, "9223372036854775808"));
        assert_eq!(NpyData::F64(vec![9_223_372_036_854_775_808.0]).into_i64(), inexact(0, "9223372036854776000"));
        assert_eq!(NpyData::F64(vec![f64::NAN]).into_i64(), inexact(0, "NaN"));
    }

    #[test]
    fn only_zero_and_one_are_booleans() {
        assert_eq!(NpyData::U8(vec![1, 0]).into_bool(), Ok(vec![true, false]));
        assert_eq!(NpyData::F32(vec![1.0, 0.0]).into_bool(), Ok(vec![true, false]));
        assert_eq!(NpyData::I64(vec![1, 2]).into_bool(), inexact(1, "2"));
    }
}
