//! Whether this node is drained: kept in the run directory, so that a restart of the agent does not undo it. A reboot does:
//! /run is empty then. In Kubernetes a drain belongs to the Node object that was there: a node that was deleted and has registered
//! again is a new one, uncordoned, and gets pods.

use std::io;
use std::path::{Path, PathBuf};

use crate::whole_file;

/// A full disk leaves what was there: a drain is never forgotten by half.
fn replace(path: &Path, word: &str, node: &str) -> io::Result<()> {
    whole_file::replace(path, format!("{word} {node}\n").as_bytes())
}

/// What was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Drain {
    /// Peers are asked to prefer other paths (RFC 8326).
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
            (true, false) if self.by_taint => replace(&path, "taint", &self.node),
            (true, false) => replace(&path, "prefer-others", &self.node),
            (true, true) => replace(&path, "withdraw", &self.node),
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
}

impl std::fmt::Display for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.on, self.withdraw) {
            (false, _) => "not drained: routes are as configured",
            (true, false) => "drained: peers are asked to prefer other paths (GRACEFUL_SHUTDOWN)",
            (true, true) => "drained, and this node's routes are withdrawn: safe to stop",
        })
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

    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// `podroute drain`, before and after its wait.
        Person {
            withdraw: bool,
        },
        Undrain,
        Taint(bool),
        Node(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<bool>().prop_map(|withdraw| Step::Person { withdraw }),
            Just(Step::Undrain),
            any::<bool>().prop_map(Step::Taint),
            (1u8..4).prop_map(Step::Node),
        ];
        proptest::collection::vec(step, 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

        /// Any history, with a restart of the agent after each step.
        #[test]
        fn any_history(steps in steps()) {
            let dir = tempfile::tempdir().unwrap();
            // Who drained the node last: a person for this Node object, or the taint.
            let (mut drain, mut person, mut node) = (Drain::default(), None, String::new());
            for step in steps {
                match step {
                    Step::Person { withdraw } => {
                        drain = Drain { on: true, withdraw, node: node.clone(), ..Drain::default() };
                        person = Some(node.clone());
                    }
                    Step::Undrain => (drain, person) = (Drain::default(), None),
                    Step::Taint(there) => {
                        if let Some(next) = drain.after_taint(there) {
                            prop_assert!(person.is_none(), "a taint changed what a person asked for");
                            let node = if next.on { node.clone() } else { String::new() };
                            drain = Drain { node, ..next };
                        }
                        prop_assert!(drain.on || !there);
                    }
                    Step::Node(number) => {
                        node = number.to_string();
                        if let Some(next) = drain.after_node(&node) {
                            drain = next;
                        }
                        let is_kept = person.as_ref().is_some_and(|of| of.is_empty() || *of == node);
                        prop_assert!(!is_kept || drain.on, "lost with its own Node object");
                        person = person.filter(|_| is_kept).map(|_| node.clone());
                        prop_assert!(!drain.on || drain.node == node, "kept for another Node object");
                    }
                }
                prop_assert!(!(drain.by_taint && drain.withdraw), "pods of a tainted node live");
                prop_assert_eq!(drain.level() > 0, drain.on);
                drain.write(dir.path()).unwrap();
                prop_assert_eq!(&Drain::read(dir.path()), &drain);
            }
        }
    }
}
