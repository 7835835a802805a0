//! Packets between real pods in namespaces of this kernel: what arrives is what the oracle says.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    dead_code,
    unreachable_pub
)]

#[path = "../../netpol/tests/common/mod.rs"]
mod common;
mod lab;

use std::net::IpAddr;
use std::process::Command;

use common::oracle;
use common::world::{Event, Pod, World, event};
use lab::{Lab, Probe, TCP_PORTS, UDP_PORTS};
use podroute_enforce::{Enforcer, TABLE};
use podroute_netfilter::Conntrack;
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const OUTSIDE: [&str; 2] = ["192.0.2.7", "2001:db8::7"];

/// Every pod that a random world may have, and a host outside.
fn lab() -> Option<Lab> {
    let mut lab = Lab::new()?;
    for (place, namespace) in ["x", "y", "z"].into_iter().enumerate() {
        for number in 0..4 {
            let v4 = format!("10.0.{place}.{}", number + 1).parse().unwrap();
            let v6 = format!("fd00::{place}:{}", number + 1).parse().unwrap();
            lab.add(&format!("{namespace}-pod{number}"), &[v4, v6]);
        }
    }
    lab.add("outside", &OUTSIDE.map(|address| address.parse().unwrap()));
    Some(lab)
}

fn apply(enforcer: &mut Enforcer, event: &Event) {
    event.apply_to(&mut enforcer.model);
}

fn probes(world: &World) -> Vec<Probe> {
    let pods = world
        .pods
        .iter()
        .map(|pod: &Pod| (pod.interface(), pod.addresses.clone()));
    let outside = (
        "outside".to_owned(),
        OUTSIDE.map(|address| address.parse().unwrap()).to_vec(),
    );
    let ends: Vec<(String, Vec<IpAddr>)> = pods.chain([outside]).collect();
    let ports = TCP_PORTS
        .map(|port| (6, port))
        .into_iter()
        .chain(UDP_PORTS.map(|port| (17, port)));
    let ports: Vec<(u8, u16)> = ports.collect();
    let mut probes = Vec::new();
    for (from, sources) in &ends {
        for (to, destinations) in ends.iter().filter(|(to, _)| to != from) {
            for source in sources {
                for destination in destinations
                    .iter()
                    .filter(|other| other.is_ipv4() == source.is_ipv4())
                {
                    probes.extend(ports.iter().map(|(protocol, port)| Probe {
                        from: from.clone(),
                        to: to.clone(),
                        source: *source,
                        destination: *destination,
                        protocol: *protocol,
                        port: *port,
                        expected: oracle::allows(world, *source, *destination, *protocol, *port),
                    }));
                }
            }
        }
    }
    probes
}

fn forget_flows() {
    let mut conntrack = Conntrack::open().unwrap();
    let flows = conntrack.list(|_| true).unwrap();
    conntrack.delete(&flows).unwrap();
}

