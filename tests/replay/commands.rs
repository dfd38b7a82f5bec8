//! What is commanded of a bag's plans: between the steps of the chunks, within the limits, and not while an input is lost.

use super::bags::{BagFile, Frame, START_NS};
use super::*;
use xvla_ros::data::messages::Read;
use xvla_ros::data::messages::diagnostics::DiagnosticArray;
use xvla_ros::data::messages::outputs::{Command, ModelInfo};

const STREAM: [&str; 6] = ["--latency-ms", "60", "-p", "output.mode:=stream", "-p", "execute_steps:=10"];
const STEP_NS: i64 = 100_000_000;
const TICK_NS: i64 = 20_000_000;

fn streamed(bench: &Bench, extra: &[&str]) -> Value {
    let report = bench.sound(&[&STREAM[..], extra].concat());
    report["runs"][0]["played"].clone()
}

/// Two cameras of 20 Hz, of which the wrist's has no frame from 1 s to 2 s.
fn camera_that_dies(bag: &mut BagFile) {
    for step in 0..60_u32 {
        let at_ms = f64::from(step) * 50.0;
        joints_around(bag, at_ms);
        let (stamp_ns, frame) = (START_NS + (at_ms * 1e6) as i64, Frame { shade: step as u8, ..Frame::default() });
        bag.image("/front/image", at_ms + LAG_MS, stamp_ns, &frame);
        if !(20..40).contains(&step) {
            bag.image("/wrist/image", at_ms + LAG_MS, stamp_ns, &frame);
        }
    }
}

struct Arrays {
    values: Vec<f32>,
    stamps_ns: Vec<i64>,
    ages_ns: Vec<i64>,
    sequences: Vec<i64>,
    steps: Vec<f32>,
    verdicts: Vec<u8>,
}

fn arrays(path: &Path) -> Arrays {
    let integers = |key: &str| array(path, key).1.into_i64().unwrap();
    let NpyData::U8(verdicts) = array(path, "command_verdict").1 else { panic!("verdicts are bytes") };
    Arrays {
        values: array(path, "commands").1.into_f32().unwrap(),
        stamps_ns: integers("command_ns"),
        ages_ns: integers("command_age_ns"),
        sequences: integers("command_sequence"),
        steps: array(path, "command_step").1.into_f32().unwrap(),
        verdicts,
    }
}

#[test]
fn commands_lie_on_the_lines_between_the_steps_of_their_chunk() {
    let bench = Bench::new(drive(60));
    let npz = bench.path("chunks.npz");
    streamed(&bench, &["--out", npz.to_str().unwrap()]);
    let commands = arrays(&npz);
    let references = array(&npz, "reference_ns").1.into_i64().unwrap();
    let (shape, actions) = array(&npz, "actions");
    let (steps, actions) = (shape[1], actions.into_f32().unwrap());
    let mut compared = 0;
    for (row, stamp_ns) in commands.stamps_ns.iter().enumerate().filter(|(row, _)| commands.verdicts[*row] == 0) {
        let chunk = usize::try_from(commands.sequences[row]).unwrap();
        let age_ns = stamp_ns - references[chunk];
        assert_eq!(commands.ages_ns[row], age_ns);
        let since = (age_ns - STEP_NS) as f64 / STEP_NS as f64;
        assert!((f64::from(commands.steps[row]) - since).abs() < 1e-3 || since > 9.0, "{since}");
        let (step, share) = (since.min(9.0).floor() as usize, since.min(9.0).fract());
        for channel in 0..7 {
            let at = |step: usize| f64::from(actions[(chunk * steps + step) * 7 + channel]);
            let expected = if share > 0.0 { at(step) + (at(step + 1) - at(step)) * share } else { at(step) };
            assert!((f64::from(commands.values[row * 7 + channel]) - expected).abs() < 1e-4, "command {row}");
            compared += 1;
        }
    }
    assert!(compared > 7 * 120, "{compared} values were compared");
}

#[test]
fn commands_come_on_the_schedule_of_the_control_rate_until_the_bag_ends() {
    let bench = Bench::new(drive(40));
    let npz = bench.path("chunks.npz");
    let played = streamed(&bench, &["--out", npz.to_str().unwrap()]);
    let stamps_ns = arrays(&npz).stamps_ns;
    assert!(stamps_ns.iter().all(|stamp_ns| (stamp_ns - START_NS) % TICK_NS == 0));
    assert!(stamps_ns.windows(2).all(|pair| pair[1] - pair[0] == TICK_NS));
    // The last frames come at 1956 ms.
    assert_eq!(stamps_ns.last(), Some(&(START_NS + 1940 * MS)));
    assert_eq!((&played["commands"], &played["rate_hz"]), (&stamps_ns.len().into(), &50.0.into()));
}

