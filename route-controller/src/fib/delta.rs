//! Desired, kernel and pending: which changes bring the kernel to what is wanted.
//!
//! Pure. The outcome depends on the present state alone: what is wanted, what the kernel has as far as we
//! know, and what is on its way. [`Delta::take`] gives changes, [`Delta::done`] their outcome,
//! [`Delta::observe`] what others did. A route that fails is tried again with a delay that doubles from one
//! second to one minute; it never stops the others.
//!
//! Routes that were found at the start and are not wanted (orphans) stay until [`Delta::sweep`].
//!
//! Changes are made in rounds: what has come by the time a round begins, each round in the order that is the least work for the
//! kernel ([`super::order`]). So nothing waits for what came later than the round before it began.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use rustc_hash::{FxHashMap, FxHashSet};

mod audit;
mod retries;

use self::retries::{Retries, Retry};
use super::order;
use super::route::{RouteKey, RouteSpec};

/// A change to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Create it; fail if anybody has this key.
    Add(RouteKey, Arc<RouteSpec>),
    /// Put it in place of the own route.
    Replace(RouteKey, Arc<RouteSpec>),
    /// Remove the own route.
    Remove(RouteKey),
}

impl Op {
    pub(crate) fn key(&self) -> RouteKey {
        match self {
            Op::Add(key, _) | Op::Replace(key, _) | Op::Remove(key) => *key,
        }
    }
}

/// How a change failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// Somebody else has this key.
    Exists,
    /// There was nothing to remove.
    Missing,
    /// Anything else, by errno.
    Errno(i32),
}

/// What is known of the kernel's side of a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Kernel {
    #[default]
    Nothing,
    /// Ours, as given.
    Has(Arc<RouteSpec>),
    /// Ours, but it may have gone or changed without a word.
    Unsure,
}

impl Kernel {
    fn is_nothing(&self) -> bool {
        matches!(self, Kernel::Nothing)
    }
}

/// How a wanted route is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Installed,
    Pending,
    Failed(Failure),
}

/// What is known of a key.
#[derive(Debug, Default)]
struct Entry {
    desired: Option<Arc<RouteSpec>>,
    kernel: Kernel,
    /// A change is under way.
    in_flight: bool,
    /// Stands in the queue.
    queued: bool,
    /// Others changed it while an own change was under way.
    doubtful: bool,
    /// Found at the start and not wanted so far.
    orphan: bool,
    /// Was in the reading that is being compared.
    checked: bool,
}

impl Entry {
    fn change(&self, key: RouteKey) -> Option<Op> {
        match (&self.desired, &self.kernel) {
            (Some(wanted), Kernel::Has(had)) if wanted == had => None,
            (Some(wanted), Kernel::Nothing) => Some(Op::Add(key, Arc::clone(wanted))),
            (Some(wanted), _) => Some(Op::Replace(key, Arc::clone(wanted))),
            (None, Kernel::Nothing) => None,
            (None, _) => Some(Op::Remove(key)),
        }
    }

    /// Nothing is wanted, there or under way.
    fn is_over(&self) -> bool {
        self.desired.is_none() && self.kernel.is_nothing() && !self.in_flight && !self.queued
    }

