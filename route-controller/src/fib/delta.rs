//! Desired, kernel and pending: which changes bring the kernel to what is wanted.
//!
//! Pure. The outcome depends on the present state alone: what is wanted, what the kernel has as far as we
//! know, and what is on its way. [`Delta::take`] gives changes, [`Delta::done`] their outcome,
//! [`Delta::observe`] what others did. A route that fails is tried again with a delay that doubles from one
//! second to one minute; it never stops the others.
//!
//! Routes that were found at the start and are not wanted (orphans) stay until [`Delta::sweep`].

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::route::{RouteKey, RouteSpec};

/// A change to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Op {
    /// Create it; fail if anybody has this key.
    Add(RouteKey, Arc<RouteSpec>),
    /// Put it in place of ours.
    Replace(RouteKey, Arc<RouteSpec>),
    /// Take ours away.
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

/// What we know of the kernel's side of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Kernel {
    /// Ours, as given.
    Has(Arc<RouteSpec>),
    /// Ours, but it may have gone or changed without a word.
    Unsure,
}

#[derive(Clone, Debug)]
struct Retry {
    at: Instant,
    failures: u32,
    failure: Failure,
}

/// How a wanted route is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Progress {
    Installed,
    Pending,
    Failed(Failure),
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Delta {
    desired: HashMap<RouteKey, Arc<RouteSpec>>,
    kernel: HashMap<RouteKey, Kernel>,
    /// Keys to look at; those in flight come back when their outcome is known.
    dirty: BTreeSet<RouteKey>,
    in_flight: HashMap<RouteKey, Op>,
    retries: BTreeMap<RouteKey, Retry>,
    /// Found at the start and not wanted so far.
    orphans: BTreeSet<RouteKey>,
}

impl Delta {
    /// What is wanted for a key; `None` for nothing.
    pub(crate) fn want(&mut self, key: RouteKey, spec: Option<Arc<RouteSpec>>) {
        let changed = match spec {
            Some(spec) => {
                self.orphans.remove(&key);
                let old = self.desired.insert(key, spec);
                old.as_ref() != self.desired.get(&key)
            }
            None => self.desired.remove(&key).is_some(),
        };
        if changed {
            self.retries.remove(&key);
            self.dirty.insert(key);
        }
    }

    /// A route of ours that was there before us. It stays if it is wanted, or until the sweep.
    pub(crate) fn adopt(&mut self, key: RouteKey, spec: Arc<RouteSpec>) {
        self.kernel.insert(key, Kernel::Has(spec));
        if self.desired.contains_key(&key) {
            self.dirty.insert(key);
        } else {
            self.orphans.insert(key);
        }
    }

    /// What the kernel says of one of our keys, by somebody else's doing. True when it is not as wanted.
    pub(crate) fn observe(&mut self, key: RouteKey, spec: Option<Arc<RouteSpec>>) -> bool {
        if self.in_flight.contains_key(&key) {
            // Older or newer than our own change? Look again when its outcome is known.
            self.kernel.insert(key, Kernel::Unsure);
            self.dirty.insert(key);
            return false;
        }
        let differs = self.desired.get(&key) != spec.as_ref();
        match spec {
            Some(spec) => drop(self.kernel.insert(key, Kernel::Has(spec))),
            None => {
                self.kernel.remove(&key);
                self.orphans.remove(&key);
            }
        }
        if differs && !self.orphans.contains(&key) {
            self.dirty.insert(key);
        }
        differs && self.desired.contains_key(&key)
    }

    /// Routes for which this holds may have gone without a word (a link went down, an address went away).
    pub(crate) fn doubt(&mut self, suspect: impl Fn(&RouteSpec) -> bool) {
        for (key, kernel) in &mut self.kernel {
            if matches!(kernel, Kernel::Has(spec) if suspect(spec)) {
                *kernel = Kernel::Unsure;
                if !self.orphans.contains(key) {
                    self.dirty.insert(*key);
                }
            }
        }
    }

    /// A complete reading of our routes: what is not in it is gone.
    pub(crate) fn resync(&mut self, found: Vec<(RouteKey, Arc<RouteSpec>)>) {
        let found: HashMap<RouteKey, Arc<RouteSpec>> = found.into_iter().collect();
        let gone: Vec<RouteKey> = self
            .kernel
            .keys()
            .filter(|key| !found.contains_key(key))
            .copied()
            .collect();
        for key in gone {
            self.observe(key, None);
        }
        for (key, spec) in found {
            self.observe(key, Some(spec));
        }
    }

    /// Orphans go from now on.
    pub(crate) fn sweep(&mut self) -> usize {
        let orphans = std::mem::take(&mut self.orphans);
        let count = orphans.len();
        self.dirty.extend(orphans);
        count
    }

