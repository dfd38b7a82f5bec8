//! Recordings on a mock stream: what is recorded, replayed, kept and given up.

use super::*;
use std::cell::RefCell;
use std::rc::Rc;

/// What happened on the stream, in order.
type Log = Rc<RefCell<Vec<String>>>;

/// The device's memory in recordings: what is free, and what an allocator holds that nothing uses any more.
#[derive(Default)]
struct Memory {
    free: isize,
    unused: isize,
}

/// A recording, which takes its memory while it is made.
struct MockGraph(Rc<RefCell<Memory>>);

impl Drop for MockGraph {
    fn drop(&mut self) {
        self.0.borrow_mut().unused += 1;
    }
}

/// A stream that logs its calls. Work that runs while it records is logged as recorded.
struct MockStream {
    log: Log,
    recording: Rc<RefCell<bool>>,
    memory: Rc<RefCell<Memory>>,
    refuses: bool,
    hangs: Rc<RefCell<bool>>,
}

impl Recorder for MockStream {
    type Graph = MockGraph;

    fn record(&mut self, work: &mut dyn FnMut() -> Result<(), BackendError>) -> Result<MockGraph, BackendError> {
        *self.recording.borrow_mut() = true;
        let worked = work();
        *self.recording.borrow_mut() = false;
        worked?;
        if self.refuses {
            return Err(BackendError::Capture("operation not permitted when stream is capturing".to_owned()));
        }
        let free = &mut self.memory.borrow_mut().free;
        if *free <= 0 {
            return Err(BackendError::OutOfMemory("2 GiB".to_owned()));
        }
        *free -= 1;
        self.log.borrow_mut().push("recorded".to_owned());
        Ok(MockGraph(self.memory.clone()))
    }

    fn replay(&mut self, _: &MockGraph) -> Result<(), BackendError> {
        self.log.borrow_mut().push("replay".to_owned());
        Ok(())
    }

    fn synchronize(&mut self) -> Result<(), BackendError> {
        self.log.borrow_mut().push("synchronize".to_owned());
        if *self.hangs.borrow() { Err(BackendError::Deadline) } else { Ok(()) }
    }

    fn release_unused(&mut self) -> Result<(), BackendError> {
        let mut memory = self.memory.borrow_mut();
        memory.free += std::mem::take(&mut memory.unused);
        Ok(())
    }
}

struct MockWork {
    input: Box<f32>,
    log: Log,
    recording: Rc<RefCell<bool>>,
    fails: bool,
}

impl Work for MockWork {
    fn run(&mut self) -> Result<(), BackendError> {
        if self.fails {
            return Err(BackendError::OutOfMemory("2 GiB".to_owned()));
        }
        let what = if *self.recording.borrow() { "kernel into recording" } else { "kernel" };
        self.log.borrow_mut().push(what.to_owned());
        Ok(())
    }

    fn settle(&mut self) -> Result<(), BackendError> {
        self.log.borrow_mut().push("settle".to_owned());
        Ok(())
    }
}

struct Bench {
    log: Log,
    recording: Rc<RefCell<bool>>,
    memory: Rc<RefCell<Memory>>,
    hangs: Rc<RefCell<bool>>,
    recordings: Recordings<u32, MockWork, MockStream>,
    prepared: usize,
}

impl Bench {
    fn new(capacity: usize, refuses: bool) -> Self {
        let (log, recording, hangs) = (Log::default(), Rc::default(), Rc::default());
        let memory = Rc::new(RefCell::new(Memory { free: 100, unused: 0 }));
        let (of_stream, recorder_hangs) = (memory.clone(), Rc::clone(&hangs));
        let stream = MockStream {
            log: log.clone(),
            recording: Rc::clone(&recording),
            memory: of_stream,
            refuses,
            hangs: recorder_hangs,
        };
        Self { log, recording, memory, hangs, recordings: Recordings::new(stream, capacity), prepared: 0 }
    }

    /// Replays the recording for `key` with `input`. Returns the address of the static input.
    fn answer(&mut self, key: u32, input: f32, fails: bool) -> Result<*const f32, BackendError> {
        let Self { log, recording, prepared, .. } = self;
        let prepare = || {
            *prepared += 1;
            Ok(MockWork { input: Box::new(0.0), log: log.clone(), recording: recording.clone(), fails })
        };
        let load = |work: &mut MockWork| {
            *work.input = input;
            Ok(())
        };
        let work = self.recordings.replay(key, prepare, load)?;
        assert_eq!(*work.input, input);
        Ok(&raw const *work.input)
    }

    fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.borrow_mut())
    }
}

#[test]
fn the_first_frame_warms_up_settles_records_and_replays_and_the_second_only_replays() {
    let mut bench = Bench::new(4, false);
    bench.answer(3, 1.0, false).unwrap();
    let first = ["synchronize", "kernel", "kernel", "synchronize", "settle", "kernel into recording", "recorded"];
    assert_eq!(bench.take_log(), [first.as_slice(), &["replay"]].concat());
    bench.answer(3, 2.0, false).unwrap();
    assert_eq!(bench.take_log(), ["replay"]);
}

#[test]
fn a_frame_is_copied_to_where_the_recording_reads() {
    let mut bench = Bench::new(4, false);
    let first = bench.answer(3, 1.0, false).unwrap();
    bench.answer(4, 5.0, false).unwrap();
    assert_eq!(bench.answer(3, 2.0, false).unwrap(), first);
}

#[test]
fn another_key_is_recorded_apart_and_both_are_kept() {
    let mut bench = Bench::new(4, false);
    for key in [1, 2, 1, 2] {
        bench.answer(key, 0.0, false).unwrap();
    }
    assert_eq!((bench.prepared, bench.recordings.len(), bench.recordings.made()), (2, 2, 2));
}

#[test]
fn the_least_recently_used_recording_makes_room_once_the_stream_is_idle() {
    let mut bench = Bench::new(2, false);
    for key in [1, 2, 1] {
        bench.answer(key, 0.0, false).unwrap();
    }
    bench.take_log();
    bench.answer(3, 0.0, false).unwrap();
    assert_eq!(bench.take_log()[0], "synchronize");
    bench.answer(1, 0.0, false).unwrap();
    assert_eq!(bench.prepared, 3, "1 was used last and is kept");
    bench.answer(2, 0.0, false).unwrap();
    assert_eq!(bench.prepared, 4, "2 made room for 3");
}

#[test]
fn a_recording_that_runs_out_of_memory_takes_the_place_of_the_one_used_least() {
    let mut bench = Bench::new(8, false);
    bench.memory.borrow_mut().free = 2;
    for key in [1, 2, 1, 3] {
        bench.answer(key, 0.0, false).unwrap();
    }
    let prepared = bench.prepared;
    bench.answer(1, 0.0, false).unwrap();
    assert_eq!((bench.recordings.len(), bench.prepared), (2, prepared), "1 was kept");
}

#[test]
fn once_memory_was_short_no_more_recordings_are_kept_than_it_holds() {
    let mut bench = Bench::new(8, false);
    bench.memory.borrow_mut().free = 2;
    for key in [1, 2, 3] {
        bench.answer(key, 0.0, false).unwrap();
    }
    let prepared = bench.prepared;
    bench.answer(4, 0.0, false).unwrap();
    assert_eq!(bench.prepared, prepared + 1, "it is not tried in vain again");
}

#[test]
fn a_recording_that_finds_no_memory_even_alone_is_an_error() {
    let mut bench = Bench::new(8, false);
    bench.answer(1, 0.0, false).unwrap();
    bench.memory.borrow_mut().free = -100;
    assert!(matches!(bench.answer(2, 0.0, false), Err(BackendError::OutOfMemory(_))));
    assert!(bench.recordings.is_empty());
}

#[test]
fn nothing_is_prepared_on_a_device_that_hangs() {
    let mut bench = Bench::new(8, false);
    bench.answer(1, 0.0, false).unwrap();
    *bench.hangs.borrow_mut() = true;
    assert!(matches!(bench.answer(2, 0.0, false), Err(BackendError::Deadline)));
    assert_eq!(bench.prepared, 1);
}

#[test]
fn a_recording_that_fails_is_an_error_and_is_not_kept() {
    let mut bench = Bench::new(2, true);
    assert!(matches!(bench.answer(1, 0.0, false), Err(BackendError::Capture(_))));
    assert!(bench.recordings.is_empty());
    let mut bench = Bench::new(2, false);
    assert!(matches!(bench.answer(1, 0.0, true), Err(BackendError::OutOfMemory(_))));
    assert!(bench.recordings.is_empty());
    assert_eq!(bench.recordings.made(), 0);
    bench.answer(1, 0.0, false).unwrap();
}
