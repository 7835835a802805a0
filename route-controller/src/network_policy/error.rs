//! Why network policies are not enforced, and why a question about them has no answer.

use std::io;
use std::path::PathBuf;

use nix::errno::Errno;

/// Why enforcement does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Enforcer(#[from] podroute_enforce::Error),
    #[error(transparent)]
    Records(#[from] cni_ipam::Error),
    #[error("cannot watch the pods' records: {0}")]
    Watch(Errno),
    #[error("cannot write {}: {source}", path.display())]
    WriteFile { path: PathBuf, source: io::Error },
    #[error("eventfd: {0}")]
    Wake(Errno),
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Why a question about network policies has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuestionError {
    #[error("network policies are not enforced: set policy.mode: kubernetes")]
    NotEnforced,
    #[error("the thread of network policies has ended; see the log")]
    ThreadEnded,
    #[error("'{0}' is no address and no pod; write 10.244.1.5 or namespace/pod")]
    NoAddress(String),
    #[error("no pod '{0}' is known; pods that have ended or are in the host's network have no policies")]
    UnknownPod(String),
    #[error("pod '{0}' has no address yet")]
    PodWithoutAddress(String),
    #[error("{source_} and {destination} have no address of one family")]
    NoCommonFamily { source_: String, destination: String },
    #[error("'{0}' is no port; write 80, 53/udp or 3868/sctp")]
    NoPort(String),
    #[error(transparent)]
    Yaml(#[from] serde_yaml::Error),
    #[error("the file has a {0}; only NetworkPolicies are compared")]
    OtherKind(String),
    #[error("{policy}: {}", problems.join("; "))]
    Unusable { policy: String, problems: Vec<String> },
    #[error("the file has no NetworkPolicy")]
    NoPolicy,
    #[error(transparent)]
    Flows(#[from] podroute_enforce::Error),
}
