//! How one thread wakes another before its time, and waits until it has been heard.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What was asked for, and what has been answered.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    is_over: bool,
    asked: u64,
    answered: u64,
}

/// Why a sleep has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Its time has come.
    InTime,
    /// Somebody has asked and waits for [`Signal::answer`].
    Asked,
    /// The thread is to end.
    Over,
}

/// Shared by the thread that sleeps and those that wake it.
#[derive(Clone, Debug, Default)]
pub struct Signal(Arc<(Mutex<State>, Condvar)>);

impl Signal {
    /// Sleeps until `moment`, until somebody asks, or until it is over.
    pub fn sleep_until(&self, moment: Instant) -> Woken {
        let mut state = self.lock();
        loop {
            if state.is_over {
                return Woken::Over;
            }
            if state.asked > state.answered {
                return Woken::Asked;
            }
            let Some(left) = moment.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return Woken::InTime;
            };
            state = self.0.1.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Says that what was asked until now is done.
    pub fn answer(&self) {
        let mut state = self.lock();
        state.answered = state.asked;
        self.0.1.notify_all();
    }

    /// Asks, and waits for the answer, at most for `patience`. Returns whether it has come.
    pub fn ask(&self, patience: Duration) -> bool {
        let mut state = self.lock();
        state.asked += 1;
        let mine = state.asked;
        self.0.1.notify_all();
        let unanswered = |state: &mut State| state.answered < mine && !state.is_over;
        let waited = self.0.1.wait_timeout_while(state, patience, unanswered);
        waited.unwrap_or_else(PoisonError::into_inner).0.answered >= mine
    }

    /// Ends the thread that sleeps.
    pub fn end(&self) {
        self.lock().is_over = true;
        self.0.1.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_sleep_ends_in_time() {
        let moment = Instant::now() + Duration::from_millis(5);
        assert_eq!(Signal::default().sleep_until(moment), Woken::InTime);
        assert!(Instant::now() >= moment);
    }

    #[test]
    fn who_asks_wakes_the_sleeper_and_waits_for_its_answer() {
        let signal = Signal::default();
        let sleeper = std::thread::spawn({
            let signal = signal.clone();
            move || {
                let woken = signal.sleep_until(Instant::now() + LONG);
                signal.answer();
                (woken, signal.sleep_until(Instant::now()))
            }
        });
        assert!(signal.ask(LONG));
        assert_eq!(sleeper.join().unwrap(), (Woken::Asked, Woken::InTime), "once");
    }

    #[test]
    fn nobody_waits_for_ever_for_a_thread_that_does_not_answer() {
        assert!(!Signal::default().ask(Duration::from_millis(5)));
    }

    #[test]
    fn a_thread_that_is_to_end_wakes_up() {
        let signal = Signal::default();
        signal.end();
        assert_eq!(signal.sleep_until(Instant::now() + LONG), Woken::Over);
    }
}
