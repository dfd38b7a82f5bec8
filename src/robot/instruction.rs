//! The instruction, from latched and volatile publishers alike.
//!
//! A subscription that receives what was said before it existed does not match publishers that do not keep it, and one
//! that matches those does not receive it. So there are two, and a latched publisher's message arrives on both.

use super::time::Now;
use super::topic::Topic;
use crate::error::{InputError, check_instruction};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How much later than on the volatile subscription a message may come on the latched one, which is made once a publisher is
/// seen that keeps its messages, and has to be discovered in turn. What comes later is taken as said anew.
const DISCOVERY: Duration = Duration::from_secs(3);
/// How much later than on the latched subscription a message may come on the volatile one, which is always there. Later than
/// that nothing comes of what was said before the node had found its publisher.
const PATIENCE: Duration = Duration::from_millis(500);

/// Which of the two subscriptions an instruction came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The one that receives what was said before it existed.
    Latched,
    /// The one that matches every publisher.
    Volatile,
}

impl Origin {
    /// How long after a message on this subscription its copy may come on the other.
    fn copy_within(self) -> Duration {
        match self {
            Self::Latched => PATIENCE,
            Self::Volatile => DISCOVERY,
        }
    }
}

/// The instruction that holds.
#[derive(Debug)]
pub struct Instruction {
    /// The counts of its topic; a message that arrives on both subscriptions counts once.
    pub topic: Topic,
    text: Option<String>,
    changed: bool,
    /// Messages that have come on one subscription and not yet on the other, oldest first.
    unmatched: VecDeque<Heard>,
    /// How many that could hold have come on each subscription.
    counts: Counts,
}

#[derive(Debug)]
struct Heard {
    origin: Origin,
    text: String,
    at: Instant,
    /// How many had come on its subscription by then, itself included.
    count: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    latched: u64,
    volatile: u64,
}

impl Counts {
    fn of(&mut self, origin: Origin) -> &mut u64 {
        match origin {
            Origin::Latched => &mut self.latched,
            Origin::Volatile => &mut self.volatile,
        }
    }
}

impl Instruction {
    /// The instruction of a deployment that begins with `text`.
    pub fn new(text: Option<String>) -> Self {
        let (unmatched, counts) = (VecDeque::new(), Counts::default());
        Self { topic: Topic::new("instruction"), text, changed: false, unmatched, counts }
    }

    /// The text that holds.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Takes an instruction. One that is blank or of many kilobytes is dropped. Returns the reason for a new fault.
    pub(super) fn take(&mut self, text: String, origin: Origin, now: Now) -> Option<String> {
        self.unmatched.retain(|heard| now.at.saturating_duration_since(heard.at) < heard.origin.copy_within());
        let faulty = check_instruction(&text).err();
        *self.counts.of(origin) += u64::from(faulty.is_none());
        let copied = self.unmatched.iter().position(|heard| heard.origin != origin && heard.text == text);
        if let Some(original) = copied.and_then(|index| self.unmatched.remove(index)) {
            self.take_copy(text, &original, faulty.is_none());
            return None;
        }
        // What is too long is not kept until its copy comes, and counts twice then.
        if !matches!(faulty, Some(InputError::LongInstruction { .. })) {
            let count = *self.counts.of(origin);
            self.unmatched.push_back(Heard { origin, text: text.clone(), at: now.at, count });
        }
        self.topic.count(now);
        if let Some(error) = faulty {
            return self.topic.drop_invalid(&error, now);
        }
        self.hold(text);
        None
    }

    /// Takes what is the same as an `original` on the other subscription. The last word on both is the last word: what came
    /// in between on one of them was said before it.
    fn take_copy(&mut self, text: String, original: &Heard, can_hold: bool) {
        // A publisher's messages come in order, so that what was heard before the original has no copy to come.
        self.unmatched.retain(|heard| heard.origin != original.origin || heard.count > original.count);
        if can_hold && original.count == *self.counts.of(original.origin) {
            self.hold(text);
        }
    }

    fn hold(&mut self, text: String) {
        self.changed |= self.text.as_ref().is_some_and(|before| *before != text);
        self.text = Some(text);
    }

    /// Puts `text` in the place of what was said on the topic until now; `None` to wait for an instruction again.
    pub(super) fn replace(&mut self, text: Option<String>) {
        // Nothing that was heard before is the last word now, even if its copy is still to come.
        self.counts = Counts { latched: self.counts.latched + 1, volatile: self.counts.volatile + 1 };
        self.changed |= self.text.is_some() && self.text != text;
        self.text = text;
    }

    /// Whether a different instruction has replaced the previous one since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::Origin::{Latched, Volatile};
    use super::*;
    use crate::types::Stamp;

    fn heard(messages: &[(Origin, &str)]) -> Instruction {
        let now = Now { stamp: Stamp { nanos: 1 }, at: Instant::now() };
        let mut instruction = Instruction::new(None);
        for (origin, text) in messages {
            instruction.take((*text).to_owned(), *origin, now);
        }
        instruction
    }

    #[test]
    fn what_is_blank_or_of_many_kilobytes_changes_nothing_and_is_counted() {
        let (long, blank) = ("go ".repeat(10_000), "\u{200b}");
        let heard = heard(&[(Volatile, "go"), (Volatile, &long), (Volatile, blank)]);
        assert_eq!((heard.text(), heard.topic.dropped_invalid), (Some("go"), 2));
    }

