//! The states of a managed node and the transitions between them, with the numbers and labels of lifecycle_msgs and of
//! rcl_lifecycle's default state machine, so that every tool for managed nodes knows them.

/// A state: four that last, and six that are passed through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing is loaded.
    Unconfigured = 1,
    /// The model is loaded and has answered; nothing is inferred or published.
    Inactive = 2,
    /// The policy runs.
    Active = 3,
    /// The node is over.
    Finalized = 4,
    /// The model is being loaded.
    Configuring = 10,
    /// The model is being dropped.
    CleaningUp = 11,
    /// The node is coming to its end.
    ShuttingDown = 12,
    /// The policy is about to run.
    Activating = 13,
    /// The policy is about to stop.
    Deactivating = 14,
    /// Something has failed in a transition.
    ErrorProcessing = 15,
}

use State::{
    Activating, Active, CleaningUp, Configuring, Deactivating, ErrorProcessing, Finalized, Inactive, ShuttingDown,
    Unconfigured,
};

impl State {
    /// Every state, in the order of its number.
    pub const ALL: [Self; 10] = [
        Unconfigured,
        Inactive,
        Active,
        Finalized,
        Configuring,
        CleaningUp,
        ShuttingDown,
        Activating,
        Deactivating,
        ErrorProcessing,
    ];

    /// Its number.
    pub fn id(self) -> u8 {
        self as u8
    }

    /// Its name.
    pub fn label(self) -> &'static str {
        match self {
            Unconfigured => "unconfigured",
            Inactive => "inactive",
            Active => "active",
            Finalized => "finalized",
            Configuring => "configuring",
            CleaningUp => "cleaningup",
            ShuttingDown => "shuttingdown",
            Activating => "activating",
            Deactivating => "deactivating",
            ErrorProcessing => "errorprocessing",
        }
    }
}

/// A transition: its number, its label, and the states that it leads from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// Its number.
    pub id: u8,
    /// Its label. The outcomes of different transitions have the same.
    pub label: &'static str,
    /// The state that it is made in.
    pub start: State,
    /// The state that it leads to.
    pub goal: State,
}

const fn edge(id: u8, label: &'static str, start: State, goal: State) -> Transition {
    Transition { id, label, start, goal }
}

/// Every transition.
pub const GRAPH: [Transition; 25] = [
    edge(1, "configure", Unconfigured, Configuring),
    edge(10, SUCCESS, Configuring, Inactive),
    edge(11, FAILURE, Configuring, Unconfigured),
    edge(12, ERROR, Configuring, ErrorProcessing),
    edge(2, "cleanup", Inactive, CleaningUp),
    edge(20, SUCCESS, CleaningUp, Unconfigured),
    edge(21, FAILURE, CleaningUp, Inactive),
    edge(22, ERROR, CleaningUp, ErrorProcessing),
    edge(3, "activate", Inactive, Activating),
    edge(30, SUCCESS, Activating, Active),
    edge(31, FAILURE, Activating, Inactive),
    edge(32, ERROR, Activating, ErrorProcessing),
    edge(4, "deactivate", Active, Deactivating),
    edge(40, SUCCESS, Deactivating, Inactive),
    edge(41, FAILURE, Deactivating, Active),
    edge(42, ERROR, Deactivating, ErrorProcessing),
    edge(5, "shutdown", Unconfigured, ShuttingDown),
    edge(6, "shutdown", Inactive, ShuttingDown),
    edge(7, "shutdown", Active, ShuttingDown),
    edge(50, SUCCESS, ShuttingDown, Finalized),
    edge(51, FAILURE, ShuttingDown, Finalized),
    edge(52, ERROR, ShuttingDown, ErrorProcessing),
    edge(60, SUCCESS, ErrorProcessing, Unconfigured),
    edge(61, FAILURE, ErrorProcessing, Finalized),
    edge(62, ERROR, ErrorProcessing, Finalized),
];

const SUCCESS: &str = "transition_success";
const FAILURE: &str = "transition_failure";
const ERROR: &str = "transition_error";

