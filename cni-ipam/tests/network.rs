//! What an operator asks of the network beyond one plain pod: several interfaces, static addresses,
//! other IPAMs, egress, hairpin, garbage collection, reboot, changed blocks, and mending.

#![cfg(test)]

mod lab;

use std::path::Path;

use lab::{Lab, NODE_V4, addresses, ask, conf, sh, try_sh};
use serde_json::{Value, json};

fn pings(from: Option<&str>, target: &str) -> bool {
    let inside = from.map(|n| format!("ip netns exec {n} ")).unwrap_or_default();
    try_sh(&format!("{inside}ping -q -c1 -W2 {target}"))
        .status
        .success()
}

fn first(result: &Value) -> String {
    addresses(result)[0].to_string()
}

#[test]
fn static_addresses_of_three_kinds() {
    lab::run("static_addresses_of_three_kinds", &[], |lab| {
        let kinds = [
            (
                "10.244.1.50",
                json!({ "runtimeConfig": { "ips": ["10.244.1.50/24"] } }),
                "",
            ),
            (
                "10.244.1.51",
                json!({ "args": { "cni": { "ips": ["10.244.1.51"] } } }),
                "",
            ),
            ("10.244.1.52", json!({}), "IgnoreUnknown=1;IP=10.244.1.52"),
        ];
        for (want, extra, args) in kinds {
            let netns = lab.netns(&format!("p{}", &want[9..]));
            let mut command = lab.command("ADD", want, &netns, "podroute-cni");
            command.env("CNI_ARGS", args);
            let result = ask(command, &conf(extra.clone()).to_string()).unwrap();
            assert_eq!(first(&result), want);
            assert_eq!(addresses(&result).len(), 2, "the other family is chosen");
            let mut command = lab.command("ADD", &format!("{want}-again"), &netns, "podroute-cni");
            command.env("CNI_ARGS", args);
            let taken = ask(command, &conf(extra).to_string());
            assert_eq!(taken.code(), 101);
            assert!(
                taken.json["msg"].as_str().unwrap().contains(want),
                "names address and holder: {taken:?}"
            );
        }
        let outside = conf(json!({ "args": { "cni": { "ips": ["10.244.2.1"] } } }));
        assert_eq!(lab.cni("ADD", "out", "/run/netns/p50", &outside).code(), 102);
        assert_eq!(lab.claims().len(), 6);
    });
}

#[test]
fn two_interfaces_in_one_pod() {
    lab::run("two_interfaces_in_one_pod", &[], |lab| {
        let netns = lab.netns("p1");
        let eth0 = lab.add("c1", &netns, &conf(json!({})));
        let second = |verb: &str| {
            let mut command = lab.command(verb, "c1", &netns, "podroute-cni");
            command.env("CNI_IFNAME", "net1");
            ask(command, &conf(json!({ "name": "second" })).to_string())
        };
        let net1 = second("ADD").unwrap();
        assert_eq!(net1.get("routes"), None, "eth0 keeps the default routes: {net1}");
        for address in addresses(&eth0).iter().chain(&addresses(&net1)) {
            assert!(pings(None, &address.to_string()), "{address}");
        }
        assert!(sh("ip -n p1 route").contains("default via 169.254.1.1 dev eth0"));
        lab.del("c1", &netns, &conf(json!({})));
        assert_eq!(lab.claims().len(), 2, "net1's stay");
        assert!(second("DEL").ok);
        lab.assert_clean();
    });
}

