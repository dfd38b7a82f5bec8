use super::super::channels::Channels;
use super::super::guard::Guard;
use super::super::player::Decoder;
use super::*;
use crate::config::schema::Table;
use crate::config::{ActionConfig, OnBackend, Reaction};
use crate::robot::guard::{Limits, Mode, Range};
use proptest::prelude::*;
use std::time::Instant;

const PERIOD_MS: i64 = 20;
const STEP_MS: i64 = 100;

/// A bench of one joint: a controller, and the clocks that it is shown.
struct Bench {
    controller: Control,
    base: Instant,
    /// The number of the next plan.
    sequence: u64,
}

fn settings() -> Settings {
    Settings {
        period: Duration::from_millis(PERIOD_MS as u64),
        step: Duration::from_millis(STEP_MS as u64),
        execute_steps: None,
        margin: Duration::from_millis(20),
        relative_to_command: false,
        rejections: 3,
        on_rejections: Reaction::Stop,
        on_inputs: Reaction::Hold,
        on_inference: Reaction::Hold,
        on_backend: OnBackend::Hold,
        on_watchdog: Reaction::Stop,
        at_end: Reaction::Hold,
    }
}

impl Bench {
    fn new() -> Self {
        Self::with(settings(), |_| ())
    }

    /// A bench whose joint has the limits that `limit` sets.
    fn with(settings: Settings, limit: impl FnOnce(&mut Limits)) -> Self {
        Self::with_mode(Mode::Reject, settings, limit)
    }

    fn with_mode(mode: Mode, settings: Settings, limit: impl FnOnce(&mut Limits)) -> Self {
        let channels = Arc::new(Channels::of("auto", &["joint".to_owned()], false, None, 0).unwrap());
        let mut limits = Limits::none(&channels);
        limit(&mut limits);
        let decoder = Decoder::new(channels.clone(), &ActionConfig::defaults()).unwrap();
        let guard = Guard::new(channels, limits, mode).unwrap();
        let watch = Watch::new(Some(Duration::from_millis(500)), Some(Duration::from_secs(2)));
        let mut controller = Control::new(watch);
        controller.install(Some(Controller::new(settings, decoder, guard)));
        controller.activate();
        let mut bench = Self { controller, base: Instant::now(), sequence: 0 };
        bench.well(0);
        bench
    }

    fn now(&self, ms: i64) -> Now {
        // A stamp of zero is a clock that has not begun.
        Now { stamp: at(ms), at: self.base + Duration::from_millis(ms.unsigned_abs()) }
    }

    /// Says at `ms` that the inputs can be acted on.
    fn well(&mut self, ms: i64) {
        let now = self.now(ms);
        self.controller.watch().inputs(true, "", now.at);
    }

    fn ill(&mut self, ms: i64, reason: &str) {
        let now = self.now(ms);
        self.controller.watch().inputs(false, reason, now.at);
    }

    /// Hands over a plan whose step k is due at `reference_ms + (k + 1) * 100`.
    fn plan(&mut self, reference_ms: i64, targets: &[f32]) -> Result<(), String> {
        self.plan_measured(reference_ms, targets, &[0.0])
    }

    /// Hands over such a plan, made of an observation at which this state was measured.
    fn plan_measured(&mut self, reference_ms: i64, targets: &[f32], state: &[f32]) -> Result<(), String> {
        let actions = HostArray { shape: vec![1, targets.len(), 1], data: targets.to_vec() };
        let sequence = self.sequence;
        self.sequence += 1;
        let (reference, took) = (at(reference_ms), Duration::from_millis(50));
        self.controller.plan(Chunk { reference, sequence, took, actions: &actions, state })
    }

    /// What is sent at `ms`: the value, what became of it, and why.
    fn sent(&mut self, ms: i64) -> Option<(f32, Verdict, Option<&'static str>)> {
        let now = self.now(ms);
        let sent = self.controller.tick(now)?;
        Some((self.values()[0], sent.verdict, sent.cause.map(|cause| cause.name())))
    }

    fn values(&self) -> &[f32] {
        self.controller.controller().unwrap().values()
    }

    fn counts(&self) -> Counts {
        self.controller.controller().unwrap().counts()
    }

