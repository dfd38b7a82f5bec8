//! How far what was published live is from what the replay has, channel by channel.

use serde::Serialize;

/// How far a channel is apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ChannelDifference {
    /// The channel.
    pub name: String,
    /// The largest difference; not a number if one of the values is none, which JSON has as null.
    pub max_abs: f32,
    /// The mean of the differences.
    pub mean_abs: f64,
}

/// The differences of some channels so far.
#[derive(Clone, Debug)]
pub struct Differences {
    /// The largest, the sum and the number of each channel's.
    channels: Vec<(f32, f64, u64)>,
    /// Pairs that were compared.
    pairs: usize,
}

impl Differences {
    /// Nothing yet, of so many channels.
    pub fn of(channels: usize) -> Self {
        Self { channels: vec![(0.0, 0.0, 0); channels], pairs: 0 }
    }

    /// Compares a pair, whose values are those of all channels, once or several times over.
    pub fn note(&mut self, live: &[f32], replayed: &[f32]) {
        self.pairs += 1;
        let width = self.channels.len().max(1);
        for (index, (live, now)) in live.iter().zip(replayed).enumerate() {
            let Some((max, sum, count)) = self.channels.get_mut(index % width) else { continue };
            let apart = (live - now).abs();
            // What is no number stays the largest difference.
            *max = if apart.is_nan() || max.is_nan() { f32::NAN } else { max.max(apart) };
            (*sum, *count) = (*sum + f64::from(apart), *count + 1);
        }
    }

    /// Pairs that were compared.
    pub fn pairs(&self) -> usize {
        self.pairs
    }

    /// What was found, with the `names` of the channels; nothing if no pair was compared.
    pub fn found(self, names: &[String]) -> Vec<ChannelDifference> {
        let is_any = self.pairs > 0;
        let named = names.iter().zip(self.channels).filter(|_| is_any);
        named
            .map(|(name, (max_abs, sum, count))| ChannelDifference {
                name: name.clone(),
                max_abs,
                mean_abs: if count == 0 { 0.0 } else { sum / count as f64 },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_is_no_number_stays_the_largest_difference() {
        let mut differences = Differences::of(2);
        differences.note(&[1.0, f32::NAN, 3.0, 0.0], &[0.5, 0.0, 3.0, 0.0]);
        differences.note(&[2.0, 9.0], &[2.0, 0.0]);
        let found = differences.found(&["a".to_owned(), "b".to_owned()]);
        assert_eq!((found[0].max_abs, found[0].mean_abs), (0.5, 0.5 / 3.0));
        assert!(found[1].max_abs.is_nan());
    }

    #[test]
    fn without_a_pair_nothing_is_said_of_any_channel() {
        assert_eq!(Differences::of(1).found(&["a".to_owned()]), []);
    }
}
