//! Any history of Services, pools, restarts, lost and late writes and changes of the allocator: no address twice, none changed
//! without a reason, none withheld without one. The oracle looks at every address of every pool; it shares no code with the planner.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use bgp_proto::types::Family;
use podroute_services::{
    Change, Families, FamilyPolicy, Key, Labels, Ledger, Pool, Problem, Request, Service, Settings, Traffic,
    Wants, Write, plan,
};
use proptest::prelude::*;

const NAMES: usize = 7;

#[derive(Clone, Debug)]
enum Event {
    Put(usize, Box<Service>),
    Delete(usize),
    Pools(Vec<Pool>),
    /// The allocator decides, and sends what it wants to write.
    Decide(usize),
    /// It sends more of what it decided.
    Send(usize),
    /// The API server takes the oldest write under way; its answer may be lost.
    Deliver {
        answer: bool,
    },
    /// A write under way is lost, and the allocator receives an error.
    Lose,
    /// The allocator sees the next changes.
    Watch(usize),
    /// The list is read again.
    Relist,
    /// Another one takes over; writes of the former one are still under way.
    TakeOver,
}

fn addresses() -> Vec<IpAddr> {
    let four = (0..8).map(|n| IpAddr::from([192, 0, 2, n]));
    let six = (0..4).map(|n| format!("2001:db8::{n}").parse().unwrap());
    four.chain(six).collect()
}

fn address() -> impl Strategy<Value = IpAddr> {
    proptest::sample::select(addresses())
}

fn pool(
    name: &'static str,
    four: std::ops::Range<u8>,
    six: std::ops::Range<u8>,
) -> impl Strategy<Value = Pool> {
    (
        four,
        six,
        any::<(bool, bool, bool)>(),
        0..3u32,
        proptest::option::weighted(0.2, Just("c".to_owned())),
    )
        .prop_map(
            move |(four, six, (automatic, avoid, select), priority, class)| Pool {
                name: name.to_owned(),
                ranges: vec![
                    format!("192.0.2.{}-192.0.2.{}", four.saturating_sub(2), four)
                        .parse()
                        .unwrap(),
                    format!("2001:db8::{six}/128").parse().unwrap(),
                ],
                service_selector: if select { labels() } else { Labels::new() },
                namespace_selector: Labels::new(),
                class,
                priority,
                automatic,
                avoid_first_and_last: avoid,
            },
        )
}

fn labels() -> Labels {
    [("tier".to_owned(), "edge".to_owned())].into()
}

fn pools() -> impl Strategy<Value = Vec<Pool>> {
    // Their ranges never overlap: 0–3 and 4–7.
    (
        proptest::option::weighted(0.8, pool("a", 1..4, 0..2)),
        proptest::option::weighted(0.8, pool("b", 6..8, 2..4)),
    )
        .prop_map(|(a, b)| a.into_iter().chain(b).collect())
}

fn request() -> impl Strategy<Value = Request> {
    let some = |name: &'static str| Just(name.to_owned());
    (
        prop_oneof![4 => Just(vec![]), 2 => proptest::collection::vec(address(), 1..3)],
        proptest::option::weighted(0.2, prop_oneof![some("a"), some("b"), some("nowhere")]),
        proptest::option::weighted(0.4, prop_oneof![some("k"), some("l")]),
        prop_oneof![9 => Just(vec![]), 1 => Just(vec!["x".to_owned()])],
    )
        .prop_map(|(addresses, pool, share, unreadable)| Request {
            addresses,
            pool,
            share,
            unreadable,
        })
}

fn families() -> impl Strategy<Value = Families> {
    let policies = [
        FamilyPolicy::Single,
        FamilyPolicy::PreferDual,
        FamilyPolicy::RequireDual,
    ];
    (any::<bool>(), proptest::sample::select(policies.to_vec())).prop_map(|(turned, policy)| {
        let mut list = vec![Family::Ipv4, Family::Ipv6];
        if turned {
            list.reverse();
        }
        Families { list, policy }
    })
}