    fn value(&mut self, ms: i64) -> Option<f32> {
        self.sent(ms).map(|(value, ..)| value)
    }

    /// Why the robot is stopped.
    fn stopped(&self) -> Option<String> {
        self.controller.halt().stopped().map(str::to_owned)
    }
}

fn at(ms: i64) -> Stamp {
    Stamp { nanos: 1_000_000_000 + ms * 1_000_000 }
}

#[test]
fn a_plan_is_played_between_its_steps() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0]).unwrap();
    assert_eq!(bench.sent(100), Some((1.0, Verdict::Pass, None)));
    assert_eq!(bench.value(150), Some(1.5));
}

#[test]
fn there_is_no_command_before_the_first_plan_is_due() {
    let mut bench = Bench::new();
    assert_eq!(bench.sent(0), None);
    bench.plan(0, &[1.0]).unwrap();
    assert_eq!(bench.sent(80), None);
}

#[test]
fn at_the_end_of_a_plan_its_last_command_is_held() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0]).unwrap();
    assert_eq!(bench.value(200), Some(2.0));
    assert_eq!(bench.sent(220), Some((2.0, Verdict::Held, Some("starved"))));
    assert_eq!(bench.counts().starved, 1);
}

#[test]
fn at_the_end_of_a_plan_the_robot_can_be_stopped() {
    let mut bench = Bench::with(Settings { at_end: Reaction::Stop, ..settings() }, |_| ());
    bench.plan(0, &[1.0]).unwrap();
    assert_eq!(bench.value(100), Some(1.0));
    assert_eq!(bench.sent(240), None);
    assert_eq!(bench.stopped().unwrap(), "the plan ended 140 ms ago");
}

#[test]
fn no_more_steps_are_played_than_are_executed() {
    let mut bench = Bench::with(Settings { execute_steps: Some(1), ..settings() }, |_| ());
    bench.plan(0, &[1.0, 2.0, 3.0]).unwrap();
    assert_eq!(bench.value(100), Some(1.0));
    assert_eq!(bench.sent(300), Some((1.0, Verdict::Held, Some("starved"))));
}

#[test]
fn while_the_inputs_cannot_be_acted_on_the_last_command_is_held_with_the_reason() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0, 3.0]).unwrap();
    assert_eq!(bench.value(100), Some(1.0));
    bench.ill(120, "no frame on front/image for 0.5 s");
    assert_eq!(bench.sent(120), Some((1.0, Verdict::Held, Some("inputs"))));
    assert_eq!(bench.controller.words(&Cause::Inputs), "no frame on front/image for 0.5 s");
    bench.well(200);
    assert_eq!(bench.sent(200), Some((2.0, Verdict::Pass, None)), "the plan goes on where it is by now");
}

#[test]
fn a_stop_for_bad_inputs_stays_when_they_are_good_again() {
    let mut bench = Bench::with(Settings { on_inputs: Reaction::Stop, ..settings() }, |_| ());
    bench.plan(0, &[1.0, 2.0, 3.0]).unwrap();
    bench.value(100);
    bench.ill(120, "joint_states is silent");
    assert_eq!(bench.sent(120), None);
    bench.well(140);
    assert_eq!(bench.sent(140), None);
    assert_eq!(bench.stopped().unwrap(), "joint_states is silent");
}

#[test]
fn a_robot_that_was_not_moved_yet_waits_for_its_inputs() {
    let mut bench = Bench::with(Settings { on_inputs: Reaction::Stop, ..settings() }, |_| ());
    bench.ill(0, "nothing on front/image yet");
    assert_eq!((bench.sent(0), bench.stopped()), (None, None));
}

#[test]
fn after_a_release_nothing_from_before_is_held_or_played() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    bench.value(100);
    bench.controller.stop();
    assert_eq!((bench.sent(120), bench.stopped().as_deref()), (None, Some("a stop was asked for")));
    bench.controller.release();
    assert_eq!(bench.sent(140), None);
    bench.well(200);
    bench.plan(150, &[7.0]).unwrap();
    assert_eq!(bench.sent(250), Some((7.0, Verdict::Pass, None)));
}

