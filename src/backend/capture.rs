//! Recordings of device work. Each is made once for a set of sizes and replayed for every later frame of those sizes.
//!
//! Nothing in here depends on CUDA. A [`Recorder`] is a stream that can record; a [`Work`] owns the buffers that a
//! recording reads and writes, whose addresses therefore never change. The inputs of a frame are copied into them
//! before each replay.

use super::{PolicyInputs, VlmInputs};
use crate::backend::BackendError;
use crate::model::vlm::VlmTokens;
use std::fmt::Debug;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tch::Tensor;

/// Runs of a work before it is recorded, in which libraries choose algorithms and allocate workspaces.
const WARM_UP_RUNS: usize = 2;

/// Recordings that each part of the network keeps. They differ in the views that are present, the length of the instruction
/// and the domain.
pub const RECORDINGS: usize = 8;

/// A stream whose work can be recorded.
pub trait Recorder {
    /// A recording, such as a CUDA graph.
    type Graph;

    /// Records the operations that `work` queues, without executing them.
    ///
    /// # Errors
    /// The error of `work`, or a recording that the device refuses. The stream is usable afterwards.
    fn record(&mut self, work: &mut dyn FnMut() -> Result<(), BackendError>) -> Result<Self::Graph, BackendError>;

    /// Queues a recording.
    ///
    /// # Errors
    /// An error that the device reports.
    fn replay(&mut self, graph: &Self::Graph) -> Result<(), BackendError>;

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// The failure of anything queued before.
    fn synchronize(&mut self) -> Result<(), BackendError>;

