//! Entries of the table that stand for several parameters: groups, and groups that are repeated as often as one of
//! their own parameters says.

use super::error::ConfigError;
use super::rule::Rule;
use super::schema::{Audience, Entry, Place, Rows, Table, join};
use super::value::Parameters;

/// An entry that holds the parameters of another struct.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    prefixed: bool,
}

/// A group of parameters whose names begin with the field's name. The field's own comment describes the group.
pub fn group() -> Group {
    Group { prefixed: true }
}

/// Parameters that share a struct without sharing a prefix.
pub fn flattened() -> Group {
    Group { prefixed: false }
}

impl Group {
    fn prefix(self, place: Place) -> String {
        if self.prefixed { place.full_name() } else { place.prefix.to_owned() }
    }
}

impl<T: Table> Entry<T> for Group {
    fn declare(&self, place: Place, audience: Audience, rows: &mut Rows) -> Result<(), ConfigError> {
        T::declare(&self.prefix(place), audience, rows)
    }

    fn read(&self, place: Place, given: &Parameters) -> Result<T, ConfigError> {
        T::read(&self.prefix(place), given)
    }

    fn default(self) -> T {
        T::defaults()
    }
}

/// A group that is repeated for each index below a count.
pub struct PerIndex {
    count: Rule<i64>,
}

/// The group `<field>.<i>` for each index below the parameter `<field>.count`, which the field's comment describes.
pub fn per_index(count: Rule<i64>) -> PerIndex {
    PerIndex { count: count.named("count") }
}

impl PerIndex {
    /// The prefixes of the groups, as many as the count in `given`.
    fn prefixes(&self, place: Place, given: &Parameters) -> Result<Vec<String>, ConfigError> {
        let name = place.full_name();
        let count = self.count.read(Place { prefix: &name, ..place }, given)?;
        Ok((0..count).map(|index| join(&name, &index.to_string())).collect())
    }
}

impl<T: Table> Entry<Vec<T>> for PerIndex {
    fn declare(&self, place: Place, audience: Audience, rows: &mut Rows) -> Result<(), ConfigError> {
        let name = place.full_name();
        self.count.declare(Place { prefix: &name, ..place }, audience, rows)?;
        let prefixes = match audience {
            Audience::Node(given) => self.prefixes(place, given)?,
            Audience::Readers => vec![join(&name, "<i>")],
        };
        for prefix in prefixes {
            let mut group = Rows::default();
            T::declare(&prefix, audience, &mut group)?;
            rows.repeated.extend(group.fixed.into_iter().chain(group.repeated));
        }
        Ok(())
    }

    fn read(&self, place: Place, given: &Parameters) -> Result<Vec<T>, ConfigError> {
        self.prefixes(place, given)?.iter().map(|prefix| T::read(prefix, given)).collect()
    }

    fn default(self) -> Vec<T> {
        (0..self.count.default()).map(|_| T::defaults()).collect()
    }
}