#[test]
fn a_pause_holds_and_what_was_planned_before_is_not_played_after_it() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0, 3.0, 4.0]).unwrap();
    bench.value(100);
    bench.controller.pause();
    assert_eq!(bench.sent(120), Some((1.0, Verdict::Held, Some("paused"))));
    bench.controller.resume();
    assert_eq!(bench.sent(200), Some((1.0, Verdict::Held, Some("no plan"))));
}

#[test]
fn a_new_epoch_plays_nothing_older() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0]).unwrap();
    bench.value(100);
    bench.controller.begin_epoch();
    assert_eq!(bench.sent(200), Some((1.0, Verdict::Held, Some("no plan"))));
}

#[test]
fn a_watch_that_says_nothing_any_more_stops_the_robot() {
    let mut bench = Bench::new();
    bench.plan(0, &[0.0; 30]).unwrap();
    assert!(bench.value(500).is_some());
    assert_eq!(bench.sent(501), None);
    assert!(bench.stopped().unwrap().starts_with("the thread that watches the inputs has said nothing for 0.5 s"));
}

#[test]
fn an_inference_that_hangs_holds_the_robot_until_it_ends() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0; 40]).unwrap();
    bench.value(100);
    let begun = bench.now(100).at;
    bench.controller.watch().inference_since(Some(begun));
    bench.well(2_100);
    assert_eq!(bench.sent(2_100), Some((1.0, Verdict::Pass, None)));
    bench.well(2_120);
    assert_eq!(bench.sent(2_120), Some((1.0, Verdict::Held, Some("inference hangs"))));
    bench.controller.watch().inference_since(None);
    assert_eq!(bench.sent(2_140), Some((1.0, Verdict::Pass, None)));
}

#[test]
fn inferences_that_fail_one_after_the_other_hold_the_robot() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0, 3.0]).unwrap();
    bench.value(100);
    bench.controller.watch().inference_ended(Some("GPU failed"));
    bench.controller.watch().inference_ended(Some("GPU failed"));
    assert_eq!(bench.value(150), Some(1.5));
    bench.controller.watch().inference_ended(Some("GPU failed"));
    assert_eq!(bench.sent(200), Some((1.5, Verdict::Held, Some("inference fails"))));
}

/// A value, what became of it, and why.
type Told = (f32, Verdict, Option<&'static str>);

/// What is sent while the backend is lost, after 1.0 was.
fn sent_without_the_backend(on_backend: OnBackend) -> (Bench, Option<Told>) {
    let mut bench = Bench::with(Settings { on_backend, ..settings() }, |_| ());
    bench.plan(0, &[1.0, 2.0]).unwrap();
    bench.value(100);
    bench.controller.watch().backend(Some("cuda_graph failed, libtorch answers".to_owned()));
    let sent = bench.sent(150);
    (bench, sent)
}

#[test]
fn while_the_backend_is_lost_the_robot_is_held() {
    let (bench, sent) = sent_without_the_backend(OnBackend::Hold);
    assert_eq!(sent, Some((1.0, Verdict::Held, Some("backend lost"))));
    assert_eq!(bench.controller.words(&Cause::Backend), "cuda_graph failed, libtorch answers");
}

#[test]
fn plans_of_the_fallback_are_played_where_that_is_asked_for() {
    assert_eq!(sent_without_the_backend(OnBackend::GoOn).1, Some((1.5, Verdict::Pass, None)));
}

#[test]
fn a_lost_backend_stops_the_robot_where_that_is_asked_for() {
    let (bench, sent) = sent_without_the_backend(OnBackend::Stop);
    assert_eq!((sent, bench.stopped().as_deref()), (None, Some("cuda_graph failed, libtorch answers")));
}

#[test]
fn a_stop_and_a_pause_are_there_before_a_model_is_and_stay_when_it_is_gone() {
    let mut bench = Bench::new();
    bench.controller.stop();
    bench.controller.install(None);
    assert_eq!((bench.stopped().as_deref(), bench.controller.wants_plan(at(0))), (Some("a stop was asked for"), false));
}

#[test]
fn a_node_that_is_not_active_sends_nothing_and_holds_nothing_when_it_is_again() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0]).unwrap();
    bench.value(100);
    bench.controller.deactivate();
    assert_eq!(bench.sent(120), None);
    bench.controller.activate();
    assert_eq!(bench.sent(140), None);
}

