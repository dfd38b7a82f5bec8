//! The ROS 2 adapter: it converts messages to values and back, and decides nothing. [`node`] makes its parts and spins, and
//! `turn` shows what becomes of a message.
//!
//! | what | file |
//! |---|---|
//! | the command line as ROS 2 defines it | [`arguments`] |
//! | parameters, how they are set, their services, their events | [`params`], [`declared`], [`declarations`], [`parameter_services`], [`parameter_events`] |
//! | messages ↔ values | [`convert`], [`messages`], [`parameter_messages`] |
//! | subscriptions, drained every turn, and their QoS | [`subscriptions`], [`qos`] |
//! | loading, the inference thread | [`model`] |
//! | chunks and latencies, what runs, health, time | [`outputs`], [`model_info`], [`diagnostics`], [`clock`] |
//! | commands at the control rate, and the thread that sends them | [`commands`], [`stream`], [`signal`] |
//! | a pause, a stop, and `~/stopped` | [`halt`] |
//! | the states of a managed node | [`lifecycle`] |
//! | services | [`services`]: [`infer_once`], [`reset`], [`dump_calibration`] |
//! | log lines, on the console and as messages | [`logging`], [`rosout`] |

pub mod arguments;
mod clock;
pub mod commands;
pub mod convert;
pub mod declarations;
pub mod declared;
pub mod diagnostics;
pub mod dump_calibration;
pub mod error;
pub mod halt;
pub mod infer_once;
pub mod lifecycle;
pub mod logging;
pub mod messages;
pub mod model;
pub mod model_info;
mod namesakes;
pub mod node;
pub mod outputs;
pub mod parameter_events;
pub mod parameter_messages;
pub mod parameter_services;
pub mod params;
pub mod qos;
pub mod reset;
pub mod rosout;
pub mod services;
pub mod shared_memory;
pub mod signal;
pub mod stream;
pub mod subscriptions;
mod turn;
