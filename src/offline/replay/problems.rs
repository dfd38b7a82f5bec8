//! What was wrong in a bag. The first case of each kind on each topic is told with its place, the others are counted.

use crate::data::bag::{Place, Problem};
use std::fmt;

/// A kind of fault on one topic.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The first case.
    pub first: Problem,
    /// How many there are.
    pub count: u64,
    kind: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count {
            1 => self.first.fmt(f),
            count => write!(f, "{} (and {} more like it)", self.first, count - 1),
        }
    }
}

/// All faults, in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub struct Problems {
    faults: Vec<Fault>,
}

impl Problems {
    /// Adds `problem`. Two that differ in numbers only are of one kind.
    pub fn add(&mut self, problem: Problem) {
        let kind: String = problem.reason.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        self.add_kind(problem, kind);
    }

    /// Adds a problem of `topic` at `place`.
    pub fn on(&mut self, topic: &str, place: &Place, reason: impl Into<String>) {
        self.add(Problem { place: place.clone(), topic: Some(topic.to_owned()), reason: reason.into() });
    }

    fn add_kind(&mut self, problem: Problem, kind: String) {
        match self.faults.iter_mut().find(|fault| fault.first.topic == problem.topic && fault.kind == kind) {
            Some(fault) => fault.count += 1,
            None => self.faults.push(Fault { first: problem, count: 1, kind }),
        }
    }

    /// Every fault.
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::bag::At;
    use std::path::Path;

    fn place(offset: u64) -> Place {
        Place { file: Path::new("a.mcap").into(), at: At::Offset(offset) }
    }

    #[test]
    fn cases_that_differ_in_numbers_only_are_counted_behind_the_first() {
        let mut problems = Problems::default();
        for offset in [10, 20, 30] {
            problems.on("/front", &place(offset), format!("cut off at byte {offset}"));
        }
        problems.on("/wrist", &place(40), "cut off at byte 4");
        let lines: Vec<String> = problems.faults().iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("offset 10") && lines[0].ends_with("(and 2 more like it)"), "{lines:?}");
    }
}
