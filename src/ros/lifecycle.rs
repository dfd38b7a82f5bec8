//! The node as a managed one: the services and the topic that `ros2 lifecycle` and launch work with.

use super::clock::RosClock;
use super::error::NodeError;
use super::services::{Requests, answer, next, offer, respond};
use crate::robot::lifecycle::{self, GRAPH, Machine, Outcome, State};
use r2r::lifecycle_msgs::msg::{
    State as StateMessage, Transition as TransitionMessage, TransitionDescription, TransitionEvent,
};
use r2r::lifecycle_msgs::srv::{ChangeState, GetAvailableStates, GetAvailableTransitions, GetState};
use r2r::{Node, Publisher, QosProfile, ServiceRequest};

/// What a transition asks of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Load the model.
    Configure,
    /// Let the policy run.
    Activate,
    /// Stop the policy.
    Deactivate,
    /// Drop the model.
    CleanUp,
    /// Stop everything.
    ShutDown,
}

/// The state machine and its services.
pub struct Lifecycle {
    machine: Machine,
    clock: RosClock,
    change: Requests<ChangeState::Service>,
    state: Requests<GetState::Service>,
    states: Requests<GetAvailableStates::Service>,
    transitions: Requests<GetAvailableTransitions::Service>,
    graph: Requests<GetAvailableTransitions::Service>,
    events: Publisher<TransitionEvent>,
    /// The request for the transition that is under way; `None` for one that the node makes by itself.
    pending: Option<ServiceRequest<ChangeState::Service>>,
}

impl Lifecycle {
    /// Offers the services and advertises `~/transition_event`.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the service or topic.
    pub fn new(node: &mut Node, clock: RosClock) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(10).reliable();
        let events = node.create_publisher("~/transition_event", qos);
        Ok(Self {
            machine: Machine::default(),
            clock,
            change: offer(node, "~/change_state")?,
            state: offer(node, "~/get_state")?,
            states: offer(node, "~/get_available_states")?,
            transitions: offer(node, "~/get_available_transitions")?,
            graph: offer(node, "~/get_transition_graph")?,
            events: events.map_err(NodeError::middleware("~/transition_event"))?,
            pending: None,
        })
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// Begins a transition that nobody has asked for.
    pub fn begin(&mut self, label: &str) -> Option<Task> {
        let found = self.machine.begin(0, label)?;
        self.tell(found);
        task(found)
    }

    /// Answers what can be answered at once, and begins the transition that has been asked for.
    pub fn serve(&mut self) -> Option<Task> {
        let machine = self.machine;
        answer(&mut self.state, |_| GetState::Response { current_state: state(machine.state()) });
        answer(&mut self.states, |_| GetAvailableStates::Response {
            available_states: State::ALL.into_iter().map(state).collect(),
        });
        answer(&mut self.transitions, |_| GetAvailableTransitions::Response {
            available_transitions: machine.available().map(description).collect(),
        });
        answer(&mut self.graph, |_| GetAvailableTransitions::Response {
            available_transitions: GRAPH.iter().map(description).collect(),
        });
        while let Some(request) = next(&mut self.change) {
            let asked = &request.message.transition;
            match self.machine.begin(asked.id, &asked.label) {
                Some(found) => {
                    self.pending = Some(request);
                    self.tell(found);
                    return task(found);
                }
                None => {
                    let (label, id) = (&asked.label, asked.id);
                    let now = self.machine.state().label();
                    tracing::warn!("transition {id} `{label}` was asked for, which there is not in state {now}");
                    respond(request, ChangeState::Response { success: false });
                }
            }
        }
        None
    }

    /// Ends the transition that is under way, and answers whoever has asked for it.
    pub fn end(&mut self, outcome: Outcome) {
        if let Some(found) = self.machine.end(outcome) {
            self.tell(found);
        }
        if let Some(request) = self.pending.take() {
            respond(request, ChangeState::Response { success: outcome == Outcome::Success });
        }
    }

    /// Answers whoever waits for a transition, because the node ends.
    pub fn give_up(&mut self) {
        if let Some(request) = self.pending.take() {
            respond(request, ChangeState::Response { success: false });
        }
    }

    /// Publishes a change of state.
    fn tell(&self, made: &lifecycle::Transition) {
        tracing::info!("{}: {} -> {}", made.label, made.start.label(), made.goal.label());
        let event = TransitionEvent {
            timestamp: u64::try_from(self.clock.now().nanos).unwrap_or(0),
            transition: transition(made),
            start_state: state(made.start),
            goal_state: state(made.goal),
        };
        if let Err(error) = self.events.publish(&event) {
            tracing::warn!("~/transition_event: {error}");
        }
    }
}

fn task(begun: &lifecycle::Transition) -> Option<Task> {
    match begun.goal {
        State::Configuring => Some(Task::Configure),
        State::Activating => Some(Task::Activate),
        State::Deactivating => Some(Task::Deactivate),
        State::CleaningUp => Some(Task::CleanUp),
        State::ShuttingDown => Some(Task::ShutDown),
        _ => None,
    }
}

fn state(plain: State) -> StateMessage {
    StateMessage { id: plain.id(), label: plain.label().to_owned() }
}

fn transition(plain: &lifecycle::Transition) -> TransitionMessage {
    TransitionMessage { id: plain.id, label: plain.label.to_owned() }
}

fn description(plain: &lifecycle::Transition) -> TransitionDescription {
    TransitionDescription {
        transition: transition(plain),
        start_state: state(plain.start),
        goal_state: state(plain.goal),
    }
}
