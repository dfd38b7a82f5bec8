//! Data sets that are damaged, contradict themselves or are of another kind.

use super::{OF_THE_CASE, fixture, has_ffmpeg, open};
use std::path::{Path, PathBuf};
use std::process::Command;
use xvla_ros::data::dataset::{Dataset, StepRef};

/// A copy of the data set `name`, changed by `damage`.
fn damaged(name: &str, damage: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_all(&fixture(name), copy.path());
    damage(copy.path());
    copy
}

fn copy_all(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy_all(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn edit(path: PathBuf, from: &str, to: &str) {
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    std::fs::write(path, text.replacen(from, to, 1)).unwrap();
}

fn cut(path: PathBuf) {
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// What reading every step of the data set in `folder` complains about first.
fn complaint(folder: &Path) -> String {
    let read = Dataset::open(folder).and_then(|dataset| {
        let steps = dataset.spread(100, 0, None);
        steps.into_iter().try_for_each(|step| dataset.load(step, &dataset.info().cameras).map(drop))
    });
    read.unwrap_err().to_string()
}

const INFO: &str = "meta/info.json";
const DATA: &str = "data/chunk-000/file-000.parquet";
const VIDEO: &str = "videos/observation.images.image/chunk-000/file-000.mp4";

#[test]
fn what_is_wrong_with_a_data_set_is_said_in_one_line_with_the_file() {
    let remove = |folder: &Path, file: &str| std::fs::remove_file(folder.join(file)).unwrap();
    type Damage<'a> = Box<dyn FnOnce(&Path) + 'a>;
    let cases: Vec<(&str, Damage, &[&str])> = vec![
        ("images", Box::new(|f| remove(f, INFO)), &["no meta/info.json"]),
        ("images", Box::new(|f| cut(f.join(INFO))), &[INFO, "no JSON"]),
        ("images", Box::new(|f| edit(f.join(INFO), "v3.0", "v1.6")), &[INFO, "v1.6", "expected v3.0, v2.1"]),
        ("images", Box::new(|f| edit(f.join(INFO), "v3.0", "v4.0")), &[INFO, "v4.0", "expected v3.0, v2.1"]),
        ("images", Box::new(|f| edit(f.join(INFO), "\"fps\": 10", "\"fps\": 0")), &[INFO, "`fps`"]),
        (
            "images",
            Box::new(|f| edit(f.join(INFO), "\"float32\"", "\"complex64\"")),
            &[INFO, "complex64", "state.dtype"],
        ),
        ("images", Box::new(|f| edit(f.join(INFO), "8\n", "9\n")), &[DATA, "observation.state", "[8]", "[9]"]),
        (
            "images",
            Box::new(|f| edit(f.join(INFO), "data/chunk", "../chunk")),
            &[INFO, "data_path", "leaves the folder"],
        ),
        ("images", Box::new(|f| remove(f, "meta/tasks.parquet")), &["meta/tasks.parquet"]),
        ("images", Box::new(|f| cut(f.join("meta/tasks.parquet"))), &["meta/tasks.parquet", "cut short"]),
        ("images", Box::new(|f| std::fs::remove_dir_all(f.join("meta/episodes")).unwrap()), &["meta/episodes"]),
        ("images", Box::new(|f| remove(f, DATA)), &[DATA]),
        ("images", Box::new(|f| cut(f.join(DATA))), &[DATA, "cut short"]),
        ("images", Box::new(|f| std::fs::write(f.join(DATA), "").unwrap()), &[DATA, "no readable Parquet file"]),
        ("images_v21", Box::new(|f| remove(f, "meta/tasks.jsonl")), &["meta/tasks.jsonl"]),
        ("images_v21", Box::new(|f| cut(f.join("meta/tasks.jsonl"))), &["meta/tasks.jsonl", "line 2"]),
        (
            "images_v21",
            Box::new(|f| edit(f.join("meta/tasks.jsonl"), ": 1", ": 7")),
            &["meta/tasks.jsonl", "no task 1"],
        ),
        (
            "images_v21",
            Box::new(|f| edit(f.join("meta/episodes.jsonl"), "\"length\": 3", "\"length\": 5")),
            &["episode_000001.parquet", "no frame 3 of episode 1"],
        ),
        (
            "images_v21",
            Box::new(|f| edit(f.join("meta/episodes.jsonl"), "\"length\": 3", "\"length\": 18446744073709551615")),
            &["meta: episode 1 has 18446744073709551615 frames"],
        ),
        (
            "images_v21",
            Box::new(|f| edit(f.join("meta/episodes.jsonl"), "\"episode_index\": 1", "\"episode_index\": 0")),
            &["episode 0 is listed twice"],
        ),
    ];
    for (name, damage, parts) in cases {
        let copy = damaged(name, damage);
        let complaint = complaint(copy.path());
        assert!(complaint.starts_with(&copy.path().display().to_string()), "{complaint}");
        assert_eq!(complaint.lines().count(), 1, "{complaint}");
        for part in parts {
            assert!(complaint.contains(part), "`{part}` is not in: {complaint}");
        }
    }
}

#[test]
fn a_video_that_is_damaged_or_ends_early_is_named() {
    if !has_ffmpeg() {
        return;
    }
    let copy = damaged("videos", |folder| cut(folder.join(VIDEO)));
    let refusal = complaint(copy.path());
    assert!(refusal.contains(VIDEO) && refusal.contains("no frame at 0.0000 s"), "{refusal}");
    assert_eq!(refusal.lines().count(), 1, "{refusal}");
    let copy = damaged("videos", |folder| std::fs::remove_file(folder.join(VIDEO)).unwrap());
    assert!(complaint(copy.path()).contains(VIDEO));
    let copy = damaged("videos", |folder| remade(&folder.join(VIDEO), &["-frames:v", "3"]));
    let refusal = complaint(copy.path());
    assert!(refusal.contains(VIDEO) && refusal.contains("no frame at 0.3000 s: the video ends before"), "{refusal}");
}

#[test]
fn a_camera_that_is_not_there_is_refused_with_those_that_are() {
    let missing = ["observation.images.top".to_owned()];
    let refusal = open("images").load(OF_THE_CASE, &missing).unwrap_err().to_string();
    assert!(refusal.contains("no camera `observation.images.top`: there are observation.images.side,"), "{refusal}");
}

/// Writes the video anew with other `settings` of ffmpeg.
fn remade(video: &Path, settings: &[&str]) {
    let new = video.with_extension("new.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-nostdin", "-loglevel", "error", "-i"]).arg(video).args(settings).args(["-c", "copy"]).arg(&new);
    assert!(ffmpeg.status().unwrap().success());
    std::fs::rename(new, video).unwrap();
}

#[test]
fn a_frame_that_is_shown_at_another_time_is_not_taken() {
    if !has_ffmpeg() {
        return;
    }
    // Every frame is shown 0.03 s later than the data says.
    let later = ["-bsf:v", "setts=ts=TS+307"];
    let copy = damaged("videos", |folder| remade(&folder.join(VIDEO), &later));
    let refusal = complaint(copy.path());
    let told = "no frame at 0.0000 s, the nearest after it is at 0.0300 s: times of video and data do not agree";
    assert!(refusal.contains(told), "{refusal}");
}

#[test]
fn a_state_that_is_none_is_named_with_its_file() {
    for (name, parts) in [
        ("nan", ["`observation.state`: not finite at index 5", DATA]),
        ("null", ["`observation.state`: shape is [0]: expected [8]", DATA]),
        ("text", ["`observation.state`: dtype is text: expected numbers", DATA]),
    ] {
        let rows = fixture("damaged").join(format!("{name}.parquet"));
        let copy = damaged("images", |folder| {
            std::fs::copy(rows, folder.join(DATA)).unwrap();
        });
        let dataset = Dataset::open(copy.path()).unwrap();
        let refusal = dataset.load(StepRef { episode: 1, frame: 2 }, &[]).unwrap_err().to_string();
        assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
    }
}
