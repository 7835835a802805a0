//! Why the agent does not run, and why it does not do what the operator asks.

use std::path::PathBuf;

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentError {
    #[error("{path}: {source}; name the file with --config", path = path.display())]
    ReadConfig { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Config(String),
    #[error("run directory {path}: {source}; name another with --run-dir", path = path.display())]
    RunDir { path: PathBuf, source: std::io::Error },
    #[error("another podroute agent runs with {path}; stop it first (systemctl stop podroute), or name another directory with --run-dir", path = path.display())]
    Running { path: PathBuf },
    #[error("the kernel's routes cannot be read or written: {0}; podroute needs CAP_NET_ADMIN")]
    Netlink(std::io::Error),
    #[error(transparent)]
    RouterId(#[from] crate::host::NoRouterId),
    #[error(transparent)]
    Speaker(#[from] bgp_speaker::SpeakerError),
    #[error("signals: {0}")]
    Signals(std::io::Error),
    #[error("the speaker's task has stopped; this is a bug in podroute, please report it")]
    Stopped,
}

impl From<bgp_speaker::Stopped> for AgentError {
    fn from(_: bgp_speaker::Stopped) -> Self {
        AgentError::Stopped
    }
}

/// Why the running agent does not reload, drain or compare configurations.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error("the configuration stays as it was: {0}")]
    Unchanged(#[source] AgentError),
    #[error(transparent)]
    Agent(AgentError),
    #[error("cannot save the drain state in {}: {source}", path.display())]
    SaveDrain { path: PathBuf, source: std::io::Error },
    #[error("the kernel route task has stopped; please report this")]
    FibStopped,
}

impl<E: Into<AgentError>> From<E> for CommandError {
    fn from(error: E) -> Self {
        CommandError::Agent(error.into())
    }
}
