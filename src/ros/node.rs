//! The node: the life of a message from its topic to the chunk that follows from it.

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

/// The node's name, unless it is remapped.
const NAME: &str = "xvla";
/// Longest wait for a message, and so the longest delay in noticing anything else.
const TURN: Duration = Duration::from_millis(10);
/// How long an inference under way is waited for at the end.
const PATIENCE: Duration = Duration::from_millis(200);

/// How the node came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every thread has ended.
    Quiet,
    /// The model is still loading or computing, and nothing may be torn down under it.
    Busy,
}

/// Runs the node on this thread until `stop` is set. Messages, parameters and diagnostics are handled here;
/// the model loads and computes on other threads, and its chunks are published from there.
///
/// # Errors
/// Whatever keeps the node from starting or going on; bad messages do not.
pub fn run(stop: &AtomicBool) -> Result<Ended, NodeError> {
    let mut node = Node::create(create_context()?, NAME, "").map_err(NodeError::middleware("creating the node"))?;
    let ended = live(&mut node, stop);
    // After the last of the streams and publishers that `live` owned.
    drop(node);
    ended
}

fn live(node: &mut Node, stop: &AtomicBool) -> Result<Ended, NodeError> {
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
