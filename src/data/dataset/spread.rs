//! Which steps of a data set stand for all of it.

use super::info::EpisodeInfo;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// One moment of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StepRef {
    /// The episode's number.
    pub episode: u64,
    /// The frame's number within it, counted from 0.
    pub frame: u64,
}

/// Chooses `n` steps, spread over `episodes`, in their order: every `stride`-th frame of an episode is a candidate, and
/// `seed` decides among them.
///
/// No step is chosen twice, and all are chosen if there are no more than `n`. Every episode gets at least one as long as
/// `n` suffices, and more in proportion to its candidates; with more episodes than `n`, those chosen are spread evenly.
/// Within an episode each step is drawn from a stretch of its own, so that its beginning and its end both count.
pub(super) fn spread(episodes: &[EpisodeInfo], n: usize, seed: u64, stride: u64) -> Vec<StepRef> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let stride = stride.max(1);
    let recorded: Vec<(u64, u64)> = episodes
        .iter()
        .map(|episode| (episode.index, episode.length.div_ceil(stride)))
        .filter(|(_, candidates)| *candidates > 0)
        .collect();
    let n = n as u64;
    let chosen = shares(&recorded, n, &mut random);
    let steps = chosen.into_iter().flat_map(|(episode, candidates, share)| {
        stretches(candidates, share)
            .map(|(start, end)| StepRef { episode, frame: random.random_range(start..end).saturating_mul(stride) })
            .collect::<Vec<_>>()
    });
    steps.collect()
}

/// Draws at most `n` of `candidates` things in a row, one from each of `n` stretches of the same length.
pub fn draw(candidates: u64, n: u64, seed: u64) -> Vec<u64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    stretches(candidates, n.min(candidates)).map(|(start, end)| random.random_range(start..end)).collect()
}

/// The episodes that get steps: number, candidates, steps. `recorded` are the episodes with their candidates.
fn shares(recorded: &[(u64, u64)], n: u64, random: &mut ChaCha8Rng) -> Vec<(u64, u64, u64)> {
    let count = recorded.len() as u64;
    if n < count {
        let drawn = stretches(count, n).map(|(start, end)| random.random_range(start..end));
        let drawn = drawn.filter_map(|index| recorded.get(usize::try_from(index).ok()?));
        return drawn.map(|(episode, candidates)| (*episode, *candidates, 1)).collect();
    }
    // One for each episode, and the rest in proportion to what is left of it; a running total keeps the sum exact.
    let left = |candidates: &u64| candidates.saturating_sub(1);
    let all: u64 = recorded.iter().map(|(_, candidates)| left(candidates)).sum();
    let rest = n.saturating_sub(count).min(all);
    let (mut seen, mut given) = (0_u64, 0_u64);
    let share = |(episode, candidates): &(u64, u64)| {
        seen = seen.saturating_add(left(candidates));
        let due = if all == 0 { 0 } else { (u128::from(rest) * u128::from(seen) / u128::from(all)) as u64 };
        let more = due.saturating_sub(given);
        given = due;
        (*episode, *candidates, more.saturating_add(1))
    };
    recorded.iter().map(share).collect()
}

/// `parts` stretches, none of them empty, that cover 0 to `whole`; `parts` is at most `whole`.
fn stretches(whole: u64, parts: u64) -> impl Iterator<Item = (u64, u64)> {
    let edge = move |part: u64| (u128::from(part) * u128::from(whole) / u128::from(parts.max(1))) as u64;
    (0..parts).map(move |part| (edge(part), edge(part.saturating_add(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn episodes(lengths: &[u64]) -> Vec<EpisodeInfo> {
        (0..).zip(lengths).map(|(index, length)| EpisodeInfo { index, length: *length }).collect()
    }

    fn frames_of(steps: &[StepRef], episode: u64) -> Vec<u64> {
        steps.iter().filter(|step| step.episode == episode).map(|step| step.frame).collect()
    }

    #[test]
    fn a_long_episode_gets_more_than_a_short_one_and_both_ends_of_it_count() {
        let steps = spread(&episodes(&[1000, 100]), 22, 0, 1);
        let (long, short) = (frames_of(&steps, 0), frames_of(&steps, 1));
        assert_eq!((long.len(), short.len()), (19, 3));
        assert!(long[0] < 53 && long[18] >= 947, "{long:?}");
    }

    #[test]
    fn with_an_interval_only_frames_that_far_apart_are_chosen() {
        let steps = spread(&episodes(&[95]), 100, 3, 10);
        assert_eq!(frames_of(&steps, 0), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
    }

    #[test]
    fn another_seed_chooses_other_steps() {
        let all = episodes(&[500, 500]);
        assert_ne!(spread(&all, 8, 0, 1), spread(&all, 8, 1, 1));
    }

    proptest! {
        #[test]
        fn steps_exist_are_all_different_and_leave_out_no_episode(
            lengths in prop::collection::vec(0..40_u64, 1..12), n in 0..120_usize, seed: u64, stride in 1..5_u64,
        ) {
            let all = episodes(&lengths);
            let steps = spread(&all, n, seed, stride);
            let candidates: u64 = lengths.iter().map(|length| length.div_ceil(stride)).sum();
            prop_assert_eq!(steps.len() as u64, candidates.min(n as u64));
            let different: BTreeSet<(u64, u64)> = steps.iter().map(|step| (step.episode, step.frame)).collect();
            prop_assert_eq!(different.len(), steps.len());
            for step in &steps {
                prop_assert!(step.frame < lengths[step.episode as usize] && step.frame % stride == 0);
            }
            let recorded = lengths.iter().filter(|length| **length > 0).count();
            let used: BTreeSet<u64> = steps.iter().map(|step| step.episode).collect();
            prop_assert_eq!(used.len(), recorded.min(n));
            prop_assert_eq!(&steps, &spread(&all, n, seed, stride));
        }
    }
}
