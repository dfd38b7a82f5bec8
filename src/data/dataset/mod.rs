//! LeRobot's data sets on disk: recorded episodes with pictures, states and tasks.
//!
//! | what | file |
//! |---|---|
//! | `meta/info.json` | [`info`] |
//! | where episodes and tasks are listed, in versions 3.0 and 2.1 | [`episodes`], [`template`] |
//! | rows of Parquet files | [`table`], [`pages`] |
//! | frames of videos | [`video`] |
//! | which steps stand for all of them | [`spread`](Dataset::spread) |
//!
//! The formats are those that LeRobot 0.6.1 writes (3.0) and converts from (2.1, 2.0).

mod episodes;
mod info;
mod pages;
mod spread;
mod table;
mod template;
mod video;

pub use info::{DatasetInfo, EpisodeInfo, Feature};
pub use spread::{StepRef, draw};

use self::episodes::{Episode, Tasks};
use self::info::Manifest;
use self::table::{Row, Table};
use crate::data::DatasetError;
use crate::error::regular_file;
use crate::types::{EncodedImage, ImageFormat};
use std::path::{Path, PathBuf};

/// The feature that is the robot's state.
pub const STATE: &str = "observation.state";
/// The largest file of a picture that is not part of a table, bytes.
const MAX_PICTURE_BYTES: u64 = 256 << 20;

/// A data set whose steps can be read one at a time, in any order.
#[derive(Debug)]
pub struct Dataset {
    folder: PathBuf,
    manifest: Manifest,
    info: DatasetInfo,
    episodes: Vec<Episode>,
    tasks: Tasks,
    ffmpeg: PathBuf,
}

/// What was recorded at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Which moment it is.
    pub at: StepRef,
    /// Time since the episode began, seconds.
    pub timestamp_s: f64,
    /// What the robot was to do, in words.
    pub task: String,
    /// `observation.state`, [S]; empty for a data set without one.
    pub state: Vec<f32>,
    /// The pictures of the cameras that were asked for, in that order, as they are stored: a PNG or JPEG file, or the
    /// pixels of a video's frame.
    pub images: Vec<EncodedImage>,
    /// The file that the state is from, for errors about it.
    pub file: PathBuf,
}

impl Dataset {
    /// Opens the data set in `folder` and reads what it says about itself, its episodes and its tasks.
    ///
    /// # Errors
    /// A file that is missing or damaged, or a version that is not supported.
    pub fn open(folder: &Path) -> Result<Self, DatasetError> {
        let manifest = Manifest::read(folder)?;
        let episodes = episodes::read(folder, &manifest)?;
        let tasks = episodes::tasks(folder, &manifest)?;
        let cameras = manifest.features.iter().filter(|feature| feature.is_camera());
        let info = DatasetInfo {
            version: manifest.version.clone(),
            fps: manifest.fps,
            robot_type: manifest.robot_type.clone(),
            features: manifest.features.clone(),
            cameras: cameras.map(|feature| feature.key.clone()).collect(),
            episodes: episodes.iter().map(|Episode { index, length, .. }| (*index, *length)).map(info_of).collect(),
        };
        Ok(Self { folder: folder.to_owned(), manifest, info, episodes, tasks, ffmpeg: PathBuf::from("ffmpeg") })
    }

    /// The same data set, with videos decoded by another `program` than the `ffmpeg` on the path.
    #[must_use]
    pub fn with_ffmpeg(self, program: impl Into<PathBuf>) -> Self {
        Self { ffmpeg: program.into(), ..self }
    }

    /// What the data set says about itself.
    pub fn info(&self) -> &DatasetInfo {
        &self.info
    }

    /// The folder that it was opened in.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Chooses `n` steps that are spread over all episodes, in the order of the recording; `seed` decides among steps
    /// that would do as well, and the same seed always chooses the same. With `every_s`, only frames of an episode count
    /// that are so many seconds apart, rounded to frames.
    ///
    /// No step is chosen twice, and all are if there are no more than `n`. Every episode gets at least one as long as
    /// `n` suffices, and more in proportion to its length.
    pub fn spread(&self, n: usize, seed: u64, every_s: Option<f64>) -> Vec<StepRef> {
        // Whatever is beyond the range of whole numbers becomes its nearest, and NaN 0.
        let stride = every_s.map_or(1, |every_s| (every_s * self.info.fps).round() as u64);
        spread::spread(&self.info.episodes, n, seed, stride)
    }

    /// Reads one step with the pictures of `cameras`, keys of features.
    ///
    /// # Errors
    /// A step or camera that the data set does not have, a file that is missing or damaged, a state that is not finite
    /// or of another width than the data set declares, and a video without the program that decodes it.
    pub fn load(&self, step: StepRef, cameras: &[String]) -> Result<Step, DatasetError> {
        let Some(episode) = self.episodes.iter().find(|episode| episode.index == step.episode) else {
            let (path, count) = (self.folder.clone(), self.episodes.len());
            let reason = format!("no episode {}: it has {count}", step.episode);
            return Err(DatasetError::Malformed { path, reason });
        };
        let table = Table::open(episode.data_file(&self.folder, &self.manifest)?)?;
        let wanted = [("episode_index", step.episode), ("frame_index", step.frame)];
        let row = match wanted.map(|(key, value)| i64::try_from(value).map(|value| (key, value))) {
            [Ok(episode), Ok(frame)] => table.find(&[episode, frame])?,
            _ => None,
        };
        let Some(row) = row else {
            return Err(table.broken(format!(
                "no frame {} of episode {}, which has {} by the data set's own list",
                step.frame, step.episode, episode.length
            )));
        };
        let timestamp_s = number(&table, "timestamp", row)?;
        let picture = |key: &String| self.picture(episode, &table, row, key, timestamp_s);
        Ok(Step {
            at: step,
            timestamp_s,
            task: self.task(&table, row)?,
            state: self.state(&table, row)?,
            images: cameras.iter().map(picture).collect::<Result<_, _>>()?,
            file: table.path().to_owned(),
        })
    }