fn service() -> impl Strategy<Value = Service> {
    let wants =
        prop_oneof![8 => Just(Wants::Addresses), 1 => Just(Wants::Nothing), 1 => Just(Wants::Deleted)];
    let class =
        prop_oneof![6 => Just(None), 1 => Just(Some("c".to_owned())), 1 => Just(Some("foreign".to_owned()))];
    (
        wants,
        class,
        any::<(bool, bool)>(),
        0..4i64,
        families(),
        request(),
        proptest::sample::select(vec![80u16, 443]),
    )
        .prop_map(
            |(wants, class, (edge, local), created, families, request, port)| Service {
                wants,
                class,
                labels: if edge { labels() } else { Labels::new() },
                created,
                families,
                request,
                traffic: Traffic {
                    ports: [("TCP".to_owned(), port)].into(),
                    local,
                    backends: labels(),
                },
                held: vec![],
                reserved: None,
            },
        )
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..NAMES, service()).prop_map(|(name, service)| Event::Put(name, Box::new(service))),
        2 => (0..NAMES).prop_map(Event::Delete),
        1 => pools().prop_map(Event::Pools),
        6 => (0..6usize).prop_map(Event::Decide),
        4 => (1..6usize).prop_map(Event::Send),
        8 => proptest::bool::weighted(0.8).prop_map(|answer| Event::Deliver { answer }),
        1 => Just(Event::Lose),
        8 => (1..6usize).prop_map(Event::Watch),
        1 => Just(Event::Relist),
        1 => Just(Event::TakeOver),
    ]
}

/// The API server, and the allocators before it.
struct World {
    settings: Settings,
    stored: BTreeMap<Key, (u64, Service)>,
    version: u64,
    /// Changes that the allocator has not seen.
    unseen: VecDeque<(Key, Option<(u64, Service)>)>,
    ledger: Ledger,
    /// Writes under way, with the term of the allocator that sent them.
    under_way: Vec<(usize, Write)>,
    term: usize,
}

fn key(name: usize) -> Key {
    Key {
        namespace: "default".to_owned(),
        name: format!("s{name}"),
    }
}

impl World {
    fn new(pools: Vec<Pool>) -> Self {
        let settings = Settings {
            pools,
            ..Settings::default()
        };
        let mut world = Self {
            settings,
            stored: BTreeMap::new(),
            version: 0,
            unseen: VecDeque::new(),
            ledger: Ledger::new(false),
            under_way: Vec::new(),
            term: 0,
        };
        world.list();
        world
    }

    fn store(&mut self, key: Key, service: Service) {
        self.version += 1;
        self.unseen
            .push_back((key.clone(), Some((self.version, service.clone()))));
        self.stored.insert(key, (self.version, service));
    }

    fn list(&mut self) {
        self.unseen.clear();
        self.ledger.list_begins();
        for (key, (version, service)) in &self.stored {
            self.ledger
                .see(key.clone(), &version.to_string(), service.clone());
        }
        self.ledger.list_ends();
    }

    fn watch(&mut self, count: usize) {
        for _ in 0..count {
            match self.unseen.pop_front() {
                Some((key, Some((version, service)))) => self.ledger.see(key, &version.to_string(), service),
                Some((key, None)) => self.ledger.remove(&key),
                None => return,
            }
        }
    }

    fn decide(&mut self, room: usize) {
        self.ledger.decide(&self.settings, &BTreeMap::new()).unwrap();
        self.ledger.retry();
        self.send(room);
    }

    fn send(&mut self, room: usize) {
        let writes = self.ledger.next_writes(room);
        self.under_way
            .extend(writes.into_iter().map(|write| (self.term, write)));
    }

    fn deliver(&mut self, answer: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let (term, write) = self.under_way.remove(0);
        if let Some((version, service)) = self.stored.get(&write.key)
            && version.to_string() == write.version
        {
            let mut service = service.clone();
            if let Change::Addresses(list) = &write.what {
                service.held.clone_from(list);
            }
            self.store(write.key.clone(), service);
        }
        if term == self.term {
            self.ledger.settle(&write, answer);
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Put(name, mut service) => {
                // Whoever changes a Service does not change its status.
                if let Some((_, old)) = self.stored.get(&key(name)) {
                    service.held.clone_from(&old.held);
                    service.created = old.created;
                }
                self.store(key(name), *service);
            }
            Event::Delete(name) => {
                if self.stored.remove(&key(name)).is_some() {
                    self.version += 1;
                    self.unseen.push_back((key(name), None));
                }
            }
            Event::Pools(pools) => self.settings.pools = pools,
            Event::Decide(room) => self.decide(room),
            Event::Send(room) => self.send(room),
            Event::Deliver { answer } => self.deliver(answer),
            Event::Lose => {
                if let Some((term, write)) = self.under_way.pop()
                    && term == self.term
                {
                    self.ledger.settle(&write, false);
                }
            }
            Event::Watch(count) => self.watch(count),
            Event::Relist => self.list(),
            Event::TakeOver => {
                self.term += 1;
                self.ledger = Ledger::new(true);
                self.list();
            }
        }
    }

