//! The facts of a deployment: what the checkpoint's files fix, what the embodiment adds, and what is still missing.

use crate::config::facts::{self, Source, text};
use crate::config::{Config, ConfigError, Embodiment, Fact, Origin, Parameters, ProprioFeed, RotationLayout, Value};
use crate::error::CheckpointError;
use crate::model::action_space::{ActionMode, ActionSpace};
use crate::model::config::ModelConfig;
use crate::model::folders::{CONFIG_FILE, Folders};
use crate::pipeline::prepare::{tokenizer_file, tokenizer_folder};
use crate::transform::processors::{POSTPROCESSOR_FILE, PREPROCESSOR_FILE, Processors};
use std::path::Path;

/// The facts of a deployment, settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// Every fact, with its origin.
    pub facts: Vec<Fact>,
    /// What a person should know about them, one line each.
    pub warnings: Vec<String>,
    /// What fixes them, so that a parameter that changes later can be held to it as well.
    pub sources: Vec<Source>,
    /// T: actions in a chunk of the checkpoint; `None` without a checkpoint.
    pub chunk_length: Option<i64>,
    /// Whether rotations come out of the network as six numbers.
    poses_go_out: bool,
}

/// Why facts cannot be settled.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// A parameter is not allowed, or two sources disagree.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A file of the checkpoint cannot be used.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// What the files of the checkpoint in `folders` fix. No weights are read.
///
/// # Errors
/// A configuration or processors that cannot be used.
pub fn of_checkpoint(folders: Folders) -> Result<Vec<Source>, CheckpointError> {
    let (config, processors) = read(folders)?;
    Ok(sources(folders, &config, &processors))
}

fn read(folders: Folders) -> Result<(ModelConfig, Processors), CheckpointError> {
    let config = ModelConfig::of(folders)?;
    Ok((config, Processors::load(folders.holding(PREPROCESSOR_FILE))?))
}

/// What the checkpoint in `folders`, with this configuration and these processors, fixes.
fn sources(folders: Folders, config: &ModelConfig, processors: &Processors) -> Vec<Source> {
    let source = |file: &str, name: &str, value: Value| Source {
        origin: Origin::Checkpoint(file.to_owned()),
        values: Parameters::from([(name.to_owned(), value)]),
    };
    let domain = processors.domain_id.map(|domain| source(PREPROCESSOR_FILE, "domain_id", Value::Integer(domain)));
    // Without a choice there is nothing to ask for.
    let only = config.policy.only_domain.or((config.policy.domains == 1).then_some(0));
    let only_domain = only.map(|domain| source(CONFIG_FILE, "domain_id", Value::Integer(domain)));
    let names = &config.inputs.cameras;
    let cameras = (!are_placeholders(names)).then(|| source(CONFIG_FILE, "cameras", Value::Strings(names.clone())));
    // LeRobot's step reads the columns one after the other.
    let columns = || Value::String(RotationLayout::Columns.name().to_owned());
    let layout = processors.axis_angle.then(|| source(POSTPROCESSOR_FILE, "rotation_6d", columns()));
    let folder = tokenizer_folder(folders, processors);
    let tokenizer = tokenizer_file(folder, processors, None).ok().map(|path| {
        let file = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
        source(&file, "tokenizer", Value::String(path.display().to_string()))
    });
    let executed = config.executed_actions.map(|steps| source(CONFIG_FILE, "execute_steps", Value::Integer(steps)));
    domain.into_iter().chain(only_domain).chain(executed).chain(cameras).chain(layout).chain(tokenizer).collect()
}

/// Whether these are the names that cameras have when the checkpoint gives them none.
fn are_placeholders(names: &[String]) -> bool {
    names.iter().enumerate().all(|(index, name)| *name == format!("camera_{index}"))
}

