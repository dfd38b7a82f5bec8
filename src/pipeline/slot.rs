//! A slot for one value where the latest wins: `put` never blocks, and `take` waits for the newest value.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Hands values from many threads to one. An untaken value is replaced, never queued.
#[derive(Debug)]
pub struct LatestSlot<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    closed: bool,
}

impl<T> Default for LatestSlot<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { value: None, closed: false }), changed: Condvar::new() }
    }
}

impl<T> LatestSlot<T> {
    /// Puts `value` and returns the one it replaces, or `value` itself when the slot is closed.
    pub fn put(&self, value: T) -> Option<T> {
        let mut state = self.lock();
        if state.closed {
            return Some(value);
        }
        let replaced = state.value.replace(value);
        self.changed.notify_one();
        replaced
    }

    /// Waits for a value; `None` once the slot is closed, even if a value is still in it.
    pub fn take(&self) -> Option<T> {
        self.take_marked(|| true, || ()).map(|(value, ())| value)
    }

    /// As [`LatestSlot::take`], but ends with `None` as well once `goes_on` says no, which is asked again after each
    /// [`LatestSlot::wake`]; the value then stays. `mark` is called while the slot is locked, so that nobody finds the
    /// slot empty before it has been.
    pub fn take_marked<M>(&self, goes_on: impl Fn() -> bool, mark: impl FnOnce() -> M) -> Option<(T, M)> {
        let mut state = self.lock();
        loop {
            if state.closed || !goes_on() {
                return None;
            }
            if let Some(value) = state.value.take() {
                return Some((value, mark()));
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes everybody who waits for a value ask whether to go on.
    pub fn wake(&self) {
        let _between_asking_and_waiting = self.lock();
        self.changed.notify_all();
    }

    /// Whether there is no value that could be taken.
    pub fn is_empty(&self) -> bool {
        self.lock().value.is_none()
    }

    /// Takes the value back if there is one; never waits.
    pub fn take_back(&self) -> Option<T> {
        self.lock().value.take()
    }

    /// Closes the slot: every present and future [`LatestSlot::take`] returns `None`.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// A panic elsewhere cannot leave the state half-written, so a poisoned lock is still good.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn the_latest_value_wins_and_the_replaced_one_comes_back() {
        let slot = LatestSlot::default();
        assert_eq!(slot.put(1), None);
        assert_eq!(slot.put(2), Some(1));
        assert_eq!(slot.take(), Some(2));
    }

    #[test]
    fn no_value_is_taken_twice() {
        let slot = LatestSlot::default();
        slot.put(1);
        assert_eq!(slot.take(), Some(1));
        assert_eq!(slot.put(2), None, "taking a value leaves nothing behind");
        assert_eq!(slot.take(), Some(2));
    }

    #[test]
    fn a_taker_of_an_empty_slot_gets_the_next_value() {
        let slot = Arc::new(LatestSlot::default());
        let waiting = std::thread::spawn({
            let slot = slot.clone();
            move || slot.take()
        });
        slot.put(1);
        assert_eq!(waiting.join().unwrap(), Some(1));
    }

    #[test]
    fn closing_wakes_the_taker_and_refuses_new_values() {
        let slot = Arc::new(LatestSlot::<i32>::default());
        let waiting = std::thread::spawn({
            let slot = slot.clone();
            move || slot.take()
        });
        slot.close();
        assert_eq!(waiting.join().unwrap(), None);
        assert_eq!(slot.put(3), Some(3));
        assert_eq!(slot.take(), None);
    }

    #[test]
    fn a_taker_that_is_not_to_go_on_leaves_the_value() {
        let slot = LatestSlot::default();
        slot.put(1);
        assert_eq!(slot.take_marked(|| false, || ()), None);
        assert!(!slot.is_empty());
        assert_eq!(slot.take(), Some(1));
        assert!(slot.is_empty());
    }

    #[test]
    fn a_taker_that_waits_is_woken_to_end() {
        let (slot, ends) = (Arc::new(LatestSlot::<i32>::default()), Arc::new(AtomicBool::new(false)));
        let waiting = std::thread::spawn({
            let (slot, ends) = (slot.clone(), ends.clone());
            move || slot.take_marked(|| !ends.load(Ordering::Relaxed), || ())
        });
        ends.store(true, Ordering::Relaxed);
        slot.wake();
        assert_eq!(waiting.join().unwrap(), None);
    }
}
