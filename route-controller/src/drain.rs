//! Whether this node is drained: kept in the run directory, so that a restart of the agent does not undo it. A reboot does:
//! /run is empty then.

use std::io;
use std::path::{Path, PathBuf};

/// What was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Drain {
    /// Others are told to prefer other paths (RFC 8326).
    pub(crate) on: bool,
    /// And nothing is originated any more.
    pub(crate) withdraw: bool,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("drain")
}

impl Drain {
    /// As it was left.
    pub(crate) fn read(run_dir: &Path) -> Self {
        match std::fs::read_to_string(path(run_dir)).as_deref().map(str::trim) {
            Ok("prefer-others") => Self {
                on: true,
                withdraw: false,
            },
            Ok("withdraw") => Self {
                on: true,
                withdraw: true,
            },
            _ => Self::default(),
        }
    }

    /// Keeps it.
    pub(crate) fn write(self, run_dir: &Path) -> io::Result<()> {
        let path = path(run_dir);
        match (self.on, self.withdraw) {
            (false, _) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            (true, false) => std::fs::write(path, "prefer-others\n"),
            (true, true) => std::fs::write(path, "withdraw\n"),
        }
    }

    pub(crate) fn words(self) -> &'static str {
        match (self.on, self.withdraw) {
            (false, _) => "not drained: routes are as configured",
            (true, false) => "drained: peers are told to prefer other paths (GRACEFUL_SHUTDOWN)",
            (true, true) => "drained, and this node's routes are withdrawn: safe to stop",
        }
    }
}
