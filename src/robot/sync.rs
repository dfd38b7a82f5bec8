//! Which frames belong together: the newest set of frames, one per camera, whose stamps lie within a tolerance.
//!
//! This is ROS's approximate-time matching with one difference: the newest set wins, and sets in between are skipped,
//! because a policy acts on the present.

use crate::types::Stamp;
use std::time::Duration;

/// Chooses one stamp of each line so that all lie within `tolerance` of each other, and returns their indices. Lines are
/// in ascending order. The camera that lags contributes the newest stamp that the others can match, and the others those
/// closest to it.
///
/// `None` if there is no such set, in particular if a line is empty or there is no line.
pub fn newest_set(lines: &[Vec<Stamp>], tolerance: Duration) -> Option<Vec<usize>> {
    let mut oldest: Vec<Stamp> = lines.iter().flatten().copied().collect();
    oldest.sort_unstable_by(|a, b| b.cmp(a));
    oldest.into_iter().find_map(|oldest| {
        let later = set_from(lines, oldest, tolerance)?;
        let around = set_around(lines, oldest).filter(|around| span(lines, around) < span(lines, &later));
        Some(around.unwrap_or(later))
    })
}

/// The first stamp of every line at or after `oldest`, if none is later than `oldest` plus `tolerance`.
fn set_from(lines: &[Vec<Stamp>], oldest: Stamp, tolerance: Duration) -> Option<Vec<usize>> {
    lines
        .iter()
        .map(|line| {
            let index = line.partition_point(|stamp| *stamp < oldest);
            line.get(index).filter(|stamp| within(**stamp, oldest, tolerance)).map(|_| index)
        })
        .collect()
}

/// The stamp of every line that is closest to `centre`.
fn set_around(lines: &[Vec<Stamp>], centre: Stamp) -> Option<Vec<usize>> {
    let distance = |stamp: &Stamp| stamp.nanos.abs_diff(centre.nanos);
    let closest =
        |line: &Vec<Stamp>| line.iter().enumerate().min_by_key(|(_, stamp)| distance(stamp)).map(|(at, _)| at);
    lines.iter().map(closest).collect()
}

/// Time between the oldest and the newest stamp of a set.
fn span(lines: &[Vec<Stamp>], set: &[usize]) -> Duration {
    let stamps = || lines.iter().zip(set).filter_map(|(line, index)| line.get(*index));
    let (oldest, newest) = (stamps().min().copied(), stamps().max().copied());
    Duration::from_nanos(newest.unwrap_or_default().nanos.abs_diff(oldest.unwrap_or_default().nanos))
}

/// The stamp of `line` that may join a set that spans from `oldest` to `newest` and lies closest to `newest`; its index.
pub fn joining(line: &[Stamp], oldest: Stamp, newest: Stamp, tolerance: Duration) -> Option<usize> {
    let fits = |stamp: Stamp| within(stamp, oldest, tolerance) && within(newest, stamp, tolerance);
    let candidates = line.iter().enumerate().filter(|(_, stamp)| fits(**stamp));
    candidates.min_by_key(|(_, stamp)| newest.nanos.abs_diff(stamp.nanos)).map(|(index, _)| index)
}

/// Whether `later` is at most `tolerance` after `earlier`, or before it.
fn within(later: Stamp, earlier: Stamp, tolerance: Duration) -> bool {
    i128::from(later.nanos) - i128::from(earlier.nanos) <= tolerance.as_nanos() as i128
}

/// The smallest span that one stamp of each line can have; `None` if a line is empty.
pub fn smallest_span(lines: &[Vec<Stamp>]) -> Option<Duration> {
    let sets = lines.iter().flatten().filter_map(|oldest| set_from(lines, *oldest, Duration::MAX));
    sets.map(|set| span(lines, &set)).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    fn ms(stamps: &[i64]) -> Vec<Stamp> {
        stamps.iter().map(|ms| Stamp { nanos: ms * 1_000_000 }).collect()
    }

    fn chosen(lines: &[&[i64]], tolerance_ms: u64) -> Option<Vec<i64>> {
        let stamps: Vec<Vec<Stamp>> = lines.iter().map(|line| ms(line)).collect();
        let set = newest_set(&stamps, Duration::from_millis(tolerance_ms))?;
        Some(lines.iter().zip(set).map(|(line, index)| line[index]).collect())
    }

    #[test]
    fn the_newest_frames_that_belong_together_are_chosen() {
        assert_eq!(chosen(&[&[0, 33, 66], &[5, 38, 71]], 50), Some(vec![66, 71]));
    }

    #[test]
    fn a_camera_that_lags_is_matched_with_the_frames_of_its_time() {
        assert_eq!(chosen(&[&[0, 33, 66, 100], &[1, 34]], 50), Some(vec![33, 34]));
    }

    #[test]
    fn frames_that_are_too_far_apart_are_no_set() {
        assert_eq!(chosen(&[&[3_000], &[0]], 50), None);
        assert_eq!(chosen(&[&[51], &[0]], 50), None);
        assert_eq!(chosen(&[&[50], &[0]], 50), Some(vec![50, 0]));
    }

    #[test]
    fn a_camera_without_a_frame_makes_no_set() {
        assert_eq!(chosen(&[&[1, 2], &[]], 50), None);
        assert_eq!(chosen(&[], 50), None);
    }

    #[test]
    fn one_more_camera_joins_with_the_frame_closest_to_the_newest() {
        let line = ms(&[0, 33, 66, 99]);
        let join = |oldest: i64, newest: i64| {
            joining(
                &line,
                Stamp { nanos: oldest * 1_000_000 },
                Stamp { nanos: newest * 1_000_000 },
                Duration::from_millis(50),
            )
        };
        assert_eq!(join(60, 70), Some(2));
        assert_eq!(join(200, 210), None);
    }

    #[test]
    fn the_smallest_span_says_how_far_apart_cameras_are() {
        assert_eq!(smallest_span(&[ms(&[0, 100]), ms(&[280])]), Some(Duration::from_millis(180)));
        assert_eq!(smallest_span(&[ms(&[0]), vec![]]), None);
    }

    fn lines() -> impl Strategy<Value = Vec<Vec<i64>>> {
        vec(btree_set(0_i64..400, 0..8).prop_map(|set| set.into_iter().collect()), 1..4)
    }

    /// Every choice of one stamp per line.
    fn all_sets(lines: &[Vec<i64>]) -> Vec<Vec<i64>> {
        lines.iter().fold(vec![Vec::new()], |sets, line| {
            sets.iter().flat_map(|set| line.iter().map(move |stamp| [set.as_slice(), &[*stamp]].concat())).collect()
        })
    }

    proptest! {
        #[test]
        fn the_set_is_within_the_tolerance_and_holds_the_newest_frame_that_a_lagging_camera_can_contribute(lines in lines(), tolerance in 0_u64..120) {
            let span = |set: &Vec<i64>| set.iter().max().unwrap() - set.iter().min().unwrap();
            let valid: Vec<Vec<i64>> = all_sets(&lines).into_iter().filter(|set| span(set) <= tolerance as i64).collect();
            let slices: Vec<&[i64]> = lines.iter().map(Vec::as_slice).collect();
            match chosen(&slices, tolerance) {
                None => prop_assert!(valid.is_empty()),
                Some(set) => {
                    prop_assert!(span(&set) <= tolerance as i64);
                    let newest = valid.iter().map(|set| *set.iter().min().unwrap()).max();
                    prop_assert!(set.contains(&newest.unwrap()));
                }
            }
        }
    }
}
