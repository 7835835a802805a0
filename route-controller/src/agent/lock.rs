//! The lock of the run directory: one agent per directory.

use std::path::Path;

use super::AgentError;

/// Held as long as the agent runs.
pub(super) type Lock = nix::fcntl::Flock<std::fs::File>;

/// Whether an agent runs with this directory.
pub(crate) fn is_running(run_dir: &Path) -> bool {
    let Ok(file) = std::fs::File::open(run_dir.join("agent.lock")) else {
        return false;
    };
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock).is_err()
}

/// Takes the lock; the directory is made where it is missing.
pub(super) fn lock(run_dir: &Path) -> Result<Lock, AgentError> {
    let fail = |source| AgentError::RunDir {
        path: run_dir.to_owned(),
        source,
    };
    std::fs::create_dir_all(run_dir).map_err(fail)?;
    let file = std::fs::File::create(run_dir.join("agent.lock")).map_err(fail)?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock).map_err(|_| {
        AgentError::Running {
            path: run_dir.to_owned(),
        }
    })
}
