//! The node's main loop: the path of a message from its topic to the chunk that it leads to.

use super::arguments::create_context;
use super::clock::RosClock;
use super::diagnostics::Diagnostics;
use super::error::NodeError;
use super::model::Model;
use super::outputs::{Outputs, SharedRecord};
use super::parameter_services::ParameterServices;
use super::params::NodeParameters;
use super::rosout::Rosout;
use super::subscriptions::{Subscriptions, camera_topics, state_topics};
use crate::robot::inputs::Inputs;
use r2r::Node;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The node's name unless the command line remaps it.
const NAME: &str = "xvla";
/// The longest wait for a message. It bounds how late the loop notices a signal or a finished load.
const TURN: Duration = Duration::from_millis(10);
/// How long the node waits at its end for an inference that has begun.
const PATIENCE: Duration = Duration::from_millis(200);

/// The state of the node's threads when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every thread has ended.
    Quiet,
    /// The model is still loading or computing, so nothing that it uses may be destroyed.
    Busy,
}

/// Runs the node on this thread until `stop` is set. This thread handles messages, parameters and diagnostics; the
/// model loads and computes on other threads, which also publish its chunks.
///
/// # Errors
/// Any failure that keeps the node from starting or going on. An invalid message does not.
pub fn run(stop: &AtomicBool) -> Result<Ended, NodeError> {
    let mut node = Node::create(create_context()?, NAME, "").map_err(NodeError::middleware("creating the node"))?;
    let ended = spin(&mut node, stop);
    // The node must outlive the streams and publishers that `spin` owned.
    drop(node);
    ended
}

fn spin(node: &mut Node, stop: &AtomicBool) -> Result<Ended, NodeError> {
    let overrides = std::mem::take(&mut *node.params.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    let values = overrides.iter().map(|(name, parameter)| (name, &parameter.value));
    let NodeParameters { config, use_sim_time, table } = NodeParameters::from_overrides(values)?;
    if use_sim_time {
        node.get_time_source().enable_sim_time(node).map_err(NodeError::middleware("use_sim_time"))?;
    }
    let clock = RosClock::of(node);
    let record = SharedRecord::default();
    let rosout = Rosout::new(node, clock.clone())?;
    let mut parameters = ParameterServices::new(node, table)?;
    let mut diagnostics = Diagnostics::new(node, clock.clone(), record.clone())?;
    let outputs = Outputs::new(node, clock.clone(), &config, record.clone())?;
    let mut subscriptions = Subscriptions::new(node, &config)?;
    let mut inputs = Inputs::new(
        &camera_topics(&config),
        state_topics(config.proprio.source),
        config.instruction.clone(),
        config.domain_id,
    );
    rosout.info(&format!("loading {} on {}", config.checkpoint.display(), config.device));
    let mut model = Model::start(config, outputs, record)?;

    while !stop.load(Ordering::Relaxed) {
        node.spin_once(TURN);
        parameters.answer();
        subscriptions.drain(&mut inputs, clock.now());
        for reason in inputs.take_new_faults() {
            rosout.warn(&format!("dropped: {reason}"));
        }
        if inputs.take_instruction_changed() {
            model.begin_epoch();
        }
        match model.advance() {
            Ok(true) => rosout.info("ready"),
            Ok(false) => {}
            Err(error) => {
                diagnostics.publish(&inputs, Some(&error));
                rosout.error(&error.to_string());
                return Err(error);
            }
        }
        if model.is_running()
            && let Some(observation) = inputs.observe()
            && model.offer(observation)
        {
            inputs.superseded();
        }
        diagnostics.publish_when_due(&inputs);
    }
    tracing::info!("stopping");
    Ok(if model.stop(PATIENCE) { Ended::Quiet } else { Ended::Busy })
}