    /// Until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..60 {
            self.watch(usize::MAX);
            self.decide(100);
            if self.under_way.is_empty() && self.unseen.is_empty() {
                return;
            }
            while !self.under_way.is_empty() {
                self.deliver(true);
            }
        }
        panic!("it never ends: {:?}", self.under_way);
    }
}

/// Pairs of Services of which something is so.
fn pairs(stored: &BTreeMap<Key, (u64, Service)>, is: fn(&Service, &Service) -> bool) -> BTreeSet<(Key, Key)> {
    let mut found = BTreeSet::new();
    for (a, (_, one)) in stored {
        let others = stored.range(a..).skip(1);
        found.extend(
            others
                .filter(|(_, (_, other))| is(one, other))
                .map(|(b, _)| (a.clone(), b.clone())),
        );
    }
    found
}

/// Addresses that two Services got although they do not share.
fn doubles(stored: &BTreeMap<Key, (u64, Service)>) -> BTreeSet<(Key, Key, IpAddr)> {
    let mut found = BTreeSet::new();
    for (a, b) in pairs(stored, |one, other| !may_share(one, other)) {
        let theirs = &stored[&b].1.held;
        let both = stored[&a].1.held.iter().filter(|addr| theirs.contains(addr));
        found.extend(both.map(|addr| (a.clone(), b.clone(), *addr)));
    }
    found
}

/// Whether the allocator gives it addresses.
fn is_own(world: &World, service: &Service) -> bool {
    let has_pool = world
        .settings
        .pools
        .iter()
        .any(|pool| pool.class == service.class);
    service.wants == Wants::Addresses && (service.class.is_none() || has_pool)
}

fn may_share(one: &Service, other: &Service) -> bool {
    let same_key = one.request.share.is_some() && one.request.share == other.request.share;
    // All are in one namespace and select the same pods.
    same_key && one.traffic.ports.is_disjoint(&other.traffic.ports)
}

fn serves(pool: &Pool, service: &Service) -> bool {
    pool.class == service.class && (pool.service_selector.is_empty() || !service.labels.is_empty())
}

fn wanted(service: &Service) -> Vec<Family> {
    match service.families.policy {
        FamilyPolicy::Single => service.families.list[..1].to_vec(),
        _ => service.families.list.clone(),
    }
}

fn family(addr: IpAddr) -> Family {
    if addr.is_ipv4() {
        Family::Ipv4
    } else {
        Family::Ipv6
    }
}

/// Whether nobody else stands in the way of the Service at this address.
fn is_open(world: &World, own: &Key, service: &Service, addr: IpAddr) -> bool {
    let others = world.stored.iter().filter(|(key, _)| *key != own);
    others
        .filter(|(_, (_, other))| other.held.contains(&addr))
        .all(|(_, (_, other))| may_share(service, other))
}

/// In the end each Service has what it can have.
fn check_settled(world: &World) {
    for (key, (_, service)) in &world.stored {
        if service.wants != Wants::Addresses || service.class.as_deref() == Some("foreign") {
            continue;
        }
        if service.class.is_some()
            && !world
                .settings
                .pools
                .iter()
                .any(|pool| pool.class == service.class)
        {
            continue;
        }
        let pools = || world.settings.pools.iter().filter(|pool| serves(pool, service));
        for addr in &service.held {
            assert!(
                pools().any(|pool| pool.contains(*addr)),
                "{key} has {addr} of no pool"
            );
            assert!(
                wanted(service).contains(&family(*addr)),
                "{key} has {addr} of a family that it does not want"
            );
        }
        let requested = |family_: Family| {
            service
                .request
                .addresses
                .iter()
                .find(|addr| family(**addr) == family_)
        };
        let is_clean = service.request.unreadable.is_empty()
            && service.request.addresses.iter().all(|addr| {
                let is_first = requested(family(*addr)) == Some(addr);
                let in_pool = service
                    .request
                    .pool
                    .as_ref()
                    .is_none_or(|name| pools().any(|pool| pool.name == *name && pool.contains(*addr)));
                let can = pools().any(|pool| pool.contains(*addr)) && is_open(world, key, service, *addr);
                is_first
                    && wanted(service).contains(&family(*addr))
                    && in_pool
                    && (can || service.held.contains(addr))
            })
            && service
                .request
                .pool
                .as_ref()
                .is_none_or(|name| pools().any(|pool| pool.name == *name));
        if !is_clean {
            continue;
        }
        for family_ in wanted(service) {
            if let Some(addr) = requested(family_) {
                let is_dual = service.families.policy == FamilyPolicy::RequireDual;
                assert!(
                    service.held.contains(addr) || is_dual,
                    "{key} asks for {addr}, which is free, and has {:?}",
                    service.held
                );
                continue;
            }
            if service.held.iter().any(|addr| family(*addr) == family_) {
                continue;
            }
            let other_lacks = service.families.policy == FamilyPolicy::RequireDual;
            let of_pool = |pool: &&Pool| match &service.request.pool {
                Some(name) => pool.name == *name,
                None => pool.automatic,
            };
            let free: Vec<IpAddr> = addresses()
                .into_iter()
                .filter(|addr| family(*addr) == family_ && is_open(world, key, service, *addr))
                .filter(|addr| {
                    pools()
                        .filter(of_pool)
                        .any(|pool| pool.contains(*addr) && !pool.avoid_first_and_last)
                })
                .collect();
            assert!(
                free.is_empty() || other_lacks,
                "{key} has no {family_} address and could have {free:?}: {service:?}"
            );
        }
    }
}

