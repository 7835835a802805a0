//! Beside other programs that change the ruleset, and after an owner that was killed.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used
)]

use std::io::Write;
use std::os::unix::process::parent_id;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CloneFlags, unshare};
use podroute_enforce::{Enforcer, TABLE};
use podroute_netfilter::{Chain, Nftables, Transaction};
use podroute_netpol::{LabelSelector, Model, Operator, Peer, PodInput, Policy, Ports, Requirement, Rule};

/// Pods here; each has a policy of its own.
const PODS: u16 = 400;

/// The thread gets a network namespace of its own; false without the right to it.
fn namespace() -> bool {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: needs root");
        return false;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    true
}

fn label(number: u16) -> (String, String) {
    ("app".to_owned(), number.to_string())
}

/// Pod `number` takes connections from pod `from` alone.
fn policy(number: u16, from: u16) -> Policy {
    let selector = |number: u16| LabelSelector {
        requirements: vec![Requirement {
            key: "app".into(),
            operator: Operator::In,
            values: vec![number.to_string()],
        }],
    };
    Policy {
        namespace: "x".into(),
        name: format!("policy-{number}"),
        selects: selector(number),
        ingress: Some(vec![Rule {
            peers: Some(vec![Peer::Pods {
                namespaces: None,
                pods: Some(selector(from)),
            }]),
            ports: Ports::All,
        }]),
        egress: None,
    }
}

fn many_pods(model: &mut Model) {
    model.put_namespace("x", &[]);
    for number in 0..PODS {
        let name = format!("pod-{number}");
        model.put_pod(&PodInput {
            namespace: "x".into(),
            name: name.clone(),
            labels: vec![label(number)],
            addresses: vec![std::net::Ipv4Addr::from_bits(0x0a40_0000 + u32::from(number)).into()],
            is_local: true,
            ..PodInput::default()
        });
        model.attach(&format!("if-{number}"), "x", &name);
        model.put_policy(policy(number, (number + 1) % PODS));
    }
}

/// Brings the policies of a node's pods into force.
fn fill() {
    let mut enforcer = Enforcer::open().unwrap();
    many_pods(&mut enforcer.model);
    enforcer.sync().unwrap();
}

/// A node whose pods' policies are in force, and the table as `nft` lists it, in any order.
fn reference() -> Vec<String> {
    fill();
    table()
}

fn table() -> Vec<String> {
    let text = run("nft", &["-s", "list", "table", "inet", TABLE], "");
    let mut lines: Vec<String> = text
        .split(['\n', ','])
        .map(|line| line.trim().to_owned())
        .collect();
    lines.sort();
    lines
}

fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Takes over what is in the kernel, as an agent that starts.
fn adopt() -> Enforcer {
    let mut enforcer = Enforcer::open().unwrap();
    enforcer.prepare().unwrap();
    many_pods(&mut enforcer.model);
    enforcer
}

fn is_as_it_should_be(enforcer: &mut Enforcer) -> bool {
    enforcer.audit();
    enforcer.sync().unwrap().octets == 0
}

/// Another program's transactions interrupt every long listing; the table is brought into force, adopted and audited.
#[test]
fn others_transactions_interrupt_listings_and_hinder_nothing() {
    if !namespace() {
        return;
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut nftables = Nftables::open().unwrap();
            while !stop.load(Ordering::Relaxed) {
                let mut t = Transaction::new("another");
                t.add_table();
                t.delete_table();
                t.add_table();
                (0..10).for_each(|number| {
                    t.add_chain(&Chain {
                        name: format!("service-{number}"),
                        hook: None,
                        rules: Vec::new(),
                    })
                });
                t.run(&mut nftables).unwrap();
            }
        });
        let outcome = std::panic::catch_unwind(|| {
            // Without `nft list`: that begins again at each interruption, and never ends here.
            fill();
            let mut next = adopt();
            assert_eq!(next.sync().unwrap().octets, 0, "what is there is adopted");
            assert!(is_as_it_should_be(&mut next));
            next.totals().unwrap();
        });
        stop.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

