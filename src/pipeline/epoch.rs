//! Epochs decide which answers still count. A stop, a reset or a new instruction begins a new epoch, and no answer to a
//! request of an earlier epoch is delivered after that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// The present epoch, shared by the thread that begins a new one and the thread that delivers answers.
#[derive(Debug, Default)]
pub struct Epoch {
    /// Held while something is delivered, so that [`Epoch::advance`] returns only when no delivery is under way.
    present: Mutex<u64>,
    withdrawn: AtomicU64,
}

impl Epoch {
    /// The number of the present epoch.
    pub fn present(&self) -> u64 {
        *self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new epoch. Once this has returned, no answer of an earlier epoch is delivered.
    pub fn advance(&self) {
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    }

    /// Runs `delivery` for a request of epoch `requested_in`, or counts it as withdrawn if that epoch is over.
    pub fn deliver(&self, requested_in: u64, delivery: impl FnOnce()) {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if *present == requested_in {
            delivery();
        } else {
            self.withdraw();
        }
    }

    /// Counts an observation of an earlier epoch that will not be answered.
    pub fn withdraw(&self) {
        self.withdrawn.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of observations and answers that were dropped because their epoch was over.
    pub fn withdrawn(&self) -> u64 {
        self.withdrawn.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, mpsc};

    #[test]
    fn an_answer_of_the_present_epoch_is_delivered() {
        let epoch = Epoch::default();
        let mut delivered = false;
        epoch.deliver(epoch.present(), || delivered = true);
        assert!(delivered);
        assert_eq!(epoch.withdrawn(), 0);
    }

    #[test]
    fn an_answer_of_an_earlier_epoch_is_withdrawn_and_counted() {
        let epoch = Epoch::default();
        let requested_in = epoch.present();
        epoch.advance();
        epoch.deliver(requested_in, || panic!("delivered after its epoch"));
        assert_eq!(epoch.withdrawn(), 1);
    }

    #[test]
    fn a_new_epoch_waits_for_a_delivery_that_is_under_way() {
        let epoch = Arc::new(Epoch::default());
        let (entered, deliveries) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let delivering = std::thread::spawn({
            let epoch = epoch.clone();
            move || {
                epoch.deliver(0, || {
                    entered.send(()).unwrap();
                    released.recv().unwrap();
                });
            }
        });
        deliveries.recv().unwrap();
        let advancing = std::thread::spawn({
            let epoch = epoch.clone();
            move || epoch.advance()
        });
        assert!(!advancing.is_finished());
        release.send(()).unwrap();
        delivering.join().unwrap();
        advancing.join().unwrap();
        assert_eq!(epoch.present(), 1);
    }
}
