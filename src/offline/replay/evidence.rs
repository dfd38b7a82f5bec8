//! What a recording says of when the node received what its chunks were made of.
//!
//! A recorder is another process than the node: it receives the same messages some milliseconds earlier or later, and those
//! of different topics in another order. A chunk tells which frames and which state it was made of, and with its latency the
//! turn of the node in which they were chosen. So they were there in that turn, and what would have been chosen instead was
//! not.

use super::feed::{Arrival, Content};
use crate::config::Config;
use crate::data::messages::outputs::{ActionChunk, StageLatency};
use crate::robot::{state, sync};
use crate::types::Stamp;
use std::collections::BTreeMap;
use std::time::Duration;

/// The most that a recorder is believed to lag behind the node, ns: less than messages are kept to be put in order.
const LAG_NS: i64 = 400_000_000;
/// The most that it is believed to be ahead of the node, ns.
const LEAD_NS: i64 = 100_000_000;
/// The most that is taken for the lag of a message whose stamp is the moment of receipt, ns: less than the time between two.
const RECEIPT_NS: i64 = 5_000_000;
/// The most by which the publication of a chunk, on the clock of its stamps, may differ from its receipt for these to be
/// one clock, ns.
const ONE_CLOCK_NS: i64 = 1_000_000_000;

/// A turn in which the node chose an observation that led to a chunk.
#[derive(Clone, Debug)]
struct Turn {
    at: Stamp,
    begun: Stamp,
    published: Stamp,
    instruction: String,
    /// The frames that were chosen, one per camera; `None` for a view that was masked.
    frames: Vec<Option<Stamp>>,
    /// How many of them have not come yet.
    to_come: usize,
    /// Newer frames that have come before it and that are no reason to choose others: camera and stamp.
    passed_over: Vec<(usize, Stamp)>,
}

/// The turns that are known, and what was chosen in them.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// The turns, in order.
    turns: Vec<Turn>,
    /// The largest difference between the stamps of an observation's frames.
    tolerance: Duration,
    /// For each camera the stamps that were chosen, and the index of the turn that did.
    frames: Vec<BTreeMap<Stamp, usize>>,
    /// One per topic of the state.
    states: Vec<States>,
    /// The last moment on each topic, by the topic's index in the bag.
    last: BTreeMap<usize, Stamp>,
    moved: Moved,
}

/// What was chosen of a topic of the state.
#[derive(Clone, Debug, Default)]
struct States {
    /// Whether the last message holds for ever, so that its stamp is not told.
    is_latched: bool,
    /// The turns in which the state at a moment was looked up between two messages, by that moment.
    between: BTreeMap<Stamp, Stamp>,
    /// The turns in which a message was used although it lay before the moment, so that it was the last: by its stamp.
    as_last: BTreeMap<Stamp, Stamp>,
    /// The turn in which a stamp was used first.
    used: BTreeMap<Stamp, Stamp>,
    /// The stamp of the message before.
    before: Option<Stamp>,
}

/// Messages that are taken at another moment than that of their record.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct Moved {
    /// How many there are.
    pub messages: u64,
    /// The most by which one is earlier or later, ms.
    pub most_ms: f64,
}

