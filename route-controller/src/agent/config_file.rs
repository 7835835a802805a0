//! The configuration file: how it is read, and as it was last applied.

use std::path::{Path, PathBuf};

use podroute_config::{ClusterFacts, Config, FromKubernetes, NodeFacts, Running};

use super::{AgentError, cluster};
use crate::list_files::ListFiles;
use crate::mounted::Mounted;

/// The file as last applied, and what it was applied to.
pub(super) struct ConfigFile {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) mounted: Mounted,
    pub(super) facts: NodeFacts,
    pub(super) lists: ListFiles,
    pub(super) followed: cluster::Followed,
    /// It is applied as soon as Kubernetes says this.
    pub(super) waits: Option<FromKubernetes>,
}

impl ConfigFile {
    /// Reads and checks the file at the agent's start.
    pub(super) fn read(path: PathBuf, cluster: Option<ClusterFacts>) -> Result<(Self, Config), AgentError> {
        let text = read_text(&path)?;
        let mut lists = ListFiles::default();
        lists.look(&text);
        let mut facts = NodeFacts {
            list_files: lists.contents(),
            ..own_facts(cluster)
        };
        let config = config_of(&text, &path, &facts)?;
        facts.running = Some(Running {
            asn: config.node.asn,
            cluster_id: config.cluster.cluster_id,
            fib: config.fib.clone(),
        });
        let file = Self {
            mounted: Mounted::new(&path, &text),
            path,
            text,
            facts,
            lists,
            followed: cluster::Followed::default(),
            waits: None,
        };
        Ok((file, config))
    }
}

/// Reads and checks the file, for this host and without Kubernetes.
pub(crate) fn read_config(path: &Path) -> Result<Config, AgentError> {
    let text = read_text(path)?;
    config_of(&text, path, &facts_for(own_facts(None), &text))
}

pub(super) fn read_text(path: &Path) -> Result<String, AgentError> {
    std::fs::read_to_string(path).map_err(|source| AgentError::ReadConfig {
        path: path.to_owned(),
        source,
    })
}

/// With what the files of lists hold that a configuration names.
pub(crate) fn facts_for(mut facts: NodeFacts, text: &str) -> NodeFacts {
    let mut lists = ListFiles::default();
    lists.look(text);
    facts.list_files = lists.contents();
    facts
}

pub(super) fn config_of(text: &str, path: &Path, facts: &NodeFacts) -> Result<Config, AgentError> {
    podroute_config::load_for(text, facts)
        .map_err(|errors| AgentError::Config(errors.in_file(&path.display().to_string())))
}

/// What the host and its surroundings say. `NODE_NAME` is what a DaemonSet sets.
pub(crate) fn own_facts(cluster: Option<ClusterFacts>) -> NodeFacts {
    let given = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    NodeFacts {
        name: given.or_else(host_name),
        cluster,
        ..NodeFacts::default()
    }
}

/// The host's name.
pub(crate) fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}
