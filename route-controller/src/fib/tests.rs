//! What goes into the kernel and when, without a kernel.

use super::foreign::Arrival;
use super::*;
use std::time::Instant;

pub(crate) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn fib() -> Fib {
    let mut fib = Fib::new(FibConfig {
        metric: 20,
        table: 254,
        rule_priority: None,
        via_default: false,
        services: Vec::new(),
        pod_cidrs: vec![prefix("10.244.0.0/16")],
        sources: vec!["192.0.2.11".parse().unwrap()],
        objects: false,
        resilience: None,
        install: true,
    });
    let link = Link {
        name: "eth0".into(),
        up: true,
        enabled: true,
        carrier_losses: 0,
        mtu: 1500,
        loopback: false,
    };
    fib.mirror.links.insert(2, link);
    let own = Address {
        ifindex: 2,
        addr: "192.0.2.11".parse().unwrap(),
        len: 24,
    };
    fib.mirror.addresses.insert(own, AddressState::Preferred);
    let connected = ForeignRoute {
        metric: 0,
        table: MAIN,
        protocol: 2,
        hops: vec![NextHop {
            gateway: None,
            ifindex: 2,
        }],
        source: None,
        object: None,
        discards: false,
    };
    fib.mirror.foreign.read(prefix("192.0.2.0/24"), connected, false);
    fib
}

pub(crate) fn learned(text: &str, hops: &[&str]) -> FibChange {
    FibChange {
        prefix: prefix(text),
        next_hops: hops
            .iter()
            .map(|hop| FibNextHop {
                addr: hop.parse().unwrap(),
                weight: 1,
            })
            .collect(),
        route: KernelRoute::default(),
    }
}

#[test]
fn only_pod_prefixes_outside_our_own_blocks_go_in() {
    let mut fib = fib();
    fib.set_blocks([prefix("10.244.1.0/24")], []);
    fib.routes(
        vec![
            learned("10.244.2.0/24", &["192.0.2.12"]),
            learned("10.244.1.128/25", &["192.0.2.12"]),
            learned("0.0.0.0/0", &["192.0.2.1"]),
        ],
        false,
    );
    let mut ops = fib.delta.take(Instant::now(), 99);
    ops.sort_by_key(Op::key);
    let keys: Vec<String> = ops.iter().map(|op| op.key().to_string()).collect();
    assert_eq!(
        keys,
        ["10.244.1.0/24 metric 4294967295", "10.244.2.0/24 metric 20"]
    );
    assert_eq!(fib.refused().count(), 2);
    let Op::Add(_, spec) = &ops[1] else {
        panic!("{ops:?}")
    };
    assert_eq!(spec.source, Some("192.0.2.11".parse().unwrap()));
}

#[test]
fn what_a_policy_wants_goes_in_wherever_it_lies() {
    let mut fib = fib();
    let wanted = FibChange {
        route: KernelRoute {
            install: true,
            ..KernelRoute::default()
        },
        ..learned("0.0.0.0/0", &["192.0.2.1"])
    };
    fib.routes(vec![wanted], false);
    let now = Instant::now();
    let ops = fib.delta.take(now, 99);
    assert!(
        matches!(&ops[..], [Op::Add(key, _)] if key.prefix.len() == 0),
        "{ops:?}"
    );
    ops.into_iter().for_each(|op| fib.delta.done(now, op, Ok(())));
    fib.routes(vec![learned("0.0.0.0/0", &["192.0.2.1"])], false);
    assert!(matches!(fib.delta.take(now, 9)[..], [Op::Remove(_)]));
    assert_eq!(fib.refused().count(), 1);
}

