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
use std::time::{Duration, Instant};
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
    /// What `capacity` was, and when it was lowered, because the device's memory did not hold as many.
    lowered: Option<(usize, Instant)>,
    made: u64,
}

/// How long fewer recordings are kept after memory was short: it may have been another program's for a while.
const SHORT_FOR: Duration = Duration::from_secs(600);

impl<K: Debug + PartialEq, W: Work, R: Recorder> Recordings<K, W, R> {
    /// Keeps at most `capacity` recordings (at least one).
    pub fn new(recorder: R, capacity: usize) -> Self {
        Self { recorder, entries: Vec::new(), capacity: capacity.max(1), lowered: None, made: 0 }
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
        if let Some((capacity, _)) = self.lowered.take_if(|(_, since)| since.elapsed() >= SHORT_FOR) {
            self.capacity = capacity;
        }
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

    /// Gives up the least recently used recording for that of `key`, which ran out of memory, and keeps no more than fit for
    /// a while.
    fn make_room(&mut self, reason: &str, key: &K) -> Result<(), BackendError> {
        let before = self.lowered.map_or(self.capacity, |(capacity, _)| capacity);
        self.lowered = Some((before, Instant::now()));
        self.capacity = self.entries.len();
        tracing::warn!(
            "{reason}: a recording is given up to record {key:?}, and made anew when it is needed; {} of this part \
             are kept for now",
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
mod tests;
