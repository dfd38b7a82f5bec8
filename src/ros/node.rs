//! The node from its start to its end: its parts are made, then it spins. What happens in a turn is in [`turn`](super::turn).

use super::arguments::{Arguments, create_context};
use super::clock::RosClock;
use super::declarations::Declarations;
use super::diagnostics::Diagnostics;
use super::dump_calibration::DumpCalibration;
use super::error::NodeError;
use super::halt::{HaltServices, StoppedTopic};
use super::infer_once::InferOnce;
use super::lifecycle::Lifecycle;
use super::model::Model;
use super::model_info::ModelInfoTopic;
use super::namesakes::Namesakes;
use super::outputs::Outputs;
use super::parameter_services::ParameterServices;
use super::params::{NodeParameters, Unsettled};
use super::reset::Reset;
use super::rosout::Rosout;
use super::shared_memory;
use super::subscriptions::Subscriptions;
use super::turn::Turn;
use crate::config::topic_names::Names;
use crate::config::{Overrides, ProprioSource};
use crate::pipeline::{Folders, PipelineError, state_spec};
use crate::robot::calibration::dump::Dump;
use crate::robot::control::{SharedControl, build};
use crate::robot::health::Health;
use crate::robot::inputs::Inputs;
use crate::robot::policy_loop::PolicyLoop;
use crate::robot::reporting::record::SharedRecord;
use crate::robot::rest_log::RestLog;
use crate::robot::throttle::Throttle;
use r2r::Node;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The node's name unless the command line remaps it.
pub const NAME: &str = "xvla";
/// The longest wait for a message. It bounds how late the loop notices a signal or a finished load.
const TURN: Duration = Duration::from_millis(10);

/// The state of the node's threads when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every thread has ended.
    Quiet,
    /// The model is still loading or computing, or a batch is being written, so nothing that they use may be destroyed.
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
    let given = Unsettled::of(overrides.for_node(&own_name))?;
    if given.use_sim_time() {
        node.get_time_source().enable_sim_time(node).map_err(NodeError::middleware("use_sim_time"))?;
    }
    let clock = RosClock::of(node, given.use_sim_time());
    let record = SharedRecord::default();
    let mut diagnostics = Diagnostics::new(node, clock.clone(), &given.preliminary(), record.clone())?;
    let Some(settled) = settle(node, given, &clock, &mut diagnostics, stop)? else { return Ok(Ended::Busy) };
    let NodeParameters { config, mut table, live, mut qos, facts, warnings } = settled;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    qos.resolve_with(names(node, arguments).map_err(NodeError::middleware("the node's name"))?);
    let subscriptions = Subscriptions::new(node, &config, &mut qos)?;
    for name in qos.unused() {
        tracing::warn!("ignored, because this node has no such subscription or policy: `{name}`");
    }
    table.extend_from_slice(qos.declared());
    let mut parameters = ParameterServices::new(node, Declarations::new(table, live), clock.clone())?;
    let infer_once = InferOnce::new(node)?;
    let reset = Reset::new(node)?;
    let dump = Dump::new(&config, own_name.clone(), record.clone());
    let control = SharedControl::new(build::control(&config));
    diagnostics.tell_of(control.clone());
    let outputs = Outputs::new(node, clock.clone(), &config, record.clone(), control.clone(), dump.tap())?;
    let dump_calibration = DumpCalibration::new(node, dump)?;
    let model_info = ModelInfoTopic::new(node, clock.clone(), facts)?;
    let mut inputs = Inputs::new(&config);
    inputs.loss_remedy = shared_memory::loss_remedy;
    if config.proprio.source == ProprioSource::Proprio {
        inputs.expect_state(
            &state_spec(Folders::new(&config.checkpoint, config.adapter.as_deref())).map_err(PipelineError::from)?,
        );
    }
    let policy_loop = PolicyLoop::new(&config, inputs);
    let starts_itself = config.lifecycle.autostart;
    let mut turn = Turn {
        namesakes: Namesakes::of(&own_name),
        own_name,
        lifecycle: Lifecycle::new(node, clock.clone())?,
        starts_itself,
        record: record.clone(),
        clock,
        diagnostics,
        infer_once,
        reset,
        halt: HaltServices::new(node)?,
        stopped: StoppedTopic::new(node)?,
        dump_calibration,
        subscriptions,
        qos_watch: qos.watch(),
        looked: None,
        policy_loop,
        jump_log: Throttle::default(),
        rest_log: RestLog::default(),
        measured: Vec::new(),
        model_info: model_info.clone(),
        model: Model::new(config, outputs, model_info, record, control.clone()),
        control,
        stream: None,
    };
    turn.stopped.say(None);
    if starts_itself {
        turn.transit("configure")?;
    }

    let outcome = loop {
        if stop.load(Ordering::Relaxed) {
            tracing::info!("stopping");
            break Ok(());
        }
        node.spin_once(TURN);
        parameters.answer(|proposal| turn.adopt(proposal));
        if let Err(failure) = turn.take(node) {
            break Err(failure);
        }
    };
    // After a failure as well: those who play a plan by themselves must hear of its end.
    let has_ended = turn.end();
    outcome.map(|()| if has_ended { Ended::Quiet } else { Ended::Busy })
}

/// Looks into the checkpoint's files on another thread, because a disk may not answer, and spins until that is done. `None`
/// if `stop` is set before.
fn settle(
    node: &mut Node,
    given: Unsettled,
    clock: &RosClock,
    diagnostics: &mut Diagnostics,
    stop: &AtomicBool,
) -> Result<Option<NodeParameters>, NodeError> {
    let (preliminary, waits_for_clock) = (given.preliminary(), given.use_sim_time());
    tracing::info!("loading {} on {}", preliminary.checkpoint.display(), preliminary.device);
    let inputs = Inputs::new(&preliminary);
    let settling = std::thread::Builder::new().name("settling".to_owned()).spawn(move || given.settle());
    let settling = settling.map_err(NodeError::Thread)?;
    while !settling.is_finished() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        // Only the clock can be spun for yet, and rcl complains of a node that waits for nothing.
        if waits_for_clock {
            node.spin_once(TURN);
        } else {
            std::thread::sleep(TURN);
        }
        diagnostics.publish_when_due(&inputs, &Health::of_inputs(&inputs, clock.present()));
    }
    let settled = settling.join().unwrap_or(Err(NodeError::Died("settling")));
    if let Err(error) = &settled {
        diagnostics.publish(&inputs, &Health::of_inputs(&inputs, clock.present()), Some(error));
    }
    settled.map(Some)
}

fn names(node: &Node, arguments: &Arguments) -> r2r::Result<Names> {
    Ok(Names { node: node.name()?, namespace: node.namespace()?, remaps: arguments.remaps.clone() })
}
