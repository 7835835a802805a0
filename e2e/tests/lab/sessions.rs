//! Peers that are found and not configured by address, and what ends a session: over one cable, with files of the
//! test's own.

use std::time::Duration;

use lab::daemon::{Kind, frr, podroute};
use lab::failure::{Context, Failure, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::{bins, cabling, ensure, kernel, wait};
use nix::sys::signal::Signal;

use crate::bgp_raw::Raw;
use crate::support::{peer, prefix, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let ours = [Kind::Podroute];
    let both = [Kind::Podroute, Kind::Frr];
    vec![
        scenario("sessions::unnumbered_peers_find_each_other", ours, unnumbered),
        scenario("sessions::unnumbered_towards_frr", both, unnumbered_frr),
        scenario("sessions::a_range_takes_whom_it_should", ours, range),
        scenario("sessions::a_range_with_a_password", ours, range_with_password),
        scenario("sessions::a_changed_password_file_is_used", ours, password),
        scenario(
            "sessions::who_is_gone_for_good_is_not_waited_for",
            ours,
            gone_for_good,
        ),
        scenario("sessions::shutdown_withdraws_or_preserves", ours, shutdown),
        scenario("sessions::drain_moves_traffic_away_first", ours, drain),
        scenario("sessions::several_paths_of_a_prefix", ours, several_paths),
        scenario("sessions::show_says_why", ours, show_says_why),
    ]
}

/// Two machines and a cable, `eth0` at both ends; with IPv4 addresses where they are given.
pub(crate) fn cable(left: &str, right: &str, numbered: bool) -> Result<[Host; 2]> {
    let hosts = [Host::create(left)?, Host::create(right)?];
    hosts[0].ip(&format!("link add eth0 type veth peer name eth0 netns {right}"))?;
    for (host, last) in hosts.iter().zip([1, 2]) {
        cabling::enable_forwarding(host)?;
        host.ip("link set lo up")?;
        if numbered {
            host.ip(&format!("addr add 192.0.2.{last}/24 dev eth0"))?;
        }
        host.ip("link set eth0 up")?;
    }
    Ok(hosts)
}

/// A file with one pod block, and these peers.
pub(crate) fn yaml(node: &str, asn: u32, block: &str, more: &str) -> String {
    let last = node.bytes().last().unwrap_or_default();
    format!(
        "apiVersion: podroute/v1\ncluster: {{asn: {asn}, podCIDRs: [10.244.0.0/16]}}\n\
         node: {{name: {node}, routerId: 10.0.0.{last}, blocks: [{block}]}}\n{more}"
    )
}

pub(crate) fn established(host: &Host, name: &str) -> Result<()> {
    wait::until(CONVERGENCE, format_args!("{name} of {} up", host.name()), || {
        let peer = peer(host, name)?;
        if peer["state"] == "Established" {
            return Ok(());
        }
        wait::not_yet(peer.to_string())
    })
}

const LINK: &str =
    "peers: [{name: other, interface: eth0, asn: ASN, import: all, export: all}]\npolicies: {all: accept}\n";

fn has_gateway(route: &kernel::Route) -> bool {
    route.next_hops.iter().any(|(gateway, _)| gateway.is_some())
}

fn reaches(from: &Host, source: &str, to: &str) -> Result<()> {
    from.run("ping", &["-c1", "-W2", "-I", source, to]).map(drop)
}

fn unnumbered() -> Result<()> {
    let [a, b] = cable("node-a", "node-b", false)?;
    for (host, address) in [(&a, "10.244.1.1"), (&b, "10.244.2.1")] {
        host.ip(&format!("addr add {address}/32 dev lo"))?;
    }
    let of = |node, asn, other: &str, block| yaml(node, asn, block, &LINK.replace("ASN", other));
    let _a = podroute::start_with(&a, &of("node-a", 64601, "64602", "10.244.1.0/24"))?;
    // Nobody is there yet, and show says so.
    wait::until(CONVERGENCE, "a word on what is missing", || {
        let hint = peer(&a, "other")?["hint"].to_string();
        ensure!(hint.contains("router advertisement"), "hint: {hint}");
        Ok(())
    })?;
    let _b = podroute::start_with(&b, &of("node-b", 64602, "64601", "10.244.2.0/24"))?;
    established(&a, "other")?;
    established(&b, "other")?;
    for (host, other) in [(&a, "10.244.2.0/24"), (&b, "10.244.1.0/24")] {
        let route = wait_route(host, prefix(other), CONVERGENCE, has_gateway)?;
        ensure!(
            route.next_hops.iter().all(|(gateway, _)| {
                gateway.is_some_and(|gateway| gateway.to_string().starts_with("fe80:"))
            }),
            "{route:?}"
        );
    }
    reaches(&a, "10.244.1.1", "10.244.2.1")?;
    // The cable is pulled and put back: found again, by itself.
    a.ip("link set eth0 down")?;
    wait_no_route(&a, prefix("10.244.2.0/24"), CONVERGENCE)?;
    a.ip("link set eth0 up")?;
    wait_route(&a, prefix("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    Ok(())
}

fn unnumbered_frr() -> Result<()> {
    let [a, b] = cable("node-a", "tor-b", false)?;
    a.ip("addr add 10.244.1.1/32 dev lo")?;
    b.ip("addr add 10.244.2.1/32 dev lo")?;
    let zebra = "interface eth0\n no ipv6 nd suppress-ra\n ipv6 nd ra-interval 1\n";
    let bgpd = "router bgp 65001\n bgp router-id 10.0.0.9\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n \
                no bgp network import-check\n neighbor eth0 interface remote-as external\n \
                neighbor eth0 timers connect 1\n address-family ipv4 unicast\n  network 10.244.2.0/24\n  \
                neighbor eth0 activate\n exit-address-family\n";
    let _frr = frr::start_with(&b, bgpd, zebra)?;
    let file = yaml("node-a", 64601, "10.244.1.0/24", &LINK.replace("ASN", "65001"));
    let _a = podroute::start_with(&a, &file)?;
    established(&a, "other")?;
    wait_route(&a, prefix("10.244.2.0/24"), CONVERGENCE, has_gateway)?;
    wait_route(&b, prefix("10.244.1.0/24"), CONVERGENCE, has_gateway).map_err(|failure| {
        failure.evidence(
            "show bgp",
            frr::vtysh(&b, "show bgp ipv4 unicast json").unwrap_or_default(),
        )
    })?;
    reaches(&a, "10.244.1.1", "10.244.2.1")
}

/// A hub with a range for peers, and a spoke's file that dials it.
fn hub_file(password: &str) -> String {
    let more = format!(
        "peers:\n- {{name: pods, listenRange: 192.0.2.0/28, listenLimit: 1, asn: 64602, import: all, export: all{password}}}\n\
         policies: {{all: accept}}\n"
    );
    yaml("hub-a", 64601, "10.244.1.0/24", &more)
}

fn spoke_file(password: &str) -> String {
    let more = format!(
        "listen: {{enabled: false}}\npeers:\n- {{name: hub, address: 192.0.2.1, localAddress: 192.0.2.2, asn: 64601, \
         import: all, export: all, timers: {{connectRetry: 200ms}}{password}}}\npolicies: {{all: accept}}\n"
    );
    yaml("spoke-b", 64602, "10.244.2.0/24", &more)
}

fn range() -> Result<()> {
    let [hub, spoke] = cable("hub-a", "spoke-b", true)?;
    spoke.ip("addr add 192.0.2.3/24 dev eth0")?;
    let _hub = podroute::start_with(&hub, &hub_file(""))?;
    let mut agent = podroute::start_with(&spoke, &spoke_file(""))?;
    established(&hub, "pods-192.0.2.2")?;
    let dynamic = peer(&hub, "pods-192.0.2.2")?;
    ensure!(
        dynamic["range"] == "pods" && dynamic["address"] == "192.0.2.2",
        "{dynamic}"
    );
    let podroute = bins::find("podroute")?;
    let table = hub.run(&podroute.to_string_lossy(), &["show", "peers"])?;
    ensure!(table.contains("Established (range pods)"), "{table}");
    wait_route(&hub, prefix("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    let second = spoke.within(|| Raw::connect([192, 0, 2, 3].into(), [192, 0, 2, 1].into())?.read());
    ensure!(
        second.is_err(),
        "a peer more than the limit got message {:?}",
        second.ok()
    );
    agent.terminate(Duration::from_secs(5))?;
    wait::until(CONVERGENCE, "no session with a peer that ended", || {
        let peers = podroute::show(&hub, "peers")?;
        let up = peers["peers"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|peer| peer["state"] == "Established");
        if up {
            wait::not_yet(peers.to_string())
        } else {
            Ok(())
        }
    })?;
    let _agent = podroute::start_with(&spoke, &spoke_file(""))?;
    established(&hub, "pods-192.0.2.2")
}

fn range_with_password() -> Result<()> {
    let [hub, spoke] = cable("hub-a", "spoke-b", true)?;
    for (file, text) in [
        ("/run/lab/secret", "of the range\n"),
        ("/run/lab/wrong", "another\n"),
    ] {
        write(file, text)?;
    }
    let field = |file: &str| format!(", password: {{file: {file}}}");
    let _hub = podroute::start_with(&hub, &hub_file(&field("/run/lab/secret")))?;
    let mut agent = podroute::start_with(&spoke, &spoke_file(&field("/run/lab/wrong")))?;
    wait::throughout(Duration::from_secs(2), "no session with the wrong secret", || {
        let state = peer(&spoke, "hub")?["state"].to_string();
        ensure!(!state.contains("Established"), "{state}");
        Ok(())
    })?;
    agent.terminate(Duration::from_secs(5))?;
    let _agent = podroute::start_with(&spoke, &spoke_file(&field("/run/lab/secret")))?;
    established(&hub, "pods-192.0.2.2")
}

fn pair(extra: [&str; 2], top: [&str; 2]) -> Result<([Host; 2], Vec<Daemon>)> {
    pair_with("90s", extra, top)
}

fn pair_with(hold: &str, extra: [&str; 2], top: [&str; 2]) -> Result<([Host; 2], Vec<Daemon>)> {
    let [a, b] = cable("node-a", "node-b", true)?;
    let of = |node: &str, asn, other_asn, other, block, side: usize| {
        let more = format!(
            "{}peers:\n- {{name: other, address: {other}, asn: {other_asn}, import: all, export: all, \
             timers: {{connectRetry: 200ms, hold: {hold}}}{}}}\npolicies: {{all: accept}}\n",
            top[side], extra[side]
        );
        yaml(node, asn, block, &more)
    };
    let left = podroute::start_with(&a, &of("node-a", 64601, 64602, "192.0.2.2", "10.244.1.0/24", 0))?;
    let right = podroute::start_with(&b, &of("node-b", 64602, 64601, "192.0.2.1", "10.244.2.0/24", 1))?;
    established(&a, "other")?;
    established(&b, "other")?;
    Ok(([a, b], vec![left, right]))
}

/// The last run had a peer that is configured no more. Its End-of-RIB never comes, and the others get their routes all the same.
fn gone_for_good() -> Result<()> {
    let [a, b] = cable("node-a", "node-b", true)?;
    let of = |node: &str, asn, other_asn, other, block| {
        let more = format!(
            "peers:\n- {{name: other, address: {other}, asn: {other_asn}, import: all, export: all, \
             timers: {{connectRetry: 200ms}}}}\npolicies: {{all: accept}}\n"
        );
        yaml(node, asn, block, &more)
    };
    std::fs::create_dir_all(a.run_file("podroute")).context("/run/podroute")?;
    let kept = a.run_file("podroute/sessions");
    std::fs::write(&kept, "removed\n").context(kept.display())?;
    let _left = podroute::start_with(&a, &of("node-a", 64601, 64602, "192.0.2.2", "10.244.1.0/24"))?;
    let _right = podroute::start_with(&b, &of("node-b", 64602, 64601, "192.0.2.1", "10.244.2.0/24"))?;
    established(&a, "other")?;
    wait_route(&b, prefix("10.244.1.0/24"), CONVERGENCE, |_| true).map(drop)
}

fn password() -> Result<()> {
    std::fs::create_dir_all("/run/lab").map_err(|error| Failure::new(format!("/run/lab: {error}")))?;
    let files = ["/run/lab/secret-a", "/run/lab/secret-b"];
    for file in files {
        write(file, "one")?;
    }
    let field = files.map(|file| format!(", password: {{file: {file}}}"));
    let ([a, b], _agents) = pair_with("12s", [&field[0], &field[1]], ["", ""])?;
    let before = connection(&a)?;
    ensure!(!before.is_empty(), "no connection");
    // Until both ends have sent and received something that is signed with the key in use.
    let goes_on = |second_key: bool| {
        let counts =
            || Ok([peer(&a, "other")?, peer(&b, "other")?].map(|peer| peer["messagesReceived"].as_u64()));
        let first: [_; 2] = counts()?;
        wait::until(CONVERGENCE, "messages in the same session", || {
            let (now, connection) = (counts()?, connection(&a)?);
            ensure!(connection == before, "the session is another one: {connection:?}");
            let [left, right] = [peer(&a, "other")?, peer(&b, "other")?];
            if now[0] > first[0] && now[1] > first[1] && left["nextKey"] == second_key {
                Ok(())
            } else {
                wait::not_yet(format!("{left} {right}"))
            }
        })
    };
    // One end alone, as when a kubelet is late: the key that both have is still good.
    write(files[0], "two")?;
    goes_on(true)?;
    write(files[1], "two")?;
    let logs = [&a, &b].map(|host| host.dir().join("log/podroute.log"));
    wait::until(CONVERGENCE, "both see the new secret", || {
        let seen = |log: &std::path::PathBuf| {
            std::fs::read_to_string(log).is_ok_and(|log| log.contains("a password file changed"))
        };
        ensure!(logs.iter().all(seen), "not yet");
        Ok(())
    })?;
    goes_on(true)
}

/// The connection that carries the session, by its ports.
fn connection(host: &Host) -> Result<String> {
    let sockets = host.run("ss", &["-Htn", "state", "established"])?;
    // The first two columns are queue lengths.
    let ends = sockets
        .lines()
        .map(|line| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" "));
    Ok(ends.collect::<Vec<_>>().join("\n"))
}

fn write(file: &str, text: &str) -> Result<()> {
    std::fs::write(file, text).map_err(|error| Failure::new(format!("{file}: {error}")))
}

fn shutdown() -> Result<()> {
    let ([a, b], mut agents) = pair(["", ""], ["shutdown: withdraw\n", ""])?;
    wait_route(&b, prefix("10.244.1.0/24"), CONVERGENCE, |_| true)?;
    wait_route(&a, prefix("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    agents[0].terminate(Duration::from_secs(5))?;
    wait_no_route(&b, prefix("10.244.1.0/24"), CONVERGENCE).map_err(|failure| {
        let shown = |what: &str| podroute::show(&b, what).map(|value| value.to_string());
        ["peers", "routes", "fib"]
            .iter()
            .fold(agents[1].with_log(failure), |failure, what| {
                failure.evidence(*what, shown(what).unwrap_or_else(|failure| failure.to_string()))
            })
    })?;
    let said = peer(&b, "other")?["lastReceived"].to_string();
    ensure!(said.contains("Administrative Shutdown"), "last received: {said}");
    // The other side, by default, goes without a word; nobody is left to see it but the kernel.
    agents[1].signal(Signal::SIGTERM)?;
    ensure!(
        kernel::route(&a, prefix("10.244.2.0/24"))?.is_some(),
        "the kernel keeps its routes"
    );
    Ok(())
}

fn drain() -> Result<()> {
    let ([a, b], mut agents) = pair(["", ""], ["", ""])?;
    wait_route(&b, prefix("10.244.1.0/24"), CONVERGENCE, |_| true)?;
    let program = bins::find("podroute")?;
    let program = program.to_string_lossy();
    let is_drained = |wanted: bool| {
        wait::until(
            CONVERGENCE,
            format_args!("GRACEFUL_SHUTDOWN at node-b: {wanted}"),
            || {
                let routes = podroute::show(&b, "routes")?;
                let all = routes["routes"].as_array().into_iter().flatten();
                let path = all
                    .filter(|route| route["prefix"] == "10.244.1.0/24")
                    .map(|route| &route["paths"][0]);
                let text = path.map(ToString::to_string).collect::<String>();
                ensure!(
                    text.contains("node-a") || text.contains("other"),
                    "no path: {routes}"
                );
                ensure!(text.contains("graceful-shutdown") == wanted, "{text}");
                Ok(())
            },
        )
    };
    a.run(&program, &["drain", "--no-withdraw"])?;
    is_drained(true)?;
    // A restart does not undo it.
    agents[0].terminate(Duration::from_secs(5))?;
    let file = std::fs::read_to_string(a.dir().join("etc/podroute.yaml"));
    let file = file.map_err(|error| Failure::new(error.to_string()))?;
    agents[0] = podroute::start_with(&a, &file)?;
    established(&b, "other")?;
    is_drained(true)?;
    a.run(&program, &["undrain"])?;
    is_drained(false)?;
    let said = a.run(&program, &["drain", "--wait", "0"])?;
    ensure!(said.contains("safe"), "said: {said}");
    wait_no_route(&b, prefix("10.244.1.0/24"), CONVERGENCE)?;
    a.run(&program, &["undrain"])?;
    wait_route(&b, prefix("10.244.1.0/24"), CONVERGENCE, |_| true)?;
    Ok(())
}

/// One hub that takes and sends several paths, two sources of one prefix, one listener.
fn several_paths() -> Result<()> {
    let [hub, far] = cable("hub-a", "far-b", true)?;
    let names = ["two-c", "two-d"];
    let mut sources = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let host = Host::create(name)?;
        hub.ip(&format!(
            "link add src{index} type veth peer name eth0 netns {name}"
        ))?;
        hub.ip(&format!("addr add 198.51.{index}.1/24 dev src{index}"))?;
        hub.ip(&format!("link set src{index} up"))?;
        host.ip(&format!("addr add 198.51.{index}.2/24 dev eth0"))?;
        host.ip("link set lo up")?;
        host.ip("link set eth0 up")?;
        sources.push(host);
    }
    let peers = "peers:\n\
        - {name: c, address: 198.51.0.2, asn: 64700, import: all, export: all}\n\
        - {name: d, address: 198.51.1.2, asn: 64700, import: all, export: all}\n\
        - {name: far, address: 192.0.2.2, asn: 64601, addPath: {send: all}, nextHopSelf: true}\npolicies: {all: accept}\n";
    let hub_file = yaml("hub-a", 64601, "10.244.9.0/24", peers);
    let _hub = podroute::start_with(&hub, &hub_file)?;
    let mut agents = Vec::new();
    for (index, host) in sources.iter().enumerate() {
        let more = format!(
            "peers:\n- {{name: hub, address: 198.51.{index}.1, asn: 64601, import: all, export: all}}\npolicies: {{all: accept}}\n"
        );
        agents.push(podroute::start_with(
            host,
            &yaml(names[index], 64700, "10.244.2.0/24", &more),
        )?);
    }
    let more = "fib: {install: false}\npeers:\n- {name: hub, address: 192.0.2.1, asn: 64601, addPath: {receive: true}}\n";
    let far_file = yaml("far-b", 64601, "10.244.8.0/24", more);
    let _far = podroute::start_with(&far, &far_file)?;
    let paths = |count: usize| {
        wait::until(CONVERGENCE, format_args!("{count} paths at far-b"), || {
            let routes = podroute::show(&far, "routes")?;
            let all = routes["routes"].as_array().into_iter().flatten();
            let found: Vec<_> = all.filter(|route| route["prefix"] == "10.244.2.0/24").collect();
            let there = found
                .first()
                .and_then(|route| route["paths"].as_array())
                .map_or(0, Vec::len);
            if there == count {
                Ok(())
            } else {
                wait::not_yet(format!("{there}: {routes}"))
            }
        })
    };
    paths(2)?;
    let shown = peer(&far, "hub")?["capabilities"].to_string();
    ensure!(shown.contains("several paths"), "capabilities: {shown}");
    let program = bins::find("podroute")?;
    hub.run(
        &program.to_string_lossy(),
        &["peer", "disable", "c", "--message", "away"],
    )?;
    paths(1)
}

fn show_says_why() -> Result<()> {
    let [a, b] = cable("node-a", "node-b", true)?;
    let more = "peers:\n\
        - {name: silent, address: 192.0.2.2, asn: 64602, timers: {connectRetry: 200ms}}\n\
        - {name: nobody, address: 192.0.2.77, asn: 64603, timers: {connectRetry: 200ms}}\n\
        - {name: far, address: 203.0.113.9, asn: 64604, timers: {connectRetry: 200ms}}\n";
    let file = yaml("node-a", 64601, "10.244.1.0/24", more);
    let _a = podroute::start_with(&a, &file)?;
    let hint = |name: &str, words: &[&str]| {
        wait::until(Duration::from_secs(20), format_args!("a hint on {name}"), || {
            let peer = peer(&a, name)?;
            let hint = peer["hint"].as_str().unwrap_or_default();
            if words.iter().all(|word| hint.contains(word)) {
                return Ok(());
            }
            wait::not_yet(peer.to_string())
        })
    };
    hint("silent", &["does not listen on port 179"])?;
    hint("far", &["multihop"])?;
    let more = "peers: [{name: other, address: 192.0.2.1, asn: 64999, timers: {connectRetry: 200ms}}]\n";
    let other = yaml("node-b", 64602, "10.244.2.0/24", more);
    let _b = podroute::start_with(&b, &other)?;
    hint("silent", &["AS numbers do not match", "64602"])
}
