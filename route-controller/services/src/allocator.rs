//! Who gets which address: a pure function of the pools and of all Services with what is in their status.
//!
//! 1. What a Service has stays, if a pool with that address serves it and nobody else has it against the rules of sharing.
//! 2. Whatever is in a status, or on its way there, is occupied until the status says otherwise, also where it does not stay.
//! 3. Services that ask for addresses come first, then the others, the oldest first. The lowest free address of the pool with
//!    the highest priority is taken; both families come from one pool where one has both.
//!
//! A request that cannot be granted leaves the Service what it has.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};

use crate::guard::Guard;
use crate::pool::{Labels, Pool};
use crate::problem::Problem;
use crate::range::{Range, after};
use crate::service::{FamilyPolicy, Key, Service, ShareConflict, Wants};

/// What addresses are allocated from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// In the order of the file.
    pub pools: Vec<Pool>,
    /// Addresses that nobody gets.
    pub guard: Guard,
    /// The `loadBalancerClass` that pools without one serve, beside Services without one.
    pub class: Option<String>,
}

/// What becomes of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decision {
    /// Its addresses, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// What it asked for and does not get, or does not keep.
    pub problems: Vec<Problem>,
}

/// How full a pool is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PoolUse {
    /// The pool.
    pub name: String,
    /// Addresses that it gives away.
    pub size: u128,
    /// Addresses that Services have.
    pub used: u128,
}

/// What becomes of all Services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Services that pools could serve.
    pub services: BTreeMap<Key, Decision>,
    /// All pools.
    pub pools: Vec<PoolUse>,
}

/// Decides for all Services. `namespaces` are the labels of namespaces.
#[must_use]
pub fn plan(
    settings: &Settings,
    services: &BTreeMap<Key, Service>,
    namespaces: &BTreeMap<String, Labels>,
) -> Plan {
    let mut planner = Planner::new(settings, namespaces);
    let mut all: Vec<Candidate<'_>> = services
        .iter()
        .map(|(key, service)| Candidate { key, service })
        .collect();
    all.sort_by_key(|one| (one.service.reserved.is_some(), one.service.created, one.key));
    let (own, others): (Vec<_>, Vec<_>) = all
        .iter()
        .copied()
        .partition(|one| planner.allocates_for(one.service));
    let mut kept: Vec<(Candidate<'_>, Decision)> = own.iter().map(|one| (*one, planner.keep(*one))).collect();
    for one in own.iter().chain(&others) {
        let on_its_way = one.service.reserved.iter().flatten();
        for addr in one.service.held.iter().chain(on_its_way) {
            planner.occupy(*addr, *one);
        }
    }
    kept.sort_by_key(|(one, _)| {
        (
            one.service.request.addresses.is_empty(),
            one.service.created,
            one.key,
        )
    });
    for (one, decision) in &mut kept {
        planner.complete(*one, decision);
    }
    let released = others
        .iter()
        .filter(|one| one.service.wants == Wants::Nothing && planner.has_own_address(one.service));
    let released: Vec<_> = released
        .map(|one| (one.key.clone(), Decision::default()))
        .collect();
    let pools = planner.pool_use();
    let decided = kept
        .into_iter()
        .map(|(one, decision)| (one.key.clone(), decision));
    Plan {
        services: decided.chain(released).collect(),
        pools,
    }
}

/// A Service with its name.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    key: &'a Key,
    service: &'a Service,
}

struct Planner<'a> {
    settings: &'a Settings,
    namespaces: &'a BTreeMap<String, Labels>,
    /// Who has each address.
    occupied: BTreeMap<IpAddr, Vec<Candidate<'a>>>,
    /// Addresses by sharing key.
    shared: BTreeMap<&'a str, BTreeSet<IpAddr>>,
    /// Where the search for a free address of a pool's range goes on; addresses are not freed during a plan.
    searched: BTreeMap<(usize, usize), Option<IpAddr>>,
}

impl<'a> Planner<'a> {
    fn new(settings: &'a Settings, namespaces: &'a BTreeMap<String, Labels>) -> Self {
        Self {
            settings,
            namespaces,
            occupied: BTreeMap::new(),
            shared: BTreeMap::new(),
            searched: BTreeMap::new(),
        }
    }

    /// Whether the Service wants an address, and no other program's class is named.
    fn allocates_for(&self, service: &Service) -> bool {
        let class = service.class.as_deref();
        let is_own = class.is_none() || class == self.settings.class.as_deref();
        let has_pool = || {
            self.settings
                .pools
                .iter()
                .any(|pool| pool.class.as_deref() == class)
        };
        service.wants == Wants::Addresses && (is_own || has_pool())
    }

    fn has_own_address(&self, service: &Service) -> bool {
        let in_pool = |addr: &IpAddr| self.settings.pools.iter().any(|pool| pool.contains(*addr));
        service.held.iter().any(in_pool)
    }

    fn serves(&self, pool: &Pool, one: Candidate<'_>) -> Result<(), crate::pool::Mismatch> {
        let none = Labels::new();
        let labels = self.namespaces.get(&one.key.namespace).unwrap_or(&none);
        pool.serves(one.service, labels, self.settings.class.as_deref())
    }