#[test]
fn another_ipam_plugin() {
    lab::run(
        "another_ipam_under_ours",
        &["/usr/lib/cni/host-local", "/usr/lib/cni/static"],
        |lab| {
            let state = "/run/host-local";
            let host_local = json!({ "type": "host-local", "dataDir": state,
            "ranges": [[{ "subnet": "10.9.0.0/29" }]] });
            let fixed = json!({ "type": "static", "addresses": [{ "address": "10.9.1.7/24" }] });
            std::fs::remove_file(lab.run_dir.join("node.json")).unwrap();
            for (pod, ipam) in [("hl", host_local.clone()), ("st", fixed)] {
                let mut conf = conf(json!({ "cniVersion": "1.0.0", "ipam": ipam }));
                let netns = lab.netns(pod);
                let result = lab.add(pod, &netns, &conf);
                assert!(
                    pings(None, &first(&result)) && pings(Some(pod), NODE_V4),
                    "{result}"
                );
                conf["prevResult"] = result;
                lab.cni("CHECK", pod, &netns, &conf).unwrap();
                lab.del(pod, &netns, &conf);
                lab.del(pod, "", &conf);
                lab.assert_clean();
            }
            // A failure after the delegate's ADD gives its address back: the block has five.
            let netns = lab.netns("full");
            sh("ip -n full link add eth0 type veth peer name other");
            let broken = conf(json!({ "cniVersion": "1.0.0", "ipam": host_local }));
            for i in 0..8 {
                assert_eq!(
                    lab.cni("ADD", &format!("f{i}"), &netns, &broken).code(),
                    105,
                    "not 'full'"
                );
            }
            assert_eq!(
                sh(&format!("ls {state}/pods | grep -c '^10' || true")).trim(),
                "0"
            );
            let missing = conf(json!({ "ipam": { "type": "no-such-ipam" } }));
            assert_eq!(lab.cni("ADD", "m", &netns, &missing).code(), 106);
            lab.assert_clean();
        },
    );
}

/// A router beyond the uplink, in a namespace of its own.
fn outside(lab: &Lab) {
    lab.netns("out");
    sh("ip link set up1 netns out && ip -n out link set up1 up && ip -n out addr add 192.0.2.1/24 dev up1");
    sh("ip -n out addr add 198.51.100.1/32 dev lo && ip -n out addr add 2001:db8:a::1/64 dev up1 nodad");
    sh("ip route add default via 192.0.2.1 && ip link set up0 down && ip link set up0 up");
    sh("ip addr add 2001:db8:a::11/64 dev up0 nodad 2>/dev/null; ip route replace default via 192.0.2.1");
    sh(
        "ip -n out route add 10.244.1.0/24 via 192.0.2.11 && ip -n out route add fd00:10:244:1::/64 via 2001:db8:a::11",
    );
}

/// The source that a TCP server in `server` sees of a connection from `client`.
fn source_seen(client: &str, server: &str, target: &str, port: u16) -> String {
    let family = if target.contains(':') { "6" } else { "4" };
    let bracketed = if family == "6" {
        format!("[{target}]")
    } else {
        target.to_owned()
    };
    let out = sh(&format!(
        "ip netns exec {server} timeout 5 socat -T2 TCP{family}-LISTEN:{port},reuseaddr \
           SYSTEM:'echo $SOCAT_PEERADDR' & \
         until ip netns exec {server} ss -Hltn 'sport = {port}' | grep -q .; do :; done; \
         ip netns exec {client} timeout 5 socat -T2 - TCP{family}:{bracketed}:{port} </dev/null; wait"
    ));
    out.trim().trim_matches(['[', ']']).to_owned()
}