impl Evidence {
    /// What `chunks`, each with the moment at which it was published, and `latencies` say about the node of `config`.
    pub fn new(config: &Config, chunks: &[(Stamp, ActionChunk)], latencies: &[StageLatency]) -> Self {
        let topics = state::topics_of(&config.proprio);
        let of_topic = |(kind, _): &(state::Kind, String)| States {
            is_latched: state::is_latched(*kind, &config.proprio),
            ..States::default()
        };
        let mut states: Vec<States> = topics.iter().map(of_topic).collect();
        let latencies: BTreeMap<Stamp, &StageLatency> =
            latencies.iter().map(|latency| (latency.header.stamp, latency)).collect();
        let mut turns = Vec::new();
        for (published, chunk) in chunks {
            let reference = chunk.header.stamp;
            let Some(latency) = latencies.get(&reference) else { continue };
            let Some(at) = before(*published, latency.queue_ms + latency.e2e_ms) else { continue };
            let begun = before(*published, latency.e2e_ms).unwrap_or(at);
            let stamp_of = |input: &str| {
                let mut inputs = chunk.input_names.iter().zip(&chunk.input_stamps);
                inputs.find(|(name, _)| *name == input).map(|(_, stamp)| *stamp)
            };
            let frames: Vec<_> = config.cameras.iter().map(|camera| stamp_of(&camera.name)).collect();
            for (states, (_, topic)) in states.iter_mut().zip(&topics) {
                stamp_of(topic).into_iter().for_each(|used| states.note(reference, used, at));
            }
            turns.push(Turn {
                at,
                begun,
                published: *published,
                instruction: chunk.instruction.clone(),
                to_come: frames.iter().flatten().count(),
                frames,
                passed_over: Vec::new(),
            });
        }
        turns.sort_by_key(|turn| turn.at);
        let of_camera = |camera: usize| {
            let stamps = turns.iter().map(|turn| turn.frames.get(camera).copied().flatten());
            stamps.enumerate().filter_map(|(turn, stamp)| Some((stamp?, turn))).collect()
        };
        let frames = (0..config.cameras.len()).map(of_camera).collect();
        Self { frames, turns, tolerance: config.sync.tolerance, states, ..Self::default() }
    }

    /// When the inferences began that led to chunks.
    pub fn begun(&self) -> impl Iterator<Item = Stamp> {
        self.turns.iter().map(|turn| turn.begun)
    }

    /// The turns in which observations were chosen that led to chunks, in order.
    pub fn turns(&self) -> impl Iterator<Item = Stamp> {
        self.turns.iter().map(|turn| turn.at)
    }

    /// What was moved so far.
    pub fn moved(&self) -> Moved {
        self.moved
    }

    /// The moment at which the node received a message that was recorded at `recorded`.
    pub fn moment(&mut self, arrival: &Arrival, recorded: Stamp) -> Stamp {
        let found = match &arrival.content {
            Content::Frame(camera, _) => arrival.stamp.and_then(|stamp| self.frame(*camera, stamp, recorded)),
            Content::State(index, _) => {
                self.states.get_mut(*index).and_then(|states| states.moment(arrival.stamp, recorded))
            }
            Content::Instruction(text) => self.instruction(text, recorded),
            _ => None,
        };
        let last = self.last.entry(arrival.topic).or_insert(Stamp { nanos: i64::MIN });
        let moment = found.unwrap_or(recorded).max(*last);
        *last = moment;
        if moment != recorded {
            self.moved.messages += 1;
            self.moved.most_ms = self.moved.most_ms.max(moment.ms_since(recorded).abs());
        }
        moment
    }

    /// A frame that was used has come by the turn that chose it, and the last of them in that turn: had the node had all
    /// before, it would have chosen them before. One that would have been chosen instead of an older one had not come by
    /// that turn.
    fn frame(&mut self, camera: usize, stamp: Stamp, recorded: Stamp) -> Option<Stamp> {
        let chosen = self.frames.get(camera)?;
        let older = chosen.range(..stamp).next_back().map(|(_, turn)| *turn);
        let chosen = chosen.get(&stamp).copied();
        let tolerance = self.tolerance;
        let after = older.and_then(|turn| self.turns.get_mut(turn)).and_then(|turn| {
            let is_ahead = is_within(recorded, turn.at, LEAD_NS);
            (is_ahead && !turn.can_pass_over(camera, stamp, tolerance)).then_some(next(turn.at))
        });
        let Some(turn) = chosen.and_then(|turn| self.turns.get_mut(turn)) else { return after };
        turn.to_come = turn.to_come.saturating_sub(1);
        let is_by = is_within(turn.at, recorded, LAG_NS);
        let is_in = turn.to_come == 0 && is_within(recorded, turn.at, LEAD_NS);
        if is_by || is_in { Some(turn.at) } else { after }
    }

