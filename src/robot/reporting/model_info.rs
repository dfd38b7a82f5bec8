//! What has been loaded.

use crate::config::facts::text;
use crate::config::{Config, Fact};
use crate::data::messages::{Header, outputs};
use crate::pipeline::Pipeline;
use crate::robot::control::Controller;
use crate::robot::envelope::describe;
use crate::robot::model_facts::ModelFacts;
use crate::types::Stamp;

/// What `~/model_info` says at `published` of a deployment, whose facts are `facts`.
/// It is played by `controller`, if its commands are streamed.
pub fn model_info(
    config: &Config,
    facts: &[Fact],
    loaded: &ModelFacts,
    pipeline: &Pipeline,
    controller: Option<&Controller>,
    published: Stamp,
) -> outputs::ModelInfo {
    outputs::ModelInfo {
        header: Header { stamp: published, frame_id: config.frame_id.clone() },
        checkpoint: config.checkpoint.display().to_string(),
        checkpoint_sha256: loaded.weights_sha256(),
        action_mode: loaded.action_mode.clone(),
        action_names: loaded.action_names.clone(),
        command_names: controller.map_or(Vec::new(), |controller| controller.channels().names().to_vec()),
        limits: controller.map_or(Vec::new(), limits),
        chunk_length: u32::try_from(pipeline.config().policy.chunk_length).unwrap_or_default(),
        steps: u32::try_from(loaded.steps).unwrap_or_default(),
        cameras: config.cameras.iter().map(|camera| camera.name.clone()).collect(),
        state: pipeline.state_spec().to_string(),
        processors: pipeline.processors().to_string(),
        facts: facts.iter().map(fact).collect(),
    }
}

/// The limits of commands as `~/model_info` tells them.
pub fn limits(controller: &Controller) -> Vec<String> {
    describe(controller.guard().limits(), controller.channels())
}

/// A fact as `~/model_info` tells it.
pub fn fact(fact: &Fact) -> outputs::Fact {
    outputs::Fact { name: fact.name.clone(), value: text(&fact.value), origin: fact.origin.to_string() }
}
