//! Faults that MetalLB had, by the number of its issue: each is a test here.
#![cfg(test)]

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_proto::types::Family;
use podroute_services::{
    Change, Decision, Families, FamilyPolicy, Key, Labels, Ledger, Plan, Pool, Problem, Service, Settings,
    ShareConflict, Wants, plan,
};

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(name: &str) -> Key {
    Key {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool {
        name: name.to_owned(),
        ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
        automatic: true,
        ..Pool::default()
    }
}

fn settings(pools: &[Pool]) -> Settings {
    Settings {
        pools: pools.to_vec(),
        ..Settings::default()
    }
}

/// Of IPv4 alone, created at this second.
fn service(created: i64, held: &[&str]) -> Service {
    Service {
        created,
        held: held.iter().map(|text| addr(text)).collect(),
        families: Families {
            list: vec![Family::Ipv4],
            policy: FamilyPolicy::Single,
        },
        ..Service::default()
    }
}

type Services = BTreeMap<Key, Service>;

fn services(list: &[(&str, Service)]) -> Services {
    list.iter()
        .map(|(name, service)| (key(name), service.clone()))
        .collect()
}

fn planned(settings: &Settings, services: &Services) -> Plan {
    plan(settings, services, &BTreeMap::new())
}

fn decided<'a>(plan: &'a Plan, name: &str) -> &'a Decision {
    plan.services.get(&key(name)).unwrap()
}

fn texts(decision: &Decision) -> Vec<String> {
    decision.addresses.iter().map(ToString::to_string).collect()
}

/// 1774, 2443: after a restart a Service that was pending got an address that another one had.
#[test]
fn pending_services_take_nothing_from_others_after_a_restart() {
    let settings = settings(&[pool("a", &["192.0.2.1-192.0.2.3"])]);
    // The pending ones are older and come first by name.
    let all = services(&[
        ("a-pending", service(1, &[])),
        ("b-pending", service(2, &[])),
        ("c", service(3, &["192.0.2.1"])),
        ("d", service(4, &["192.0.2.2"])),
    ]);
    let plan = planned(&settings, &all);
    assert_eq!(texts(decided(&plan, "c")), ["192.0.2.1"]);
    assert_eq!(texts(decided(&plan, "d")), ["192.0.2.2"]);
    assert_eq!(texts(decided(&plan, "a-pending")), ["192.0.2.3"]);
    assert_eq!(
        decided(&plan, "b-pending").problems,
        [Problem::Exhausted {
            family: Family::Ipv4,
            pools: vec!["a".to_owned()]
        }]
    );
    // Nothing is decided while only some are known.
    let mut ledger = Ledger::new(false);
    ledger.list_begins();
    ledger.see(key("a-pending"), "1", service(1, &[]));
    assert!(ledger.decide(&settings, &BTreeMap::new()).is_none());
}

/// 399, 321: the address of a deleted Service was not used again.
#[test]
fn a_freed_address_goes_to_a_service_that_waits() {
    let settings = settings(&[pool("a", &["192.0.2.1/32"])]);
    let mut ledger = Ledger::new(false);
    ledger.list_begins();
    ledger.see(key("old"), "1", service(1, &["192.0.2.1"]));
    ledger.see(key("new"), "2", service(2, &[]));
    ledger.list_ends();
    ledger.decide(&settings, &BTreeMap::new()).unwrap();
    let writes = ledger.next_writes(10);
    assert_eq!(writes, []);
    // One that is being deleted has it until it is gone.
    ledger.see(
        key("old"),
        "3",
        Service {
            wants: Wants::Deleted,
            ..service(1, &["192.0.2.1"])
        },
    );
    ledger.decide(&settings, &BTreeMap::new()).unwrap();
    assert_eq!(ledger.next_writes(10), []);
    ledger.remove(&key("old"));
    ledger.decide(&settings, &BTreeMap::new()).unwrap();
    let writes = ledger.next_writes(10);
    assert_eq!(writes.len(), 1);
    assert_eq!(writes[0].what, Change::Addresses(vec![addr("192.0.2.1")]));
    assert_eq!((&writes[0].key, writes[0].version.as_str()), (&key("new"), "2"));
}

