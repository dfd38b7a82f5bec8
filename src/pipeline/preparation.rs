//! What a checkpoint makes of observations before its network sees them, without its weights.

use super::noise;
use super::prepare::{Preparer, tokenizer_folder};
use super::validate::{self, check_processors};
use super::{Options, PipelineError};
use crate::backend::engine::golden::GoldenInputs;
use crate::backend::part;
use crate::backend::stream::HostImages;
use crate::error::CheckpointError;
use crate::model::checkpoint::Checkpoint;
use crate::model::config::ModelConfig;
use crate::model::state_spec::StateSpec;
use crate::transform::processors::{PREPROCESSOR_FILE, Processors};
use crate::transform::state::Normalization;
use crate::types::{HostArray, ModelInputs, Observation};
use std::sync::Arc;

/// Configuration, processors and tokenizer of a checkpoint: what [`super::Pipeline`] prepares observations with. It loads
/// in milliseconds, so that batches can be made on a machine without the memory for the network.
pub struct Preparation {
    pub(super) config: Arc<ModelConfig>,
    pub(super) processors: Arc<Processors>,
    pub(super) state: Arc<StateSpec>,
    pub(super) preparer: Preparer,
    options: Options,
}

impl Preparation {
    /// Reads the files of the checkpoint that `options` name, but for the weights.
    ///
    /// # Errors
    /// A configuration, processors or a tokenizer that cannot be used, or that contradict each other.
    pub fn load(options: &Options) -> Result<Self, PipelineError> {
        let folders = options.folders();
        let config = Arc::new(ModelConfig::of(folders)?);
        let processors_folder = folders.holding(PREPROCESSOR_FILE);
        let processors = Arc::new(Processors::load(processors_folder)?);
        check_processors(processors_folder, &config, &processors)?;
        let state = Arc::new(StateSpec::new(&config, processors.state.as_ref().map(Normalization::dim)));
        let tokenizer = tokenizer_folder(folders, &processors);
        let preparer = Preparer::new(tokenizer, &config, &processors, options.tokenizer.as_deref())?;
        Ok(Self { config, processors, state, preparer, options: options.clone() })
    }

    /// The batch of one sample that the network would be fed for `observation`. Its state is as measured: the pipeline
    /// normalises and pads the state of a batch itself.
    ///
    /// # Errors
    /// What [`super::Pipeline::begin`] would refuse: inputs that do not fit the checkpoint, or values that are not
    /// finite.
    pub fn prepare(&mut self, observation: &Observation) -> Result<ModelInputs, PipelineError> {
        let inputs = self.preparer.prepare(observation, true)?;
        let images = HostImages::Normalised(&inputs.image_input);
        validate::inputs(&self.config, &self.state, &inputs, images)?;
        validate::images(images)?;
        Ok(inputs)
    }

    /// The samples of a batch as the network takes them, one each: checked, with the state normalised, padded and masked.
    /// Noise that the batch does not bring is drawn from `seed` for its first sample, from the next number for the next.
    ///
    /// # Errors
    /// What [`super::Pipeline::begin`] would refuse.
    pub fn network_inputs(
        &self,
        batch: &ModelInputs,
        noise: Option<&HostArray>,
        seed: u64,
    ) -> Result<Vec<GoldenInputs>, PipelineError> {
        let images = HostImages::Normalised(&batch.image_input);
        validate::inputs(&self.config, &self.state, batch, images)?;
        validate::images(images)?;
        if self.preparer.normalises_all()
            && let Some(notice) = validate::normalised(&batch.image_input)?
        {
            tracing::warn!("{notice}");
        }
        let shape = noise::shape(&self.config, 1);
        if let Some(noise) = noise {
            validate::noise(&noise::shape(&self.config, batch.batch), noise)?;
        }
        let wide = self.config.policy.proprio_dim.unsigned_abs() as usize;
        let mut proprio = super::prepare::proprio(&self.config, &self.processors, batch)?;
        self.config.action_space.mask_state(&mut proprio, wide);
        let count = batch.batch as i64;
        let sample = |index: i64| GoldenInputs {
            inputs: ModelInputs {
                batch: 1,
                input_ids: part(&batch.input_ids, count, index).to_vec(),
                image_input: part(&batch.image_input, count, index).to_vec(),
                image_mask: part(&batch.image_mask, count, index).to_vec(),
                domain_id: part(&batch.domain_id, count, index).to_vec(),
                proprio: part(&proprio, count, index).to_vec(),
                proprio_dim: wide,
                ..*batch
            },
            noise: match noise {
                Some(noise) => HostArray { shape: shape.to_vec(), data: part(&noise.data, count, index).to_vec() },
                None => noise::draw(seed.wrapping_add(index.unsigned_abs()), &shape),
            },
        };
        Ok((0..count).map(sample).collect())
    }

    /// The checkpoint's configuration: the sizes of the network and of its inputs.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The checkpoint's own pre- and post-processing settings.
    pub fn processors(&self) -> &Processors {
        &self.processors
    }

    /// The state that the checkpoint expects from the robot.
    pub fn state_spec(&self) -> &StateSpec {
        &self.state
    }

    /// The options that it was loaded with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// SHA-256, in lowercase hex, of the weight files and of the adapter, if there is one. This reads every file and takes
    /// seconds for a full-size checkpoint.
    ///
    /// # Errors
    /// Weights that are missing or cannot be read.
    pub fn sha256(&self) -> Result<(String, Option<String>), CheckpointError> {
        let checkpoint = Checkpoint::open_in(self.options.folders())?;
        Ok((checkpoint.sha256()?, checkpoint.adapter_sha256()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{InFlight, Pipeline, Request, mock};

    #[test]
    fn a_prepared_batch_is_answered_as_the_observation_is() {
        let observation = mock::observation(0);
        let options = mock::options();
        let inputs = Preparation::load(&options).unwrap().prepare(&observation).unwrap();
        let pipeline = Pipeline::load(&options).unwrap();
        let answer = |request: Request| pipeline.begin(request).and_then(InFlight::wait).unwrap().chunk;
        assert_eq!(answer(Request::new(inputs, 5)), answer(Request::new(observation, 5)));
    }

    #[test]
    fn an_observation_that_the_pipeline_refuses_is_refused() {
        let mut observation = mock::observation(0);
        observation.state.iter_mut().for_each(|state| state.value.push(0.0));
        let refusal = Preparation::load(&mock::options()).unwrap().prepare(&observation).unwrap_err();
        assert!(refusal.to_string().contains("`proprio`: 11 channels"), "{refusal}");
    }
}