/// Settles the facts among `given`, whose `checkpoint` and `embodiment` are looked into: what they fix is added, and the
/// cameras have names afterwards.
///
/// # Errors
/// A checkpoint or embodiment that cannot be read; sources that contradict each other without being forced.
pub fn settle(given: &mut Parameters) -> Result<Settled, FactsError> {
    let named = |given: &Parameters, name: &str| match given.get(name) {
        Some(Value::String(text)) if !text.trim().is_empty() => Some(text.clone()),
        _ => None,
    };
    let Some(checkpoint) = named(given, "checkpoint") else {
        return Ok(Settled {
            facts: Vec::new(),
            warnings: Vec::new(),
            sources: Vec::new(),
            chunk_length: None,
            poses_go_out: false,
        });
    };
    let adapter = named(given, "adapter");
    let folders = Folders::new(Path::new(&checkpoint), adapter.as_deref().map(Path::new));
    let (config, processors) = read(folders)?;
    let mut sources = sources(folders, &config, &processors);
    if let Some(name) = named(given, "embodiment") {
        let embodiment = Embodiment::find(&name)?;
        let names = camera_names(given, &config.inputs.cameras, &embodiment);
        let mut values = embodiment.values_for(&names);
        // How much of a chunk is executed is a habit of the embodiment's client, and LeRobot's checkpoints have their own.
        if config.executed_actions.is_some() {
            values.remove("execute_steps");
        }
        sources.push(Source { origin: Origin::Embodiment(embodiment.name), values });
    }
    let facts = facts::settle(given, &sources)?;
    check_sizes(&facts, &config)?;
    let warnings = unused_layout(&facts, &config).into_iter().collect();
    let is_named = given.get("cameras").is_some_and(|names| *names != Value::Strings(Vec::new()));
    if !is_named {
        given.insert("cameras".to_owned(), Value::Strings(config.inputs.cameras));
    }
    let poses_go_out = has_rotations(&config.action_space) && !processors.axis_angle;
    Ok(Settled { facts, warnings, sources, chunk_length: Some(config.policy.chunk_length), poses_go_out })
}

/// Checks the facts that speak of steps and channels against the sizes of the checkpoint's actions.
fn check_sizes(facts: &[Fact], config: &ModelConfig) -> Result<(), ConfigError> {
    facts::check_executed(facts, Some(config.policy.chunk_length))?;
    let channels = config.action_space.real_dim;
    let known = |name: &str| facts.iter().find(|fact| fact.name == name);
    let domains = config.policy.domains;
    if let Some(fact) = known("domain_id").filter(|fact| fact.value.numbers().iter().any(|id| *id >= domains as f64)) {
        let reason =
            format!("{} by the {}, but the checkpoint has domains 0..{domains}", text(&fact.value), fact.origin);
        return Err(ConfigError::invalid("domain_id", reason));
    }
    if let Some(Fact { value: Value::Strings(names), origin, .. }) = known("cameras")
        && names.len() > config.inputs.views
    {
        let reason = format!("{} by the {origin}, but the checkpoint has {} views", names.len(), config.inputs.views);
        return Err(ConfigError::invalid("cameras", reason));
    }
    let deltas = known("action.delta").map(|fact| fact.value.numbers()).unwrap_or_default();
    if let Some(channel) = deltas.iter().find(|channel| **channel >= channels as f64) {
        let reason = format!("channel {channel}, but the checkpoint's actions have {channels}, counted from 0");
        return Err(ConfigError::invalid("action.delta", reason));
    }
    let twice =
        deltas.iter().enumerate().find(|(index, channel)| deltas.iter().take(*index).any(|other| other == *channel));
    match twice {
        Some((_, channel)) => Err(ConfigError::invalid("action.delta", format!("channel {channel} is named twice"))),
        None => Ok(()),
    }
}

/// What to say where an embodiment whose actions are poses is used with a checkpoint whose actions are none.
fn unused_layout(facts: &[Fact], config: &ModelConfig) -> Option<String> {
    let is_of_embodiment = |fact: &&Fact| fact.name == "rotation_6d" && matches!(fact.origin, Origin::Embodiment(_));
    let layout = facts.iter().find(is_of_embodiment).filter(|_| !has_rotations(&config.action_space))?;
    Some(format!(
        "the {} is one of end-effector poses, and the checkpoint's actions are of the space `{}`: what it says of \
         rotations, grippers and deltas may not hold",
        layout.origin,
        config.action_space.mode.name()
    ))
}

/// The names that the cameras will have: the deployment's, else the checkpoint's, else the embodiment's.
fn camera_names(given: &Parameters, of_checkpoint: &[String], embodiment: &Embodiment) -> Vec<String> {
    match given.get("cameras") {
        Some(Value::Strings(names)) if !names.is_empty() => names.clone(),
        _ if !are_placeholders(of_checkpoint) => of_checkpoint.to_vec(),
        _ => embodiment.cameras(),
    }
}