/// One history after another on the same node: what was in the kernel before is changed, never made again.
#[test]
fn packets_arrive_as_the_oracle_says() {
    let Some(lab) = lab() else { return };
    let seeds: u64 = std::env::var("SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(25);
    let mut enforcer = Enforcer::open().unwrap();
    let mut history: Vec<Event> = Vec::new();
    let mut count = (0, 0);
    for seed in 0..seeds {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
        let mut runner = TestRunner::new_with_rng(Config::default(), rng);
        let events = vec(event(), 10..40).new_tree(&mut runner).unwrap().current();
        for event in &events {
            apply(&mut enforcer, event);
            // Every event by itself, every other time: both ways have to come to the same.
            if seed % 2 == 0 {
                enforcer.sync().unwrap();
            }
        }
        enforcer.sync().unwrap();
        history.extend(events);
        let world = World::of(&history);
        forget_flows();
        let probes = probes(&world);
        lab.compare(&probes);
        let expected = probes.iter().filter(|probe| probe.expected).count();
        count = (count.0 + expected, count.1 + probes.len() - expected);
        // What the kernel has is what is wanted: a look at all of it changes nothing.
        enforcer.audit();
        assert_eq!(enforcer.sync().unwrap().octets, 0, "seed {seed}");
    }
    eprintln!("{} probes arrived, {} were dropped", count.0, count.1);
    assert!(count.0 > 100 && count.1 > 100, "{count:?}");
}

fn simple_world(enforcer: &mut Enforcer) -> World {
    let labels = [("app".to_owned(), "a".to_owned())];
    let pod = |namespace: &str, number: u8| Pod {
        namespace: namespace.to_owned(),
        name: format!("pod{number}"),
        labels: labels.clone().into_iter().collect(),
        addresses: vec![
            format!("10.0.{}.{}", namespace.as_bytes()[0] - b'x', number + 1)
                .parse()
                .unwrap(),
        ],
        ports: Vec::new(),
        local: true,
    };
    let mut world = World::default();
    for event in [
        Event::Namespace("x".into(), labels.clone().into_iter().collect()),
        Event::Namespace("y".into(), labels.clone().into_iter().collect()),
        Event::Pod(Box::new(pod("x", 0))),
        Event::Pod(Box::new(pod("x", 1))),
        Event::Pod(Box::new(pod("y", 0))),
        Event::Policy(Box::new(own_namespace_only())),
    ] {
        world.apply(&event);
        apply(enforcer, &event);
    }
    enforcer.sync().unwrap();
    world
}

/// Pods of x take connections from pods of x.
fn own_namespace_only() -> podroute_netpol::Policy {
    use podroute_netpol::{LabelSelector, Peer, Ports, Rule};
    podroute_netpol::Policy {
        namespace: "x".into(),
        name: "own".into(),
        selects: LabelSelector::default(),
        ingress: Some(vec![Rule {
            peers: Some(vec![Peer::Pods {
                namespaces: None,
                pods: Some(LabelSelector::default()),
            }]),
            ports: Ports::All,
        }]),
        egress: None,
    }
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn what_others_take_away_is_put_back() {
    let Some(lab) = lab() else { return };
    let mut enforcer = Enforcer::open().unwrap();
    let world = simple_world(&mut enforcer);
    let before = nft(&["-s", "list", "table", "inet", TABLE]);
    let look = |enforcer: &mut Enforcer| {
        enforcer.read_notifications().unwrap();
        let outcome = enforcer.sync().unwrap();
        assert!(outcome.repaired, "{outcome:?}");
        let now = nft(&["-s", "list", "table", "inet", TABLE]);
        assert_eq!(lines(&now), lines(&before));
        forget_flows();
        lab.compare(&probes(&world));
    };
    for command in [
        "flush ruleset",
        "delete table inet podroute-policy",
        "flush table inet podroute-policy",
        "flush map inet podroute-policy to-pod",
        "add element inet podroute-policy to-pod { \"y-pod0\" : jump waiting }",
        "flush chain inet podroute-policy ingress",
        "insert rule inet podroute-policy ingress accept",
        "delete element inet podroute-policy ingress-4 { 10.0.0.1 }",
    ] {
        nft(&command.split(' ').collect::<Vec<_>>());
        look(&mut enforcer);
    }
    // The table of another program is left alone.
    nft(&["add", "table", "inet", "another"]);
    enforcer.read_notifications().unwrap();
    assert_eq!(enforcer.sync().unwrap().octets, 0);
}

/// Elements are in no order.
fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text
        .split(['\n', ','])
        .map(|line| line.trim().to_owned())
        .collect();
    lines.sort();
    lines
}

#[test]
fn a_new_owner_adopts_what_is_there() {
    let Some(lab) = lab() else { return };
    let mut first = Enforcer::open().unwrap();
    let world = simple_world(&mut first);
    drop(first);
    let generation = podroute_netfilter::Nftables::open()
        .unwrap()
        .generation()
        .unwrap();
    // The table stands while nobody owns it.
    forget_flows();
    lab.compare(&probes(&world));
    let mut second = Enforcer::open().unwrap();
    for event in [
        Event::Policy(Box::new(own_namespace_only())),
        Event::Namespace("y".into(), world.namespaces["y"].clone()),
        Event::Namespace("x".into(), world.namespaces["x"].clone()),
    ] {
        apply(&mut second, &event);
    }
    for pod in world.pods.iter().rev() {
        apply(&mut second, &Event::Pod(Box::new(pod.clone())));
    }
    assert_eq!(second.sync().unwrap().octets, 0);
    let now = podroute_netfilter::Nftables::open()
        .unwrap()
        .generation()
        .unwrap();
    assert_eq!(now, generation, "nothing was written");
}

#[test]
fn a_table_of_another_version_is_replaced() {
    let Some(lab) = lab() else { return };
    let a_set = ["set", "inet", TABLE, "to-pod", "{ type ipv4_addr; }"];
    let a_chain = [
        "chain",
        "inet",
        TABLE,
        "ingress",
        "{ type filter hook forward priority 7; }",
    ];
    for object in [a_set, a_chain] {
        nft(&["add", "table", "inet", TABLE]);
        nft(&[&["add"][..], &object].concat());
        let before = nft(&["list", "ruleset"]);
        let mut enforcer = Enforcer::open().unwrap();
        // Until pods and policies are known, its rules are the only ones.
        enforcer.prepare().unwrap();
        assert_eq!(nft(&["list", "ruleset"]), before);
        let world = simple_world(&mut enforcer);
        forget_flows();
        lab.compare(&probes(&world));
        nft(&["delete", "table", "inet", TABLE]);
    }
}

/// A connection that a new policy forbids ends, whichever end speaks first afterwards; an allowed one goes on.
#[test]
fn forbidden_connections_end() {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    let Some(lab) = lab() else { return };
    let mut enforcer = Enforcer::open().unwrap();
    let world = simple_world(&mut enforcer);
    apply(&mut enforcer, &Event::PolicyGone("x".into(), "own".into()));
    enforcer.sync().unwrap();
    let connect = |from: &str, port: u16| {
        let listener = lab.inside("x-pod0", || TcpListener::bind(("10.0.0.1", port)).unwrap());
        let client = lab.inside(from, || TcpStream::connect(("10.0.0.1", port)).unwrap());
        let server = listener.accept().unwrap().0;
        for stream in [&client, &server] {
            stream
                .set_read_timeout(Some(std::time::Duration::from_secs(5)))
                .unwrap();
        }
        (client, server)
    };
    let (mut allowed, mut allowed_server) = connect("x-pod1", 1001);
    let (mut client_speaks, mut its_server) = connect("y-pod0", 1002);
    let (mut its_client, mut server_speaks) = connect("y-pod0", 1003);
    let policy = world.policies[0].clone();
    apply(&mut enforcer, &Event::Policy(Box::new(policy)));
    assert!(enforcer.sync().unwrap().restricts);
    assert_eq!(enforcer.forbidden_flows().unwrap().len(), 2);
    assert_eq!(enforcer.end_forbidden_flows().unwrap(), 2);
    assert_eq!(enforcer.end_forbidden_flows().unwrap(), 0);
    client_speaks.write_all(b"1").unwrap();
    server_speaks.write_all(b"2").unwrap();
    // What is sent later on the allowed connection arrives, so the others' packets have been decided on.
    let mut byte = [0];
    allowed.write_all(b"3").unwrap();
    allowed_server.read_exact(&mut byte).unwrap();
    allowed_server.write_all(b"4").unwrap();
    allowed.read_exact(&mut byte).unwrap();
    for stream in [&mut its_server, &mut its_client] {
        stream.set_nonblocking(true).unwrap();
        let error = stream.read(&mut byte).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    }
    let totals = enforcer.totals().unwrap();
    assert!(totals.midstream >= 2, "{totals:?}");
}

/// An allowed flow loses nothing while policies that do not concern it come and go.
#[test]
fn an_allowed_flow_loses_nothing_while_policies_change() {
    use std::net::UdpSocket;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    /// Datagrams that were sent and not read; the socket has room for more.
    const IN_FLIGHT: u32 = 100;
    let Some(lab) = lab() else { return };
    let mut enforcer = Enforcer::open().unwrap();
    simple_world(&mut enforcer);
    let server = lab.inside("x-pod0", || UdpSocket::bind("10.0.0.1:5000").unwrap());
    let client = lab.inside("x-pod1", || UdpSocket::bind("10.0.0.2:5000").unwrap());
    client.connect("10.0.0.1:5000").unwrap();
    let (stop, received) = (AtomicBool::new(false), AtomicU32::new(0));
    server.set_nonblocking(true).unwrap();
    let read_all = || {
        while server.recv(&mut [0; 8]).is_ok() {
            received.fetch_add(1, Ordering::Relaxed);
        }
    };
    let sent = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                if sent - received.load(Ordering::Relaxed) < IN_FLIGHT {
                    client.send(&sent.to_be_bytes()).unwrap();
                    sent += 1;
                }
                std::thread::sleep(std::time::Duration::from_millis(1)); // 1 kHz
            }
            sent
        });
        for number in 0..1000 {
            let mut policy = own_namespace_only();
            policy.namespace = format!("n{}", number % 10);
            policy.name = format!("p{number}");
            apply(&mut enforcer, &Event::Policy(Box::new(policy.clone())));
            // Some concern the pods' own namespace, and allow more.
            policy.namespace = "x".into();
            apply(&mut enforcer, &Event::Policy(Box::new(policy.clone())));
            enforcer.sync().unwrap();
            apply(&mut enforcer, &Event::PolicyGone(policy.namespace, policy.name));
            enforcer.sync().unwrap();
            read_all();
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    read_all();
    assert_eq!(received.into_inner(), sent);
    assert!(sent > 50, "{sent}");
}