/// What firewalld and kube-proxy do at each reload: their own tables are filled again, whole.
#[test]
fn reloads_of_other_programs_change_nothing_here() {
    if !namespace() {
        return;
    }
    let before = reference();
    let mut enforcer = adopt();
    enforcer.sync().unwrap();
    let firewalld = "table inet firewalld\ndelete table inet firewalld\ntable inet firewalld {\n\
        chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept; ct state established accept; }\n}\n";
    let kube_proxy = "add table ip kube-proxy\nflush table ip kube-proxy\ntable ip kube-proxy {\n\
        map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\nchain services { }\n}\n";
    let iptables = "*filter\n:KUBE-FORWARD - [0:0]\n-F FORWARD\n-A FORWARD -j KUBE-FORWARD\n\
        -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\nCOMMIT\n";
    let has_iptables = Command::new("iptables-nft-restore")
        .arg("--version")
        .output()
        .is_ok();
    for _ in 0..3 {
        run("nft", &["-f", "-"], firewalld);
        run("nft", &["-f", "-"], kube_proxy);
        if has_iptables {
            run("iptables-nft-restore", &[], iptables);
        }
        enforcer.read_notifications().unwrap();
        assert!(!enforcer.is_disturbed());
        assert_eq!(enforcer.sync().unwrap().octets, 0);
    }
    assert_eq!(table(), before);
    assert!(is_as_it_should_be(&mut enforcer));
    let ruleset = run("nft", &["list", "ruleset"], "");
    assert!(Enforcer::remove().unwrap());
    let iptables = has_iptables.then_some("KUBE-FORWARD");
    for others in ["table inet firewalld", "table ip kube-proxy"]
        .into_iter()
        .chain(iptables)
    {
        assert!(ruleset.contains(others), "{others}");
        assert!(run("nft", &["list", "ruleset"], "").contains(others), "{others}");
    }
}

/// The whole ruleset is flushed again and again, also between the listing and the transaction of a repair.
#[test]
fn the_table_is_there_after_many_flushes() {
    if !namespace() {
        return;
    }
    let before = reference();
    let mut enforcer = adopt();
    std::thread::scope(|scope| {
        let flushes = scope.spawn(|| (0..50).for_each(|_| drop(run("nft", &["flush", "ruleset"], ""))));
        let mut number = 0;
        while !flushes.is_finished() {
            // Refused where the table went in between; the next call begins with a listing.
            let _ = enforcer.sync();
            number = (number + 1) % PODS;
            enforcer.model.put_policy(policy(number, (number + 2) % PODS));
            enforcer.model.put_policy(policy(number, (number + 1) % PODS));
        }
        flushes.join().unwrap();
    });
    enforcer.read_notifications().unwrap();
    enforcer.sync().unwrap();
    assert_eq!(table(), before);
    assert!(is_as_it_should_be(&mut enforcer));
}

/// The process that the next test kills: it changes policies until then, or until its parent has ended.
#[test]
#[ignore = "started by another test"]
fn an_owner_that_is_killed() {
    let parent = parent_id();
    let mut enforcer = adopt();
    let rounds = (2..PODS).cycle().take_while(|_| parent_id() == parent);
    for round in rounds {
        for number in 0..PODS {
            enforcer.model.put_policy(policy(number, (number + round) % PODS));
            enforcer.sync().unwrap();
        }
    }
}

#[test]
fn an_owner_killed_at_any_moment_leaves_whole_rules() {
    if !namespace() {
        return;
    }
    let before = reference();
    let mut nftables = Nftables::open().unwrap();
    for round in 0..6 {
        let mut owner = Command::new(std::env::current_exe().unwrap());
        owner.args(["--ignored", "--exact", "an_owner_that_is_killed"]);
        let mut owner = owner.stdout(Stdio::null()).spawn().unwrap();
        // Each round another moment: after this number of transactions, whatever it does then.
        let generation = nftables.generation().unwrap();
        while nftables.generation().unwrap() < generation + 1 + 3 * round {
            assert_eq!(owner.try_wait().unwrap(), None, "it ended by itself");
            std::thread::yield_now();
        }
        owner.kill().unwrap();
        owner.wait().unwrap();
        // Until the next owner is there, every pod is isolated, by a chain that allows one other pod.
        let isolated = nftables.list_elements(TABLE, "to-pod").unwrap();
        assert_eq!(isolated.len(), usize::from(PODS));
        let mut next = adopt();
        next.sync().unwrap();
        assert_eq!(table(), before, "round {round}");
        assert!(is_as_it_should_be(&mut next));
    }
}
