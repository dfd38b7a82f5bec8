//! Whether the inputs can be acted on: a severity, the reasons, and whether the policy runs.

use super::camera::{Camera, CameraState};
use super::frame_loss::TOO_MANY;
use super::inputs::{Inputs, with_joints};
use super::state::{Freshness, State};
use super::time::Now;

/// The severity, with the numbers of diagnostic_msgs/DiagnosticStatus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Nothing is wrong.
    Ok = 0,
    /// The node goes on, but a person should look.
    Warn = 1,
    /// The policy has stopped, or the latest inference has failed.
    Error = 2,
    /// Nothing has come yet that could be judged.
    Stale = 3,
}

/// A severity and its reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The severity: that of the worst reason.
    pub level: Level,
    /// The reasons in one line, for a person, the worst first.
    pub reason: String,
    /// Whether the policy may act on what there is.
    pub may_act: bool,
}

const NO_TIME: &str = "ROS time jumps again and again: only one node may publish /clock (ros2 topic info --verbose /clock), \
                       and no bag may start over every few seconds";

/// One thing that is wrong.
struct Complaint {
    level: Level,
    text: String,
}

impl Health {
    /// Health of severity `level` for the given reason; the policy acts unless it is an error.
    pub fn new(level: Level, reason: impl Into<String>) -> Self {
        Self { level, reason: reason.into(), may_act: level < Level::Error }
    }

    /// The health of the inputs. Every complaint is in the reason; while an input has never come, only that is said.
    pub fn of_inputs(inputs: &Inputs, now: Now) -> Self {
        if !now.has_begun() {
            return Self::new(Level::Stale, "waiting for /clock (use_sim_time)");
        }
        let mut complaints: Vec<Complaint> =
            inputs.cameras().iter().filter_map(|camera| of_camera(camera, inputs, now)).collect();
        complaints.extend(inputs.states().iter().filter_map(|state| of_state(state, now)));
        let strangers = inputs.states().iter().filter_map(|state| state.strangers(now));
        complaints.extend(strangers.map(|text| Complaint::new(Level::Warn, text)));
        complaints.extend(of_matching(inputs, now));
        if inputs.has_no_time(now) {
            complaints.push(Complaint::new(Level::Error, NO_TIME.to_owned()));
        }
        complaints.extend(of_cameras_left_out(inputs, now));
        let waiting_for = inputs.waiting_for(now);
        if !waiting_for.is_empty() {
            complaints.push(Complaint::new(Level::Stale, format!("waiting for {}", waiting_for.join(", "))));
        }
        if complaints.iter().all(|complaint| complaint.level < Level::Error) {
            complaints.extend(of_a_stall(inputs, now));
        }
        complaints.extend(inputs.obstacles.iter().map(|text| Complaint::new(Level::Warn, text.clone())));
        complaints.extend(of_messages(inputs, now));
        let level = complaints.iter().map(|complaint| complaint.level).max().unwrap_or(Level::Ok);
        complaints.sort_by_key(|complaint| std::cmp::Reverse(complaint.level));
        let reasons: Vec<&str> = complaints.iter().map(|complaint| complaint.text.as_str()).collect();
        let arriving = || format!("{} camera(s), state and instruction arrive", inputs.cameras().len());
        Self::new(level, if reasons.is_empty() { arriving() } else { reasons.join("; ") })
    }
}

impl Complaint {
    fn new(level: Level, text: String) -> Self {
        Self { level, text }
    }
}

fn of_camera(camera: &Camera, inputs: &Inputs, now: Now) -> Option<Complaint> {
    let topic = &camera.topic.name;
    let limit_ms = camera.max_age().unwrap_or_default().as_millis();
    let text = match camera.state(now) {
        CameraState::Fresh => return of_losses(camera, inputs.loss_remedy),
        CameraState::Waiting if camera.is_required() => return None,
        CameraState::Waiting => format!("nothing on {topic} yet"),
        CameraState::Silent { seconds } => format!("no frame on {topic} for {seconds:.1} s"),
        CameraState::Behind { seconds } => format!(
            "{topic}: stamps are {seconds:.1} s old (max_age_ms is {limit_ms}): synchronise the clocks, or replay with use_sim_time and --clock"
        ),
        CameraState::Frozen { frames, what } => {
            format!("{topic} is frozen: {frames} frames with the same {what} (sync.frozen_after)")
        }
        CameraState::Broken => {
            let fault = camera.topic.last_fault.as_ref().map_or("", |fault| fault.reason.as_str());
            format!("no frame of {topic} can be decoded: {fault}")
        }
    };
    if camera.is_required() {
        Some(Complaint::new(Level::Error, text))
    } else {
        Some(Complaint::new(Level::Warn, format!("{text}: its view is masked")))
    }
}

