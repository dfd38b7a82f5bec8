//! The notation of the table: the macro `parameters!` turns a struct whose fields are annotated as parameters into that
//! struct, its rows and its reader.
//!
//! ```ignore
//! parameters! {
//!     /// When inputs are too old to act on.
//!     pub struct AgeConfig {
//!         /// Oldest state that an observation may hold, milliseconds; 0 for any.
//!         state: Option<u64> = integer(0).within(0..=60_000).unless(0).named("state_ms").live(),
//!     }
//! }
//! ```
//!
//! The comment on a field is the parameter's description. Its name is the field's, unless `named` gives another,
//! preceded by the names of the groups around it. The expression after `=` is an [`Entry`]: a [rule](super::rule) for
//! one parameter, or a [group](super::group) of several.

use super::error::ConfigError;
use super::parameter::Parameter;
use super::value::Parameters;

/// The position of an entry in the table.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Dotted name of the group around it; empty at the top level.
    pub prefix: &'a str,
    /// The last part of its name.
    pub name: &'static str,
    /// One sentence that describes it.
    pub description: &'static str,
}

impl Place<'_> {
    /// The dotted name, prefix included.
    pub fn full_name(&self) -> String {
        join(self.prefix, self.name)
    }
}

/// The dotted name of `name` in the group `prefix`.
pub fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

/// For whom parameters are declared, which decides how often repeated groups appear.
#[derive(Clone, Copy, Debug)]
pub enum Audience<'a> {
    /// A node that was given these parameters: one group for each name that they list, such as its cameras'.
    Node(&'a Parameters),
    /// People who read the table: one group, with `<name>` in place of the name.
    Readers,
}

/// Rows of the table, collected entry by entry.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    /// Those that every deployment has.
    pub fixed: Vec<Parameter>,
    /// Those of repeated groups, which come after all others.
    pub repeated: Vec<Parameter>,
}

/// An entry of the table: one parameter or several, whose values form a `T`.
pub trait Entry<T> {
    /// Adds the rows of the entry to `rows`.
    ///
    /// # Errors
    /// A parameter that decides how many others there are and has a value that is not allowed.
    fn declare(&self, place: Place, audience: Audience, rows: &mut Rows) -> Result<(), ConfigError>;

    /// The value that the field has with the parameters `given`.
    ///
    /// # Errors
    /// The first parameter whose value is not allowed.
    fn read(&self, place: Place, given: &Parameters) -> Result<T, ConfigError>;

    /// The value that the field has with no parameters given.
    fn default(self) -> T;
}

/// A struct of parameters.
pub trait Table: Sized {
    /// Adds the rows of its parameters, whose names begin with `prefix`.
    ///
    /// # Errors
    /// As [`Entry::declare`].
    fn declare(prefix: &str, audience: Audience, rows: &mut Rows) -> Result<(), ConfigError>;

    /// The struct with the parameters `given`; absent parameters have their defaults, and unknown names are ignored.
    ///
    /// # Errors
    /// The first parameter whose value is not allowed.
    fn read(prefix: &str, given: &Parameters) -> Result<Self, ConfigError>;

    /// The struct without any parameters given, even if some are required.
    fn defaults() -> Self;
}

/// Defines structs of parameters, each a [`Table`].
macro_rules! parameters {
    ($(
        $(#[$about:meta])+
        pub struct $Table:ident {
            $( $(#[doc = $description:literal])+ $field:ident: $Type:ty = $entry:expr, )+
        }
    )+) => {$(
        $(#[$about])+
        pub struct $Table {
            $( $(#[doc = $description])+ pub $field: $Type, )+
        }

        impl $crate::config::schema::Table for $Table {
            fn declare(
                prefix: &str,
                audience: $crate::config::schema::Audience,
                rows: &mut $crate::config::schema::Rows,
            ) -> Result<(), $crate::config::ConfigError> {
                $({
                    let description = concat!($($description),+).trim_ascii();
                    let place = $crate::config::schema::Place { prefix, name: stringify!($field), description };
                    $crate::config::schema::Entry::<$Type>::declare(&$entry, place, audience, rows)?;
                })+
                Ok(())
            }

            fn read(
                prefix: &str,
                given: &$crate::config::Parameters,
            ) -> Result<Self, $crate::config::ConfigError> {
                Ok(Self {$(
                    $field: {
                        let description = concat!($($description),+).trim_ascii();
                        let place = $crate::config::schema::Place { prefix, name: stringify!($field), description };
                        $crate::config::schema::Entry::<$Type>::read(&$entry, place, given)?
                    },
                )+})
            }

            fn defaults() -> Self {
                Self { $( $field: $crate::config::schema::Entry::<$Type>::default($entry), )+ }
            }
        }
    )+};
}
pub(crate) use parameters;
