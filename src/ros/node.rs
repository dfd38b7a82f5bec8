//! The node's main loop: the path of a message from its topic to the chunk that it leads to.

use super::arguments::{Arguments, create_context};
use super::clock::RosClock;
use super::diagnostics::Diagnostics;
use super::error::NodeError;
use super::model::Model;
use super::names::Names;
use super::outputs::{Outputs, SharedRecord};
use super::parameter_events::ParameterEvents;
use super::parameter_services::ParameterServices;
use super::params::NodeParameters;
use super::rosout::Rosout;
use super::subscriptions::{Subscriptions, camera_topics, state_topics};
use crate::config::Overrides;
use crate::robot::inputs::Inputs;
use r2r::Node;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The node's name unless the command line remaps it.
pub const NAME: &str = "xvla";
/// The longest wait for a message. It bounds how late the loop notices a signal or a finished load.
const TURN: Duration = Duration::from_millis(10);
/// The time between two looks at the QoS of publishers.
const QOS_PERIOD: Duration = Duration::from_secs(1);
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
/// model loads and computes on other threads, which also publish its chunks. A failure is told through `tell` before
/// the node takes the time to deliver it.
///
/// # Errors
/// Any failure that keeps the node from starting or going on. An invalid message does not.
pub fn run(
    arguments: &Arguments,
    overrides: &Overrides,
    rosout: &Rosout,
    stop: &AtomicBool,
    tell: impl Fn(&NodeError),
) -> Result<Ended, NodeError> {
    let mut node = Node::create(create_context()?, NAME, "").map_err(NodeError::middleware("creating the node"))?;
    rosout.open(&mut node)?;
    let ended = spin(&mut node, arguments, overrides, stop);
    if let Err(failure) = &ended {
        tell(failure);
        rosout.last_word(node.logger(), failure);
    }
    rosout.close(|| ended.is_err() && !stop.load(Ordering::Relaxed));
    // The node must outlive the streams and publishers that `spin` owned.
    drop(node);
    ended
}

fn spin(node: &mut Node, arguments: &Arguments, overrides: &Overrides, stop: &AtomicBool) -> Result<Ended, NodeError> {
    let own_name = node.fully_qualified_name().map_err(NodeError::middleware("the node's name"))?;
    let given = overrides.for_node(&own_name);
    let NodeParameters { config, use_sim_time, mut table, mut qos, warnings } = NodeParameters::of(given)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    if use_sim_time {
        node.get_time_source().enable_sim_time(node).map_err(NodeError::middleware("use_sim_time"))?;
    }
    let clock = RosClock::of(node);
    let record = SharedRecord::default();
    qos.resolve_with(names(node, arguments).map_err(NodeError::middleware("the node's name"))?);
    let mut subscriptions = Subscriptions::new(node, &config, &mut qos)?;
    for name in qos.unused() {
        tracing::warn!("ignored, because this node has no such subscription or policy: `{name}`");
    }
    let mut qos_watch = qos.watch();
    table.extend_from_slice(qos.declared());
    let mut parameters = ParameterServices::new(node, table)?;
    let mut parameter_events = ParameterEvents::new(node, clock.clone())?;
    let mut diagnostics = Diagnostics::new(node, clock.clone(), record.clone())?;
    let outputs = Outputs::new(node, clock.clone(), &config, record.clone())?;
    let mut inputs = Inputs::new(
        &camera_topics(&config),
        state_topics(config.proprio.source),
        config.instruction.clone(),
        config.domain_id,
    );
    tracing::info!("loading {} on {}", config.checkpoint.display(), config.device);
    let mut model = Model::start(config, outputs, record)?;

    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        node.spin_once(TURN);
        parameters.answer();
        parameter_events.declare_when_heard(parameters.table());
        subscriptions.drain(&mut inputs, clock.now());
        for reason in inputs.take_new_faults() {
            tracing::warn!("dropped: {reason}");
        }
        if inputs.take_instruction_changed() {
            model.begin_epoch();
        }
        match model.advance() {
            Ok(true) => tracing::info!("ready"),
            Ok(false) => {}
            Err(error) => {
                diagnostics.publish(&inputs, Some(&error));
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
        if looked.elapsed() >= QOS_PERIOD {
            qos_watch.look(node);
            looked = Instant::now();
        }
    }
    tracing::info!("stopping");
    Ok(if model.stop(PATIENCE) { Ended::Quiet } else { Ended::Busy })
}

fn names(node: &Node, arguments: &Arguments) -> r2r::Result<Names> {
    Ok(Names { node: node.name()?, namespace: node.namespace()?, remaps: arguments.remaps.clone() })
}