    /// At most `most` changes to make now.
    pub(crate) fn take(&mut self, now: Instant, most: usize) -> Vec<Op> {
        let due: Vec<RouteKey> = self
            .retries
            .iter()
            .filter(|(_, retry)| retry.at <= now)
            .map(|(key, _)| *key)
            .collect();
        self.dirty.extend(due);
        let mut ops = Vec::new();
        let mut waiting = Vec::new();
        while ops.len() < most {
            let Some(key) = self.dirty.pop_first() else { break };
            if self.in_flight.contains_key(&key) {
                waiting.push(key);
            } else if self.retries.get(&key).is_none_or(|retry| retry.at <= now)
                && let Some(op) = self.change(key)
            {
                self.in_flight.insert(key, op.clone());
                ops.push(op);
            }
        }
        self.dirty.extend(waiting);
        ops
    }

    fn change(&self, key: RouteKey) -> Option<Op> {
        match (self.desired.get(&key), self.kernel.get(&key)) {
            (Some(wanted), Some(Kernel::Has(had))) if wanted == had => None,
            (Some(wanted), Some(_)) => Some(Op::Replace(key, Arc::clone(wanted))),
            (Some(wanted), None) => Some(Op::Add(key, Arc::clone(wanted))),
            (None, Some(_)) => Some(Op::Remove(key)),
            (None, None) => None,
        }
    }

    /// The outcome of a change.
    pub(crate) fn done(&mut self, now: Instant, key: RouteKey, outcome: Result<(), Failure>) {
        let Some(op) = self.in_flight.remove(&key) else {
            return;
        };
        let doubtful = self.dirty.contains(&key) && self.kernel.get(&key) == Some(&Kernel::Unsure);
        match (op, outcome) {
            (Op::Remove(_), Ok(()) | Err(Failure::Missing)) => {
                self.kernel.remove(&key);
                self.retries.remove(&key);
            }
            (Op::Add(_, spec) | Op::Replace(_, spec), Ok(())) => {
                self.kernel.insert(
                    key,
                    if doubtful {
                        Kernel::Unsure
                    } else {
                        Kernel::Has(spec)
                    },
                );
                self.retries.remove(&key);
            }
            (_, Err(failure)) => self.fail(now, key, failure),
        }
        if self.change(key).is_some() {
            self.dirty.insert(key);
        }
    }

