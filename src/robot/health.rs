//! Health for diagnostics: a severity and its reason in one line.

use super::frame_loss::TOO_MANY;
use super::inputs::{Fault, Inputs, Topic};
use crate::types::Stamp;

/// How long a fault raises the level.
const MEMORY_MS: f64 = 5_000.0;
/// A camera without a frame for longer than this counts as stopped.
const SILENCE_MS: f64 = 2_000.0;

/// The severity, with the numbers of diagnostic_msgs/DiagnosticStatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is wrong.
    Ok = 0,
    /// The node goes on, but a person should look.
    Warn = 1,
    /// The node, or the latest inference, has failed.
    Error = 2,
}

/// A severity and its reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The severity.
    pub level: Level,
    /// The reason in one line, for a person.
    pub reason: String,
}

impl Health {
    /// Health of severity `level` for the given reason.
    pub fn new(level: Level, reason: impl Into<String>) -> Self {
        Self { level, reason: reason.into() }
    }

    /// The health of the inputs at `now`. The first that applies is reported: a recently dropped message, an input
    /// without a value, a camera that has stopped, frames that get lost.
    pub fn of_inputs(inputs: &Inputs, now: Stamp) -> Self {
        let faults = inputs.topics().filter_map(|topic| topic.last_fault.as_ref());
        if let Some(fault) = faults.filter(|fault| is_recent(fault, now)).max_by_key(|fault| fault.at) {
            return Self::new(Level::Warn, format!("dropped: {}", fault.reason));
        }
        let waiting_for = inputs.waiting_for();
        if !waiting_for.is_empty() {
            return Self::new(Level::Warn, format!("waiting for {}", waiting_for.join(", ")));
        }
        let silence_ms = |topic: &Topic| topic.last_received.map_or(0.0, |last| now.ms_since(last));
        if let Some(camera) = inputs.cameras().iter().find(|camera| silence_ms(&camera.topic) > SILENCE_MS) {
            let seconds = silence_ms(&camera.topic) / 1e3;
            return Self::new(Level::Warn, format!("no frame on {} for {seconds:.1} s", camera.topic.name));
        }
        if let Some(camera) = inputs.cameras().iter().find(|camera| camera.loss.recent_share() > TOO_MANY) {
            let percent = camera.loss.recent_share() * 100.0;
            let remedy = "start the camera driver with the shared-memory profile (FASTRTPS_DEFAULT_PROFILES_FILE=config/fastdds_shm.xml)";
            let reason = format!("{}: {percent:.0} % of the frames get lost: {remedy}", camera.topic.name);
            return Self::new(Level::Warn, reason);
        }
        Self::new(Level::Ok, format!("{} camera(s), state and instruction arrive", inputs.cameras().len()))
    }
}

/// Whether a fault is less than five seconds old at `now` and so still raises the level.
pub fn is_recent(fault: &Fault, now: Stamp) -> bool {
    now.ms_since(fault.at) < MEMORY_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::InputError;
    use crate::types::RgbImage;

    fn at_s(seconds: f64) -> Stamp {
        Stamp { nanos: (seconds * 1e9) as i64 }
    }

    fn streaming() -> Inputs {
        let mut inputs = Inputs::new(&["camera_0/image".to_owned()], &["joint_states"], Some("go".to_owned()), 0);
        inputs.state(0, Ok(vec![0.0]), at_s(1.0), at_s(1.0));
        for frame in 0..100 {
            show(&mut inputs, 10.0 + f64::from(frame) / 30.0);
        }
        inputs
    }

    fn show(inputs: &mut Inputs, seconds: f64) {
        inputs.frame(0, Ok(RgbImage::new(1, 1, vec![0; 3]).unwrap()), at_s(seconds), at_s(seconds));
    }

    fn health(inputs: &Inputs, seconds: f64) -> (Level, String) {
        let Health { level, reason } = Health::of_inputs(inputs, at_s(seconds));
        (level, reason)
    }

    #[test]
    fn a_healthy_stream_is_ok() {
        assert_eq!(health(&streaming(), 13.4).0, Level::Ok);
    }

    #[test]
    fn a_dropped_message_warns_with_its_reason_for_a_few_seconds() {
        let mut inputs = streaming();
        let fault = InputError::Image { field: "camera_0/image".to_owned(), reason: "too short".to_owned() };
        inputs.frame(0, Err(fault), at_s(13.34), at_s(13.34));
        assert_eq!(health(&inputs, 13.4), (Level::Warn, "dropped: `camera_0/image`: too short".to_owned()));
        for frame in 0..180 {
            show(&mut inputs, 13.4 + f64::from(frame) / 30.0);
        }
        assert_eq!(health(&inputs, 19.4).0, Level::Ok);
    }

    #[test]
    fn inputs_without_a_value_are_named() {
        let inputs = Inputs::new(&["camera_0/image".to_owned()], &["joint_states"], None, 0);
        let expected = "waiting for camera_0/image, joint_states, instruction".to_owned();
        assert_eq!(health(&inputs, 1.0), (Level::Warn, expected));
    }

    #[test]
    fn a_camera_that_stops_is_named() {
        let expected = "no frame on camera_0/image for 3.0 s".to_owned();
        assert_eq!(health(&streaming(), 16.3), (Level::Warn, expected));
    }

    #[test]
    fn lost_frames_warn_with_the_remedy() {
        let mut inputs = streaming();
        for frame in (0..90).filter(|frame| frame % 2 == 0 || frame % 3 == 0) {
            show(&mut inputs, 13.4 + f64::from(frame) / 30.0);
        }
        let (level, reason) = health(&inputs, 16.4);
        assert_eq!(level, Level::Warn);
        assert!(reason.contains("get lost") && reason.contains("fastdds_shm.xml"), "{reason}");
    }
}
