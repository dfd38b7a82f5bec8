//! What was chosen for one inference: an observation whose images are still as their cameras sent them. It is decoded
//! by whoever computes, so that the thread that receives messages never waits for a JPEG.

use crate::config::ViewSettings;
use crate::error::InputError;
use crate::pipeline::worker::Offer;
use crate::transform::decode;
use crate::types::{EncodedImage, Observation, Stamp, Stamped};
use std::sync::Arc;

/// The inputs chosen for one inference.
#[derive(Debug)]
pub struct Selection {
    /// Camera views in the checkpoint's order; `None` marks a view that is masked.
    pub views: Vec<Option<View>>,
    /// Proprioception at the moment that the cameras show, one entry per topic.
    pub state: Vec<Stamped<Vec<f32>>>,
    /// What the robot should do, in words.
    pub instruction: String,
    /// The embodiment whose soft prompts and projections apply.
    pub domain_id: i64,
}

/// One camera's view.
#[derive(Debug)]
pub struct View {
    /// The topic that it came from, for errors.
    pub topic: String,
    /// What the model sees of it.
    pub settings: ViewSettings,
    /// The image as its camera sent it.
    pub image: Stamped<EncodedImage>,
}

/// Why a selection cannot become an observation.
#[derive(Clone, Debug, PartialEq)]
pub struct Undecodable {
    /// The index of the camera at fault.
    pub camera: usize,
    /// What is wrong with its image.
    pub error: InputError,
}

impl Selection {
    /// The moment that the selection stands for: the newest stamp of its views.
    pub fn reference(&self) -> Stamp {
        self.views.iter().flatten().map(|view| view.image.stamp).max().unwrap_or_default()
    }
}

impl Offer for Selection {
    type Fault = Undecodable;

    fn decode(self) -> Result<Observation, Undecodable> {
        let decode = |(camera, view): (usize, Option<View>)| {
            let Some(View { topic, settings, image }) = view else { return Ok(None) };
            let value = decode(&topic, image.value, &settings).map_err(|error| Undecodable { camera, error })?;
            Ok(Some(Stamped { value: Arc::new(value), stamp: image.stamp }))
        };
        Ok(Observation {
            views: self.views.into_iter().enumerate().map(decode).collect::<Result<_, _>>()?,
            state: self.state,
            instruction: self.instruction,
            domain_id: self.domain_id,
        })
    }
}