#[test]
fn narrower_limits_hold_from_the_next_command_on() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0]).unwrap();
    bench.value(100);
    let channels = bench.controller.controller().unwrap().channels().clone();
    let mut limits = Limits::none(&channels);
    below_one(&mut limits);
    let played = (settings(), Guard::new(channels, limits, Mode::Reject).unwrap());
    bench.controller.reconfigure((None, None), Some(played));
    assert_eq!(bench.sent(150), Some((1.0, Verdict::Held, Some("range"))));
}

#[test]
fn what_is_left_of_a_plan_ends_where_the_guard_refuses_it() {
    let mut bench = Bench::with(settings(), below_one);
    bench.plan(0, &[0.1, 0.5, 0.9, 1.5, 0.9]).unwrap();
    bench.value(120);
    let rest = bench.controller.controller().unwrap().rest_of_plan(at(120));
    // 1.02 would be due at 320 ms.
    let last = rest.last().map(|point| (point.due, point.values[0]));
    assert_eq!((rest.len(), rest[0].due, last), (9, at(140), Some((at(300), 0.9))));
}

#[test]
fn what_is_left_of_a_plan_keeps_the_velocity_from_the_first_command_on() {
    let mut bench = Bench::with_mode(Mode::Clamp, settings(), |limits| limits.channels[0].velocity = Some(1.0));
    bench.plan(0, &[0.0, 9.0, 9.0]).unwrap();
    bench.value(100);
    let mut last = bench.value(120).unwrap();
    let rest = bench.controller.controller().unwrap().rest_of_plan(at(120));
    assert!(rest.len() > 8);
    for point in rest {
        assert!((point.values[0] - last - 0.02).abs() < 1e-5, "{last} to {}", point.values[0]);
        last = point.values[0];
    }
}

/// A bench whose actions are relative, to the command if `to_command`.
fn relative(to_command: bool) -> Bench {
    let mut bench = Bench::with(Settings { relative_to_command: to_command, ..settings() }, |_| ());
    let channels = bench.controller.controller().unwrap().channels().clone();
    let action = ActionConfig { delta: vec![0], ..ActionConfig::defaults() };
    let guard = Guard::new(channels.clone(), Limits::none(&channels), Mode::Reject).unwrap();
    let decoder = Decoder::new(channels, &action).unwrap();
    let settings = *bench.controller.controller().unwrap().settings();
    bench.controller.install(Some(Controller::new(settings, decoder, guard)));
    bench
}

#[test]
fn relative_actions_are_added_to_the_command_that_was_in_force_at_their_observation() {
    let mut bench = relative(true);
    bench.plan_measured(0, &[1.0, 2.0, 3.0], &[10.0]).unwrap();
    for ms in [100, 200, 300] {
        bench.well(ms);
        bench.value(ms);
    }
    // Made of what was seen at 200 ms, when 12.0 was commanded, and there at 300 ms, when 13.0 is.
    bench.plan_measured(200, &[0.5, 0.5], &[99.0]).unwrap();
    assert_eq!(bench.value(400), Some(12.5));
}

#[test]
fn before_the_first_command_relative_actions_are_added_to_the_measured_state() {
    let mut bench = relative(true);
    bench.plan_measured(0, &[1.0], &[10.0]).unwrap();
    assert_eq!(bench.value(100), Some(11.0));
    bench.controller.stop();
    bench.controller.release();
    bench.plan_measured(200, &[1.0], &[20.0]).unwrap();
    bench.well(300);
    assert_eq!(bench.value(300), Some(21.0), "what was commanded before the stop counts for nothing");
}

#[test]
fn relative_actions_without_a_known_state_are_not_played() {
    let mut bench = relative(true);
    assert!(bench.plan_measured(0, &[1.0], &[]).unwrap_err().contains("what it is relative to is unknown"));
}

#[test]
fn relative_actions_of_a_checkpoint_that_is_fed_its_state_are_added_to_that() {
    let mut bench = relative(false);
    bench.plan_measured(0, &[1.0, 1.0, 1.0], &[10.0]).unwrap();
    bench.value(100);
    bench.plan_measured(100, &[1.0], &[30.0]).unwrap();
    assert_eq!(bench.value(200), Some(31.0));
}

