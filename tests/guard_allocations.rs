//! What runs on every control tick allocates nothing: player and guard, whatever the guard says.

#![allow(unsafe_code, reason = "an allocator that counts can only be written with unsafe code")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;
use xvla_ros::config::RotationLayout;
use xvla_ros::robot::channels::Channels;
use xvla_ros::robot::guard::{Context, Guard, Limits, Mode, Range, Rejections, Verdict};
use xvla_ros::robot::player::{Plan, Player, Sample, Timing};
use xvla_ros::types::Stamp;

thread_local! {
    /// Of this thread only, because the test harness allocates in its own.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts.
struct Counting;

fn count() {
    // A thread that is being torn down has no counter any more.
    let _ = COUNT.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every request is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count();
        // SAFETY: the pointer came from the system's allocator with this layout, as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the pointer came from the system's allocator with this layout, as the caller promises.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often this thread has allocated or freed.
fn allocations() -> u64 {
    COUNT.with(Cell::get)
}

const TICK_MS: i64 = 10;
const TICKS: i64 = 10_000;

fn at(ms: i64) -> Stamp {
    Stamp { nanos: ms * 1_000_000 }
}

fn channels() -> Arc<Channels> {
    let names: Vec<String> = (0..20).map(|channel| format!("a{channel}")).collect();
    Channels::of("ee6d", &names, false, Some(RotationLayout::Rows), 2).map(Arc::new).unwrap()
}

/// A plan of two arms over 30 steps; every third one leaves the box of the guard.
fn plan(sequence: u64, reference_ms: i64) -> Plan {
    let row = |step: u8| {
        let (sin, cos) = (f32::from(step) * 0.02).sin_cos();
        let x = if sequence % 3 == 2 { 2.0 } else { 0.01 * f32::from(step) };
        let arm = [x, 0.1, 0.2, cos, -sin, sin, cos, 0.0, 0.0, f32::from(step % 2)];
        [arm, arm].concat()
    };
    let timing = Timing { reference: at(reference_ms), step: Duration::from_millis(33), sequence, epoch: 0 };
    Plan::new(channels(), timing, (0..30).flat_map(row).collect()).unwrap()
}

fn guard(mode: Mode) -> Guard {
    let channels = channels();
    let mut limits = Limits::none(&channels);
    for arm in &mut limits.arms {
        arm.workspace = [Range { min: Some(-0.5), max: Some(0.5) }; 3];
        arm.deviation = Some(0.01);
        (arm.angular_velocity_rad_s, arm.angular_acceleration_rad_s2) = (Some(1.0), Some(100.0));
        arm.angular_jump_rad = Some(1.0);
    }
    for channel in [0, 1, 2, 10, 11, 12] {
        let limits = &mut limits.channels[channel];
        (limits.velocity, limits.acceleration, limits.jump) = (Some(0.4), Some(50.0), Some(0.5));
    }
    limits.plan_age = Some(Duration::from_secs(1));
    Guard::new(channels, limits, mode).unwrap()
}

/// Plays and checks for so many ticks; gives the allocations of the ticks alone, and how many commands passed, were clamped
/// and were rejected.
fn ticks(mode: Mode) -> (u64, [u32; 3]) {
    let (guard, mut player, mut rejections) = (guard(mode), Player::default(), Rejections::default());
    let mut command = [0.0; 20];
    let (mut last, mut before, mut state) = (None::<[f32; 20]>, None::<[f32; 20]>, None::<[f32; 20]>);
    let (mut allocated, mut verdicts) = (0, [0; 3]);
    for tick in 0..TICKS {
        let now_ms = tick * TICK_MS;
        if tick % 50 == 0 {
            player.take(plan(tick.unsigned_abs() / 50, now_ms)).unwrap();
        }
        let earlier = allocations();
        let sample = player.sample(at(now_ms), &mut command);
        if let Sample::Playing { age, .. } = sample {
            let context = Context {
                last: last.as_ref().map(<[f32; 20]>::as_slice),
                before: before.as_ref().map(<[f32; 20]>::as_slice),
                period: Duration::from_millis(TICK_MS.unsigned_abs()),
                state: Some(state.get_or_insert(command)),
                plan_age: age,
            };
            let verdict = guard.check(&mut command, &context);
            rejections.note(verdict);
            verdicts[match verdict {
                Verdict::Pass => 0,
                Verdict::Clamped(_) => 1,
                Verdict::Rejected(_) => 2,
            }] += 1;
            before = last;
            last = if verdict.is_rejected() { last } else { Some(command) };
            state = last.or(state);
        }
        allocated += allocations() - earlier;
    }
    (allocated, verdicts)
}

#[test]
fn ten_thousand_ticks_through_player_and_guard_allocate_nothing() {
    for mode in [Mode::Reject, Mode::Clamp] {
        let (allocated, verdicts) = ticks(mode);
        let [pass, clamped, rejected] = verdicts;
        assert!(pass > 100 && clamped + rejected > 100, "{mode:?}: one-sided ticks: {verdicts:?}");
        assert_eq!(allocated, 0, "{mode:?}");
    }
}

#[test]
fn an_allocation_is_counted() {
    let earlier = allocations();
    drop(std::hint::black_box(vec![1_u8; 64]));
    assert_eq!(allocations() - earlier, 2);
}
