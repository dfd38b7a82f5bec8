//! The robot's side of the policy, without middleware and without tensors: its inputs and whether they can be trusted.
//!
//! | what | file |
//! |---|---|
//! | all inputs, and when they make an observation | [`inputs`] |
//! | one camera's frames | [`camera`] |
//! | which frames belong together | [`sync`] |
//! | joints, poses and other channels at a moment | [`state`], [`history`] |
//! | the instruction, from latched and volatile publishers | [`instruction`] |
//! | what was chosen for one inference | [`selection`] |
//! | from inputs to inferences, live and replayed | [`policy_loop`] |
//! | how often an inference may begin | [`pace`] |
//! | how often something may be started again | [`restarts`] |
//! | the present on two clocks, and jumps | [`time`] |
//! | counts and faults of a topic | [`topic`] |
//! | frames that went missing on the way | [`frame_loss`] |
//! | batches for calibration, and those of a running node | [`calibration`] |
//! | whether a checkpoint fits the deployment, and what is known of it then | [`deployment`], [`model_facts`] |
//! | whether the state's source fits the checkpoint | [`state_source`] |
//! | what the policy publishes of itself | [`reporting`] |
//! | what the numbers of an action mean, and which are commanded | [`channels`] |
//! | which command is due at a moment | [`player`] |
//! | whether a plan or a command is dangerous | [`guard`] |
//! | the limits that parameters and a URDF give | [`envelope`] |
//! | which command is sent at last: played, held, or none | [`control`] |
//! | ways between rotations | [`geodesic`] |
//! | the states of a managed node | [`lifecycle`] |
//! | the severity of a fault, its reason, and whether the policy may act | [`health`] |

pub mod calibration;
pub mod camera;
pub mod channels;
pub mod control;
pub mod deployment;
pub mod envelope;
pub mod frame_loss;
pub mod geodesic;
pub mod guard;
pub mod health;
pub mod history;
pub mod inputs;
pub mod instruction;
pub mod lifecycle;
pub mod model_facts;
pub mod pace;
pub mod player;
pub mod policy_loop;
pub mod reporting;
pub mod rest_log;
pub mod restarts;
pub mod selection;
pub mod state;
pub mod state_source;
pub mod sync;
pub mod throttle;
pub mod time;
pub mod topic;

pub use inputs::Inputs;

#[cfg(test)]
mod tests;
