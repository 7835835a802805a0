//! `podroute-cni` first, Debian's plugins behind it, each seen at work: the port from another machine,
//! the bandwidth on the wire, the sysctl and address in the pod, the firewall's and sbr's rules.

#![cfg(test)]

mod lab;

use std::time::Instant;

use lab::{Lab, addresses, sh, try_sh};
use serde_json::{Value, json};

fn list(version: &str, behind: Value) -> Value {
    let mut plugins = vec![json!({ "type": "podroute-cni" })];
    plugins.extend(behind.as_array().unwrap().clone());
    json!({ "cniVersion": version, "name": "chained", "plugins": plugins })
}

/// Adds, lets `look` look, checks, deletes twice, and asserts that nothing is left.
fn whole_life(lab: &Lab, pod: &str, list: &Value, look: impl FnOnce(&Value)) {
    let netns = lab.netns(pod);
    let result = lab.list("ADD", pod, &netns, list, None).unwrap();
    look(&result);
    // portmap 1.1.1 fails its own CHECK ("could not check ipv6 dnat"), behind ptp as well.
    let mut checked = list.clone();
    checked["plugins"]
        .as_array_mut()
        .unwrap()
        .retain(|p| p["type"] != "portmap");
    let check = lab.list("CHECK", pod, &netns, &checked, Some(&result));
    assert!(check.ok, "{check:?}");
    for _ in 0..2 {
        let del = lab.list("DEL", pod, &netns, list, Some(&result));
        assert!(del.ok, "{del:?}");
    }
    lab.assert_clean();
}

#[test]
fn portmap_reached_from_another_machine() {
    let needs = ["/usr/lib/cni/portmap", "/usr/sbin/iptables", "/usr/bin/socat"];
    lab::run("portmap_reached_from_another_machine", &needs, |lab| {
        lab.netns("far");
        sh(
            "ip link set up1 netns far && ip -n far link set up1 up && ip -n far addr add 192.0.2.1/24 dev up1",
        );
        let ports = json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] });
        let list = list(
            "1.0.0",
            json!([{ "type": "portmap", "capabilities": { "portMappings": true },
            "snat": true, "runtimeConfig": ports }]),
        );
        sh("ip -n far addr add 2001:db8:a::1/64 dev up1 nodad");
        sh(
            "ip addr replace 2001:db8:a::11/64 dev up0 nodad; echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet",
        );
        whole_life(lab, "p1", &list, |_| {
            for (family, node) in [(4, "192.0.2.11"), (6, "[2001:db8:a::11]")] {
                let said = sh(&format!(
                    "ip netns exec p1 timeout 5 socat -T2 TCP{family}-LISTEN:80,reuseaddr SYSTEM:'echo pod says hello' & \
                     until ip netns exec p1 ss -Hltn 'sport = 80' | grep -q .; do :; done; \
                     ip netns exec far timeout 5 socat -T2 - TCP{family}:{node}:8080 </dev/null; wait",
                ));
                assert_eq!(said.trim(), "pod says hello", "over {node}");
            }
        });
        assert!(!sh("iptables-save -t nat").contains("8080"));
    });
}

#[test]
fn bandwidth_is_what_was_asked() {
    let needs = ["/usr/lib/cni/bandwidth", "/usr/bin/socat"];
    lab::run("bandwidth_is_what_was_asked", &needs, |lab| {
        let limit: u64 = 16_000_000;
        let list = list(
            "1.0.0",
            json!([{ "type": "bandwidth", "capabilities": { "bandwidth": true },
            "runtimeConfig": { "bandwidth": { "ingressRate": limit, "ingressBurst": 800_000,
                "egressRate": limit, "egressBurst": 800_000 } } }]),
        );
        let netns = lab.netns("p1");
        let answer = lab.list("ADD", "p1", &netns, &list, None);
        if !answer.ok
            && answer.json["msg"]
                .as_str()
                .is_some_and(|m| m.contains("not supported"))
        {
            println!(
                "LEFT OUT: bandwidth: this kernel lacks the plugin's queueing: {}",
                answer.json["msg"]
            );
            return;
        }
        let result = answer.unwrap();
        let pod = addresses(&result)[0];
        let bytes: u64 = 3_000_000;
        let measure = |line: String| {
            let started = Instant::now();
            sh(&line);
            bytes as f64 * 8.0 / started.elapsed().as_secs_f64()
        };
        let into_pod = measure(format!(
            "ip netns exec p1 timeout 20 socat -u TCP4-LISTEN:5001,reuseaddr OPEN:/dev/null & \
             until ip netns exec p1 ss -Hltn 'sport = 5001' | grep -q .; do :; done; \
             head -c {bytes} /dev/zero | timeout 20 socat -u - TCP4:{pod}:5001; wait"
        ));
        let limit = limit as f64;
        assert!(
            into_pod < limit * 1.5 && into_pod > limit * 0.3,
            "{into_pod} bit/s of {limit}"
        );
        assert!(lab.list("DEL", "p1", &netns, &list, Some(&result)).ok);
        lab.assert_clean();
        assert!(
            !sh("ip -o link").contains("bwp"),
            "bandwidth's own interface is gone"
        );
    });
}

