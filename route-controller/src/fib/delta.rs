//! Desired, kernel and pending: which changes bring the kernel to what is wanted.
//!
//! Pure. The outcome depends on the present state alone: what is wanted, what the kernel has as far as we
//! know, and what is on its way. [`Delta::take`] gives changes, [`Delta::done`] their outcome,
//! [`Delta::observe`] what others did. A route that fails is tried again with a delay that doubles from one
//! second to one minute; it never stops the others.
//!
//! Routes that were found at the start and are not wanted (orphans) stay until [`Delta::sweep`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

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

#[derive(Clone, Debug)]
struct Retry {
    /// `None`: its time came, and it is on its way again.
    at: Option<Instant>,
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

/// What is known of a key.
#[derive(Debug, Default)]
struct Entry {
    desired: Option<Arc<RouteSpec>>,
    kernel: Kernel,
    /// A change is under way.
    in_flight: bool,
    /// Stands in the queue.
    queued: bool,
    /// Others changed it while a change of ours was under way.
    doubtful: bool,
    /// Found at the start and not wanted so far.
    orphan: bool,
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
    /// Keys to look at, first come, first served; those in flight come back when their outcome is known.
    queue: VecDeque<RouteKey>,
    flying: usize,
    retries: BTreeMap<RouteKey, Retry>,
}

/// Puts a key into the queue, once.
fn enqueue(queue: &mut VecDeque<RouteKey>, key: RouteKey, entry: &mut Entry) {
    if !std::mem::replace(&mut entry.queued, true) {
        queue.push_back(key);
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

    /// A route of ours that was there before us. It stays if it is wanted, or until the sweep.
    pub(crate) fn adopt(&mut self, key: RouteKey, spec: Arc<RouteSpec>) {
        let entry = self.entries.entry(key).or_default();
        entry.kernel = Kernel::Has(spec);
        if entry.desired.is_some() {
            enqueue(&mut self.queue, key, entry);
        } else {
            entry.orphan = true;
        }
    }

    /// What the kernel says of one of our keys, by somebody else's doing. True when it is not as wanted.
    pub(crate) fn observe(&mut self, key: RouteKey, spec: Option<Arc<RouteSpec>>) -> bool {
        let entry = self.entries.entry(key).or_default();
        if entry.in_flight {
            // Older or newer than our own change? Look again when its outcome is known.
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

    /// A complete reading of our routes: what is not in it is gone.
    pub(crate) fn resync(&mut self, found: Vec<(RouteKey, Arc<RouteSpec>)>) {
        let found: FxHashMap<RouteKey, Arc<RouteSpec>> = found.into_iter().collect();
        let there = self
            .entries
            .iter()
            .filter(|(_, entry)| !entry.kernel.is_nothing());
        let gone: Vec<RouteKey> = there
            .map(|(key, _)| *key)
            .filter(|key| !found.contains_key(key))
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
        for (key, retry) in &mut self.retries {
            if retry.at.take_if(|at| *at <= now).is_some()
                && let Some(entry) = self.entries.get_mut(key)
            {
                enqueue(&mut self.queue, *key, entry);
            }
        }
        let mut ops = Vec::new();
        while ops.len() < most
            && let Some(key) = self.queue.pop_front()
        {
            ops.extend(self.start(now, key));
        }
        ops
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
            (_, Err(failure)) => fail(&mut self.retries, now, key, failure),
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
        if self.retries.remove(&key).is_some()
            && let Some(entry) = self.entries.get_mut(&key)
        {
            enqueue(&mut self.queue, key, entry);
        }
    }

    /// When a failed route is to be tried again.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.retries.values().filter_map(|retry| retry.at).min()
    }

    /// Whether there are changes to make now, those included whose time has come again.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.is_dirty() || self.next_retry().is_some_and(|at| at <= now)
    }

    /// Whether there may be changes to make.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.queue.is_empty()
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

fn fail(retries: &mut BTreeMap<RouteKey, Retry>, now: Instant, key: RouteKey, failure: Failure) {
    let failures = retries.get(&key).map_or(0, |retry| retry.failures);
    let delay = FIRST_RETRY.saturating_mul(1 << failures.min(6)).min(LAST_RETRY);
    retries.insert(
        key,
        Retry {
            at: Some(now + delay),
            failures: failures + 1,
            failure,
        },
    );
}

#[cfg(test)]
mod tests {
    use super::super::route::{Hop, Leg, Target};
    use super::*;
    use bgp_proto::types::Prefix;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key(n: u8) -> RouteKey {
        RouteKey {
            prefix: Prefix::v4(u32::from(n) << 8 | 0x0A00_0000, 24),
            metric: 20,
            table: 254,
        }
    }

    fn spec(n: u8) -> Arc<RouteSpec> {
        let hop = Hop {
            gateway: Some([192, 0, 2, n].into()),
            ifindex: u32::from(n % 2) + 1,
        };
        Arc::new(RouteSpec {
            target: Target::Hops(vec![Leg { hop, weight: 1 }]),
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
                        delta.done(now, op.clone(), outcome);
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
                    delta.done(now, op.clone(), outcome);
                }
                now += LAST_RETRY;
                flying = delta.take(now, 100);
                prop_assert!(!delta.is_due(now), "whoever writes until nothing is due never ends");
            }
            prop_assert!(flying.iter().all(|op| op.key() == key(5)), "only the blocked route is still tried: {flying:?}");
            let entries = delta.entries.iter();
            let mut wanted: HashMap<_, _> =
                entries.filter_map(|(key, entry)| Some((*key, entry.desired.clone()?))).collect();
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
    fn a_retry_is_due_once_and_not_when_others_put_it_right() {
        let now = Instant::now();
        let mut delta = Delta::default();
        let failed = |delta: &mut Delta| {
            delta.want(key(1), Some(spec(1)));
            let op = delta.take(now, 9).pop().unwrap();
            delta.done(now, op, Err(Failure::Errno(101)));
            delta.next_retry().unwrap()
        };
        let later = failed(&mut delta);
        let op = delta.take(later, 9).pop().unwrap();
        assert!(!delta.is_due(later), "it is under way");
        assert_eq!(delta.next_retry(), None);
        delta.done(later, op, Err(Failure::Errno(101)));
        assert!(
            delta.next_retry().unwrap() - later > later - now,
            "the next delay is longer"
        );
        // Somebody puts just this route there.
        delta.observe(key(1), Some(spec(1)));
        let later = delta.next_retry().unwrap();
        assert!(delta.take(later, 9).is_empty());
        assert!(!delta.is_due(later) && delta.is_installed(&key(1)));
        // And one that is not wanted any more, and gone.
        let later = failed(&mut Delta::default());
        let mut delta = Delta::default();
        delta.adopt(key(2), spec(2));
        delta.sweep();
        let op = delta.take(now, 9).pop().unwrap();
        delta.done(now, op, Err(Failure::Errno(101)));
        delta.observe(key(2), None);
        assert!(delta.take(later, 9).is_empty() && !delta.is_due(later));
    }

    #[test]
    fn what_was_on_its_way_when_it_was_doubted_is_written_again() {
        let now = Instant::now();
        let mut delta = Delta::default();
        delta.want(key(1), Some(spec(1)));
        let op = delta.take(now, 9).pop().unwrap();
        delta.doubt(|_| true);
        delta.done(now, op, Ok(()));
        assert!(matches!(delta.take(now, 9)[..], [Op::Replace(..)]));
    }

    #[test]
    fn a_failure_waits_and_shows() {
        let now = Instant::now();
        let mut delta = Delta::default();
        delta.want(key(1), Some(spec(1)));
        let op = delta.take(now, 9).pop().unwrap();
        delta.done(now, op, Err(Failure::Errno(101)));
        assert_eq!(delta.take(now, 9), []);
        assert_eq!(delta.routes()[&key(1)].1, Progress::Failed(Failure::Errno(101)));
        let later = delta.next_retry().unwrap();
        assert!(!delta.is_due(now) && delta.is_due(later));
        assert_eq!(delta.take(later, 9).len(), 1);
    }
}
