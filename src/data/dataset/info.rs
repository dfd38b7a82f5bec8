//! `meta/info.json`: the version of a data set, its features, and where its files lie.

use super::template::Template;
use crate::data::DatasetError;
use crate::error::check_content;
use crate::error::regular_file;
use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where a data set describes itself.
pub const INFO_FILE: &str = "meta/info.json";
/// The largest file of JSON that is read, bytes. That of a data set of a million episodes in version 2.1 has 200 MB.
const MAX_JSON_BYTES: u64 = 1 << 30;
/// Episodes of a folder in version 2, unless the file says otherwise.
const DEFAULT_CHUNK: u64 = 1000;
/// Element types that LeRobot and the library below it write, but for images, videos and those with parameters.
const NUMBERS_AND_TEXTS: &[&str] = &[
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "string",
    "large_string",
    "binary",
    "large_binary",
    "language",
];

/// What a data set says about itself.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetInfo {
    /// Version of the format, such as `v3.0`.
    pub version: String,
    /// Frames per second.
    pub fps: f64,
    /// The robot that was recorded, if the data set says so.
    pub robot_type: Option<String>,
    /// Every feature, in the file's order.
    pub features: Vec<Feature>,
    /// Keys of the features that are colour pictures, such as `observation.images.top`, in the file's order.
    pub cameras: Vec<String>,
    /// The recorded episodes, in the order of their numbers.
    pub episodes: Vec<EpisodeInfo>,
}

/// One recorded episode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpisodeInfo {
    /// Its number.
    pub index: u64,
    /// Its frames.
    pub length: u64,
}

/// One column of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its key, such as `observation.state`.
    pub key: String,
    /// Its element type as LeRobot names it; `image` and `video` are pictures.
    pub dtype: String,
    /// Its shape per frame; a picture's is usually [H, W, 3].
    pub shape: Vec<usize>,
    /// Whether it is a depth map, which no camera of the model is.
    pub is_depth: bool,
}

/// How a data set's files are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Version 3: files hold many episodes, and a table says which.
    Shared,
    /// Version 2: a file for each episode.
    PerEpisode {
        /// Episodes of a folder.
        chunk: u64,
    },
}

/// The content of info.json that is needed to read steps.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) path: PathBuf,
    pub(super) version: String,
    pub(super) fps: f64,
    pub(super) robot_type: Option<String>,
    pub(super) features: Vec<Feature>,
    pub(super) layout: Layout,
    pub(super) data: Template,
    /// `None` for a data set without videos.
    pub(super) videos: Option<Template>,
}

#[derive(Deserialize)]
struct Raw {
    codebase_version: String,
    fps: f64,
    features: IndexMap<String, RawFeature>,
    robot_type: Option<String>,
    chunks_size: Option<u64>,
    data_path: Option<String>,
    video_path: Option<String>,
}

#[derive(Deserialize)]
struct RawFeature {
    dtype: String,
    #[serde(default)]
    shape: Vec<usize>,
    info: Option<Value>,
    video_info: Option<Value>,
}

impl Feature {
    fn of(key: String, raw: RawFeature) -> Self {
        let says_depth = |info: &Option<Value>| {
            let flag = |name| info.as_ref().and_then(|info| info.get(name)).and_then(Value::as_bool);
            flag("is_depth_map").or(flag("video.is_depth_map")).unwrap_or(false)
        };
        let is_depth = says_depth(&raw.info) || says_depth(&raw.video_info);
        Self { key, dtype: raw.dtype, shape: raw.shape, is_depth }
    }

    /// Whether it is a colour picture.
    pub fn is_camera(&self) -> bool {
        (self.dtype == "image" || self.is_video()) && !self.is_depth
    }

    pub(super) fn is_video(&self) -> bool {
        self.dtype == "video"
    }
}