#[test]
fn masquerade_only_for_what_leaves_the_pod_network() {
    lab::run(
        "masquerade_only_for_what_leaves_the_pod_network",
        &["/usr/bin/socat", "/usr/sbin/nft"],
        |lab| {
            outside(lab);
            let plain = lab.add("plain", &lab.netns("plain"), &conf(json!({ "name": "routable" })));
            let masked = conf(json!({ "masquerade": { "enabled": true, "exempt": ["198.51.100.0/24"] } }));
            let netns = lab.netns("masked");
            let result = lab.add("masked", &netns, &masked);
            let ours = first(&result);
            assert_eq!(
                source_seen("plain", "out", "192.0.2.1", 4001),
                first(&plain),
                "off by default"
            );
            assert_eq!(
                source_seen("masked", "out", "192.0.2.1", 4002),
                NODE_V4,
                "masqueraded"
            );
            assert_eq!(
                source_seen("masked", "out", "198.51.100.1", 4003),
                ours,
                "an exempt prefix"
            );
            assert_eq!(
                source_seen("masked", "plain", &first(&plain), 4004),
                ours,
                "pod to pod"
            );
            let six = source_seen("masked", "out", "2001:db8:a::1", 4005);
            assert!(
                six.replace("0000", "0").contains("2001:0db8:000a") || six.contains("2001:db8:a::11"),
                "{six}"
            );
            sh("nft add table inet other && nft add chain inet other c");
            lab.del("masked", &netns, &masked);
            let rules = sh("nft list ruleset");
            assert!(!rules.contains(&ours), "taken out: {rules}");
            assert!(rules.contains("table inet other"), "others' tables stay: {rules}");
            lab.del("plain", "", &conf(json!({ "name": "routable" })));
            lab.assert_clean();
        },
    );
}

#[test]
fn behind_another_main_plugin() {
    let needs = ["/usr/lib/cni/ptp", "/usr/lib/cni/host-local", "/usr/sbin/nft"];
    lab::run("behind_another_main_plugin", &needs, |lab| {
        let list = json!({ "cniVersion": "1.0.0", "name": "mixed", "plugins": [
            { "type": "ptp", "ipam": { "type": "host-local", "dataDir": "/run/hl", "subnet": "10.9.0.0/24" } },
            { "type": "podroute-cni", "mark": 4660, "routes": [{ "dst": "198.18.0.0/15" }] },
        ]});
        let netns = lab.netns("p1");
        let result = lab.list("ADD", "c1", &netns, &list, None).unwrap();
        assert_eq!(
            result["routes"],
            json!([{ "dst": "198.18.0.0/15", "gw": "10.9.0.1" }])
        );
        assert_eq!(
            result["interfaces"].as_array().unwrap().len(),
            2,
            "passed through: {result}"
        );
        assert!(sh("ip -n p1 route").contains("198.18.0.0/15 via 10.9.0.1"));
        let check = lab.list("CHECK", "c1", &netns, &list, Some(&result));
        assert!(check.ok, "{check:?}");
        // The mark is on the pod's packets: a rule that counts it sees them.
        sh(
            "nft 'add table ip t; add chain ip t c { type filter hook input priority 0; }; \
            add rule ip t c meta mark 0x1234 counter'",
        );
        assert!(pings(Some("p1"), "10.9.0.1"));
        assert!(
            sh("nft list table ip t").contains("packets 1 "),
            "{}",
            sh("nft list ruleset")
        );
        sh("ip -n p1 route del 198.18.0.0/15");
        // Asked directly: in the list ptp would be the first to say so.
        let mut ours = list["plugins"][1].clone();
        ours["cniVersion"] = json!("1.0.0");
        ours["name"] = json!("mixed");
        ours["prevResult"] = result.clone();
        assert_eq!(lab.cni("CHECK", "c1", &netns, &ours).code(), 104);
        let del = lab.list("DEL", "c1", &netns, &list, Some(&result));
        assert!(del.ok, "{del:?}");
        let rules = sh("nft list table inet podroute-cni");
        assert!(!rules.contains(&first(&result)), "{rules}");
        assert!(
            lab.list("DEL", "c1", "", &list, None).ok,
            "again, without a result"
        );
        lab.assert_clean();
    });
}

