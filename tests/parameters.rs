//! README and shipped parameter files say what the table of parameters says.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};
use xvla_ros::config::facts::text;
use xvla_ros::config::overrides::DEFAULT_NODE;
use xvla_ros::config::{Audience, Config, Domain, Embodiment, Overrides, Parameter, Value, declared};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a parameter may be, in a cell of the README's table.
fn values(row: &Parameter) -> String {
    match &row.domain {
        Domain::Choice(names) => names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        Domain::Range(min, max) => format!("{} from {min} to {max}", kind(&row.default)),
        Domain::Any => kind(&row.default).to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    value.kind().trim_start_matches("a ").trim_start_matches("an ")
}

fn readme_row(row: &Parameter) -> String {
    let live = if row.live { " May change while the node runs." } else { "" };
    format!("| `{}` | `{}` | {} | {}{live} |", row.name, text(&row.default), values(row), row.description)
}

#[test]
fn the_readme_lists_exactly_the_declared_parameters_in_their_order() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let section = readme.split("\n### Parameters\n").nth(1).expect("README.md has a section `### Parameters`");
    let section = section.split("\n#").next().unwrap();
    let listed: Vec<&str> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let expected: Vec<String> = declared(Audience::Readers).unwrap().iter().map(readme_row).collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let only_in = |rows: &[&str], others: &[&str]| {
        rows.iter().copied().filter(|row| !others.contains(row)).collect::<Vec<_>>().join("\n")
    };
    let (missing, foreign) = (only_in(&expected, &listed), only_in(&listed, &expected));
    assert!(missing.is_empty(), "README.md lacks, under `### Parameters`:\n\n{missing}\n");
    assert!(foreign.is_empty(), "README.md has rows for which there is no parameter:\n\n{foreign}\n");
    assert!(listed == expected, "README.md has the rows in another order than:\n\n{}\n", expected.join("\n"));
}

fn shipped_parameter_files() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(repository().join("config")).unwrap();
    let files: Vec<PathBuf> = folder
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    assert!(!files.is_empty());
    files
}

#[test]
fn every_shipped_parameter_file_makes_a_deployment_once_a_checkpoint_is_added() {
    for file in shipped_parameter_files() {
        let mut overrides = Overrides::default();
        overrides.add_file(&file).unwrap();
        let mut parameters = overrides.for_node(DEFAULT_NODE).parameters;
        let checkpoint = parameters.insert("checkpoint".to_owned(), Value::String("model".to_owned()));
        assert_eq!(checkpoint, None, "{}: a checkpoint is the user's own", file.display());
        if let Some(Value::String(name)) = parameters.get("embodiment") {
            let values = Embodiment::find(name).unwrap().values.into_iter();
            let open: Vec<_> = values.filter(|(name, _)| !parameters.contains_key(name)).collect();
            parameters.extend(open);
        }
        Config::from_parameters(&parameters).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
}
