//! Against this kernel, each test in a network namespace of its own. Left out where the user is not root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::process::Command;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use podroute_netfilter::{
    Chain, Conntrack, Data, Element, Error, Expressions, Field, Flow, Hook, KeyField, Nftables, Notification,
    Notifications, RuleBody, SetSpec, Transaction, Value, Verdict,
};

const TABLE: &str = "test";

/// The thread gets a namespace of its own; none without the right to it.
fn namespace() -> Option<Nftables> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: needs root");
        return None;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    Some(Nftables::open().unwrap())
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

fn classes() -> SetSpec {
    SetSpec {
        name: "classes".into(),
        key: vec![KeyField::Ipv4],
        is_interval: false,
        value: Value::Number,
    }
}

fn peers() -> SetSpec {
    SetSpec {
        name: "peers".into(),
        key: vec![KeyField::Ipv4, KeyField::Protocol, KeyField::Port],
        is_interval: true,
        value: Value::None,
    }
}

fn pods() -> SetSpec {
    SetSpec {
        name: "pods".into(),
        key: vec![KeyField::Ipv4],
        is_interval: false,
        value: Value::Verdict,
    }
}

fn interfaces() -> SetSpec {
    SetSpec {
        name: "interfaces".into(),
        key: vec![KeyField::Interface],
        is_interval: false,
        value: Value::Verdict,
    }
}

fn spec(name: &str) -> Option<SetSpec> {
    [classes(), peers(), pods(), interfaces()]
        .into_iter()
        .find(|set| set.name == name)
}

fn class_of(address: [u8; 4], class: u32) -> Element {
    Element {
        key: address.to_vec(),
        key_end: Vec::new(),
        data: Data::Number(class),
    }
}

fn peer(class: u32, protocol: u8, ports: (u16, u16)) -> Element {
    let key = |port: u16| {
        let mut key = class.to_be_bytes().to_vec();
        key.extend([protocol, 0, 0, 0]);
        key.extend(port.to_be_bytes());
        key.extend([0, 0]);
        key
    };
    Element {
        key: key(ports.0),
        key_end: key(ports.1),
        data: Data::None,
    }
}

fn verdict_of(address: [u8; 4], verdict: Verdict) -> Element {
    Element {
        key: address.to_vec(),
        key_end: Vec::new(),
        data: Data::Verdict(verdict),
    }
}

fn pod_chain() -> Chain {
    let allow = Expressions::new()
        .load(Field::Family, 0)
        .compare(0, true, &[2])
        .load(Field::Ipv4Source, 0)
        .load(Field::Protocol, 1)
        .load(Field::DestinationPort, 2)
        .is_in("peers", 0)
        .counter()
        .verdict(&Verdict::Return);
    let drop = Expressions::new().counter().verdict(&Verdict::Drop);
    Chain {
        name: "pod".into(),
        hook: None,
        rules: [allow, drop].map(|expressions| RuleBody { expressions }).into(),
    }
}

fn base_chain() -> Chain {
    let established = Expressions::new()
        .load(Field::ConntrackState, 0)
        .and(0, &6_u32.to_ne_bytes())
        .compare(0, false, &[0; 4])
        .verdict(&Verdict::Accept);
    let by_interface = Expressions::new()
        .load(Field::InputInterface, 0)
        .verdict_map("interfaces", 0);
    let by_address = Expressions::new()
        .load(Field::Family, 0)
        .compare(0, true, &[2])
        .load(Field::Ipv4Destination, 0)
        .verdict_map("pods", 0);
    Chain {
        name: "forward".into(),
        hook: Some(Hook {
            number: 2,
            priority: 0,
        }),
        rules: [established, by_interface, by_address]
            .map(|expressions| RuleBody { expressions })
            .into(),
    }
}

fn whole_table() -> Transaction {
    let mut t = Transaction::new(TABLE);
    t.add_table();
    [classes(), peers(), pods(), interfaces()]
        .iter()
        .for_each(|set| t.add_set(set));
    for chain in [pod_chain(), base_chain()] {
        t.add_chain(&chain);
        t.add_rules(&chain);
    }
    t.add_elements("classes", &[class_of([10, 0, 0, 1], 7)]);
    t.add_elements("peers", &[peer(7, 6, (80, 90)), peer(7, 17, (53, 53))]);
    t.add_elements("pods", &[verdict_of([10, 0, 0, 2], Verdict::Jump("pod".into()))]);
    t
}

