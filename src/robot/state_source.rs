//! Whether the source that a deployment takes its state from gives what the checkpoint expects.

use crate::config::{ConfigError, ProprioSource};
use crate::pipeline::{StateKind, StateSpec};

/// Checks the kind of `source` and the number of its `channels`, which is `None` where the sender decides it.
///
/// # Errors
/// [`ConfigError::Invalid`], which names the parameter, what the checkpoint expects and the way out.
pub fn check_source(source: ProprioSource, channels: Option<usize>, spec: &StateSpec) -> Result<(), ConfigError> {
    let (kind, gives, other) = match source {
        ProprioSource::JointStates => (StateKind::Joints, "joints", ProprioSource::EePose),
        ProprioSource::EePose => (StateKind::EndEffector, "an end effector's pose", ProprioSource::JointStates),
        ProprioSource::Proprio => return Ok(()),
    };
    let own = ProprioSource::Proprio.name();
    let wanted = match spec.kind() {
        StateKind::EndEffector => format!("poses of end effectors: its {spec}"),
        StateKind::Joints => format!("joints: its {spec}"),
        StateKind::Any => format!("another state: its {spec}"),
    };
    if !spec.kind().takes(kind) {
        let reason = format!(
            "`{}` gives {gives}, but this checkpoint expects {wanted}; use `{}`, or `{own}` for channels that are already in the checkpoint's order",
            source.name(),
            other.name(),
        );
        return Err(ConfigError::invalid("proprio.source", reason));
    }
    let Some(channels) = channels.filter(|channels| spec.check_unpadded(*channels).is_err()) else { return Ok(()) };
    Err(match source {
        ProprioSource::JointStates => {
            let reason = format!("{channels} names, but this checkpoint's {spec}: name them in the checkpoint's order");
            ConfigError::invalid("proprio.joint_names", reason)
        }
        ProprioSource::EePose | ProprioSource::Proprio => {
            let reason = format!(
                "`{}` gives {channels} channels, but this checkpoint's {spec}; use `{own}` for channels that are already in the checkpoint's order",
                source.name(),
            );
            ConfigError::invalid("proprio.source", reason)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Folders, state_spec};
    use std::path::Path;

    /// The fault of a source for the checkpoint of a fixture; empty if there is none.
    fn fault(source: ProprioSource, channels: Option<usize>, fixture: &str) -> String {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(fixture);
        let checked = check_source(source, channels, &state_spec(Folders::new(&folder, None)).unwrap());
        checked.err().map_or(String::new(), |error| error.to_string())
    }

    #[test]
    fn joints_do_not_fit_a_checkpoint_of_poses() {
        let fault = fault(ProprioSource::JointStates, Some(7), "original_ee6d");
        assert_eq!(
            fault,
            "parameter `proprio.source`: `joint_states` gives joints, but this checkpoint expects poses of end effectors: \
             its ee6d state has 10 (one arm) or 20 (two); use `ee_pose`, or `proprio` for channels that are already in \
             the checkpoint's order"
        );
    }

    #[test]
    fn a_pose_does_not_fit_a_checkpoint_of_joints() {
        let fault = fault(ProprioSource::EePose, Some(10), "original_joint_f16");
        assert!(fault.starts_with("parameter `proprio.source`: `ee_pose` gives an end effector's pose"), "{fault}");
        assert!(fault.contains("expects joints: its joint state has 14; use `joint_states`"), "{fault}");
    }

    #[test]
    fn the_wrong_number_of_joint_names_is_named() {
        let fault = fault(ProprioSource::JointStates, Some(3), "original_joint_f16");
        assert!(
            fault.starts_with("parameter `proprio.joint_names`: 3 names, but this checkpoint's joint state has 14")
        );
    }

    #[test]
    fn a_pose_of_another_width_than_the_statistics_is_refused() {
        let fault = fault(ProprioSource::EePose, Some(10), "vendored_mean_std");
        assert!(fault.contains("gives 10 channels") && fault.contains("statistics of observation.state have 6"));
    }

    #[test]
    fn what_fits_is_no_fault() {
        for (source, channels, fixture) in [
            (ProprioSource::EePose, Some(10), "original_ee6d"),
            (ProprioSource::JointStates, Some(14), "original_joint_f16"),
            (ProprioSource::JointStates, Some(8), "original_auto"),
            (ProprioSource::EePose, Some(10), "original_auto"),
            (ProprioSource::JointStates, Some(12), "native_so101"),
            (ProprioSource::JointStates, Some(3), "vendored_auto_bf16"),
            (ProprioSource::Proprio, None, "original_ee6d"),
        ] {
            assert_eq!(fault(source, channels, fixture), "", "{source:?} {fixture}");
        }
    }
}