#[test]
fn the_next_plan_is_inferred_when_it_is_needed_and_not_on_every_observation() {
    let bench = Bench::new(drive(80));
    // Frames come every 50 ms, and the next plan may have to wait so long for one.
    let played = streamed(&bench, &["-p", "control.margin_ms:=80"]);
    // Four seconds of plans that last one each.
    let plans = played["plans"].as_u64().unwrap();
    assert!((4..=6).contains(&plans), "{plans}");
    assert_eq!(bench.report()["runs"][0]["chunks"], plans);
    assert_eq!((&played["held"], &played["starved"]), (&0.into(), &0.into()), "{played:#}");
    let reaction_ms = played["reaction_ms"]["p50"].as_f64().unwrap();
    assert!((60.0..200.0).contains(&reaction_ms), "{reaction_ms}");
}

#[test]
fn a_camera_that_dies_is_held_with_the_cause_and_goes_on_when_it_is_back() {
    let bench = Bench::new(camera_that_dies);
    let played = streamed(&bench, &["-p", "step_dt_s:=0.2"]);
    let spans = played["spans"].as_array().unwrap();
    let is_held = |span: &&Value| span["verdict"] == "held" && span["reason"].as_str().unwrap().contains("wrist/image");
    let held = spans.iter().find(is_held).unwrap_or_else(|| panic!("{played:#}"));
    let (from_s, to_s) = (held["from_s"].as_f64().unwrap(), held["to_s"].as_f64().unwrap());
    assert!((1.0..2.0).contains(&from_s) && (1.9..2.1).contains(&to_s), "{held}");
    assert_eq!(played["stops"].as_array().unwrap().len(), 0);
    let last_s = spans.last().unwrap()["to_s"].as_f64().unwrap();
    assert!(last_s < 2.5, "what comes after is played again: {spans:#?}");
}

#[test]
fn what_is_held_too_often_at_a_limit_is_stopped_with_the_name_of_the_channel() {
    let bench = Bench::new(drive(60));
    let npz = bench.path("chunks.npz");
    let limit = ["-p", "limits.channels:=[joint3]", "-p", "limits.channel.joint3.acceleration:=0.000001"];
    let played = streamed(&bench, &[&limit[..], &["--out", npz.to_str().unwrap()]].concat());
    let [stop] = played["stops"].as_array().unwrap().as_slice() else { panic!("{played:#}") };
    assert!(stop["cause"].as_str().unwrap().starts_with("joint3 acceleration"), "{stop}");
    let commands = arrays(&npz);
    assert!(commands.stamps_ns.last().unwrap() < &stop["stamp_ns"].as_i64().unwrap(), "nothing is sent after it");
    assert_eq!(commands.verdicts.iter().filter(|verdict| **verdict == 2).count(), 9, "ten in a row are too many");
    let html = bench.path("page.html");
    let ran = bench.replay(&[&STREAM[..], &limit, &["--html", html.to_str().unwrap()]].concat());
    assert!(ran.stdout.contains("STOPPED at ") && ran.stdout.contains("joint3 acceleration"), "{ran:?}");
    let page = std::fs::read_to_string(html).unwrap();
    assert!(page.contains("Stopped at ") && page.contains("<title>held: joint3 acceleration"), "the page shows both");
}

#[test]
fn what_is_clamped_is_within_its_limit_and_is_told() {
    let bench = Bench::new(drive(40));
    let npz = bench.path("chunks.npz");
    let limit =
        ["-p", "limits.channels:=[joint3]", "-p", "limits.channel.joint3.velocity:=0.01", "-p", "guard.mode:=clamp"];
    let played = streamed(&bench, &[&limit[..], &["--out", npz.to_str().unwrap()]].concat());
    let commands = arrays(&npz);
    let channel: Vec<f32> = commands.values.iter().copied().skip(2).step_by(7).collect();
    let clamped = commands.verdicts.iter().filter(|verdict| **verdict == 1).count();
    assert!(clamped > 0 && played["clamped"] == clamped, "{played:#}");
    assert!(channel.windows(2).all(|pair| (pair[1] - pair[0]).abs() <= 0.01 * 0.02 * 1.001));
    let reasons = played["reasons"].as_array().unwrap();
    let told = reasons.iter().find(|reason| reason["led_to"] == "clamped").unwrap();
    assert!(told["reason"].as_str().unwrap().starts_with("joint3 velocity") && told["count"] == clamped, "{told}");
}

