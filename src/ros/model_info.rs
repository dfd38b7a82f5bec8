//! `~/model_info`: what runs, published once the model is loaded and kept for those who subscribe later.

use super::clock::RosClock;
use super::convert;
use super::error::NodeError;
use super::outputs::ModelFacts;
use crate::config::facts::text;
use crate::config::{Config, Fact};
use crate::pipeline::Pipeline;
use r2r::xvla_ros::msg::{Fact as FactMessage, ModelInfo};
use r2r::{Node, Publisher, QosProfile};

/// The publisher of `~/model_info`, with the facts of the deployment.
pub struct ModelInfoTopic {
    publisher: Publisher<ModelInfo>,
    clock: RosClock,
    facts: Vec<Fact>,
}

impl ModelInfoTopic {
    /// Advertises the topic.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic.
    pub fn new(node: &mut Node, clock: RosClock, facts: Vec<Fact>) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(1).reliable().transient_local();
        let publisher = node.create_publisher("~/model_info", qos).map_err(NodeError::middleware("~/model_info"))?;
        Ok(Self { publisher, clock, facts })
    }

    /// Publishes what has been loaded.
    pub fn publish(&self, config: &Config, loaded: &ModelFacts, pipeline: &Pipeline) {
        let message = ModelInfo {
            header: convert::header(self.clock.now(), &config.frame_id),
            checkpoint: config.checkpoint.display().to_string(),
            checkpoint_sha256: loaded.weights_sha256(),
            action_mode: loaded.action_mode.clone(),
            action_names: loaded.action_names.clone(),
            chunk_length: u32::try_from(pipeline.config().policy.chunk_length).unwrap_or_default(),
            steps: u32::try_from(loaded.steps).unwrap_or_default(),
            cameras: config.cameras.iter().map(|camera| camera.name.clone()).collect(),
            state: pipeline.state_spec().to_string(),
            processors: pipeline.processors().to_string(),
            facts: self.facts.iter().map(message).collect(),
        };
        if let Err(error) = self.publisher.publish(&message) {
            tracing::warn!("~/model_info: {error}");
        }
    }
}

fn message(fact: &Fact) -> FactMessage {
    FactMessage { name: fact.name.clone(), value: text(&fact.value), origin: fact.origin.to_string() }
}
