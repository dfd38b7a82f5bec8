//! The command of a tick, as it is published.

use crate::data::messages::Header;
use crate::data::messages::outputs::Command;
use crate::robot::control::{Control, Sent};
use crate::types::Stamp;

/// What `~/command` says of what `control` has just sent at `tick`, in the frame `frame_id`.
pub fn command(control: &Control, sent: &Sent, tick: Stamp, frame_id: &str) -> Command {
    let values = control.controller().map_or(&[][..], |controller| controller.values());
    Command {
        header: Header { stamp: tick, frame_id: frame_id.to_owned() },
        sequence: sent.sequence,
        step: sent.step,
        plan_age_ns: i64::try_from(sent.plan_age.as_nanos()).unwrap_or(i64::MAX),
        verdict: sent.verdict as u8,
        reason: sent.cause.as_ref().map_or(String::new(), |cause| control.words(cause)),
        values: values.to_vec(),
    }
}
