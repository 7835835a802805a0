//! Applies cluster updates: facts, annotations, the drain taint; reports the node's condition and rejected facts.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use podroute_config::{
    ASN_ANNOTATION, ClusterFacts, Config, FromKubernetes, NodeFact, PEERS_ANNOTATION, Rejected,
};
use tokio::sync::oneshot;

use super::config_file::config_of;
use super::reload::Applied;
use super::{Agent, AgentError};
use crate::cluster::{self, Network, Throttle, Watches};
use crate::metrics::INITIAL_ROUTES;
use crate::node_route::NodeRoute;
use crate::status::{ClusterStatus, ConfigurationStatus, RejectedStatus, WatchStatus};

/// The log names at most this number of rejected facts at a time; `podroute show cluster` names all.
const REJECTED_LOGGED: usize = 10;

/// What is followed, and what was reported of it.
#[derive(Default)]
pub(super) struct Followed {
    pub(super) wanted: FromKubernetes,
    pub(super) watches: Watches,
    /// When the configuration is applied to an update.
    pub(super) throttle: Throttle,
    /// What is rejected, as last reported.
    reported: BTreeSet<Rejected>,
    /// Why the node is not ready, as last reported.
    unready: Vec<String>,
    /// What Kubernetes says, as it says it, where that is not kept for a restart yet.
    to_keep: Option<ClusterFacts>,
    /// It could not be kept the last time.
    keeping_fails: bool,
    /// What became of annotations that cannot be used, while older ones are in force.
    annotations: Vec<Rejected>,
}

impl Agent {
    /// Kubernetes says something new: the same file, applied to it.
    pub(super) async fn learn(&mut self, facts: ClusterFacts) {
        let (began, announced) = (crate::clock::now(), self.originated());
        let own = facts.nodes.get(&self.name());
        let draining = own.is_some_and(|node| node.draining);
        let uid = own.map(|node| node.uid.clone()).unwrap_or_default();
        self.file.followed.to_keep = Some(facts.clone());
        let before = self.file.facts.cluster.replace(facts);
        if before.is_none() {
            self.keep_facts();
        }
        self.apply_node_uid(&uid).await;
        self.apply_taint(draining).await;
        let applied = match self.config_with_annotations(before.as_ref()) {
            Ok(new) if self.has_another_asn(before.as_ref()) => {
                // What is known is in the run directory: the next start begins with it.
                tracing::warn!(event = "asn_changed", asn = %new.node.asn, "the node's AS number changed (annotation podroute/asn); agent stopping, so that it is restarted with it");
                self.keep_facts();
                let own = nix::unistd::Pid::this();
                let _ = nix::sys::signal::kill(own, nix::sys::signal::Signal::SIGTERM);
                return;
            }
            Ok(new) => self.apply(new).await,
            Err(error) => Err(error.into()),
        };
        match applied {
            Ok(Applied { text, has_changes }) => {
                if self.originated() != announced {
                    self.measure_updates(began);
                }
                if has_changes {
                    tracing::info!(event = "reloaded", "{text}");
                } else {
                    tracing::debug!(event = "cluster_update", "{text}");
                }
            }
            Err(error) => {
                tracing::error!(event = "cluster_update_failed", %error, "cannot apply a cluster update");
            }
        }
    }

    /// Measures until the speaker has decided on what was originated. The agent does not wait for it.
    fn measure_updates(&self, began: std::time::Instant) {
        let (speaker, span) = (
            self.speaker.clone(),
            self.reports.health.measured.event_to_update.clone(),
        );
        tokio::spawn(async move {
            if speaker.decided().await.is_ok() {
                span.observe(crate::clock::now().saturating_duration_since(began));
            }
        });
    }

    /// Keeps what Kubernetes says for a start while it is away: the first facts at once, and others now and then, for in a large
    /// cluster they are long and change all the time.
    pub(super) fn keep_facts(&mut self) {
        let Some(facts) = self.file.followed.to_keep.take() else {
            return;
        };
        let written = cluster::cache::write(&self.node.run_dir, &facts);
        let followed = &mut self.file.followed;
        if let Err(error) = &written {
            if !followed.keeping_fails {
                tracing::warn!(event = "state_not_saved", state = "cluster", %error, "cannot save the cluster's objects for a restart without the API server; trying again");
            }
            followed.to_keep = Some(facts);
        }
        followed.keeping_fails = written.is_err();
    }

