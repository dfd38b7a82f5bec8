//! The thread that sends commands: at the control rate, on a schedule of absolute moments, and with real-time priority
//! where that is permitted.
//!
//! It holds the lock of the control while it publishes, so that nothing is sent once a stop has been answered.

use super::clock::RosClock;
use super::commands::Commands;
use super::error::NodeError;
use super::halt::StoppedTopic;
use super::signal::{Signal, Woken};
use crate::robot::control::SharedControl;
use crate::robot::control::schedule::Schedule;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use thread_priority::{ThreadPriority, ThreadPriorityValue};

/// How long a transition or a service waits for this thread.
const PATIENCE: Duration = Duration::from_millis(200);
/// The period of a node that has nothing to play.
const IDLE: Duration = Duration::from_millis(20);

/// The thread.
pub struct Stream {
    signal: Signal,
    thread: JoinHandle<()>,
}

impl Stream {
    /// Starts sending what `control` has for each tick through `commands`, with SCHED_FIFO `priority` if there is one.
    ///
    /// # Errors
    /// [`NodeError::Thread`] if the operating system refuses a thread.
    pub fn start(
        control: SharedControl,
        commands: Commands,
        stopped: StoppedTopic,
        clock: RosClock,
        priority: Option<u8>,
    ) -> Result<Self, NodeError> {
        let signal = Signal::default();
        let mut ticks = Ticks { control, commands, stopped, clock, signal: signal.clone() };
        let body = move || {
            priority.into_iter().for_each(take_priority);
            ticks.run();
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(body).map_err(NodeError::Thread)?;
        Ok(Self { signal, thread })
    }

    /// Whether the thread still runs. It ends only when it is told to, or by a panic.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Waits until those who play plans by themselves have been told that a stop, a pause or a deactivation has ended them.
    pub fn settle(&self) {
        if !self.signal.ask(PATIENCE) {
            tracing::warn!("the control thread has not answered within {} ms", PATIENCE.as_millis());
        }
    }

    /// Ends the thread. Returns `false` if it still runs after `patience`.
    pub fn end(self, patience: Duration) -> bool {
        self.signal.end();
        let deadline = Instant::now() + patience;
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.thread.is_finished()
    }
}

struct Ticks {
    control: SharedControl,
    commands: Commands,
    stopped: StoppedTopic,
    clock: RosClock,
    signal: Signal,
}

impl Ticks {
    fn run(&mut self) {
        let mut schedule = Schedule::new(Instant::now());
        loop {
            match self.signal.sleep_until(schedule.due()) {
                Woken::InTime => self.tick(&mut schedule),
                Woken::Asked => {
                    self.tell_of_an_end();
                    self.signal.answer();
                }
                Woken::Over => return self.commands.leave(&self.control.lock(), self.clock.now()),
            }
        }
    }

    /// Sends what is due.
    fn tick(&mut self, schedule: &mut Schedule) {
        let mut control = self.control.lock();
        let period = control.controller().map_or(IDLE, |controller| controller.settings().period);
        let mut now = self.clock.present();
        let tick = schedule.take(now.at, period);
        if !self.clock.is_simulated() {
            // Commands are those of moments that are evenly apart, so that a late one is no faster than its plan.
            now.stamp.nanos = now.stamp.nanos.saturating_sub(i64::try_from(tick.overdue.as_nanos()).unwrap_or(0));
        }
        if control.halt().is_active() {
            control.lateness().note(tick.late, tick.missed);
        }
        let sent = control.tick(now);
        self.stopped.say(control.halt().stopped());
        self.commands.publish(&control, sent.as_ref(), now.stamp);
    }

    /// Tells those who play plans by themselves that this one is not played any more, if it is not.
    fn tell_of_an_end(&mut self) {
        let control = self.control.lock();
        let halt = control.halt();
        if halt.stopped().is_some() || halt.is_paused() || !halt.is_active() {
            self.commands.leave(&control, self.clock.now());
        }
    }
}

/// Asks the operating system to run this thread before all others.
fn take_priority(priority: u8) {
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let taken = ThreadPriorityValue::try_from(priority).map_err(|error| error.to_string()).and_then(|value| {
        set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Crossplatform(value), fifo)
            .map_err(|error| format!("{error:?}"))
    });
    match taken {
        Ok(()) => tracing::info!("commands are sent with real-time priority {priority} (SCHED_FIFO)"),
        Err(reason) => tracing::warn!(
            "control.priority {priority}: not permitted ({reason}): commands are sent with ordinary priority. Give this user \
             the right (rtprio in /etc/security/limits.conf, or CAP_SYS_NICE), or set control.priority to 0"
        ),
    }
}
