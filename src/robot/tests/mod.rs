//! What the inputs make of messages that are late, early, missing, repeated, skewed or wrong.

mod cameras;
mod property;
mod state;
mod time;

use super::health::{Health, Level};
use super::inputs::Inputs;
use super::selection::Selection;
use super::state::Reading;
use super::time::Now;
use crate::config::{Config, Parameters, Value};
use crate::types::{EncodedImage, ImageFormat, Stamp};
use std::time::{Duration, Instant};

/// When ROS time begins, ms.
const EPOCH_MS: i64 = 1_700_000_000_000;

/// Inputs under test, with the present in milliseconds since the test began on both clocks.
struct Bench {
    inputs: Inputs,
    start: Instant,
    ms: i64,
    /// Bytes of the next image, so that no two are alike.
    shade: u32,
}

fn texts(texts: &[&str]) -> Value {
    Value::Strings(texts.iter().map(|text| (*text).to_owned()).collect())
}

impl Bench {
    /// Two cameras, `front` and `wrist`, the joints `a` and `b`, the instruction "go", and `extra` parameters.
    fn with(extra: &[(&str, Value)]) -> Self {
        let mut given = Parameters::from([
            ("checkpoint".to_owned(), Value::String("model".to_owned())),
            ("cameras".to_owned(), texts(&["front", "wrist"])),
            ("proprio.joint_names".to_owned(), texts(&["a", "b"])),
            ("instruction".to_owned(), Value::String("go".to_owned())),
            ("rotation_6d".to_owned(), Value::String("columns".to_owned())),
        ]);
        given.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let config = Config::from_parameters(&given).unwrap();
        Self { inputs: Inputs::new(&config), start: Instant::now(), ms: 0, shade: 0 }
    }

    fn new() -> Self {
        Self::with(&[])
    }

    fn stamp(ms: i64) -> Stamp {
        Stamp { nanos: (EPOCH_MS + ms) * 1_000_000 }
    }

    fn now(&self) -> Now {
        Now { stamp: Self::stamp(self.ms), at: self.start + Duration::from_millis(self.ms.unsigned_abs()) }
    }

    /// A new image, different from all before.
    fn image(&mut self) -> EncodedImage {
        self.shade += 1;
        let format =
            ImageFormat::Raw { encoding: "mono8".to_owned(), width: 4, height: 1, step: 4, is_bigendian: false };
        EncodedImage { format, data: self.shade.to_le_bytes().to_vec().into() }
    }

    /// A frame of a camera that shows the moment `ms`.
    fn frame(&mut self, camera: usize, ms: i64) {
        let image = self.image();
        self.inputs.frame(camera, image, Some(Self::stamp(ms)), self.now());
    }

    /// A frame of each camera.
    fn frames(&mut self, front_ms: i64, wrist_ms: i64) {
        self.frame(0, front_ms);
        self.frame(1, wrist_ms);
    }

    fn joints(&mut self, names: &[&str], positions: &[f64], ms: i64) {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let reading = Reading::Joints { names, positions: positions.to_vec() };
        self.inputs.state(0, reading, Some(Self::stamp(ms)), self.now());
    }

    /// Everything that makes an observation of the present.
    fn everything(&mut self) {
        self.joints(&["a", "b"], &[0.1, 0.2], self.ms);
        self.frame(0, self.ms);
        self.frame(1, self.ms);
    }

    fn observe(&mut self) -> Option<Selection> {
        self.inputs.observe(self.now())
    }

    /// Stamps of the views of the next observation, ms.
    fn views(&mut self) -> Option<Vec<Option<i64>>> {
        let ms = |stamp: Stamp| stamp.nanos / 1_000_000 - EPOCH_MS;
        let selection = self.observe()?;
        Some(selection.views.iter().map(|view| view.as_ref().map(|view| ms(view.image.stamp))).collect())
    }

    fn state(&mut self) -> Option<Vec<f32>> {
        Some(self.observe()?.state.into_iter().flat_map(|state| state.value).collect())
    }

    fn health(&self) -> Health {
        Health::of_inputs(&self.inputs, self.now())
    }

    fn says(&self, level: Level, text: &str) {
        let health = self.health();
        assert!(health.level == level && health.reason.contains(text), "{level:?} `{text}`: {health:?}");
    }
}
