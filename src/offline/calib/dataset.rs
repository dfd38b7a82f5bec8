//! Steps of a LeRobot data set as observations, as the node would make them of messages.

use super::Sample;
use crate::config::{Config, ConfigError, ProprioFeed, ViewSettings};
use crate::data::DatasetError;
use crate::data::dataset::{Dataset, Step, StepRef};
use crate::model::config::camera_name;
use crate::offline::OfflineError;
use crate::pipeline::Preparation;
use crate::pipeline::feedback::Feedback;
use crate::transform::decode::decode;
use crate::types::{Observation, Stamp, Stamped};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A data set, read as a deployment of a checkpoint sees it.
#[derive(Debug)]
pub struct Recording {
    dataset: Dataset,
    /// The model's views: where each is found among `keys`, `None` for one that is masked, and what is seen of it.
    views: Vec<Option<(usize, ViewSettings)>>,
    /// Keys of the features that are read.
    keys: Vec<String>,
    domain_id: i64,
    feedback: Feedback,
    /// Whether the checkpoint is fed its own last command.
    wants_commands: bool,
    /// In what the samples are not what the model would see on a robot.
    notes: Vec<String>,
}

impl Recording {
    /// Finds the cameras of the deployment `config` in `dataset`.
    ///
    /// A view is the feature whose name, after the checkpoint's own renaming, is the checkpoint's name of the camera; or
    /// the deployment's name, for a checkpoint that gives its cameras none. A camera that is not required may be missing.
    ///
    /// # Errors
    /// A required camera that the data set does not have, or a domain that nobody gives.
    pub fn new(dataset: Dataset, preparation: &Preparation, config: &Config) -> Result<Self, OfflineError> {
        let fault = |reason: String| DatasetError::Malformed { path: dataset.folder().to_owned(), reason };
        let processors = preparation.processors();
        let Some(domain_id) = config.domain_id.or(processors.domain_id) else {
            let reason = "unknown: neither the checkpoint nor a data set says which domain it is; add `domain_id: N` or \
                          `embodiment: NAME`";
            return Err(ConfigError::invalid("domain_id", reason.to_owned()).into());
        };
        let own = &preparation.config().inputs.camera_keys;
        let cameras = &dataset.info().cameras;
        let renamed = |key: &'_ String| processors.rename.get(key).unwrap_or(key).clone();
        let (mut keys, mut views, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        for (index, camera) in config.cameras.iter().enumerate() {
            let by_key = own.get(index).and_then(|own| cameras.iter().find(|key| renamed(key) == *own));
            let by_name = || cameras.iter().find(|key| camera_name(&renamed(key)) == camera.name);
            match by_key.or_else(by_name) {
                Some(key) => {
                    views.push(Some((keys.len(), camera.settings.view)));
                    keys.push(key.clone());
                }
                None if camera.settings.required => {
                    let name = own.get(index).unwrap_or(&camera.name);
                    let known = if cameras.is_empty() { "none".to_owned() } else { cameras.join(", ") };
                    let reason = format!(
                        "no camera `{name}`, which is view {index} of the checkpoint: it has {known}; name the one that \
                         is meant with `cameras`, or set `camera.{}.required: false`",
                        camera.name
                    );
                    return Err(fault(reason).into());
                }
                None => {
                    notes.push(format!("the data set has no camera for `{}`, whose view is masked", camera.name));
                    views.push(None);
                }
            }
        }
        let feedback = Feedback::new(config, preparation.state_spec().channels());
        let wants_commands = config.proprio.feed == Some(ProprioFeed::LastCommand);
        if wants_commands {
            notes.push(
                "the checkpoint is fed its own last command, which a data set does not hold: the recorded state stands for it"
                    .to_owned(),
            );
        }
        Ok(Self { dataset, views, keys, domain_id, feedback, wants_commands, notes })
    }

    /// The data set.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The domain of every observation.
    pub fn domain_id(&self) -> i64 {
        self.domain_id
    }

    /// Keys of the features that are the model's views, in its order; `None` for a view that is masked.
    pub fn views(&self) -> impl Iterator<Item = Option<&str>> {
        let key = |(index, _): &(usize, ViewSettings)| self.keys.get(*index).map(String::as_str);
        self.views.iter().map(move |view| view.as_ref().and_then(key))
    }

    /// Reads `steps`, one at a time as they are asked for.
    pub fn samples(
        &self,
        steps: impl IntoIterator<Item = StepRef>,
    ) -> impl Iterator<Item = Result<Sample, OfflineError>> {
        steps.into_iter().map(|step| self.sample(step))
    }

    /// Reads one step.
    ///
    /// # Errors
    /// As [`Dataset::load`]; a picture that cannot be decoded or is smaller than its crop.
    pub fn sample(&self, step: StepRef) -> Result<Sample, OfflineError> {
        let Step { at, timestamp_s, task, state, images, file } = self.dataset.load(step, &self.keys)?;
        // A time of its own for each frame, so that nothing takes one step for another.
        let stamp = Stamp { nanos: (timestamp_s * 1e9).round() as i64 };
        let mut encoded: Vec<_> = images.into_iter().map(Some).collect();
        let mut view = |view: &Option<(usize, ViewSettings)>| {
            let Some((index, settings)) = view else { return Ok(None) };
            let image = encoded.get_mut(*index).and_then(Option::take);
            let (Some(image), Some(key)) = (image, self.keys.get(*index)) else { return Ok(None) };
            match decode(key, image, settings) {
                Ok(image) => Ok(Some(Stamped { value: Arc::new(image), stamp })),
                Err(source) => Err(OfflineError::Batch { path: file.clone(), source }),
            }
        };
        let views = self.views.iter().map(&mut view).collect::<Result<_, _>>()?;
        let mut observation = Observation {
            views,
            state: vec![Stamped { value: state, stamp }],
            instruction: task.clone(),
            domain_id: self.domain_id,
        };
        // A data set does not say what was commanded, so that only an episode's first step is as on a robot.
        if !self.wants_commands || at.frame == 0 {
            self.feedback.clone().fill(&mut observation);
        }
        let origin = Map::from_iter([
            ("episode".to_owned(), Value::from(at.episode)),
            ("frame".to_owned(), Value::from(at.frame)),
            ("timestamp_s".to_owned(), Value::from(timestamp_s)),
            ("task".to_owned(), Value::from(task)),
        ]);
        Ok(Sample { observation, path: file, origin })
    }

    /// What `calib.json` says of all samples, which `seed` has chosen.
    pub fn run(&self, seed: u64) -> super::Run {
        let source = self.dataset.folder().display().to_string();
        super::Run { source, domain_id: self.domain_id, seed: Some(seed), notes: self.notes.clone() }
    }
}
