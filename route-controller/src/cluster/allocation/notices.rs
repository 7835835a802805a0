//! Publishes decisions: Events on Services, and the report for `show services`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service as Object;
use kube::ResourceExt;
use podroute_services::{Key, Plan, Problem};

use super::Reports;
use crate::cluster::events::{About, Events, NewEvent};

/// Where decisions are published.
pub(super) struct Notices {
    events: Events,
    /// Problems of which an Event was posted.
    posted: BTreeMap<Key, BTreeSet<Problem>>,
    pub(super) reports: Arc<Reports>,
}

impl Notices {
    pub(super) fn new(node: &str, reports: Arc<Reports>) -> Self {
        Self {
            events: Events::start(node.to_owned()),
            posted: BTreeMap::new(),
            reports,
        }
    }

    /// Posts an Event for each problem that is new, and renews the report. False: some Events have to be posted later.
    pub(super) fn publish(&mut self, plan: Plan, objects: &BTreeMap<Key, Object>, under_way: usize) -> bool {
        let is_posted = self.post(&plan, objects);
        let lacking = plan
            .services
            .iter()
            .filter(|(_, decision)| !decision.problems.is_empty());
        let problems = lacking.map(|(key, decision)| {
            let texts = decision.problems.iter().map(ToString::to_string);
            (key.to_string(), texts.collect())
        });
        let problems = problems.collect();
        self.reports.change(|report| {
            report.pools = plan.pools;
            report.problems = problems;
            report.under_way = under_way;
        });
        is_posted
    }

    fn post(&mut self, plan: &Plan, objects: &BTreeMap<Key, Object>) -> bool {
        let now = std::time::Instant::now();
        let mut is_complete = true;
        self.posted.retain(|key, _| plan.services.contains_key(key));
        for (key, decision) in &plan.services {
            let posted = self.posted.entry(key.clone()).or_default();
            posted.retain(|problem| decision.problems.contains(problem));
            let new = decision
                .problems
                .iter()
                .filter(|problem| !posted.contains(problem));
            for problem in new.cloned().collect::<Vec<_>>() {
                let about = About::Service {
                    namespace: key.namespace.clone(),
                    name: key.name.clone(),
                    uid: objects.get(key).and_then(ResourceExt::uid).unwrap_or_default(),
                };
                let event = NewEvent {
                    about,
                    reason: problem.reason(),
                    warning: true,
                    message: problem.to_string(),
                };
                if self.events.post(now, &key.to_string(), event) {
                    posted.insert(problem);
                } else {
                    is_complete = false;
                }
            }
        }
        self.posted.retain(|_, problems| !problems.is_empty());
        is_complete
    }
}
