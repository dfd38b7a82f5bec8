//! What leaves the program: text on stdout, one line on stderr, files, progress.

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use tracing_subscriber::EnvFilter;
use xvla_ros::error::printable;

/// Warnings of the library go to stderr; `RUST_LOG` asks for more or less.
pub fn log_to_stderr() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
}

/// Prints `text` and a newline. A reader that has gone away (`| head`) is no failure.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error).context("stdout"),
        _ => Ok(()),
    }
}

/// Prints `value` as JSON.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value).context("JSON")?)
}

/// Writes `text` to `path`.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

/// The ending of a noun that is counted.
pub fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Bad usage that only shows once several arguments are looked at together; the program ends with code 2.
pub fn usage(reason: impl Display) -> anyhow::Error {
    clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, format!("{reason}\n")).into()
}

/// Checks that files can be written to `targets` and are no part of `source`, which is only read.
pub fn check_targets(targets: &[&Path], source: &Path) -> anyhow::Result<()> {
    let source = source.canonicalize().unwrap_or_else(|_| source.to_owned());
    for (at, target) in targets.iter().enumerate() {
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let whole = match target.canonicalize() {
            Ok(whole) => whole,
            Err(_) => {
                let folder = folder.canonicalize().with_context(|| format!("{}: its folder", target.display()))?;
                folder.join(target.file_name().unwrap_or_default())
            }
        };
        if whole.starts_with(&source) {
            bail!("{}: is the bag or lies in it, and bags are only read: write to another file", target.display());
        }
        if targets.iter().take(at).any(|other| other == target) {
            bail!("{}: named twice: give each output a file of its own", target.display());
        }
    }
    Ok(())
}

/// Tells of a failure in one line on stderr; nobody is left to tell if that fails.
pub fn complain(error: &anyhow::Error) {
    let _ = writeln!(std::io::stderr(), "error: {}", printable(&one_line(error)));
}

/// The chain of causes joined by colons; causes that an outer message already quotes are not repeated, and what
/// libraries spread over several lines is put on one.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain() {
        let message = cause.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        if line.is_empty() {
            line = message;
        } else if !line.contains(&message) {
            line = format!("{line}: {message}");
        }
    }
    line
}

/// A bar on stderr over `length` units, hidden where stderr is not a terminal.
pub fn bar(length: u64, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// `bytes` in the unit that suits them.
pub fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        _ if bytes >= 1e9 => format!("{:.2} GB", bytes / 1e9),
        _ if bytes >= 1e6 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.1} kB", bytes / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_is_already_quoted_is_not_repeated() {
        let cause = std::io::Error::other("no such\n  thing");
        let quoting = anyhow::Error::new(cause).context("file: no such thing").context("outer");
        assert_eq!(one_line(&quoting), "outer: file: no such thing");
    }
}
