//! The episodes of a data set and its tasks, in both layouts: Parquet in version 3, lines of JSON in version 2.

use super::info::{Layout, Manifest, read_small};
use super::table::{MAX_ROWS, Table};
use super::template::Fill;
use crate::data::DatasetError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One recorded episode, and where its files lie.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Episode {
    pub(super) index: u64,
    pub(super) length: u64,
    /// Numbers of the folder and file of its rows; `None` in version 2, where they follow from its own.
    data: Option<(u64, u64)>,
    /// The same for each video of the manifest's, in its order, and where in the video the episode begins, seconds.
    videos: Vec<Place>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Place {
    file: Option<(u64, u64)>,
    from_s: f64,
}

/// A part of a video.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct VideoAt {
    pub(super) path: PathBuf,
    /// Where the episode begins in it, seconds.
    pub(super) from_s: f64,
}

/// What the robot was to do, by number, and the file that says so.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    pub(super) path: PathBuf,
    pub(super) by_index: BTreeMap<i64, String>,
}

#[derive(Deserialize)]
struct EpisodeLine {
    episode_index: u64,
    length: u64,
}

#[derive(Deserialize)]
struct TaskLine {
    task_index: i64,
    task: String,
}

impl Episode {
    /// The file of its rows, below the data set's `folder`.
    pub(super) fn data_file(&self, folder: &Path, manifest: &Manifest) -> Result<PathBuf, DatasetError> {
        let fields = self.fields(manifest, self.data);
        let path = manifest.data.fill(&fields);
        path.map(|path| folder.join(path)).map_err(|reason| manifest.fault("data_path", &reason))
    }

    /// The video of the feature `key`, below the data set's `folder`.
    pub(super) fn video(&self, folder: &Path, manifest: &Manifest, key: &str) -> Result<VideoAt, DatasetError> {
        let place = manifest.video_keys().position(|known| known == key).and_then(|index| self.videos.get(index));
        let (Some(place), Some(template)) = (place, &manifest.videos) else {
            return Err(manifest.fault(&format!("features.{key}"), "no video is known for it"));
        };
        let mut fields = self.fields(manifest, place.file);
        fields.push(("video_key", Fill::Key(key)));
        let path = template.fill(&fields).map_err(|reason| manifest.fault("video_path", &reason))?;
        Ok(VideoAt { path: folder.join(path), from_s: place.from_s })
    }

    fn fields<'a>(&self, manifest: &Manifest, file: Option<(u64, u64)>) -> Vec<(&'static str, Fill<'a>)> {
        match (manifest.layout, file) {
            (Layout::PerEpisode { chunk }, _) => vec![
                ("episode_chunk", Fill::Number(self.index.checked_div(chunk).unwrap_or(0))),
                ("episode_index", Fill::Number(self.index)),
            ],
            (Layout::Shared, Some((chunk, file))) => {
                vec![("chunk_index", Fill::Number(chunk)), ("file_index", Fill::Number(file))]
            }
            (Layout::Shared, None) => Vec::new(),
        }
    }
}

impl Manifest {
    pub(super) fn fault(&self, key: &str, reason: &str) -> DatasetError {
        DatasetError::Malformed { path: self.path.clone(), reason: format!("`{key}`: {reason}") }
    }
}

/// Reads every episode of the data set in `folder`, in the order of their numbers.
pub(super) fn read(folder: &Path, manifest: &Manifest) -> Result<Vec<Episode>, DatasetError> {
    let mut episodes = match manifest.layout {
        Layout::Shared => shared(folder, manifest)?,
        Layout::PerEpisode { .. } => {
            let videos = manifest.video_keys().map(|_| Place { file: None, from_s: 0.0 }).collect::<Vec<_>>();
            let lines: Vec<EpisodeLine> = json_lines(&folder.join("meta/episodes.jsonl"))?;
            let episode = |line: EpisodeLine| Episode {
                index: line.episode_index,
                length: line.length,
                data: None,
                videos: videos.clone(),
            };
            lines.into_iter().map(episode).collect()
        }
    };
    episodes.sort_by_key(|episode| episode.index);
    if let Some(twice) = episodes.windows(2).find_map(|pair| match pair {
        [a, b] if a.index == b.index => Some(a.index),
        _ => None,
    }) {
        let reason = format!("episode {twice} is listed twice");
        return Err(DatasetError::Malformed { path: folder.join("meta"), reason });
    }
    if let Some(Episode { index, length, .. }) =
        episodes.iter().find(|episode| episode.length > MAX_ROWS.unsigned_abs())
    {
        let reason = format!("episode {index} has {length} frames: expected at most {MAX_ROWS}");
        return Err(DatasetError::Malformed { path: folder.join("meta"), reason });
    }
    if episodes.is_empty() {
        return Err(DatasetError::Malformed { path: folder.join("meta"), reason: "no episodes".to_owned() });
    }
    Ok(episodes)
}

