//! Embodiments: what is known of the robots that checkpoints were released for, as values of parameters. A deployment
//! names one, or a file of its own of the same form.

use super::Config;
use super::error::ConfigError;
use super::file;
use super::value::{Parameters, Value};
use std::path::Path;

/// The embodiments that are part of the program: name and file.
const KNOWN: [(&str, &str); 8] = [
    ("libero", include_str!("../../config/embodiments/libero.yaml")),
    ("widowx", include_str!("../../config/embodiments/widowx.yaml")),
    ("google_robot", include_str!("../../config/embodiments/google_robot.yaml")),
    ("calvin", include_str!("../../config/embodiments/calvin.yaml")),
    ("vlabench", include_str!("../../config/embodiments/vlabench.yaml")),
    ("robotwin2", include_str!("../../config/embodiments/robotwin2.yaml")),
    ("softfold", include_str!("../../config/embodiments/softfold.yaml")),
    ("agiworld", include_str!("../../config/embodiments/agiworld.yaml")),
];

/// What is known of a robot.
#[derive(Clone, Debug, PartialEq)]
pub struct Embodiment {
    /// Its name, or the path of its file.
    pub name: String,
    /// The values of parameters that it fixes; those of cameras are under its own names for them.
    pub values: Parameters,
}

impl Embodiment {
    /// The names of the embodiments that are part of the program.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }

    /// Every embodiment that is part of the program.
    ///
    /// # Errors
    /// A file that is not well-formed, which a test rules out.
    pub fn all() -> Result<Vec<Self>, ConfigError> {
        KNOWN.iter().map(|(name, text)| Self::parse(name, text)).collect()
    }

    /// The embodiment called `name`, or that of the file with this path.
    ///
    /// # Errors
    /// Neither a known name nor a file that can be read; a file that is not a mapping of parameters.
    pub fn find(name: &str) -> Result<Self, ConfigError> {
        if let Some((_, text)) = KNOWN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if !path.is_file() {
            let known = Self::names().collect::<Vec<_>>().join(", ");
            let reason = format!("`{name}`: expected one of {known}, or a YAML file");
            return Err(ConfigError::invalid("embodiment", reason));
        }
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Io { path: path.to_owned(), source })?;
        let own = Self::parse(name, &text)?;
        own.check().map_err(|error| ConfigError::Malformed { path: path.to_owned(), reason: error.to_string() })?;
        Ok(own)
    }

    /// Checks that its values are such as a deployment may have.
    fn check(&self) -> Result<(), ConfigError> {
        let mut deployment = self.values.clone();
        let any = |text: &str| Value::String(text.to_owned());
        deployment.insert("checkpoint".to_owned(), any("checkpoint"));
        deployment.insert("proprio.source".to_owned(), any("proprio"));
        Config::from_parameters(&deployment).map(drop)
    }

    fn parse(name: &str, text: &str) -> Result<Self, ConfigError> {
        let malformed = |reason| ConfigError::Malformed { path: name.into(), reason };
        let values = file::mapping(text).map_err(malformed)?.into_iter().collect();
        Ok(Self { name: name.to_owned(), values })
    }

    /// Its names for the cameras, in the order of views; empty if it does not say.
    pub fn cameras(&self) -> Vec<String> {
        match self.values.get("cameras") {
            Some(Value::Strings(names)) => names.clone(),
            _ => Vec::new(),
        }
    }

    /// The values with the names `cameras` in the place of its own, one by one.
    pub fn values_for(&self, cameras: &[String]) -> Parameters {
        let own = self.cameras();
        let renamed = |name: &String| {
            let pairs = own.iter().zip(cameras);
            let mut prefixes = pairs.map(|(from, to)| (format!("camera.{from}."), format!("camera.{to}.")));
            let found = prefixes.find_map(|(from, to)| name.strip_prefix(&from).map(|rest| format!("{to}{rest}")));
            found.unwrap_or_else(|| name.clone())
        };
        self.values.iter().map(|(name, value)| (renamed(name), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, RotationLayout};

    #[test]
    fn every_embodiment_is_a_deployment_once_a_checkpoint_and_a_source_of_state_are_added() {
        for embodiment in Embodiment::all().unwrap() {
            let mut values = embodiment.values.clone();
            values.insert("checkpoint".to_owned(), Value::String("model".to_owned()));
            values.insert("proprio.source".to_owned(), Value::String("ee_pose".to_owned()));
            let config =
                Config::from_parameters(&values).unwrap_or_else(|error| panic!("{}: {error}", embodiment.name));
            assert!(config.domain_id.is_some() && config.proprio.feed.is_some(), "{}", embodiment.name);
            let only_libero = if embodiment.name == "libero" { RotationLayout::Columns } else { RotationLayout::Rows };
            assert_eq!(config.rotation_6d, Some(only_libero), "{}", embodiment.name);
        }
    }

    #[test]
    fn a_name_that_is_neither_known_nor_a_file_is_refused_with_the_known_ones() {
        let refusal = Embodiment::find("libro").unwrap_err().to_string();
        assert!(refusal.contains("`libro`") && refusal.contains("libero, widowx"), "{refusal}");
    }

    #[test]
    fn a_file_of_ones_own_is_an_embodiment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "domain_id: 18\nrotation_6d: rows\n").unwrap();
        let embodiment = Embodiment::find(file.path().to_str().unwrap()).unwrap();
        assert_eq!(embodiment.values["domain_id"], Value::Integer(18));
        std::fs::write(file.path(), "- 18\n").unwrap();
        assert!(Embodiment::find(file.path().to_str().unwrap()).is_err());
    }

    #[test]
    fn facts_of_cameras_follow_the_order_of_views_and_not_the_names() {
        let values = Embodiment::find("libero").unwrap().values_for(&["image".to_owned(), "image2".to_owned()]);
        assert_eq!(values["camera.image.rotation"], Value::Integer(180));
        assert_eq!(values["camera.image2.rotation"], Value::Integer(0));
    }
}
