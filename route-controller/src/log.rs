//! Where log lines go: to standard error, without waiting for whoever reads it.
//!
//! A pipe that nobody reads must not stop routing. The agent's lines go through a queue to a thread of their own; what the queue has no
//! room for is dropped and counted (`podroute_log_lines_dropped`).

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::journal::recorder::{self, Recorder};

/// Lines that wait at most.
const LINES: usize = 8192;

/// What is logged by default. The Kubernetes client's messages about a lost stream name neither subject nor remedy; podroute's do.
const DEFAULT: &str = "info,netlink_proto=error,kube_client=off,kube_runtime=off";

static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// Starts logging. Commands write at once; the agent does not wait. Lines that still wait are written when the guard is dropped.
pub(crate) fn start(is_agent: bool) -> Option<WorkerGuard> {
    let (filter, trouble) = filter(std::env::var("PODROUTE_LOG").ok().as_deref());
    if let Some(trouble) = trouble {
        eprintln!(
            "podroute: PODROUTE_LOG: {trouble}; use error, warn, info, debug or trace, or TARGET=LEVEL; logging as without it"
        );
    }
    let is_json = std::env::var_os("PODROUTE_LOG_JSON").is_some();
    let log = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    if !is_agent {
        let log = log.with_writer(std::io::stderr);
        let log = if is_json { log.json().boxed() } else { log.boxed() };
        tracing_subscriber::registry()
            .with(log.with_filter(filter))
            .init();
        return None;
    }
    let (writer, guard) = lossy(std::io::stderr());
    let _ = DROPPED.set(writer.error_counter()); // once in a process
    let log = log.with_writer(writer);
    let log = if is_json { log.json().boxed() } else { log.boxed() };
    tracing_subscriber::registry()
        .with(log.with_filter(filter))
        // What changed is in the journal, whatever the log shows.
        .with(Recorder.with_filter(filter_fn(recorder::is_recorded)))
        .init();
    Some(guard)
}

/// The filter that a text asks for, or the default and why. A bare word that is no level would name a target, and silence all others.
fn filter(asked: Option<&str>) -> (EnvFilter, Option<String>) {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let asked = asked.unwrap_or_default().trim();
    let default = || EnvFilter::new(DEFAULT);
    if asked.is_empty() {
        return (default(), None);
    }
    let is_known = |word: &&str| {
        word.contains(['=', '[']) || LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
    };
    let words = asked.split(',').map(str::trim).filter(|word| !word.is_empty());
    if let Some(word) = words.into_iter().find(|word| !is_known(word)) {
        return (
            default(),
            Some(format!("'{}' is not a level", word.escape_debug())),
        );
    }
    match EnvFilter::try_new(asked) {
        Ok(filter) => (filter, None),
        Err(error) => (default(), Some(error.to_string())),
    }
}

fn lossy(to: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES)
        .thread_name("log")
        .finish(to)
}

/// Lines that nobody took in time.
pub(crate) fn dropped() -> usize {
    DROPPED.get().map_or(0, ErrorCounter::dropped_lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_silences_nothing() {
        for bad in ["verbose", "info,verbose", "bgp_speaker=loud"] {
            let (filter, trouble) = filter(Some(bad));
            assert!(trouble.is_some(), "{bad}");
            assert_eq!(filter.to_string(), EnvFilter::new(DEFAULT).to_string(), "{bad}");
        }
        for good in ["debug", "WARN", "info,bgp_speaker=trace"] {
            let (filter, trouble) = filter(Some(good));
            assert_eq!(trouble, None, "{good}");
            assert_ne!(filter.to_string(), EnvFilter::new(DEFAULT).to_string(), "{good}");
        }
        for none in [None, Some(""), Some(" ")] {
            assert_eq!(filter(none).1, None);
        }
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let (_unread, full) = std::io::pipe().unwrap();
        let (mut writer, guard) = lossy(full);
        let counter = writer.error_counter();
        let line = [b'x'; 200];
        // Far more than pipe and queue hold: with a writer that waits this never ends.
        for _ in 0..3 * LINES {
            writer.write_all(&line).unwrap();
        }
        assert!(counter.dropped_lines() > LINES);
        drop(_unread); // the thread's write ends with an error
        drop(guard);
    }
}
