//! Who is to blame for values that are not finite. One such answer asks the fallback. If that answers no better, the request
//! or the checkpoint was at fault, and the next such request is only withheld, since a fallback takes seconds to load. A
//! device that breaks later answers nothing else from then on, so several in a row ask the fallback again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Answers in a row that are withheld once the fallback has been asked in vain.
const WITHHELD: u32 = 2;

/// Counts answers that are not finite since the last one that was.
#[derive(Debug, Default)]
pub(super) struct NonFinite {
    streak: Arc<AtomicU32>,
    /// How many in a row are withheld before the fallback is asked; none at first.
    withheld: u32,
}

/// Tells [`NonFinite`] of answers that are finite. Cheap, and usable without the pipeline's lock.
#[derive(Clone, Debug)]
pub(super) struct Finite(Arc<AtomicU32>);

impl NonFinite {
    /// What an answer calls once it is known to be finite.
    pub(super) fn finite(&self) -> Finite {
        Finite(self.streak.clone())
    }

    /// Counts an answer that is not finite; whether the fallback is to be asked.
    pub(super) fn blames_the_backend(&mut self) -> bool {
        let before = self.streak.fetch_add(1, Ordering::Relaxed);
        if before == 0 {
            self.withheld = self.withheld.min(WITHHELD);
        }
        before >= self.withheld
    }

    /// Notes that the fallback's answer was not finite either: the longer that lasts, the more rarely it is asked.
    pub(super) fn was_the_requests_fault(&mut self) {
        self.withheld = self.streak.load(Ordering::Relaxed).saturating_mul(2).max(WITHHELD);
    }
}

impl Finite {
    /// Notes a finite answer.
    pub(super) fn note(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of so many answers in a row that are not finite, those that ask the fallback, in vain.
    fn asking(non_finite: &mut NonFinite, answers: usize) -> Vec<usize> {
        let mut asks = |_: &usize| {
            let asks = non_finite.blames_the_backend();
            if asks {
                non_finite.was_the_requests_fault();
            }
            asks
        };
        (0..answers).filter(|answer| asks(answer)).collect()
    }

    #[test]
    fn the_first_asks_and_those_after_it_ask_ever_more_rarely() {
        assert_eq!(asking(&mut NonFinite::default(), 20), [0, 2, 6, 14]);
    }

    #[test]
    fn single_ones_between_finite_answers_ask_once() {
        let mut non_finite = NonFinite::default();
        let finite = non_finite.finite();
        let asked = (0..10).filter(|_| {
            finite.note();
            asking(&mut non_finite, 1) == [0]
        });
        assert_eq!(asked.count(), 1);
    }

    #[test]
    fn a_device_that_breaks_after_a_bad_request_is_found_out_after_a_few_answers() {
        let mut non_finite = NonFinite::default();
        asking(&mut non_finite, 20);
        non_finite.finite().note();
        assert_eq!(asking(&mut non_finite, 3), [2]);
    }
}