#[test]
fn a_pod_reaches_itself_through_a_service() {
    lab::run(
        "a_pod_reaches_itself_through_a_service",
        &["/usr/bin/socat", "/usr/sbin/nft"],
        |lab| {
            let result = lab.add("c1", &lab.netns("p1"), &conf(json!({})));
            let pod = first(&result);
            let six = addresses(&result)[1].to_string();
            // As kube-proxy does in its nftables mode: service address to pod, hairpin masqueraded.
            sh(&format!(
                "nft 'add table inet kp; \
             add chain inet kp pre {{ type nat hook prerouting priority -100; }}; \
             add chain inet kp post {{ type nat hook postrouting priority 100; }}; \
             add rule inet kp pre ip daddr 10.96.0.10 tcp dport 80 dnat ip to {pod}:4080; \
             add rule inet kp pre ip6 daddr fd00:96::10 tcp dport 80 dnat ip6 to [{six}]:4080; \
             add rule inet kp post ip saddr {pod} ip daddr {pod} masquerade; \
             add rule inet kp post ip6 saddr {six} ip6 daddr {six} masquerade'"
            ));
            for target in ["10.96.0.10", "[fd00:96::10]"] {
                let family = if target.contains(':') { 6 } else { 4 };
                let out = sh(&format!(
                    "ip netns exec p1 timeout 5 socat -T2 TCP{family}-LISTEN:4080,reuseaddr SYSTEM:'echo $SOCAT_PEERADDR' & \
                 until ip netns exec p1 ss -Hltn 'sport = 4080' | grep -q .; do :; done; \
                 ip netns exec p1 timeout 5 socat -T2 - TCP{family}:{target}:80 </dev/null; wait"
                ));
                assert!(!out.trim().is_empty(), "no answer through {target}");
                assert!(
                    !out.contains("169.254"),
                    "the source is the node's address, not the gateway's: {out}"
                );
            }
        },
    );
}

#[test]
fn the_first_packet_arrives() {
    lab::run("the_first_packet_arrives", &[], |lab| {
        for i in 0..40 {
            let (pod, netns) = (format!("p{i}"), lab.netns(&format!("p{i}")));
            let result = lab.add(&pod, &netns, &conf(json!({})));
            let [v4, v6] = addresses(&result)[..] else {
                panic!("{result}")
            };
            let from_node = if i % 2 == 0 { v4 } else { v6 };
            assert!(pings(None, &from_node.to_string()), "node to {pod}");
            assert!(
                pings(Some(&pod), if i % 2 == 0 { lab::NODE_V6 } else { NODE_V4 }),
                "{pod} to node"
            );
        }
    });
}

#[test]
fn gc_releases_all_that_is_not_valid() {
    lab::run("gc_releases_all_that_is_not_valid", &[], |lab| {
        let masked = conf(json!({ "masquerade": { "enabled": true } }));
        for i in 0..6 {
            lab.add(&format!("c{i}"), &lab.netns(&format!("p{i}")), &masked);
        }
        let other = conf(json!({ "name": "other" }));
        let foreign = lab.netns("foreign");
        lab.add("foreign", &foreign, &other);
        // Without a list nothing is said, so nothing is done.
        lab.cni("GC", "", "", &masked).unwrap();
        assert_eq!(lab.claims().len(), 14);
        let mut gc = masked.clone();
        gc["cni.dev/valid-attachments"] = json!([
            { "containerID": "c1", "ifname": "eth0" },
            { "containerID": "c4", "ifname": "eth0" },
            { "containerID": "c5", "ifname": "net9" },
        ]);
        // A namespace that is gone and one that is there; state lost for one interface.
        sh("ip netns del p0 && rm /run/podroute/ipam/*/pod/c2@eth0");
        lab.cni("GC", "", "", &gc).unwrap();
        assert_eq!(lab.claims().len(), 6, "c1, c4 and the other network's");
        assert_eq!(sh("ip -o link | grep -c 'podroute:pods:'").trim(), "2");
        for pod in ["p1", "p4", "foreign"] {
            assert!(pings(Some(pod), NODE_V4), "{pod} lives");
        }
        let table = sh("nft list table inet podroute-cni");
        let set = sh("nft list table inet podroute-cni | grep -o '10[.]244[.]1[.][0-9]*' | sort -u | wc -l");
        assert_eq!(set.trim(), "2", "the table has c1's and c4's address: {table}");
        gc["cni.dev/valid-attachments"] = json!([]);
        lab.cni("GC", "", "", &gc).unwrap();
        lab.del("foreign", &foreign, &other);
        lab.assert_clean();
    });
}

