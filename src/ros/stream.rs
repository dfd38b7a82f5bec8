//! The thread that sends commands: at the control rate, on a schedule of absolute moments, and with real-time priority
//! where that is permitted.
//!
//! It holds the lock of the control while it publishes, so that nothing is sent once a stop has been answered.

use super::clock::RosClock;
use super::commands::Commands;
use super::error::NodeError;
use super::halt::StoppedTopic;
use crate::robot::control::SharedControl;
use crate::robot::control::schedule::Schedule;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use thread_priority::{ThreadPriority, ThreadPriorityValue};

/// The period of a node that has nothing to play.
const IDLE: Duration = Duration::from_millis(20);

/// The thread.
pub struct Stream {
    stop: Arc<AtomicBool>,
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
        let stop = Arc::new(AtomicBool::new(false));
        let mut ticks = Ticks { control, commands, stopped, clock, stop: stop.clone() };
        let body = move || {
            priority.into_iter().for_each(take_priority);
            ticks.run();
        };
        let thread = std::thread::Builder::new().name("control".to_owned()).spawn(body).map_err(NodeError::Thread)?;
        Ok(Self { stop, thread })
    }

    /// Whether the thread still runs. It ends only when it is told to, or by a panic.
    pub fn is_running(&self) -> bool {
        !self.thread.is_finished()
    }

    /// Ends the thread. Returns `false` if it still runs after `patience`.
    pub fn end(self, patience: Duration) -> bool {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
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
    stop: Arc<AtomicBool>,
}

impl Ticks {
    fn run(&mut self) {
        let mut schedule = Schedule::new(Instant::now());
        while !self.stop.load(Ordering::Relaxed) {
            self.tick(&mut schedule);
            sleep_until(schedule.due(), &self.stop);
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
}

fn sleep_until(deadline: Instant, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            Some(left) => std::thread::park_timeout(left),
            None => return,
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