    fn progress(&self, retry: Option<&Retry>) -> Progress {
        match (retry, &self.kernel) {
            (Some(retry), _) => Progress::Failed(retry.failure),
            (None, Kernel::Has(had)) if Some(had) == self.desired.as_ref() => Progress::Installed,
            _ => Progress::Pending,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Delta {
    entries: FxHashMap<RouteKey, Entry>,
    /// Keys to look at, in the order of this round.
    round: std::vec::IntoIter<RouteKey>,
    /// Those of the next round; those in flight come back when their outcome is known.
    queue: Vec<RouteKey>,
    flying: usize,
    retries: Retries,
    /// Keys that changed since a reading began that is under way.
    newer: Option<FxHashSet<RouteKey>>,
}

/// Puts a key into the queue, once.
fn enqueue(queue: &mut Vec<RouteKey>, key: RouteKey, entry: &mut Entry) {
    if !std::mem::replace(&mut entry.queued, true) {
        queue.push(key);
    }
}

impl Delta {
    /// What is wanted for a key; `None` for nothing.
    pub(crate) fn want(&mut self, key: RouteKey, spec: Option<Arc<RouteSpec>>) {
        if spec.is_none() && !self.entries.contains_key(&key) {
            return;
        }
        let entry = self.entries.entry(key).or_default();
        if spec.is_some() {
            entry.orphan = false;
        }
        if entry.desired == spec {
            return;
        }
        entry.desired = spec;
        enqueue(&mut self.queue, key, entry);
        self.retries.remove(&key);
    }

    /// An own route that was there before the start. It stays if it is wanted, or until the sweep.
    pub(crate) fn adopt(&mut self, key: RouteKey, spec: Arc<RouteSpec>) {
        let entry = self.entries.entry(key).or_default();
        entry.kernel = Kernel::Has(spec);
        if entry.desired.is_some() {
            enqueue(&mut self.queue, key, entry);
        } else {
            entry.orphan = true;
        }
    }

    /// Another program changed an own key. True when it is not as wanted.
    pub(crate) fn observe(&mut self, key: RouteKey, spec: Option<Arc<RouteSpec>>) -> bool {
        self.note(key);
        let entry = self.entries.entry(key).or_default();
        if entry.in_flight {
            // Older or newer than the own change? Look again when its outcome is known.
            entry.kernel = Kernel::Unsure;
            entry.doubtful = true;
            return false;
        }
        let differs = entry.desired != spec;
        if spec.is_none() {
            entry.orphan = false;
        }
        entry.kernel = spec.map_or(Kernel::Nothing, Kernel::Has);
        if differs && !entry.orphan {
            enqueue(&mut self.queue, key, entry);
        }
        let broken = differs && entry.desired.is_some();
        if entry.is_over() {
            self.entries.remove(&key);
            self.retries.remove(&key);
        }
        broken
    }

    /// Routes for which this holds may have gone without a word (a link went down, an address went away).
    pub(crate) fn doubt(&mut self, suspect: impl Fn(&RouteSpec) -> bool) {
        for (key, entry) in &mut self.entries {
            // What is on its way may arrive before what is doubted, and go with it.
            let is_wanted = entry.desired.as_deref().is_some_and(&suspect);
            entry.doubtful |= entry.in_flight && is_wanted;
            if matches!(&entry.kernel, Kernel::Has(spec) if suspect(spec)) {
                entry.kernel = Kernel::Unsure;
                entry.doubtful |= entry.in_flight;
                if !entry.orphan {
                    enqueue(&mut self.queue, *key, entry);
                }
            }
        }
    }

    /// The route of this key may have changed or gone without a word.
    pub(crate) fn doubt_key(&mut self, key: RouteKey) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.kernel.is_nothing()
        {
            entry.kernel = Kernel::Unsure;
            entry.doubtful |= entry.in_flight;
            enqueue(&mut self.queue, key, entry);
        }
    }

    /// Routes that were found at the start and are not wanted so far.
    pub(crate) fn orphans(&self) -> usize {
        self.entries.values().filter(|entry| entry.orphan).count()
    }

    /// Orphans go from now on.
    pub(crate) fn sweep(&mut self) -> usize {
        let mut count = 0;
        for (key, entry) in &mut self.entries {
            if std::mem::take(&mut entry.orphan) {
                enqueue(&mut self.queue, *key, entry);
                count += 1;
            }
        }
        count
    }

    /// At most `most` changes to make now.
    pub(crate) fn take(&mut self, now: Instant, most: usize) -> Vec<Op> {
        while let Some(key) = self.retries.next_due(now) {
            if let Some(entry) = self.entries.get_mut(&key) {
                enqueue(&mut self.queue, key, entry);
            }
        }
        let mut ops = Vec::new();
        while ops.len() < most
            && let Some(key) = self.next()
        {
            ops.extend(self.start(now, key));
        }
        ops
    }

    /// The next key to look at, in this round or another.
    fn next(&mut self) -> Option<RouteKey> {
        if self.round.as_slice().is_empty() {
            let mut round = std::mem::take(&mut self.queue);
            order::sort(&mut round);
            self.round = round.into_iter();
        }
        self.round.next()
    }

    fn start(&mut self, now: Instant, key: RouteKey) -> Option<Op> {
        let entry = self.entries.get_mut(&key)?;
        entry.queued = false;
        let retry_at = self.retries.get(&key).and_then(|retry| retry.at);
        if entry.in_flight || retry_at.is_some_and(|at| at > now) {
            return None; // its outcome, or its time, brings it back
        }
        let op = entry.change(key);
        match &op {
            Some(_) => {
                entry.in_flight = true;
                self.flying += 1;
            }
            // Nothing is left to do, by whoever's doing.
            None => {
                self.retries.remove(&key);
                if entry.is_over() {
                    self.entries.remove(&key);
                }
            }
        }
        op
    }

    /// The outcome of a change that [`Delta::take`] gave.
    pub(crate) fn done(&mut self, now: Instant, op: Op, outcome: Result<(), Failure>) {
        let key = op.key();
        self.note(key);
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if !std::mem::take(&mut entry.in_flight) {
            return;
        }
        self.flying -= 1;
        let doubtful = std::mem::take(&mut entry.doubtful);
        match (op, outcome) {
            (Op::Remove(_), Ok(()) | Err(Failure::Missing)) => {
                entry.kernel = Kernel::Nothing;
                self.retries.remove(&key);
            }
            (Op::Add(_, spec) | Op::Replace(_, spec), Ok(())) => {
                entry.kernel = if doubtful {
                    Kernel::Unsure
                } else {
                    Kernel::Has(spec)
                };
                self.retries.remove(&key);
            }
            (_, Err(failure)) => self.retries.fail(now, key, failure),
        }
        if entry.change(key).is_some() {
            enqueue(&mut self.queue, key, entry);
        } else if entry.is_over() {
            self.entries.remove(&key);
            self.retries.remove(&key);
        }
    }

    /// What stood in the way of a failed route is gone.
    pub(crate) fn retry_now(&mut self, key: RouteKey) {
        if self.retries.remove(&key)
            && let Some(entry) = self.entries.get_mut(&key)
        {
            enqueue(&mut self.queue, key, entry);
        }
    }

    /// Routes that the kernel refused for want of one of these nexthop objects are tried again.
    pub(crate) fn retry_groups(&mut self, there: &BTreeSet<u32>) {
        let refers = |key: &RouteKey| {
            let group = self.entries.get(key)?.desired.as_ref()?.group()?;
            there.contains(&group).then_some(*key)
        };
        let keys: Vec<RouteKey> = self.retries.iter().filter_map(|(key, _)| refers(key)).collect();
        keys.into_iter().for_each(|key| self.retry_now(key));
    }

    /// The own route that the kernel has under a key, as far as is known; `true`: that may not be so any more.
    pub(crate) fn kernel_spec(&self, key: &RouteKey) -> (Option<Arc<RouteSpec>>, bool) {
        let Some(entry) = self.entries.get(key) else {
            return (None, false);
        };
        let spec = match &entry.kernel {
            Kernel::Nothing => None,
            Kernel::Has(spec) => Some(Arc::clone(spec)),
            Kernel::Unsure => entry.desired.clone(),
        };
        (spec, entry.in_flight || entry.kernel == Kernel::Unsure)
    }

    /// Wanted routes that the kernel refuses; not those that a route of somebody else is in the way of.
    pub(crate) fn refused(&self) -> usize {
        let is_wanted = |key: &RouteKey| self.entries.get(key).is_some_and(|entry| entry.desired.is_some());
        let refused = self
            .retries
            .iter()
            .filter(|(_, retry)| retry.failure != Failure::Exists);
        refused.filter(|(key, _)| is_wanted(key)).count()
    }

    /// When a failed route is to be tried again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retries.next()
    }

    /// Whether there are changes to make now, those included whose time has come again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.is_dirty() || self.next_retry().is_some_and(|at| at <= now)
    }

