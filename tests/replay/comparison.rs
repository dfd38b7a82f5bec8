//! What is said of chunks that are in the bag.

use super::*;
use xvla_ros::data::bag::Bag;
use xvla_ros::data::messages::outputs::{ActionChunk, StageLatency};
use xvla_ros::data::messages::{Message, Read, Write};

/// A drive of 20 frames, and every message that a node publishes of it at 20 ms per inference.
struct Recorded {
    /// Messages with the moment of their receipt, ns.
    chunks: Vec<(i64, ActionChunk)>,
    latencies: Vec<(i64, StageLatency)>,
}

impl Recorded {
    fn new() -> Self {
        let bench = Bench::new(drive(20));
        let mcap = bench.path("chunks.mcap");
        bench.sound(&["--latency-ms", "20", "--out", mcap.to_str().unwrap()]);
        let bag = Bag::open(&mcap).unwrap();
        let (mut chunks, mut latencies) = (Vec::new(), Vec::new());
        let mut reader = bag.read(|_| true);
        while let Some(message) = reader.next() {
            let message = message.unwrap();
            match bag.topics()[message.topic].name.as_str() {
                "/xvla/action_chunk" => {
                    chunks.push((message.received.nanos, ActionChunk::from_cdr(message.data).unwrap()));
                }
                "/xvla/stage_latency" => {
                    latencies.push((message.received.nanos, StageLatency::from_cdr(message.data).unwrap()));
                }
                _ => {}
            }
        }
        Self { chunks, latencies }
    }

    /// The drive with these messages in it.
    fn bench(&self) -> Bench {
        let Self { chunks, latencies } = self;
        let mut messages: Vec<(i64, &str, &str, Vec<u8>)> = Vec::new();
        messages.extend(chunks.iter().map(|(at, m)| (*at, "/xvla/action_chunk", ActionChunk::NAME, m.to_cdr())));
        messages.extend(latencies.iter().map(|(at, m)| (*at, "/xvla/stage_latency", StageLatency::NAME, m.to_cdr())));
        messages.sort_by_key(|(at, ..)| *at);
        Bench::new(|bag| {
            let mut messages = messages.into_iter().peekable();
            for step in 0..20 {
                let at_ms = f64::from(step) * 50.0;
                while let Some((at, topic, kind, data)) =
                    messages.next_if(|(at, ..)| (at - START_NS) as f64 / 1e6 < at_ms)
                {
                    bag.write(topic, kind, (at - START_NS) as f64 / 1e6, &data);
                }
                frames_at(bag, at_ms, step as u8);
            }
            for (at, topic, kind, data) in messages {
                bag.write(topic, kind, (at - START_NS) as f64 / 1e6, &data);
            }
        })
    }

    fn compared(&self, extra: &[&str]) -> (Value, String) {
        let bench = self.bench();
        let ran = bench.replay(&[&["--compare"], extra].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
        (bench.report()["comparison"].clone(), ran.stdout)
    }
}

fn notes(comparison: &Value) -> Vec<&str> {
    comparison["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect()
}

#[test]
fn chunks_of_the_same_node_are_found_again() {
    let (found, said) = Recorded::new().compared(&[]);
    assert_eq!((&found["recorded"], &found["same"], &found["compared"]), (&20.into(), &20.into(), &20.into()));
    assert_eq!(notes(&found), [""; 0]);
    assert!(said.contains("20 of 20 recorded chunks on the same observations (100.0 %), max |Δ| 0.00e0"), "{said}");
}

#[test]
fn only_the_part_of_the_bag_that_is_replayed_is_compared() {
    let (found, said) = Recorded::new().compared(&["--to", "0.49"]);
    assert_eq!((&found["recorded"], &found["same"]), (&10.into(), &10.into()), "{said}");
    assert!(!said.contains("STOP"), "{said}");
}

#[test]
fn chunks_of_other_weights_or_another_domain_are_told() {
    let mut recorded = Recorded::new();
    for (_, chunk) in &mut recorded.chunks {
        (chunk.checkpoint_sha256, chunk.domain_id) = ("00".to_owned(), 3);
    }
    let found = recorded.compared(&[]).0;
    let expected = [
        "20 chunks were made with other weights than those of the replay",
        "20 chunks were made for another domain than 0",
    ];
    assert_eq!(notes(&found), expected);
}

#[test]
fn chunks_of_another_length_are_not_compared() {
    let mut recorded = Recorded::new();
    for (_, chunk) in &mut recorded.chunks {
        chunk.chunk_length -= 1;
        chunk.actions.truncate((chunk.chunk_length * chunk.action_dim) as usize);
    }
    let (found, said) = recorded.compared(&[]);
    assert_eq!((&found["same"], &found["compared"]), (&20.into(), &0.into()));
    assert!(said.contains("no actions to compare"), "{said}");
    assert!(notes(&found)[0].starts_with("the actions of 20 chunks cannot be compared"), "{found}");
}

#[test]
fn an_action_that_is_no_number_is_not_taken_for_equal() {
    let mut recorded = Recorded::new();
    recorded.chunks[7].1.actions[0] = f32::NAN;
    let (found, said) = recorded.compared(&[]);
    assert!(said.contains("max |Δ| NaN"), "{said}");
    assert!(found["channels"][0]["max_abs"].is_null() && found["channels"][1]["max_abs"] == 0.0, "{found}");
}

#[test]
fn chunks_of_two_nodes_on_one_topic_are_told() {
    let mut recorded = Recorded::new();
    let second: Vec<_> = recorded.chunks.iter().map(|(at, chunk)| (at + MS, chunk.clone())).collect();
    recorded.chunks.extend(second);
    let found = recorded.compared(&[]).0;
    assert_eq!((&found["recorded"], &found["same"]), (&40.into(), &20.into()));
    assert!(notes(&found)[0].contains("20 chunks stand for a moment that another one stands for too"), "{found}");
}

#[test]
fn a_bag_without_latencies_is_told_to_be_compared_as_it_was_recorded() {
    let recorded = Recorded { latencies: Vec::new(), ..Recorded::new() };
    assert!(notes(&recorded.compared(&[]).0)[0].contains("~/stage_latency"));
}

#[test]
fn a_bag_without_chunks_cannot_be_compared() {
    let (_, problem) = Bench::new(drive(5)).faulty(&["--compare"]);
    assert!(problem.contains("/xvla/action_chunk") && problem.contains("no chunk to compare with"), "{problem}");
}
