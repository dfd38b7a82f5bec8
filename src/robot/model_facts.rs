//! What is known of a model once it is loaded.

/// Facts about the loaded model that every chunk carries.
#[derive(Clone, Debug)]
pub struct ModelFacts {
    /// Names of the action's channels, A' of them.
    pub action_names: Vec<String>,
    /// Name of the action space.
    pub action_mode: String,
    /// The number of denoising steps.
    pub steps: usize,
    /// SHA-256 of the weight files, in hex.
    pub checkpoint_sha256: String,
    /// SHA-256 of the adapter that is merged into them, in hex; `None` without one.
    pub adapter_sha256: Option<String>,
    /// How its matrices were pruned or quantised, such as `fp8 (transformer)`; `None` for a checkpoint as it was trained.
    pub variant: Option<String>,
}

impl ModelFacts {
    /// What identifies the weights in a chunk: their hash, followed by `+` and the adapter's if there is one.
    pub fn weights_sha256(&self) -> String {
        match &self.adapter_sha256 {
            Some(adapter) => format!("{}+{adapter}", self.checkpoint_sha256),
            None => self.checkpoint_sha256.clone(),
        }
    }
}
