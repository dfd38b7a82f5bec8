//! Entries of the table that stand for several parameters: groups, and groups that are repeated for each name in a list.

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

/// The parameters of something that has a name, for example of one camera.
#[derive(Clone, Debug, PartialEq)]
pub struct Named<T> {
    /// Its name in the list that the deployment gives.
    pub name: String,
    /// Its own parameters.
    pub settings: T,
}

/// A group that is repeated for each name in a list.
pub struct PerName {
    group: &'static str,
    names: Rule<Vec<String>>,
}

/// The parameter `names`, and for each name in it the group `<group>.<name>` beside it.
pub fn per_name(group: &'static str, names: Rule<Vec<String>>) -> PerName {
    PerName { group, names }
}

impl PerName {
    fn prefix(&self, place: Place, name: &str) -> String {
        join(&join(place.prefix, self.group), name)
    }
}

impl<T: Table + 'static> Entry<Vec<Named<T>>> for PerName {
    fn declare(&self, place: Place, audience: Audience, rows: &mut Rows) -> Result<(), ConfigError> {
        self.names.declare(place, audience, rows)?;
        let names = match audience {
            Audience::Node(given) => self.names.read(place, given)?,
            Audience::Readers => vec!["<name>".to_owned()],
        };
        for name in names {
            let mut group = Rows::default();
            T::declare(&self.prefix(place, &name), audience, &mut group)?;
            rows.repeated.extend(group.fixed.into_iter().chain(group.repeated));
        }
        Ok(())
    }

    fn read(&self, place: Place, given: &Parameters) -> Result<Vec<Named<T>>, ConfigError> {
        let names = self.names.read(place, given)?.into_iter();
        names.map(|name| Ok(Named { settings: T::read(&self.prefix(place, &name), given)?, name })).collect()
    }

    fn default(self) -> Vec<Named<T>> {
        Vec::new()
    }
}
