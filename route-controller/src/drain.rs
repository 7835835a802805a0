//! Whether this node is drained: kept in the run directory, so that a restart of the agent does not undo it. A reboot does:
//! /run is empty then. In Kubernetes a drain belongs to the Node object that was there: a node that was deleted and has registered
//! again is a new one, uncordoned, and gets pods.

use std::io;
use std::path::{Path, PathBuf};

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Drain {
    /// Others are told to prefer other paths (RFC 8326).
    pub(crate) on: bool,
    /// And nothing is originated any more.
    pub(crate) withdraw: bool,
    /// It is a taint's doing, and ends with it.
    pub(crate) by_taint: bool,
    /// The UID of the Node object; empty where none is known.
    pub(crate) node: String,
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("drain")
}

impl Drain {
    /// As it was left.
    pub(crate) fn read(run_dir: &Path) -> Self {
        let text = std::fs::read_to_string(path(run_dir)).unwrap_or_default();
        let mut words = text.split_whitespace();
        let (on, withdraw, by_taint) = match words.next() {
            Some("prefer-others") => (true, false, false),
            Some("taint") => (true, false, true),
            Some("withdraw") => (true, true, false),
            _ => return Self::default(),
        };
        Self {
            on,
            withdraw,
            by_taint,
            node: words.next().unwrap_or_default().to_owned(),
        }
    }

    /// What the Node object that is there now makes of it; `None` for no change.
    pub(crate) fn after_node(&self, uid: &str) -> Option<Self> {
        if !self.on || uid.is_empty() || self.node == uid {
            return None;
        }
        let of_this_node = || Self {
            node: uid.to_owned(),
            ..self.clone()
        };
        // One that was asked for before the object was known is this one's.
        Some(if self.node.is_empty() {
            of_this_node()
        } else {
            Self::default()
        })
    }

    /// As a taint asks for: others are preferred, and nothing is withdrawn, for the pods live until they are evicted.
    pub(crate) fn tainted() -> Self {
        Self {
            on: true,
            withdraw: false,
            by_taint: true,
            node: String::new(),
        }
    }

    /// What the taint, there or not, makes of it; `None` for no change. What a person asked for stays.
    pub(crate) fn after_taint(&self, there: bool) -> Option<Self> {
        match (there, self.on, self.by_taint) {
            (true, false, _) => Some(Self::tainted()),
            (false, true, true) => Some(Self::default()),
            _ => None,
        }
    }

    /// Keeps it.
    pub(crate) fn write(&self, run_dir: &Path) -> io::Result<()> {
        let path = path(run_dir);
        match (self.on, self.withdraw) {
            (false, _) => match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            (true, false) if self.by_taint => std::fs::write(path, format!("taint {}\n", self.node)),
            (true, false) => std::fs::write(path, format!("prefer-others {}\n", self.node)),
            (true, true) => std::fs::write(path, format!("withdraw {}\n", self.node)),
        }
    }

    /// How far it went: 0 not at all, 1 others are preferred, 2 the routes are withdrawn.
    pub(crate) fn level(&self) -> usize {
        match (self.on, self.withdraw) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 2,
        }
    }

    pub(crate) fn words(&self) -> &'static str {
        match (self.on, self.withdraw) {
            (false, _) => "not drained: routes are as configured",
            (true, false) => "drained: peers are asked to prefer other paths (GRACEFUL_SHUTDOWN)",
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
        assert_eq!(tainted.after_taint(false), Some(none.clone()));
        let person = Drain {
            on: true,
            ..Drain::default()
        };
        assert_eq!(person.after_taint(true), None);
        assert_eq!(person.after_taint(false), None);
        let dir = std::env::temp_dir().join(format!("podroute-drain-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let of_node = Drain {
            withdraw: true,
            node: "5b1c".to_owned(),
            ..person.clone()
        };
        for drain in [person, tainted, of_node, none] {
            drain.write(&dir).unwrap();
            assert_eq!(Drain::read(&dir), drain);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_drain_ends_with_the_node_object() {
        let mut drain = Drain {
            on: true,
            withdraw: true,
            ..Drain::default()
        };
        assert_eq!(drain.after_node(""), None, "no Node object is known");
        drain = drain.after_node("first").unwrap();
        assert!(drain.withdraw && drain.node == "first");
        assert_eq!(drain.after_node("first"), None);
        assert_eq!(drain.after_node("second"), Some(Drain::default()));
        assert_eq!(Drain::default().after_node("second"), None);
    }
}