#[test]
fn the_same_flags_give_the_same_bytes_of_commands_at_any_rate() {
    let bench = Bench::new(camera_that_dies);
    let written = |name: &str, rate: &str| {
        let (npz, mcap) = (bench.path(&format!("{name}.npz")), bench.path(&format!("{name}.mcap")));
        let files = ["--rate", rate, "--out", npz.to_str().unwrap(), "--out", mcap.to_str().unwrap()];
        streamed(&bench, &files);
        [npz, mcap].map(|path| std::fs::read(path).unwrap())
    };
    let first = written("a", "max");
    assert!(first == written("b", "max") && first == written("c", "as-recorded"));
}

#[test]
fn what_the_node_would_have_commanded_is_recorded_on_its_topics() {
    let bench = Bench::new(camera_that_dies);
    let limit = ["-p", "limits.channels:=[joint3]", "-p", "limits.channel.joint3.range:=[-90.0, 90.0]", "-p"];
    for (shadow, topic) in [("shadow:=false", "/xvla/command"), ("shadow:=true", "/xvla/shadow/command")] {
        let (mcap, npz) = (bench.path("node.mcap"), bench.path("node.npz"));
        let files = ["--out", mcap.to_str().unwrap(), "--out", npz.to_str().unwrap()];
        streamed(&bench, &[&limit[..], &[shadow], &files].concat());
        let recorded = Recorded::read(&mcap);
        assert!(recorded.log_times.is_sorted());
        let commands: Vec<Command> = recorded.of(topic).map(|data| Command::from_cdr(data).unwrap()).collect();
        let arrays = arrays(&npz);
        let values: Vec<f32> = commands.iter().flat_map(|command| command.values.clone()).collect();
        assert_eq!(values, arrays.values);
        let stamps_ns: Vec<i64> = commands.iter().map(|command| command.header.stamp.nanos).collect();
        assert_eq!(stamps_ns, arrays.stamps_ns);
        assert!(commands.iter().any(|command| command.verdict == 2 && command.reason.contains("wrist/image")));
        let info = ModelInfo::from_cdr(recorded.of("/xvla/model_info").next().unwrap()).unwrap();
        assert_eq!(info.command_names, ["joint1", "joint2", "joint3", "joint4", "joint5", "joint6", "joint7"]);
        assert!(info.limits[2] == "joint3: -90 to 90 rad", "{:?}", info.limits);
        let stopped: Vec<u8> = recorded.of("/xvla/stopped").map(|data| data[4]).collect();
        assert_eq!(stopped, [0]);
        let reports = recorded.of("/diagnostics").map(|data| DiagnosticArray::from_cdr(data).unwrap());
        let controls: Vec<_> =
            reports.flat_map(|report| report.status).filter(|part| part.name.ends_with(": control")).collect();
        assert!(controls.iter().any(|part| part.level == 1 && part.message.contains("held: ")), "{controls:?}");
        assert!(controls.iter().all(|part| part.values.iter().all(|value| !value.key.starts_with("lateness"))));
    }
}

#[test]
fn a_stop_is_recorded_when_it_happens() {
    let bench = Bench::new(drive(40));
    let mcap = bench.path("node.mcap");
    let limit = ["-p", "limits.channels:=[joint3]", "-p", "limits.channel.joint3.velocity:=0.000001"];
    streamed(&bench, &[&limit[..], &["--out", mcap.to_str().unwrap()]].concat());
    let recorded = Recorded::read(&mcap);
    let stopped: Vec<u8> = recorded.of("/xvla/stopped").map(|data| data[4]).collect();
    assert_eq!(stopped, [0, 1]);
}

#[test]
fn where_chunks_are_only_published_nothing_is_said_of_commands() {
    let bench = Bench::new(drive(10));
    let (mcap, npz) = (bench.path("node.mcap"), bench.path("node.npz"));
    let files = ["--latency-ms", "0", "--out", mcap.to_str().unwrap(), "--out", npz.to_str().unwrap()];
    let report = bench.sound(&files);
    assert_eq!(report["runs"][0].get("played"), None);
    let recorded = Recorded::read(&mcap);
    assert_eq!(recorded.topics, ["/diagnostics", "/xvla/action_chunk", "/xvla/model_info", "/xvla/stage_latency"]);
    assert!(NpzReader::open(&npz, Limits::default()).unwrap().require("commands").is_err());
}

#[test]
fn without_inference_nothing_is_played() {
    let bench = Bench::new(drive(10));
    let report = bench.sound(&["--no-inference", "--latency-ms", "0", "-p", "output.mode:=stream"]);
    assert_eq!((report["runs"][0].get("played"), &report["runs"][0]["observations"]), (None, &10.into()));
}