    /// Whether there may be changes to make.
    pub(crate) fn is_dirty(&self) -> bool {
        !(self.queue.is_empty() && self.round.as_slice().is_empty())
    }

    /// Whether anything is to be done or under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.is_dirty() || self.flying > 0
    }

    /// The nexthop objects that routes refer to or may refer to.
    pub(crate) fn groups(&self) -> BTreeSet<u32> {
        let kernel = self.entries.values().filter_map(|entry| match &entry.kernel {
            Kernel::Has(spec) => spec.group(),
            Kernel::Unsure | Kernel::Nothing => None,
        });
        let desired = self
            .entries
            .values()
            .filter_map(|entry| entry.desired.as_ref()?.group());
        kernel.chain(desired).collect()
    }

    /// What is wanted, by key, and how it is doing.
    pub(crate) fn routes(&self) -> BTreeMap<RouteKey, (&Arc<RouteSpec>, Progress)> {
        let wanted = self
            .entries
            .iter()
            .filter_map(|(key, entry)| Some((*key, entry, entry.desired.as_ref()?)));
        wanted
            .map(|(key, entry, spec)| (key, (spec, entry.progress(self.retries.get(&key)))))
            .collect()
    }

    /// How the wanted routes are doing, in no order.
    pub(crate) fn progresses(&self) -> impl Iterator<Item = Progress> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.desired.is_some())
            .map(|(key, entry)| entry.progress(self.retries.get(key)))
    }

    /// Whether this key is in the kernel as wanted.
    pub(crate) fn is_installed(&self, key: &RouteKey) -> bool {
        self.entries.get(key).is_some_and(|entry| {
            entry.desired.is_some() && entry.progress(self.retries.get(key)) == Progress::Installed
        })
    }
}

#[cfg(test)]
mod tests;