    /// Gives memory that nothing uses any more back to the device. An allocator cannot do that while it records.
    ///
    /// # Errors
    /// As [`Recorder::synchronize`].
    fn release_unused(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// A part of the network with the buffers that it reads and writes.
pub trait Work {
    /// Queues all operations from the static inputs to the static outputs. It must not synchronise with the host, nor
    /// use memory that the work does not own.
    ///
    /// # Errors
    /// An operation that a library underneath refuses.
    fn run(&mut self) -> Result<(), BackendError>;

    /// Called once after the warm-up runs, for choices that need them, such as the fastest algorithms.
    ///
    /// # Errors
    /// An error that the device reports.
    fn settle(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
}

/// The vision-language part as work to record.
pub trait VlmWork: Work + Send {
    /// Copies a frame's inputs into the buffers that the recording reads.
    ///
    /// # Errors
    /// An operation that the device refuses.
    fn load(&mut self, inputs: &VlmInputs) -> Result<(), BackendError>;

    /// The tokens that the recording writes, as views of its buffers.
    ///
    /// # Errors
    /// None in practice, since it only makes views.
    fn tokens(&self) -> Result<VlmTokens, BackendError>;
}

/// The policy part as work to record.
pub trait PolicyWork: Work + Send {
    /// Copies a frame's inputs into the buffers that the recording reads.
    ///
    /// # Errors
    /// An operation that the device refuses.
    fn load(&mut self, tokens: &VlmTokens, inputs: &PolicyInputs) -> Result<(), BackendError>;

    /// The actions [B, T, A] that the recording writes, as a view of its buffer.
    ///
    /// # Errors
    /// None in practice, since it only makes a view.
    fn actions(&self) -> Result<Tensor, BackendError>;
}

impl<W: Work + ?Sized> Work for Box<W> {
    fn run(&mut self) -> Result<(), BackendError> {
        (**self).run()
    }

    fn settle(&mut self) -> Result<(), BackendError> {
        (**self).settle()
    }
}

/// Locks a network that several recordings share. A panic in another thread does not make it unusable.
pub fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of `tensor` in memory of its own.
///
/// # Errors
/// Not enough memory.
pub fn copy_of(tensor: &Tensor) -> Result<Tensor, BackendError> {
    let mut copy = tensor.f_empty_like()?;
    copy.f_copy_(tensor)?;
    Ok(copy)
}

/// A recording with its work and the key that it was made for.
#[derive(Debug)]
struct Entry<K, W, G> {
    key: K,
    // Fields drop in this order: the graph refers to the buffers of the work.
    graph: G,
    work: W,
}

/// The recordings of one network, the least recently used of which makes room for a new one.
#[derive(Debug)]
pub struct Recordings<K, W, R: Recorder> {
    recorder: R,
    /// In the order of use, the most recently used last.
    entries: Vec<Entry<K, W, R::Graph>>,
    capacity: usize,
    made: u64,
}

impl<K: Debug + PartialEq, W: Work, R: Recorder> Recordings<K, W, R> {
    /// Keeps at most `capacity` recordings (at least one).
    pub fn new(recorder: R, capacity: usize) -> Self {
        Self { recorder, entries: Vec::new(), capacity: capacity.max(1), made: 0 }
    }

    /// Replays the recording for `key` after `load` has filled the inputs of its work. If there is none, it is made
    /// first, from the work that `prepare` returns. Returns the work, whose outputs are valid once the stream has
    /// executed the replay.
    ///
    /// # Errors
    /// The error of preparing, recording, loading or replaying. A recording that fails is not kept.
    pub fn replay(
        &mut self,
        key: K,
        mut prepare: impl FnMut() -> Result<W, BackendError>,
        load: impl FnOnce(&mut W) -> Result<(), BackendError>,
    ) -> Result<&W, BackendError> {
        let mut entry = match self.entries.iter().position(|entry| entry.key == key) {
            Some(index) => self.entries.remove(index),
            None => self.make(key, &mut prepare)?,
        };
        let queued = load(&mut entry.work).and_then(|()| self.recorder.replay(&entry.graph));
        self.entries.push(entry);
        queued?;
        self.entries.last().map(|entry| &entry.work).ok_or_else(|| BackendError::Capture("no recording".to_owned()))
    }

    /// How many recordings were made so far, those that are not kept any more among them.
    pub fn made(&self) -> u64 {
        self.made
    }

    /// How many recordings are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn make(
        &mut self,
        key: K,
        prepare: &mut dyn FnMut() -> Result<W, BackendError>,
    ) -> Result<Entry<K, W, R::Graph>, BackendError> {
        // What is queued may hang, and some of what `prepare` and the warm-up do waits for it without a limit.
        self.recorder.synchronize()?;
        // The old recording goes first, because on a small GPU the new one needs its memory.
        if self.entries.len() >= self.capacity {
            self.give_up_oldest()?;
        }
        let began = Instant::now();
        let (work, graph) = loop {
            match self.record(prepare) {
                Err(BackendError::OutOfMemory(reason)) if !self.entries.is_empty() => {
                    self.make_room(&reason, &key)?;
                }
                made => break made?,
            }
        };
        self.made += 1;
        tracing::info!(?key, seconds = began.elapsed().as_secs_f64(), "recorded a new set of inputs");
        Ok(Entry { key, graph, work })
    }

    /// Gives up the least recently used recording for that of `key`, which ran out of memory, and keeps no more than fit from
    /// now on.
    fn make_room(&mut self, reason: &str, key: &K) -> Result<(), BackendError> {
        self.capacity = self.entries.len();
        tracing::warn!(
            "{reason}: a recording is given up to record {key:?}, and made anew when it is needed; the GPU's memory holds \
             {} of this part",
            self.capacity
        );
        self.recorder.synchronize()?;
        self.give_up_oldest()
    }

    /// Drops the least recently used recording, whose replays are done.
    fn give_up_oldest(&mut self) -> Result<(), BackendError> {
        self.entries.remove(0);
        self.recorder.release_unused()
    }

    fn record(&mut self, prepare: &mut dyn FnMut() -> Result<W, BackendError>) -> Result<(W, R::Graph), BackendError> {
        let mut work = prepare()?;
        for _ in 0..WARM_UP_RUNS {
            work.run()?;
        }
        self.recorder.synchronize()?;
        work.settle()?;
        let graph = self.recorder.record(&mut || work.run())?;
        Ok((work, graph))
    }
}

#[cfg(test)]
mod tests {
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
}
