//! Log lines. Every event of this process that `tracing` reports goes where those of any ROS 2 node go: through rcutils to
//! the console (in the format, the colours and to the stream that its environment variables ask for) and to the log file,
//! and to [`/rosout`](super::rosout).
//!
//! The level is that of `--log-level` for this node's logger or all; without it, that of the variable `RUST_LOG`, which
//! filters by module; without that, info.

use super::arguments::Arguments;
use super::rosout::{Line, Rosout, Severity};
use crate::config::environment::Setting;
use std::cell::Cell;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Defaults for the environment of the middleware's logging: a folder for a process without a home, without which the
/// middleware refuses to start, and lines that are written whole when they go to standard output.
pub fn settings() -> [Setting; 2] {
    [
        Setting { name: "ROS_LOG_DIR", value: new_log_folder, unless: &["ROS_HOME", "HOME"] },
        Setting { name: "RCUTILS_LOGGING_BUFFERED_STREAM", value: || "1".into(), unless: &[] },
    ]
}

/// A new folder that is this user's alone: a name in the folder for temporary files that others can guess could lead the
/// logs elsewhere.
fn new_log_folder() -> OsString {
    let made = tempfile::Builder::new().prefix("xvla_ros_log_").tempdir();
    made.map_or_else(|_| std::env::temp_dir(), tempfile::TempDir::keep).into_os_string()
}

/// Sends the events of this process to the console and to the returned `/rosout`, which keeps them until the node is
/// there.
pub fn start(arguments: &Arguments, logger: &str) -> Rosout {
    let level = level_for(logger, &arguments.log_levels);
    let filter = match level {
        Some(level) => EnvFilter::default().add_directive(level.into()),
        None => EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info")),
    };
    let rosout = Rosout::new(arguments.rosout_logs);
    let rcutils_level = level.unwrap_or(LevelFilter::INFO);
    let layer = RosLayer { logger: logger.to_owned(), rcutils_level, rosout: rosout.clone() };
    // A second call in one process is a test's, which keeps the first one's subscriber.
    let _ = tracing_subscriber::registry().with(filter).with(layer).try_init();
    rosout
}

/// The level that `--log-level` sets for `logger`: that of the logger itself or of the nearest one above it, whose name is
/// the first part of its own up to a dot. Later arguments win. `None` if no argument applies.
fn level_for(logger: &str, levels: &[(String, LevelFilter)]) -> Option<LevelFilter> {
    let is_above = |name: &str| {
        name.is_empty() || logger.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    levels.iter().filter(|(name, _)| is_above(name)).max_by_key(|(name, _)| name.len()).map(|(_, level)| *level)
}

/// The way of an event to the console and to `/rosout`.
struct RosLayer {
    logger: String,
    /// The least severe level that rcutils lets through.
    rcutils_level: LevelFilter,
    rosout: Rosout,
}

thread_local! {
    /// Whether this thread is passing an event on. What that causes to be logged is not passed on: it could go on for ever.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

impl<S: Subscriber> Layer<S> for RosLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if BUSY.replace(true) {
            return;
        }
        let metadata = event.metadata();
        let mut text = Text::default();
        event.record(&mut text);
        let line = Line {
            at: SystemTime::now(),
            severity: severity(metadata.level()),
            logger: self.logger.clone(),
            text: text.0,
            file: metadata.file().unwrap_or_default().to_owned(),
            function: metadata.module_path().unwrap_or_default().to_owned(),
            line: metadata.line().unwrap_or_default(),
        };
        self.print(&line, *metadata.level());
        self.rosout.say(line);
        BUSY.set(false);
    }
}

