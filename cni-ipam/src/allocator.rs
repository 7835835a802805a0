//! Which address is given, and what a release does; over any `Store`.
//!
//! In order: an address of the block that was never given; the one released longest ago; and, before
//! saying that none is left, whatever a look at all claims finds free (queue slots that the hints
//! lost, addresses no longer reserved). The first two touch a fixed number of files whatever the
//! block's size. Only `Store::claim` gives an address, so wrong hints can cost time but never give an
//! address twice. Blocks are used in the agent's order; a block that is no longer listed is drained.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::block::{self, Block, Family};
use crate::error::{Error, Result};
use crate::names::Owner;
use crate::store::{Counter, Released, Store};

/// What an ADD asks of the allocator.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AllocRequest<'a> {
    /// The node's blocks, in order, both families.
    pub(crate) blocks: &'a [Block],
    /// The families to give an address of.
    pub(crate) families: &'a [Family],
    /// Addresses asked for by name; they stand for the automatic one of their family.
    pub(crate) requested: &'a [IpAddr],
}

/// Claims one address per family and all that are wanted. `is_excluded`: never chosen, but may be asked for; `is_dead`: held
/// by a pod that is gone. On failure all of them are released.
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

/// An address that was never allocated.
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

/// The address released longest ago.
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

/// The claim comes first, then the place is emptied: killed between, the place is stale, and a stale
/// place (its address taken or reserved) is emptied by whoever comes next.
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

/// Any address without a claim: the whole block is looked at, but only when all else found none.
fn unclaimed(store: &impl Store, block: Block, try_claim: TryClaim<'_>) -> Result<Option<IpAddr>> {
    let claimed: HashSet<IpAddr> = store.claims()?.into_iter().collect();
    for address in (0..block.size()).filter_map(|i| block.nth(i)) {
        if !claimed.contains(&address) && try_claim(address)? {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// Ends the owner's claim on an address, if it holds one. The caller holds the owner's lock, so the
/// claim cannot become another's between the look and the step.
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

/// Ends every claim of an owner, found by looking at all claims.
pub(crate) fn release_all(store: &impl Store, owner: &Owner) -> Result<Vec<IpAddr>> {
    let mut released = Vec::new();
    for address in store.claims()? {
        if release(store, owner, address)? {
            released.push(address);
        }
    }
    Ok(released)
}

/// Refuses where all blocks of a family are new while addresses of an old one are in use: the node got
/// another pod CIDR under living pods. Forgets blocks that are drained.
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

/// The same, but only tells which past blocks have no claim left.
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
        // What dead pods hold is in no one's way; the block stays known until they are collected.
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

/// Could an address of every family be given? Reads hints first, all claims only where those say no.
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