#[test]
fn nft_lists_what_was_sent() {
    let Some(mut nftables) = namespace() else { return };
    whole_table().run(&mut nftables).unwrap();
    let text = nft(&["list", "table", "inet", TABLE]);
    for part in [
        "type ipv4_addr : verdict",
        "10.0.0.2 : jump pod",
        "type ipv4_addr . inet_proto . inet_service",
        "tcp . 80-90",
        "udp . 53",
        "type filter hook forward priority filter; policy accept;",
        "ct state established,related accept",
        "iifname vmap @interfaces",
        "ip daddr vmap @pods",
        "counter packets 0 bytes 0 return",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn a_listing_is_what_was_sent() {
    let Some(mut nftables) = namespace() else { return };
    assert!(nftables.list(TABLE, spec).unwrap().chains.is_empty());
    whole_table().run(&mut nftables).unwrap();
    let listing = nftables.list(TABLE, spec).unwrap();
    assert_eq!(listing.generation, nftables.generation().unwrap());
    for chain in [pod_chain(), base_chain()] {
        assert_eq!(
            listing.chains[&chain.name],
            vec![chain.comment(); chain.rules.len()]
        );
    }
    let set = |elements: &[Element]| elements.iter().cloned().collect::<HashSet<_>>();
    assert_eq!(listing.elements["classes"], set(&[class_of([10, 0, 0, 1], 7)]));
    assert_eq!(
        listing.elements["peers"],
        set(&[peer(7, 6, (80, 90)), peer(7, 17, (53, 53))])
    );
    let to_pod = verdict_of([10, 0, 0, 2], Verdict::Jump("pod".into()));
    assert_eq!(listing.elements["pods"], set(std::slice::from_ref(&to_pod)));
    assert_eq!(
        nftables.find_element(TABLE, "pods", &to_pod).unwrap(),
        Some(to_pod)
    );
    let other = verdict_of([10, 0, 0, 3], Verdict::Drop);
    assert_eq!(nftables.find_element(TABLE, "pods", &other).unwrap(), None);
    assert_eq!(nftables.counters(TABLE).unwrap()["pod"].len(), 2);
    // A set of this name and another type is not what was asked for.
    let listing = nftables
        .list(TABLE, |name| {
            let mut set = spec(name)?;
            set.key = vec![KeyField::Ipv6];
            Some(set)
        })
        .unwrap();
    assert!(listing.sets.is_empty(), "{:?}", listing.sets);
    assert!(listing.other_sets.contains("pods"), "{:?}", listing.other_sets);
    assert!(nftables.remove_table(TABLE).unwrap());
    assert!(!nftables.remove_table(TABLE).unwrap());
}

#[test]
fn a_refusal_names_the_request_and_changes_nothing() {
    let Some(mut nftables) = namespace() else { return };
    whole_table().run(&mut nftables).unwrap();
    let mut t = Transaction::new(TABLE);
    t.add_elements("classes", &[class_of([10, 0, 0, 9], 1)]);
    t.delete_elements("peers", &[peer(99, 6, (1, 1))]);
    t.add_elements("pods", &[verdict_of([10, 0, 0, 9], Verdict::Drop)]);
    let error = t.run(&mut nftables).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::ENOENT));
    assert!(
        error
            .to_string()
            .contains("delete elements of set peers of table test"),
        "{error}"
    );
    assert_eq!(nftables.list_elements(TABLE, "classes").unwrap().len(), 1);
    // The socket is as good as before.
    let mut t = Transaction::new(TABLE);
    t.add_elements("classes", &[class_of([10, 0, 0, 9], 1)]);
    t.run(&mut nftables).unwrap();
    assert_eq!(nftables.list_elements(TABLE, "classes").unwrap().len(), 2);
}

#[test]
fn a_transaction_for_another_generation_is_stale() {
    let Some(mut nftables) = namespace() else { return };
    let generation = nftables.generation().unwrap();
    whole_table().run(&mut nftables).unwrap();
    let mut t = Transaction::for_generation(TABLE, generation);
    t.add_elements("classes", &[class_of([10, 0, 0, 9], 1)]);
    assert_eq!(t.run(&mut nftables), Err(Error::Stale));
    let mut t = Transaction::for_generation(TABLE, nftables.generation().unwrap());
    t.add_elements("classes", &[class_of([10, 0, 0, 9], 1)]);
    t.run(&mut nftables).unwrap();
}

#[test]
fn more_elements_than_one_message_holds() {
    let Some(mut nftables) = namespace() else { return };
    whole_table().run(&mut nftables).unwrap();
    let many: Vec<Element> = (0..20_000_u32)
        .map(|n| class_of((0x0b00_0000 + n).to_be_bytes(), n))
        .collect();
    let mut t = Transaction::new(TABLE);
    t.add_elements("classes", &many);
    t.run(&mut nftables).unwrap();
    assert_eq!(nftables.list_elements(TABLE, "classes").unwrap().len(), 20_001);
    let mut t = Transaction::new(TABLE);
    t.delete_elements("classes", &many);
    t.run(&mut nftables).unwrap();
    assert_eq!(nftables.list_elements(TABLE, "classes").unwrap().len(), 1);
}

