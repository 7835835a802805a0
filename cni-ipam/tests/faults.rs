//! Hosts, states, requests and pods that are wrong: what the plugins make of them.

#![cfg(test)]

mod lab;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use lab::{Lab, NODE_V4, addresses, conf, sh, try_sh};
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

const STRACE: &str = "/usr/bin/strace";
const NFT: &str = "/usr/sbin/nft";

fn pings(from: Option<&str>, arguments: &str) -> bool {
    let inside = from.map(|n| format!("ip netns exec {n} ")).unwrap_or_default();
    try_sh(&format!("{inside}ping -q -c1 -W1 {arguments}"))
        .status
        .success()
}

fn host_interface(result: &Value) -> String {
    result["interfaces"][0]["name"].as_str().unwrap().to_owned()
}

fn found(lab: &Lab, fix: bool) -> Vec<String> {
    let found = cni_ipam::check(&lab.run_dir.join("ipam"), fix).unwrap();
    found.iter().map(ToString::to_string).collect()
}

/// An ADD or DEL of which one system call fails. False: there is no such call.
fn failed_at(lab: &Lab, verb: &str, conf: &Value, call: &str, errno: &str, n: usize) -> bool {
    let plain = lab.command(verb, "c1", "/run/netns/p1", "podroute-cni");
    let log = "/run/strace.log";
    let mut command = Command::new(STRACE);
    command
        .args(["-o", log, "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:error={errno}:when={n}")])
        .arg(plain.get_program())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(conf.to_string().as_bytes()).unwrap();
    drop(input);
    child.wait().unwrap();
    std::fs::read_to_string(log).unwrap().contains("(INJECTED)")
}

#[test]
fn an_add_leaves_nothing_whatever_call_fails() {
    lab::run("an_add_leaves_nothing_whatever_call_fails", &[STRACE], |lab| {
        lab.netns("p1");
        let conf = conf(json!({ "mark": 7 }));
        lab.add("other", &lab.netns("p2"), &conf);
        for (call, errno) in [
            ("write", "ENOSPC"),
            ("recvfrom", "ENOBUFS"),
            ("recvfrom", "EAGAIN"),
            ("symlink", "ENOSPC"),
            ("setns", "EPERM"),
        ] {
            let mut failures = 0;
            for n in (1..).take_while(|n| failed_at(lab, "ADD", &conf, call, errno, *n)) {
                failures = n;
                let links = sh("ip -o link | grep -c podroute:pods:c1: || true");
                let inside = sh("ip -n p1 -o link | grep -c eth0 || true");
                let routes = sh("ip route show proto 246 | wc -l");
                let claims = lab.claims().len();
                let is_clean = (links.trim(), inside.trim(), routes.trim(), claims) == ("0", "0", "1", 2);
                // Either nothing is left, or the ADD succeeded without what failed.
                let complete = (links.trim(), inside.trim(), claims) == ("1", "1", 4)
                    && sh("cat /run/podroute/ipam/*/pod/c1@eth0").ends_with("done\n");
                assert!(
                    is_clean || complete,
                    "{call} {n} {errno}: {links} {inside} {routes} {claims}"
                );
                lab.del("c1", "", &conf);
            }
            assert!(failures > 0, "{call} was never made to fail");
            lab.del("c1", "", &conf);
        }
    });
}

