//! What LeRobot gives for each frame of a data set, and what is read of it here.

use super::{common, fixture, has_ffmpeg, open};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use xvla_ros::config::ViewSettings;
use xvla_ros::data::DatasetError;
use xvla_ros::data::dataset::{Dataset, Step, StepRef};
use xvla_ros::data::npy::NpyData;
use xvla_ros::data::npz::{Limits, NpzReader};
use xvla_ros::transform::decode::decode;
use xvla_ros::types::RgbImage;

/// What LeRobot gives for every frame of a data set.
struct Golden {
    file: PathBuf,
    facts: Json,
}

/// Every data set of the fixtures, or of the folder that the environment names, with what LeRobot gives for it.
fn goldens() -> Vec<(PathBuf, Golden)> {
    let other = std::env::var_os("XVLA_LEROBOT_DATASETS").map(PathBuf::from);
    let folder = other.clone().unwrap_or_else(|| common::fixtures().join("datasets"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let mut found: Vec<_> = files.iter().map(|file| (file.with_extension(""), Golden::of(file))).collect();
    if other.is_none() {
        found.push((fixture("images_v21"), Golden::of(&fixture("images.json"))));
        assert_eq!(found.len(), 3);
    }
    found
}

impl Golden {
    fn of(file: &Path) -> Self {
        let facts = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        Self { file: file.with_extension("npz"), facts }
    }

    fn array(&self, key: &str) -> (Vec<usize>, NpyData) {
        let array = NpzReader::open(&self.file, Limits::default()).unwrap().require(key).unwrap();
        (array.shape, array.data)
    }

    fn cameras(&self) -> Vec<String> {
        let cameras = self.facts["cameras"].as_array().unwrap().iter();
        cameras.map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    fn steps(&self) -> Vec<StepRef> {
        let column = |key| self.array(key).1.into_i64().unwrap();
        let steps = column("episode_index").into_iter().zip(column("frame_index"));
        steps.map(|(episode, frame)| StepRef { episode: episode as u64, frame: frame as u64 }).collect()
    }

    /// The pictures of camera `view`, one per frame, each [H, W, 3].
    fn pictures(&self, view: usize) -> Vec<Vec<u8>> {
        let (shape, data) = self.array(&format!("view_{view}"));
        let NpyData::U8(pixels) = data else { panic!("{}", data.dtype()) };
        pixels.chunks_exact(shape[1..].iter().product()).map(<[u8]>::to_vec).collect()
    }

    /// Compares everything but the pictures of `steps`, which it returns.
    fn check(&self, steps: &[Step]) -> Vec<Vec<RgbImage>> {
        let (shape, states) = self.array("state");
        let states = states.into_f32().unwrap();
        let timestamps = self.array("timestamp").1.into_f32().unwrap();
        assert_eq!(shape[0], steps.len());
        for (index, step) in steps.iter().enumerate() {
            let expected = &states[index * shape[1]..(index + 1) * shape[1]];
            assert_eq!(step.state, expected, "{} {index}", self.file.display());
            assert_eq!(step.timestamp_s as f32, timestamps[index], "{} {index}", self.file.display());
            assert_eq!(step.task, self.facts["tasks"][index].as_str().unwrap(), "{} {index}", self.file.display());
        }
        let decoded = |image| decode("camera", image, &ViewSettings::default()).unwrap();
        steps.iter().map(|step| step.images.iter().cloned().map(decoded).collect()).collect()
    }
}

#[test]
fn a_data_set_says_what_it_holds_in_the_order_of_its_file() {
    for (name, version) in [("images", "v3.0"), ("images_v21", "v2.1"), ("videos", "v3.0")] {
        let dataset = open(name);
        let info = dataset.info();
        assert_eq!((info.version.as_str(), info.fps, info.robot_type.as_deref()), (version, 10.0, Some("panda")));
        assert_eq!(info.episodes.iter().map(|episode| episode.length).collect::<Vec<_>>(), [4, 3], "{name}");
        let state = info.features.iter().find(|feature| feature.key == "observation.state").unwrap();
        assert_eq!((state.dtype.as_str(), state.shape.as_slice()), ("float32", &[8_usize][..]));
    }
    assert_eq!(open("images").info().cameras, ["observation.images.side", "observation.images.front"]);
}

#[test]
fn every_frame_of_images_is_exactly_what_lerobot_gives() {
    for (folder, golden) in goldens() {
        let dataset = Dataset::open(&folder).unwrap();
        let cameras = golden.cameras();
        if is_video(&dataset) {
            continue;
        }
        let steps: Vec<Step> = golden.steps().into_iter().map(|at| dataset.load(at, &cameras).unwrap()).collect();
        let found = golden.check(&steps);
        for view in 0..cameras.len() {
            for (index, (views, expected)) in found.iter().zip(golden.pictures(view)).enumerate() {
                assert!(views[view].data() == expected, "{}: view {view} of {index}", folder.display());
            }
        }
    }
}

fn is_video(dataset: &Dataset) -> bool {
    dataset.info().features.iter().any(|feature| feature.dtype == "video")
}

/// The mean difference of two pictures, in 255ths.
fn difference(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

#[test]
fn every_frame_of_a_video_is_the_one_that_lerobot_gives() {
    /// Versions of swscale may round chroma differently, by 2.5 in the mean of small pictures with strong edges.
    const SAME: f64 = 3.0;
    if !has_ffmpeg() {
        return;
    }
    for (folder, golden) in goldens() {
        let dataset = Dataset::open(&folder).unwrap();
        let cameras = golden.cameras();
        if !is_video(&dataset) {
            continue;
        }
        let steps: Vec<Step> = golden.steps().into_iter().map(|at| dataset.load(at, &cameras).unwrap()).collect();
        let found = golden.check(&steps);
        for view in 0..cameras.len() {
            let expected = golden.pictures(view);
            let mut worst = 0.0_f64;
            for (index, picture) in found.iter().map(|views| &views[view]).enumerate() {
                let distances: Vec<f64> = expected.iter().map(|other| difference(picture.data(), other)).collect();
                let nearest = distances.iter().copied().fold(f64::INFINITY, f64::min);
                let name = format!("{}: view {view} of {index}", folder.display());
                assert!(distances[index] <= nearest, "{name} is another frame");
                assert!(nearest < SAME, "{name}: {nearest}");
                worst = worst.max(nearest);
            }
            println!("{} {}: mean difference up to {worst:.3}", folder.display(), cameras[view]);
        }
    }
}

#[test]
fn a_video_without_ffmpeg_says_what_to_install() {
    let dataset = open("videos").with_ffmpeg("/nowhere/ffmpeg");
    let step = StepRef { episode: 0, frame: 0 };
    let cameras = &dataset.info().cameras[..1];
    let refusal = dataset.load(step, cameras).unwrap_err();
    assert!(matches!(refusal, DatasetError::NoFfmpeg { .. }), "{refusal:?}");
    let refusal = refusal.to_string();
    assert!(refusal.contains("file-000.mp4: ") && refusal.contains("apt install ffmpeg"), "{refusal}");
    assert_eq!(dataset.load(step, &[]).unwrap().state.len(), 8, "what needs no video is read all the same");
}