#[test]
fn an_hour_without_messages_is_left_out_and_plans_are_played_again_after_it() {
    let bench = Bench::new(|bag| {
        drive(20)(bag);
        for step in 0..20_u32 {
            frames_at(bag, 3_600_000.0 + f64::from(step) * 50.0, step as u8);
        }
    });
    let played = streamed(&bench, &[]);
    assert_eq!(played["stops"].as_array().unwrap().len(), 0, "{played:#}");
    assert!(played["commands"].as_u64().unwrap() < 5000, "an hour of silence is left out");
    let last = played["spans"].as_array().unwrap().last().unwrap().clone();
    assert!(last["to_s"].as_f64().unwrap() < 3600.5, "it is played again: {last}");
}

fn schema(channel: &mcap::Channel) -> String {
    channel.schema.as_ref().unwrap().name.clone()
}

/// The messages of an mcap file.
struct Recorded {
    messages: Vec<(String, Vec<u8>)>,
    log_times: Vec<u64>,
    types: Vec<String>,
    topics: Vec<String>,
}

impl Recorded {
    fn read(path: &Path) -> Self {
        let bytes = std::fs::read(path).unwrap();
        let summary = mcap::Summary::read(&bytes).unwrap().unwrap();
        let mut topics: Vec<String> = summary.channels.values().map(|channel| channel.topic.clone()).collect();
        topics.sort();
        let messages: Vec<_> = mcap::MessageStream::new(&bytes).unwrap().map(Result::unwrap).collect();
        Self {
            log_times: messages.iter().map(|message| message.log_time).collect(),
            messages: messages.iter().map(|message| (message.channel.topic.clone(), message.data.to_vec())).collect(),
            types: messages.iter().map(|message| schema(&message.channel)).collect(),
            topics,
        }
    }

    /// Moment, topic, type and bytes of every message.
    fn received(self) -> Vec<(i64, String, String, Vec<u8>)> {
        let moments = self.log_times.iter().map(|ns| i64::try_from(*ns).unwrap());
        let all = moments.zip(self.messages).zip(self.types);
        all.map(|((at_ns, (topic, data)), kind)| (at_ns, topic, kind, data)).collect()
    }

    fn of(&self, topic: &str) -> impl Iterator<Item = &[u8]> {
        self.messages.iter().filter(move |(name, _)| name == topic).map(|(_, data)| data.as_slice())
    }
}

/// A drive, and a bag of it with what a node has published of it, in the order of receipt.
fn with_its_outputs(extra: &[&str]) -> Bench {
    let bench = Bench::new(drive(60));
    let mcap = bench.path("node.mcap");
    streamed(&bench, &[extra, &["--out", mcap.to_str().unwrap()]].concat());
    let mut outputs = Recorded::read(&mcap).received().into_iter().peekable();
    Bench::new(|bag| {
        for step in 0..=60_u32 {
            let at_ms = f64::from(step) * 50.0;
            let until_ns = START_NS + (at_ms * 1e6) as i64;
            while let Some((at_ns, topic, kind, data)) = outputs.next_if(|(at_ns, ..)| *at_ns < until_ns) {
                bag.write(&topic, &kind, (at_ns - START_NS) as f64 / 1e6, &data);
            }
            if step < 60 {
                frames_at(bag, at_ms, step as u8);
            }
        }
    })
}

#[test]
fn recorded_commands_are_what_the_replayed_plans_say_about_their_moments() {
    let bench = with_its_outputs(&[]);
    let ran = bench.replay(&[&STREAM[..], &["--compare", "-p", "control.rate_hz:=30.0"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let comparison = bench.report()["comparison"].clone();
    assert_eq!(comparison["same_share"], 1.0, "{comparison:#}");
    let found = &comparison["commands"];
    let count = |key: &str| found[key].as_u64().unwrap();
    assert!(count("compared") > 120 && count("not_replayed") == 0, "{found:#}");
    assert_eq!(count("recorded"), count("compared") + count("not_of_a_plan"));
    let channels = found["channels"].as_array().unwrap();
    assert_eq!(channels.len(), 7);
    assert!(channels.iter().all(|channel| channel["max_abs"] == 0.0), "{found:#}");
    assert!(ran.stdout.contains("recorded ones compared with the replayed plan"), "{ran:?}");
}

#[test]
fn recorded_commands_of_other_steps_are_told_apart_from_the_replayed_plans() {
    let bench = with_its_outputs(&[]);
    let ran = bench.replay(&[&STREAM[..], &["--compare", "-p", "step_dt_s:=0.11"]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let found = bench.report()["comparison"]["commands"].clone();
    let channels = found["channels"].as_array().unwrap();
    assert!(channels.iter().any(|channel| channel["max_abs"].as_f64().unwrap() > 1e-3), "{found:#}");
}