/// The names of the six numbers of a rotation.
pub fn rotation_names(layout: Option<RotationLayout>) -> [&'static str; 6] {
    match layout {
        Some(RotationLayout::Columns) => ["r11", "r21", "r31", "r12", "r22", "r32"],
        Some(RotationLayout::Rows) => ["r11", "r12", "r21", "r22", "r31", "r32"],
        None => ["rotation_1", "rotation_2", "rotation_3", "rotation_4", "rotation_5", "rotation_6"],
    }
}

fn has_rotations(space: &ActionSpace) -> bool {
    matches!(space.mode, ActionMode::Ee6d | ActionMode::AgibotEe6d)
}

impl Settled {
    /// Checks that nothing is left open without which actions would be computed or read wrong.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], which says which line to add.
    pub fn require(&self, config: &Config) -> Result<(), ConfigError> {
        self.open(config).into_iter().next().map_or(Ok(()), Err)
    }

    /// What is left open although actions would be computed or read wrong without it.
    pub fn open(&self, config: &Config) -> Vec<ConfigError> {
        let known = Embodiment::names().collect::<Vec<_>>().join(", ");
        let no_domain = config.domain_id.is_none().then(|| {
            let reason = format!(
                "unknown: the checkpoint does not say which domain it was tuned for; add `embodiment: NAME` (one of \
                 {known}, or a YAML file) or `domain_id: N`"
            );
            ConfigError::invalid("domain_id", reason)
        });
        let no_layout = (self.poses_go_out && config.rotation_6d.is_none()).then(|| {
            let reason = format!(
                "unknown, and poses come out; add `rotation_6d: rows` (r11 r12 r21 r22 r31 r32, X-VLA's own data), \
                 `rotation_6d: columns` (r11 r21 r31 r12 r22 r32, LIBERO and LeRobot), or `embodiment: NAME` (one of \
                 {known}, or a YAML file)"
            );
            ConfigError::invalid("rotation_6d", reason)
        });
        let feeds_commands = config.proprio.feed == Some(ProprioFeed::LastCommand);
        let no_step = (feeds_commands && config.step_dt_s.is_none()).then(|| {
            let reason = "unknown, and which command was the last one depends on it (proprio.feed is last_command); add \
                          `step_dt_s: SECONDS`, the time from one action of a chunk to the next";
            ConfigError::invalid("step_dt_s", reason)
        });
        no_domain.into_iter().chain(no_layout).chain(no_step).collect()
    }
}

/// The embodiments that may be the one of a checkpoint with these facts and views, most likely one first.
///
/// # Errors
/// As [`Embodiment::all`].
pub fn candidates(facts: &[Source], config: &ModelConfig) -> Result<Vec<String>, ConfigError> {
    let domain = facts.iter().find_map(|source| source.values.get("domain_id"));
    let cameras = (!are_placeholders(&config.inputs.cameras)).then_some(config.inputs.cameras.len());
    let fits = |embodiment: &Embodiment| {
        let own = embodiment.cameras().len();
        has_rotations(&config.action_space)
            && domain.is_none_or(|domain| embodiment.values.get("domain_id") == Some(domain))
            && cameras.map_or(own <= config.inputs.views, |cameras| cameras == own)
    };
    Ok(Embodiment::all()?.into_iter().filter(fits).map(|embodiment| embodiment.name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The parameters of a deployment of a checkpoint that LeRobot wrote for domain 3, with `extra`.
    fn settled(extra: &[(&str, Value)]) -> Result<Parameters, FactsError> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/lerobot/libero_rot6d_post");
        let mut given = Parameters::from([("checkpoint".to_owned(), Value::String(folder.display().to_string()))]);
        given.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        settle(&mut given).map(|_| given)
    }

    #[test]
    fn the_cameras_of_the_checkpoint_are_turned_as_those_of_the_embodiment_in_their_places() {
        let given = settled(&[("embodiment", Value::String("libero".to_owned()))]).unwrap();
        let names = ["image", "image2"].map(str::to_owned).to_vec();
        assert_eq!(given["cameras"], Value::Strings(names));
        assert_eq!(given["camera.image.rotation"], Value::Integer(180));
        assert_eq!(given["camera.image2.rotation"], Value::Integer(0));
    }

    #[test]
    fn what_the_processors_say_comes_before_an_embodiment() {
        let given = settled(&[]).unwrap();
        assert_eq!(given["domain_id"], Value::Integer(3));
        assert_eq!(given["rotation_6d"], Value::String("columns".to_owned()));
        let refusal = settled(&[("embodiment", Value::String("calvin".to_owned()))]).unwrap_err().to_string();
        assert!(refusal.contains("by the embodiment calvin, but"), "{refusal}");
    }
}
