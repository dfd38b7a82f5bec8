//! The parameters of a deployment from the node's own file, for commands that run without the node.

use super::OfflineError;
use crate::config::{Config, ConfigError, Fact, Overrides, ProprioSource, Value};
use crate::pipeline::PipelineError;
use crate::pipeline::facts::{self, FactsError, Settled};
use std::path::Path;

/// The parameters of a node, settled as in the node.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The parameters.
    pub config: Config,
    /// The facts about the model, with their origins.
    pub facts: Vec<Fact>,
    /// What a person should know about the parameters, one line each.
    pub warnings: Vec<String>,
    /// Whether ROS time is simulated.
    pub use_sim_time: bool,
}

/// Reads the parameters that `file` gives to `node`, a fully qualified name. `checkpoint` replaces the file's own, and
/// `assignments`, as `name:=value`, come last. What the model needs to be run on a robot has to be known.
///
/// # Errors
/// A file that cannot be read or has nothing for the node, a parameter that is not allowed, facts that are missing, or a
/// checkpoint whose files cannot be used.
pub fn of_node(
    file: Option<&Path>,
    node: &str,
    checkpoint: Option<&Path>,
    assignments: &[String],
) -> Result<Deployment, OfflineError> {
    let (mut deployment, settled) = settled(file, node, checkpoint, assignments, None)?;
    settled.require(&deployment.config).map_err(|source| told(file, source))?;
    deployment.warnings.extend(settled.warnings);
    Ok(deployment)
}

/// The same for data that bring their own state: its source need not be named, and nothing has to be known that only
/// robots need.
///
/// # Errors
/// As [`of_node`], but for facts that are missing.
pub fn of_data(
    file: Option<&Path>,
    node: &str,
    checkpoint: Option<&Path>,
    assignments: &[String],
) -> Result<Deployment, OfflineError> {
    let (mut deployment, settled) = settled(file, node, checkpoint, assignments, Some(ProprioSource::Proprio))?;
    deployment.warnings.extend(settled.warnings);
    Ok(deployment)
}

/// Reads the parameters that `file` gives to `node`, a fully qualified name. `checkpoint` replaces the file's own, and
/// facts are settled as in the node. Returns the warnings as well, one line each.
///
/// # Errors
/// A file that cannot be read or has nothing for the node, a parameter that is not allowed, or a checkpoint whose
/// config.json cannot be read.
pub fn read(file: &Path, node: &str, checkpoint: Option<&Path>) -> Result<(Config, Vec<String>), OfflineError> {
    let (deployment, settled) = settled(Some(file), node, checkpoint, &[], None)?;
    let mut warnings = deployment.warnings;
    warnings.extend(settled.warnings);
    Ok((deployment.config, warnings))
}

fn settled(
    file: Option<&Path>,
    node: &str,
    checkpoint: Option<&Path>,
    assignments: &[String],
    source: Option<ProprioSource>,
) -> Result<(Deployment, Settled), OfflineError> {
    let in_file = |source: ConfigError| told(file, source);
    let mut overrides = Overrides::default();
    if let Some(file) = file {
        overrides.add_file(file)?;
    }
    assignments.iter().try_for_each(|assignment| overrides.assign(assignment))?;
    // What every node of ROS 2 has is no parameter of ours.
    let use_sim_time = overrides.for_node(node).parameters.get("use_sim_time") == Some(&Value::Bool(true));
    let mut given = overrides.for_chosen_node(node).map_err(in_file)?;
    if let Some(checkpoint) = checkpoint {
        given.parameters.insert("checkpoint".to_owned(), Value::String(checkpoint.display().to_string()));
    }
    if let Some(source) = source {
        let source = Value::String(source.name().to_owned());
        given.parameters.entry("proprio.source".to_owned()).or_insert(source);
    }
    Config::keep_declared(&mut given).map_err(in_file)?;
    let settled = facts::settle(&mut given.parameters).map_err(|error| match error {
        FactsError::Config(source) => in_file(source),
        FactsError::Checkpoint(source) => PipelineError::from(source).into(),
    })?;
    Config::keep_declared(&mut given).map_err(in_file)?;
    let config = Config::from_parameters(&given.parameters).map_err(in_file)?;
    let facts = settled.facts.clone();
    Ok((Deployment { config, facts, warnings: given.warnings, use_sim_time }, settled))
}

fn told(file: Option<&Path>, source: ConfigError) -> OfflineError {
    match file {
        Some(file) => OfflineError::Parameters { path: file.to_owned(), source },
        None => source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::overrides::DEFAULT_NODE;
    use std::path::PathBuf;

    fn read_text(text: &str, node: &str) -> Result<(Config, Vec<String>), OfflineError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        read(file.path(), node, None)
    }

    /// A file for two robots with a checkpoint each, and for a driver.
    fn shared() -> String {
        let [left, right] =
            ["original_auto", "original_ee6d"].map(checkpoint).map(|folder| folder.display().to_string());
        format!(
            "/**:\n  ros__parameters:\n    use_sim_time: yes\n    cameras: [top]\n    rate_hz: [1.5, 2.5]\n\
             left:\n  xvla:\n    ros__parameters: {{checkpoint: {left}, proprio: {{source: proprio}}}}\n\
             right:\n  xvla:\n    ros__parameters: {{checkpoint: {right}, proprio: {{source: proprio}}}}\n\
             driver:\n  ros__parameters: {{flags: [true, false], gains: [0.5, 1.0]}}\n"
        )
    }

    fn checkpoint(fixture: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/checkpoints").join(fixture)
    }

    #[test]
    fn a_file_of_several_robots_gives_the_one_that_was_chosen() {
        let chosen = |node| read_text(&shared(), node).unwrap().0.checkpoint;
        assert_eq!(chosen("/left/xvla"), checkpoint("original_auto"));
        assert_eq!(chosen("/right/xvla"), checkpoint("original_ee6d"));
    }

    #[test]
    fn simulated_time_is_read_from_the_file_as_by_the_node() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), shared()).unwrap();
        let domain = ["domain_id:=0".to_owned()];
        assert!(of_node(Some(file.path()), "/left/xvla", None, &domain).unwrap().use_sim_time);
    }

    #[test]
    fn what_a_shared_file_holds_for_others_is_a_warning_at_most() {
        let (_, warnings) = read_text(&shared(), "/left/xvla").unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("`rate_hz` does not exist"), "{warnings:?}");
    }

    #[test]
    fn the_facts_of_the_embodiment_are_part_of_the_deployment() {
        let checkpoint = checkpoint("original_ee6d");
        let text = format!(
            "xvla: {{ros__parameters: {{checkpoint: {}, embodiment: libero, proprio: {{source: ee_pose}}}}}}",
            checkpoint.display()
        );
        let (config, _) = read_text(&text, DEFAULT_NODE).unwrap();
        assert_eq!((config.domain_id, config.step_dt_s), (Some(3), Some(0.05)));
        assert_eq!(
            config.cameras.iter().map(|camera| camera.name.as_str()).collect::<Vec<_>>(),
            ["agentview", "wrist"]
        );
    }

    #[test]
    fn a_parameter_that_is_not_allowed_is_refused_with_its_file() {
        let refusal = read_text("xvla: {ros__parameters: {checkpoint: a, cameras: [a], stepz: 1}}", DEFAULT_NODE);
        let refusal = refusal.unwrap_err().to_string();
        assert!(refusal.starts_with('/') && refusal.contains(": parameter `stepz` does not exist"), "{refusal}");
    }
}