/// At most 1.0, and nothing else.
fn below_one(limits: &mut Limits) {
    limits.channels[0].range = Range { min: None, max: Some(1.0) };
}

#[test]
fn a_command_beyond_its_limit_is_not_sent_and_the_one_before_is_held() {
    let mut bench = Bench::with(settings(), below_one);
    bench.plan(0, &[0.5, 1.5, 0.5]).unwrap();
    assert_eq!(bench.value(100), Some(0.5));
    let now = bench.now(200);
    let held = bench.controller.tick(now).unwrap();
    assert_eq!((bench.values(), held.verdict), (&[0.5][..], Verdict::Held));
    let cause = held.cause.unwrap();
    assert_eq!(bench.controller.words(&cause), "joint 1.500 is above 1.000");
    assert_eq!(bench.sent(300), Some((0.5, Verdict::Pass, None)));
}

#[test]
fn a_first_command_that_is_refused_is_told_although_there_is_nothing_to_hold() {
    let mut bench = Bench::with(settings(), below_one);
    bench.plan(0, &[1.5]).unwrap();
    assert_eq!(bench.sent(100), None);
    let (trouble, _) = bench.controller.controller().unwrap().trouble().unwrap();
    assert_eq!(bench.controller.words(&trouble), "joint 1.500 is above 1.000");
}

/// At most 1.0 per second, and nothing else.
fn slow(limits: &mut Limits) {
    limits.channels[0].velocity = Some(1.0);
}

#[test]
fn the_first_command_may_be_no_farther_than_the_robot_can_have_come_since_the_observation() {
    let mut bench = Bench::with(settings(), slow);
    bench.controller.controller_mut().unwrap().state(&[5.0]);
    bench.plan(0, &[5.2]).unwrap();
    assert_eq!(bench.sent(100), None, "0.2 in 0.1 s");
    bench.plan(10, &[5.09]).unwrap();
    assert_eq!(bench.value(110), Some(5.09));
}

#[test]
fn where_commands_are_clamped_the_robot_starts_from_where_it_is() {
    let mut bench = Bench::with_mode(Mode::Clamp, settings(), slow);
    bench.controller.controller_mut().unwrap().state(&[5.0]);
    bench.plan(0, &[9.0, 9.0]).unwrap();
    assert_eq!(bench.sent(100).map(|(value, verdict, _)| (value, verdict)), Some((5.02, Verdict::Clamped)));
}

#[test]
fn a_plan_of_long_steps_is_asked_for_a_step_before_the_end_of_the_last() {
    let mut bench = Bench::with(Settings { step: Duration::from_secs(1), ..settings() }, |_| ());
    bench.plan(0, &[1.0; 3]).unwrap();
    bench.plan(10, &[1.0; 3]).unwrap();
    // It ends at 3,010 ms, and the first step of the next is due a second after its observation.
    assert!(!bench.controller.wants_plan(at(1_989)) && bench.controller.wants_plan(at(1_990)));
}

#[test]
fn a_plan_that_stays_beyond_its_limit_stops_the_robot() {
    let mut bench = Bench::with(settings(), below_one);
    bench.plan(0, &[0.5, 1.5, 1.5]).unwrap();
    bench.value(100);
    for ms in [200, 220] {
        assert_eq!(bench.value(ms), Some(0.5));
    }
    assert_eq!(bench.sent(240), None, "the third in a row");
    assert_eq!(bench.stopped().unwrap(), "joint 1.500 is above 1.000");
}

#[test]
fn a_chunk_that_makes_no_plan_leaves_the_one_that_is_played() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0]).unwrap();
    assert!(bench.plan(20, &[f32::NAN, 2.0]).unwrap_err().contains("joint of step 0 is not finite"));
    assert_eq!(bench.value(150), Some(1.5));
}