#[test]
fn what_others_flush_is_seen_and_put_back() {
    lab::run("what_others_flush_is_seen_and_put_back", &[NFT], |lab| {
        let mut conf =
            conf(json!({ "mark": 7, "masquerade": { "enabled": true, "exempt": ["198.18.0.0/15"] } }));
        // In whatever order its parts came.
        let table = || {
            let text = sh("nft -s list table inet podroute-cni");
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let netns = lab.netns("p1");
        conf["prevResult"] = lab.add("c1", &netns, &conf);
        for harm in [
            "nft flush ruleset",
            "nft delete element inet podroute-cni marks4 { 10.244.1.2 }",
            "nft flush chain inet podroute-cni sources",
            "nft flush chain inet podroute-cni marks",
            "nft add rule inet podroute-cni sources accept",
        ] {
            lab.cni("CHECK", "c1", &netns, &conf).unwrap();
            assert_eq!(found(lab, false), Vec::<String>::new());
            let before = table();
            sh(harm);
            assert_eq!(lab.cni("CHECK", "c1", &netns, &conf).code(), 104, "{harm}");
            assert!(!found(lab, false).is_empty(), "{harm}");
            found(lab, true);
            assert_eq!(found(lab, false), Vec::<String>::new(), "{harm}");
            assert_eq!(table(), before, "{harm}");
        }
        lab.del("c1", &netns, &conf);
        lab.assert_clean();
    });
}

#[test]
fn a_pod_sends_with_no_address_but_its_own() {
    lab::run("a_pod_sends_with_no_address_but_its_own", &[NFT], |lab| {
        // A router advertisement of a pod would be taken here, but for the plugin.
        sh("echo 2 >/proc/sys/net/ipv6/conf/default/accept_ra");
        let (a, b) = (lab.netns("p1"), lab.netns("p2"));
        let result = lab.add("c1", &a, &conf(json!({})));
        lab.add("c2", &b, &conf(json!({})));
        let name = host_interface(&result);
        let sysctl = |path: &str| sh(&format!("cat /proc/sys/net/{path}")).trim().to_owned();
        assert_eq!(sysctl(&format!("ipv4/conf/{name}/rp_filter")), "1");
        assert_eq!(sysctl(&format!("ipv6/conf/{name}/accept_ra")), "0");
        sh("ip -n p1 addr add 10.244.1.3/32 dev lo && ip -n p1 addr add 8.8.8.8/32 dev lo");
        sh("ip -n p1 addr add fd00:10:244:1::3/128 dev lo && ip -n p1 addr add 2001:db8:ffff::1/128 dev lo");
        // What arrives is counted, whether an answer finds its way back or not.
        sh(
            "nft add table inet count && nft 'add chain inet count in { type filter hook input priority 0; }'",
        );
        let arrived = |source: &str, target: &str, family: &str| {
            sh(&format!(
                "nft flush chain inet count in && nft 'add rule inet count in {family} saddr {source} counter'"
            ));
            try_sh(&format!("ip netns exec p1 ping -q -c1 -W1 -I {source} {target}"));
            !sh("nft list chain inet count in").contains("packets 0 ")
        };
        let stolen = [
            ("10.244.1.3", NODE_V4, "ip"),
            ("8.8.8.8", NODE_V4, "ip"),
            ("fd00:10:244:1::3", lab::NODE_V6, "ip6"),
            ("2001:db8:ffff::1", lab::NODE_V6, "ip6"),
        ];
        let own = [
            ("10.244.1.2", NODE_V4, "ip"),
            ("fd00:10:244:1::2", lab::NODE_V6, "ip6"),
        ];
        for filter in ["1", "2", "0"] {
            // Other programs write the filter; the table does not look at it.
            sh(&format!(
                "for f in all {name}; do echo {filter} >/proc/sys/net/ipv4/conf/$f/rp_filter; done"
            ));
            for (source, target, family) in stolen {
                assert!(!arrived(source, target, family), "{source}, rp_filter {filter}");
            }
            for (source, target, family) in own {
                assert!(arrived(source, target, family), "{source}, rp_filter {filter}");
            }
        }
        // Switched off by the network.
        lab.del("c1", &a, &conf(json!({})));
        sh("ip -n p1 addr flush dev lo");
        let open = conf(json!({ "sourceCheck": false }));
        let result = lab.add("c1", &a, &open);
        let name = host_interface(&result);
        sh(&format!(
            "for f in all {name}; do echo 0 >/proc/sys/net/ipv4/conf/$f/rp_filter; done"
        ));
        for (source, target, family) in stolen {
            sh(&format!("ip -n p1 addr add {source} dev lo"));
            assert!(arrived(source, target, family), "{source} is let through");
        }
    });
}

#[test]
fn a_pod_of_two_networks_may_use_both_addresses() {
    lab::run("a_pod_of_two_networks_may_use_both_addresses", &[NFT], |lab| {
        let netns = lab.netns("p1");
        lab.add("c1", &netns, &conf(json!({})));
        let second = |verb: &str| {
            let mut command = lab.command(verb, "c1", &netns, "podroute-cni");
            command.env("CNI_IFNAME", "net1");
            lab::ask(command, &conf(json!({ "name": "second" })).to_string()).unwrap()
        };
        for address in addresses(&second("ADD")) {
            assert!(
                pings(None, &address.to_string()),
                "{address}: its answer leaves by eth0"
            );
        }
        assert_eq!(found(lab, false), Vec::<String>::new());
        let pairs = sh("nft list set inet podroute-cni also4");
        assert_eq!(pairs.matches("10.244.1.").count(), 2, "{pairs}");
        second("DEL");
        let pairs = sh("nft list set inet podroute-cni also4");
        assert!(!pairs.contains("10.244.1."), "{pairs}");
    });
}

#[test]
fn bgp_and_node_addresses_are_never_masqueraded() {
    let needs = [NFT, "/usr/bin/socat"];
    lab::run("bgp_and_node_addresses_are_never_masqueraded", &needs, |lab| {
        sh(
            "ip netns add tor && ip link set up1 netns tor && ip -n tor link set up1 up && ip -n tor link set lo up",
        );
        sh("ip -n tor addr add 192.0.2.1/24 dev up1 && ip -n tor addr add 192.0.2.99/24 dev up1");
        sh("ip -n tor route add 10.244.1.0/24 via 192.0.2.11");
        let mut node: Value =
            serde_json::from_slice(&std::fs::read("/run/podroute/node.json").unwrap()).unwrap();
        node["peerAddresses"] = json!(["192.0.2.99"]);
        std::fs::write("/run/podroute/node.json", node.to_string()).unwrap();
        let masked = conf(json!({ "families": ["ipv4"], "masquerade": { "enabled": true } }));
        let pod = addresses(&lab.add("c1", &lab.netns("p1"), &masked))[0].to_string();
        for (target, port, wanted) in [
            ("192.0.2.1", 80, NODE_V4),
            ("192.0.2.1", 179, pod.as_str()),
            ("192.0.2.99", 80, pod.as_str()),
        ] {
            let out = sh(&format!(
                "ip netns exec tor timeout 5 socat -T2 TCP4-LISTEN:{port},reuseaddr SYSTEM:'echo $SOCAT_PEERADDR' & \
                 until ip netns exec tor ss -Hltn 'sport = {port}' | grep -q .; do :; done; \
                 ip netns exec p1 timeout 5 socat -T2 - TCP4:{target}:{port} </dev/null; wait"
            ));
            assert_eq!(out.trim(), wanted, "{target}:{port}");
        }
    });
}

#[test]
fn removal_does_not_read_what_it_does_not_need() {
    lab::run("removal_does_not_read_what_it_does_not_need", &[], |lab| {
        let netns = lab.netns("p1");
        let wrong = conf(
            json!({ "mtu": "x", "families": ["ipx"], "mark": -1, "masquerade": 5,
            "ipam": { "reserved": ["banana"] }, "args": { "cni": { "ips": ["banana"] } } }),
        );
        lab.add("c1", &netns, &conf(json!({})));
        let mut command = lab.command("DEL", "c1", &netns, "podroute-cni");
        command.env("CNI_ARGS", "IP=banana;x");
        lab::ask(command, &wrong.to_string()).unwrap();
        lab.assert_clean();
        lab.add("c1", &netns, &conf(json!({})));
        let mut gc = wrong.clone();
        gc["cni.dev/valid-attachments"] = json!([]);
        lab.cni("GC", "", "", &gc).unwrap();
        lab.assert_clean();
        assert_eq!(
            lab.cni("STATUS", "", "", &wrong).code(),
            50,
            "an ADD could not succeed"
        );
    });
}

#[test]
fn one_bad_record_holds_nothing_else_up() {
    lab::run("one_bad_record_holds_nothing_else_up", &[], |lab| {
        let names: Vec<String> = (0..4)
            .map(|i| {
                host_interface(&lab.add(&format!("c{i}"), &lab.netns(&format!("p{i}")), &conf(json!({}))))
            })
            .collect();
        let other = conf(json!({ "name": "other" }));
        let foreign = host_interface(&lab.add("foreign", &lab.netns("f"), &other));
        // Not UTF-8: one of this network, and one of another with a living pod.
        sh("for c in c0 foreign; do printf '\\377\\376' >$(echo /run/podroute/ipam/*/pod/$c@eth0); done");
        // Held by a process that is stopped.
        let record = sh("echo /run/podroute/ipam/*/pod/c1@eth0");
        let file = std::fs::File::open(record.trim()).unwrap();
        let held = Flock::lock(file, FlockArg::LockExclusive).unwrap();
        let shown = cni_ipam::attachments(&lab.run_dir.join("ipam")).unwrap();
        assert_eq!(shown.len(), 5);
        let said = found(lab, false);
        assert!(
            said.iter().any(|s| s.contains("c1 eth0: cannot be checked"))
                && said.iter().any(|s| s.contains("c0 eth0")),
            "{said:?}"
        );
        let mut gc = conf(json!({}));
        gc["cni.dev/valid-attachments"] = json!([{ "containerID": "c3", "ifname": "eth0" }]);
        let answer = lab.cni("GC", "", "", &gc);
        assert_eq!(answer.code(), 11);
        assert!(
            answer.json["msg"].as_str().unwrap().contains("c1@eth0"),
            "{answer:?}"
        );
        let links = sh("ip -o link");
        let left: Vec<bool> = names
            .iter()
            .chain([&foreign])
            .map(|n| links.contains(n.as_str()))
            .collect();
        assert_eq!(
            left,
            [false, true, false, true, true],
            "c1 is held, c3 is valid, foreign is another's"
        );
        drop(held);
        lab.cni("GC", "", "", &gc).unwrap();
        assert!(!sh("ip -o link").contains(&names[1]));
        assert!(pings(Some("f"), NODE_V4) && pings(Some("p3"), NODE_V4));
    });
}

#[test]
fn status_tells_what_keeps_an_add_from_working() {
    let needs = ["/usr/sbin/iptables"];
    lab::run("status_tells_what_keeps_an_add_from_working", &needs, |lab| {
        let status = || lab.cni("STATUS", "", "", &conf(json!({})));
        status().unwrap();
        let cases = [
            (
                "mount -t tmpfs -o size=4k full /run/podroute/ipam && dd if=/dev/zero of=/run/podroute/ipam/x bs=4k count=1",
                "umount /run/podroute/ipam",
                50,
            ),
            (
                "mount -t tmpfs -o ro readonly /run/podroute/ipam",
                "umount /run/podroute/ipam",
                50,
            ),
            (
                "rm -r /run/podroute/ipam && touch /run/podroute/ipam",
                "rm /run/podroute/ipam",
                50,
            ),
            (
                "echo 0 >/proc/sys/net/ipv4/ip_forward",
                "echo 1 >/proc/sys/net/ipv4/ip_forward",
                51,
            ),
            (
                "echo 0 >/proc/sys/net/ipv6/conf/all/forwarding",
                "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding",
                51,
            ),
            ("iptables -P FORWARD DROP", "iptables -P FORWARD ACCEPT", 51),
            ("ip6tables -P FORWARD DROP", "ip6tables -P FORWARD ACCEPT", 51),
        ];
        for (harm, remedy, code) in cases {
            sh(harm);
            let answer = status();
            assert_eq!(answer.code(), code, "{harm}: {answer:?}");
            sh(remedy);
            status().unwrap();
        }
        // With rules it is not known what they let through.
        sh("iptables -P FORWARD DROP && iptables -A FORWARD -s 10.244.0.0/16 -j ACCEPT");
        status().unwrap();
    });
}

#[test]
fn lost_state_costs_no_failed_adds() {
    lab::run("lost_state_costs_no_failed_adds", &[], |lab| {
        for i in 0..5 {
            lab.add(&format!("c{i}"), &lab.netns(&format!("p{i}")), &conf(json!({})));
        }
        sh("rm -r /run/podroute/ipam");
        let result = lab.add("next", &lab.netns("next"), &conf(json!({})));
        assert_eq!(
            addresses(&result)[0].to_string(),
            "10.244.1.7",
            "those in use are passed over"
        );
        // Parts of the state that were removed by hand are made again.
        for part in ["addr", "pod", "blocks"] {
            sh(&format!("rm -r /run/podroute/ipam/*/{part}"));
            let netns = lab.netns(part);
            lab.add(part, &netns, &conf(json!({})));
        }
    });
}

#[test]
fn dead_pods_of_an_old_block_hold_nobody_up() {
    lab::run("dead_pods_of_an_old_block_hold_nobody_up", &[], |lab| {
        lab.add("c1", &lab.netns("p1"), &conf(json!({})));
        lab.node(&["10.244.9.0/24"]);
        let netns = lab.netns("p2");
        assert_eq!(lab.cni("ADD", "c2", &netns, &conf(json!({}))).code(), 103);
        sh("ip netns del p1");
        lab.cni("STATUS", "", "", &conf(json!({}))).unwrap();
        let result = lab.add("c2", &netns, &conf(json!({})));
        assert!(addresses(&result)[0].to_string().starts_with("10.244.9."));
    });
}

#[test]
fn a_foreign_link_with_our_name_is_left_alone() {
    lab::run("a_foreign_link_with_our_name_is_left_alone", &[], |lab| {
        let netns = lab.netns("p1");
        let name = host_interface(&lab.add("c1", &netns, &conf(json!({}))));
        lab.del("c1", &netns, &conf(json!({})));
        sh(&format!("ip link add {name} type veth peer name theirs"));
        let before = sh(&format!("ip -o link show {name}"));
        let answer = lab.cni("ADD", "c1", &netns, &conf(json!({})));
        assert_eq!(answer.code(), 105);
        assert!(
            answer.json["msg"]
                .as_str()
                .unwrap()
                .contains("not of podroute-cni"),
            "{answer:?}"
        );
        lab.del("c1", &netns, &conf(json!({})));
        let mut gc = conf(json!({}));
        gc["cni.dev/valid-attachments"] = json!([]);
        lab.cni("GC", "", "", &gc).unwrap();
        found(lab, true);
        assert_eq!(sh(&format!("ip -o link show {name}")), before);
    });
}

#[test]
fn other_things_than_network_namespaces_are_named_as_such() {
    lab::run(
        "other_things_than_network_namespaces_are_named_as_such",
        &[],
        |lab| {
            sh("mkfifo /run/fifo && ln -s /run/fifo /run/link");
            for path in [
                "/proc/self/ns/mnt",
                "/proc/self/ns/pid",
                "/proc/self/ns/user",
                "/run/fifo",
                "/run/link",
                "/etc/passwd",
                "/dev/zero",
            ] {
                // A plugin that hangs is ended by the test runner's own patience; an answer comes at once.
                let answer = lab.cni("ADD", "c1", path, &conf(json!({})));
                assert_eq!(answer.code(), 3, "{path}");
                assert!(
                    answer.json["msg"]
                        .as_str()
                        .unwrap()
                        .contains("not a network namespace"),
                    "{path}: {answer:?}"
                );
            }
            let netns = lab.netns("p1");
            let mut command = lab.command("ADD", "c1", &netns, "podroute-cni");
            command.env("CNI_IFNAME", "eth%d");
            assert_eq!(lab::ask(command, &conf(json!({})).to_string()).code(), 4);
            // A record that is a link, or a FIFO, is not followed and not waited for.
            lab.add("c1", &netns, &conf(json!({})));
            let pod = sh("echo /run/podroute/ipam/*/pod");
            let pod = Path::new(pod.trim());
            std::fs::write("/run/victim", "untouched").unwrap();
            std::os::unix::fs::symlink("/run/victim", pod.join("c2@eth0")).unwrap();
            sh(&format!("mkfifo {}/c3@eth0", pod.display()));
            assert!(!lab.cni("ADD", "c2", &lab.netns("p2"), &conf(json!({}))).ok);
            assert_eq!(std::fs::read_to_string("/run/victim").unwrap(), "untouched");
            assert!(found(lab, false).iter().any(|s| s.contains("c2 eth0")));
            lab.del("c3", "", &conf(json!({})));
        },
    );
}

#[test]
fn a_check_writes_nothing() {
    lab::run("a_check_writes_nothing", &[], |lab| {
        let netns = lab.netns("p1");
        let mut conf = conf(json!({ "mark": 7 }));
        conf["prevResult"] = lab.add("c1", &netns, &conf);
        sh("mount --bind /run/podroute /run/podroute && mount -o remount,ro,bind /run/podroute");
        assert_eq!(found(lab, false), Vec::<String>::new());
        lab.cni("CHECK", "c1", &netns, &conf).unwrap();
    });
}

#[test]
fn a_removal_asks_nobody() {
    lab::run("a_removal_asks_nobody", &[], |lab| {
        // An agent of 0.1 that is stopped, or anyone who says 'removed' and does nothing.
        let listener = std::os::unix::net::UnixListener::bind(lab.run_dir.join("links.sock")).unwrap();
        listener.set_nonblocking(true).unwrap();
        lab.add("c1", &lab.netns("p1"), &conf(json!({})));
        lab.del("c1", "", &conf(json!({})));
        lab.assert_clean();
        assert!(listener.accept().is_err());
    });
}

/// A tmpfs of the state's own, filled to the last octet: ADD fails and leaves nothing, DEL works, and with room all is as before.
#[test]
fn a_full_disk_loses_nothing() {
    lab::run("a_full_disk_loses_nothing", &[], |lab| {
        let state = lab.run_dir.join("ipam");
        let (path, filler) = (state.display(), state.join("filler"));
        sh(&format!(
            "mkdir -p {path} && mount -t tmpfs -o size=64k tmpfs {path}"
        ));
        let fill = || {
            let mut file = std::fs::File::options()
                .create(true)
                .append(true)
                .open(&filler)
                .unwrap();
            while file.write_all(&[0; 512]).is_ok() {}
        };
        let conf = conf(json!({ "mark": 7, "masquerade": { "enabled": true } }));
        let (first, second) = (lab.netns("p1"), lab.netns("p2"));
        let result = lab.add("c1", &first, &conf);
        let made = (lab.claims(), sh("ip route show proto 246"));
        fill();
        for _ in 0..3 {
            let failed = lab.cni("ADD", "c2", &second, &conf);
            assert!(
                failed.json.to_string().contains("No space left on device"),
                "{failed:?}"
            );
            assert_eq!(failed.code(), 5, "{failed:?}");
        }
        assert_eq!((lab.claims(), sh("ip route show proto 246")), made);
        assert!(!lab.cni("STATUS", "", "", &conf).ok);
        // What is there is whole: seen, checked, and removed.
        let mut with_result = conf.clone();
        with_result["prevResult"] = result;
        lab.cni("CHECK", "c1", &first, &with_result).unwrap();
        assert_eq!(found(lab, false), Vec::<String>::new());
        lab.del("c1", &first, &conf);
        assert_eq!(lab.claims(), Vec::<String>::new());
        std::fs::remove_file(&filler).unwrap();
        lab.cni("STATUS", "", "", &conf).unwrap();
        lab.add("c2", &second, &conf);
        assert_eq!(found(lab, false), Vec::<String>::new());
        lab.del("c2", &second, &conf);
    });
}