    /// An instruction came by the first turn that followed it, and after every chunk that did not.
    fn instruction(&self, text: &str, recorded: Stamp) -> Option<Stamp> {
        let is_near = |moment: Stamp| moment.nanos.abs_diff(recorded.nanos) <= LAG_NS.unsigned_abs();
        let followed = self.turns.iter().find(|turn| is_near(turn.at) && turn.instruction == text);
        let early = followed.map(|turn| turn.at).filter(|at| *at < recorded);
        let ignored = self.turns.iter().rfind(|turn| is_near(turn.published) && turn.instruction != text);
        let late = ignored.map(|turn| next(turn.published)).filter(|after| *after > recorded);
        early.or(late)
    }
}

impl Turn {
    /// Whether its choice is the same if this frame, which is newer than the one it chose, has come as well. Then it counts
    /// as come.
    fn can_pass_over(&mut self, camera: usize, stamp: Stamp, tolerance: Duration) -> bool {
        let newer = || self.passed_over.iter().copied().chain([(camera, stamp)]);
        let used = self.frames.iter().enumerate().filter_map(|(camera, chosen)| Some((camera, (*chosen)?)));
        let lines = used.map(|(camera, chosen)| {
            let mut line: Vec<Stamp> = newer().filter(|(of, _)| *of == camera).map(|(_, stamp)| stamp).collect();
            line.push(chosen);
            line.sort_unstable();
            line
        });
        let lines: Vec<Vec<Stamp>> = lines.collect();
        let Some(found) = sync::newest_set(&lines, tolerance) else { return true };
        let found: Vec<_> = lines.iter().zip(found).map(|(line, index)| line.get(index).copied()).collect();
        let is_same = self.frames.iter().filter(|chosen| chosen.is_some()).eq(&found);
        if is_same {
            self.passed_over.push((camera, stamp));
        }
        is_same
    }
}

impl States {
    /// Takes note of a turn in which the state at `reference` was looked up, and found in the message of stamp `used` or,
    /// if that is the moment itself, between two.
    fn note(&mut self, reference: Stamp, used: Stamp, turn: Stamp) {
        self.used.entry(used).or_insert(turn);
        let of_kind = if used == reference { &mut self.between } else { &mut self.as_last };
        of_kind.insert(used, turn);
    }

    fn moment(&mut self, stamp: Option<Stamp>, recorded: Stamp) -> Option<Stamp> {
        if self.is_latched {
            return None;
        }
        let Some(stamp) = stamp else { return self.moment_without_stamp(recorded) };
        let before = self.before.replace(stamp).filter(|before| *before < stamp);
        // The state was looked up between the message before and this one, or in this one, so it had come.
        let between = before.and_then(|before| self.between.range(next(before)..=stamp).next());
        let by = self.used.get(&stamp).into_iter().chain(between.map(|(_, turn)| turn)).min();
        let by = by.copied().filter(|turn| is_within(*turn, recorded, LAG_NS));
        // A message before this one was the last there was.
        let after = self.as_last.range(..stamp).next_back().map(|(_, turn)| *turn);
        by.or(after.filter(|turn| is_within(recorded, *turn, LEAD_NS)).map(next))
    }

    /// The stamp of such a message is the moment at which the node received it, which the chunks that used it tell.
    fn moment_without_stamp(&mut self, recorded: Stamp) -> Option<Stamp> {
        let earliest = Stamp { nanos: recorded.nanos.saturating_sub(RECEIPT_NS) };
        let latest = Stamp { nanos: recorded.nanos.saturating_add(RECEIPT_NS / 5) };
        let earliest = self.before.map_or(earliest, |before| earliest.max(next(before)));
        let (received, _) = self.used.range(earliest..).next().filter(|(received, _)| **received <= latest)?;
        self.before = Some(*received);
        Some(*received)
    }
}