impl Manifest {
    /// Reads the file below `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self, DatasetError> {
        let path = folder.join(INFO_FILE);
        if !path.exists() {
            let reason = format!("no {INFO_FILE}: is this the folder of a LeRobot data set?");
            return Err(DatasetError::Malformed { path: folder.to_owned(), reason });
        }
        let bytes = read_small(&path)?;
        let broken = |reason: String| DatasetError::Malformed { path: path.clone(), reason };
        check_content(&bytes).map_err(broken)?;
        let version: Value = serde_json::from_slice(&bytes).map_err(|error| broken(format!("no JSON: {error}")))?;
        // Asked first: other versions have other keys, and the first that is missing would be named instead.
        let version = version.get("codebase_version").and_then(Value::as_str).unwrap_or("without a version");
        let major = version.trim_start_matches('v').split('.').next().unwrap_or_default().to_owned();
        if major != "3" && version != "v2.1" && version != "v2.0" {
            return Err(broken(format!(
                "`codebase_version`: {version} is not supported: expected v3.0, v2.1 or v2.0; LeRobot's converters bring \
                 others to v3.0"
            )));
        }
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let raw: Raw = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let key = error.path().to_string();
            broken(if key == "." { error.into_inner().to_string() } else { format!("`{key}`: {}", error.inner()) })
        })?;
        Self::checked(path.clone(), raw, &major)
    }

    fn checked(path: PathBuf, raw: Raw, major: &str) -> Result<Self, DatasetError> {
        let broken = |reason: String| DatasetError::Malformed { path: path.clone(), reason };
        if !(raw.fps.is_finite() && raw.fps > 0.0) {
            return Err(broken(format!("`fps`: {}: expected a positive number", raw.fps)));
        }
        let chunk = raw.chunks_size.unwrap_or(DEFAULT_CHUNK);
        if chunk == 0 {
            return Err(broken("`chunks_size`: 0: expected a positive number".to_owned()));
        }
        let features: Vec<Feature> = raw.features.into_iter().map(|(key, raw)| Feature::of(key, raw)).collect();
        if let Some(Feature { key, dtype, .. }) = features.iter().find(|feature| !is_known(&feature.dtype)) {
            let known = NUMBERS_AND_TEXTS.join(", ");
            return Err(broken(format!(
                "`features.{key}.dtype`: {dtype:?} is not known: expected image, video or one of {known}"
            )));
        }
        let (layout, data, videos) = if major == "3" {
            (
                Layout::Shared,
                "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
                "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            )
        } else {
            (
                Layout::PerEpisode { chunk },
                "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
                "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
            )
        };
        let template = |key: &str, given: Option<String>, default: &str| {
            Template::parse(given.as_deref().unwrap_or(default)).map_err(|reason| broken(format!("`{key}`: {reason}")))
        };
        let has_videos = features.iter().any(Feature::is_video);
        Ok(Self {
            data: template("data_path", raw.data_path, data)?,
            videos: if has_videos { Some(template("video_path", raw.video_path, videos)?) } else { None },
            version: raw.codebase_version,
            fps: raw.fps,
            robot_type: raw.robot_type,
            features,
            layout,
            path,
        })
    }

    /// Keys of all features that are videos, depth included, in the file's order.
    pub(super) fn video_keys(&self) -> impl Iterator<Item = &str> {
        self.features.iter().filter(|feature| feature.is_video()).map(|feature| feature.key.as_str())
    }
}

fn is_known(dtype: &str) -> bool {
    let is_picture = dtype == "image" || dtype == "video";
    is_picture || NUMBERS_AND_TEXTS.contains(&dtype) || dtype.starts_with("timestamp[")
}

/// The bytes of a file that is not larger than such files are.
pub(super) fn read_small(path: &Path) -> Result<Vec<u8>, DatasetError> {
    let io = |source| DatasetError::Io { path: path.to_owned(), source };
    let bytes = regular_file(path).map_err(io)?.len();
    if bytes > MAX_JSON_BYTES {
        let reason = format!("{bytes} bytes exceed the limit of {MAX_JSON_BYTES}");
        return Err(DatasetError::Malformed { path: path.to_owned(), reason });
    }
    std::fs::read(path).map_err(io)
}
