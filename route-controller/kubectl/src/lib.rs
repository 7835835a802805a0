//! `kubectl podroute`: questions to the agents of all nodes, through the API server and with the operator's own rights.
//!
//! Each node's agent is asked by running its own program in its pod (`pods/exec`), so no port is open for it, and no right is needed
//! that `kubectl exec` does not need. The answers are joined by `view`, which is pure.

mod answer;
mod args;
mod cluster;
mod commands;
mod documents;
mod error;
mod exec;
#[cfg(test)]
mod fake_api;
mod gather;
mod locate;
mod progress;
mod target;
mod view;
mod web;

pub use answer::{Answers, Unanswered};
pub use args::{ClusterArgs, ClusterCommand, Form, Options};
pub use documents::document;
pub use error::{Error, NodeError};

/// How a command ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Every node answered, and nothing is wrong.
    Complete,
    /// All is answered, and something is not in order: exit status 3.
    Fault,
    /// Some nodes did not answer: exit status 4.
    Partial,
}

impl Outcome {
    /// The exit status of the process.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Complete => 0,
            Self::Fault => 3,
            Self::Partial => 4,
        }
    }
}

/// Whether a program of this name is the plugin of kubectl: `kubectl podroute` runs `kubectl-podroute`.
pub fn is_plugin_name(program: &std::ffi::OsStr) -> bool {
    let name = std::path::Path::new(program).file_name();
    name.is_some_and(|name| name == "kubectl-podroute" || name == "kubectl-podroute.exe")
}

/// Runs a command and prints its answer.
///
/// # Errors
/// Nothing can be asked.
pub fn run(args: &ClusterArgs) -> Result<Outcome, Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    runtime.block_on(commands::run(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_finds_the_plugin_by_its_name() {
        assert!(is_plugin_name("/usr/local/bin/kubectl-podroute".as_ref()));
        assert!(!is_plugin_name("/podroute".as_ref()));
    }
}