    /// The file with what is known. An annotation that cannot be used leaves the last good one in force.
    fn config_with_annotations(&mut self, before: Option<&ClusterFacts>) -> Result<Config, AgentError> {
        let name = self.name();
        let load = |agent: &Self| config_of(&agent.file.text, &agent.file.path, &agent.file.facts);
        let first = load(self)?;
        let is_bad = |annotation: &str| {
            let subject = format!("annotation {annotation}");
            let is_it = |why: &&String| why.starts_with(&subject);
            first.unready.iter().find(is_it).is_some()
        };
        let bad = [ASN_ANNOTATION, PEERS_ANNOTATION].map(is_bad);
        self.file.followed.annotations.clear();
        let old = before.and_then(|known| known.nodes.get(&name)).cloned();
        let (Some(old), true) = (old, bad.contains(&true)) else {
            return Ok(first);
        };
        let facts = self.file.facts.cluster.as_mut();
        if let Some(fact) = facts.and_then(|known| known.nodes.get_mut(&name)) {
            put_back(fact, old, bad);
        }
        let is_annotation = |rejected: &&Rejected| rejected.subject.starts_with("annotation ");
        self.file.followed.annotations = first.rejected.iter().filter(is_annotation).cloned().collect();
        load(self)
    }

    /// The annotation wants another AS number than what runs.
    fn has_another_asn(&self, before: Option<&ClusterFacts>) -> bool {
        let name = self.name();
        let annotated = |known: Option<&ClusterFacts>| known?.nodes.get(&name)?.asn.clone();
        let now = self.file.facts.cluster.as_ref();
        if annotated(before) == annotated(now) {
            return false;
        }
        let facts = podroute_config::NodeFacts {
            running: None,
            ..self.file.facts.clone()
        };
        let fresh = config_of(&self.file.text, &self.file.path, &facts);
        fresh.is_ok_and(|config| config.node.asn != self.config.node.asn)
    }

    /// A drain belongs to the Node object that was there when it was asked for.
    async fn apply_node_uid(&mut self, uid: &str) {
        if uid.is_empty() {
            return;
        }
        if let Some(condition) = &self.reports.condition {
            condition.node_is(uid);
        }
        if let Some(node_route) = &self.reports.node_route {
            node_route.node_is(uid);
        }
        let Some(drain) = self.drain.after_node(uid) else {
            return;
        };
        let ended = !drain.on;
        match self.drain(drain).await {
            Ok(_) if ended => {
                let message =
                    "the Node object was recreated: the drain of the previous one is over".to_owned();
                tracing::warn!(event = "drain_changed", "{message}");
                self.post_event("Drain", false, "the Node object", message);
            }
            Ok(_) => {}
            Err(error) => tracing::error!(event = "drain_failed", %error, "cannot keep the node drained"),
        }
    }

    async fn apply_taint(&mut self, there: bool) {
        let Some(drain) = self.drain.after_taint(there) else {
            return;
        };
        match self.drain(drain).await {
            Ok(outcome) => self.post_event("Drain", false, "the taint", outcome),
            Err(error) => tracing::error!(event = "drain_failed", %error, "cannot apply the drain taint"),
        }
    }

    /// Follows what the configuration wants of Kubernetes from now on, if that is something else than what is followed.
    pub(super) fn follow_cluster(&mut self, facts: &mut Option<cluster::Facts>, wanted: FromKubernetes) {
        let followed = &mut self.file.followed;
        if followed.wanted == wanted {
            return;
        }
        followed.wanted = wanted;
        let (name, watches) = (self.name(), self.file.followed.watches.clone());
        *facts = wanted.any().then(|| cluster::follow(name, wanted, watches));
        if wanted.any() && self.reports.events.is_none() {
            self.reports.events = Some(cluster::Events::start(self.name()));
        }
        if wanted.network && self.reports.condition.is_none() {
            self.reports.condition = Some(cluster::Condition::of(self.name()));
        }
        if wanted.any() && self.reports.node_route.is_none() {
            self.reports.node_route = Some(NodeRoute::start(self.name(), self.server()));
        }
        let waits = wanted.any() && self.file.facts.cluster.is_none();
        self.reports
            .health
            .waits_for_cluster
            .store(waits, Ordering::Relaxed);
    }

    /// Whether what comes from Kubernetes is known, from now or from before.
    pub(super) fn knows_cluster(&self) -> bool {
        !self.config.from_kubernetes.any() || self.file.facts.cluster.is_some()
    }

    /// What is rejected, as [`Followed::reported`] has it.
    fn rejected(&self) -> BTreeSet<Rejected> {
        let all = self.config.rejected.iter().chain(&self.file.followed.annotations);
        all.chain(&self.node.not_listening).cloned().collect()
    }