#[test]
fn the_next_plan_is_asked_for_in_time_for_the_end_of_this_one() {
    let mut bench = Bench::new();
    assert!(bench.controller.wants_plan(at(0)));
    // The first inference is a cold one; the others take 50 ms.
    bench.plan(0, &[1.0; 10]).unwrap();
    bench.plan(10, &[1.0; 10]).unwrap();
    // It ends at 1,010 ms and is to be followed 20 ms before that, by one whose first step is due 100 ms after its observation.
    assert!(!bench.controller.wants_plan(at(889)));
    assert!(bench.controller.wants_plan(at(890)));
}

#[test]
fn the_next_plan_is_asked_for_before_this_one_is_too_old() {
    let mut bench = Bench::with(settings(), |limits| limits.plan_age = Some(Duration::from_millis(500)));
    bench.plan(0, &[1.0; 10]).unwrap();
    bench.plan(10, &[1.0; 10]).unwrap();
    // It ends at 1,010 ms, but is too old at 510 ms.
    assert!(!bench.controller.wants_plan(at(389)) && bench.controller.wants_plan(at(390)));
}

#[test]
fn no_plan_is_asked_for_during_a_pause_or_a_stop() {
    let mut bench = Bench::new();
    bench.controller.pause();
    assert!(!bench.controller.wants_plan(at(0)));
    bench.controller.resume();
    bench.controller.stop();
    assert!(!bench.controller.wants_plan(at(0)));
}

#[test]
fn the_reaction_time_is_from_the_reference_to_the_first_command() {
    let mut bench = Bench::new();
    bench.plan(0, &[1.0, 2.0]).unwrap();
    bench.value(140);
    bench.value(160);
    assert_eq!(bench.counts().reaction_ms, Some(140.0));
}

/// Something that happens to a controller.
#[derive(Clone, Debug)]
enum Event {
    Plan(Vec<f32>),
    Well,
    Ill,
    Pause,
    Resume,
    Stop,
    Release,
    Epoch,
    Fail,
    Wait(i64),
}

fn event() -> impl Strategy<Value = Event> {
    let value = prop_oneof![4 => 0.5..1.5_f32, 1 => Just(f32::NAN), 1 => Just(f32::INFINITY), 1 => -9.0..9.0_f32];
    prop_oneof![
        6 => proptest::collection::vec(value, 1..6).prop_map(Event::Plan),
        4 => Just(Event::Well),
        1 => Just(Event::Ill),
        1 => Just(Event::Pause),
        2 => Just(Event::Resume),
        1 => Just(Event::Stop),
        2 => Just(Event::Release),
        1 => Just(Event::Epoch),
        1 => Just(Event::Fail),
        12 => (1..200_i64).prop_map(Event::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_every_command_is_within_its_limits_or_the_one_before(
        events in proptest::collection::vec(event(), 1..200),
    ) {
        let mut bench = Bench::with(settings(), |limits| {
            limits.channels[0].range = Range { min: Some(0.5), max: Some(1.5) };
            limits.channels[0].velocity = Some(4.0);
        });
        let (mut ms, mut last): (i64, Option<f32>) = (0, None);
        for event in events {
            match event {
                Event::Plan(targets) => _ = bench.plan(ms, &targets),
                Event::Well => bench.well(ms),
                Event::Ill => bench.ill(ms, "ill"),
                Event::Pause => bench.controller.pause(),
                Event::Resume => bench.controller.resume(),
                Event::Stop => bench.controller.stop(),
                Event::Release => {
                    bench.controller.release();
                    last = None;
                }
                Event::Epoch => bench.controller.begin_epoch(),
                Event::Fail => bench.controller.watch().inference_ended(Some("GPU failed")),
                Event::Wait(span) => {
                    for _ in 0..span / PERIOD_MS + 1 {
                        ms += PERIOD_MS;
                        let Some((value, verdict, cause)) = bench.sent(ms) else { continue };
                        prop_assert!((0.5..=1.5).contains(&value), "{value}");
                        let step = last.map_or(0.0, |last| (value - last).abs());
                        prop_assert!(step <= 4.0 * 0.02 + 1e-5, "{step} in one tick");
                        prop_assert_eq!(verdict == Verdict::Held, verdict != Verdict::Pass && cause.is_some());
                        prop_assert!(verdict != Verdict::Held || last == Some(value), "what is held was sent before");
                        last = Some(value);
                    }
                }
            }
        }
    }
}
