//! The commands of the last seconds by their moments: what a chunk of relative actions is relative to is the command that
//! was in force when its observation was made, not the one that is when it arrives.

use crate::types::Stamp;
use std::time::Duration;

/// How far back commands are known.
const SPAN: Duration = Duration::from_secs(10);
/// Commands that are kept at least and at most.
const KEPT: (usize, usize) = (64, 10_000);

/// A ring of commands, which takes no memory once it is made.
#[derive(Clone, Debug)]
pub(super) struct SentCommands {
    stamps: Vec<Stamp>,
    /// One command after the other.
    values: Vec<f32>,
    width: usize,
    /// Where the next command goes.
    next: usize,
    filled: usize,
}

impl SentCommands {
    /// Room for the commands of ten seconds, each of `width` values, that are a `period` apart.
    pub(super) fn new(width: usize, period: Duration) -> Self {
        let count = SPAN.as_nanos() / period.as_nanos().max(1);
        let count = usize::try_from(count).unwrap_or(usize::MAX).clamp(KEPT.0, KEPT.1);
        Self { stamps: vec![Stamp::default(); count], values: vec![f32::NAN; count * width], width, next: 0, filled: 0 }
    }

    /// Forgets every command.
    pub(super) fn clear(&mut self) {
        self.filled = 0;
    }

    /// Keeps a command that was sent at `stamp`. If time has gone back, those before it are forgotten.
    pub(super) fn push(&mut self, stamp: Stamp, command: &[f32]) {
        if self.newest().is_some_and(|newest| stamp < newest) {
            self.clear();
        }
        let begin = self.next * self.width;
        if let (Some(slot), Some(values)) =
            (self.stamps.get_mut(self.next), self.values.get_mut(begin..begin + self.width))
            && values.len() == command.len()
        {
            *slot = stamp;
            values.copy_from_slice(command);
            self.next = (self.next + 1) % self.stamps.len();
            self.filled = (self.filled + 1).min(self.stamps.len());
        }
    }

    /// The command that was sent last by `moment`; `None` if none was, or if that is too long ago to be known.
    pub(super) fn at(&self, moment: Stamp) -> Option<&[f32]> {
        let index =
            (1..=self.filled).map(|back| self.back(back)).find(|index| self.stamps.get(*index) <= Some(&moment))?;
        self.values.get(index * self.width..(index + 1) * self.width)
    }

    fn newest(&self) -> Option<Stamp> {
        (self.filled > 0).then(|| self.stamps.get(self.back(1)).copied()).flatten()
    }

    /// The place of the command that was kept so many commands ago, counted from 1.
    fn back(&self, back: usize) -> usize {
        (self.next + self.stamps.len() - back) % self.stamps.len().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Stamp {
        Stamp { nanos: ms * 1_000_000 }
    }

    /// Commands of one value, the moment in ms, a second apart, from 1 s on.
    fn kept(count: i64) -> SentCommands {
        let mut kept = SentCommands::new(1, Duration::from_secs(1));
        (1..=count).for_each(|s| kept.push(at(s * 1000), &[s as f32]));
        kept
    }

    #[test]
    fn the_command_in_force_at_a_moment_is_the_last_one_sent_by_then() {
        let kept = kept(5);
        assert_eq!(kept.at(at(3_999)), Some(&[3.0][..]));
        assert_eq!(kept.at(at(4_000)), Some(&[4.0][..]));
        assert_eq!(kept.at(at(99_000)), Some(&[5.0][..]));
    }

    #[test]
    fn before_the_first_command_none_was_in_force() {
        assert_eq!(kept(5).at(at(999)), None);
        assert_eq!(kept(0).at(at(5_000)), None);
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let kept = kept(100);
        assert_eq!(kept.at(at(36_999)), None);
        assert_eq!(kept.at(at(37_000)), Some(&[37.0][..]));
    }

    #[test]
    fn when_time_goes_back_what_was_sent_later_is_forgotten() {
        let mut kept = kept(5);
        kept.push(at(2_500), &[9.0]);
        assert_eq!((kept.at(at(2_400)), kept.at(at(8_000))), (None, Some(&[9.0][..])));
    }
}
