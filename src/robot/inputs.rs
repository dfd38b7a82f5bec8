//! The latest value of every configured input, and the rule for when they make an observation.
//!
//! An observation is complete when every camera has a frame that no observation has used before, and every state topic
//! and the instruction have a value. So nothing is computed twice from the same frames, and nothing is computed before
//! every configured input has arrived. The observation's stamp is the oldest of its inputs. An invalid message is
//! dropped and leaves the latest valid value in place.

use super::frame_loss::FrameLoss;
use crate::error::InputError;
use crate::types::{Observation, RgbImage, Stamp, Stamped};
use std::sync::Arc;

/// The message counts of one topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// The topic's name before remapping.
    pub name: String,
    /// Messages received, valid or not.
    pub received: u64,
    /// Messages dropped because they were invalid.
    pub dropped_invalid: u64,
    /// The latest dropped message.
    pub last_fault: Option<Fault>,
    /// When the latest message, valid or not, was received.
    pub last_received: Option<Stamp>,
}

/// A dropped message or another failure, for diagnostics.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The reason, in one line.
    pub reason: String,
    /// When it occurred, in ROS time.
    pub at: Stamp,
}

impl Topic {
    fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), received: 0, dropped_invalid: 0, last_fault: None, last_received: None }
    }

    /// Counts a message and returns its value. The error is the reason for dropping it, or `None` if the topic's
    /// previous fault had the same reason.
    fn count<T>(&mut self, message: Result<T, InputError>, now: Stamp) -> Result<T, Option<String>> {
        self.received += 1;
        self.last_received = Some(now);
        message.map_err(|error| {
            self.dropped_invalid += 1;
            let reason = error.to_string();
            let fault = Fault { reason: reason.clone(), at: now };
            let previous = self.last_fault.replace(fault);
            (previous.is_none_or(|previous| previous.reason != reason)).then_some(reason)
        })
    }
}

/// One camera with its latest frame.
#[derive(Clone, Debug)]
pub struct Camera {
    /// The counts of its topic.
    pub topic: Topic,
    /// Frames that became part of an observation on which an inference began.
    pub used: u64,
    /// The estimate of frames lost in transit.
    pub loss: FrameLoss,
    latest: Option<Stamped<Arc<RgbImage>>>,
    fresh: bool,
}

/// One topic of state channels with its latest value.
#[derive(Clone, Debug)]
pub struct State {
    /// The counts of its topic.
    pub topic: Topic,
    latest: Option<Stamped<Vec<f32>>>,
}

/// The latest values of all configured inputs.
#[derive(Clone, Debug)]
pub struct Inputs {
    cameras: Vec<Camera>,
    state: Vec<State>,
    instruction_topic: Topic,
    instruction: Option<String>,
    instruction_changed: bool,
    domain_id: i64,
    new_faults: Vec<String>,
}

impl Inputs {
    /// Inputs without any value, except `instruction` if it is configured. The channels of the state topics are
    /// concatenated in the order given.
    pub fn new(cameras: &[String], state: &[&str], instruction: Option<String>, domain_id: i64) -> Self {
        let camera = |name: &String| Camera {
            topic: Topic::new(name),
            used: 0,
            loss: FrameLoss::default(),
            latest: None,
            fresh: false,
        };
        Self {
            cameras: cameras.iter().map(camera).collect(),
            state: state.iter().map(|name| State { topic: Topic::new(*name), latest: None }).collect(),
            instruction_topic: Topic::new("instruction"),
            instruction,
            instruction_changed: false,
            domain_id,
            new_faults: Vec::new(),
        }
    }

    /// Takes a frame of camera `index`, or the reason to drop it. `stamp` is the moment it shows, `now` the time of
    /// receipt.
    pub fn frame(&mut self, index: usize, frame: Result<RgbImage, InputError>, stamp: Stamp, now: Stamp) {
        let Some(camera) = self.cameras.get_mut(index) else { return };
        camera.loss.arrived(stamp);
        match camera.topic.count(frame, now) {
            Ok(image) => {
                camera.latest = Some(Stamped { value: Arc::new(image), stamp });
                camera.fresh = true;
            }
            Err(new_fault) => self.new_faults.extend(new_fault),
        }
    }

    /// Takes the channels of state topic `index`, or the reason to drop them.
    pub fn state(&mut self, index: usize, channels: Result<Vec<f32>, InputError>, stamp: Stamp, now: Stamp) {
        let Some(state) = self.state.get_mut(index) else { return };
        match state.topic.count(channels, now) {
            Ok(value) => state.latest = Some(Stamped { value, stamp }),
            Err(new_fault) => self.new_faults.extend(new_fault),
        }
    }