#[test]
fn routes_over_a_dead_next_hop_wait_a_moment_for_another() {
    let mut fib = fib();
    fib.objects.configure(true, None);
    fib.routes(vec![learned("10.244.2.0/24", &["192.0.2.12"])], false);
    let now = Instant::now();
    let write = |fib: &mut Fib| {
        let objects = fib.objects.changes(now);
        objects.iter().for_each(|op| fib.objects.done(now, op, true));
        let ops = fib.delta.take(now, 9);
        ops.iter().for_each(|op| fib.delta.done(now, op.clone(), Ok(())));
        (objects.len(), ops)
    };
    assert_eq!(write(&mut fib).1.len(), 1);
    fib.mirror.dead.insert("192.0.2.12".parse().unwrap());
    fib.resolve_again();
    assert!(fib.is_holding());
    assert_eq!(write(&mut fib), (0, vec![]), "it stays");
    // The speaker has another: its gateway and the group, no route.
    fib.routes(vec![learned("10.244.2.0/24", &["192.0.2.13"])], false);
    assert_eq!(write(&mut fib), (2, vec![]));
    // And none for this one.
    fib.mirror.dead.insert("192.0.2.13".parse().unwrap());
    fib.resolve_again();
    fib.flush_held();
    assert!(matches!(write(&mut fib).1[..], [Op::Remove(_)]));
    assert!(!fib.is_holding());
}

#[test]
fn a_lost_link_takes_routes_out_and_tells_the_speaker() {
    let mut fib = fib();
    let addr: IpAddr = "192.0.2.12".parse().unwrap();
    assert_eq!(fib.watch(vec![addr]), [(addr, Reach::Reachable { metric: 0 })]);
    fib.routes(vec![learned("10.244.2.0/24", &["192.0.2.12"])], false);
    let now = Instant::now();
    for op in fib.delta.take(now, 9) {
        fib.delta.done(now, op, Ok(()));
    }
    fib.mirror.links.get_mut(&2).unwrap().up = false;
    assert_eq!(fib.resolve_again(), [(addr, Reach::Unreachable)]);
    assert!(matches!(fib.delta.take(now, 9)[..], [Op::Remove(_)]));
}

/// Writes all that is due into a kernel that takes everything.
fn write_all(fib: &mut Fib) -> (Vec<ObjectOp>, Vec<Op>) {
    let now = Instant::now();
    let objects = fib.objects.changes(now);
    objects.iter().for_each(|op| fib.objects.done(now, op, true));
    let ops = fib.delta.take(now, 99);
    ops.iter().for_each(|op| fib.delta.done(now, op.clone(), Ok(())));
    (objects, ops)
}

fn eth0(up: bool, carrier_losses: u32) -> Link {
    Link {
        name: "eth0".into(),
        up,
        enabled: true,
        carrier_losses,
        mtu: 1500,
        loopback: false,
    }
}

fn with_objects() -> Fib {
    let mut fib = fib();
    fib.objects.configure(true, None);
    fib.routes(
        vec![
            learned("10.244.2.0/24", &["192.0.2.12"]),
            learned("10.244.3.0/24", &["192.0.2.12"]),
        ],
        false,
    );
    let (objects, ops) = write_all(&mut fib);
    assert_eq!((objects.len(), ops.len()), (2, 2));
    fib
}

#[test]
fn a_lost_link_takes_its_objects_too() {
    let mut fib = with_objects();
    assert!(fib.link_new(2, eth0(false, 1)));
    fib.resolve_again();
    assert!(matches!(
        &write_all(&mut fib).1[..],
        [Op::Remove(_), Op::Remove(_)]
    ));
    assert!(!fib.link_new(2, eth0(false, 1)), "the same again is no loss");
    assert!(!fib.link_new(2, eth0(true, 1)));
    fib.resolve_again();
    let (objects, ops) = write_all(&mut fib);
    assert_eq!((objects.len(), ops.len()), (2, 2), "{objects:?} {ops:?}");
}

/// The carrier was lost and is there again by the time the kernel reports it.
#[test]
fn a_loss_that_is_over_is_a_loss() {
    let mut fib = with_objects();
    assert!(fib.link_new(2, eth0(true, 1)));
    fib.resolve_again();
    let (objects, ops) = write_all(&mut fib);
    assert_eq!((objects.len(), ops.len()), (2, 2), "{objects:?} {ops:?}");
    // The loss of another link changes nothing.
    fib.link_new(9, eth0(true, 0));
    assert!(fib.link_new(9, eth0(true, 1)));
    assert_eq!(write_all(&mut fib), (vec![], vec![]));
}

