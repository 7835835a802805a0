//! Why a command fails. The text is printed to standard error; the exit status is 1.

use std::io;
use std::path::PathBuf;

use super::client::ClientError;
use super::policy::PolicyTestError;
use super::router::RouterError;
use crate::agent::AgentError;
use crate::cni_list::{MissingPlugin, WriteError};
use crate::count::count;

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Agent(#[from] AgentError),
    #[error(transparent)]
    Cluster(#[from] podroute_kubectl::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Router(#[from] RouterError),
    #[error(transparent)]
    PolicyTest(#[from] PolicyTestError),
    #[error(transparent)]
    Ipam(#[from] cni_ipam::Error),
    #[error(transparent)]
    NetworkPolicies(#[from] podroute_enforce::Error),
    #[error(transparent)]
    MissingPlugin(#[from] MissingPlugin),
    #[error(transparent)]
    Write(#[from] WriteError),
    #[error("{name}: {source}")]
    File { name: String, source: io::Error },
    #[error("cannot write the answer: {0}")]
    Json(#[from] serde_json::Error),
    #[error("cannot write the answer: {0}")]
    Yaml(#[from] serde_yaml::Error),
    /// Every error of the configuration, a line each.
    #[error("{0}")]
    Config(String),
    #[error("{0}: this ConfigMap has no podroute.yaml among its data")]
    ConfigMap(String),
    #[error("no peer '{name}'; there are: {}", known.join(", "))]
    NoPeer { name: String, known: Vec<String> },
    #[error(
        "no Service '{0}' of type LoadBalancer or with externalIPs is known here; 'podroute show services' lists all"
    )]
    NoService(String),
    #[error("{}; 'podroute ipam check --fix' repairs what can be repaired", count(*.0, "inconsistency"))]
    Found(usize),
    #[error("{} left; each line above names the remedy", count(*.0, "inconsistency"))]
    Left(usize),
    #[error(
        "an agent runs with {}: it would restore what is removed, and pods would lose their network; stop it first \
         (systemctl stop podroute, or delete the DaemonSet), or use --force", .0.display()
    )]
    AgentRuns(PathBuf),
    #[error("cannot remove routes: {0}; podroute needs CAP_NET_ADMIN")]
    RemoveRoutes(io::Error),
    #[error("the plugins' interfaces and files are removed only partly: {0}")]
    RemovePods(cni_ipam::Error),
    #[error("{name}: {source}; it must be in the directory of podroute")]
    Program { name: String, source: io::Error },
    #[error("cannot write the completion script: {0}")]
    Completions(io::Error),
    #[error("cannot write man pages to {}: {source}", dir.display())]
    ManPages { dir: PathBuf, source: io::Error },
    #[error("signals: {0}")]
    Signals(nix::Error),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<CliError>),
}

impl CliError {
    /// An error of reading or writing a file.
    pub(super) fn file(name: impl std::fmt::Display) -> impl Fn(io::Error) -> Self {
        let name = name.to_string();
        move |source| Self::File {
            name: name.clone(),
            source,
        }
    }
}
