//! What is known of the robot that a checkpoint is for: every fact with its origin, what is still open, and the
//! embodiments that may be meant.

use crate::config::facts::text;
use crate::config::{Config, Fact, Parameters, RotationLayout, Value};
use crate::model::config::ModelConfig;
use crate::model::folders::Folders;
use crate::pipeline::facts::{self, FactsError};
use serde::Serialize;
use std::path::Path;

/// What is known of the robot that a checkpoint is for.
#[derive(Clone, Debug, Serialize)]
pub struct FactSheet {
    /// Facts with their origins.
    pub facts: Vec<FactLine>,
    /// Without these the node does not start.
    pub open: Vec<String>,
    /// What a person should know about the facts, one line each.
    pub warnings: Vec<String>,
    /// How rotations are six numbers, if that is known.
    #[serde(skip)]
    pub rotation_6d: Option<RotationLayout>,
    /// Embodiments that the checkpoint may be for, by what is known of it.
    pub embodiments: Vec<String>,
}

/// One fact.
#[derive(Clone, Debug, Serialize)]
pub struct FactLine {
    /// The parameter that holds it.
    pub name: String,
    /// Its value, as a parameter file has it.
    pub value: String,
    /// Where it comes from.
    pub origin: String,
}

impl From<&Fact> for FactLine {
    fn from(fact: &Fact) -> Self {
        Self { name: fact.name.clone(), value: text(&fact.value), origin: fact.origin.to_string() }
    }
}

/// What is known of the robot of the checkpoint in `folders`, as `embodiment` if one is named.
///
/// # Errors
/// A configuration or processors that cannot be used; an embodiment that does not exist or contradicts the checkpoint.
pub fn fact_sheet(folders: Folders, embodiment: Option<&str>) -> Result<FactSheet, FactsError> {
    let config = ModelConfig::of(folders)?;
    let embodiments = facts::candidates(&facts::of_checkpoint(folders)?, &config)?;
    let path = |folder: &Path| Value::String(folder.display().to_string());
    let mut given = Parameters::from([
        ("checkpoint".to_owned(), path(folders.base)),
        // Where the state comes from is the deployment's business.
        ("proprio.source".to_owned(), Value::String("proprio".to_owned())),
    ]);
    given.extend(folders.adapter.map(|adapter| ("adapter".to_owned(), path(adapter))));
    given.extend(embodiment.map(|name| ("embodiment".to_owned(), Value::String(name.to_owned()))));
    let settled = facts::settle(&mut given)?;
    let deployment = Config::from_parameters(&given)?;
    let open = settled.open(&deployment).iter().map(ToString::to_string).collect();
    let facts = settled.facts.iter().map(FactLine::from).collect();
    let (warnings, rotation_6d) = (settled.warnings, deployment.rotation_6d);
    Ok(FactSheet { facts, open, warnings, rotation_6d, embodiments })
}
