//! Dumps what the model sees of the next observations as batches for calibration, while it goes on answering.
//!
//! The inference thread leaves each observation that it has answered at a [`Tap`], which never makes it wait: preparing and
//! writing happen on a thread of the dump, behind a bounded queue. An observation that finds the queue full is passed over.

use super::writer::{CalibrationError, Run, Weights, Writer};
use crate::config::Config;
use crate::data::DatasetError;
use crate::pipeline::{Options, Preparation, Provenance};
use crate::robot::reporting::record::{DumpProgress, DumpState, SharedRecord};
use crate::types::{Observation, Stamp};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Observations that wait to be written. Each keeps its images in memory.
const QUEUE: usize = 4;
/// The least time between two lines of the log that tell how far a dump is.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);
/// Interval between two checks whether the thread has ended.
const JOIN_POLL: Duration = Duration::from_millis(5);

/// Why a dump does not begin, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// Nobody has said where to.
    #[error(
        "`calibration.folder` is not set: start the node with the folder for the batches, -p calibration.folder:=DIR"
    )]
    NoFolder,
    /// It is not known yet what the model sees.
    #[error("there is no model yet: wait until the node is configured, or `ros2 lifecycle set` it to configure")]
    Loading,
    /// One dump at a time.
    #[error("a dump runs already: {written} of {of} batches are in {}", folder.display())]
    Running {
        /// Batches that are written.
        written: usize,
        /// Batches that were asked for.
        of: usize,
        /// Where they are.
        folder: PathBuf,
    },
    /// The folder is not free.
    #[error("{}: has batches of another run: move them away, or set `calibration.folder` to another folder", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
    },
    /// A batch cannot be made or written.
    #[error(transparent)]
    Writing(CalibrationError),
    /// The operating system refuses a thread.
    #[error("a thread could not be started: {0}")]
    Thread(#[source] std::io::Error),
}

impl From<CalibrationError> for DumpError {
    fn from(error: CalibrationError) -> Self {
        match error {
            CalibrationError::Dataset(DatasetError::Occupied { path }) => Self::Occupied { path },
            other => Self::Writing(other),
        }
    }
}

/// An observation that the model was given, and what its answer says of itself.
struct Answered {
    observation: Arc<Observation>,
    sequence: u64,
    seed: Option<u64>,
}

/// What a dump still takes.
struct Intake {
    queue: SyncSender<Answered>,
    left: usize,
    every_ms: f64,
    last: Option<Stamp>,
    record: SharedRecord,
}

impl Intake {
    /// Takes an observation unless it is too close to the one before or the queue is full.
    fn offer(&mut self, observation: &Arc<Observation>, sequence: u64, seed: Option<u64>) {
        let reference = observation.reference();
        // Time that has jumped back says nothing about the distance.
        let is_close = |last: Stamp| (0.0..self.every_ms).contains(&reference.ms_since(last));
        if self.last.is_some_and(is_close) {
            return;
        }
        match self.queue.try_send(Answered { observation: observation.clone(), sequence, seed }) {
            Ok(()) => (self.left, self.last) = (self.left.saturating_sub(1), Some(reference)),
            Err(TrySendError::Full(_)) => {
                if let Some(dump) = &mut self.record.lock().dump {
                    dump.passed_over = dump.passed_over.saturating_add(1);
                }
            }
            Err(TrySendError::Disconnected(_)) => self.left = 0,
        }
    }
}

/// Where the inference thread leaves what it has answered, for the dump that runs, if one does.
#[derive(Clone, Default)]
pub struct Tap(Arc<Mutex<Option<Intake>>>);

impl Tap {
    /// Leaves an observation and the provenance of its answer. Returns at once.
    pub fn offer(&self, observation: &Arc<Observation>, provenance: &Provenance) {
        let mut intake = self.lock();
        let Some(open) = intake.as_mut() else { return };
        open.offer(observation, provenance.sequence, provenance.seed);
        if open.left == 0 {
            *intake = None;
        }
    }

