//! The owner of what the plugin made: whatever somebody takes away of a living pod is back a moment later.

#![cfg(test)]

mod lab;

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use cni_ipam::{Report, Restored};
use lab::{Lab, NODE_V4, NODE_V6, addresses, conf, sh, try_sh};
use serde_json::json;

/// Longer than any machine takes; what is waited for is a condition.
const PATIENCE: Duration = Duration::from_secs(20);

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !is_so() {
        assert!(
            start.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}\n{}",
            state()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    start.elapsed()
}

fn state() -> String {
    sh("ip -d addr; ip route; ip -6 route")
}

/// The owner at work, as in the agent.
fn reconcile(lab: &Lab) -> Receiver<Restored> {
    let run_dir = lab.run_dir.clone();
    let (to, reports) = channel();
    std::thread::spawn(move || {
        let wake = nix::sys::eventfd::EventFd::new().unwrap();
        let stopped =
            cni_ipam::reconcile(
                &run_dir,
                Path::new("/proc/sys"),
                wake.as_fd(),
                |report| match report {
                    Report::Restored(restored) => drop(to.send(restored)),
                    Report::Failed(error) => panic!("{error}"),
                },
            );
        panic!("{stopped:?}");
    });
    reports
}

/// The host's routes of our protocol number, without what differs from one look to the next.
fn routes() -> String {
    let all = sh("ip -4 route show proto 246; ip -6 route show proto 246");
    let mut lines: Vec<String> = all
        .lines()
        .map(|line| line.trim().replace(" linkdown", ""))
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

/// State, MTU, link group and hardware address.
fn link(interface: &str) -> String {
    sh(&format!("ip -o link show {interface}")).replace("NO-CARRIER,", "")
}

/// What the kernel does with what comes from the pod.
fn settings(interface: &str) -> String {
    let of = |family: &str, name: &str| {
        let value = sh(&format!("cat /proc/sys/net/{family}/conf/{interface}/{name}"));
        format!("{family} {name} {}\n", value.trim())
    };
    [
        of("ipv4", "rp_filter"),
        of("ipv4", "forwarding"),
        of("ipv6", "forwarding"),
        of("ipv6", "accept_ra"),
    ]
    .concat()
}

fn reaches(address: &str) -> bool {
    try_sh(&format!("ping -q -c1 -W1 {address}")).status.success()
}

#[test]
fn what_is_taken_away_comes_back() {
    lab::run("what_is_taken_away_comes_back", &[], |lab| {
        let netns = lab.netns("p1");
        let result = lab.add("c1", &netns, &conf(json!({})));
        let pod = addresses(&result);
        let (pod4, pod6) = (pod[0].to_string(), pod[1].to_string());
        let host = result["interfaces"][0]["name"].as_str().unwrap().to_owned();
        let made = link(&host);
        let set = settings(&host);
        assert_eq!(
            set,
            "ipv4 rp_filter 1\nipv4 forwarding 1\nipv6 forwarding 1\nipv6 accept_ra 0\n"
        );
        let before = routes();
        let reports = reconcile(lab);
        let faults = [
            (
                "the node's IPv4 address goes and comes back",
                format!("ip addr del {NODE_V4}/24 dev up0; ip addr add {NODE_V4}/24 dev up0"),
            ),
            (
                "the node's IPv6 address goes and comes back",
                format!("ip addr del {NODE_V6}/64 dev up0; ip addr add {NODE_V6}/64 dev up0 nodad"),
            ),
            (
                "the host interface is shut and opened",
                format!("ip link set {host} down; ip link set {host} up"),
            ),
            ("the host interface is shut", format!("ip link set {host} down")),
            (
                "routes are flushed",
                "ip route flush proto 246; ip -6 route flush proto 246".to_owned(),
            ),
            (
                "an IPv4 route is replaced",
                format!("ip route replace {pod4}/32 dev up1"),
            ),
            (
                "an IPv6 route is replaced",
                format!("ip -6 route replace {pod6}/128 dev up1"),
            ),
            (
                "the gateway's addresses are removed",
                format!("ip addr flush dev {host}"),
            ),
            (
                "another hardware address",
                format!("ip link set {host} address 0e:00:00:00:00:01"),
            ),
            ("another MTU", format!("ip link set {host} mtu 1400")),
            ("another link group", format!("ip link set {host} group 0")),
            (
                "no reverse-path filter",
                format!("sysctl -qw net.ipv4.conf.{host}.rp_filter=0"),
            ),
            (
                "no IPv4 forwarding",
                format!("sysctl -qw net.ipv4.conf.{host}.forwarding=0"),
            ),
            (
                "the pod as a router",
                format!("sysctl -qw net.ipv6.conf.{host}.accept_ra=2 net.ipv6.conf.{host}.forwarding=0"),
            ),
        ];
        for (what, fault) in faults {
            sh(&fault);
            wait_for(what, || {
                routes() == before && link(&host) == made && settings(&host) == set
            });
            wait_for(what, || reaches(&pod4) && reaches(&pod6));
            let restored = reports.recv_timeout(PATIENCE).unwrap();
            assert_eq!(restored.pods[0].0, host, "{what}");
        }
        // A pod that goes is left alone.
        lab.del("c1", &netns, &conf(json!({})));
        lab.assert_clean();
    });
}

/// While the address is away the pod is still reached, by whatever source the kernel chooses.
#[test]
fn pods_are_reached_while_the_nodes_address_is_away() {
    lab::run("pods_are_reached_while_the_nodes_address_is_away", &[], |lab| {
        sh("ip addr add 198.51.100.1/24 dev up0");
        let result = lab.add("c1", &lab.netns("p1"), &conf(json!({})));
        let pod = addresses(&result)[0].to_string();
        let _reports = reconcile(lab);
        sh(&format!("ip addr del {NODE_V4}/24 dev up0"));
        wait_for("a route without source", || reaches(&pod));
        assert!(!routes().contains(NODE_V4));
        sh(&format!("ip addr add {NODE_V4}/24 dev up0"));
        wait_for("a route with the source", || {
            routes().contains(&format!("{pod} dev")) && routes().contains(&format!("src {NODE_V4}"))
        });
    });
}

/// The rules for egress and for sources, too, whatever part of them goes.
#[test]
fn the_nftables_table_comes_back() {
    lab::run("the_nftables_table_comes_back", &["/usr/sbin/nft"], |lab| {
        let network = conf(json!({ "masquerade": { "enabled": true }, "mark": 256 }));
        let pods: Vec<_> = (0..3)
            .map(|n| lab.add(&format!("c{n}"), &lab.netns(&format!("p{n}")), &network))
            .collect();
        let list = || sh("nft list table inet podroute-cni");
        // A set's elements have no order, nor have chains that were recreated.
        let sorted = || {
            let mut words: Vec<String> = list()
                .split_whitespace()
                .map(|word| word.replace(',', ""))
                .collect();
            words.sort_unstable();
            words
        };
        let before = sorted();
        let text = list();
        let chain = text
            .split_whitespace()
            .find(|word| word.starts_with("masquerade-"))
            .unwrap();
        let address = addresses(&pods[0])[0];
        let reports = reconcile(lab);
        let faults = [
            "nft flush ruleset".to_owned(),
            "nft delete table inet podroute-cni".to_owned(),
            format!("nft flush chain inet podroute-cni {chain}"),
            "nft flush chain inet podroute-cni sources".to_owned(),
            format!("nft delete element inet podroute-cni marks4 '{{ {address} }}'"),
        ];
        for fault in faults {
            sh(&fault);
            wait_for(&fault, || {
                try_sh("nft list table inet podroute-cni").status.success() && sorted() == before
            });
            reports.recv_timeout(PATIENCE).unwrap();
        }
    });
}

/// DELs and ADDs beside the owner leave nothing behind, and what others do to many pods at once is undone for all.
#[test]
fn many_pods_come_and_go_under_it() {
    lab::run("many_pods_come_and_go_under_it", &[], |lab| {
        let names: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
        for name in &names {
            lab.netns(name);
        }
        let _reports = reconcile(lab);
        for _ in 0..3 {
            for name in &names {
                lab.add(name, &format!("/run/netns/{name}"), &conf(json!({})));
            }
            let before = routes();
            sh("ip route flush proto 246; ip -6 route flush proto 246");
            wait_for("all routes", || routes() == before);
            std::thread::scope(|scope| {
                for name in &names {
                    scope.spawn(move || lab.del(name, &format!("/run/netns/{name}"), &conf(json!({}))));
                }
                for _ in 0..20 {
                    try_sh("ip route flush proto 246; ip -6 route flush proto 246");
                }
            });
            lab.assert_clean();
        }
    });
}
