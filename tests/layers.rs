//! The layer map of `src/lib.rs`, enforced: who may import whom, and which libraries stay where.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use std::path::{Path, PathBuf};

/// Layers and what each may import from this crate.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("error", &[]),
    ("config", &["error"]),
    ("model", &["error", "types"]),
    ("transform", &["error", "types"]),
    ("backend", &["config", "error", "model", "types"]),
    ("pipeline", &["backend", "config", "error", "model", "transform", "types"]),
    ("bench", &["backend", "config", "error", "model", "pipeline", "transform", "types"]),
    ("ros", &["backend", "config", "error", "pipeline", "transform", "types"]),
];

/// Libraries and the layers that may name them.
const STAYS_IN: &[(&str, &[&str])] = &[
    ("tch", &["model", "backend", "pipeline"]),
    ("r2r", &["ros", "bin/xvla_node"]),
    ("cudarc", &["backend"]),
    ("trtx", &["backend"]),
    ("ort", &["backend"]),
    ("onnx_rs", &["model"]),
    ("clap", &["bin/xvla", "bin/xvla_node"]),
    ("anyhow", &["bin/xvla", "bin/xvla_node"]),
];

const MAX_LINES: usize = 600;

struct Source {
    path: PathBuf,
    /// `model`, `error`, `bin/xvla`, …
    layer: String,
    /// Without comments.
    lines: Vec<String>,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(source(&root, path));
            }
        }
    }
    assert!(found.len() > 20, "only {} sources found", found.len());
    found
}

fn source(root: &Path, path: PathBuf) -> Source {
    let relative = path.strip_prefix(root).unwrap().with_extension("");
    let parts: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let layer = if parts[0] == "bin" { format!("bin/{}", parts[1]) } else { parts[0].clone() };
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or_default().to_owned()).collect();
    Source { path, layer, lines }
}

/// The identifiers that follow `prefix` anywhere in `line`, those in braces included.
fn after(line: &str, prefix: &str) -> Vec<String> {
    let identifier = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    line.match_indices(prefix)
        .filter(|(at, _)| !line[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
        .flat_map(|(at, _)| {
            let rest = &line[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.split([',', '}']).map(|item| identifier(item.trim())).collect(),
                None => vec![identifier(rest)],
            }
        })
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn every_layer_imports_only_what_lies_below_it() {
    for source in sources() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(layer, _)| *layer == source.layer) else {
            assert!(source.layer == "lib" || source.layer.starts_with("bin/"), "{}: no such layer", source.layer);
            continue;
        };
        for (number, line) in source.lines.iter().enumerate() {
            for import in after(line, "crate::") {
                assert!(
                    import == source.layer || allowed.contains(&import.as_str()),
                    "{}:{}: `{}` may not import `{import}`",
                    source.path.display(),
                    number + 1,
                    source.layer
                );
            }
        }
    }
}

#[test]
fn every_library_stays_in_its_layers() {
    for source in sources() {
        for (number, line) in source.lines.iter().enumerate() {
            for (library, layers) in STAYS_IN {
                let used = !after(line, &format!("{library}::")).is_empty();
                assert!(
                    !used || layers.contains(&source.layer.as_str()),
                    "{}:{}: `{library}` does not belong in `{}`",
                    source.path.display(),
                    number + 1,
                    source.layer
                );
            }
        }
    }
}

#[test]
fn unsafe_code_stays_in_backend() {
    for source in sources().iter().filter(|source| source.layer != "backend") {
        let unsafe_line = source.lines.iter().position(|line| line.contains("unsafe "));
        assert_eq!(unsafe_line, None, "{}", source.path.display());
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for source in sources() {
        let lines = source.lines.len();
        assert!(lines <= MAX_LINES, "{}: {lines} lines: split it by meaning", source.path.display());
    }
}
