//! Allocates and releases addresses, over any `Store`.
//!
//! An address is chosen in this order: one of the block that was never allocated; the least recently released; any
//! without a claim (released addresses whose queue slot was lost, addresses that are no longer reserved). The first two
//! read a fixed number of files for any block size. Only `Store::claim` allocates: wrong counters can cost time but never
//! allocate an address twice. Blocks are used in the order of node.json; a block that is no longer listed is drained.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::block::{self, Block, Family};
use crate::error::{Error, Result};
use crate::names::Owner;
use crate::store::{Counter, Released, Store};

/// A request for addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AllocRequest<'a> {
    /// The node's blocks, in order, both families.
    pub(crate) blocks: &'a [Block],
    /// One address of each of these families.
    pub(crate) families: &'a [Family],
    /// Static addresses; each replaces the automatic one of its family.
    pub(crate) requested: &'a [IpAddr],
}

/// Claims one address per family and all static ones. `is_excluded`: not chosen automatically; `is_dead`: claimed by a pod
/// that no longer exists. On failure all claims are released.
pub(crate) fn allocate(
    store: &impl Store,
    owner: &Owner,
    request: AllocRequest<'_>,
    is_excluded: impl Fn(IpAddr) -> bool,
    is_dead: impl Fn(IpAddr) -> bool,
) -> Result<Vec<IpAddr>> {
    apply_block_change(store, request.blocks, is_dead)?;
    for block in request.blocks {
        store.add_block(*block)?;
    }
    let mut taken = Vec::new();
    match claim_all(store, owner, request, &is_excluded, &mut taken) {
        Ok(()) => Ok(taken),
        Err(error) => {
            for address in taken {
                release(store, owner, address)?;
            }
            Err(error)
        }
    }
}

fn claim_all(
    store: &impl Store,
    owner: &Owner,
    request: AllocRequest<'_>,
    is_excluded: &impl Fn(IpAddr) -> bool,
    taken: &mut Vec<IpAddr>,
) -> Result<()> {
    for address in request.requested {
        claim_requested(store, owner, request.blocks, *address)?;
        taken.push(*address);
    }
    for family in request.families {
        if request.requested.iter().any(|a| Family::of(*a) == *family) {
            continue;
        }
        let blocks: Vec<Block> = request
            .blocks
            .iter()
            .copied()
            .filter(|b| b.family() == *family)
            .collect();
        taken.push(claim_any(store, owner, &blocks, is_excluded)?);
    }
    Ok(())
}

fn claim_requested(store: &impl Store, owner: &Owner, blocks: &[Block], address: IpAddr) -> Result<()> {
    let refuse = |cause| Error::AddressRefused {
        address,
        cause,
        blocks: block::list(blocks),
    };
    let block = blocks.iter().find(|b| b.contains(address));
    let block = block.ok_or_else(|| refuse("it lies outside this node's blocks"))?;
    if let Some(cause) = block.forbids(address) {
        return Err(refuse(cause));
    }
    if store.claim(address, owner)? {
        return Ok(());
    }
    let holder = store.claim_owner(address)?;
    let (container, ifname) = holder.map_or_else(Default::default, |o| (o.container, o.ifname));
    Err(Error::AddressTaken {
        address,
        container,
        ifname,
    })
}

fn claim_any(
    store: &impl Store,
    owner: &Owner,
    blocks: &[Block],
    is_excluded: &impl Fn(IpAddr) -> bool,
) -> Result<IpAddr> {
    let strategies = [never_allocated, least_recently_released, unclaimed];
    for block in blocks {
        let try_claim = |address: IpAddr| -> Result<bool> {
            Ok(block.forbids(address).is_none() && !is_excluded(address) && store.claim(address, owner)?)
        };
        for strategy in strategies {
            if let Some(address) = strategy(store, *block, &try_claim)? {
                return Ok(address);
            }
        }
    }
    Err(Error::Exhausted {
        blocks: block::list(blocks),
    })
}

type TryClaim<'a> = &'a dyn Fn(IpAddr) -> Result<bool>;

/// The first address that was never allocated.
fn never_allocated(store: &impl Store, block: Block, try_claim: TryClaim<'_>) -> Result<Option<IpAddr>> {
    let start = store.counter(block, Counter::NextUnused)?;
    for index in start..block.size() {
        let Some(address) = block.nth(index) else { break };
        if try_claim(address)? {
            store.set_counter(block, Counter::NextUnused, index + 1)?;
            return Ok(Some(address));
        }
    }
    if start < block.size() {
        store.set_counter(block, Counter::NextUnused, block.size())?;
    }
    Ok(None)
}