    /// Reports what is rejected and why the node is not ready, once each.
    pub(super) fn report_cluster(&mut self) {
        self.allocate();
        let now = self.rejected();
        let news: Vec<Rejected> = now.difference(&self.file.followed.reported).cloned().collect();
        for rejected in news.iter().take(REJECTED_LOGGED) {
            tracing::warn!(event = "rejected", "rejected: {rejected}");
        }
        if news.len() > REJECTED_LOGGED {
            tracing::warn!(
                event = "rejected",
                "and {} more are rejected; 'podroute show cluster' lists all",
                news.len() - REJECTED_LOGGED
            );
        }
        for rejected in news {
            let message = format!("rejected: {rejected}");
            self.post_event("Rejected", true, &rejected.subject, message);
        }
        self.reports.health.rejected.store(now.len(), Ordering::Relaxed);
        self.file.followed.reported = now;
        let annotations = self.file.followed.annotations.iter().map(ToString::to_string);
        let unready: Vec<String> = self.config.unready.iter().cloned().chain(annotations).collect();
        for why in &unready {
            if !self.file.followed.unready.contains(why) {
                tracing::warn!(event = "not_ready", "the node is not ready: {why}");
                self.post_event("NotReady", true, why, format!("the node is not ready: {why}"));
            }
        }
        self.file.followed.unready = unready;
        self.check_sessions();
    }

    /// Updates probes, the node's condition and `show`: what is still waited for.
    pub(super) fn check_sessions(&mut self) {
        let health = &self.reports.health;
        let waits = !self.knows_cluster();
        health.waits_for_cluster.store(waits, Ordering::Relaxed);
        health.drained.store(self.drain.level(), Ordering::Relaxed);
        if waits {
            return; // nor is it known which peers are this node's
        }
        let mut obstacles = self.file.followed.unready.clone();
        if self.drain.withdraw {
            obstacles.push(self.drain.to_string());
        }
        let is_lacking = !obstacles.is_empty();
        obstacles.extend(self.sessions.obstacle());
        let is_settled = health.settled.load(Ordering::Relaxed);
        if let Some(condition) = &self.reports.condition {
            if self.drain.withdraw {
                condition.say(Network::Drained);
            } else if obstacles.is_empty() && is_settled {
                condition.say(Network::Available);
            } else if self.sessions.is_first_start() || is_lacking {
                let why = obstacles.first().map_or(INITIAL_ROUTES, String::as_str);
                condition.say(Network::Unavailable(why.to_owned()));
            }
        }
        if let Ok(mut known) = health.obstacles.lock() {
            *known = obstacles;
        }
    }

    pub(super) fn show_cluster(&self, answer: oneshot::Sender<ClusterStatus>) {
        let facts = self.file.facts.cluster.as_ref();
        let watch = |(resource, watch): (&str, cluster::Watch)| WatchStatus {
            resource: resource.to_owned(),
            answers: watch.answers,
            since_seconds: watch.since.map(|since| since.elapsed().as_secs()),
            failures: watch.failures,
            last_error: watch.last_error,
        };
        let services = &self.config.services;
        let status = ClusterStatus {
            node: self.name(),
            not_ready: self.reports.health.all_obstacles(),
            drained: match self.drain.level() {
                0 => "no",
                1 => "prefer-others",
                _ => "withdrawn",
            }
            .to_owned(),
            followed: self.file.followed.wanted.any(),
            nodes: facts.map_or(0, |facts| facts.nodes.len()),
            services: facts.map_or(0, |facts| facts.services.len()),
            announced: services.hosts.len() + services.aggregates.len(),
            watches: self
                .file
                .followed
                .watches
                .all()
                .into_iter()
                .chain(self.reports.network_policies.watches())
                .map(watch)
                .collect(),
            rejected: self
                .rejected()
                .into_iter()
                .map(|Rejected { subject, reason }| RejectedStatus { subject, reason })
                .collect(),
            next_start: self
                .config
                .deferred
                .iter()
                .map(|&field| field.to_owned())
                .collect(),
            configuration: ConfigurationStatus::new(
                &self.file.text,
                self.reports.health.refused.load(Ordering::Relaxed),
            ),
        };
        let _ = answer.send(status); // whoever asked may have gone
    }
}

/// The annotations that were good before, in place of those that are not.
fn put_back(fact: &mut NodeFact, old: NodeFact, [asn, peers]: [bool; 2]) {
    if asn {
        fact.asn = old.asn;
    }
    if peers {
        fact.peers = old.peers;
    }
}