/// Transactions that are refused after many elements have the kernel grow and shrink the set without a new generation.
#[test]
fn a_listing_is_whole_while_the_kernel_resizes_the_set() {
    let Some(mut nftables) = namespace() else { return };
    whole_table().run(&mut nftables).unwrap();
    let elements = |range: Range<u32>| -> Vec<Element> {
        range
            .map(|n| class_of((0x0b00_0000 + n).to_be_bytes(), n))
            .collect()
    };
    let mut t = Transaction::new(TABLE);
    t.add_elements("classes", &elements(0..20_000));
    t.run(&mut nftables).unwrap();
    let generation = nftables.generation().unwrap();
    let refused = std::thread::scope(|scope| {
        let refused = scope.spawn(|| {
            let mut nftables = Nftables::open().unwrap();
            let more = elements(100_000..150_000);
            for _ in 0..10 {
                let mut t = Transaction::new(TABLE);
                t.add_elements("classes", &more);
                t.delete_elements("peers", &[peer(99, 6, (1, 1))]);
                t.run(&mut nftables).unwrap_err();
            }
        });
        while !refused.is_finished() {
            match nftables.list_elements(TABLE, "classes") {
                Ok(listed) => assert_eq!(listed.len(), 20_001),
                Err(error) => assert_eq!(error, Error::Interrupted),
            }
        }
        refused.join()
    });
    refused.unwrap();
    assert_eq!(nftables.list_elements(TABLE, "classes").unwrap().len(), 20_001);
    assert_eq!(nftables.generation().unwrap(), generation);
}

#[test]
fn an_element_gets_another_value_in_one_transaction() {
    let Some(mut nftables) = namespace() else { return };
    whole_table().run(&mut nftables).unwrap();
    let mut t = Transaction::new(TABLE);
    t.delete_elements("classes", &[class_of([10, 0, 0, 1], 7)]);
    t.add_elements("classes", &[class_of([10, 0, 0, 1], 8)]);
    t.run(&mut nftables).unwrap();
    let now = nftables.list_elements(TABLE, "classes").unwrap();
    assert_eq!(now.into_iter().collect::<Vec<_>>(), [class_of([10, 0, 0, 1], 8)]);
}

#[test]
fn others_changes_are_notified_and_own_ones_are_not() {
    let Some(mut nftables) = namespace() else { return };
    let mut notifications = Notifications::open(TABLE, nftables.port()).unwrap();
    whole_table().run(&mut nftables).unwrap();
    let readable = poll(
        &mut [PollFd::new(notifications.fd(), PollFlags::POLLIN)],
        PollTimeout::ZERO,
    );
    assert_eq!(readable, Ok(0), "own changes do not wake the reader");
    nft(&["add", "element", "inet", TABLE, "pods", "{ 10.0.0.3 : drop }"]);
    let added = verdict_of([10, 0, 0, 3], Verdict::Drop);
    let expected = Notification::ElementAdded {
        set: "pods".into(),
        element: added.clone(),
    };
    assert_eq!(notifications.read().unwrap(), [expected]);
    nft(&["delete", "element", "inet", TABLE, "pods", "{ 10.0.0.3 : drop }"]);
    let expected = Notification::ElementDeleted {
        set: "pods".into(),
        element: added,
    };
    assert_eq!(notifications.read().unwrap(), [expected]);
    nft(&["add", "table", "inet", "another"]);
    assert_eq!(notifications.read().unwrap(), []);
    nft(&["flush", "ruleset"]);
    assert!(notifications.read().unwrap().contains(&Notification::Other));
}

#[test]
fn a_flow_is_found_and_deleted() {
    let Some(mut nftables) = namespace() else { return };
    // A rule that asks for the state has the kernel track.
    whole_table().run(&mut nftables).unwrap();
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .unwrap();
    assert!(up.success());
    let mut chain = base_chain();
    chain.name = "output".into();
    chain.hook = Some(Hook {
        number: 3,
        priority: 0,
    });
    let mut t = Transaction::new(TABLE);
    t.add_chain(&chain);
    t.add_rules(&chain);
    t.run(&mut nftables).unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut conntrack = Conntrack::open().unwrap();
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let flows = conntrack.list(|flow| flow.destination_port == port).unwrap();
    assert_eq!(flows.len(), 1);
    let from = client.local_addr().unwrap().port();
    assert_eq!(
        (flows[0].source, flows[0].source_port, flows[0].protocol),
        (here, from, 6)
    );
    assert_eq!(conntrack.delete(&flows).unwrap(), 1);
    assert_eq!(conntrack.delete(&flows).unwrap(), 0, "it is gone already");
    assert_eq!(
        conntrack.delete(&[Flow::of((here, 1), (here, 2), 17)]).unwrap(),
        0
    );
    assert!(
        conntrack
            .list(|flow| flow.destination_port == port)
            .unwrap()
            .is_empty()
    );
}