fn of_losses(camera: &Camera, remedy: fn() -> Option<&'static str>) -> Option<Complaint> {
    let share = camera.loss.recent_share();
    let text = || {
        let remedy = remedy().map_or(String::new(), |remedy| format!(": {remedy}"));
        format!(
            "{}: {:.0} % of the frames get lost on the way, if the camera's rate is what it was{remedy}",
            camera.topic.name,
            share * 100.0
        )
    };
    (share > TOO_MANY).then(|| Complaint::new(Level::Warn, text()))
}

fn of_state(state: &State, now: Now) -> Option<Complaint> {
    let topic = &state.topic.name;
    let text = match state.freshness(now) {
        Freshness::Fresh | Freshness::Waiting { .. } => return None,
        Freshness::TooOld { joints, seconds } => {
            format!("nothing on {} for {seconds:.1} s", with_joints(topic, &joints))
        }
        Freshness::Behind { seconds } => format!("{topic}: stamps are {seconds:.1} s old: synchronise the clocks"),
    };
    if state.is_required() {
        Some(Complaint::new(Level::Error, text))
    } else {
        Some(Complaint::new(Level::Warn, format!("{text}: the last one is held")))
    }
}

fn of_matching(inputs: &Inputs, now: Now) -> Option<Complaint> {
    let apart = inputs.mismatch(now)?;
    let text = format!(
        "frames of {} are {} ms apart (sync.tolerance_ms is {}): trigger the cameras together, or synchronise their clocks",
        inputs
            .cameras()
            .iter()
            .filter(|camera| camera.is_required())
            .map(|camera| camera.name.as_str())
            .collect::<Vec<_>>()
            .join(" and "),
        (apart.as_secs_f64() * 1e6).round() / 1e3,
        inputs.tolerance().as_millis(),
    );
    Some(Complaint::new(Level::Error, text))
}

/// Cameras that are not required, send, and are left out because no frame of theirs belongs to the others'.
fn of_cameras_left_out(inputs: &Inputs, now: Now) -> Vec<Complaint> {
    let apart = |camera: &Camera| {
        let text = format!(
            "{}: no frame is within sync.tolerance_ms ({}) of the other cameras': its view is masked",
            camera.topic.name,
            inputs.tolerance().as_millis()
        );
        Complaint::new(Level::Warn, text)
    };
    inputs.left_out().filter(|camera| camera.state(now) == CameraState::Fresh).map(apart).collect()
}

/// Frames that wait for those of other cameras although no input is too old.
fn of_a_stall(inputs: &Inputs, now: Now) -> Option<Complaint> {
    let (waited, missing) = inputs.stalled(now)?;
    let seconds = waited.as_secs_f64();
    let text = if missing.is_empty() {
        format!("no observation for {seconds:.1} s: the cameras' frames do not come together")
    } else {
        format!("no observation for {seconds:.1} s: nothing new on {}", missing.join(", "))
    };
    Some(Complaint::new(Level::Warn, text))
}

/// Messages that were dropped lately, the latest of them; and topics without stamps.
fn of_messages(inputs: &Inputs, now: Now) -> Vec<Complaint> {
    let faults = inputs.topics().filter_map(|topic| topic.last_fault.as_ref());
    let latest = faults.filter(|fault| fault.is_recent(now.at)).max_by_key(|fault| fault.at);
    let dropped = latest.map(|fault| Complaint::new(Level::Warn, format!("dropped: {}", fault.reason)));
    let unstamped = inputs.topics().filter(|topic| topic.lacks_stamps(now)).map(|topic| {
        Complaint::new(Level::Warn, format!("{}: stamps are zero, the time of receipt stands for them", topic.name))
    });
    dropped.into_iter().chain(unstamped).collect()
}