#[test]
fn tuning_changes_sysctl_and_hardware_address() {
    lab::run(
        "tuning_changes_sysctl_and_hardware_address",
        &["/usr/lib/cni/tuning"],
        |lab| {
            let list = list(
                "1.0.0",
                json!([{ "type": "tuning", "mac": "02:11:22:33:44:55", "mtu": 1400,
            "sysctl": { "net.ipv4.conf.eth0.arp_filter": "1" } }]),
            );
            whole_life(lab, "p1", &list, |result| {
                assert_eq!(
                    sh("ip netns exec p1 cat /proc/sys/net/ipv4/conf/eth0/arp_filter").trim(),
                    "1"
                );
                let link = sh("ip -n p1 -o link show eth0");
                assert!(
                    link.contains("02:11:22:33:44:55") && link.contains("mtu 1400"),
                    "{link}"
                );
                for address in addresses(result) {
                    let first = try_sh(&format!("ping -q -c1 -W2 {address}"));
                    assert!(first.status.success(), "no stale neighbor on the host: {address}");
                }
            });
        },
    );
}

#[test]
fn firewall_lets_the_pod_through() {
    let needs = ["/usr/lib/cni/firewall", "/usr/sbin/iptables"];
    lab::run("firewall_lets_the_pod_through", &needs, |lab| {
        sh("iptables -P FORWARD DROP && ip6tables -P FORWARD DROP");
        let list = list("1.0.0", json!([{ "type": "firewall", "backend": "iptables" }]));
        let plain = json!({ "cniVersion": "1.0.0", "name": "plain", "type": "podroute-cni" });
        let outsider = lab.add("outsider", &lab.netns("outsider"), &plain);
        let netns = lab.netns("p1");
        let result = lab.list("ADD", "p1", &netns, &list, None).unwrap();
        let pod = addresses(&result)[0].to_string();
        assert!(sh("iptables-save").contains(&pod));
        let from = |pod: &str, to: &Value| {
            let target = addresses(to)[0];
            try_sh(&format!("ip netns exec {pod} ping -q -c1 -W1 {target}"))
                .status
                .success()
        };
        assert!(
            from("p1", &outsider),
            "the firewall plugin opened the pod's own connections"
        );
        assert!(lab.list("DEL", "p1", &netns, &list, Some(&result)).ok);
        assert!(!sh("iptables-save").contains(&pod));
        lab.del("outsider", "", &plain);
        lab.assert_clean();
    });
}

#[test]
fn sbr_answers_on_the_interface_asked() {
    lab::run(
        "sbr_answers_on_the_interface_asked",
        &["/usr/lib/cni/sbr"],
        |lab| {
            let list = list("1.0.0", json!([{ "type": "sbr" }]));
            let netns = lab.netns("p1");
            let result = lab.list("ADD", "p1", &netns, &list, None).unwrap();
            let rules = sh("ip -n p1 rule; ip -n p1 -6 rule");
            for address in addresses(&result) {
                assert!(rules.contains(&format!("from {address}")), "{rules}");
                assert!(
                    try_sh(&format!("ping -q -c1 -W2 {address}")).status.success(),
                    "{address}"
                );
            }
            // Once only: sbr 1.1.1 refuses a second DEL while the namespace lives, behind ptp as well.
            let del = lab.list("DEL", "p1", &netns, &list, Some(&result));
            assert!(del.ok, "{del:?}");
            lab.assert_clean();
        },
    );
}

#[test]
fn all_of_them_in_one_list() {
    let needs = [
        "/usr/lib/cni/portmap",
        "/usr/lib/cni/firewall",
        "/usr/lib/cni/tuning",
        "/usr/sbin/iptables",
    ];
    lab::run("all_of_them_in_one_list", &needs, |lab| {
        let ports = json!({ "portMappings": [{ "hostPort": 8081, "containerPort": 81, "protocol": "udp" }] });
        for version in ["0.3.1", "0.4.0", "1.0.0"] {
            let mut behind = vec![
                json!({ "type": "portmap", "capabilities": { "portMappings": true }, "runtimeConfig": ports }),
                json!({ "type": "tuning", "sysctl": { "net.core.somaxconn": "500" } }),
            ];
            if version != "0.3.1" {
                behind.push(json!({ "type": "firewall" }));
            }
            let list = list(version, json!(behind));
            let pod = format!("p{}", version.replace('.', ""));
            if version == "0.3.1" {
                let netns = lab.netns(&pod);
                let result = lab.list("ADD", &pod, &netns, &list, None).unwrap();
                assert!(
                    lab.list("DEL", &pod, &netns, &list, None).ok,
                    "0.3.1 knows no result at DEL"
                );
                assert_eq!(result["ips"][0]["version"], "4");
            } else {
                whole_life(lab, &pod, &list, |_| {});
            }
            lab.assert_clean();
        }
    });
}

#[test]
fn our_ipam_under_macvlan_and_ipvlan() {
    let needs = ["/usr/lib/cni/macvlan", "/usr/lib/cni/ipvlan"];
    lab::run("our_ipam_under_macvlan_and_ipvlan", &needs, |lab| {
        for kind in ["macvlan", "ipvlan"] {
            let probe = try_sh(&format!(
                "ip link add probe link up0 type {kind} && ip link del probe"
            ));
            if !probe.status.success() {
                println!("LEFT OUT: {kind}: this kernel has none");
                continue;
            }
            let conf = json!({ "cniVersion": "1.0.0", "name": kind, "type": kind, "master": "up0",
                "ipam": { "type": "podroute-ipam" } });
            let netns = lab.netns(kind);
            let result = lab.add(kind, &netns, &conf);
            let held = sh(&format!("ip -n {kind} -o addr show eth0"));
            for address in addresses(&result) {
                assert!(held.contains(&address.to_string()), "{held}");
            }
            lab.del(kind, &netns, &conf);
            lab.assert_clean();
        }
    });
}
