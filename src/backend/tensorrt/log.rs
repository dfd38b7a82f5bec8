//! What TensorRT says. Its functions return null or false and only its log says why, so the log is kept for the errors
//! that quote it.

use std::collections::VecDeque;
use std::sync::{Mutex, OnceLock, PoisonError};
use trtx::{LogHandler, Logger, Severity};

/// Messages that are kept: a failure comes with one to three.
const KEPT: usize = 8;

/// TensorRT logs from threads of its own, so this belongs to the process.
static SAID: Mutex<VecDeque<(Severity, String)>> = Mutex::new(VecDeque::new());

static LOGGER: OnceLock<&'static Logger> = OnceLock::new();

/// The process's logger. Never freed: whatever TensorRT makes keeps a pointer to it.
///
/// # Errors
/// TensorRT's bridge has no memory for it.
pub fn logger() -> Result<&'static Logger, trtx::Error> {
    if let Some(logger) = LOGGER.get() {
        return Ok(logger);
    }
    let logger: &'static Logger = Box::leak(Box::new(Logger::new(Forward)?));
    Ok(LOGGER.get_or_init(|| logger))
}

/// What `call` returns, or why TensorRT refused it in TensorRT's own words.
///
/// # Errors
/// The errors that were logged meanwhile; warnings if there were none; the binding's words if there were neither.
pub fn quoted<T>(call: impl FnOnce() -> Result<T, trtx::Error>) -> Result<T, String> {
    said().clear();
    call().map_err(|error| words(&mut said()).unwrap_or_else(|| error.to_string()))
}

fn words(said: &mut VecDeque<(Severity, String)>) -> Option<String> {
    let worst = said.iter().map(|(severity, _)| *severity).min()?.max(Severity::Error);
    let words: Vec<String> =
        said.drain(..).filter(|(severity, _)| *severity <= worst).map(|(_, message)| message).collect();
    Some(words.join("; "))
}

fn said() -> std::sync::MutexGuard<'static, VecDeque<(Severity, String)>> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Forward;

impl LogHandler for Forward {
    fn log(&self, severity: Severity, message: &str) {
        let message = message.trim();
        match severity {
            // Whoever made the failing call reports it, with these words in it.
            Severity::InternalError | Severity::Error => tracing::debug!(target: "tensorrt", "{message}"),
            Severity::Warning => tracing::warn!(target: "tensorrt", "{message}"),
            Severity::Info => tracing::debug!(target: "tensorrt", "{message}"),
            Severity::Verbose => tracing::trace!(target: "tensorrt", "{message}"),
        }
        if severity <= Severity::Warning {
            let mut said = said();
            if said.len() == KEPT {
                said.pop_front();
            }
            said.push_back((severity, message.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words_of(messages: &[(Severity, &str)]) -> Option<String> {
        words(&mut messages.iter().map(|(severity, message)| (*severity, (*message).to_owned())).collect())
    }

    #[test]
    fn an_error_is_quoted_without_the_warnings_around_it() {
        let log =
            [(Severity::Warning, "slow"), (Severity::Error, "no tactic"), (Severity::InternalError, "tactic.cpp")];
        assert_eq!(words_of(&log).as_deref(), Some("no tactic; tactic.cpp"));
    }

    #[test]
    fn warnings_are_quoted_when_there_is_nothing_worse() {
        assert_eq!(words_of(&[(Severity::Warning, "old driver")]).as_deref(), Some("old driver"));
        assert_eq!(words_of(&[]), None);
    }
}
