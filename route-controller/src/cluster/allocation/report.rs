//! Allocation in `show services` and metrics.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use podroute_services::PoolUse;

/// How allocation is doing. Only the holder of the Lease knows more than its name.
#[derive(Clone, Default, Debug)]
pub(crate) struct Report {
    /// The holder of the Lease, with the part behind its node's name.
    pub(crate) holder: Option<String>,
    /// This agent holds it.
    pub(crate) is_own: bool,
    pub(crate) pools: Vec<PoolUse>,
    /// Services that lack something, by `namespace/name`, and why.
    pub(crate) problems: BTreeMap<String, Vec<String>>,
    /// Writes whose effect was not seen yet.
    pub(crate) under_way: usize,
    /// Writes of this agent that were answered, and that failed, since it started.
    pub(crate) writes: u64,
    pub(crate) failures: u64,
    /// Why the last request failed; none after one that did not.
    pub(crate) last_error: Option<String>,
}

/// The latest report: the allocator's task writes it, others read it.
#[derive(Debug, Default)]
pub(crate) struct Reports(Mutex<Report>);

impl Reports {
    pub(crate) fn get(&self) -> Report {
        self.lock().clone()
    }

    pub(super) fn set(&self, report: Report) {
        *self.lock() = report;
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut Report)) {
        change(&mut self.lock());
    }

    /// Another agent holds the Lease.
    pub(super) fn holder(&self, holder: Option<String>) {
        self.change(|report| {
            let (writes, failures) = (report.writes, report.failures);
            *report = Report {
                holder: holder.filter(|holder| !holder.is_empty()),
                writes,
                failures,
                ..Report::default()
            };
        });
    }

    /// Logs the first of several failures.
    pub(super) fn failed(&self, error: &kube::Error) {
        let error = error.to_string();
        let mut report = self.lock();
        report.failures += 1;
        if report.last_error.replace(error.clone()).is_none() {
            tracing::warn!(
                event = "allocation_failed",
                %error,
                "a request for the allocation of addresses failed and is repeated; the account needs the rights of \
                 examples/kubernetes/base/rbac.yaml"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
