//! `~/pause`, `~/stop` and `~/release_stop`, and the latched `~/stopped`.

use super::error::NodeError;
use super::services::{Requests, next, offer, respond};
use crate::robot::control::{Control, SharedControl};
use r2r::std_msgs::msg::Bool;
use r2r::std_srvs::srv::{SetBool, Trigger};
use r2r::{Node, Publisher, QosProfile};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// How long a release may be on its way. Requests of two services arrive in any order, so that one which arrives this soon
/// after a stop may have been sent before it, and nobody has seen the robot stopped in that time.
const RELEASE_ON_ITS_WAY: Duration = Duration::from_millis(300);

/// What a person has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Hold the robot.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Command nothing any more.
    Stop,
    /// Release a stop.
    Release,
}

/// The services.
pub struct HaltServices {
    pause: Requests<SetBool::Service>,
    stop: Requests<Trigger::Service>,
    release: Requests<Trigger::Service>,
    /// When a stop was last asked for.
    stop_asked: Option<Instant>,
}

impl HaltServices {
    /// Offers the services.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the service.
    pub fn new(node: &mut Node) -> Result<Self, NodeError> {
        Ok(Self {
            pause: offer(node, "~/pause")?,
            stop: offer(node, "~/stop")?,
            release: offer(node, "~/release_stop")?,
            stop_asked: None,
        })
    }

    /// Has every wish fulfilled by `fulfil`, which says what it has done, and answers that. A release that arrives together with
    /// a stop or [soon after it](RELEASE_ON_ITS_WAY) is refused: what was sent first is not known.
    pub fn serve(&mut self, mut fulfil: impl FnMut(Wish) -> String) {
        while let Some(request) = next(&mut self.pause) {
            let message = fulfil(if request.message.data { Wish::Pause } else { Wish::Resume });
            respond(request, SetBool::Response { success: true, message });
        }
        while let Some(request) = next(&mut self.stop) {
            self.stop_asked = Some(Instant::now());
            let message = fulfil(Wish::Stop);
            respond(request, Trigger::Response { success: true, message });
        }
        while let Some(request) = next(&mut self.release) {
            let response = match refusal(self.stop_asked, Instant::now()) {
                Some(message) => Trigger::Response { success: false, message },
                None => Trigger::Response { success: true, message: fulfil(Wish::Release) },
            };
            respond(request, response);
        }
    }
}

/// Why a release that arrives at `now` is refused; `None` if it is not.
fn refusal(stop_asked: Option<Instant>, now: Instant) -> Option<String> {
    let since = now.saturating_duration_since(stop_asked?);
    (since < RELEASE_ON_ITS_WAY).then(|| {
        format!("still stopped: a stop was asked for {} ms ago; release it once it is seen", since.as_millis())
    })
}

/// Does what a person wishes, and says what that was.
pub fn fulfil(wish: Wish, control: &SharedControl, topic: &StoppedTopic) -> String {
    let mut control = control.lock();
    let before = control.halt().stopped().map(str::to_owned);
    let done = match (wish, &before) {
        (Wish::Pause, _) => {
            control.pause();
            match rest(&control) {
                None => "paused: the last command is held".to_owned(),
                Some(rest) => format!("paused; {rest}"),
            }
        }
        (Wish::Resume, _) => {
            control.resume();
            match rest(&control) {
                None => "plans are played again".to_owned(),
                Some(rest) => format!("no longer paused; {rest}"),
            }
        }
        (Wish::Stop, _) => {
            control.stop();
            "stopped: nothing is commanded until ~/release_stop".to_owned()
        }
        (Wish::Release, Some(reason)) => {
            control.release();
            format!("released: {reason}")
        }
        (Wish::Release, None) => "there was no stop".to_owned(),
    };
    topic.say(control.halt().stopped());
    done
}

/// Why nothing is commanded, whether paused or not; `None` if something is.
fn rest(control: &Control) -> Option<String> {
    let halt = control.halt();
    match halt.stopped() {
        Some(reason) => Some(format!("still stopped: {reason} (release it with ~/release_stop)")),
        None => (!halt.is_active()).then(|| "the node is not active".to_owned()),
    }
}

/// `~/stopped`, published when it changes and kept for those who subscribe later. Clones publish on the same topic.
#[derive(Clone)]
pub struct StoppedTopic {
    publisher: Publisher<Bool>,
    /// What was said last.
    said: Arc<AtomicU8>,
}

/// Nothing was said yet.
const NOTHING: u8 = 2;

impl StoppedTopic {
    /// Advertises the topic.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic.
    pub fn new(node: &mut Node) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(1).reliable().transient_local();
        let publisher = node.create_publisher("~/stopped", qos).map_err(NodeError::middleware("~/stopped"))?;
        Ok(Self { publisher, said: Arc::new(AtomicU8::new(NOTHING)) })
    }

    /// Says why the robot is stopped, if that is new. Called with the control locked, so that no two say different things.
    pub fn say(&self, stopped: Option<&str>) {
        let state = u8::from(stopped.is_some());
        let before = self.said.swap(state, Ordering::Relaxed);
        if before == state {
            return;
        }
        if let Err(error) = self.publisher.publish(&Bool { data: stopped.is_some() }) {
            tracing::warn!("~/stopped: {error}");
        }
        match stopped {
            Some(reason) => tracing::error!("stopped: {reason}; nothing is commanded until ~/release_stop"),
            None if before != NOTHING => tracing::warn!("the stop is released"),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_may_have_been_sent_before_a_stop_does_not_undo_it() {
        let asked = Instant::now();
        let after = |ms| refusal(Some(asked), asked + Duration::from_millis(ms));
        let refused = after(12).unwrap();
        assert_eq!(refused, "still stopped: a stop was asked for 12 ms ago; release it once it is seen");
        assert!(after(0).is_some() && after(299).is_some());
    }

    #[test]
    fn a_release_of_a_stop_that_has_been_seen_is_done() {
        let asked = Instant::now();
        assert_eq!(refusal(Some(asked), asked + RELEASE_ON_ITS_WAY), None);
        assert_eq!(refusal(None, asked), None, "a node may stop by itself");
    }
}
