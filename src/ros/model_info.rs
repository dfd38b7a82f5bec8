//! `~/model_info`: what runs, published once the model is loaded and kept for those who subscribe later.

use super::clock::RosClock;
use super::error::NodeError;
use super::messages;
use crate::config::{Config, Fact};
use crate::pipeline::Pipeline;
use crate::robot::reporting::model_info::model_info;
use crate::robot::reporting::record::ModelFacts;
use r2r::xvla_ros::msg::ModelInfo;
use r2r::{Node, Publisher, QosProfile};

/// The publisher of `~/model_info`, with the facts of the deployment. Clones publish on the same topic.
#[derive(Clone)]
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
        let info = model_info(config, &self.facts, loaded, pipeline, self.clock.now());
        if let Err(error) = self.publisher.publish(&messages::model_info(info)) {
            tracing::warn!("~/model_info: {error}");
        }
    }
}