#[test]
fn a_reboot_frees_all_and_keeps_none() {
    lab::run("a_reboot_frees_all_and_keeps_none", &[], |lab| {
        let persistent = conf(json!({ "ipam": { "type": "podroute-ipam", "stateDir": "/run/disk/ipam" } }));
        lab.node(&["10.244.1.0/29"]);
        for i in 0..5 {
            lab.add(&format!("c{i}"), &lab.netns(&format!("p{i}")), &persistent);
        }
        let netns = lab.netns("late");
        assert_eq!(lab.cni("ADD", "late", &netns, &persistent).code(), 11);
        // The machine comes up again: another boot id, no namespaces, the directory as it was.
        sh("for n in $(ip netns list | cut -d' ' -f1); do ip netns del $n; done");
        sh(
            "echo 11111111-2222-3333-4444-555555555555 >/run/boot && mount --bind /run/boot /proc/sys/kernel/random/boot_id",
        );
        sh("until [ -z \"$(ip -o link | grep ': pod')\" ]; do :; done");
        for i in 0..5 {
            lab.add(&format!("n{i}"), &lab.netns(&format!("q{i}")), &persistent);
        }
        assert_eq!(
            sh("ls /run/disk/ipam").trim(),
            "11111111-2222-3333-4444-555555555555"
        );
        // And a whole /run that is gone.
        sh("rm -rf /run/disk");
        lab.cni("STATUS", "", "", &persistent).unwrap();
        lab.del("n0", "", &persistent);
    });
}

#[test]
fn a_changed_pod_cidr_is_explained() {
    lab::run("a_changed_pod_cidr_is_explained", &[], |lab| {
        lab.add("c1", &lab.netns("p1"), &conf(json!({})));
        lab.node(&["10.244.9.0/24", "fd00:10:244:9::/64"]);
        let netns = lab.netns("p2");
        let refused = lab.cni("ADD", "c2", &netns, &conf(json!({})));
        assert_eq!(refused.code(), 103);
        let message = refused.json["msg"].as_str().unwrap();
        assert!(
            message.contains("10.244.1.") || message.contains("fd00:10:244:1:"),
            "{message}"
        );
        assert_eq!(lab.cni("STATUS", "", "", &conf(json!({}))).code(), 51);
        assert!(pings(Some("p1"), NODE_V4), "the living pod lives on");
        lab.del("c1", "", &conf(json!({})));
        assert!(first(&lab.add("c2", &netns, &conf(json!({})))).starts_with("10.244.9."));
    });
}

