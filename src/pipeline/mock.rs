//! For tests: a real pipeline on a tiny checkpoint, whose backends fail when the test says so.

use super::core::Core;
use super::fallback::Place;
use super::prepare::TOKENIZER_FILE;
use super::{Options, Pipeline};
use crate::backend::mock::{AtWait, Behaviour, MockPolicy, MockStream};
use crate::backend::select::{self, Backends};
use crate::config::{Device, Fallback};
use crate::model::action_space::ActionMode;
use crate::model::synth::dialect::Dialect;
use crate::model::synth::presets::Preset;
use crate::model::synth::{self, Recipe, StoredDtype};
use crate::transform::train_tokenizer::train_small;
use crate::types::{Observation, RgbImage, Stamp, Stamped};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Much longer than any inference of the tiny checkpoint takes.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Options for a tiny checkpoint with a tokenizer, which is written once per process.
pub fn options() -> Options {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let recipe = Recipe {
            preset: Preset::Tiny,
            dialect: Dialect::Original,
            dtype: StoredDtype::F32,
            action_mode: ActionMode::Ee6d,
            shards: 1,
            views: 3,
            image_side: None,
            vocabulary: Preset::Tiny.vocabulary(),
            seed: 0,
        };
        synth::write(&recipe, folder.path(), &|_, _| ()).unwrap();
        std::fs::write(folder.path().join(TOKENIZER_FILE), train_small(512).unwrap()).unwrap();
        folder
    });
    Options { steps: Some(1), fallback: Fallback::Libtorch, ..Options::new(folder.path()) }
}

/// A pipeline on the CPU that reports the backend cuda_graph on a GPU. `behave` is called before each answer and
/// decides what the policy does; `at_wait` is called once per inference and supplies what happens while it is waited
/// for.
pub fn pipeline(
    options: Options,
    behave: impl FnMut() -> Behaviour + Send + 'static,
    at_wait: impl FnMut() -> AtWait + Send + 'static,
) -> Pipeline {
    let mut core = Core::load(&Options { overlap: false, ..options.clone() }).unwrap();
    core.pretend(
        &options,
        Place { backend: select::CUDA_GRAPH.to_owned(), device: Device::Cuda(0), dtype: options.dtype },
    );
    core.active = core.active.take().map(|mut active| {
        let Backends { vlm, policy, stream, golden, path } = active.backends;
        active.backends = Backends {
            vlm,
            policy: Box::new(MockPolicy {
                name: select::CUDA_GRAPH,
                inner: policy,
                behave: Box::new(behave),
                recordings: 0,
            }),
            stream: Box::new(MockStream { inner: stream, at_wait: Box::new(at_wait) }),
            golden,
            path,
        };
        active
    });
    Pipeline::of(core)
}

/// For `at_wait`: the wait succeeds at once.
pub fn nothing() -> AtWait {
    Box::new(|_| Ok(()))
}

/// An observation for the tiny checkpoint with a single view, stamped `ms` milliseconds.
pub fn observation(ms: i64) -> Observation {
    let stamp = Stamp { nanos: ms * 1_000_000 };
    let image = RgbImage::new(32, 32, vec![90; 32 * 32 * 3]).map(Arc::new).unwrap();
    Observation {
        views: vec![Some(Stamped { value: image, stamp })],
        state: vec![Stamped { value: vec![0.25; 10], stamp }],
        instruction: "pick up the block".to_owned(),
        domain_id: 0,
    }
}

/// Waits until `is_so`, which another thread makes so.
pub fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "it never came");
        std::thread::yield_now();
    }
}
