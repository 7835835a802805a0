//! Comparison with a complete reading of the kernel that was made while changes went on.
//!
//! From [`Delta::begin_audit`] to [`Delta::end_audit`] the keys are noted of which something newer is known than the
//! reading can say: outcomes of changes, and notifications. They are left out, as is what is doubtful and will be written
//! again in any case.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::{Delta, Kernel, RouteKey, RouteSpec, enqueue};

impl Delta {
    /// A reading begins.
    pub(crate) fn begin_audit(&mut self) {
        self.newer = Some(FxHashSet::default());
    }

    /// Something newer than a reading under way is known of this key.
    pub(super) fn note(&mut self, key: RouteKey) {
        if let Some(newer) = &mut self.newer {
            newer.insert(key);
        }
    }

    fn is_newer(&self, key: &RouteKey) -> bool {
        self.newer.as_ref().is_none_or(|newer| newer.contains(key))
    }

    /// Compares some routes of the reading; gives how many are not as known.
    pub(crate) fn audit(&mut self, found: impl IntoIterator<Item = (RouteKey, RouteSpec)>) -> usize {
        let mut differ = 0;
        for (key, spec) in found {
            if !self.is_newer(&key) {
                differ += usize::from(self.audit_one(key, spec));
            }
        }
        differ
    }

    fn audit_one(&mut self, key: RouteKey, spec: RouteSpec) -> bool {
        let entry = self.entries.entry(key).or_default();
        entry.checked = true;
        let known = match &entry.kernel {
            Kernel::Has(known) => **known == spec,
            Kernel::Unsure => true,
            Kernel::Nothing => false,
        };
        if entry.in_flight || known {
            return false;
        }
        entry.kernel = Kernel::Has(Arc::new(spec));
        if !entry.orphan {
            enqueue(&mut self.queue, key, entry);
        }
        self.retries.remove(&key);
        true
    }

    /// The whole reading was compared: what was not in it is gone. Gives how many routes that are.
    pub(crate) fn end_audit(&mut self) -> usize {
        let Some(newer) = self.newer.take() else { return 0 };
        let mut gone = 0;
        for (key, entry) in &mut self.entries {
            let found = std::mem::take(&mut entry.checked);
            let should = matches!(entry.kernel, Kernel::Has(_)) && !entry.in_flight;
            if should && !found && !newer.contains(key) {
                // Written in any case, whatever the reading missed.
                entry.kernel = Kernel::Unsure;
                gone += 1;
                if !entry.orphan {
                    enqueue(&mut self.queue, *key, entry);
                }
            }
        }
        gone
    }

    /// The reading failed: nothing is compared.
    pub(crate) fn abandon_audit(&mut self) {
        self.newer = None;
    }
}