/// The least recently released address.
fn least_recently_released(
    store: &impl Store,
    block: Block,
    try_claim: TryClaim<'_>,
) -> Result<Option<IpAddr>> {
    let tail = store.counter(block, Counter::Tail)?;
    let head = store.counter(block, Counter::Head)?;
    for slot in head..tail {
        if let Some(address) = claim_slot(store, block, slot, try_claim)? {
            store.set_counter(block, Counter::Head, slot + 1)?;
            return Ok(Some(address));
        }
    }
    if head < tail {
        store.set_counter(block, Counter::Head, tail)?;
    }
    for slot in store.used_slots(block)? {
        if let Some(address) = claim_slot(store, block, slot, try_claim)? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// Claims the address of a queue slot, then clears the slot. A process that is killed in between leaves a stale slot, which
/// the next allocation clears.
fn claim_slot(
    store: &impl Store,
    block: Block,
    slot: u64,
    try_claim: TryClaim<'_>,
) -> Result<Option<IpAddr>> {
    let Some(address) = store.slot_address(block, slot)? else {
        return Ok(None);
    };
    let claimed = try_claim(address)?;
    store.clear_slot(block, slot)?;
    Ok(claimed.then_some(address))
}

/// Any address without a claim. Reads all claims, so it is tried last.
fn unclaimed(store: &impl Store, block: Block, try_claim: TryClaim<'_>) -> Result<Option<IpAddr>> {
    let claimed: HashSet<IpAddr> = store.claims()?.into_iter().collect();
    for address in (0..block.size()).filter_map(|i| block.nth(i)) {
        if !claimed.contains(&address) && try_claim(address)? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// Releases an address if this owner has claimed it. The caller holds the owner's lock, so that the claim cannot pass to
/// another owner between the check and the release.
pub(crate) fn release(store: &impl Store, owner: &Owner, address: IpAddr) -> Result<bool> {
    if store.claim_owner(address)?.as_ref() != Some(owner) {
        return Ok(false);
    }
    let Some(block) = store.blocks()?.into_iter().find(|b| b.contains(address)) else {
        store.discard_claim(address)?;
        return Ok(true);
    };
    let tail = store.counter(block, Counter::Tail)?;
    let start = tail.max(store.counter(block, Counter::Head)?);
    for slot in start.. {
        match store.release_to_slot(address, block, slot)? {
            Released::Queued => {
                store.set_counter(block, Counter::Tail, slot + 1)?;
                break;
            }
            Released::NotClaimed => break,
            Released::SlotTaken => {}
        }
    }
    Ok(true)
}

/// Releases every claim of an owner. Reads all claims.
pub(crate) fn release_all(store: &impl Store, owner: &Owner) -> Result<Vec<IpAddr>> {
    let mut released = Vec::new();
    for address in store.claims()? {
        if release(store, owner, address)? {
            released.push(address);
        }
    }
    Ok(released)
}

/// Fails where all blocks of a family are new while addresses of an old block are in use: the node's pod CIDR changed under
/// running pods. Removes the state of drained blocks.
pub(crate) fn apply_block_change(
    store: &impl Store,
    now: &[Block],
    is_dead: impl Fn(IpAddr) -> bool,
) -> Result<()> {
    for drained in check_block_change(store, now, is_dead)? {
        store.remove_block(drained)?;
    }
    Ok(())
}

/// Like [`apply_block_change`], but changes nothing: returns the past blocks without a claim.
pub(crate) fn check_block_change(
    store: &impl Store,
    now: &[Block],
    is_dead: impl Fn(IpAddr) -> bool,
) -> Result<Vec<Block>> {
    let known = store.blocks()?;
    let past: Vec<Block> = known.iter().copied().filter(|b| !now.contains(b)).collect();
    let mut drained = Vec::new();
    if past.is_empty() {
        return Ok(drained);
    }
    let claims = store.claims()?;
    for old in past {
        let outside = |a: &&IpAddr| old.contains(**a) && !now.iter().any(|b| b.contains(**a));
        let held: Vec<&IpAddr> = claims.iter().filter(outside).collect();
        if held.is_empty() {
            drained.push(old);
            continue;
        }
        let same: Vec<Block> = now
            .iter()
            .copied()
            .filter(|b| b.family() == old.family())
            .collect();
        if same.is_empty() || same.iter().any(|b| known.contains(b)) {
            continue;
        }
        let living: Vec<&IpAddr> = held.into_iter().filter(|a| !is_dead(**a)).collect();
        // Claims of pods that no longer exist do not matter; the block is kept until GC releases them.
        let Some(example) = living.iter().min() else {
            continue;
        };
        return Err(Error::BlockChanged {
            now: block::list(&same),
            before: old.net(),
            living: living.len(),
            example: **example,
        });
    }
    Ok(drained)
}

/// Whether an address can be allocated from these blocks. Reads all claims only where the counters find none.
pub(crate) fn has_free_address(
    store: &impl Store,
    blocks: &[Block],
    is_reserved: impl Fn(IpAddr) -> bool,
) -> Result<bool> {
    for block in blocks {
        let rest = store.counter(*block, Counter::NextUnused)?..block.size();
        let free = |a: &IpAddr| block.forbids(*a).is_none() && !is_reserved(*a);
        for address in rest.filter_map(|i| block.nth(i)).filter(free) {
            if store.claim_owner(address)?.is_none() {
                return Ok(true);
            }
        }
        let claimed: HashSet<IpAddr> = store.claims()?.into_iter().collect();
        if (0..block.size())
            .filter_map(|i| block.nth(i))
            .any(|a| free(&a) && !claimed.contains(&a))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
#[path = "allocator_tests.rs"]
mod tests;
