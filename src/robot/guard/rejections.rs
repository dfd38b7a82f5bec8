//! Rejections in a row, which tell a plan that leaves the envelope from one bad step.

use super::Verdict;

/// Counts the commands that were rejected since one last passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejections {
    in_a_row: u32,
}

impl Rejections {
    /// Notes a verdict and gives the number of rejections in a row up to it.
    pub fn note(&mut self, verdict: Verdict) -> u32 {
        self.in_a_row = if verdict.is_rejected() { self.in_a_row.saturating_add(1) } else { 0 };
        self.in_a_row
    }

    /// The number of rejections in a row.
    pub fn in_a_row(self) -> u32 {
        self.in_a_row
    }

    /// Forgets them, as when a person has released a stop.
    pub fn reset(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::robot::guard::Reason;

    #[test]
    fn only_rejections_without_a_pass_between_them_add_up() {
        let (mut rejections, reason) = (Rejections::default(), Reason::NoRotation { arm: 0 });
        let verdicts = [
            Verdict::Rejected(reason),
            Verdict::Rejected(reason),
            Verdict::Clamped(reason),
            Verdict::Rejected(reason),
            Verdict::Pass,
        ];
        assert_eq!(verdicts.map(|verdict| rejections.note(verdict)), [1, 2, 0, 1, 0]);
    }
}