/// 321: a Service that is of another type now gives its address back.
#[test]
fn a_service_of_another_type_gives_its_address_back() {
    let settings = settings(&[pool("a", &["192.0.2.1/32"])]);
    let other = Service {
        wants: Wants::Nothing,
        ..service(1, &["192.0.2.1"])
    };
    let mut all = services(&[("old", other), ("new", service(2, &[]))]);
    let plan = planned(&settings, &all);
    assert_eq!(texts(decided(&plan, "old")), [""; 0]);
    assert_eq!(
        texts(decided(&plan, "new")),
        [""; 0],
        "not before the status of the other one is empty"
    );
    all.get_mut(&key("old")).unwrap().held.clear();
    let plan = planned(&settings, &all);
    assert_eq!(texts(decided(&plan, "new")), ["192.0.2.1"]);
    assert!(
        !plan.services.contains_key(&key("old")),
        "nothing more is written"
    );
}

/// 1591, 2076: Services kept addresses of a pool that was removed.
#[test]
fn a_removed_pool_takes_its_addresses_along() {
    let all = services(&[("web", service(1, &["192.0.2.1"]))]);
    let plan = planned(&settings(&[pool("b", &["198.51.100.0/30"])]), &all);
    assert_eq!(texts(decided(&plan, "web")), ["198.51.100.0"]);
    assert_eq!(
        decided(&plan, "web").problems,
        [Problem::Withdrawn(addr("192.0.2.1"))]
    );
    let plan = planned(&settings(&[]), &all);
    assert_eq!(
        decided(&plan, "web").problems,
        [Problem::Withdrawn(addr("192.0.2.1")), Problem::NoPool]
    );
    // An edit that keeps the address changes nothing, whatever else it changes.
    let other = Pool {
        automatic: false,
        avoid_first_and_last: true,
        priority: 7,
        ..pool("other", &["192.0.2.1-192.0.2.9"])
    };
    let plan = planned(&settings(&[pool("b", &["198.51.100.0/30"]), other]), &all);
    assert_eq!(
        *decided(&plan, "web"),
        Decision {
            addresses: vec![addr("192.0.2.1")],
            problems: vec![]
        }
    );
}

/// 703: addresses of a pool with `auto-assign: false` were given to Services that did not ask for it.
#[test]
fn a_pool_that_is_not_automatic_is_for_those_who_ask() {
    let settings = settings(&[Pool {
        automatic: false,
        ..pool("a", &["192.0.2.0/30"])
    }]);
    let mut asks = service(2, &[]);
    asks.request.pool = Some("a".to_owned());
    let mut asks_for_address = service(3, &[]);
    asks_for_address.request.addresses = vec![addr("192.0.2.3")];
    let all = services(&[
        ("plain", service(1, &[])),
        ("asks", asks),
        ("exact", asks_for_address),
    ]);
    let plan = planned(&settings, &all);
    assert_eq!(decided(&plan, "plain").problems, [Problem::NoPool]);
    assert_eq!(texts(decided(&plan, "asks")), ["192.0.2.0"]);
    assert_eq!(texts(decided(&plan, "exact")), ["192.0.2.3"]);
}

/// 2656: the priority of pools was ignored.
#[test]
fn the_pool_with_the_highest_priority_is_used_first() {
    let pools = [
        pool("low", &["192.0.2.1/32"]),
        Pool {
            priority: 10,
            ..pool("high", &["198.51.100.1/32"])
        },
        Pool {
            priority: 5,
            ..pool("middle", &["203.0.113.1/32"])
        },
    ];
    let all = services(&[
        ("a", service(1, &[])),
        ("b", service(2, &[])),
        ("c", service(3, &[])),
        ("d", service(4, &[])),
    ]);
    let plan = planned(&settings(&pools), &all);
    let got = ["a", "b", "c", "d"].map(|name| texts(decided(&plan, name)).concat());
    assert_eq!(got, ["198.51.100.1", "203.0.113.1", "192.0.2.1", ""]);
}