/// How a transition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The node is in the state that was asked for.
    Success,
    /// The node is in the state that it was in before.
    Failure,
}

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Success => SUCCESS,
            Self::Failure => FAILURE,
        }
    }
}

/// The state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    state: State,
}

impl Default for Machine {
    fn default() -> Self {
        Self { state: Unconfigured }
    }
}

impl Machine {
    /// The present state.
    pub fn state(self) -> State {
        self.state
    }

    /// The transitions that lead on from the present state. In a state that is passed through, these are its outcomes.
    pub fn available(self) -> impl Iterator<Item = &'static Transition> {
        GRAPH.iter().filter(move |transition| transition.start == self.state)
    }

    /// Begins the transition with this label or, if that is empty, this number, and returns it. `None` if the present state
    /// has no such transition, or it is an outcome, which nobody can ask for.
    pub fn begin(&mut self, id: u8, label: &str) -> Option<&'static Transition> {
        let lasts = |state: State| state.id() <= Finalized.id();
        let is_meant =
            |transition: &&Transition| if label.is_empty() { transition.id == id } else { transition.label == label };
        let found = self.available().filter(|transition| lasts(transition.start)).find(is_meant)?;
        self.state = found.goal;
        Some(found)
    }

    /// Ends the transition that is under way, and returns the one that its outcome is. `None` if none is under way.
    pub fn end(&mut self, outcome: Outcome) -> Option<&'static Transition> {
        let found = self.available().find(|transition| transition.label == outcome.label())?;
        self.state = found.goal;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The state after transitions that all succeed.
    fn after(labels: &[&str]) -> State {
        let mut machine = Machine::default();
        for label in labels {
            machine.begin(0, label).unwrap();
            machine.end(Outcome::Success).unwrap();
        }
        machine.state()
    }

    #[test]
    fn a_node_is_configured_activated_and_all_the_way_back() {
        assert_eq!(after(&["configure", "activate"]), Active);
        assert_eq!(after(&["configure", "activate", "deactivate", "cleanup"]), Unconfigured);
    }

    #[test]
    fn a_node_can_be_shut_down_from_every_state_that_lasts() {
        assert_eq!(after(&["shutdown"]), Finalized);
        assert_eq!(after(&["configure", "shutdown"]), Finalized);
        assert_eq!(after(&["configure", "activate", "shutdown"]), Finalized);
    }

    #[test]
    fn a_failed_transition_leads_back() {
        let mut machine = Machine::default();
        machine.begin(1, "").unwrap();
        assert_eq!(machine.end(Outcome::Failure).unwrap().id, 11);
        assert_eq!(machine.state(), Unconfigured);
    }

    #[test]
    fn what_the_state_does_not_allow_changes_nothing() {
        let mut machine = Machine::default();
        assert_eq!(machine.begin(3, ""), None);
        assert_eq!(machine.begin(0, "activate"), None);
        assert_eq!(machine.end(Outcome::Success), None);
        assert_eq!(machine.state(), Unconfigured);
    }

    #[test]
    fn nobody_can_ask_for_an_outcome() {
        let mut machine = Machine::default();
        machine.begin(1, "").unwrap();
        assert_eq!((machine.begin(10, ""), machine.begin(0, SUCCESS)), (None, None));
        assert_eq!(machine.state(), Configuring);
    }

    #[test]
    fn a_label_counts_more_than_a_number() {
        let mut machine = Machine::default();
        assert_eq!(machine.begin(1, "shutdown").unwrap().id, 5);
    }

    #[test]
    fn numbers_are_given_once_and_every_state_but_the_last_leads_on() {
        for (at, transition) in GRAPH.iter().enumerate() {
            assert!(!GRAPH[..at].iter().any(|other| other.id == transition.id), "{transition:?}");
        }
        for state in State::ALL {
            assert_eq!(Machine { state }.available().next().is_none(), state == Finalized, "{state:?}");
        }
    }
}