#[test]
fn check_and_fix_mend_what_they_find() {
    lab::run("check_and_fix_mend_what_they_find", &[], |lab| {
        let state = lab.run_dir.join("ipam");
        let check = |fix| cni_ipam::check(&state, fix).unwrap();
        assert_eq!(check(false), vec![], "no state yet");
        for i in 0..6 {
            lab.add(&format!("c{i}"), &lab.netns(&format!("p{i}")), &conf(json!({})));
        }
        assert_eq!(check(false), vec![], "all well");
        let shown = cni_ipam::attachments(&state).unwrap();
        assert_eq!(shown.len(), 6);
        assert!(
            shown
                .iter()
                .all(|a| a.netns_status == cni_ipam::NetnsStatus::Alive
                    && a.complete
                    && a.created > 1_000_000_000),
            "{shown:?}"
        );
        // A dead pod: the kernel takes its interface away a moment later.
        sh("ip netns del p0; until [ \"$(ip -o link | grep -c podroute:pods:c0:)\" = 0 ]; do :; done");
        sh("cd /run/podroute/ipam/* && rm pod/c1@eth0"); // stray interface, two ownerless claims
        sh("cd /run/podroute/ipam/* && rm addr/10.244.1.4"); // c2's claim
        sh("cd /run/podroute/ipam/* && sed -i '/^done/d' pod/c3@eth0"); // unfinished
        sh("ip link del $(ip -o link | grep podroute:pods:c4: | grep -o 'pod[a-z0-9]*' | head -1)"); // lost
        let found = check(false);
        let words: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 7, "{words:#?}");
        assert_eq!(check(true), found, "fix reports the same");
        let rest: Vec<String> = check(false).iter().map(ToString::to_string).collect();
        assert_eq!(rest.len(), 1, "only the living pod's lost interface: {rest:?}");
        assert!(
            rest[0].contains("c4") && rest[0].contains("delete the pod"),
            "{rest:?}"
        );
        assert_eq!(lab.claims().len(), 6, "c2, c4, c5");
        let elsewhere = cni_ipam::check(Path::new("/run/other"), true).unwrap_err();
        assert!(elsewhere.to_string().contains("--state-dir"), "{elsewhere}");
        let removed = cni_ipam::cleanup(&state).unwrap();
        assert_eq!(
            (removed.interfaces, removed.addresses, removed.attachments),
            (2, 6, 3),
            "c2 and c5; c4 too had addresses"
        );
        lab.assert_clean();
        assert!(Path::new("/run/podroute/node.json").exists());
    });
}

/// What a container sees that has not mounted /run/netns, or mounted it without propagation.
#[test]
fn living_pods_that_cannot_be_seen_are_left_alone() {
    lab::run("living_pods_that_cannot_be_seen_are_left_alone", &[], |lab| {
        let state = lab.run_dir.join("ipam");
        let netns = lab.netns("p1");
        lab.add("c1", &netns, &conf(json!({})));
        // Of this one there is no interface that would prove that its pod lives.
        let delegated = conf(json!({ "type": "podroute-ipam", "name": "delegated" }));
        lab.add("c2", &netns, &delegated);
        for hide in ["rm -r", "touch"] {
            // Over the directory of namespaces lies one without it, or one where a namespace is an empty file.
            sh("mount -t tmpfs hidden /run/netns");
            let records = "/run/podroute/ipam/*/pod/*";
            match hide {
                "touch" => sh(&format!("touch {netns}")),
                _ => sh(&format!("sed -i 's|/run/netns/|/run/netns/none/|' {records}")),
            };
            let found = cni_ipam::check(&state, true).unwrap();
            let words: Vec<String> = found.iter().map(ToString::to_string).collect();
            assert!(
                words.len() == 1 && words[0].contains("c2 eth0") && words[0].contains("cannot be seen"),
                "{words:?}"
            );
            let lives: Vec<cni_ipam::NetnsStatus> = cni_ipam::attachments(&state)
                .unwrap()
                .iter()
                .map(|a| a.netns_status)
                .collect();
            assert_eq!(
                lives,
                [cni_ipam::NetnsStatus::Alive, cni_ipam::NetnsStatus::Unknown]
            );
            sh("umount /run/netns");
            sh(&format!("sed -i 's|/run/netns/none/|/run/netns/|' {records}"));
            assert_eq!(cni_ipam::check(&state, true).unwrap(), vec![], "all is as it was");
        }
        assert!(pings(Some("p1"), NODE_V4));
    });
}