/// Whether `later` is at most `most_ns` after `earlier`, and not before it.
fn is_within(earlier: Stamp, later: Stamp, most_ns: i64) -> bool {
    (0..=most_ns).contains(&later.nanos.saturating_sub(earlier.nanos))
}

/// When `chunk` was published: its oldest stamp and its age say so exactly, where stamps are of the recorder's clock.
pub fn published(chunk: &ActionChunk, received: Option<Stamp>) -> Stamp {
    let exact = Stamp { nanos: chunk.oldest_stamp.nanos.saturating_add(chunk.observation_age_ns) };
    let Some(received) = received else { return exact };
    let lag_ns = received.nanos.saturating_sub(exact.nanos);
    if (0..ONE_CLOCK_NS).contains(&lag_ns) { exact } else { received }
}

/// The moment that lies `span_ms` before; `None` for a span that is none.
fn before(moment: Stamp, span_ms: f64) -> Option<Stamp> {
    let is_span = (0.0..1e9).contains(&span_ms);
    is_span.then(|| Stamp { nanos: moment.nanos.saturating_sub((span_ms * 1e6) as i64) })
}

fn next(moment: Stamp) -> Stamp {
    Stamp { nanos: moment.nanos.saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Parameters, Value};
    use crate::data::bag::{At, Place};
    use crate::data::messages::Header;
    use crate::robot::state::Reading;
    use crate::types::{EncodedImage, ImageFormat};
    use bytes::Bytes;
    use std::path::Path;

    const MS: i64 = 1_000_000;

    fn at(ms: i64) -> Stamp {
        Stamp { nanos: 1_000_000 * MS + ms * MS }
    }

    fn config() -> Config {
        let texts = |texts: &[&str]| Value::Strings(texts.iter().map(|text| (*text).to_owned()).collect());
        let given = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("cameras".to_owned(), texts(&["front", "wrist"])),
            ("proprio.joint_names".to_owned(), texts(&["a", "b"])),
        ]);
        Config::from_parameters(&given).unwrap()
    }

    /// Evidence of one chunk, chosen at 100 ms and published 10 ms later, of frames of 90 and 88 ms and a state of `state_ms`.
    fn evidence(state_ms: i64) -> Evidence {
        let header = Header { stamp: at(90), frame_id: String::new() };
        let stamps = vec![at(90), at(88), at(state_ms)];
        let chunk = ActionChunk {
            header: header.clone(),
            oldest_stamp: at(80),
            observation_age_ns: 30 * MS,
            input_names: ["front", "wrist", "joint_states"].map(str::to_owned).to_vec(),
            input_stamps: stamps,
            instruction: "go".to_owned(),
            ..ActionChunk::default()
        };
        let latency = StageLatency { header, queue_ms: 1.0, e2e_ms: 9.0, ..StageLatency::default() };
        Evidence::new(&config(), &[(at(110), chunk)], &[latency])
    }

    fn arrival(topic: usize, stamp: Option<Stamp>, content: Content) -> Arrival {
        let place = Place { file: Path::new("a").into(), at: At::File };
        Arrival { received: None, stamp, place, topic, content }
    }

    fn frame(camera: usize, ms: i64) -> Arrival {
        let format = ImageFormat::Compressed { format: "png".to_owned() };
        let content = Content::Frame(camera, EncodedImage { format, data: Bytes::new() });
        arrival(camera, Some(at(ms)), content)
    }

    fn state(stamp: Option<Stamp>) -> Arrival {
        arrival(2, stamp, Content::State(0, Reading::Channels(Vec::new())))
    }

    fn words(text: &str) -> Arrival {
        arrival(3, None, Content::Instruction(text.to_owned()))
    }

    #[test]
    fn the_turn_of_a_chunk_is_its_publication_less_what_its_latency_tells() {
        assert_eq!(evidence(90).turns().collect::<Vec<_>>(), [at(100)]);
    }

    #[test]
    fn frames_that_were_used_come_by_the_turn_that_chose_them_and_the_last_in_it() {
        let mut evidence = evidence(90);
        assert_eq!(evidence.moment(&frame(0, 90), at(103)), at(100));
        assert_eq!(evidence.moment(&frame(1, 88), at(98)), at(100));
        assert_eq!(evidence.moved(), Moved { messages: 2, most_ms: 3.0 });
    }

    #[test]
    fn a_frame_that_was_recorded_far_from_the_turn_stays_where_it_is() {
        assert_eq!(evidence(90).moment(&frame(0, 90), at(510)), at(510));
    }

    #[test]
    fn a_frame_that_was_not_used_stays_where_it_is() {
        assert_eq!(evidence(90).moment(&frame(0, 57), at(102)), at(102));
    }

    #[test]
    fn frames_that_would_have_been_chosen_come_after_the_turn_that_chose_older_ones() {
        let mut evidence = evidence(90);
        assert_eq!(evidence.moment(&frame(0, 97), at(99)), at(99), "one of them alone changes nothing");
        assert_eq!(evidence.moment(&frame(1, 96), at(99)), next(at(100)));
    }

    #[test]
    fn a_state_that_is_newer_than_the_last_one_that_was_used_comes_after_the_turn() {
        let mut evidence = evidence(75);
        assert_eq!(evidence.moment(&state(Some(at(75))), at(76)), at(76));
        assert_eq!(evidence.moment(&state(Some(at(85))), at(86)), next(at(100)));
        assert_eq!(evidence.moment(&state(Some(at(95))), at(96)), next(at(100)));
    }

    #[test]
    fn the_message_behind_a_state_between_two_comes_by_the_turn() {
        let mut evidence = evidence(90);
        assert_eq!(evidence.moment(&state(Some(at(85))), at(99)), at(99));
        assert_eq!(evidence.moment(&state(Some(at(95))), at(102)), at(100));
    }

    #[test]
    fn the_message_behind_a_state_that_is_the_last_comes_after_the_turn() {
        let mut evidence = evidence(85);
        assert_eq!(evidence.moment(&state(Some(at(85))), at(97)), at(97));
        assert_eq!(evidence.moment(&state(Some(at(95))), at(98)), next(at(100)));
    }

    #[test]
    fn a_state_without_stamp_comes_when_the_chunk_says_that_it_did() {
        let mut evidence = evidence(85);
        assert_eq!(evidence.moment(&state(None), at(75)), at(75));
        assert_eq!(evidence.moment(&state(None), at(86)), at(85));
        assert_eq!(evidence.moment(&state(None), at(88)), at(88));
    }

    #[test]
    fn an_instruction_comes_by_the_turn_that_follows_it_and_after_the_chunk_that_does_not() {
        assert_eq!(evidence(90).moment(&words("go"), at(104)), at(100));
        assert_eq!(evidence(90).moment(&words("go"), at(95)), at(95));
        assert_eq!(evidence(90).moment(&words("stop"), at(104)), next(at(110)));
    }

    #[test]
    fn messages_of_a_topic_keep_their_order() {
        let mut evidence = evidence(90);
        assert_eq!(evidence.moment(&frame(1, 88), at(97)), at(97));
        assert_eq!(evidence.moment(&frame(0, 90), at(98)), at(100));
        assert_eq!(evidence.moment(&frame(0, 123), at(99)), at(100));
    }

    #[test]
    fn a_chunk_of_another_clock_was_published_when_it_was_received() {
        let chunk = ActionChunk { oldest_stamp: at(0), observation_age_ns: MS, ..ActionChunk::default() };
        assert_eq!(published(&chunk, Some(at(5))), at(1));
        assert_eq!(published(&chunk, Some(at(5_000))), at(5_000));
    }
}
