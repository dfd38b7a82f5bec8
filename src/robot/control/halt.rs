//! Whether the robot may be moved at all, whatever is planned: what people and the lifecycle say.

/// A stop, a pause, and whether the node is active.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Halt {
    /// Why the robot is stopped, in the words of that moment.
    stopped: Option<String>,
    is_paused: bool,
    is_active: bool,
}

impl Halt {
    /// Why the robot is stopped; `None` if it is not.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Whether a person has asked for a pause.
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Whether the node is active. One that is not sends nothing.
    pub fn is_active(&self) -> bool {
        self.is_active
    }

    /// Why no inference is made: a stop or a pause; `None` if there is neither.
    pub fn reason(&self) -> Option<String> {
        match (&self.stopped, self.is_paused) {
            (Some(stopped), _) => Some(format!("stopped: {stopped} (release it with ~/release_stop)")),
            (None, true) => Some("paused (go on with ~/pause, data: false)".to_owned()),
            (None, false) => None,
        }
    }

    /// Stops for the reason that `words` gives, unless the robot is stopped already: the first reason stays.
    pub(super) fn stop(&mut self, words: impl FnOnce() -> String) {
        self.stopped.get_or_insert_with(words);
    }

    /// Releases a stop.
    pub(super) fn release(&mut self) {
        self.stopped = None;
    }

    pub(super) fn set_paused(&mut self, paused: bool) {
        self.is_paused = paused;
    }

    pub(super) fn set_active(&mut self, active: bool) {
        self.is_active = active;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_for_a_stop_stays() {
        let mut halt = Halt::default();
        halt.stop(|| "front/image is silent".to_owned());
        halt.stop(|| "asked".to_owned());
        assert_eq!(halt.stopped(), Some("front/image is silent"));
        halt.release();
        assert_eq!((halt.stopped(), halt.reason()), (None, None));
    }
}