    /// Takes an instruction. A blank one is dropped.
    pub fn instruction(&mut self, text: String, now: Stamp) {
        let checked = if text.trim().is_empty() { Err(InputError::EmptyInstruction) } else { Ok(text) };
        match self.instruction_topic.count(checked, now) {
            Ok(text) => {
                self.instruction_changed |= self.instruction.as_ref().is_some_and(|before| *before != text);
                self.instruction = Some(text);
            }
            Err(new_fault) => self.new_faults.extend(new_fault),
        }
    }

    /// The observation if it is complete, else `None`. Its frames then count as used.
    pub fn observe(&mut self) -> Option<Observation> {
        let instruction = self.instruction.clone()?;
        let state = self.state.iter().map(|state| state.latest.clone()).collect::<Option<_>>()?;
        let fresh = |camera: &Camera| camera.latest.clone().filter(|_| camera.fresh).map(Some);
        let views = self.cameras.iter().map(fresh).collect::<Option<_>>()?;
        for camera in &mut self.cameras {
            camera.fresh = false;
            camera.used += 1;
        }
        Some(Observation { views, state, instruction, domain_id: self.domain_id })
    }

    /// Corrects the counts of used frames: no inference began on the observation before the latest.
    pub fn superseded(&mut self) {
        for camera in &mut self.cameras {
            camera.used = camera.used.saturating_sub(1);
        }
    }

    /// Names of the inputs that have no valid value yet.
    pub fn waiting_for(&self) -> Vec<&str> {
        let cameras = self.cameras.iter().filter(|camera| camera.latest.is_none()).map(|camera| &camera.topic);
        let state = self.state.iter().filter(|state| state.latest.is_none()).map(|state| &state.topic);
        let instruction = self.instruction.is_none().then_some(&self.instruction_topic);
        cameras.chain(state).chain(instruction).map(|topic| topic.name.as_str()).collect()
    }

    /// The cameras, in the order of views.
    pub fn cameras(&self) -> &[Camera] {
        &self.cameras
    }