    /// Takes nothing more. The dump ends once what it has taken is written.
    fn close(&self) {
        *self.lock() = None;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Intake>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The dumps of a node, one at a time.
pub struct Dump {
    folder: Option<PathBuf>,
    count: usize,
    every_s: f64,
    options: Options,
    run: Run,
    record: SharedRecord,
    tap: Tap,
    running: Option<Running>,
}

/// A dump that has begun.
struct Running {
    thread: JoinHandle<()>,
    /// What the thread says once it knows whether the folder can be used.
    opened: Receiver<Result<(), String>>,
    folder: PathBuf,
    /// Makes the thread leave out what waits in the queue.
    stop: Arc<AtomicBool>,
    /// Whether the thread has nothing more to do but to tell.
    is_over: Arc<AtomicBool>,
}

impl Dump {
    /// The dumps of the node called `source`, deployed with `config`; none runs yet. `record` is told how they go.
    pub fn new(config: &Config, source: String, record: SharedRecord) -> Self {
        let domain_id = config.domain_id.unwrap_or_default();
        Self {
            folder: config.calibration.folder.clone(),
            count: config.calibration.count,
            every_s: config.calibration.every_s,
            options: Options::from(config),
            run: Run { source, domain_id, seed: config.seed, notes: Vec::new() },
            record,
            tap: Tap::default(),
            running: None,
        }
    }

    /// Where answered observations are to be left.
    pub fn tap(&self) -> Tap {
        self.tap.clone()
    }

    /// Begins a dump of the next observations. No file is touched on this thread: [`Self::opened`] tells whether the folder
    /// can be used.
    ///
    /// # Errors
    /// There is no folder, the model is not loaded, a dump runs already, or there is no thread for it.
    pub fn begin(&mut self) -> Result<(), DumpError> {
        let folder = self.folder.as_deref().ok_or(DumpError::NoFolder)?;
        // The node's working directory is not that of whoever reads where the batches are.
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        let mut record = self.record.lock();
        let facts = record.facts.as_ref().ok_or(DumpError::Loading)?;
        if let Some(running) = self.running.as_ref().filter(|running| !running.is_over.load(Ordering::Acquire)) {
            let (written, of) = record.dump.as_ref().map_or((0, self.count), |dump| (dump.written, dump.of));
            return Err(DumpError::Running { written, of, folder: running.folder.clone() });
        }
        let weights = Weights {
            checkpoint_sha256: facts.checkpoint_sha256.clone(),
            adapter_sha256: facts.adapter_sha256.clone(),
        };
        let (of, state) = (self.count, DumpState::Writing);
        record.dump = Some(DumpProgress { written: 0, of, passed_over: 0, state });
        drop(record);
        let (queue, answered) = mpsc::sync_channel(QUEUE);
        let (tell_opened, opened) = mpsc::channel();
        let (stop, is_over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let job = Job {
            folder: folder.clone(),
            options: self.options.clone(),
            run: self.run.clone(),
            weights,
            record: self.record.clone(),
            stop: stop.clone(),
            answered,
        };
        let (record, tap, over) = (self.record.clone(), self.tap.clone(), is_over.clone());
        let intake = Intake { queue, left: of, every_ms: self.every_s * 1e3, last: None, record: record.clone() };
        *self.tap.lock() = Some(intake);
        let write = move || {
            let result = job.write(|| drop(tell_opened.send(Ok(()))));
            tap.close();
            let progress = end(&record, &result);
            over.store(true, Ordering::Release);
            tell(&job.folder, &progress);
            if let DumpState::Failed(reason) = progress.state {
                let _ = tell_opened.send(Err(reason));
            }
        };
        let thread = std::thread::Builder::new().name("calibration".to_owned()).spawn(write);
        let thread = thread.map_err(|error| {
            self.tap.close();
            self.record.lock().dump = None;
            DumpError::Thread(error)
        })?;
        self.running = Some(Running { thread, opened, folder, stop, is_over });
        Ok(())
    }

    /// What the latest dump does, in words, or why it has failed; `None` as long as it is not known whether its folder can be
    /// used. Each is told once.
    pub fn opened(&self) -> Option<Result<String, String>> {
        let opened = self.running.as_ref()?.opened.try_recv().ok()?;
        Some(opened.map(|()| self.announcement()))
    }

    /// What the latest dump was asked for, in words.
    pub fn announcement(&self) -> String {
        let folder = self.running.as_ref().map(|running| running.folder.as_path()).or(self.folder.as_deref());
        announcement(self.count, folder.unwrap_or(Path::new("")))
    }

    /// Ends the dump that runs: what is written stays, and `calib.json` with it. Returns `false` if the thread is still busy
    /// after `patience`.
    pub fn stop(&mut self, patience: Duration) -> bool {
        let Some(running) = &self.running else { return true };
        running.stop.store(true, Ordering::Relaxed);
        self.tap.close();
        let deadline = Instant::now() + patience;
        while !running.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(JOIN_POLL);
        }
        running.thread.is_finished()
    }
}

fn announcement(count: usize, folder: &Path) -> String {
    format!("writing {count} batches to {}", folder.display())
}

/// What the thread of a dump works on.
struct Job {
    folder: PathBuf,
    options: Options,
    run: Run,
    weights: Weights,
    record: SharedRecord,
    stop: Arc<AtomicBool>,
    answered: Receiver<Answered>,
}

impl Job {
    /// Writes what comes until the tap is closed. `opened` is called once the folder is found to be free.
    fn write(&self, opened: impl FnOnce()) -> Result<(), DumpError> {
        let mut preparation = Preparation::load(&self.options).map_err(CalibrationError::from)?;
        let weights = || Ok(self.weights.clone());
        let mut writer = Writer::begin(&self.folder, false, &preparation, &self.run, weights)?;
        let of = self.record.lock().dump.as_ref().map_or(0, |dump| dump.of);
        tracing::info!("calibration: {}", announcement(of, &self.folder));
        opened();
        let written = self.write_all(&mut preparation, &mut writer);
        let finished = writer.finish();
        written?;
        finished?;
        Ok(())
    }

    fn write_all(&self, preparation: &mut Preparation, writer: &mut Writer) -> Result<(), CalibrationError> {
        let mut told = Instant::now();
        for Answered { observation, sequence, seed } in &self.answered {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let origin = Map::from_iter([
                ("reference_ns".to_owned(), Value::from(observation.reference().nanos)),
                ("instruction".to_owned(), Value::from(observation.instruction.clone())),
                ("sequence".to_owned(), Value::from(sequence)),
                ("seed".to_owned(), Value::from(seed)),
            ]);
            let pushed = writer.push(preparation, &observation, origin);
            let mut record = self.record.lock();
            let dump = record.dump.as_mut().map(|dump| {
                dump.written = writer.written();
                dump.clone()
            });
            drop(record);
            pushed?;
            if let Some(dump) = dump.filter(|dump| dump.written < dump.of && told.elapsed() >= PROGRESS_PERIOD) {
                tracing::info!("calibration: {} of {} batches are written", dump.written, dump.of);
                told = Instant::now();
            }
        }
        Ok(())
    }
}

/// Records how a dump has ended.
fn end(record: &SharedRecord, result: &Result<(), DumpError>) -> DumpProgress {
    let mut record = record.lock();
    let none = DumpProgress { written: 0, of: 0, passed_over: 0, state: DumpState::Writing };
    let dump = record.dump.get_or_insert(none);
    dump.state = match result {
        Err(error) => DumpState::Failed(error.to_string()),
        Ok(()) if dump.written < dump.of => DumpState::Stopped,
        Ok(()) => DumpState::Complete,
    };
    dump.clone()
}

/// Tells in the log how a dump has ended.
fn tell(folder: &Path, progress: &DumpProgress) {
    let DumpProgress { written, of, passed_over, state } = progress;
    let folder = folder.display();
    let slow = match passed_over {
        0 => String::new(),
        count => format!("; {count} observations were passed over while others were being written"),
    };
    match state {
        DumpState::Failed(reason) => tracing::error!("calibration: ended with {written} of {of} batches: {reason}"),
        DumpState::Complete => tracing::info!("calibration: {written} batches in {folder}{slow}"),
        _ => tracing::info!("calibration: ended with the node, {written} of {of} batches in {folder}{slow}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Table;
    use crate::config::{Device, Dtype};
    use crate::data::batch::calibration_files;
    use crate::data::batch_folder::{RECORD_FILE, batch_path};
    use crate::pipeline::{ExecutionPath, Operators, Runtime, mock};
    use crate::robot::model_facts::ModelFacts;

    /// Much longer than a batch takes.
    const PATIENCE: Duration = Duration::from_secs(60);

    fn offer(tap: &Tap, ms: i64) {
        let (device, dtype) = (Device::Cpu, Dtype::F32);
        let path = ExecutionPath::of_both(Operators::Libtorch);
        let runtime = Runtime { backend: "libtorch", device, dtype, engine_sha256: None, path, degraded: None };
        let sequence = ms.unsigned_abs();
        let provenance = Provenance { runtime: Arc::new(runtime), seed: Some(7), steps: 1, sequence };
        tap.offer(&Arc::new(mock::observation(ms)), &provenance);
    }

    /// A tap that nobody writes from, and what it lets through.
    fn open(count: usize, every_ms: f64) -> (Tap, Receiver<Answered>, SharedRecord) {
        let (queue, answered) = mpsc::sync_channel(QUEUE);
        let record = SharedRecord::default();
        record.lock().dump = Some(DumpProgress { written: 0, of: count, passed_over: 0, state: DumpState::Writing });
        let intake = Intake { queue, left: count, every_ms, last: None, record: record.clone() };
        (Tap(Arc::new(Mutex::new(Some(intake)))), answered, record)
    }

    fn taken_ms(answered: &Receiver<Answered>) -> Vec<i64> {
        answered.try_iter().map(|answered| answered.observation.reference().nanos / 1_000_000).collect()
    }

    fn progress(record: &SharedRecord) -> DumpProgress {
        record.lock().dump.clone().unwrap()
    }

    #[test]
    fn an_observation_that_finds_the_queue_full_is_passed_over_and_counted() {
        let (tap, answered, record) = open(100, 0.0);
        (0..7).for_each(|ms| offer(&tap, ms));
        assert_eq!(taken_ms(&answered), [0, 1, 2, 3]);
        assert_eq!(progress(&record).passed_over, 3);
        offer(&tap, 7);
        assert_eq!(taken_ms(&answered), [7], "there is room again");
    }

    #[test]
    fn no_more_observations_are_taken_than_were_asked_for() {
        let (tap, answered, record) = open(2, 0.0);
        (0..4).for_each(|ms| offer(&tap, ms));
        assert_eq!(taken_ms(&answered), [0, 1]);
        assert!(matches!(answered.try_recv(), Err(mpsc::TryRecvError::Disconnected)), "the writer sees the end");
        assert_eq!(progress(&record).passed_over, 0, "those behind are none of the dump's");
    }

    #[test]
    fn observations_closer_than_asked_for_are_left_out_until_time_jumps_back() {
        let (tap, answered, _) = open(100, 500.0);
        [1000, 1400, 1500, 1999, 600, 1000, 1100].into_iter().for_each(|ms| offer(&tap, ms));
        assert_eq!(taken_ms(&answered), [1000, 1500, 600, 1100]);
    }

    /// Dumps of `count` batches to `folder`, of a node whose model is loaded.
    fn dumps(folder: Option<&Path>, count: usize) -> Dump {
        let record = SharedRecord::default();
        record.lock().facts = Some(ModelFacts {
            action_names: Vec::new(),
            action_mode: "ee6d".to_owned(),
            steps: 1,
            checkpoint_sha256: "abc".to_owned(),
            adapter_sha256: None,
            variant: None,
        });
        let mut config = Config::defaults();
        (config.calibration.folder, config.calibration.count) = (folder.map(Path::to_owned), count);
        config.seed = Some(7);
        Dump { options: mock::options(), ..Dump::new(&config, "/xvla".to_owned(), record) }
    }

    /// Polls until `found` finds something.
    fn wait_for<T>(mut found: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "it did not come");
            std::thread::sleep(JOIN_POLL);
        }
    }

    fn await_written(dump: &Dump, count: usize) {
        wait_for(|| (progress(&dump.record).written == count).then_some(()));
    }

    fn await_end(dump: &Dump) -> DumpState {
        wait_for(|| Some(progress(&dump.record).state).filter(|state| *state != DumpState::Writing))
    }

    fn listed_ns(folder: &Path) -> Vec<i64> {
        let text = std::fs::read_to_string(folder.join(RECORD_FILE)).unwrap();
        let record: Value = serde_json::from_str(&text).unwrap();
        record["samples"].as_array().unwrap().iter().map(|sample| sample["reference_ns"].as_i64().unwrap()).collect()
    }

    #[test]
    fn the_observations_that_were_answered_are_written_in_their_order_and_listed() {
        let folder = tempfile::tempdir().unwrap();
        let mut dump = dumps(Some(folder.path()), 3);
        offer(&dump.tap(), 1);
        dump.begin().unwrap();
        let said = wait_for(|| dump.opened()).unwrap();
        assert_eq!(said, format!("writing 3 batches to {}", folder.path().display()));
        (2..6).for_each(|ms| offer(&dump.tap(), ms));
        assert_eq!(await_end(&dump), DumpState::Complete);
        assert_eq!(calibration_files(folder.path()).unwrap().len(), 3);
        assert_eq!(listed_ns(folder.path()), [2_000_000, 3_000_000, 4_000_000], "what came before it was asked is not");
    }

    #[test]
    fn a_second_dump_is_refused_while_one_runs() {
        let folder = tempfile::tempdir().unwrap();
        let mut dump = dumps(Some(folder.path()), 3);
        dump.begin().unwrap();
        offer(&dump.tap(), 1);
        await_written(&dump, 1);
        let refusal = dump.begin().unwrap_err().to_string();
        assert_eq!(refusal, format!("a dump runs already: 1 of 3 batches are in {}", folder.path().display()));
        offer(&dump.tap(), 2);
        await_written(&dump, 2);
    }

    #[test]
    fn without_a_folder_the_refusal_names_the_parameter() {
        let refusal = dumps(None, 3).begin().unwrap_err().to_string();
        assert!(refusal.contains("-p calibration.folder:=DIR"), "{refusal}");
    }

    #[test]
    fn before_the_model_is_loaded_a_dump_is_refused() {
        let mut dump = dumps(Some(Path::new("nowhere")), 3);
        dump.record.lock().facts = None;
        assert!(matches!(dump.begin(), Err(DumpError::Loading)));
    }

    #[test]
    fn batches_of_another_run_are_refused_and_stay() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(batch_path(folder.path(), 0), "precious").unwrap();
        let mut dump = dumps(Some(folder.path()), 3);
        dump.begin().unwrap();
        let refusal = wait_for(|| dump.opened()).unwrap_err();
        assert!(
            refusal.contains("has batches of another run") && refusal.contains("`calibration.folder`"),
            "{refusal}"
        );
        assert_eq!(std::fs::read(batch_path(folder.path(), 0)).unwrap(), b"precious");
    }

    #[test]
    fn a_dump_can_be_asked_for_again_after_one_has_failed() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(batch_path(folder.path(), 0), "another run's").unwrap();
        let mut dump = dumps(Some(folder.path()), 1);
        dump.begin().unwrap();
        wait_for(|| dump.opened()).unwrap_err();
        std::fs::remove_file(batch_path(folder.path(), 0)).unwrap();
        dump.begin().unwrap();
        offer(&dump.tap(), 5);
        assert_eq!(await_end(&dump), DumpState::Complete);
    }

    #[test]
    fn a_folder_that_goes_away_ends_the_dump_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let mut dump = dumps(Some(&folder.path().join("calib")), 3);
        dump.begin().unwrap();
        offer(&dump.tap(), 1);
        await_written(&dump, 1);
        std::fs::remove_dir_all(folder.path().join("calib")).unwrap();
        offer(&dump.tap(), 2);
        let DumpState::Failed(reason) = await_end(&dump) else { panic!("it goes on without a folder") };
        assert!(reason.contains("calib_00001.npz") && reason.contains("No such file"), "{reason}");
        assert!(dump.tap().lock().is_none(), "nothing more is taken");
    }

    #[test]
    fn a_dump_that_is_stopped_leaves_a_record_of_what_it_has_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut dump = dumps(Some(folder.path()), 3);
        dump.begin().unwrap();
        offer(&dump.tap(), 1);
        await_written(&dump, 1);
        assert!(dump.stop(PATIENCE));
        assert_eq!(progress(&dump.record).state, DumpState::Stopped);
        assert_eq!(listed_ns(folder.path()), [1_000_000]);
    }
}