#[test]
fn a_route_that_was_refused_for_want_of_its_object_goes_when_that_is_there() {
    let mut fib = with_objects();
    let now = Instant::now();
    fib.link_new(2, eth0(true, 1));
    // The routes are written before anybody knows.
    for op in fib.delta.take(now, 99) {
        fib.delta.done(now, op, Err(Failure::Errno(libc::EINVAL)));
    }
    assert_eq!(fib.failed(), 2);
    assert!(fib.delta.take(now, 99).is_empty(), "not before their time");
    let put = fib.objects.changes(now);
    let ids: BTreeSet<u32> = put
        .iter()
        .filter_map(|op| match op {
            ObjectOp::Put(id, _) if !fib.objects.is_there(*id) => Some(*id),
            _ => None,
        })
        .collect();
    put.iter().for_each(|op| fib.objects.done(now, op, true));
    fib.objects_put(&ids);
    assert_eq!(fib.failed(), 0);
    assert_eq!(fib.delta.take(now, 99).len(), 2);
}

fn theirs(protocol: u8, metric: u32) -> ForeignRoute {
    ForeignRoute {
        metric,
        table: MAIN,
        protocol,
        hops: vec![NextHop {
            gateway: Some("192.0.2.99".parse().unwrap()),
            ifindex: 2,
        }],
        source: None,
        object: None,
        discards: false,
    }
}

#[test]
fn a_foreign_replacement_removes_the_own_route_until_it_is_gone() {
    let mut fib = with_objects();
    let at = prefix("10.244.2.0/24");
    let key = theirs(99, 20).key(at);
    let effect = fib.foreign_new(at, theirs(99, 20), Arrival::Replaced);
    assert!(effect.took_own && !effect.unexpected);
    assert!(fib.delta.observe(key, None));
    let now = Instant::now();
    let ops = fib.delta.take(now, 9);
    assert!(matches!(&ops[..], [Op::Add(..)]), "{ops:?}");
    fib.delta.done(now, ops[0].clone(), Err(Failure::Exists));
    assert_eq!(fib.failed(), 0, "it is theirs that is in the way");
    // `ip route change` of theirs, then it goes.
    assert!(!fib.foreign_new(at, theirs(98, 20), Arrival::Replaced).took_own);
    assert!(!fib.foreign_gone(at, &theirs(98, 20)).unexpected);
    assert!(matches!(fib.delta.take(now, 9)[..], [Op::Add(..)]));
    assert!(
        fib.foreign_gone(at, &theirs(98, 20)).unexpected,
        "it was not known"
    );
}

/// A static route of others on a link that is shut is gone without a notification, and the own route is written again.
#[test]
fn what_the_kernel_drops_stands_in_nobodys_way() {
    let mut fib = fib();
    let at = prefix("10.244.2.0/24");
    fib.foreign_new(at, theirs(99, 20), Arrival::Last);
    fib.routes(vec![learned("10.244.2.0/24", &["192.0.2.12"])], false);
    let now = Instant::now();
    for op in fib.delta.take(now, 9) {
        fib.delta.done(now, op, Err(Failure::Exists));
    }
    let shut = Link {
        enabled: false,
        ..eth0(false, 0)
    };
    fib.link_new(2, shut);
    assert_eq!(fib.mirror.foreign(&theirs(99, 20).key(at)), None);
    assert!(fib.delta.is_due(now));
}

#[test]
fn addresses_of_others_interfaces_change_nothing() {
    let mut fib = with_objects();
    let pod = Address {
        ifindex: 77,
        addr: "fe80::1".parse().unwrap(),
        len: 64,
    };
    fib.address_new(pod, AddressState::Preferred);
    fib.address_gone(pod);
    assert_eq!(write_all(&mut fib), (vec![], vec![]));
    let own = Address {
        ifindex: 2,
        addr: "192.0.2.11".parse().unwrap(),
        len: 24,
    };
    fib.address_gone(own);
    let (_, ops) = write_all(&mut fib);
    assert!(matches!(&ops[..], [Op::Replace(..), Op::Replace(..)]), "{ops:?}");
}