    #[test]
    fn what_was_said_before_the_node_started_is_heard() {
        assert_eq!(heard(&[(Latched, "go")]).text(), Some("go"));
    }

    #[test]
    fn a_volatile_publisher_is_heard_after_a_latched_one() {
        assert_eq!(heard(&[(Latched, "go"), (Volatile, "stop")]).text(), Some("stop"));
    }

    #[test]
    fn a_message_that_comes_on_both_subscriptions_counts_once_in_whatever_order() {
        assert_eq!(heard(&[(Latched, "go"), (Volatile, "go")]).topic.received, 1);
        assert_eq!(heard(&[(Volatile, "go"), (Latched, "go"), (Volatile, "go"), (Latched, "go")]).topic.received, 2);
    }

    #[test]
    fn a_copy_that_comes_late_does_not_bring_an_instruction_back() {
        let heard = heard(&[(Volatile, "go"), (Volatile, "stop"), (Latched, "go"), (Latched, "stop")]);
        assert_eq!((heard.text(), heard.topic.received), (Some("stop"), 2));
    }

    #[test]
    fn what_is_said_again_after_something_else_holds_although_it_was_said_before_the_node_started() {
        let heard = heard(&[(Latched, "red"), (Volatile, "blue"), (Volatile, "red")]);
        assert_eq!(heard.text(), Some("red"));
    }

    #[test]
    fn what_was_said_long_before_does_not_hold_although_it_comes_last() {
        let messages = [(Volatile, "go"), (Volatile, "stop"), (Latched, "wait"), (Latched, "go"), (Latched, "stop")];
        assert_eq!(heard(&messages).text(), Some("stop"));
    }

    #[test]
    fn a_copy_of_what_was_heard_before_another_copy_is_no_copy() {
        let messages = [(Volatile, "go"), (Volatile, "stop"), (Latched, "stop"), (Latched, "go")];
        assert_eq!(heard(&messages).text(), Some("go"));
    }

    /// The text that holds after these messages, each with its moment in ms.
    fn holds_after(messages: &[(u64, Origin, &str)]) -> Option<String> {
        let (mut instruction, start) = (Instruction::new(None), Instant::now());
        for (ms, origin, text) in messages {
            let now = Now { stamp: Stamp { nanos: 1 }, at: start + Duration::from_millis(*ms) };
            instruction.take((*text).to_owned(), *origin, now);
        }
        instruction.text
    }

    #[test]
    fn what_comes_long_after_is_said_anew_and_holds() {
        let by_a_new_publisher = [(0, Volatile, "stop"), (100, Volatile, "go"), (3_200, Latched, "stop")];
        assert_eq!(holds_after(&by_a_new_publisher).as_deref(), Some("stop"));
        let after_two_new_ones = [(0, Latched, "stop"), (100, Latched, "go"), (800, Volatile, "stop")];
        assert_eq!(holds_after(&after_two_new_ones).as_deref(), Some("stop"));
    }

    #[test]
    fn what_a_latched_publisher_had_said_before_another_one_does_not_come_back_once_it_is_discovered() {
        let messages = [(0, Volatile, "go"), (100, Volatile, "stop"), (2_000, Latched, "go")];
        assert_eq!(holds_after(&messages).as_deref(), Some("stop"));
    }

    #[test]
    fn a_late_copy_does_not_undo_what_was_set_meanwhile() {
        let mut heard = heard(&[(Volatile, "go")]);
        heard.replace(Some("stop".to_owned()));
        heard.take("go".to_owned(), Latched, Now { stamp: Stamp { nanos: 1 }, at: Instant::now() });
        assert_eq!(heard.text(), Some("stop"));
    }

    #[test]
    fn a_different_instruction_is_a_change_and_the_first_or_a_repeated_one_is_not() {
        assert!(!heard(&[(Volatile, "go"), (Volatile, "go")]).take_changed());
        let mut changed = heard(&[(Volatile, "go"), (Volatile, "stop")]);
        assert!(changed.take_changed());
        assert!(!changed.take_changed(), "told once");
    }

    #[test]
    fn an_instruction_that_is_set_replaces_what_the_topic_said_and_counts_as_no_message() {
        let mut heard = heard(&[(Volatile, "go")]);
        heard.replace(Some("stop".to_owned()));
        assert_eq!((heard.text(), heard.topic.received), (Some("stop"), 1));
        assert!(heard.take_changed());
        heard.replace(Some("stop".to_owned()));
        assert!(!heard.take_changed(), "it is the same");
    }

    #[test]
    fn an_instruction_that_is_taken_back_is_a_change_and_the_next_one_is_waited_for() {
        let mut heard = heard(&[(Volatile, "go")]);
        heard.replace(None);
        assert_eq!(heard.text(), None);
        assert!(heard.take_changed());
        heard.replace(Some("go on".to_owned()));
        assert_eq!(heard.text(), Some("go on"));
        assert!(!heard.take_changed(), "nothing was replaced");
    }

    #[test]
    fn a_blank_instruction_is_dropped_and_the_previous_one_stays() {
        let heard = heard(&[(Volatile, "go"), (Volatile, "  ")]);
        assert_eq!((heard.text(), heard.topic.dropped_invalid), (Some("go"), 1));
    }
}
