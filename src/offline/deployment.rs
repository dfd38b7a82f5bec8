//! The parameters of a deployment from the node's own file, for commands that run without the node.

use super::OfflineError;
use crate::config::{Config, ConfigError, Given, Overrides, Value};
use crate::pipeline::{Folders, PipelineError, camera_names};
use std::path::Path;

/// Reads the parameters that `file` gives to `node`, a fully qualified name. `checkpoint` replaces the file's own, and
/// the cameras have the checkpoint's names if the file names none, as in the node. Returns the warnings as well, one
/// line each.
///
/// # Errors
/// A file that cannot be read or has nothing for the node, a parameter that is not allowed, or a checkpoint whose
/// config.json cannot be read.
pub fn read(file: &Path, node: &str, checkpoint: Option<&Path>) -> Result<(Config, Vec<String>), OfflineError> {
    let in_file = |source: ConfigError| OfflineError::Parameters { path: file.to_owned(), source };
    let mut overrides = Overrides::default();
    overrides.add_file(file)?;
    let mut given = overrides.for_chosen_node(node).map_err(in_file)?;
    if let Some(checkpoint) = checkpoint {
        given.parameters.insert("checkpoint".to_owned(), Value::String(checkpoint.display().to_string()));
    }
    Config::keep_declared(&mut given).map_err(in_file)?;
    name_cameras(&mut given)?.map_err(in_file)?;
    Config::keep_declared(&mut given).map_err(in_file)?;
    let config = Config::from_parameters(&given.parameters).map_err(in_file)?;
    Ok((config, given.warnings))
}

/// The outer error is the checkpoint's, the inner one that of a parameter.
fn name_cameras(given: &mut Given) -> Result<Result<(), ConfigError>, OfflineError> {
    /// Keeps apart whose fault it is.
    enum Fault {
        Parameter(ConfigError),
        Checkpoint(PipelineError),
    }
    impl From<ConfigError> for Fault {
        fn from(error: ConfigError) -> Self {
            Self::Parameter(error)
        }
    }
    let own = |checkpoint: &Path, adapter: Option<&Path>| {
        camera_names(Folders::new(checkpoint, adapter)).map_err(|error| Fault::Checkpoint(error.into()))
    };
    match Config::name_cameras(&mut given.parameters, own) {
        Ok(()) => Ok(Ok(())),
        Err(Fault::Parameter(error)) => Ok(Err(error)),
        Err(Fault::Checkpoint(error)) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overrides::DEFAULT_NODE;

    fn read_text(text: &str, node: &str) -> Result<(Config, Vec<String>), OfflineError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path(), node, None)
    }

    const SHARED: &str = "/**:\n  ros__parameters:\n    use_sim_time: yes\n    cameras: [top]\n    rate_hz: [1.5, 2.5]\n\
                          left:\n  xvla:\n    ros__parameters: {checkpoint: left, proprio: {source: proprio}}\n\
                          right:\n  xvla:\n    ros__parameters: {checkpoint: right, proprio: {source: proprio}}\n\
                          driver:\n  ros__parameters: {flags: [true, false], gains: [0.5, 1.0]}\n";

    #[test]
    fn a_file_of_several_robots_gives_the_one_that_was_chosen() {
        let checkpoint = |node| read_text(SHARED, node).unwrap().0.checkpoint;
        assert_eq!(checkpoint("/left/xvla"), Path::new("left"));
        assert_eq!(checkpoint("/right/xvla"), Path::new("right"));
    }

    #[test]
    fn what_a_shared_file_holds_for_others_is_a_warning_at_most() {
        let (_, warnings) = read_text(SHARED, "/left/xvla").unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("`rate_hz` does not exist"), "{warnings:?}");
    }

    #[test]
    fn a_parameter_that_is_not_allowed_is_refused_with_its_file() {
        let refusal = read_text("xvla: {ros__parameters: {checkpoint: a, cameras: [a], stepz: 1}}", DEFAULT_NODE);
        let refusal = refusal.unwrap_err().to_string();
        assert!(refusal.starts_with('/') && refusal.contains(": parameter `stepz` does not exist"), "{refusal}");
    }
}
