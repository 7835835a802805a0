//! The allocator over a store in memory that dies at a chosen step, and over the real one.
//!
//! `Memory` is the second `Store`: with a budget of n steps it refuses all that come after the n-th, as
//! a killed process would do nothing more. Every n is tried, so every instruction is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::store::Disk;

#[derive(Default)]
struct Memory {
    claims: RefCell<BTreeMap<IpAddr, Owner>>,
    queues: RefCell<BTreeMap<(Block, u64), IpAddr>>,
    counters: RefCell<BTreeMap<(Block, Counter), u64>>,
    blocks: RefCell<BTreeSet<Block>>,
    steps_left: Cell<Option<u64>>,
    steps: Cell<u64>,
}

impl Memory {
    fn step(&self) -> Result<()> {
        self.steps.set(self.steps.get() + 1);
        match self.steps_left.get() {
            Some(0) => Err(Error::Decode {
                what: "a dead process",
                cause: "killed".into(),
            }),
            Some(n) => {
                self.steps_left.set(Some(n - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Store for Memory {
    fn claim(&self, address: IpAddr, owner: &Owner) -> Result<bool> {
        self.step()?;
        let mut claims = self.claims.borrow_mut();
        let free = !claims.contains_key(&address);
        if free {
            claims.insert(address, owner.clone());
        }
        Ok(free)
    }

    fn claim_owner(&self, address: IpAddr) -> Result<Option<Owner>> {
        self.step()?;
        Ok(self.claims.borrow().get(&address).cloned())
    }

    fn release_to_slot(&self, address: IpAddr, block: Block, slot: u64) -> Result<Released> {
        self.step()?;
        let (mut claims, mut queues) = (self.claims.borrow_mut(), self.queues.borrow_mut());
        if !claims.contains_key(&address) {
            return Ok(Released::NotClaimed);
        }
        if queues.contains_key(&(block, slot)) {
            return Ok(Released::SlotTaken);
        }
        claims.remove(&address);
        queues.insert((block, slot), address);
        Ok(Released::Queued)
    }

    fn discard_claim(&self, address: IpAddr) -> Result<()> {
        self.step()?;
        self.claims.borrow_mut().remove(&address);
        Ok(())
    }

    fn slot_address(&self, block: Block, slot: u64) -> Result<Option<IpAddr>> {
        self.step()?;
        Ok(self.queues.borrow().get(&(block, slot)).copied())
    }

    fn clear_slot(&self, block: Block, slot: u64) -> Result<()> {
        self.step()?;
        self.queues.borrow_mut().remove(&(block, slot));
        Ok(())
    }

    fn used_slots(&self, block: Block) -> Result<Vec<u64>> {
        self.step()?;
        Ok(self
            .queues
            .borrow()
            .keys()
            .filter(|(b, _)| *b == block)
            .map(|(_, p)| *p)
            .collect())
    }

    fn counter(&self, block: Block, counter: Counter) -> Result<u64> {
        self.step()?;
        Ok(self
            .counters
            .borrow()
            .get(&(block, counter))
            .copied()
            .unwrap_or_default())
    }

    fn set_counter(&self, block: Block, counter: Counter, value: u64) -> Result<()> {
        self.step()?;
        self.counters.borrow_mut().insert((block, counter), value);
        Ok(())
    }

    fn claims(&self) -> Result<Vec<IpAddr>> {
        self.step()?;
        Ok(self.claims.borrow().keys().copied().collect())
    }

    fn blocks(&self) -> Result<Vec<Block>> {
        self.step()?;
        Ok(self.blocks.borrow().iter().copied().collect())
    }

    fn add_block(&self, block: Block) -> Result<()> {
        self.step()?;
        self.blocks.borrow_mut().insert(block);
        Ok(())
    }

    fn remove_block(&self, block: Block) -> Result<()> {
        self.step()?;
        self.blocks.borrow_mut().remove(&block);
        self.queues.borrow_mut().retain(|(b, _), _| *b != block);
        Ok(())
    }
}

fn owner(n: usize) -> Owner {
    Owner {
        container: format!("c{n}"),
        ifname: "eth0".into(),
    }
}

fn block(text: &str) -> Block {
    Block::new(text.parse().unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn take(store: &impl Store, n: usize, blocks: &[Block], wanted: &[IpAddr]) -> Result<Vec<IpAddr>> {
    let families: Vec<Family> = blocks
        .iter()
        .map(|b| b.family())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    allocate(
        store,
        &owner(n),
        AllocRequest {
            blocks,
            families: &families,
            requested: wanted,
        },
        |_| false,
        |_| false,
    )
}

/// Takes all that is left and returns how many that were, asserting that none is allocated twice.
fn drain(store: &impl Store, blocks: &[Block]) -> usize {
    let mut seen: BTreeSet<IpAddr> = store.claims().unwrap().into_iter().collect();
    let mut count = 0;
    loop {
        match take(store, 10_000 + count, blocks, &[]) {
            Ok(addresses) => {
                assert!(
                    addresses.iter().all(|a| seen.insert(*a)),
                    "allocated twice: {addresses:?}"
                );
                count += 1;
            }
            Err(Error::Exhausted { .. }) => return count,
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn killed_at_every_step_nothing_leaks_and_nothing_doubles() {
    let blocks = [block("10.0.0.0/29")];
    // Fresh addresses, a release, the queue, exhaustion with a look at all claims, a static one.
    let story = |store: &Memory| -> Result<()> {
        for n in 0..5 {
            take(store, n, &blocks, &[])?;
        }
        for n in [3, 1] {
            release_all(store, &owner(n))?;
        }
        take(store, 5, &blocks, &[])?;
        take(store, 6, &blocks, &[ip("10.0.0.3")])?;
        assert!(matches!(
            take(store, 7, &blocks, &[]),
            Err(Error::Exhausted { .. } | Error::Decode { .. })
        ));
        store.step()?;
        release_all(store, &owner(5))?;
        take(store, 8, &blocks, &[])?;
        Ok(())
    };
    let whole = Memory::default();
    story(&whole).unwrap();
    let steps = whole.steps.get();
    assert!(steps > 60, "the story is {steps} steps long");
    for budget in 0..steps {
        let store = Memory::default();
        store.steps_left.set(Some(budget));
        assert!(story(&store).is_err(), "killed at step {budget}");
        store.steps_left.set(None);
        // GC: whoever lived is gone.
        for n in 0..9 {
            release_all(&store, &owner(n)).unwrap();
        }
        assert!(
            store.claims().unwrap().is_empty(),
            "a claim is left after step {budget}"
        );
        assert_eq!(drain(&store, &blocks), 5, "an address leaked at step {budget}");
    }
}

#[test]
fn a_released_address_rests_longest() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open_boot(dir.path(), "b", true).unwrap().unwrap();
    let blocks = [block("10.0.0.0/29")];
    let first = take(&disk, 0, &blocks, &[]).unwrap()[0];
    release_all(&disk, &owner(0)).unwrap();
    let mut order = Vec::new();
    for n in 1..=10 {
        order.push(take(&disk, n, &blocks, &[]).unwrap()[0]);
        release_all(&disk, &owner(n)).unwrap();
    }
    assert_eq!(order[4], first, "all others were allocated before it came again");
    assert_eq!(order[..5], order[5..], "and so on for ever");
}

#[test]
fn wanted_addresses_are_checked() {
    let store = Memory::default();
    let blocks = [block("10.0.0.0/24"), block("fd00::/64")];
    let refused = |text: &str| match take(&store, 1, &blocks, &[ip(text)]) {
        Err(error) => error.code(),
        Ok(allocated) => panic!("{allocated:?}"),
    };
    for text in [
        "10.0.1.1",
        "10.0.0.0",
        "10.0.0.1",
        "10.0.0.255",
        "fd00::",
        "fd00::1",
        "fd01::5",
    ] {
        assert_eq!(refused(text), 102, "{text}");
    }
    let allocated = take(&store, 1, &blocks, &[ip("10.0.0.77")]).unwrap();
    assert_eq!(allocated, vec![ip("10.0.0.77"), ip("fd00::2")]);
    assert_eq!(refused("10.0.0.77"), 101);
    assert_eq!(
        store.claims.borrow().len(),
        2,
        "what a refused request had taken is free again"
    );
}

#[test]
fn reserved_addresses_are_left_out_until_they_are_free() {
    let store = Memory::default();
    let blocks = [block("10.0.0.0/29")];
    let families = [Family::V4];
    let request = AllocRequest {
        blocks: &blocks,
        families: &families,
        requested: &[],
    };
    let reserved = |a: IpAddr| a < ip("10.0.0.6");
    assert_eq!(
        allocate(&store, &owner(0), request, reserved, |_| false).unwrap(),
        vec![ip("10.0.0.6")]
    );
    assert!(matches!(
        allocate(&store, &owner(1), request, reserved, |_| false),
        Err(Error::Exhausted { .. })
    ));
    assert!(!has_free_address(&store, &blocks, reserved).unwrap());
    assert!(has_free_address(&store, &blocks, |_| false).unwrap());
    assert_eq!(drain(&store, &blocks), 4, "all of them are found again");
}

#[test]
fn blocks_in_order_and_a_removed_one_drained() {
    let store = Memory::default();
    let (a, b) = (block("10.0.0.0/30"), block("10.0.1.0/30"));
    for n in 0..4 {
        assert!(a.contains(take(&store, n, &[a], &[]).unwrap()[0]));
    }
    assert!(
        b.contains(take(&store, 4, &[a, b], &[]).unwrap()[0]),
        "a new block is used at once"
    );
    release_all(&store, &owner(0)).unwrap();
    assert!(
        b.contains(take(&store, 5, &[b], &[]).unwrap()[0]),
        "a removed block gives nothing"
    );
    assert!(matches!(
        take(&store, 6, &[b], &[ip("10.0.0.1")]),
        Err(Error::AddressRefused { .. })
    ));
    for n in 1..4 {
        release_all(&store, &owner(n)).unwrap();
    }
    take(&store, 7, &[b], &[]).unwrap();
    assert_eq!(store.blocks().unwrap(), vec![b], "drained and forgotten");
}

#[test]
fn another_pod_cidr_under_living_pods_is_refused() {
    let store = Memory::default();
    let (old, new) = (block("10.0.0.0/24"), block("10.9.0.0/24"));
    take(&store, 0, &[old], &[]).unwrap();
    let error = take(&store, 1, &[new], &[]).unwrap_err();
    assert_eq!(error.code(), 103);
    assert!(error.to_string().contains("10.0.0.2"), "{error}");
    assert!(check_block_change(&store, &[new], |_| false).is_err());
    assert!(
        check_block_change(&store, &[new], |_| true).unwrap().is_empty(),
        "what dead pods hold is in nobody's way"
    );
    release_all(&store, &owner(0)).unwrap();
    take(&store, 1, &[new], &[]).unwrap();
}

#[test]
fn a_grown_block_keeps_its_claims() {
    let store = Memory::default();
    let (small, large) = (block("10.0.0.0/29"), block("10.0.0.0/24"));
    let first = take(&store, 0, &[small], &[]).unwrap()[0];
    let next = take(&store, 1, &[large], &[]).unwrap()[0];
    assert_ne!(first, next);
}

#[test]
fn the_cost_does_not_grow_with_the_block() {
    // Steps of the store are what costs: counted in the middle of a block's life.
    let cost = |text: &str| {
        let store = Memory::default();
        let blocks = [block(text)];
        for n in 0..40 {
            take(&store, n, &blocks, &[]).unwrap();
        }
        store.steps.set(0);
        take(&store, 40, &blocks, &[]).unwrap();
        release(&store, &owner(3), ip(&blocks[0].nth(5).unwrap().to_string())).unwrap();
        store.steps.get()
    };
    let small = cost("10.0.0.0/26");
    assert!(small < 12, "{small} steps");
    for text in ["10.0.0.0/16", "10.0.0.0/8", "fd00::/64"] {
        assert_eq!(cost(text), small, "{text}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize),
    Want(usize, u64),
    Release(usize),
    Die(usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..20usize).prop_map(Step::Take),
        1 => (0..20usize, 0..16u64).prop_map(|(n, i)| Step::Want(n, i)),
        4 => (0..20usize).prop_map(Step::Release),
        2 => (0..20usize, 0..12u64).prop_map(|(n, s)| Step::Die(n, s)),
    ];
    prop::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_gives_each_address_once_and_loses_none(history in steps()) {
        let store = Memory::default();
        let blocks = [block("10.0.0.0/28")];
        let mut held: BTreeMap<usize, IpAddr> = BTreeMap::new();
        for step in history {
            match step {
                Step::Take(n) if !held.contains_key(&n) => {
                    if let Ok(allocated) = take(&store, n, &blocks, &[]) {
                        prop_assert!(!held.values().any(|a| allocated.contains(a)));
                        held.insert(n, allocated[0]);
                    } else {
                        prop_assert_eq!(held.len(), 13, "refused only when full");
                    }
                }
                Step::Want(n, i) if !held.contains_key(&n) => {
                    let wanted = blocks[0].nth(i).unwrap();
                    if take(&store, n, &blocks, &[wanted]).is_ok() {
                        prop_assert!(!held.values().any(|a| *a == wanted));
                        held.insert(n, wanted);
                    }
                }
                Step::Release(n) => {
                    release_all(&store, &owner(n)).unwrap();
                    held.remove(&n);
                }
                Step::Die(n, budget) if !held.contains_key(&n) => {
                    store.steps_left.set(Some(budget));
                    let _ = take(&store, n, &blocks, &[]);
                    store.steps_left.set(None);
                    // The runtime's DEL after a killed ADD.
                    release_all(&store, &owner(n)).unwrap();
                }
                _ => {}
            }
        }
        prop_assert_eq!(drain(&store, &blocks), 13 - held.len());
    }
}

#[test]
fn the_disk_gives_each_address_once_to_many_threads() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk::open_boot(dir.path(), "b", true).unwrap().unwrap();
    let blocks = [block("10.0.0.0/25")];
    let allocated: Vec<IpAddr> = std::thread::scope(|scope| {
        let work = |t: usize| {
            let disk = &disk;
            scope.spawn(move || {
                let mut mine = Vec::new();
                for n in 0..15 {
                    let id = t * 100 + n;
                    mine.extend(take(disk, id, &blocks, &[]).unwrap());
                    // Two of three come and go.
                    if n % 3 != 0 {
                        release_all(disk, &owner(id)).unwrap();
                        mine.pop();
                    }
                }
                mine
            })
        };
        let threads: Vec<_> = (0..8).map(work).collect();
        threads.into_iter().flat_map(|t| t.join().unwrap()).collect()
    });
    let unique: BTreeSet<IpAddr> = allocated.iter().copied().collect();
    assert_eq!((allocated.len(), unique.len()), (40, 40));
    assert_eq!(drain(&disk, &blocks), 125 - 40);
}
