//! The log: lines go to standard error without blocking the agent.
//!
//! A pipe that nobody reads must not stop routing. The agent's lines go through a queue to a thread of their own; what the queue has no
//! room for is dropped and counted (`podroute_log_lines_dropped`). Of equal lines in a short time some are written and the others
//! counted (`podroute_log_lines_suppressed`). `podroute log-level` changes the level while the agent runs.

mod flood;

use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

use flood::{Flood, Suppressed};

/// Lines that wait at most.
const LINES: usize = 8192;

/// What is logged by default. The Kubernetes client's messages about a lost stream name neither subject nor remedy; podroute's do.
const DEFAULT: &str = "info,netlink_proto=error,kube_client=off,kube_runtime=off";

/// The log of this process.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    dropped: ErrorCounter,
    flood: Arc<Mutex<Flood>>,
    level: reload::Handle<EnvFilter, Registry>,
    /// The level of the environment.
    first: String,
}

/// Starts logging. Commands write at once; the agent does not wait. Lines that still wait are written when the guard is dropped.
pub(crate) fn start(is_agent: bool) -> Option<WorkerGuard> {
    let asked = std::env::var("PODROUTE_LOG").ok();
    let (filter, trouble) = filter(asked.as_deref());
    if let Some(trouble) = trouble {
        eprintln!(
            "podroute: PODROUTE_LOG: {trouble}; use error, warn, info, debug or trace, or TARGET=LEVEL; logging as without it"
        );
    }
    let first = filter.to_string();
    let (filter, level) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let format = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(io::stderr().is_terminal());
    let is_json = std::env::var_os("PODROUTE_LOG_JSON").is_some();
    if !is_agent {
        let format = format.with_writer(io::stderr);
        if is_json {
            registry.with(format.json()).init()
        } else {
            registry.with(format).init()
        }
        return None;
    }
    let (writer, guard) = lossy(io::stderr());
    let flood = Arc::default();
    let log = Log {
        dropped: writer.error_counter(),
        flood: Arc::clone(&flood),
        level,
        first,
    };
    let _ = LOG.set(log); // once in a process
    let format = format.with_writer(Limited { writer, flood });
    if is_json {
        registry.with(format.json()).init()
    } else {
        registry.with(format).init()
    }
    Some(guard)
}

/// The level that is in force.
pub(crate) fn level() -> String {
    let level = LOG
        .get()
        .and_then(|log| log.level.with_current(ToString::to_string).ok());
    level.unwrap_or_else(|| DEFAULT.to_owned())
}

/// Why a level cannot be set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum LevelError {
    /// The text is none.
    #[error("{0}; use error, warn, info, debug, trace or off, TARGET=LEVEL, or 'default'")]
    Unknown(String),
    /// This process has no log.
    #[error("this process does not log")]
    NoLog,
}

/// Sets the level until the agent's next start; `default` is the one that it started with.
pub(crate) fn set_level(asked: &str) -> Result<(), LevelError> {
    let log = LOG.get().ok_or(LevelError::NoLog)?;
    let asked = if asked == "default" { &log.first } else { asked };
    let (filter, trouble) = filter(Some(asked));
    if let Some(trouble) = trouble {
        return Err(LevelError::Unknown(trouble));
    }
    log.level.reload(filter).map_err(|_| LevelError::NoLog)
}

/// Lines that nobody took in time.
pub(crate) fn dropped() -> usize {
    LOG.get().map_or(0, |log| log.dropped.dropped_lines())
}

/// Lines that were not written because equal ones had been.
pub(crate) fn suppressed() -> u64 {
    LOG.get().map_or(0, |log| lock(&log.flood).suppressed)
}

/// Logs how many equal lines were not written, once their flood is over.
pub(crate) fn report_floods() {
    let ended = LOG.get().map(|log| lock(&log.flood).ended(crate::clock::now()));
    for Suppressed { count, line } in ended.unwrap_or_default() {
        tracing::warn!(
            event = "log_suppressed",
            count,
            line,
            "equal log lines were not written"
        );
    }
}

fn lock(flood: &Mutex<Flood>) -> MutexGuard<'_, Flood> {
    flood.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A writer of lines that leaves out floods.
#[derive(Clone)]
struct Limited<W> {
    writer: W,
    flood: Arc<Mutex<Flood>>,
}

impl<'a, W: Write + Clone + 'a> MakeWriter<'a> for Limited<W> {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Each call has one line.
impl<W: Write> Write for Limited<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if lock(&self.flood).may_write(crate::clock::now(), line) {
            self.writer.write(line)
        } else {
            Ok(line.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
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
    fn a_flood_is_left_out() {
        let flood = Arc::default();
        let mut limited = Limited {
            writer: Vec::new(),
            flood: Arc::clone(&flood),
        };
        for _ in 0..100 {
            limited
                .write_all(b"2026-11-29T15:00:00Z  WARN the same\n")
                .unwrap();
        }
        limited
            .write_all(b"2026-11-29T15:00:00Z  WARN another\n")
            .unwrap();
        let text = String::from_utf8(limited.writer).unwrap();
        assert_eq!(text.lines().count(), 11);
        assert!(text.ends_with("another\n"));
        assert_eq!(lock(&flood).suppressed, 90);
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