    fn fail(&mut self, now: Instant, key: RouteKey, failure: Failure) {
        let failures = self.retries.get(&key).map_or(0, |retry| retry.failures);
        let delay = FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY);
        self.retries.insert(
            key,
            Retry {
                at: now + delay,
                failures: failures + 1,
                failure,
            },
        );
    }

    /// What stood in the way of a failed route is gone.
    pub(crate) fn retry_now(&mut self, key: RouteKey) {
        if self.retries.remove(&key).is_some() {
            self.dirty.insert(key);
        }
    }

    /// When a failed route is to be tried again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retries.values().map(|retry| retry.at).min()
    }

    /// Whether there may be changes to make now.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Whether anything is to be done or under way.
    pub(crate) fn is_busy(&self) -> bool {
        !self.dirty.is_empty() || !self.in_flight.is_empty()
    }

    /// The nexthop objects that routes refer to or may refer to.
    pub(crate) fn groups(&self) -> BTreeSet<u32> {
        let kernel = self.kernel.values().filter_map(|kernel| match kernel {
            Kernel::Has(spec) => spec.group(),
            Kernel::Unsure => None,
        });
        let desired = self.desired.values().filter_map(|spec| spec.group());
        kernel.chain(desired).collect()
    }

    /// What is wanted, by key, and how it is doing.
    pub(crate) fn routes(&self) -> BTreeMap<RouteKey, (&Arc<RouteSpec>, Progress)> {
        self.desired
            .iter()
            .map(|(key, spec)| (*key, (spec, self.progress(key, spec))))
            .collect()
    }

    /// How a wanted route is doing.
    pub(crate) fn progress(&self, key: &RouteKey, spec: &Arc<RouteSpec>) -> Progress {
        match (self.retries.get(key), self.kernel.get(key)) {
            (Some(retry), _) => Progress::Failed(retry.failure),
            (None, Some(Kernel::Has(had))) if had == spec => Progress::Installed,
            _ => Progress::Pending,
        }
    }

    /// Whether this key is in the kernel as wanted.
    pub(crate) fn is_installed(&self, key: &RouteKey) -> bool {
        self.desired
            .get(key)
            .is_some_and(|spec| self.progress(key, spec) == Progress::Installed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::route::{Hop, Target};
    use super::*;
    use bgp_proto::types::Prefix;
    use proptest::prelude::*;

    fn key(n: u8) -> RouteKey {
        RouteKey {
            prefix: Prefix::v4(u32::from(n) << 8 | 0x0A00_0000, 24),
            metric: 20,
        }
    }

    fn spec(n: u8) -> Arc<RouteSpec> {
        let hop = Hop {
            gateway: Some([192, 0, 2, n].into()),
            ifindex: u32::from(n % 2) + 1,
        };
        Arc::new(RouteSpec {
            target: Target::Hops(vec![hop]),
            source: None,
        })
    }

    /// A kernel of one table: ours and other people's routes.
    #[derive(Default)]
    struct Fake {
        ours: HashMap<RouteKey, Arc<RouteSpec>>,
        foreign: BTreeSet<RouteKey>,
    }

    impl Fake {
        fn apply(&mut self, op: &Op) -> Result<(), Failure> {
            match op {
                Op::Add(key, _) if self.foreign.contains(key) || self.ours.contains_key(key) => {
                    Err(Failure::Exists)
                }
                Op::Add(key, spec) | Op::Replace(key, spec) => {
                    assert!(!self.foreign.contains(key), "a foreign route was replaced");
                    self.ours.insert(*key, spec.clone());
                    Ok(())
                }
                Op::Remove(key) => self.ours.remove(key).map(drop).ok_or(Failure::Missing),
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Want(u8, Option<u8>),
        Take(usize),
        Land(usize, bool),
        TheyDelete(u8),
        TheyChange(u8, u8),
        LinkDown(u32),
        Sweep,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u8..6, proptest::option::of(0u8..4)).prop_map(|(key, spec)| Step::Want(key, spec)),
            4 => (1usize..4).prop_map(Step::Take),
            4 => (0usize..4, proptest::bool::weighted(0.8)).prop_map(|(which, works)| Step::Land(which, works)),
            1 => (0u8..6).prop_map(Step::TheyDelete),
            1 => (0u8..6, 0u8..4).prop_map(|(key, spec)| Step::TheyChange(key, spec)),
            1 => (1u32..3).prop_map(Step::LinkDown),
            1 => Just(Step::Sweep),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

        /// From any kernel state to any desired state, with outcomes in any order and failures between.
        #[test]
        fn converges(start in proptest::collection::vec((0u8..6, 0u8..4), 0..5), steps in proptest::collection::vec(step(), 0..60)) {
            let mut now = Instant::now();
            let (mut delta, mut kernel) = (Delta::default(), Fake::default());
            kernel.foreign.insert(key(5));
            for (k, s) in start {
                if k != 5 {
                    kernel.ours.insert(key(k), spec(s));
                }
            }
            for (key, spec) in &kernel.ours {
                delta.adopt(*key, spec.clone());
            }
            let mut flying: Vec<Op> = Vec::new();
            for step in steps {
                match step {
                    Step::Want(k, s) => delta.want(key(k), s.map(spec)),
                    Step::Take(most) => flying.extend(delta.take(now, most)),
                    Step::Land(which, works) if which < flying.len() => {
                        let op = flying.swap_remove(which);
                        let outcome = if works { kernel.apply(&op) } else { Err(Failure::Errno(101)) };
                        delta.done(now, op.key(), outcome);
                    }
                    Step::TheyDelete(k) if kernel.ours.remove(&key(k)).is_some() => {
                        delta.observe(key(k), None);
                    }
                    Step::TheyChange(k, s) if kernel.ours.contains_key(&key(k)) => {
                        kernel.ours.insert(key(k), spec(s));
                        delta.observe(key(k), Some(spec(s)));
                    }
                    Step::LinkDown(ifindex) => {
                        kernel.ours.retain(|_, spec| !spec.uses(ifindex));
                        delta.doubt(|spec| spec.uses(ifindex));
                    }
                    Step::Sweep => drop(delta.sweep()),
                    _ => {}
                }
            }
            delta.sweep();
            for _ in 0..20 {
                for op in flying.drain(..) {
                    let outcome = kernel.apply(&op);
                    delta.done(now, op.key(), outcome);
                }
                now += LAST_RETRY;
                flying = delta.take(now, 100);
            }
            prop_assert!(flying.iter().all(|op| op.key() == key(5)), "only the blocked route is still tried: {flying:?}");
            let mut wanted = delta.desired.clone();
            let blocked = wanted.remove(&key(5)).is_some();
            prop_assert_eq!(&kernel.ours, &wanted);
            if blocked {
                prop_assert!(matches!(delta.retries[&key(5)].failure, Failure::Exists));
            }
        }
    }

    #[test]
    fn orphans_stay_until_the_sweep_unless_they_are_wanted() {
        let now = Instant::now();
        let mut delta = Delta::default();
        delta.adopt(key(1), spec(1));
        delta.adopt(key(2), spec(2));
        delta.want(key(1), Some(spec(1)));
        assert_eq!(delta.take(now, 9), []);
        assert_eq!(delta.sweep(), 1);
        assert_eq!(delta.take(now, 9), [Op::Remove(key(2))]);
    }

    #[test]
    fn a_failure_waits_and_shows() {
        let now = Instant::now();
        let mut delta = Delta::default();
        delta.want(key(1), Some(spec(1)));
        assert_eq!(delta.take(now, 9).len(), 1);
        delta.done(now, key(1), Err(Failure::Errno(101)));
        assert_eq!(delta.take(now, 9), []);
        assert_eq!(delta.routes()[&key(1)].1, Progress::Failed(Failure::Errno(101)));
        let later = delta.next_retry().unwrap();
        assert_eq!(delta.take(later, 9).len(), 1);
    }
}
