//! The layer map of `src/lib.rs`, enforced: who may import whom, and which libraries stay where.
//!
//! Files are parsed, so that nested `use` trees, renamed imports and paths in expressions all count; comments and strings
//! do not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a panic is how a test fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{ItemUse, UseTree};

/// Layers and what each may import from this crate.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("error", &[]),
    ("config", &["error", "types"]),
    ("data", &["error", "types"]),
    ("model", &["error", "types"]),
    ("transform", &["config", "error", "types"]),
    ("backend", &["config", "error", "model", "transform", "types"]),
    ("pipeline", &["backend", "config", "error", "model", "transform", "types"]),
    ("robot", &["config", "data", "error", "pipeline", "transform", "types"]),
    ("offline", &["backend", "config", "data", "error", "model", "pipeline", "robot", "transform", "types"]),
    ("ros", &["backend", "config", "data", "error", "pipeline", "robot", "transform", "types"]),
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
    /// Module path from the crate's root: `["model", "onnx", "file"]`.
    module: Vec<String>,
    text: String,
    syntax: syn::File,
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
    let mut module: Vec<String> = relative.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let layer = if module[0] == "bin" { format!("bin/{}", module[1]) } else { module[0].clone() };
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Source { path, layer, module, text, syntax }
}

/// Every path that a file names, from `use` trees and from code, as its identifiers.
#[derive(Default)]
struct Paths {
    found: BTreeSet<Vec<String>>,
    /// How many modules deep within the file the visit is.
    depth: usize,
    /// Whether the file's own tests are left out.
    without_tests: bool,
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if self.without_tests && item.ident == "tests" {
            return;
        }
        self.depth += 1;
        visit::visit_item_mod(self, item);
        self.depth -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.tree(&item.tree, &[]);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.note(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        // What a macro is given is no syntax yet; its paths are found in its tokens.
        let mut path: Vec<String> = Vec::new();
        let text = item.tokens.to_string();
        for word in text.split_whitespace().flat_map(|word| word.split_inclusive("::")) {
            let identifier = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c == '_') && !text.is_empty();
            let name = word.trim_matches(|c: char| !(c.is_alphanumeric() || c == '_'));
            if word == "::" || word.ends_with("::") && identifier(name) || identifier(name) {
                if identifier(name) {
                    path.push(name.to_owned());
                }
                if word.ends_with("::") {
                    continue;
                }
            }
            self.note(std::mem::take(&mut path));
        }
        self.note(path);
        visit::visit_macro(self, item);
    }
}

impl Paths {
    fn of(source: &Source, without_tests: bool) -> BTreeSet<Vec<String>> {
        let mut paths = Self { without_tests, ..Self::default() };
        paths.visit_file(&source.syntax);
        paths.found
    }

    /// Adds a path as seen from the file's own module.
    fn note(&mut self, path: Vec<String>) {
        let supers = path.iter().take_while(|part| *part == "super").count();
        match supers {
            0 => self.found.insert(path),
            // What stays within the file is no import.
            inside if inside <= self.depth => false,
            _ => self.found.insert(path[self.depth..].to_vec()),
        };
    }

    fn tree(&mut self, tree: &UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident)),
            UseTree::Name(name) => self.note(with(&name.ident)),
            UseTree::Rename(name) => self.note(with(&name.ident)),
            UseTree::Glob(_) => self.note(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before)),
        }
    }
}

/// The modules of this crate that a file names, from the crate's root.
fn imports(source: &Source, without_tests: bool) -> BTreeSet<Vec<String>> {
    let absolute = |path: &Vec<String>| {
        let supers = path.iter().take_while(|part| *part == "super").count();
        match path.first().map(String::as_str) {
            Some("crate") => Some(path[1..].to_vec()),
            Some("super") => {
                let parent = source.module.len().checked_sub(supers)?;
                Some([&source.module[..parent], &path[supers..]].concat())
            }
            _ => None,
        }
    };
    Paths::of(source, without_tests).iter().filter_map(absolute).filter(|path| !path.is_empty()).collect()
}

