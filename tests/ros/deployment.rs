//! A running node with its robot, started once for all tests of a program that leave it as they found it.

use super::node::NodeProcess;
use super::robot::{Robot, count};
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use xvla_ros::types::RgbImage;

/// A node with raw cameras, a state and an instruction, and the robot at its topics.
pub struct Deployment {
    pub node: NodeProcess,
    pub robot: Robot,
    /// Topics of the raw cameras, in the order of views.
    pub cameras: &'static [&'static str],
}

/// Where a deployment that tests share is kept.
pub type Shared = OnceLock<Mutex<Deployment>>;

/// The deployment in `place`, for one test at a time; the first one starts it.
///
/// A test may rely on what `start` does and on nothing that another test did. It sees no chunk or report from before.
pub fn shared(place: &'static Shared, start: impl FnOnce() -> Deployment) -> MutexGuard<'static, Deployment> {
    let deployment = place.get_or_init(|| Mutex::new(start()));
    let mut deployment = deployment.lock().unwrap_or_else(PoisonError::into_inner);
    deployment.robot.forget();
    deployment
}

impl Deployment {
    /// Shows every camera its image, stamped as they arrive, and returns the chunk that follows.
    pub fn answer_to(&mut self, images: &[RgbImage]) -> super::Chunk {
        assert_eq!(images.len(), self.cameras.len());
        for (camera, image) in self.cameras.iter().zip(images) {
            self.robot.image(camera, image, 0);
        }
        self.robot.chunk()
    }

    /// The first report that counts everything that was sent until now.
    ///
    /// The node decides about an observation between counting a message and the next report, so what this report does
    /// not tell of has not happened.
    pub fn report(&mut self) -> Value {
        let counters = self.robot.sent().iter().map(|(topic, sent)| (format!("{}.received", self.key(topic)), *sent));
        let counters: Vec<_> = counters.collect();
        self.robot.report(|report| counters.iter().all(|(key, sent)| count(report, "inputs", key) == Some(*sent)))
    }

    /// What counters call a topic: cameras by their names, others by their last. A camera whose topic is remapped to one
    /// that does not end in `image` is the first.
    fn key(&self, topic: &str) -> String {
        let own = topic.strip_suffix("/compressed").unwrap_or(topic).strip_suffix("/image");
        let name = match own {
            None if self.cameras.contains(&topic) => "camera_0",
            Some(own) => own.rsplit('/').next().unwrap_or_default(),
            None => topic.rsplit('/').next().unwrap_or_default(),
        };
        name.to_owned()
    }
}