/// The episodes of `meta/episodes/chunk-*/file-*.parquet`.
fn shared(folder: &Path, manifest: &Manifest) -> Result<Vec<Episode>, DatasetError> {
    let root = folder.join("meta/episodes");
    let mut episodes = Vec::new();
    for chunk in listed(&root, |path| path.is_dir())? {
        for file in listed(&chunk, |path| path.extension().is_some_and(|extension| extension == "parquet"))? {
            episodes.extend(table_of_episodes(&Table::open(file)?, manifest)?);
        }
    }
    Ok(episodes)
}

/// The entries of `folder` that are wanted, sorted by name.
fn listed(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, DatasetError> {
    let io = |source| DatasetError::Io { path: folder.to_owned(), source };
    let entries = std::fs::read_dir(folder).map_err(io)?.map(|entry| entry.map(|entry| entry.path()).map_err(io));
    let mut paths: Vec<PathBuf> = entries.collect::<Result<_, _>>()?;
    paths.retain(|path| is_wanted(path));
    paths.sort();
    Ok(paths)
}

fn table_of_episodes(table: &Table, manifest: &Manifest) -> Result<Vec<Episode>, DatasetError> {
    let counts = |key: &str| -> Result<Vec<u64>, DatasetError> {
        let whole = table.integers(key)?.into_iter().map(u64::try_from).collect::<Result<Vec<u64>, _>>();
        whole.map_err(|_| table.fault(key, "a negative number".to_owned()))
    };
    let (indices, lengths) = (counts("episode_index")?, counts("length")?);
    let files = |what: &str| -> Result<Vec<(u64, u64)>, DatasetError> {
        Ok(counts(&format!("{what}/chunk_index"))?.into_iter().zip(counts(&format!("{what}/file_index"))?).collect())
    };
    let data = files("data")?;
    let mut videos = Vec::new();
    for key in manifest.video_keys() {
        let what = format!("videos/{key}");
        let starts = table.numbers(&format!("{what}/from_timestamp"))?;
        videos.push(files(&what)?.into_iter().zip(starts).collect::<Vec<_>>());
    }
    let rows = indices.into_iter().zip(lengths).zip(data).enumerate();
    let episode = |(row, ((index, length), data))| Episode {
        index,
        length,
        data: Some(data),
        videos: videos
            .iter()
            .filter_map(|column| column.get(row))
            .map(|(file, from_s)| Place { file: Some(*file), from_s: *from_s })
            .collect(),
    };
    Ok(rows.map(episode).collect())
}

/// Reads the tasks of the data set in `folder`.
///
/// In version 3, LeRobot takes the `task_index` of a frame as the number of a row, so that is what a policy was trained
/// with; in version 2 as what is written beside the task.
pub(super) fn tasks(folder: &Path, manifest: &Manifest) -> Result<Tasks, DatasetError> {
    match manifest.layout {
        Layout::Shared => {
            let table = Table::open(folder.join("meta/tasks.parquet"))?;
            // Pandas names the column of an index without a name itself.
            let named = ["task", "__index_level_0__"].into_iter().find(|key| table.has(key));
            let Some(key) = named.or(table.text_column()) else {
                return Err(table.broken("no column of text: expected `task`".to_owned()));
            };
            let by_index = (0..).zip(table.texts(key)?).collect();
            Ok(Tasks { path: table.path().to_owned(), by_index })
        }
        Layout::PerEpisode { .. } => {
            let path = folder.join("meta/tasks.jsonl");
            let lines: Vec<TaskLine> = json_lines(&path)?;
            Ok(Tasks { path, by_index: lines.into_iter().map(|line| (line.task_index, line.task)).collect() })
        }
    }
}

/// Reads a file with an object of JSON in each line.
fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, DatasetError> {
    let bytes = read_small(path)?;
    let lines = bytes.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.iter().all(u8::is_ascii_whitespace));
    let parsed = lines.map(|(number, line)| {
        serde_json::from_slice(line).map_err(|error| DatasetError::Malformed {
            path: path.to_owned(),
            reason: format!("line {}: {error}", number.saturating_add(1)),
        })
    });
    parsed.collect()
}
