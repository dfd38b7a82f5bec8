//! What the log tells of inputs that cannot be acted on: whoever asks later why an arm stood still finds it there.

use super::health::Health;
use std::time::{Duration, Instant};

/// How long something lasts before it is logged. At a start inputs come one after the other, and a frame may be late.
const LASTS: Duration = Duration::from_secs(1);

/// Whether the inputs can be acted on, and why not, as far as it is told.
#[derive(Debug, Default)]
pub struct RestLog {
    present: Option<(Kind, Instant)>,
    told: Option<Kind>,
}

/// Health apart from its numbers, which change all the time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kind {
    may_act: bool,
    /// Empty if the inputs can be acted on.
    reason: String,
}

impl Kind {
    fn is_of(&self, health: &Health) -> bool {
        let letters = |text: &str| text.chars().filter(|letter| !letter.is_ascii_digit()).eq(self.reason.chars());
        self.may_act == health.may_act && (health.may_act || letters(&health.reason))
    }

    fn of(health: &Health) -> Self {
        let letters = || health.reason.chars().filter(|letter| !letter.is_ascii_digit()).collect();
        Self { may_act: health.may_act, reason: if health.may_act { String::new() } else { letters() } }
    }
}

impl RestLog {
    /// Returns `health` if it has lasted for a while and the log was told something else last.
    pub fn news<'h>(&mut self, health: &'h Health, now: Instant) -> Option<&'h Health> {
        let (kind, since) = match &self.present {
            Some((kind, since)) if kind.is_of(health) => (kind, *since),
            _ => {
                self.present = Some((Kind::of(health), now));
                return None;
            }
        };
        if now.saturating_duration_since(since) < LASTS || self.told.as_ref() == Some(kind) {
            return None;
        }
        self.told = Some(kind.clone());
        Some(health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::robot::health::Level;

    /// What of these moments (ms, health) is logged.
    fn logged(moments: &[(u64, &Health)]) -> Vec<u64> {
        let (mut log, start) = (RestLog::default(), Instant::now());
        let is_news = |(ms, health): &&(u64, &Health)| log.news(health, start + Duration::from_millis(*ms)).is_some();
        moments.iter().filter(is_news).map(|(ms, _)| *ms).collect()
    }

    fn silent(seconds: f64) -> Health {
        Health::new(Level::Error, format!("no frame on front/image for {seconds:.1} s"))
    }

    #[test]
    fn what_lasts_is_logged_once_although_its_numbers_change() {
        let fine = Health::new(Level::Ok, "all arrive");
        let (short, long, longer) = (silent(0.5), silent(1.6), silent(2.7));
        let moments =
            [(0, &fine), (1000, &fine), (2000, &short), (3100, &long), (4200, &longer), (5000, &fine), (6000, &fine)];
        assert_eq!(logged(&moments), [1000, 3100, 6000]);
    }

    #[test]
    fn what_passes_at_once_is_not_logged() {
        let (fine, silent) = (Health::new(Level::Ok, "all arrive"), silent(0.5));
        assert_eq!(logged(&[(0, &fine), (1000, &fine), (1500, &silent), (1600, &fine), (3000, &fine)]), [1000]);
    }

    #[test]
    fn another_reason_is_news() {
        let (silent, stale) = (silent(0.5), Health::new(Level::Error, "nothing on joint_states for 0.5 s"));
        assert_eq!(logged(&[(0, &silent), (1000, &silent), (1500, &stale), (2500, &stale)]), [1000, 2500]);
    }
}
