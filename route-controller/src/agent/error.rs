//! Why the agent does not run.

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