impl RosLayer {
    fn print(&self, line: &Line, level: Level) {
        if level <= self.rcutils_level {
            let severity = match line.severity {
                Severity::Debug => r2r::LogSeverity::Debug,
                Severity::Info => r2r::LogSeverity::Info,
                Severity::Warn => r2r::LogSeverity::Warn,
                Severity::Error => r2r::LogSeverity::Error,
            };
            // r2r makes C strings of these, which cannot hold NUL.
            let [text, file] = [&line.text, &line.file].map(|text| text.replace('\0', "\\0"));
            r2r::log(&text, &line.logger, &file, line.line, severity);
        } else {
            // RUST_LOG asks for more than the level of rcutils, which only `--log-level` sets.
            let since = line.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let (seconds, nanos) = (since.as_secs(), since.subsec_nanos());
            let _ = writeln!(std::io::stderr(), "[{level}] [{seconds}.{nanos:09}] [{}]: {}", line.logger, line.text);
        }
    }
}

fn severity(level: &Level) -> Severity {
    match *level {
        Level::ERROR => Severity::Error,
        Level::WARN => Severity::Warn,
        Level::INFO => Severity::Info,
        Level::DEBUG | Level::TRACE => Severity::Debug,
    }
}

/// The text of an event: its message, then its other fields as `name=value`.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let written = match field.name() {
            "message" => {
                let others = std::mem::take(&mut self.0);
                write!(self.0, "{value:?}{others}")
            }
            // These describe where a line of the `log` crate comes from.
            name if name.starts_with("log.") => Ok(()),
            name => write!(self.0, " {name}={value:?}"),
        };
        debug_assert!(written.is_ok(), "a String can always be written to");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(logger: &str, levels: &[(&str, LevelFilter)]) -> Option<LevelFilter> {
        let levels: Vec<_> = levels.iter().map(|(name, level)| ((*name).to_owned(), *level)).collect();
        level_for(logger, &levels)
    }

    #[test]
    fn the_level_of_the_nearest_logger_counts_and_of_the_same_the_last() {
        let (warn, debug, error) = (LevelFilter::WARN, LevelFilter::DEBUG, LevelFilter::ERROR);
        assert_eq!(level("left.xvla", &[("left", debug), ("", warn)]), Some(debug));
        assert_eq!(level("left.xvla", &[("left.xvla", error), ("left", debug)]), Some(error));
        assert_eq!(level("left.xvla", &[("", warn), ("", error)]), Some(error));
        assert_eq!(level("left.xvla", &[("lef", debug), ("xvla", debug), ("rcl", debug)]), None);
    }

    /// What reaches `/rosout` of the events in `logged`.
    fn lines(logged: impl FnOnce()) -> Vec<Line> {
        let rosout = Rosout::new(true);
        let layer = RosLayer { logger: "xvla".to_owned(), rcutils_level: LevelFilter::OFF, rosout: rosout.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), logged);
        rosout.kept()
    }

    #[test]
    fn a_line_has_the_events_severity_text_fields_and_place() {
        let lines = lines(|| tracing::warn!(attempt = 2, path = ?"a", "no answer"));
        assert_eq!((lines[0].severity, lines[0].text.as_str()), (Severity::Warn, "no answer attempt=2 path=\"a\""));
        assert_eq!(lines[0].logger, "xvla");
        assert!(lines[0].file.ends_with("logging.rs") && lines[0].line > 0, "{:?}", lines[0]);
    }

    #[test]
    fn events_of_every_thread_arrive() {
        let lines = lines(|| {
            let dispatch = tracing::dispatcher::get_default(Clone::clone);
            let thread = std::thread::spawn(move || {
                tracing::dispatcher::with_default(&dispatch, || tracing::error!("from another thread"));
            });
            thread.join().unwrap();
            tracing::info!("from this one");
        });
        assert_eq!(
            lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(),
            ["from another thread", "from this one"]
        );
    }

    #[test]
    fn an_event_that_logging_itself_causes_is_not_passed_on() {
        struct Chatty;
        impl std::fmt::Display for Chatty {
            fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
                tracing::error!("while formatting");
                formatter.write_str("outer")
            }
        }
        let lines = lines(|| tracing::info!("{Chatty}"));
        assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["outer"]);
    }
}