/// What import policies want of a route: its kind, metric and source; the old route goes after the new one is wanted.
#[test]
fn a_policy_says_what_a_route_is() {
    let mut fib = fib();
    let now = Instant::now();
    let with = |route: KernelRoute, hops: &[&str]| FibChange {
        route,
        ..learned("10.244.2.0/24", hops)
    };
    let write = |fib: &mut Fib| {
        let mut ops = fib.delta.take(now, 99);
        let shown: Vec<String> = ops.iter().map(|op| format!("{op:?}")).collect();
        ops.drain(..).for_each(|op| fib.delta.done(now, op, Ok(())));
        shown
    };
    let plain = KernelRoute::default();
    fib.routes(vec![with(plain, &["192.0.2.12"])], false);
    assert_eq!(write(&mut fib).len(), 1);
    let metric = KernelRoute {
        metric: Some(40),
        ..plain
    };
    fib.routes(vec![with(metric, &["192.0.2.12"])], false);
    let ops = write(&mut fib);
    assert!(
        ops.len() == 2
            && ops
                .iter()
                .any(|op| op.starts_with("Add") && op.contains("metric: 40")),
        "{ops:?}"
    );
    assert!(
        ops.iter()
            .any(|op| op.starts_with("Remove") && op.contains("metric: 20")),
        "{ops:?}"
    );
    // A blackhole has no next hop and goes in wherever it lies.
    let dropped = KernelRoute {
        blackhole: true,
        metric: Some(40),
        ..plain
    };
    fib.routes(vec![with(dropped, &[])], false);
    let ops = write(&mut fib);
    assert!(
        ops.len() == 1 && ops[0].starts_with("Replace") && ops[0].contains("Blackhole"),
        "{ops:?}"
    );
    let elsewhere = FibChange {
        route: dropped,
        ..learned("198.51.100.7/32", &[])
    };
    fib.routes(vec![elsewhere], false);
    assert!(write(&mut fib)[0].contains("Blackhole") && fib.refused().count() == 0);
    // An address that the host has is used as source, another one is not.
    let source = |text: &str| KernelRoute {
        source: Some(text.parse().unwrap()),
        ..plain
    };
    fib.routes(vec![with(source("192.0.2.99"), &["192.0.2.12"])], false);
    assert!(
        write(&mut fib)
            .iter()
            .any(|op| op.contains("source: Some(192.0.2.11)"))
    );
    fib.routes(vec![with(plain, &[])], false);
    assert!(write(&mut fib).iter().all(|op| op.starts_with("Remove")));
    assert_eq!(fib.delta.routes().len(), 1, "the other blackhole");
}

/// The kernel drops an IPv4 route with its source address, without a notification.
#[test]
fn a_route_follows_the_source_address_of_its_policy() {
    let mut fib = fib();
    let own = Address {
        ifindex: 1,
        addr: "198.51.100.9".parse().unwrap(),
        len: 32,
    };
    let route = KernelRoute {
        source: Some(own.addr),
        ..KernelRoute::default()
    };
    let change = FibChange {
        route,
        ..learned("10.244.2.0/24", &["192.0.2.12"])
    };
    fib.routes(vec![change], false);
    let source = |fib: &mut Fib| match &write_all(fib).1[..] {
        [Op::Add(_, spec) | Op::Replace(_, spec)] => spec.source,
        other => panic!("one write, not {other:?}"),
    };
    let of_node = "192.0.2.11".parse().ok();
    assert_eq!(source(&mut fib), of_node, "the host does not have it");
    for _ in 0..2 {
        fib.address_new(own, AddressState::Preferred);
        assert_eq!(source(&mut fib), Some(own.addr));
        fib.address_gone(own);
        assert_eq!(source(&mut fib), of_node);
    }
}
