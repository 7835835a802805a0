//! How the running agent changes: a file read again, news of the cluster, a taint. The difference only.

use std::sync::atomic::Ordering;

use podroute_config::{ClusterFacts, Config};

use super::{Agent, AgentError, config_of, fib_config, read_text};
use crate::cluster;
use crate::fib::task::ToFib;

impl Agent {
    /// Applies what changed in the file. What cannot be changed while running is refused, and the old
    /// configuration stays.
    pub(super) async fn reload(&mut self) -> Result<String, String> {
        let outcome = self.take_file().await;
        self.reports
            .health
            .refused
            .store(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Ok(outcome) => self.tell("ConfigTaken", false, "the configuration", outcome.clone()),
            Err(error) => self.tell("ConfigRefused", true, "the configuration", error.clone()),
        }
        outcome
    }

    /// Kubernetes swaps a mounted file without a word.
    pub(super) async fn look_at_file(&mut self) {
        if self.file.mounted.has_changed() {
            tracing::info!("the mounted configuration changed");
            if let Err(error) = self.reload().await {
                tracing::error!("{error}");
            }
        }
    }

    /// An Event on the node's object, where Kubernetes is followed.
    pub(super) fn tell(&mut self, reason: &'static str, warning: bool, subject: &str, message: String) {
        if let Some(events) = &mut self.reports.events {
            events.tell(crate::clock::now(), reason, warning, subject, message);
        }
    }

    async fn take_file(&mut self) -> Result<String, String> {
        let stays = |error: AgentError| format!("the configuration stays as it was: {error}");
        let text = read_text(&self.file.path).map_err(stays)?;
        self.file.mounted.saw(&text);
        let new = config_of(&text, &self.file.path, &self.file.facts).map_err(stays)?;
        let outcome = self.apply(new).await?;
        self.file.text = text;
        Ok(outcome)
    }

    /// Kubernetes says something new: the same file, applied to it.
    pub(super) async fn learn(&mut self, facts: ClusterFacts) {
        if let Err(error) = cluster::cache::write(&self.node.run_dir, &facts) {
            tracing::warn!(%error, "what Kubernetes says cannot be kept for a restart");
        }
        let draining = facts.nodes.get(&self.name()).is_some_and(|node| node.draining);
        self.file.facts.cluster = Some(facts);
        self.heed_taint(draining).await;
        let applied = match config_of(&self.file.text, &self.file.path, &self.file.facts) {
            Ok(new) if new.node.asn != self.config.node.asn => {
                // What is known is in the run directory: the next start begins with it.
                tracing::warn!(
                    from = %self.config.node.asn, to = %new.node.asn,
                    "the node's AS number changed (annotation podroute/asn); ending, to be started again with it"
                );
                let own = nix::unistd::Pid::this();
                let _ = nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGTERM);
                return;
            }
            Ok(new) => self.apply(new).await,
            Err(error) => Err(error.to_string()),
        };
        match applied {
            Ok(outcome) => tracing::info!(%outcome, "news of the cluster"),
            Err(error) => tracing::error!(%error, "news of the cluster cannot be applied"),
        }
    }

    async fn heed_taint(&mut self, there: bool) {
        let Some(drain) = self.drain.after_taint(there) else {
            return;
        };
        match self.drain(drain).await {
            Ok(outcome) => self.tell("Drain", false, "the taint", outcome),
            Err(error) => tracing::error!(%error, "the node's taint cannot be heeded"),
        }
    }

    pub(super) fn follow_cluster(&self) -> Option<cluster::Facts> {
        let wanted = self.config.from_kubernetes;
        wanted.any().then(|| cluster::follow(self.name(), wanted))
    }

    /// Whether what comes from Kubernetes is known, from now or from before.
    pub(super) fn knows_cluster(&self) -> bool {
        !self.config.from_kubernetes.any() || self.file.facts.cluster.is_some()
    }

    /// Makes the running agent like the configuration: the difference only.
    async fn apply(&mut self, new: Config) -> Result<String, String> {
        let restart = |what: &str| {
            Err(format!(
                "{what} changes only with a restart of the agent; the configuration stays as it was"
            ))
        };
        if let Some(what) = needs_restart(&self.config, &new) {
            return restart(what);
        }
        let host = self.host_for(&new).await?;
        (self.config, self.node.host) = (new, host);
        self.to_fib(ToFib::Reconfigure(fib_config(&self.config, &self.node.host)))
            .await;
        self.install_blocks().await;
        self.write_node_file().map_err(|error| error.to_string())?;
        let stopped = |error: AgentError| error.to_string();
        self.speaker
            .originate(self.originated())
            .await
            .map_err(|error| stopped(error.into()))?;
        self.put_peers().await.map_err(stopped)?;
        tracing::info!(peers = self.peers.ids.len(), "configuration reloaded");
        Ok(format!(
            "{}: reloaded, {} peers",
            self.file.path.display(),
            self.peers.ids.len()
        ))
    }
}

/// What differs that a running agent cannot change.
pub(super) fn needs_restart(old: &Config, new: &Config) -> Option<&'static str> {
    let fib = |config: &Config| {
        let fib = &config.fib;
        (
            (fib.install, fib.table, fib.max_paths),
            (fib.multipath_relax, fib.link_bandwidth, fib.resolve_via_default),
        )
    };
    let identity = |config: &Config| (config.node.asn, config.cluster.cluster_id);
    [
        (new.listen != old.listen, "listen"),
        (new.metrics != old.metrics, "metrics"),
        (
            new.from_kubernetes != old.from_kubernetes,
            "what comes from Kubernetes (node.blocks, mesh, services)",
        ),
        (
            identity(new) != identity(old),
            "cluster.asn, node.asn or cluster.clusterId",
        ),
        (
            fib(new) != fib(old),
            "fib (but for metric, nexthopObjects, resilientGroups and rulePriority)",
        ),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
}
