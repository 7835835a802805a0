//! Reload: the difference between the running and the new configuration is applied.

use std::sync::atomic::Ordering;

use bgp_proto::engine::EqualPaths;
use podroute_config::Config;

use super::changes;
use super::config_file::{config_of, read_text};
use super::{Agent, CommandError, fib_config};
use crate::cluster::{About, NewEvent};
use crate::fib::task::ToFib;

/// What became of a configuration.
pub(super) struct Applied {
    pub(super) has_changes: bool,
    pub(super) text: String,
}

impl Agent {
    /// Applies what changed in the file. What cannot change while the agent runs stays as it was until its next start.
    pub(super) async fn reload(&mut self) -> Result<String, CommandError> {
        let outcome = self.take_file().await;
        let health = &self.reports.health;
        health.refused.store(outcome.is_err(), Ordering::Relaxed);
        health.measured.config.note(outcome.is_ok());
        match &outcome {
            Ok(Applied { text, .. }) => {
                tracing::info!(event = "reloaded", "{text}");
                self.post_event("ConfigTaken", false, "the configuration", text.clone());
            }
            Err(error) => {
                tracing::error!(event = "reload_failed", %error, "configuration not reloaded; the previous one stays in force");
                self.post_event("ConfigRefused", true, "the configuration", error.to_string());
            }
        }
        outcome.map(|applied| applied.text)
    }

    /// Kubernetes swaps a mounted file without a word.
    pub(super) async fn check_file(&mut self) {
        if self.file.mounted.has_changed() {
            tracing::info!(event = "config_changed", "the mounted configuration changed");
            let _ = self.reload().await; // logged
        }
    }

    /// What the lists of policies hold may have changed.
    pub(super) async fn check_lists(&mut self) {
        if self.file.lists.look_again() {
            tracing::info!(event = "list_file_changed", "a file of a list changed");
            let _ = self.reload().await; // logged
        }
    }

    /// An Event on the node's object, where Kubernetes is followed.
    pub(super) fn post_event(&mut self, reason: &'static str, warning: bool, subject: &str, message: String) {
        if let Some(events) = &mut self.reports.events {
            let event = NewEvent {
                about: About::Node,
                reason,
                warning,
                message,
            };
            events.post(crate::clock::now(), subject, event);
        }
    }

    async fn take_file(&mut self) -> Result<Applied, CommandError> {
        let text = read_text(&self.file.path).map_err(CommandError::Unchanged)?;
        self.file.mounted.saw(&text);
        self.file.lists.look(&text);
        self.file.facts.list_files = self.file.lists.contents();
        let new = config_of(&text, &self.file.path, &self.file.facts);
        let new = new.map_err(CommandError::Unchanged)?;
        self.file.text = text;
        if new.from_kubernetes.any() && self.file.facts.cluster.is_none() {
            // Without what Kubernetes says the file says too little: everything stays until it has answered.
            self.file.waits = Some(new.from_kubernetes);
            return Ok(Applied {
                has_changes: false,
                text: format!(
                    "{}: applied as soon as the API server has answered",
                    self.file.path.display()
                ),
            });
        }
        self.apply(new).await
    }

    /// Makes the running agent like the configuration: the difference only.
    pub(super) async fn apply(&mut self, mut new: Config) -> Result<Applied, CommandError> {
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
        (self.config, self.node.host) = (new, host);
        self.file.waits = None;
        self.to_fib(ToFib::Reconfigure(fib_config(&self.config, &self.node.host)))
            .await;
        self.speaker.multipath(equal_paths(&self.config)).await?;
        self.install_blocks().await;
        self.enforce_policies();
        self.write_node_file();
        self.speaker.originate(self.originated()).await?;
        let rules = self.originate_rules().await;
        self.speaker.originate_by_rules(rules).await?;
        self.put_peers().await?;
        self.listen();
        self.serve_metrics();
        self.serve_glass();
        self.reports.list.look(&self.config.cni);
        self.report_cluster();
        let later = match self.config.deferred.as_slice() {
            [] => String::new(),
            fields => format!("; takes effect at the next start: {}", fields.join("; ")),
        };
        let later = match &self.node.not_listening {
            None => later,
            Some(rejected) => format!("{later}; rejected: {rejected}"),
        };
        Ok(Applied {
            has_changes: changes != changes::NOTHING,
            text: format!("{}: reloaded: {changes}{later}", self.file.path.display()),
        })
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
