//! The order and the moments in which a node would have received the messages of a bag.

use super::evidence::{Evidence, Moved};
use super::feed::{Arrival, Content};
use super::plan::Clockwork;
use crate::types::Stamp;
use std::collections::BTreeMap;

/// How far messages may be out of order to be put in order again, ns.
const WINDOW_NS: i64 = 500_000_000;
/// The most bytes of images that wait for that.
const WINDOW_BYTES: usize = 64 << 20;

/// Puts messages into the order of their moments. Their moments never go back.
#[derive(Debug, Default)]
pub struct Timeline {
    clockwork: Clockwork,
    /// Messages whose moment is not known yet, because nothing before them says how the clocks differ.
    undated: Vec<Arrival>,
    /// What is known of when the node received the messages, if that counts.
    evidence: Option<Evidence>,
    waiting: BTreeMap<(Stamp, u64), (Arrival, f64)>,
    waiting_bytes: usize,
    count: u64,
    /// The latest moment that has been seen.
    newest: Option<Stamp>,
    /// The moment of the last message that was handed out.
    last: Option<Stamp>,
    /// How long after its stamp the last message with a stamp was received, ns.
    lag_ns: Option<i64>,
}

/// A message at its moment.
#[derive(Debug)]
pub struct Due {
    /// The moment.
    pub at: Stamp,
    /// How far the message lay before the one in front of it, ms; 0 for one in order.
    pub late_ms: f64,
    /// The message.
    pub arrival: Arrival,
}

impl Timeline {
    /// A timeline of which nothing has been seen.
    pub fn new(clockwork: Clockwork) -> Self {
        Self { clockwork, ..Self::default() }
    }

    /// A timeline by receipt that `evidence` corrects.
    pub fn corrected(evidence: Evidence) -> Self {
        Self { evidence: Some(evidence), ..Self::new(Clockwork::Receive) }
    }

    /// What was moved by evidence.
    pub fn moved(&self) -> Moved {
        self.evidence.as_ref().map(Evidence::moved).unwrap_or_default()
    }

    /// Takes the next message of the bag.
    pub fn push(&mut self, arrival: Arrival) {
        let Some(at) = self.moment(&arrival) else { return self.undated.push(arrival) };
        for early in std::mem::take(&mut self.undated) {
            let moment = self.moment(&early).unwrap_or(at);
            self.insert(moment, early);
        }
        self.insert(at, arrival);
    }

    fn insert(&mut self, mut at: Stamp, arrival: Arrival) {
        let late_ms = self.newest.map_or(0.0, |newest| newest.ms_since(at).max(0.0));
        self.newest = self.newest.max(Some(at));
        if let Some(evidence) = &mut self.evidence {
            at = evidence.moment(&arrival, self.newest.unwrap_or(at));
        }
        self.waiting_bytes += bytes(&arrival);
        self.count += 1;
        self.waiting.insert((at, self.count), (arrival, late_ms));
    }

    fn moment(&mut self, arrival: &Arrival) -> Option<Stamp> {
        match (self.clockwork, arrival.received, arrival.stamp) {
            (Clockwork::Receive, received, _) => received.or(self.newest),
            (Clockwork::Header, received, Some(stamp)) => {
                self.lag_ns = received.map(|received| received.nanos.saturating_sub(stamp.nanos)).or(self.lag_ns);
                Some(stamp)
            }
            (Clockwork::Header, Some(received), None) => {
                self.lag_ns.map(|lag_ns| Stamp { nanos: received.nanos.saturating_sub(lag_ns) })
            }
            (Clockwork::Header, None, None) => self.newest,
        }
    }

    /// The next message that none can come in front of any more; any that is left if the bag has `ended`.
    pub fn pop(&mut self, ended: bool) -> Option<Due> {
        if ended {
            // Nothing tells how the clocks differ.
            for arrival in std::mem::take(&mut self.undated) {
                self.insert(arrival.received.unwrap_or_default(), arrival);
            }
        }
        let (&(at, _), _) = self.waiting.first_key_value()?;
        let newest = self.newest.unwrap_or(at);
        let is_settled = newest.nanos.saturating_sub(at.nanos) >= WINDOW_NS || self.waiting_bytes > WINDOW_BYTES;
        let is_as_it_stands = self.clockwork == Clockwork::Receive && self.evidence.is_none();
        if !(ended || is_settled || is_as_it_stands) {
            return None;
        }
        let ((at, _), (arrival, late_ms)) = self.waiting.pop_first()?;
        self.waiting_bytes -= bytes(&arrival);
        let late_ms = match self.evidence {
            Some(_) => late_ms,
            None => self.last.map_or(0.0, |last| last.ms_since(at).max(0.0)),
        };
        let at = self.last.map_or(at, |last| last.max(at));
        self.last = Some(at);
        Some(Due { at, late_ms, arrival })
    }
}