fn labels(list: &[(&str, &str)]) -> Labels {
    list.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn pools_select_services_namespaces_and_classes() {
    let pools = [
        Pool {
            service_selector: labels(&[("tier", "edge")]),
            ..pool("edge", &["192.0.2.1/32"])
        },
        Pool {
            namespace_selector: labels(&[("team", "a")]),
            ..pool("team", &["192.0.2.2/32"])
        },
        Pool {
            class: Some("example.com/fast".to_owned()),
            ..pool("fast", &["192.0.2.3/32"])
        },
    ];
    let labelled = Service {
        labels: labels(&[("tier", "edge")]),
        ..service(1, &[])
    };
    let fast = Service {
        class: Some("example.com/fast".to_owned()),
        ..service(2, &[])
    };
    let foreign = Service {
        class: Some("example.com/other".to_owned()),
        ..service(3, &[])
    };
    let all = services(&[
        ("edge", labelled),
        ("fast", fast),
        ("foreign", foreign),
        ("plain", service(4, &[])),
    ]);
    let plan1 = planned(&settings(&pools), &all);
    assert_eq!(texts(decided(&plan1, "edge")), ["192.0.2.1"]);
    assert_eq!(texts(decided(&plan1, "fast")), ["192.0.2.3"]);
    assert!(!plan1.services.contains_key(&key("foreign")), "another program's");
    assert_eq!(decided(&plan1, "plain").problems, [Problem::NoPool]);
    let namespaces = [("default".to_owned(), labels(&[("team", "a")]))].into();
    let plan2 = plan(&settings(&pools), &all, &namespaces);
    assert_eq!(texts(decided(&plan2, "plain")), ["192.0.2.2"]);
}

#[test]
fn addresses_are_shared_with_the_same_key_and_other_ports() {
    let settings = settings(&[pool("a", &["192.0.2.0/30"])]);
    let shared = |created: i64, share: &str, port: u16| {
        let mut service = service(created, &[]);
        service.request.share = Some(share.to_owned());
        service.traffic.ports = [("TCP".to_owned(), port)].into();
        service
    };
    let mut local = shared(5, "k", 22);
    local.traffic.local = true;
    let mut asks = shared(6, "x", 25);
    asks.request.addresses = vec![addr("192.0.2.0")];
    let all = services(&[
        ("a", shared(1, "k", 80)),
        ("b", shared(2, "k", 443)),
        ("c", shared(3, "other", 21)),
        ("d", shared(4, "k", 80)),
        ("local", local),
        ("asks", asks),
    ]);
    let plan = planned(&settings, &all);
    let got = ["b", "c", "d", "local"].map(|name| texts(decided(&plan, name)).concat());
    // "asks" comes first, for it names an address.
    assert_eq!(texts(decided(&plan, "asks")), ["192.0.2.0"]);
    assert_eq!(texts(decided(&plan, "a")), ["192.0.2.1"]);
    assert_eq!(got, ["192.0.2.1", "192.0.2.2", "192.0.2.3", ""]);
    // A later Service that requests it learns why not.
    let mut late = all.clone();
    let has = |services: &mut Services, name: &str, text: &str| {
        services.get_mut(&key(name)).unwrap().held = vec![addr(text)]
    };
    has(&mut late, "a", "192.0.2.0");
    let plan = planned(&settings, &late);
    let [Problem::Taken { by, why, .. }] = decided(&plan, "asks").problems.as_slice() else {
        panic!("{:?}", decided(&plan, "asks"));
    };
    assert_eq!((by, why), (&key("a"), &ShareConflict::OtherKey));
}

#[test]
fn dual_stack_follows_the_policy() {
    let both = |policy: FamilyPolicy| Service {
        families: Families {
            list: vec![Family::Ipv6, Family::Ipv4],
            policy,
        },
        ..service(1, &[])
    };
    let got = |policy: FamilyPolicy, pools: &[Pool]| {
        let plan = planned(&settings(pools), &services(&[("web", both(policy))]));
        (
            texts(decided(&plan, "web")).join(" "),
            decided(&plan, "web").problems.len(),
        )
    };
    let four = pool("four", &["192.0.2.1/32"]);
    let dual = pool("dual", &["198.51.100.1/32", "2001:db8::1/128"]);
    let pools = [four.clone(), dual];
    // Both come from one pool, although another one with IPv4 stands before it.
    assert_eq!(
        got(FamilyPolicy::PreferDual, &pools),
        ("2001:db8::1 198.51.100.1".to_owned(), 0)
    );
    assert_eq!(got(FamilyPolicy::Single, &pools), ("2001:db8::1".to_owned(), 0));
    assert_eq!(
        got(FamilyPolicy::PreferDual, std::slice::from_ref(&four)),
        ("192.0.2.1".to_owned(), 1)
    );
    assert_eq!(got(FamilyPolicy::RequireDual, &[four]), (String::new(), 2));
}

#[test]
fn a_request_that_cannot_be_granted_leaves_what_there_is() {
    let settings = settings(&[pool("a", &["192.0.2.0/30"]), pool("b", &["198.51.100.0/30"])]);
    let mut asks = service(2, &["192.0.2.1"]);
    asks.request.addresses = vec![addr("192.0.2.2")];
    let mut moves = service(3, &["192.0.2.3"]);
    moves.request.pool = Some("b".to_owned());
    let mut unknown = service(4, &["192.0.2.0"]);
    unknown.request.pool = Some("c".to_owned());
    let mut outside = service(5, &[]);
    outside.request.addresses = vec![addr("203.0.113.1")];
    let all = services(&[
        ("has", service(1, &["192.0.2.2"])),
        ("asks", asks),
        ("moves", moves),
        ("unknown", unknown),
        ("outside", outside),
    ]);
    let plan = planned(&settings, &all);
    assert_eq!(texts(decided(&plan, "asks")), ["192.0.2.1"]);
    assert!(matches!(
        decided(&plan, "asks").problems.as_slice(),
        [Problem::Taken { .. }]
    ));
    assert_eq!(
        *decided(&plan, "moves"),
        Decision {
            addresses: vec![addr("198.51.100.0")],
            problems: vec![]
        }
    );
    assert_eq!(texts(decided(&plan, "unknown")), ["192.0.2.0"]);
    assert_eq!(
        decided(&plan, "unknown").problems,
        [Problem::UnknownPool("c".to_owned())]
    );
    assert_eq!(
        decided(&plan, "outside").problems,
        [Problem::OutsidePools(addr("203.0.113.1"))]
    );
    for problem in plan.services.values().flat_map(|decision| &decision.problems) {
        assert!(problem.to_string().contains([';', ':']), "no remedy: {problem}");
    }
}

#[test]
fn nobody_gets_what_the_guard_refuses() {
    let mut settings = settings(&[pool("a", &["192.0.2.0/29"])]);
    settings
        .guard
        .taken
        .insert(addr("192.0.2.0"), "of node node-1".to_owned());
    settings.guard.pod_cidrs.push("192.0.2.2/31".parse().unwrap());
    let mut asks = service(9, &[]);
    asks.request.addresses = vec![addr("192.0.2.0")];
    let all = services(&[("a", service(1, &[])), ("b", service(2, &[])), ("asks", asks)]);
    let plan = planned(&settings, &all);
    assert_eq!(texts(decided(&plan, "a")), ["192.0.2.1"]);
    assert_eq!(texts(decided(&plan, "b")), ["192.0.2.4"]);
    assert!(matches!(
        decided(&plan, "asks").problems.as_slice(),
        [Problem::Refused { .. }]
    ));
}