    fn occupy(&mut self, addr: IpAddr, one: Candidate<'a>) {
        let who = self.occupied.entry(addr).or_default();
        if who.iter().any(|other| other.key == one.key) {
            return;
        }
        who.push(one);
        if let Some(key) = &one.service.request.share {
            self.shared.entry(key).or_default().insert(addr);
        }
    }

    /// Whether the Service may have the address beside those who have it.
    fn fits(&self, addr: IpAddr, one: Candidate<'_>) -> Result<(), (Key, ShareConflict)> {
        let others = self.occupied.get(&addr).into_iter().flatten();
        for other in others.filter(|other| other.key != one.key) {
            let shares = one.service.shares_with(one.key, other.service, other.key);
            shares.map_err(|why| (other.key.clone(), why))?;
        }
        Ok(())
    }

    /// What the Service has and keeps.
    fn keep(&mut self, one: Candidate<'a>) -> Decision {
        let mut decision = Decision::default();
        let has = one.service.reserved.as_ref().unwrap_or(&one.service.held);
        for addr in has {
            let family = family_of(*addr);
            let is_second = decision.addresses.iter().any(|kept| family_of(*kept) == family);
            if is_second || !one.service.wanted_families().contains(&family) {
                continue;
            }
            let mut pools = self.settings.pools.iter().filter(|pool| pool.contains(*addr));
            if !pools.any(|pool| self.serves(pool, one).is_ok()) {
                decision.problems.push(Problem::Withdrawn(*addr));
                continue;
            }
            match self.fits(*addr, one) {
                Ok(()) => {
                    self.occupy(*addr, one);
                    decision.addresses.push(*addr);
                }
                Err((by, why)) => decision.problems.push(Problem::Taken {
                    address: *addr,
                    by,
                    why,
                }),
            }
        }
        decision
    }