#[test]
fn a_pod_reaches_itself_through_a_service_of_iptables() {
    let needs = ["/usr/bin/socat", "/usr/sbin/iptables"];
    lab::run(
        "a_pod_reaches_itself_through_a_service_of_iptables",
        &needs,
        |lab| {
            let pod = first(&lab.add("c1", &lab.netns("p1"), &conf(json!({ "families": ["ipv4"] }))));
            let other = first(&lab.add("c2", &lab.netns("p2"), &conf(json!({ "families": ["ipv4"] }))));
            // The chains that kube-proxy writes in its iptables mode, for one service with one endpoint.
            for rule in [
                "-N KUBE-SERVICES",
                "-N KUBE-SVC-A",
                "-N KUBE-SEP-A",
                "-N KUBE-MARK-MASQ",
                "-N KUBE-POSTROUTING",
                "-A PREROUTING -j KUBE-SERVICES",
                "-A OUTPUT -j KUBE-SERVICES",
                "-A POSTROUTING -j KUBE-POSTROUTING",
                "-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j KUBE-SVC-A",
                "-A KUBE-SVC-A -j KUBE-SEP-A",
                &format!("-A KUBE-SEP-A -s {pod}/32 -j KUBE-MARK-MASQ"),
                &format!("-A KUBE-SEP-A -p tcp -j DNAT --to-destination {pod}:4080"),
                "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
                "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
                "-A KUBE-POSTROUTING -j MASQUERADE",
            ] {
                sh(&format!("iptables -w -t nat {rule}"));
            }
            for (client, source) in [("p1", NODE_V4), ("p2", other.as_str())] {
                let out = sh(&format!(
                    "ip netns exec p1 timeout 5 socat -T2 TCP4-LISTEN:4080,reuseaddr SYSTEM:'echo $SOCAT_PEERADDR' & \
                 until ip netns exec p1 ss -Hltn 'sport = 4080' | grep -q .; do :; done; \
                 ip netns exec {client} timeout 5 socat -T2 - TCP4:10.96.0.10:80 </dev/null; wait"
                ));
                assert_eq!(out.trim(), source, "seen from {client}");
            }
        },
    );
}

#[test]
fn our_ipam_and_our_main_plugin_in_one_list() {
    lab::run(
        "our_ipam_and_our_main_plugin_in_one_list",
        &["/usr/lib/cni/ptp"],
        |lab| {
            let list = json!({ "cniVersion": "1.0.0", "name": "mixed", "plugins": [
                { "type": "ptp", "ipam": { "type": "podroute-ipam", "families": ["ipv4"] } },
                { "type": "podroute-cni", "routes": [{ "dst": "198.18.0.0/15" }] },
            ]});
            let netns = lab.netns("p1");
            let result = lab.list("ADD", "c1", &netns, &list, None).unwrap();
            let mut ours = list["plugins"][1].clone();
            ours["cniVersion"] = json!("1.0.0");
            ours["name"] = json!("mixed");
            ours["prevResult"] = result.clone();
            lab.del("c1", &netns, &ours);
            assert_eq!(lab.claims().len(), 1, "the address is ptp's until ptp's own DEL");
            assert!(lab.list("DEL", "c1", &netns, &list, Some(&result)).ok);
            lab.assert_clean();
        },
    );
}

#[test]
fn a_mark_that_was_left_behind_is_replaced() {
    lab::run(
        "a_mark_that_was_left_behind_is_replaced",
        &["/usr/sbin/nft"],
        |lab| {
            let marked = conf(json!({ "mark": 7, "families": ["ipv4"] }));
            let netns = lab.netns("p1");
            lab.add("c1", &netns, &marked);
            lab.del("c1", &netns, &marked);
            sh("nft 'add element inet podroute-cni marks4 { 10.244.1.3 : 9 }'");
            assert_eq!(first(&lab.add("c2", &netns, &marked)), "10.244.1.3");
            let map = sh("nft list map inet podroute-cni marks4");
            assert!(map.contains("10.244.1.3 : 0x00000007"), "{map}");
            // What has no mark any more is not marked: the table is taken away whole.
            cni_ipam::cleanup(&lab.run_dir.join("ipam")).unwrap();
            assert_eq!(sh("nft list tables").trim(), "");
        },
    );
}