fn bytes(arrival: &Arrival) -> usize {
    match &arrival.content {
        Content::Frame(_, image) => image.data.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::bag::{At, Place};
    use std::path::Path;

    fn at(ms: i64) -> Stamp {
        Stamp { nanos: ms * 1_000_000 }
    }

    fn arrival(received_ms: i64, stamp_ms: Option<i64>) -> Arrival {
        Arrival {
            received: Some(at(received_ms)),
            stamp: stamp_ms.map(at),
            place: Place { file: Path::new("a").into(), at: At::File },
            topic: 0,
            content: Content::Instruction(received_ms.to_string()),
        }
    }

    /// The moments, ms, of messages (received, stamp), in the order in which they are handed out.
    fn moments(clockwork: Clockwork, messages: &[(i64, Option<i64>)]) -> Vec<i64> {
        let mut timeline = Timeline::new(clockwork);
        let mut found = Vec::new();
        for (received_ms, stamp_ms) in messages {
            timeline.push(arrival(*received_ms, *stamp_ms));
            while let Some(due) = timeline.pop(false) {
                found.push(due.at.nanos / 1_000_000);
            }
        }
        found.extend(std::iter::from_fn(|| timeline.pop(true)).map(|due| due.at.nanos / 1_000_000));
        found
    }

    #[test]
    fn by_receipt_messages_come_as_they_stand_and_time_never_goes_back() {
        let messages = [(10, Some(5)), (30, Some(1)), (20, None), (40, None)];
        assert_eq!(moments(Clockwork::Receive, &messages), [10, 30, 30, 40]);
    }

    #[test]
    fn by_stamps_messages_come_in_the_order_of_their_stamps() {
        let messages = [(10, Some(5)), (30, Some(1)), (31, Some(3))];
        assert_eq!(moments(Clockwork::Header, &messages), [1, 3, 5]);
    }

    #[test]
    fn a_message_without_stamp_keeps_its_distance_from_the_one_before() {
        let messages = [(1_000, Some(5)), (1_010, None), (1_020, Some(25))];
        assert_eq!(moments(Clockwork::Header, &messages), [5, 15, 25]);
    }

    #[test]
    fn a_message_without_stamp_in_front_of_all_others_waits_for_the_first_stamp() {
        let messages = [(4_000, None), (4_010, Some(15)), (4_030, Some(25)), (4_040, Some(20))];
        assert_eq!(moments(Clockwork::Header, &messages), [5, 15, 20, 25]);
    }

    #[test]
    fn a_message_whose_receipt_is_not_known_comes_with_the_one_in_front_of_it() {
        let mut timeline = Timeline::new(Clockwork::Receive);
        for received in [None, Some(at(30)), None, Some(at(40))] {
            timeline.push(Arrival { received, ..arrival(0, None) });
        }
        let moments: Vec<_> = std::iter::from_fn(|| timeline.pop(true)).map(|due| due.at).collect();
        assert_eq!(moments, [30, 30, 30, 40].map(at));
    }

    #[test]
    fn a_message_that_is_later_than_the_window_comes_at_once() {
        let messages = [(10, Some(5_000)), (20, Some(6_000)), (30, Some(1_000)), (40, Some(7_000))];
        assert_eq!(moments(Clockwork::Header, &messages), [5_000, 5_000, 6_000, 7_000]);
    }

    #[test]
    fn the_lateness_of_a_message_out_of_order_is_told() {
        let mut timeline = Timeline::new(Clockwork::Receive);
        let late_ms = [30, 20].map(|received_ms| {
            timeline.push(arrival(received_ms, None));
            timeline.pop(false).unwrap().late_ms
        });
        assert_eq!(late_ms, [0.0, 10.0]);
    }
}