#[test]
fn every_layer_imports_only_what_lies_below_it() {
    for source in sources() {
        let Some((_, allowed)) = MAY_IMPORT.iter().find(|(layer, _)| *layer == source.layer) else {
            assert!(source.layer == "lib" || source.layer.starts_with("bin/"), "{}: no such layer", source.layer);
            continue;
        };
        for path in imports(&source, false) {
            let layer = path[0].as_str();
            assert!(
                layer == source.layer || allowed.contains(&layer),
                "{}: `{}` may not import `{}`",
                source.path.display(),
                source.layer,
                path.join("::")
            );
        }
    }
}

#[test]
fn the_map_itself_has_no_circle() {
    for (position, (layer, allowed)) in MAY_IMPORT.iter().enumerate() {
        for import in *allowed {
            let below = MAY_IMPORT.iter().take(position).any(|(lower, _)| lower == import);
            assert!(below, "`{layer}` may import `{import}`, which does not lie below it");
        }
    }
}

/// Which file imports which, by their module paths. Tests within files are left out, and so are imports between a folder's
/// `mod.rs` and what lies below it, which only hand names on.
fn imports_between_files() -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
    let sources = sources();
    let files: BTreeSet<&[String]> = sources.iter().map(|source| source.module.as_slice()).collect();
    // A path leads to the deepest file whose module it passes through.
    let target = |path: &Vec<String>| {
        (1..=path.len()).rev().map(|length| path[..length].to_vec()).find(|path| files.contains(path.as_slice()))
    };
    let edges = sources.iter().map(|source| {
        let is_above_or_below =
            |module: &Vec<String>| module.starts_with(&source.module) || source.module.starts_with(module);
        let targets =
            imports(source, true).iter().filter_map(target).filter(|module| !is_above_or_below(module)).collect();
        (source.module.clone(), targets)
    });
    edges.collect()
}

/// Fails if a node of the graph can be reached from itself.
fn assert_no_circle(edges: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) {
    for start in edges.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<&Vec<String>> = edges[start].iter().collect();
        while let Some(module) = open.pop() {
            assert!(module != start, "`{}` imports itself through others", start.join("::"));
            if reached.insert(module) {
                open.extend(edges.get(module).into_iter().flatten());
            }
        }
    }
}

#[test]
fn no_two_files_import_each_other_through_others() {
    assert_no_circle(&imports_between_files());
}

#[test]
fn no_two_folders_of_a_folder_import_each_other_through_others() {
    let files = imports_between_files();
    let depth = files.keys().map(Vec::len).max().unwrap_or(0);
    for depth in 1..=depth {
        // The rooms at this depth: files there, and folders with all that lies in them.
        let mut rooms: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
        for (from, targets) in files.iter().filter(|(from, _)| from.len() >= depth) {
            let room = rooms.entry(from[..depth].to_vec()).or_default();
            let siblings = targets.iter().filter(|to| to.len() >= depth && to[..depth - 1] == from[..depth - 1]);
            room.extend(siblings.map(|to| to[..depth].to_vec()).filter(|to| *to != from[..depth]));
        }
        assert_no_circle(&rooms);
    }
}

#[test]
fn every_library_stays_in_its_layers() {
    for source in sources() {
        let named: BTreeSet<String> =
            Paths::of(&source, false).into_iter().filter_map(|path| path.into_iter().next()).collect();
        for (library, layers) in STAYS_IN {
            assert!(
                !named.contains(*library) || layers.contains(&source.layer.as_str()),
                "{}: `{library}` does not belong in `{}`",
                source.path.display(),
                source.layer
            );
        }
    }
}

#[test]
fn unsafe_code_stays_in_backend() {
    for source in sources().iter().filter(|source| source.layer != "backend") {
        let code = source.text.lines().map(|line| line.split("//").next().unwrap_or_default());
        let unsafe_line = code.into_iter().position(|line| line.contains("unsafe "));
        assert_eq!(unsafe_line, None, "{}", source.path.display());
    }
}

#[test]
fn no_file_is_too_long_to_read() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= MAX_LINES, "{}: {lines} lines: split it by meaning", source.path.display());
    }
}
