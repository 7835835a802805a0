use super::retries::LAST_RETRY;
use super::*;
use crate::fib::route::{NextHop, Target, WeightedNextHop};
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
    let hop = NextHop {
        gateway: Some([192, 0, 2, n].into()),
        ifindex: u32::from(n % 2) + 1,
    };
    Arc::new(RouteSpec {
        target: Target::NextHops(vec![WeightedNextHop { hop, weight: 1 }]),
        source: None,
    })
}

/// A kernel of one table: own routes and those of others.
#[derive(Default)]
struct Fake {
    own: HashMap<RouteKey, Arc<RouteSpec>>,
    foreign: BTreeSet<RouteKey>,
}

impl Fake {
    fn apply(&mut self, op: &Op) -> Result<(), Failure> {
        match op {
            Op::Add(key, _) if self.foreign.contains(key) || self.own.contains_key(key) => {
                Err(Failure::Exists)
            }
            Op::Add(key, spec) | Op::Replace(key, spec) => {
                assert!(!self.foreign.contains(key), "a foreign route was replaced");
                self.own.insert(*key, spec.clone());
                Ok(())
            }
            Op::Remove(key) => self.own.remove(key).map(drop).ok_or(Failure::Missing),
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
    /// Without a notification.
    Vanishes(u8),
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
        1 => (0u8..6).prop_map(Step::Vanishes),
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
                kernel.own.insert(key(k), spec(s));
            }
        }
        for (key, spec) in &kernel.own {
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
                Step::TheyDelete(k) if kernel.own.remove(&key(k)).is_some() => {
                    delta.observe(key(k), None);
                }
                Step::TheyChange(k, s) if kernel.own.contains_key(&key(k)) => {
                    kernel.own.insert(key(k), spec(s));
                    delta.observe(key(k), Some(spec(s)));
                }
                Step::LinkDown(ifindex) => {
                    kernel.own.retain(|_, spec| !spec.uses(ifindex));
                    delta.doubt(|spec| spec.uses(ifindex));
                }
                Step::Vanishes(k) => drop(kernel.own.remove(&key(k))),
                Step::Sweep => drop(delta.sweep()),
                _ => {}
            }
        }
        delta.sweep();
        // The reading is of a moment between changes under way and those that are made while it is compared.
        delta.begin_audit();
        let read: Vec<_> = kernel.own.iter().map(|(key, spec)| (*key, (**spec).clone())).collect();
        for op in flying.drain(..) {
            let outcome = kernel.apply(&op);
            delta.done(now, op.clone(), outcome);
        }
        delta.audit(read);
        delta.end_audit();
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
        prop_assert_eq!(&kernel.own, &wanted);
        if blocked {
            prop_assert!(matches!(delta.retries.get(&key(5)).unwrap().failure, Failure::Exists));
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

/// Whatever comes later waits for the round that is under way, wherever it stands in the order.
#[test]
fn a_round_ends_before_the_next_begins() {
    let now = Instant::now();
    let mut delta = Delta::default();
    for n in [1, 2, 3] {
        delta.want(key(n), Some(spec(1)));
    }
    let mut order = Vec::new();
    let mut take = |delta: &mut Delta| order.extend(delta.take(now, 1).iter().map(Op::key));
    take(&mut delta);
    delta.want(key(0), Some(spec(1))); // before all others in a round of its own
    delta.want(key(3), None); // nothing is left to do
    while delta.is_dirty() {
        take(&mut delta);
    }
    assert_eq!(order, [2, 1, 0].map(key));
}

fn written(delta: &mut Delta, keys: &[u8]) {
    let now = Instant::now();
    keys.iter().for_each(|n| delta.want(key(*n), Some(spec(1))));
    for op in delta.take(now, 99) {
        delta.done(now, op, Ok(()));
    }
}

fn reading(keys: &[(u8, u8)]) -> Vec<(RouteKey, RouteSpec)> {
    let one = |(k, s): &(u8, u8)| (key(*k), (*spec(*s)).clone());
    keys.iter().map(one).collect()
}

#[test]
fn an_audit_finds_what_is_missing_other_and_unknown() {
    let now = Instant::now();
    let mut delta = Delta::default();
    written(&mut delta, &[1, 2, 3]);
    delta.begin_audit();
    assert_eq!(delta.audit(reading(&[(1, 1), (2, 2), (4, 1)])), 2);
    assert_eq!(delta.end_audit(), 1);
    let mut ops = delta.take(now, 9);
    ops.sort_by_key(Op::key);
    assert_eq!(
        ops,
        [
            Op::Replace(key(2), spec(1)),
            Op::Replace(key(3), spec(1)),
            Op::Remove(key(4))
        ]
    );
    ops.into_iter().for_each(|op| delta.done(now, op, Ok(())));
    delta.begin_audit();
    assert_eq!(delta.audit(reading(&[(1, 1), (2, 1), (3, 1)])), 0);
    assert_eq!(delta.end_audit(), 0);
    assert!(!delta.is_dirty());
}

#[test]
fn an_audit_leaves_out_what_changed_meanwhile() {
    let now = Instant::now();
    let mut delta = Delta::default();
    written(&mut delta, &[1, 2, 3]);
    delta.want(key(4), Some(spec(1)));
    let before = delta.take(now, 9).pop().unwrap();
    delta.begin_audit();
    delta.done(now, before, Ok(())); // on its way when the reading began
    delta.want(key(1), None);
    let removed = delta.take(now, 9).pop().unwrap();
    delta.done(now, removed, Ok(()));
    delta.observe(key(2), Some(spec(1)));
    delta.want(key(5), Some(spec(1)));
    let _on_its_way = delta.take(now, 9);
    // A reading from before all of it.
    assert_eq!(delta.audit(reading(&[(1, 1), (2, 3), (3, 1), (5, 3)])), 0);
    assert_eq!(delta.end_audit(), 0);
    assert!(!delta.is_dirty());
    // Without a reading nothing changes.
    delta.begin_audit();
    delta.abandon_audit();
    assert_eq!((delta.audit(reading(&[(9, 1)])), delta.end_audit()), (0, 0));
}
