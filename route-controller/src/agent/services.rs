//! Services: starts the allocator of their addresses, and `show services`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bgp_proto::types::{FamilySet, Prefix};
use podroute_config::{AddressOutcome, ServiceAddress, ServiceFact};
use podroute_services::Unannounced;
use tokio::sync::oneshot;

use super::Agent;
use crate::cluster::{Allocator, Candidacy, Report};
use crate::status::{PoolStatus, ServiceAddressStatus, ServiceStatus, ServicesStatus};

impl Agent {
    /// Has addresses allocated as the configuration says, as soon as it is known which nodes there are.
    pub(super) fn allocate(&mut self) {
        self.count_services();
        let nodes = self.file.facts.cluster.as_ref().map(|known| &known.nodes);
        let name = self.name();
        let candidacy = self.config.services.allocation.clone().zip(nodes);
        let candidacy = candidacy.map(|(allocation, nodes)| Candidacy {
            allocation,
            rank: nodes.keys().position(|node| *node == name).unwrap_or(nodes.len()),
        });
        if candidacy.is_none() && self.reports.allocator.is_none() {
            return;
        }
        let reports = Arc::clone(&self.reports.health.allocation);
        let allocator = self
            .reports
            .allocator
            .get_or_insert_with(|| Allocator::start(&name, reports));
        allocator.set(candidacy);
    }

    pub(super) fn show_services(&self, answer: oneshot::Sender<ServicesStatus>) {
        let report = self.reports.health.allocation.get();
        let known = self.file.facts.cluster.as_ref().map(|known| &known.services);
        let services = known.into_iter().flatten();
        let services = services.filter(|(name, service)| self.is_shown(name, service));
        let status = ServicesStatus {
            allocates: self.config.services.allocation.is_some(),
            allocator: report.holder.clone(),
            is_allocator: report.is_own,
            last_error: report.last_error.clone(),
            pools: pools(&report),
            services: services
                .map(|(name, service)| self.service_status(name, service, &report))
                .collect(),
        };
        let _ = answer.send(status); // whoever asked may have gone
    }

    /// Not those that have clusterIPs alone which are not announced.
    fn is_shown(&self, name: &str, service: &ServiceFact) -> bool {
        let outcomes = self.config.services.outcomes.get(name).into_iter().flatten();
        let is_outside =
            |outcome: &AddressOutcome| outcome.kind != ServiceAddress::Cluster || outcome.outcome.is_ok();
        service.load_balancer || outcomes.into_iter().any(is_outside)
    }

    fn service_status(&self, name: &str, service: &ServiceFact, report: &Report) -> ServiceStatus {
        let outcomes = self.config.services.outcomes.get(name);
        let outcomes = outcomes.into_iter().flatten();
        let outcomes = outcomes
            .filter(|one| one.outcome != Err(Unannounced::KindOff) || one.kind != ServiceAddress::Cluster);
        let problems = report.problems.get(name).cloned();
        ServiceStatus {
            name: name.to_owned(),
            addresses: outcomes.map(|outcome| self.address_status(outcome)).collect(),
            pending: is_pending(service),
            endpoints_here: families(service.endpoint_here),
            endpoints_anywhere: families(service.endpoint_anywhere),
            problems: problems.unwrap_or_default(),
        }
    }

    fn address_status(&self, one: &AddressOutcome) -> ServiceAddressStatus {
        let services = &self.config.services;
        let pools = services
            .allocation
            .iter()
            .flat_map(|allocation| &allocation.settings.pools);
        let pool = pools
            .into_iter()
            .find(|pool| pool.contains(one.address))
            .map(|pool| pool.name.clone());
        let drained = self.drain.withdraw.then(|| self.drain.to_string());
        let communities = |prefix: &Prefix| {
            let found = services
                .hosts
                .get(prefix)
                .or_else(|| services.aggregates.get(prefix));
            found.into_iter().flatten().map(ToString::to_string).collect()
        };
        ServiceAddressStatus {
            address: one.address,
            kind: match one.kind {
                ServiceAddress::LoadBalancer => "loadBalancer",
                ServiceAddress::External => "external",
                ServiceAddress::Cluster => "cluster",
            }
            .to_owned(),
            pool,
            announced: one
                .outcome
                .as_ref()
                .ok()
                .filter(|_| drained.is_none())
                .map(ToString::to_string),
            not_announced: one.outcome.as_ref().err().map(ToString::to_string).or(drained),
            communities: one.outcome.as_ref().map_or_else(|_| Vec::new(), communities),
        }
    }

    fn count_services(&self) {
        let mut counts: BTreeMap<&'static str, usize> = STATES.map(|state| (state, 0)).into();
        let known = self.file.facts.cluster.as_ref().map(|known| &known.services);
        for (name, service) in known
            .into_iter()
            .flatten()
            .filter(|(name, service)| self.is_shown(name, service))
        {
            let outcomes = self.config.services.outcomes.get(name);
            let state = state(service, outcomes.map_or(&[], Vec::as_slice));
            *counts.entry(state).or_default() += 1;
        }
        if let Ok(mut known) = self.reports.health.services.lock() {
            *known = counts;
        }
    }
}

/// States of a Service on this node, for metrics.
const STATES: [&str; 4] = ["announced", "not_announced", "pending", "rejected"];

fn state(service: &ServiceFact, outcomes: &[AddressOutcome]) -> &'static str {
    let is_refused = |one: &AddressOutcome| matches!(one.outcome, Err(Unannounced::Refused(_)));
    if outcomes.iter().any(is_refused) {
        "rejected"
    } else if is_pending(service) {
        "pending"
    } else if outcomes.iter().any(|one| one.outcome.is_ok()) {
        "announced"
    } else {
        "not_announced"
    }
}

fn is_pending(service: &ServiceFact) -> bool {
    let has = service
        .addresses
        .iter()
        .any(|(kind, _)| *kind == ServiceAddress::LoadBalancer);
    service.load_balancer && !has
}

fn families(set: FamilySet) -> Vec<String> {
    set.iter().map(|family| family.to_string()).collect()
}

fn pools(report: &Report) -> Vec<PoolStatus> {
    let number = |count: u128| u64::try_from(count).unwrap_or(u64::MAX);
    let one = |pool: &podroute_services::PoolUse| PoolStatus {
        name: pool.name.clone(),
        size: number(pool.size),
        used: number(pool.used),
        free: number(pool.size.saturating_sub(pool.used)),
    };
    report.pools.iter().map(one).collect()
}
