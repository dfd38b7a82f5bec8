//! The channels that the robot layer knows are those of the network's action spaces.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use xvla_ros::config::RotationLayout;
use xvla_ros::model::action_space::{ActionMode, ActionSpace};
use xvla_ros::robot::channels::{Channels, Kind};

const ROTATION: [&str; 6] = ["r11", "r12", "r21", "r22", "r31", "r32"];

fn channels_of(space: &ActionSpace) -> Channels {
    let names = space.channel_names(ROTATION);
    Channels::of(space.mode.name(), &names, false, Some(RotationLayout::Rows), 2).unwrap()
}

#[test]
fn every_action_space_has_as_many_channels_as_the_robot_executes() {
    for mode in ActionMode::ALL {
        let space = ActionSpace::fixed(mode);
        let width = usize::try_from(space.real_dim).unwrap();
        let channels = channels_of(&space);
        assert_eq!((channels.action_width(), channels.count()), (width, width), "{}", mode.name());
    }
}

#[test]
fn every_channel_that_is_squashed_is_a_gripper() {
    for mode in ActionMode::ALL {
        let space = ActionSpace::fixed(mode);
        let kinds = channels_of(&space).kinds().to_vec();
        for gripper in space.grippers {
            assert_eq!(kinds[usize::try_from(*gripper).unwrap()], Kind::Gripper, "{}: {gripper}", mode.name());
        }
    }
}

#[test]
fn the_kinds_of_channels_agree_with_their_default_names() {
    for mode in [ActionMode::Ee6d, ActionMode::AgibotEe6d, ActionMode::Joint, ActionMode::So101Bimanual] {
        let channels = channels_of(&ActionSpace::fixed(mode));
        for (name, kind) in channels.names().iter().zip(channels.kinds()) {
            let expected = match name.split_once('_').unwrap().1 {
                "gripper" => Kind::Gripper,
                "x_m" | "y_m" | "z_m" => Kind::Position,
                rotation if ROTATION.contains(&rotation) => Kind::Rotation,
                _ => Kind::Joint,
            };
            assert_eq!(*kind, expected, "{}: {name}", mode.name());
        }
    }
}
