//! What the log tells of a policy that stands still: whoever asks later why an arm did not move still finds it there.

use super::health::Health;
use std::time::{Duration, Instant};

/// How long something lasts before it is logged. At a start inputs come one after the other, and a frame may be late.
const LASTS: Duration = Duration::from_secs(1);

/// Whether the policy can act, and why not, as far as it is told.
#[derive(Debug, Default)]
pub struct RestLog {
    present: Option<(Kind, Instant)>,
    told: Option<Kind>,
    /// When `news` was last asked for.
    asked: Option<Instant>,
    /// How long the policy stood still, less how long it has not since: what comes and goes adds up.
    rest: Duration,
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
        self.add_up(now);
        let (kind, since) = match self.present.take() {
            Some((kind, since)) if kind.is_of(health) => (kind, since),
            _ => (Kind::of(health), now),
        };
        let lasts = now.saturating_duration_since(since) >= LASTS;
        let could_act = self.told.as_ref().map(|told| told.may_act);
        let is_news = match (could_act, health.may_act) {
            (Some(true), true) => false,
            (None, true) => lasts,
            (Some(false), true) => self.rest.is_zero(),
            (None | Some(true), false) => self.rest >= LASTS,
            // Reasons that take turns are one.
            (Some(false), false) => lasts && self.told.as_ref() != Some(&kind),
        };
        if is_news {
            self.told = Some(kind.clone());
        }
        self.present = Some((kind, since));
        is_news.then_some(health)
    }

    /// Adds the time since the last call, during which the policy could act or not as it was said then.
    fn add_up(&mut self, now: Instant) {
        let elapsed = self.asked.replace(now).map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked));
        let could_act = self.present.as_ref().is_some_and(|(kind, _)| kind.may_act);
        let rest = if could_act { self.rest.saturating_sub(elapsed) } else { self.rest + elapsed };
        self.rest = rest.min(LASTS);
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

    /// Health that changes every `ms`, beginning with the first of `each`, for ten seconds.
    fn in_turn(ms: [u64; 2], each: [&Health; 2]) -> Vec<u64> {
        let period = ms[0] + ms[1];
        let at = |ms_now: u64| if ms_now % period < ms[0] { each[0] } else { each[1] };
        logged(&(0..1000).map(|turn| (turn * 10, at(turn * 10))).collect::<Vec<_>>())
    }

    #[test]
    fn reasons_that_take_turns_are_logged_once() {
        let (silent, stale) = (silent(0.5), Health::new(Level::Error, "nothing on joint_states for 0.5 s"));
        assert_eq!(in_turn([30, 20], [&silent, &stale]), [1000]);
    }

    #[test]
    fn what_comes_and_goes_is_logged_once_it_adds_up_and_no_more() {
        let fine = Health::new(Level::Ok, "all arrive");
        assert_eq!(in_turn([800, 600], [&silent(0.5), &fine]).len(), 1);
        assert!(in_turn([100, 600], [&silent(0.5), &fine]).is_empty(), "a frame that is late now and then");
    }
}
