//! How the running agent changes: a file read again, or applied to news of the cluster. The difference only.

use std::sync::atomic::Ordering;

use bgp_proto::engine::EqualPaths;
use podroute_config::Config;

use super::{Agent, AgentError, config_of, fib_config, read_text};
use super::{changes, service_changes};
use crate::fib::task::ToFib;

impl Agent {
    /// Applies what changed in the file. What cannot change while the agent runs stays as it was until its next start.
    pub(super) async fn reload(&mut self) -> Result<String, String> {
        let outcome = self.take_file().await;
        self.reports
            .health
            .refused
            .store(outcome.is_err(), Ordering::Relaxed);
        match &outcome {
            Ok(outcome) => {
                tracing::info!(event = "reload_requested", "{outcome}");
                self.tell("ConfigTaken", false, "the configuration", outcome.clone());
            }
            Err(error) => self.tell("ConfigRefused", true, "the configuration", error.clone()),
        }
        outcome
    }

    /// Kubernetes swaps a mounted file without a word.
    pub(super) async fn look_at_file(&mut self) {
        if self.file.mounted.has_changed() {
            tracing::info!(event = "config_changed", "the mounted configuration changed");
            if let Err(error) = self.reload().await {
                tracing::error!(event = "reload_failed", %error, "configuration not reloaded; the previous one stays in force");
            }
        }
    }

    /// What the lists of policies hold may have changed.
    pub(super) async fn look_at_lists(&mut self) {
        if self.file.lists.look_again() {
            tracing::info!(event = "list_file_changed", "a file of a list changed");
            if let Err(error) = self.reload().await {
                tracing::error!(event = "reload_failed", %error, "configuration not reloaded; the previous one stays in force");
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
        self.file.lists.look(&text);
        self.file.facts.list_files = self.file.lists.contents();
        let new = config_of(&text, &self.file.path, &self.file.facts).map_err(stays)?;
        self.file.text = text;
        if new.from_kubernetes.any() && self.file.facts.cluster.is_none() {
            // Without what Kubernetes says the file says too little: everything stays until it has answered.
            self.file.waits = Some(new.from_kubernetes);
            return Ok(format!(
                "{}: applied as soon as the API server has answered",
                self.file.path.display()
            ));
        }
        self.apply(new).await
    }

    /// Makes the running agent like the configuration: the difference only.
    pub(super) async fn apply(&mut self, mut new: Config) -> Result<String, String> {
        let host = self.host_for(&new).await?;
        if self.node.next_router_id.get().is_some() {
            new.deferred.push("node.routerId");
        }
        if new.deferred != self.config.deferred {
            for field in &new.deferred {
                tracing::warn!(event = "restart_required", %field, "this field takes effect at the agent's next start");
            }
        }
        let changes = changes::in_words(&self.config, &new);
        service_changes::log(&self.config, &new);
        (self.config, self.node.host) = (new, host);
        self.file.waits = None;
        let stopped = |error: AgentError| error.to_string();
        self.to_fib(ToFib::Reconfigure(fib_config(&self.config, &self.node.host)))
            .await;
        self.speaker
            .multipath(equal_paths(&self.config))
            .await
            .map_err(|error| stopped(error.into()))?;
        self.install_blocks().await;
        self.enforce_policies();
        self.write_node_file();
        self.speaker
            .originate(self.originated())
            .await
            .map_err(|error| stopped(error.into()))?;
        let rules = self.originate_rules().await;
        self.speaker
            .originate_by_rules(rules)
            .await
            .map_err(|error| stopped(error.into()))?;
        self.put_peers().await.map_err(stopped)?;
        self.listen();
        self.serve_metrics();
        self.reports.list.look(&self.config.cni);
        self.report_cluster();
        if changes == changes::NOTHING {
            tracing::debug!(event = "reloaded", "configuration reloaded without a change");
        } else {
            tracing::info!(event = "reloaded", peers = self.peers.ids.len(), %changes, "configuration applied");
        }
        let later = match self.config.deferred.as_slice() {
            [] => String::new(),
            fields => format!("; takes effect at the next start: {}", fields.join("; ")),
        };
        let later = match &self.node.not_listening {
            None => later,
            Some(rejected) => format!("{later}; rejected: {rejected}"),
        };
        Ok(format!(
            "{}: reloaded: {changes}{later}",
            self.file.path.display()
        ))
    }
}

/// How the file wants equal paths used.
pub(super) fn equal_paths(config: &Config) -> EqualPaths {
    EqualPaths {
        max_paths: config.fib.max_paths,
        multipath_relax: config.fib.multipath_relax,
        link_bandwidth: config.fib.link_bandwidth,
    }
}
