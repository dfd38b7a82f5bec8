//! What the threads of a worker are at, as others see it.

use super::locked;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The inferences that are under way, and the panic that ends the threads.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Numbers and starts of the inferences that are under way, the oldest first.
    under_way: VecDeque<(u64, Instant)>,
    begun: u64,
    panic: Option<String>,
}

/// An inference that is under way for as long as this exists, even if a panic ends it.
#[derive(Debug)]
pub(super) struct UnderWay {
    watch: Arc<Watch>,
    number: u64,
}

impl Watch {
    /// Notes that an inference begins now.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        let mut state = locked(&self.0);
        let number = state.begun;
        state.begun += 1;
        state.under_way.push_back((number, Instant::now()));
        UnderWay { watch: self.clone(), number }
    }

    /// When the oldest inference that is under way began.
    pub(super) fn busy_since(&self) -> Option<Instant> {
        locked(&self.0).under_way.front().map(|(_, began)| *began)
    }

    /// Notes why the threads have to end, unless another reason came first.
    pub(super) fn note_panic(&self, message: String) {
        locked(&self.0).panic.get_or_insert(message);
    }

    /// The message of the panic, if there was one.
    pub(super) fn panic(&self) -> Option<String> {
        locked(&self.0).panic.clone()
    }

    pub(super) fn has_panicked(&self) -> bool {
        locked(&self.0).panic.is_some()
    }

    /// Forgets the panic, so that threads may run again; returns its message.
    pub(super) fn forget_panic(&self) -> Option<String> {
        locked(&self.0).panic.take()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        locked(&self.watch.0).under_way.retain(|(number, _)| *number != self.number);
    }
}