    fn task(&self, table: &Table, row: Row) -> Result<String, DatasetError> {
        let index = number(table, "task_index", row)?;
        let task = self.tasks.by_index.get(&(index as i64));
        task.cloned().ok_or_else(|| DatasetError::Malformed {
            path: self.tasks.path.clone(),
            reason: format!("no task {index}, which {} has", table.path().display()),
        })
    }

    /// The state [S] of one row.
    fn state(&self, table: &Table, row: Row) -> Result<Vec<f32>, DatasetError> {
        let Some(feature) = self.info.features.iter().find(|feature| feature.key == STATE) else {
            return Ok(Vec::new());
        };
        let values = table.cell(STATE, "", row)?.into_numbers().ok_or_else(|| DatasetError::Dtype {
            path: table.path().to_owned(),
            key: STATE.to_owned(),
            expected: "numbers",
            found: "text".to_owned(),
        })?;
        let declared = feature.shape.iter().try_fold(1_usize, |count, extent| count.checked_mul(*extent));
        if declared != Some(values.len()) {
            return Err(DatasetError::Shape {
                path: table.path().to_owned(),
                key: STATE.to_owned(),
                expected: format!("{:?}, as {} declares", feature.shape, self.manifest.path.display()),
                found: vec![values.len()],
            });
        }
        let values: Vec<f32> = values.into_iter().map(|value| value as f32).collect();
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => {
                let (path, key) = (table.path().to_owned(), STATE.to_owned());
                Err(DatasetError::NotFinite { path, key, index })
            }
        }
    }

    fn picture(
        &self,
        episode: &Episode,
        table: &Table,
        row: Row,
        key: &str,
        timestamp_s: f64,
    ) -> Result<EncodedImage, DatasetError> {
        let feature = self.info.features.iter().find(|feature| feature.key == *key && feature.is_camera());
        let Some(feature) = feature else {
            let known = if self.info.cameras.is_empty() { "none".to_owned() } else { self.info.cameras.join(", ") };
            return Err(self.manifest.fault("features", &format!("no camera `{key}`: there are {known}")));
        };
        if feature.is_video() {
            let video = episode.video(&self.folder, &self.manifest, key)?;
            return video::frame(&self.ffmpeg, &video.path, video.from_s + timestamp_s, self.info.fps);
        }
        // A structure of the file's bytes and its path, of which one may be null; or the bytes alone.
        let data = match table.bytes(key, "bytes", row)? {
            Some(bytes) => bytes,
            None if table.is_structure(key) => self.picture_file(table, row, key)?,
            None => return Err(table.fault(key, "no picture in this row".to_owned())),
        };
        Ok(EncodedImage { format: ImageFormat::Compressed { format: String::new() }, data: data.into() })
    }

    /// The bytes of a picture that a table only names.
    fn picture_file(&self, table: &Table, row: Row, key: &str) -> Result<Vec<u8>, DatasetError> {
        let Some(named) = table.bytes(key, "path", row)? else {
            return Err(table.fault(key, "neither a picture nor the path of one in this row".to_owned()));
        };
        let named = PathBuf::from(String::from_utf8_lossy(&named).into_owned());
        let relative = named.strip_prefix(&self.folder).unwrap_or(&named);
        if !template::is_within(relative) {
            let reason = format!(
                "its picture is {}, which is not within the data set: let LeRobot embed the pictures",
                named.display()
            );
            return Err(table.fault(key, reason));
        }
        let path = self.folder.join(relative);
        let io = |source| DatasetError::Io { path: path.clone(), source };
        let bytes = regular_file(&path).map_err(io)?.len();
        if bytes > MAX_PICTURE_BYTES {
            let reason = format!("a picture of {bytes} bytes, more than the {MAX_PICTURE_BYTES} that are read");
            return Err(DatasetError::Malformed { path, reason });
        }
        std::fs::read(&path).map_err(io)
    }
}

fn info_of((index, length): (u64, u64)) -> EpisodeInfo {
    EpisodeInfo { index, length }
}

/// The only number of the column `key` in one row.
fn number(table: &Table, key: &str, row: Row) -> Result<f64, DatasetError> {
    match table.cell(key, "", row)?.into_numbers().as_deref() {
        Some([value]) if value.is_finite() => Ok(*value),
        Some([value]) => Err(table.fault(key, format!("{value}: expected a finite number"))),
        Some(values) => Err(table.fault(key, format!("{} values: expected one", values.len()))),
        None => Err(table.fault(key, "text: expected a number".to_owned())),
    }
}
