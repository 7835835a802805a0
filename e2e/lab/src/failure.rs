//! What a failing check says: the thing that failed, why, and the evidence.
//!
//! A [`Failure`] is built for a reader who was not there: its first line names the check, its
//! evidence carries the last log lines, the kernel's routes or the command's output. It is the
//! only error type of the lab; it never ends the process by itself.

use std::fmt;

/// Result of everything in the lab.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failed check or step, with what the reader needs to see why.
#[derive(Debug, Clone)]
pub struct Failure {
    what: String,
    evidence: Vec<(String, String)>,
    fatal: bool,
}

impl Failure {
    /// A failure whose first line is `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            evidence: Vec::new(),
            fatal: false,
        }
    }

    /// Adds a titled block of evidence (a log's tail, a command's output), once per title.
    #[must_use]
    pub fn evidence(mut self, title: impl Into<String>, text: impl Into<String>) -> Self {
        let title = title.into();
        if self.evidence.iter().all(|(known, _)| *known != title) {
            self.evidence.push((title, text.into()));
        }
        self
    }

    /// Puts `what` in front of the message: the outer step that the failure interrupted.
    #[must_use]
    pub fn during(mut self, what: impl fmt::Display) -> Self {
        self.what = format!("{what}: {}", self.what);
        self
    }

    /// Says that waiting longer cannot help (a process has ended).
    #[must_use]
    pub fn fatal(mut self) -> Self {
        self.fatal = true;
        self
    }

    /// Whether waiting longer cannot help.
    pub fn is_fatal(&self) -> bool {
        self.fatal
    }

    /// The first line only.
    pub fn summary(&self) -> &str {
        &self.what
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for (title, text) in &self.evidence {
            write!(f, "\n  {title}:")?;
            if text.trim().is_empty() {
                write!(f, " (empty)")?;
            }
            for line in text.trim_end().lines() {
                write!(f, "\n    {line}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Names the step that an operating-system error interrupted.
pub trait Context<T> {
    /// Turns the error into a [`Failure`] that starts with `what`.
    fn context(self, what: impl fmt::Display) -> Result<T>;
}

impl<T, E: fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl fmt::Display) -> Result<T> {
        self.map_err(|error| Failure::new(format!("{what}: {error}")))
    }
}

/// Fails with a formatted message: `bail!("no route to {prefix}")`.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::failure::Failure::new(format!($($arg)*))) };
}

/// Fails unless the condition holds: `ensure!(ttl == 62, "TTL is {ttl}, not 62")`.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => { if !$cond { $crate::bail!($($arg)*); } };
}
