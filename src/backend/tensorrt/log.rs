//! TensorRT's log. Its functions return null or false and only the log gives the reason, so recent messages are kept
//! for errors to quote.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};
use trtx::{LogHandler, Logger, Severity};

/// Messages that are kept; a failure logs one to three.
const KEPT: usize = 8;

/// Recent messages of all threads, because TensorRT logs from threads of its own.
static RECENT: Mutex<VecDeque<(Severity, String)>> = Mutex::new(VecDeque::new());

static LOGGER: OnceLock<&'static Logger> = OnceLock::new();

/// The logger of the process. It is never freed, because every object of TensorRT keeps a pointer to it.
///
/// # Errors
/// The binding cannot allocate it.
pub fn logger() -> Result<&'static Logger, trtx::Error> {
    if let Some(logger) = LOGGER.get() {
        return Ok(logger);
    }
    let logger: &'static Logger = Box::leak(Box::new(Logger::new(Forward)?));
    Ok(LOGGER.get_or_init(|| logger))
}

/// The result of `call`, or TensorRT's own messages on why it refused.
///
/// # Errors
/// The errors that were logged during the call, else the warnings, else the binding's own message.
pub fn quoted<T>(call: impl FnOnce() -> Result<T, trtx::Error>) -> Result<T, String> {
    recent().clear();
    call().map_err(|error| worst(&mut recent()).unwrap_or_else(|| error.to_string()))
}

fn worst(recent: &mut VecDeque<(Severity, String)>) -> Option<String> {
    let worst = recent.iter().map(|(severity, _)| *severity).min()?.max(Severity::Error);
    let messages: Vec<String> =
        recent.drain(..).filter(|(severity, _)| *severity <= worst).map(|(_, message)| message).collect();
    Some(messages.join("; "))
}

fn recent() -> std::sync::MutexGuard<'static, VecDeque<(Severity, String)>> {
    RECENT.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Forward;

impl LogHandler for Forward {
    fn log(&self, severity: Severity, message: &str) {
        let message = message.trim();
        match severity {
            // The failing call quotes this message in its error, so it is not logged as an error here.
            Severity::InternalError | Severity::Error => tracing::debug!(target: "tensorrt", "{message}"),
            Severity::Warning => tracing::warn!(target: "tensorrt", "{message}"),
            Severity::Info => tracing::debug!(target: "tensorrt", "{message}"),
            Severity::Verbose => tracing::trace!(target: "tensorrt", "{message}"),
        }
        if severity <= Severity::Warning {
            let mut recent = recent();
            if recent.len() == KEPT {
                recent.pop_front();
            }
            recent.push_back((severity, message.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst_of(messages: &[(Severity, &str)]) -> Option<String> {
        worst(&mut messages.iter().map(|(severity, message)| (*severity, (*message).to_owned())).collect())
    }

    #[test]
    fn an_error_is_quoted_without_the_warnings_around_it() {
        let log =
            [(Severity::Warning, "slow"), (Severity::Error, "no tactic"), (Severity::InternalError, "tactic.cpp")];
        assert_eq!(worst_of(&log).as_deref(), Some("no tactic; tactic.cpp"));
    }

    #[test]
    fn warnings_are_quoted_when_there_is_nothing_worse() {
        assert_eq!(worst_of(&[(Severity::Warning, "old driver")]).as_deref(), Some("old driver"));
        assert_eq!(worst_of(&[]), None);
    }
}
