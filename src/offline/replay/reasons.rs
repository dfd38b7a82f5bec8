//! Reasons in words, each kind kept once: a bag of an hour has hundreds of thousands of commands and few reasons.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

/// A kind of reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    /// The words of the first case.
    pub words: String,
    /// How many cases there are.
    pub count: u64,
}

/// The number of a kind of reason, from 1.
pub type ReasonId = NonZeroU32;

/// Every kind of reason, in the order in which they were found.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    all: Vec<Reason>,
    ids: BTreeMap<String, ReasonId>,
}

impl Reasons {
    /// Counts a case. Those that differ only in what they measured are of one kind.
    pub fn note(&mut self, words: String) -> ReasonId {
        let next = u32::try_from(self.all.len()).ok().and_then(|count| ReasonId::MIN.checked_add(count));
        let id = *self.ids.entry(kind(&words)).or_insert(next.unwrap_or(ReasonId::MAX));
        match self.all.get_mut(index(id)) {
            Some(known) => known.count += 1,
            None => self.all.push(Reason { words, count: 1 }),
        }
        id
    }

    /// Every kind.
    pub fn all(&self) -> &[Reason] {
        &self.all
    }

    /// The words of the first case of a kind.
    pub fn words(&self, id: ReasonId) -> &str {
        self.all.get(index(id)).map_or("", |reason| &reason.words)
    }
}

fn index(id: ReasonId) -> usize {
    usize::try_from(id.get() - 1).unwrap_or(usize::MAX)
}

/// The words without the numbers among them. Digits in a name stay, because they tell one channel from another.
fn kind(words: &str) -> String {
    let is_number = |word: &&str| word.trim_matches(|letter: char| !letter.is_alphanumeric()).parse::<f64>().is_ok();
    words.split_whitespace().filter(|word| !is_number(word)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(words: &[&str]) -> (Reasons, Vec<u32>) {
        let mut reasons = Reasons::default();
        let ids = words.iter().map(|words| reasons.note((*words).to_owned()).get()).collect();
        (reasons, ids)
    }

    #[test]
    fn reasons_that_differ_in_what_was_measured_are_one_kind_and_have_the_words_of_the_first() {
        let (reasons, ids) = ids(&["the plan ended 20 ms ago", "paused", "the plan ended 40 ms ago"]);
        assert_eq!(ids, [1, 2, 1]);
        assert_eq!(reasons.all()[0], Reason { words: "the plan ended 20 ms ago".to_owned(), count: 2 });
        assert_eq!(reasons.words(ReasonId::MIN), "the plan ended 20 ms ago");
    }

    #[test]
    fn channels_that_differ_in_a_digit_are_kinds_of_their_own() {
        assert_eq!(ids(&["a0 0.912 is above 0.850 m", "a1 0.912 is above 0.850 m"]).1, [1, 2]);
    }
}
