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
    /// It is a taint's doing, and ends with it.
    pub(crate) by_taint: bool,
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
                ..Self::default()
            },
            Ok("taint") => Self::tainted(),
            Ok("withdraw") => Self {
                on: true,
                withdraw: true,
                ..Self::default()
            },
            _ => Self::default(),
        }
    }

    /// As a taint asks for: others are preferred, and nothing is withdrawn, for the pods live until they are evicted.
    pub(crate) fn tainted() -> Self {
        Self {
            on: true,
            withdraw: false,
            by_taint: true,
        }
    }

    /// What the taint, there or not, makes of it; `None` for no change. What a person asked for stays.
    pub(crate) fn after_taint(self, there: bool) -> Option<Self> {
        match (there, self.on, self.by_taint) {
            (true, false, _) => Some(Self::tainted()),
            (false, true, true) => Some(Self::default()),
            _ => None,
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
            (true, false) if self.by_taint => std::fs::write(path, "taint\n"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taint_drains_and_what_a_person_asked_for_stays() {
        let none = Drain::default();
        let tainted = none.after_taint(true).unwrap();
        assert_eq!(tainted.after_taint(true), None);
        assert_eq!(tainted.after_taint(false), Some(none));
        let person = Drain {
            on: true,
            ..Drain::default()
        };
        assert_eq!(person.after_taint(true), None);
        assert_eq!(person.after_taint(false), None);
        let dir = std::env::temp_dir().join(format!("podroute-drain-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        for drain in [person, tainted, none] {
            drain.write(&dir).unwrap();
            assert_eq!(Drain::read(&dir), drain);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
