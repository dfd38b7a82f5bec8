//! `~/model_info`: what runs, published once the model is loaded, again when a fact changes, and kept for those who
//! subscribe later.

use super::clock::RosClock;
use super::error::NodeError;
use super::messages;
use crate::config::{Config, Fact};
use crate::data::messages::outputs;
use crate::pipeline::Pipeline;
use crate::robot::control::Controller;
use crate::robot::model_facts::ModelFacts;
use crate::robot::reporting::model_info::{fact, limits, model_info};
use r2r::xvla_ros::msg::ModelInfo;
use r2r::{Node, Publisher, QosProfile};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The publisher of `~/model_info`, with the facts of the deployment. Clones publish on the same topic.
#[derive(Clone)]
pub struct ModelInfoTopic {
    publisher: Publisher<ModelInfo>,
    clock: RosClock,
    told: Arc<Mutex<Told>>,
}

/// What is known and what was published last, which the loading thread and the spinning thread both change.
struct Told {
    facts: Vec<Fact>,
    info: Option<outputs::ModelInfo>,
}

impl ModelInfoTopic {
    /// Advertises the topic.
    ///
    /// # Errors
    /// [`NodeError::Middleware`], naming the topic.
    pub fn new(node: &mut Node, clock: RosClock, facts: Vec<Fact>) -> Result<Self, NodeError> {
        let qos = QosProfile::default().keep_last(1).reliable().transient_local();
        let publisher = node.create_publisher("~/model_info", qos).map_err(NodeError::middleware("~/model_info"))?;
        Ok(Self { publisher, clock, told: Arc::new(Mutex::new(Told { facts, info: None })) })
    }

    /// Publishes what has been loaded, and what plays it.
    pub fn publish(&self, config: &Config, loaded: &ModelFacts, pipeline: &Pipeline, controller: Option<&Controller>) {
        let mut told = self.told();
        let info = model_info(config, &told.facts, loaded, pipeline, controller, self.clock.now());
        self.send(&info);
        told.info = Some(info);
    }

    /// Takes note of facts, steps and limits as they are now. If that is news, what was published is published again with
    /// them.
    pub fn restate(&self, facts: &[Fact], steps: Option<usize>, controller: Option<&Controller>) {
        let mut told = self.told();
        facts.clone_into(&mut told.facts);
        let Some(info) = &mut told.info else { return };
        let (facts, limits) = (facts.iter().map(fact).collect(), controller.map_or(Vec::new(), limits));
        let steps = steps.and_then(|steps| u32::try_from(steps).ok()).unwrap_or(info.steps);
        if (&info.facts, info.steps, &info.limits) == (&facts, steps, &limits) {
            return;
        }
        (info.facts, info.steps, info.limits, info.header.stamp) = (facts, steps, limits, self.clock.now());
        self.send(info);
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, info: &outputs::ModelInfo) {
        if let Err(error) = self.publisher.publish(&messages::model_info(info.clone())) {
            tracing::warn!("~/model_info: {error}");
        }
    }
}