/// A plan keeps what may be kept.
fn check_kept(world: &World, services: &BTreeMap<Key, Service>) {
    let plan = plan(&world.settings, services, &BTreeMap::new());
    for (key, decision) in &plan.services {
        let service = &services[key];
        if service.wants != Wants::Addresses {
            continue;
        }
        for addr in &service.held {
            let others = services.iter().filter(|(other, _)| *other != key);
            let mut others = others.filter(|(_, other)| other.held.contains(addr));
            let is_first = service.held.iter().find(|held| family(**held) == family(*addr)) == Some(addr);
            let allowed = world
                .settings
                .pools
                .iter()
                .any(|pool| pool.contains(*addr) && serves(pool, service));
            let stays = is_first
                && allowed
                && wanted(service).contains(&family(*addr))
                && others.all(|(_, other)| may_share(service, other));
            let asks_for_another = !service.request.addresses.is_empty() || service.request.pool.is_some();
            if stays && !asks_for_another {
                assert!(
                    decision.addresses.contains(addr),
                    "{key} loses {addr}: {decision:?}"
                );
            }
        }
        // Nobody gets what another one has.
        for addr in decision
            .addresses
            .iter()
            .filter(|addr| !service.held.contains(addr))
        {
            for (other, (_, theirs)) in services
                .iter()
                .map(|(other, theirs)| (other, ((), theirs)))
                .filter(|(other, _)| *other != key)
            {
                let given = plan
                    .services
                    .get(other)
                    .is_some_and(|other| other.addresses.contains(addr));
                assert!(
                    !(theirs.held.contains(addr) || given) || may_share(service, theirs),
                    "{key} gets {addr} of {other}"
                );
            }
        }
        let is_explained = !decision.problems.is_empty() || decision.addresses.len() == wanted(service).len();
        assert!(
            is_explained,
            "{key} has {:?} and nobody says why",
            decision.addresses
        );
        if decision.problems.contains(&Problem::RequiresBoth) {
            assert!(decision.addresses.is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_shrink_iters: 20000, ..ProptestConfig::default() })]

    #[test]
    fn no_address_twice_and_none_changed_without_a_reason(
        first in pools(),
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut world = World::new(first);
        let mut before = BTreeSet::new();
        let mut shared = BTreeSet::new();
        for event in events {
            // Who edits a Service may end a sharing, also while a write is under way: such a pair is looked at in the end.
            let is_write = matches!(event, Event::Deliver { .. });
            world.apply(event);
            shared.extend(pairs(&world.stored, may_share));
            let now = doubles(&world.stored);
            if is_write {
                let is_new = |double: &&(Key, Key, IpAddr)| !shared.contains(&(double.0.clone(), double.1.clone()));
                let new: Vec<_> = now.difference(&before).filter(is_new).collect();
                prop_assert!(new.is_empty(), "two Services have one address: {:?}", new);
            }
            before = now;
            let services = world.stored.iter().map(|(key, (_, service))| (key.clone(), service.clone())).collect();
            check_kept(&world, &services);
        }
        world.settle();
        let mut own = world.stored.clone();
        own.retain(|_, (_, service)| is_own(&world, service));
        prop_assert!(doubles(&own).is_empty(), "{:?}", doubles(&own));
        check_settled(&world);
        // Another allocator has nothing to change.
        let settled = world.version;
        world.apply(Event::TakeOver);
        world.settle();
        prop_assert_eq!(world.version, settled);
    }
}
