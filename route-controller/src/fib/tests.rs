//! What goes into the kernel and when, without a kernel.

use super::*;
use std::time::Instant;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn fib() -> Fib {
    let mut fib = Fib::new(FibConfig {
        metric: 20,
        table: 254,
        rule_priority: None,
        via_default: false,
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
    fib.mirror.addresses.insert(Address {
        ifindex: 2,
        addr: "192.0.2.11".parse().unwrap(),
        len: 24,
    });
    let connected = Foreign {
        metric: 0,
        table: MAIN,
        protocol: 2,
        hops: vec![Hop {
            gateway: None,
            ifindex: 2,
        }],
        source: None,
        object: None,
        ends: false,
    };
    fib.mirror.foreign.read(prefix("192.0.2.0/24"), connected, false);
    fib
}

fn learned(text: &str, hops: &[&str]) -> FibChange {
    FibChange {
        prefix: prefix(text),
        next_hops: hops
            .iter()
            .map(|hop| FibHop {
                addr: hop.parse().unwrap(),
                weight: 1,
            })
            .collect(),
        install: false,
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
        install: true,
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
    fib.let_go();
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