    /// Adds what the Service asks for, or lacks.
    fn complete(&mut self, one: Candidate<'a>, decision: &mut Decision) {
        let mut chosen: BTreeMap<Family, IpAddr> = BTreeMap::new();
        let (targets, mut problems) = targets(one.service);
        for (family, addr) in &targets {
            match self.grant(*addr, one) {
                Ok(()) => drop(chosen.insert(*family, *addr)),
                Err(problem) => problems.push(problem),
            }
        }
        let pools = self.candidates(one, decision).unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        });
        if problems.is_empty() {
            let lacking = self.lacking(one, decision, &targets);
            self.choose(one, &lacking, &pools, &mut chosen, &mut problems);
        }
        let had = decision.addresses.clone();
        let of = |family: &Family| {
            let kept = had.iter().find(|addr| family_of(**addr) == *family).copied();
            chosen.get(family).copied().or(kept)
        };
        let wanted = one.service.wanted_families();
        decision.addresses = wanted.iter().filter_map(of).collect();
        let is_partial = decision.addresses.len() < wanted.len();
        if one.service.families.policy == FamilyPolicy::RequireDual && is_partial && had.is_empty() {
            decision.addresses.clear();
            problems.push(Problem::RequiresBoth);
        }
        decision.problems.extend(problems);
        for addr in decision.addresses.clone() {
            self.occupy(addr, one);
        }
    }

    /// Whether the Service gets an address that it asks for.
    fn grant(&self, addr: IpAddr, one: Candidate<'_>) -> Result<(), Problem> {
        let Some(pool) = self.settings.pools.iter().find(|pool| pool.contains(addr)) else {
            return Err(Problem::OutsidePools(addr));
        };
        if let Some(name) = one
            .service
            .request
            .pool
            .as_ref()
            .filter(|name| **name != pool.name)
        {
            let pool = name.clone();
            return Err(Problem::OutsidePool { address: addr, pool });
        }
        self.serves(pool, one).map_err(|why| Problem::PoolRefuses {
            pool: pool.name.clone(),
            why,
        })?;
        let is_had = one.service.held.contains(&addr);
        if let Some((why, _)) = self.settings.guard.refused_until(addr).filter(|_| !is_had) {
            return Err(Problem::Refused { address: addr, why });
        }
        self.fits(addr, one).map_err(|(by, why)| Problem::Taken {
            address: addr,
            by,
            why,
        })
    }

    /// Pools that the Service gets addresses from, the best first, by their place in the file.
    fn candidates(&self, one: Candidate<'_>, decision: &Decision) -> Result<Vec<usize>, Problem> {
        let pools = self.settings.pools.iter().enumerate();
        if let Some(name) = &one.service.request.pool {
            let found = pools.clone().find(|(_, pool)| pool.name == *name);
            let (index, pool) = found.ok_or_else(|| Problem::UnknownPool(name.clone()))?;
            self.serves(pool, one).map_err(|why| Problem::PoolRefuses {
                pool: name.clone(),
                why,
            })?;
            return Ok(vec![index]);
        }
        let serving = pools.filter(|(_, pool)| pool.automatic && self.serves(pool, one).is_ok());
        let mut list: Vec<(usize, &Pool)> = serving.collect();
        let has = |pool: &Pool| decision.addresses.iter().any(|addr| pool.contains(*addr));
        list.sort_by_key(|(index, pool)| (!has(pool), std::cmp::Reverse(pool.priority), *index));
        Ok(list.into_iter().map(|(index, _)| index).collect())
    }

    /// Families that the Service has no address of, or none of the pool that it asks for.
    fn lacking(
        &self,
        one: Candidate<'_>,
        decision: &Decision,
        targets: &BTreeMap<Family, IpAddr>,
    ) -> Vec<Family> {
        let named = one.service.request.pool.as_ref();
        let requested = named.and_then(|name| self.settings.pools.iter().find(|pool| pool.name == *name));
        let suffices = |addr: &IpAddr| requested.is_none_or(|pool| pool.contains(*addr));
        let has = |family: &Family| {
            let mut kept = decision.addresses.iter();
            kept.any(|addr| family_of(*addr) == *family && suffices(addr))
        };
        let wanted = one.service.wanted_families().iter();
        wanted
            .filter(|family| !targets.contains_key(family) && !has(family))
            .copied()
            .collect()
    }

    /// Chooses addresses of these families: of one pool, or of several where none has all.
    fn choose(
        &mut self,
        one: Candidate<'_>,
        lacking: &[Family],
        pools: &[usize],
        chosen: &mut BTreeMap<Family, IpAddr>,
        problems: &mut Vec<Problem>,
    ) {
        for pool in pools {
            let found = lacking
                .iter()
                .map(|family| Some((*family, self.find(*pool, *family, one)?)));
            if let Some(all) = found.collect::<Option<Vec<_>>>() {
                return chosen.extend(all);
            }
        }
        for family in lacking {
            match pools.iter().find_map(|pool| self.find(*pool, *family, one)) {
                Some(addr) => drop(chosen.insert(*family, addr)),
                None => problems.push(self.none_of(*family, pools)),
            }
        }
    }

    fn none_of(&self, family: Family, pools: &[usize]) -> Problem {
        let all = pools.iter().filter_map(|index| self.settings.pools.get(*index));
        let has = |pool: &&Pool| pool.ranges.iter().any(|range| range.family() == family);
        let names: Vec<String> = all.filter(has).map(|pool| pool.name.clone()).collect();
        match (pools.is_empty(), names.is_empty()) {
            (true, _) => Problem::NoPool,
            (false, true) => Problem::NoPoolOfFamily(family),
            (false, false) => Problem::Exhausted { family, pools: names },
        }
    }

    /// An address that the Service can share, else the lowest free one.
    fn find(&mut self, index: usize, family: Family, one: Candidate<'_>) -> Option<IpAddr> {
        let pool = self.settings.pools.get(index)?;
        if let Some(key) = &one.service.request.share {
            let all = self.shared.get(key.as_str()).into_iter().flatten();
            let mut near = all.filter(|addr| pool.contains(**addr) && family_of(**addr) == family);
            if let Some(addr) = near.find(|addr| self.fits(**addr, one).is_ok()) {
                return Some(*addr);
            }
        }
        let ranges = pool.ranges.iter().enumerate();
        let mut ranges = ranges.filter(|(_, range)| range.family() == family);
        ranges.find_map(|(number, range)| self.free(pool, range, (index, number)))
    }

    fn free(&mut self, pool: &Pool, range: &Range, place: (usize, usize)) -> Option<IpAddr> {
        let mut next = self.searched.get(&place).copied().unwrap_or(Some(range.first()));
        let found = loop {
            let Some(addr) = next.filter(|addr| range.contains(*addr)) else {
                break None;
            };
            if let Some((_, last)) = self.settings.guard.refused_until(addr) {
                next = after(last);
            } else if self.occupied.contains_key(&addr) || pool.avoids(range, addr) {
                next = after(addr);
            } else {
                break Some(addr);
            }
        };
        self.searched.insert(place, found);
        found
    }

    fn pool_use(&self) -> Vec<PoolUse> {
        let one = |pool: &Pool| PoolUse {
            name: pool.name.clone(),
            size: pool.size(),
            used: self.occupied.keys().filter(|addr| pool.contains(**addr)).count() as u128,
        };
        self.settings.pools.iter().map(one).collect()
    }
}

/// The addresses that a Service asks for, and what cannot be asked for.
fn targets(service: &Service) -> (BTreeMap<Family, IpAddr>, Vec<Problem>) {
    let mut targets: BTreeMap<Family, IpAddr> = BTreeMap::new();
    let unreadable = service.request.unreadable.iter();
    let mut problems: Vec<Problem> = unreadable.map(|text| Problem::Unreadable(text.clone())).collect();
    for addr in &service.request.addresses {
        let family = family_of(*addr);
        if !service.wanted_families().contains(&family) {
            problems.push(Problem::OtherFamily(*addr));
        } else if targets.entry(family).or_insert(*addr) != addr {
            problems.push(Problem::SecondOfFamily(*addr));
        }
    }
    (targets, problems)
}

fn family_of(addr: IpAddr) -> Family {
    Prefix::host(addr).family()
}