    /// Every topic: the cameras', the state's, then the instruction's.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        let cameras = self.cameras.iter().map(|camera| &camera.topic);
        cameras.chain(self.state_topics()).chain([&self.instruction_topic])
    }

    /// Every topic except the cameras': the state's, then the instruction's.
    pub fn other_topics(&self) -> impl Iterator<Item = &Topic> {
        self.state_topics().chain([&self.instruction_topic])
    }

    /// Whether a different instruction has replaced the previous one since the last call.
    pub fn take_instruction_changed(&mut self) -> bool {
        std::mem::take(&mut self.instruction_changed)
    }

    /// New faults since the last call: a reason is left out if the topic's previous fault had the same one.
    pub fn take_new_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.new_faults)
    }

    fn state_topics(&self) -> impl Iterator<Item = &Topic> {
        self.state.iter().map(|state| &state.topic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Stamp {
        Stamp { nanos: ms * 1_000_000 }
    }

    fn image(shade: u8) -> Result<RgbImage, InputError> {
        Ok(RgbImage::new(2, 1, vec![shade; 6]).unwrap())
    }

    fn fault() -> InputError {
        InputError::Image { field: "camera_0/image".to_owned(), reason: "too short".to_owned() }
    }

    fn inputs(cameras: usize, instruction: Option<&str>) -> Inputs {
        let cameras: Vec<String> = (0..cameras).map(|i| format!("camera_{i}/image")).collect();
        Inputs::new(&cameras, &["joint_states"], instruction.map(str::to_owned), 3)
    }

    fn shade(observation: &Observation, view: usize) -> u8 {
        observation.views[view].as_ref().unwrap().value.data()[0]
    }

    #[test]
    fn there_is_no_observation_before_every_configured_input_has_a_value() {
        let mut inputs = inputs(2, None);
        assert_eq!(inputs.waiting_for(), ["camera_0/image", "camera_1/image", "joint_states", "instruction"]);
        inputs.frame(0, image(1), at(1), at(1));
        assert!(inputs.observe().is_none());
        inputs.state(0, Ok(vec![0.5]), at(2), at(2));
        assert!(inputs.observe().is_none());
        inputs.instruction("pick".to_owned(), at(3));
        assert_eq!(inputs.waiting_for(), ["camera_1/image"]);
        assert!(inputs.observe().is_none());
        inputs.frame(1, image(2), at(4), at(4));
        assert!(inputs.waiting_for().is_empty());
        let observation = inputs.observe().unwrap();
        assert_eq!((observation.instruction.as_str(), observation.domain_id), ("pick", 3));
        assert_eq!(observation.proprio(), [0.5]);
    }

    #[test]
    fn a_different_instruction_is_a_change_and_the_first_or_a_repeated_one_is_not() {
        let mut inputs = inputs(1, None);
        inputs.instruction("go".to_owned(), at(1));
        inputs.instruction("go".to_owned(), at(2));
        assert!(!inputs.take_instruction_changed());
        inputs.instruction("stop".to_owned(), at(3));
        assert!(inputs.take_instruction_changed());
        assert!(!inputs.take_instruction_changed(), "told once");
    }

    #[test]
    fn an_observation_keeps_the_stamp_of_every_input() {
        let mut inputs = inputs(2, Some("go"));
        inputs.frame(0, image(1), at(30), at(30));
        inputs.state(0, Ok(vec![]), at(20), at(35));
        inputs.frame(1, image(2), at(40), at(40));
        assert_eq!(inputs.observe().unwrap().oldest(), at(20));
        inputs.state(0, Ok(vec![]), at(90), at(90));
        inputs.frame(1, image(2), at(60), at(60));
        inputs.frame(0, image(1), at(70), at(70));
        assert_eq!(inputs.observe().unwrap().oldest(), at(60));
    }

    #[test]
    fn no_frame_is_used_twice() {
        let mut inputs = inputs(2, Some("go"));
        inputs.state(0, Ok(vec![]), at(0), at(0));
        inputs.frame(0, image(1), at(1), at(1));
        inputs.frame(1, image(1), at(1), at(1));
        assert!(inputs.observe().is_some());
        assert!(inputs.observe().is_none());
        inputs.state(0, Ok(vec![1.0]), at(2), at(2));
        inputs.instruction("stop".to_owned(), at(2));
        inputs.frame(0, image(2), at(2), at(2));
        assert!(inputs.observe().is_none(), "camera 1 has nothing new");
        inputs.frame(1, image(2), at(3), at(3));
        assert_eq!(inputs.observe().unwrap().instruction, "stop");
    }

    #[test]
    fn the_latest_frame_wins() {
        let mut inputs = inputs(1, Some("go"));
        inputs.state(0, Ok(vec![]), at(0), at(0));
        inputs.frame(0, image(1), at(1), at(1));
        inputs.frame(0, image(2), at(2), at(2));
        assert_eq!(shade(&inputs.observe().unwrap(), 0), 2);
    }

    #[test]
    fn a_dropped_message_is_counted_and_leaves_the_latest_valid_value() {
        let mut inputs = inputs(1, Some("go"));
        inputs.state(0, Ok(vec![0.25]), at(0), at(0));
        inputs.frame(0, Err(fault()), at(1), at(1));
        assert!(inputs.observe().is_none(), "no observation comes from what was dropped");
        inputs.state(0, Err(InputError::NotFinite { field: "joint_states", index: 0 }), at(2), at(2));
        inputs.frame(0, image(7), at(3), at(3));
        let observation = inputs.observe().unwrap();
        assert_eq!((shade(&observation, 0), observation.proprio()), (7, vec![0.25]));
        let topic = &inputs.cameras()[0].topic;
        assert_eq!((topic.received, topic.dropped_invalid), (2, 1));
        assert_eq!(topic.last_fault, Some(Fault { reason: fault().to_string(), at: at(1) }));
    }

    #[test]
    fn a_blank_instruction_is_dropped_and_the_previous_one_stays() {
        let mut inputs = inputs(1, Some("go"));
        inputs.instruction("  ".to_owned(), at(1));
        inputs.state(0, Ok(vec![]), at(0), at(0));
        inputs.frame(0, image(1), at(1), at(1));
        assert_eq!(inputs.observe().unwrap().instruction, "go");
        assert_eq!(inputs.other_topics().last().unwrap().dropped_invalid, 1);
    }

    #[test]
    fn a_superseded_observation_does_not_count_as_used() {
        let mut inputs = inputs(1, Some("go"));
        inputs.state(0, Ok(vec![]), at(0), at(0));
        for ms in 1..=3 {
            inputs.frame(0, image(1), at(ms), at(ms));
            assert!(inputs.observe().is_some());
        }
        inputs.superseded();
        assert_eq!(inputs.cameras()[0].used, 2);
    }

    #[test]
    fn a_repeated_fault_is_a_new_fault_only_once() {
        let mut inputs = inputs(1, None);
        for ms in 0..5 {
            inputs.frame(0, Err(fault()), at(ms), at(ms));
        }
        assert_eq!(inputs.take_new_faults(), [fault().to_string()]);
        assert!(inputs.take_new_faults().is_empty());
        assert_eq!(inputs.cameras()[0].topic.dropped_invalid, 5);
    }

    #[test]
    fn state_from_several_topics_is_concatenated_in_their_order() {
        let mut inputs = Inputs::new(&["camera_0/image".to_owned()], &["ee_pose", "gripper"], Some("go".to_owned()), 0);
        inputs.frame(0, image(1), at(1), at(1));
        inputs.state(1, Ok(vec![9.0]), at(1), at(1));
        assert_eq!(inputs.waiting_for(), ["ee_pose"]);
        inputs.state(0, Ok(vec![1.0, 2.0]), at(1), at(1));
        assert_eq!(inputs.observe().unwrap().proprio(), [1.0, 2.0, 9.0]);
    }
}
