//! The verbs of both plugins, on a real kernel: what they make, what they undo, and their errors.

#![cfg(test)]

mod lab;

use lab::{Lab, NODE_V4, NODE_V6, addresses, conf, sh, try_sh};
use serde_json::{Value, json};

/// The first packet must arrive: one try, no repetition.
fn pings(netns: Option<&str>, target: &str) -> bool {
    let inside = netns.map(|n| format!("ip netns exec {n} ")).unwrap_or_default();
    try_sh(&format!("{inside}ping -q -c1 -W2 {target}"))
        .status
        .success()
}

fn assert_wired(pod: &str, result: &Value) {
    for address in addresses(result) {
        assert!(pings(None, &address.to_string()), "node to {pod} at {address}");
    }
    let families: Vec<bool> = addresses(result).iter().map(std::net::IpAddr::is_ipv4).collect();
    for (v4, node) in [(true, NODE_V4), (false, NODE_V6)] {
        if families.contains(&v4) {
            assert!(pings(Some(pod), node), "{pod} to node {node}");
        }
    }
}

#[test]
fn add_check_del_in_every_version() {
    lab::run("add_check_del_in_every_version", &[], |lab| {
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let pod = format!("v{}", version.replace('.', ""));
            let netns = lab.netns(&pod);
            let mut conf = conf(json!({ "cniVersion": version }));
            let result = lab.add("c1", &netns, &conf);
            assert_eq!(result["cniVersion"], version);
            assert_eq!(addresses(&result).len(), 2);
            assert_wired(&pod, &result);
            conf["prevResult"] = result;
            let check = lab.cni("CHECK", "c1", &netns, &conf);
            match version {
                "0.3.1" => assert_eq!(check.code(), 1),
                _ => assert!(check.ok, "{check:?}"),
            }
            lab.del("c1", &netns, &conf);
            lab.del("c1", &netns, &conf);
            lab.assert_clean();
        }
        let versions = lab
            .cni("VERSION", "", "", &json!({ "cniVersion": "1.0.0" }))
            .unwrap();
        assert_eq!(
            versions["supportedVersions"],
            json!(["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
        );
    });
}

#[test]
fn pods_reach_each_other_at_their_own_addresses() {
    lab::run("pods_reach_each_other_at_their_own_addresses", &[], |lab| {
        let results: Vec<Value> = (1..=3)
            .map(|i| lab.add(&format!("c{i}"), &lab.netns(&format!("p{i}")), &conf(json!({}))))
            .collect();
        for from in 1..=3 {
            for to in &results {
                for address in addresses(to) {
                    assert!(
                        pings(Some(&format!("p{from}")), &address.to_string()),
                        "p{from} to {address}"
                    );
                }
            }
        }
        for pod in 1..=3 {
            sh(&format!(
                "until ! ip -n p{pod} -6 addr show tentative | grep -q fe80; do :; done"
            ));
            assert!(
                pings(Some(&format!("p{pod}")), "fe80::1%eth0"),
                "the gateway answers p{pod}'s link-local address"
            );
        }
        let (v4, v6) = (sh("ip route"), sh("ip -6 route"));
        assert!(v4.contains("proto 246 scope link src 192.0.2.11"), "{v4}");
        assert!(v6.contains("proto 246 src 2001:db8:a::11"), "{v6}");
    });
}

#[test]
fn one_family_alone() {
    lab::run("one_family_alone", &[], |lab| {
        for (pod, block) in [("p4", "10.244.1.0/24"), ("p6", "fd00:10:244:1::/64")] {
            lab.node(&[block]);
            let netns = lab.netns(pod);
            let result = lab.add(pod, &netns, &conf(json!({})));
            assert_eq!(addresses(&result).len(), 1);
            assert_wired(pod, &result);
        }
        lab.node(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        let only = conf(json!({ "families": ["ipv6"] }));
        let result = lab.add("c", &lab.netns("pf"), &only);
        assert!(addresses(&result).iter().all(std::net::IpAddr::is_ipv6));
        assert_eq!(addresses(&result).len(), 1);
    });
}

#[test]
fn errors_have_the_specs_codes() {
    lab::run("errors_have_the_specs_codes", &[], |lab| {
        let netns = lab.netns("p1");
        let host = "/proc/self/ns/net";
        assert_eq!(
            lab.cni("ADD", "c1", "/run/netns/none", &conf(json!({}))).code(),
            3
        );
        let own = lab.cni("ADD", "c1", host, &conf(json!({})));
        assert_eq!(own.code(), 4);
        assert!(
            own.json["msg"].as_str().unwrap().contains("host's own"),
            "{own:?}"
        );
        let garbage = lab::ask(lab.command("ADD", "c1", &netns, "podroute-cni"), "no json");
        assert_eq!(garbage.code(), 6);
        assert_eq!(
            lab.cni("ADD", "c1", &netns, &conf(json!({ "mtu": "x" }))).code(),
            7
        );
        assert_eq!(
            lab.cni("ADD", "c1", &netns, &conf(json!({ "cniVersion": "2.0.0" })))
                .code(),
            1
        );
        lab.add("c1", &netns, &conf(json!({})));
        let again = lab.cni("ADD", "c1", &netns, &conf(json!({})));
        assert_eq!(again.code(), 100);
        assert_eq!(
            lab.claims().len(),
            2,
            "the first ADD's addresses stay, and no more"
        );
        lab.del("c1", "", &conf(json!({})));
        std::fs::remove_file(lab.run_dir.join("node.json")).unwrap();
        let later = lab.cni("ADD", "c1", &netns, &conf(json!({})));
        assert_eq!(later.code(), 11);
        assert!(
            later.json["msg"]
                .as_str()
                .unwrap()
                .contains("/run/podroute/node.json"),
            "{later:?}"
        );
        assert_eq!(lab.cni("STATUS", "", "", &conf(json!({}))).code(), 50);
        lab.node(&[]);
        assert_eq!(lab.cni("ADD", "c1", &netns, &conf(json!({}))).code(), 11);
        assert_eq!(lab.cni("STATUS", "", "", &conf(json!({}))).code(), 50);
        lab.assert_clean();
    });
}

#[test]
fn a_full_block_is_try_again_later_and_loses_nothing() {
    lab::run("a_full_block_is_try_again_later_and_loses_nothing", &[], |lab| {
        lab.node(&["10.244.1.0/29"]);
        for i in 1..=5 {
            lab.cni("STATUS", "", "", &conf(json!({}))).unwrap();
            lab.add(&format!("c{i}"), &lab.netns(&format!("p{i}")), &conf(json!({})));
        }
        let netns = lab.netns("p6");
        let full = lab.cni("ADD", "c6", &netns, &conf(json!({})));
        assert_eq!(full.code(), 11);
        assert!(
            full.json["msg"].as_str().unwrap().contains("10.244.1.0/29"),
            "{full:?}"
        );
        assert_eq!(lab.cni("STATUS", "", "", &conf(json!({}))).code(), 50);
        assert_eq!(lab.claims().len(), 5);
        lab.del("c3", "", &conf(json!({})));
        let result = lab.add("c6", &netns, &conf(json!({})));
        assert_eq!(addresses(&result)[0].to_string(), "10.244.1.4");
    });
}

#[test]
fn a_failed_add_leaves_nothing() {
    lab::run("a_failed_add_leaves_nothing", &[], |lab| {
        let netns = lab.netns("p1");
        sh("ip -n p1 link add eth0 type veth peer name other");
        let taken = lab.cni("ADD", "c1", &netns, &conf(json!({})));
        assert_eq!(taken.code(), 105);
        assert!(
            taken.json["msg"].as_str().unwrap().contains("another plugin"),
            "{taken:?}"
        );
        lab.assert_clean();
        // Someone else's route to the address that comes next: not touched, and the address is passed over.
        sh("ip -n p1 link del eth0 && ip route add 10.244.1.3/32 dev up0 proto 4");
        let result = lab.add("c1", &netns, &conf(json!({})));
        assert_eq!(addresses(&result)[0].to_string(), "10.244.1.4");
        lab.del("c1", &netns, &conf(json!({})));
        // Asked for by name, it cannot be given.
        let fixed = conf(json!({ "args": { "cni": { "ips": ["10.244.1.3"] } } }));
        assert_eq!(lab.cni("ADD", "c1", &netns, &fixed).code(), 105);
        lab.assert_clean();
        assert!(sh("ip route").contains("10.244.1.3 dev up0"));
    });
}

#[test]
fn check_sees_what_is_missing() {
    lab::run("check_sees_what_is_missing", &[], |lab| {
        let harms = [
            "ip -n p1 route del default",
            "ip -n p1 -6 route del default",
            "ip -n p1 route flush table main && ip -n p1 route add default dev eth0",
            "ip -n p1 neigh del 169.254.1.1 dev eth0",
            "ip -n p1 neigh replace fe80::1 lladdr 02:00:00:00:00:01 nud permanent dev eth0",
            "ip -n p1 link set eth0 mtu 1400",
            "ip link set $(ip -o link | grep -o 'pod[a-z0-9]*' | head -1) mtu 1400",
            "ip link set $(ip -o link | grep -o 'pod[a-z0-9]*' | head -1) address 02:00:00:00:00:02",
            "ip link set $(ip -o link | grep -o 'pod[a-z0-9]*' | head -1) group default",
            "nft flush ruleset",
            "ip -n p1 addr flush dev eth0 scope global",
            "ip -n p1 link set eth0 down",
            "ip route flush proto 246",
            "ip link set $(ip -o link | grep -o 'pod[a-z0-9]*' | head -1) down",
            "ip -n p1 link del eth0",
            "rm /run/podroute/ipam/*/addr/10*",
        ];
        let netns = lab.netns("p1");
        for harm in harms {
            let mut conf = conf(json!({}));
            conf["prevResult"] = lab.add("c1", &netns, &conf);
            lab.cni("CHECK", "c1", &netns, &conf).unwrap();
            sh(harm);
            assert_eq!(lab.cni("CHECK", "c1", &netns, &conf).code(), 104, "{harm}");
            lab.del("c1", &netns, &conf);
        }
        // The result of another attachment.
        let mut conf = conf(json!({}));
        let other = lab.add("c2", &lab.netns("p2"), &conf);
        lab.add("c1", &netns, &conf);
        conf["prevResult"] = other;
        assert_eq!(lab.cni("CHECK", "c1", &netns, &conf).code(), 104);
        lab.del("c1", &netns, &conf);
        lab.del("c2", "", &conf);
        lab.assert_clean();
    });
}

#[test]
fn ipam_under_the_reference_plugins() {
    let needs = ["/usr/lib/cni/ptp", "/usr/lib/cni/bridge"];
    lab::run("ipam_under_the_reference_plugins", &needs, |lab| {
        for (kind, version) in [
            ("ptp", "0.4.0"),
            ("ptp", "1.0.0"),
            ("bridge", "0.3.1"),
            ("bridge", "1.0.0"),
        ] {
            let mut conf = json!({
                "cniVersion": version, "name": "delegated", "type": kind,
                "ipam": { "type": "podroute-ipam", "families": ["ipv4"] },
            });
            if kind == "bridge" {
                conf["bridge"] = json!("cni0");
                conf["isGateway"] = json!(true);
            }
            let pod = format!("{kind}{}", version.replace('.', ""));
            let netns = lab.netns(&pod);
            let result = lab.add("c1", &netns, &conf);
            let address = addresses(&result)[0].to_string();
            assert!(pings(None, &address), "node to {kind} pod {address}");
            assert!(pings(Some(&pod), NODE_V4), "{kind} pod to node");
            if version != "0.3.1" {
                conf["prevResult"] = result;
                lab.cni("CHECK", "c1", &netns, &conf).unwrap();
            }
            lab.del("c1", &netns, &conf);
            lab.del("c1", &netns, &conf);
            lab.assert_clean();
        }
    });
}

#[test]
fn del_without_anything_succeeds() {
    lab::run("del_without_anything_succeeds", &[], |lab| {
        lab.del("never", "", &conf(json!({})));
        lab.del(
            "never",
            "/run/netns/none",
            &conf(json!({ "type": "podroute-ipam" })),
        );
        let netns = lab.netns("p1");
        lab.add("c1", &netns, &conf(json!({})));
        std::fs::remove_file(lab.run_dir.join("node.json")).unwrap();
        sh("ip netns del p1");
        lab.del("c1", "", &conf(json!({})));
        lab.assert_clean();
    });
}

#[test]
fn the_outer_process_leaves_the_host_alone() {
    lab::run("the_outer_process_leaves_the_host_alone", &[], |lab: &Lab| {
        assert!(lab.run_dir.join("node.json").exists());
        assert!(
            !std::path::Path::new("/run/systemd").exists(),
            "/run is the lab's own"
        );
    });
}

#[test]
fn ipv6_switched_off_by_the_runtime_is_switched_on() {
    lab::run("ipv6_switched_off_by_the_runtime_is_switched_on", &[], |lab| {
        let netns = lab.netns("p1");
        sh(
            "for c in all default; do ip netns exec p1 sh -c \"echo 1 >/proc/sys/net/ipv6/conf/$c/disable_ipv6\"; done",
        );
        sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
        let result = lab.add("c1", &netns, &conf(json!({})));
        assert_eq!(addresses(&result).len(), 2);
        assert_wired("p1", &result);
        lab.del("c1", &netns, &conf(json!({})));
        lab.assert_clean();
    });
}

#[test]
fn a_node_address_that_is_not_there_is_lived_without() {
    lab::run("a_node_address_that_is_not_there_is_lived_without", &[], |lab| {
        sh("ip addr del 192.0.2.11/24 dev up0 && ip addr add 192.0.2.12/24 dev up0");
        let result = lab.add("c1", &lab.netns("p1"), &conf(json!({})));
        assert!(pings(None, &addresses(&result)[0].to_string()));
        assert!(pings(Some("p1"), "192.0.2.12"));
    });
}

#[test]
fn what_is_no_namespace_is_refused_before_anything_is_made() {
    lab::run(
        "what_is_no_namespace_is_refused_before_anything_is_made",
        &[],
        |lab| {
            for path in ["/etc/passwd", "/proc/self/ns/mnt", "/run", "/dev/null"] {
                let refused = lab.cni("ADD", "c1", path, &conf(json!({})));
                assert!(
                    !refused.ok && refused.json["msg"].as_str().unwrap().len() > 20,
                    "{path}: {refused:?}"
                );
                lab.assert_clean();
            }
        },
    );
}

#[test]
fn mtu_offloads_names_and_addresses_of_the_link() {
    lab::run("mtu_offloads_names_and_addresses_of_the_link", &[], |lab| {
        let netns = lab.netns("p1");
        let mut seen = Vec::new();
        for (mtu, want) in [
            (Value::Null, "1500"),
            (json!(9000), "9000"),
            (json!(1280), "1280"),
        ] {
            let conf = conf(json!({ "mtu": mtu }));
            let result = lab.add("c1", &netns, &conf);
            let (host, pod) = (result["interfaces"][0].clone(), result["interfaces"][1].clone());
            let name = host["name"].as_str().unwrap();
            for line in [
                sh(&format!("ip -d -o link show {name}")),
                sh("ip -n p1 -d -o link show eth0"),
            ] {
                assert!(line.contains(&format!("mtu {want} ")), "{line}");
                // Segmentation offload is on: packets larger than the MTU may cross the pair.
                assert!(line.contains("gso_max_size 65536"), "{line}");
            }
            assert!(sh("ip -n p1 -o link show eth0").contains(pod["mac"].as_str().unwrap()));
            assert!(
                sh(&format!(
                    "cat /sys/class/net/{name}/ifalias 2>/dev/null || ip link show {name}"
                ))
                .contains("podroute:pods:c1:eth0")
            );
            seen.push((host["name"].clone(), host["mac"].clone(), pod["mac"].clone()));
            lab.del("c1", &netns, &conf);
        }
        seen.dedup();
        assert_eq!(
            seen.len(),
            1,
            "the same pod has the same names and addresses: {seen:?}"
        );
        assert_eq!(
            lab.cni("ADD", "c1", &netns, &conf(json!({ "mtu": 1000 }))).code(),
            7
        );
        lab.assert_clean();
    });
}

#[test]
fn an_add_after_a_killed_one_undoes_it_first() {
    lab::run("an_add_after_a_killed_one_undoes_it_first", &[], |lab| {
        let netns = lab.netns("p1");
        // Killed at the end, after the addresses, and at the very beginning.
        for harm in [
            "sed -i /^done/d",
            "ip link del $(ip -o link | grep -o 'pod[a-z0-9]*' | head -1); sed -i /^done/d",
            "truncate -s0",
        ] {
            lab.add("c1", &netns, &conf(json!({})));
            sh(&format!("{harm} /run/podroute/ipam/*/pod/c1@eth0"));
            let result = lab.add("c1", &netns, &conf(json!({})));
            assert_eq!(lab.claims().len(), 2, "{harm}");
            assert_wired("p1", &result);
            lab.del("c1", &netns, &conf(json!({})));
            lab.assert_clean();
        }
    });
}

/// Sends the moment that the kernel's part of ADD returns, with no process's end between; a socket inside
/// the pod waits since before.
#[test]
fn the_very_first_packet_arrives() {
    lab::run("the_very_first_packet_arrives", &[], |lab| {
        let netns = lab.netns("p1");
        let (any, port) = ("[::]", 7000);
        // Neighbor discovery would ask again after a second: that is too late here.
        let inside = std::thread::spawn({
            let path = netns.clone();
            move || {
                let file = std::fs::File::open(path).unwrap();
                nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                let socket = std::net::UdpSocket::bind(format!("{any}:{port}")).unwrap();
                socket
                    .set_read_timeout(Some(std::time::Duration::from_millis(400)))
                    .unwrap();
                socket
            }
        });
        let inside = inside.join().unwrap();
        let outside = std::net::UdpSocket::bind("[::]:0").unwrap();
        let owner = cni_ipam::Owner {
            container: "c1".into(),
            ifname: "eth0".into(),
        };
        let pods: [std::net::IpAddr; 2] =
            ["10.244.1.2".parse().unwrap(), "fd00:10:244:1::2".parse().unwrap()];
        let mut lost = Vec::new();
        for round in 0..30_u8 {
            let address = pods[usize::from(round % 2)];
            cni_ipam::floor::add(&netns, &owner, &pods, &[]).unwrap();
            let mapped = match address {
                std::net::IpAddr::V4(a) => a.to_ipv6_mapped(),
                std::net::IpAddr::V6(a) => a,
            };
            outside.send_to(&[round], (mapped, port)).unwrap();
            let mut got = [0; 1];
            if inside.recv_from(&mut got).is_err() {
                lost.push(address);
            }
            cni_ipam::floor::del(&owner).unwrap();
        }
        assert!(lost.is_empty(), "{} of 30 lost: {lost:?}", lost.len());
    });
}