/// A thousand pods come and go at once, in one transaction and one by one.
#[test]
fn a_thousand_pods_come_and_go() {
    if Lab::new().is_none() {
        return;
    }
    let mut enforcer = Enforcer::open().unwrap();
    simple_world(&mut enforcer);
    let pod = |number: u16| Pod {
        namespace: "x".into(),
        name: format!("many-{number}"),
        labels: [("app".to_owned(), format!("{}", number % 7))]
            .into_iter()
            .collect(),
        addresses: vec![std::net::Ipv4Addr::from_bits(0x0a40_0000 + u32::from(number)).into()],
        ports: Vec::new(),
        local: true,
    };
    let elements = |set: &str| {
        let mut nftables = podroute_netfilter::Nftables::open().unwrap();
        nftables.list_elements(TABLE, set).unwrap().len()
    };
    let before = (
        elements("to-pod"),
        elements("ingress-4"),
        elements("ingress-classes-all"),
    );
    (0..1000).for_each(|number| apply(&mut enforcer, &Event::Pod(Box::new(pod(number)))));
    enforcer.sync().unwrap();
    assert_eq!(elements("to-pod"), before.0 + 1000);
    for number in 0..1000 {
        apply(
            &mut enforcer,
            &Event::PodGone("x".into(), format!("many-{number}")),
        );
        if number % 3 == 0 {
            enforcer.sync().unwrap();
        }
    }
    enforcer.sync().unwrap();
    assert_eq!(
        (
            elements("to-pod"),
            elements("ingress-4"),
            elements("ingress-classes-all")
        ),
        before
    );
    enforcer.audit();
    assert_eq!(enforcer.sync().unwrap().octets, 0);
}
