//! The features, one function each.

use std::time::Duration;

use lab::bins;
use lab::daemon::podroute;
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::kernel;
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::wait;

use super::{Ask, Other, There, agent, net, wire::Wire};
use crate::bgp_raw::{KEEPALIVE, Raw, UPDATE, message};
use crate::sessions::{cable, established, yaml};
use crate::support::{peer, wait_route};

/// A line of the table.
pub(super) struct Row {
    pub(super) key: &'static str,
    pub(super) title: &'static str,
    /// The daemons that cannot, and why.
    pub(super) without: &'static [(Other, &'static str)],
    run: fn(Other) -> Result<()>,
}

impl Row {
    pub(super) fn without(&self, other: Other) -> Option<&'static str> {
        self.without
            .iter()
            .find(|(one, _)| *one == other)
            .map(|(_, why)| *why)
    }
}

const fn row(
    key: &'static str,
    title: &'static str,
    without: &'static [(Other, &'static str)],
    run: fn(Other) -> Result<()>,
) -> Row {
    Row {
        key,
        title,
        without,
        run,
    }
}

const NO_TABLE: &str = "keeps no routes";
const NO_SECOND_PATH: &str = "originates one path per prefix only; not tried";
const NO_REFRESH: &str = "this version answers none: it takes the family for one that was not negotiated";
const NOT_OFFERED: &str = "not offered by this version";

pub(super) static ALL: &[Row] = &[
    row("ipv4", "IPv4 routes both ways, eBGP", &[], ipv4),
    row("ipv6", "IPv6 routes over IPv6, eBGP", &[], ipv6),
    row("ibgp", "iBGP", &[], ibgp),
    row(
        "four_octet_as",
        "Four-octet AS numbers (RFC 6793)",
        &[],
        four_octet_as,
    ),
    row("md5", "TCP MD5 (RFC 2385)", &[], md5),
    row("gtsm", "GTSM (RFC 5082)", &[], gtsm),
    row("hold_time", "The lower hold time wins", &[], hold_time),
    row(
        "communities",
        "Communities: standard, extended, large; both ways",
        &[],
        communities,
    ),
    row(
        "unknown_attribute",
        "An unknown transitive attribute passes, Partial set",
        &[
            (Other::Frr, "does not show it"),
            (Other::Gobgp, "does not show its octets"),
        ],
        unknown_attribute,
    ),
    row(
        "ipv6_next_hop",
        "IPv4 with IPv6 next hops (RFC 8950)",
        &[(Other::Openbgpd, NOT_OFFERED)],
        ipv6_next_hop,
    ),
    row("add_path", "Several paths sent (RFC 7911)", &[], add_path),
    row(
        "add_path_received",
        "Several paths received",
        &[
            (Other::Frr, NO_SECOND_PATH),
            (Other::Gobgp, NO_SECOND_PATH),
            (Other::Openbgpd, NO_SECOND_PATH),
        ],
        add_path_received,
    ),
    row("reflection", "Reflected routes (RFC 4456)", &[], reflection),
    row(
        "our_refresh",
        "Route refresh, asked by us (RFC 2918)",
        &[(Other::Openbgpd, NO_REFRESH), (Other::Exabgp, NO_TABLE)],
        our_refresh,
    ),
    row(
        "their_refresh",
        "Route refresh, asked by the router",
        &[
            (Other::Gobgp, "keeps what it received and asks nobody"),
            (Other::Exabgp, "asks only through its API"),
        ],
        their_refresh,
    ),
    row(
        "enhanced_refresh",
        "Enhanced route refresh (RFC 7313)",
        &[
            (Other::Gobgp, NOT_OFFERED),
            (Other::Openbgpd, NO_REFRESH),
            (Other::Exabgp, NO_TABLE),
        ],
        enhanced_refresh,
    ),
    row(
        "extended_messages",
        "Messages above 4096 octets (RFC 8654)",
        &[(Other::Gobgp, NOT_OFFERED), (Other::Openbgpd, NOT_OFFERED)],
        extended_messages,
    ),
    row(
        "their_restart",
        "Graceful restart: the router's routes outlive its crash (RFC 4724)",
        &[(Other::Openbgpd, "does not offer to keep its forwarding")],
        their_restart,
    ),
    row(
        "our_restart",
        "Graceful restart: podroute's routes outlive its crash",
        &[(Other::Exabgp, NO_TABLE)],
        our_restart,
    ),
    row(
        "long_lived",
        "Long-lived graceful restart (RFC 9494)",
        &[(Other::Openbgpd, NOT_OFFERED), (Other::Exabgp, NOT_OFFERED)],
        long_lived,
    ),
    row(
        "shutdown_text",
        "Shutdown text received and shown (RFC 9003)",
        &[(Other::Exabgp, "sends one only through its API")],
        shutdown_text,
    ),
    row(
        "our_shutdown_text",
        "Shutdown text sent",
        &[(Other::Exabgp, "this version fails to read one")],
        our_shutdown_text,
    ),
    row("max_prefixes", "Cease: too many prefixes", &[], max_prefixes),
];

/// Runs one cell.
pub(super) fn run(row: &Row, other: Other) -> Result<()> {
    (row.run)(other)
}

struct Cell {
    a: Host,
    there: There,
    agent: Daemon,
    wire: Wire,
}

impl Cell {
    /// Both sides run; the session is up.
    fn up(other: Other, ask: &Ask, fields: &str, top: &str) -> Result<Self> {
        let cell = Self::begun(other, ask, fields, top)?;
        cell.established()?;
        Ok(cell)
    }

    fn established(&self) -> Result<()> {
        established(&self.a, "other").map_err(|failure| self.there.with_words(failure))
    }

    fn begun(other: Other, ask: &Ask, fields: &str, top: &str) -> Result<Self> {
        let [a, b] = hosts(ask)?;
        let wire = Wire::tap(&a, "eth0")?;
        let agent = agent(&a, ask, fields, top)?;
        let there = There::start(other, &b, ask)?;
        Ok(Self {
            a,
            there,
            agent,
            wire,
        })
    }

    /// Ends with the octets that we sent, read by another.
    fn done(self) -> Result<()> {
        self.done_with(["1", "2", "4"])
    }

    /// The same, with messages of these types among them.
    fn done_with(self, types: [&str; 3]) -> Result<()> {
        let Self {
            wire, agent, there, ..
        } = self;
        let result = wire.judged(types);
        drop((agent, there));
        result
    }

    /// What we say of one prefix.
    fn ours(&self, prefix: &str) -> Result<String> {
        let routes = podroute::show(&self.a, "routes")?;
        let mut all = routes["routes"].as_array().into_iter().flatten();
        let found = all.find(|route| route["prefix"] == prefix);
        Ok(found.map(ToString::to_string).unwrap_or_default())
    }

    /// Waits until the daemon says these words of our prefix.
    fn they_say(&self, prefix: &str, words: &[&str]) -> Result<()> {
        wait::until(
            CONVERGENCE,
            format_args!("{} about {prefix}: {words:?}", self.there.other.name()),
            || {
                let told = self.there.route(prefix)?;
                let plain = plain(&told);
                if !told.is_empty() && words.iter().all(|word| plain.contains(word)) {
                    return Ok(());
                }
                wait::not_yet(told)
            },
        )
        .map_err(|failure| self.there.with_words(failure))
    }

    /// Their network is in our kernel; our block is with them.
    fn both_ways(&self) -> Result<()> {
        for network in &self.there.ask.networks {
            wait_route(&self.a, *network, CONVERGENCE, |_| true)?;
            let block = if network.addr().is_ipv4() {
                "10.244.1.0/24"
            } else {
                "fd00:10:244:1::/64"
            };
            self.they_say(block, &[])?;
        }
        Ok(())
    }

    fn podroute(&self, args: &[&str]) -> Result<String> {
        self.a.run(&bins::find("podroute")?.to_string_lossy(), args)
    }

    fn same_session(&self) -> Result<()> {
        let up = self.counter("timesEstablished")?;
        ensure!(up == 1, "the session was reset");
        Ok(())
    }

    fn counter(&self, name: &str) -> Result<u64> {
        Ok(peer(&self.a, "other")?[name].as_u64().unwrap_or_default())
    }
}

/// Without what daemons put between the parts of a community.
fn plain(text: &str) -> String {
    text.replace([' ', '\n'], "").replace(',', ":")
}

fn hosts(ask: &Ask) -> Result<[Host; 2]> {
    let hosts = cable("node-a", "other-b", !ask.over_v6)?;
    for (host, last) in hosts.iter().zip([1, 2]) {
        host.ip(&format!("addr add 2001:db8::{last}/64 dev eth0 nodad"))?;
    }
    Ok(hosts)
}

fn simple(other: Other, ask: &Ask, fields: &str) -> Result<()> {
    let cell = Cell::up(other, ask, fields, "")?;
    cell.both_ways()?;
    cell.done()
}

fn ipv4(other: Other) -> Result<()> {
    simple(other, &Ask::new(), "")
}

/// A session over IPv6 with IPv6 routes.
fn over_v6() -> Ask {
    Ask {
        over_v6: true,
        networks: vec![net("fd00:10:244:2::/64")],
        ..Ask::new()
    }
}

fn ipv6(other: Other) -> Result<()> {
    simple(other, &over_v6(), "")
}

fn ibgp(other: Other) -> Result<()> {
    let ask = Ask {
        asn: 64601,
        ..Ask::new()
    };
    simple(other, &ask, "")
}

fn four_octet_as(other: Other) -> Result<()> {
    let ask = Ask {
        asn: 4_200_000_001,
        node_asn: 4_200_000_002,
        ..Ask::new()
    };
    let cell = Cell::up(other, &ask, "", "")?;
    cell.both_ways()?;
    cell.they_say("10.244.1.0/24", &["4200000002"])?;
    let ours = cell.ours("10.244.2.0/24")?;
    ensure!(ours.contains("4200000001") && !ours.contains("23456"), "{ours}");
    cell.done()
}

fn md5(other: Other) -> Result<()> {
    let file = "/run/lab/secret";
    std::fs::create_dir_all("/run/lab").map_err(|error| Failure::new(format!("/run/lab: {error}")))?;
    std::fs::write(file, "s3cret\n").map_err(|error| Failure::new(format!("{file}: {error}")))?;
    let ask = Ask {
        secret: Some("s3cret"),
        ..Ask::new()
    };
    simple(other, &ask, &format!(", password: {{file: {file}}}"))
}

fn gtsm(other: Other) -> Result<()> {
    let ask = Ask {
        gtsm: true,
        ..Ask::new()
    };
    simple(other, &ask, ", ttlSecurity: {hops: 1}")
}

fn hold_time(other: Other) -> Result<()> {
    let ask = Ask {
        hold: 9,
        ..Ask::new()
    };
    let cell = Cell::up(other, &ask, "", "")?;
    let hold = cell.counter("holdSeconds")?;
    ensure!(hold == 9, "agreed on {hold} s");
    cell.done()
}

fn communities(other: Other) -> Result<()> {
    let ask = Ask {
        tagged: true,
        ..Ask::new()
    };
    let cell = Cell::up(other, &ask, "", "")?;
    cell.both_ways()?;
    let ours = cell.ours("10.244.2.0/24")?;
    for word in ["\"64512:77\"", "\"64512:7:8\"", "\"rt:64512:99\""] {
        ensure!(ours.contains(word), "no {word} in {ours}");
    }
    cell.they_say("10.244.1.0/24", &["64512:55", "64512:5:6", "64512:44"])?;
    cell.done()
}

fn ipv6_next_hop(other: Other) -> Result<()> {
    let ask = Ask {
        over_v6: true,
        extended_next_hop: true,
        ..Ask::new()
    };
    let cell = Cell::begun(other, &ask, ", extendedNextHop: true", "")?;
    cell.established()?;
    let route = wait_route(&cell.a, net("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    ensure!(
        route
            .next_hops
            .iter()
            .all(|(gateway, _)| gateway.is_some_and(|gateway| gateway.is_ipv6())),
        "{route:?}"
    );
    cell.they_say("10.244.1.0/24", &["2001:db8::1"])?;
    cell.done()
}

/// A host behind the node, on a link of its own.
fn behind(node: &Host, index: u8) -> Result<Host> {
    let name = format!("behind-{index}");
    let host = Host::create(&name)?;
    node.ip(&format!(
        "link add src{index} type veth peer name eth0 netns {name}"
    ))?;
    node.ip(&format!("addr add 198.51.{index}.1/24 dev src{index}"))?;
    node.ip(&format!("link set src{index} up"))?;
    host.ip(&format!("addr add 198.51.{index}.2/24 dev eth0"))?;
    host.ip("link set lo up")?;
    host.ip("link set eth0 up")?;
    Ok(host)
}

/// Our agent behind the node, with one block.
fn source(host: &Host, index: u8, asn: u32, block: &str) -> Result<Daemon> {
    let more = format!(
        "peers:\n- {{name: hub, address: 198.51.{index}.1, asn: 64601, import: all, export: all}}\n\
         policies: {{all: accept}}\n"
    );
    podroute::start_with(host, &yaml(&format!("behind-{index}"), asn, block, &more))
}

fn add_path(other: Other) -> Result<()> {
    let ask = Ask {
        add_path: true,
        ..Ask::new()
    };
    let sources = "- {name: c, address: 198.51.3.2, asn: 64700, import: all, export: all}\n\
                   - {name: d, address: 198.51.4.2, asn: 64701, import: all, export: all}\n";
    let cell = Cell::begun(other, &ask, ", addPath: {receive: true, send: all}", sources)?;
    let mut agents = Vec::new();
    for (index, asn) in [(3, 64700), (4, 64701)] {
        let host = behind(&cell.a, index)?;
        agents.push(source(&host, index, asn, "10.244.9.0/24")?);
    }
    cell.established()?;
    let agreed = peer(&cell.a, "other")?["capabilities"].to_string();
    ensure!(agreed.contains("several paths"), "agreed on {agreed}");
    cell.they_say("10.244.9.0/24", &["64700", "64701"])?;
    wait_route(&cell.a, net("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    cell.done()
}

fn add_path_received(other: Other) -> Result<()> {
    let ask = Ask {
        add_path: true,
        two_paths: true,
        ..Ask::new()
    };
    let cell = Cell::up(other, &ask, ", addPath: {receive: true, send: all}", "")?;
    wait::until(CONVERGENCE, "both paths", || {
        let ours = cell.ours("10.244.2.0/24")?;
        ensure!(
            ours.matches("\"from\":\"other\"").count() == 2 && ours.contains("64512:78"),
            "{ours}"
        );
        Ok(())
    })
    .map_err(|failure| cell.there.with_words(failure))?;
    wait_route(&cell.a, net("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    cell.done()
}

fn reflection(other: Other) -> Result<()> {
    let ask = Ask {
        asn: 64601,
        ..Ask::new()
    };
    let client =
        "- {name: c, address: 198.51.3.2, asn: 64601, routeReflectorClient: true, nextHopSelf: true}\n";
    let fields = ", routeReflectorClient: true, nextHopSelf: true";
    let cell = Cell::begun(other, &ask, fields, client)?;
    let host = behind(&cell.a, 3)?;
    let _agent = source(&host, 3, 64601, "10.244.9.0/24")?;
    cell.established()?;
    // The originator is `behind-3`, the cluster the node.
    cell.they_say("10.244.9.0/24", &["10.0.0.51", "10.0.0.1"])?;
    wait_route(&host, net("10.244.2.0/24"), CONVERGENCE, |_| true)
        .map_err(|failure| cell.there.with_words(failure))?;
    cell.done()
}

fn unknown_attribute(other: Other) -> Result<()> {
    let raw = "- {name: raw, address: 198.51.3.2, asn: 65099, import: all, export: all, passive: true}\n";
    let cell = Cell::begun(other, &Ask::new(), "", raw)?;
    let host = behind(&cell.a, 3)?;
    cell.established()?;
    // ORIGIN, AS_PATH 65099, NEXT_HOP, and attribute 200, optional and transitive, which nobody knows.
    let attributes = [
        &[0x40, 1, 1, 0][..],
        &[0x40, 2, 4, 2, 1, 0xfe, 0x4b],
        &[0x40, 3, 4, 198, 51, 3, 2],
        &[0xc0, 200, 4, 0xde, 0xad, 0xbe, 0xef],
    ]
    .concat();
    let length = u16::try_from(attributes.len()).expect("few attributes");
    let body = [&[0, 0][..], &length.to_be_bytes(), &attributes, &[24, 10, 244, 9]].concat();
    let _raw = host.within(|| {
        let mut raw = Raw::connect([198, 51, 3, 2].into(), [198, 51, 3, 1].into())?;
        raw.send(&crate::bgp_raw::Open::GOOD.encode())?;
        raw.expect_open()?;
        raw.send(&message(KEEPALIVE, &[]))?;
        raw.send(&message(UPDATE, &body))?;
        Ok(raw)
    })?;
    wait::until(CONVERGENCE, "the attribute, Partial set", || {
        let told = cell.there.route("10.244.9.0/24")?;
        let lower = plain(&told).to_lowercase();
        let partial = match other {
            // It prints flags in words.
            Other::Openbgpd => lower.contains("partial") || lower.contains("[otp]"),
            // It prints flags as part of the name: optional, transitive, partial.
            Other::Exabgp => lower.contains("0xe0"),
            // BIRD prints octets only; the wire is judged for all.
            _ => true,
        };
        ensure!(partial && lower.contains("deadbeef"), "{told}");
        Ok(())
    })
    .map_err(|failure| cell.there.with_words(failure))?;
    cell.done()
}

fn our_refresh(other: Other) -> Result<()> {
    let cell = Cell::up(other, &Ask::new(), "", "")?;
    cell.both_ways()?;
    let before = cell.counter("updatesReceived")?;
    cell.podroute(&["peer", "clear", "other", "--soft", "in"])?;
    wait::until(CONVERGENCE, "an answer to our refresh", || {
        let now = cell.counter("updatesReceived")?;
        ensure!(now > before, "{now} UPDATEs, as before");
        Ok(())
    })
    .map_err(|failure| cell.there.with_words(failure))?;
    cell.both_ways()?;
    cell.same_session()?;
    cell.done()
}

fn their_refresh(other: Other) -> Result<()> {
    let cell = Cell::up(other, &Ask::new(), "", "")?;
    cell.both_ways()?;
    // The next keepalive is half a minute away: what is counted is the answer.
    let before = cell.counter("messagesSent")?;
    cell.there.ask_again()?;
    wait::until(Duration::from_secs(10), "their question and our answer", || {
        let now = cell.counter("messagesSent")?;
        ensure!(now > before, "{now} messages, as before");
        Ok(())
    })
    .map_err(|failure| cell.there.with_words(failure))?;
    cell.both_ways()?;
    cell.same_session()?;
    cell.done()
}

fn agreed(other: Other, ask: &Ask, capability: &str) -> Result<Cell> {
    let cell = Cell::up(other, ask, "", "")?;
    cell.both_ways()?;
    let agreed = peer(&cell.a, "other")?["capabilities"].to_string();
    ensure!(agreed.contains(capability), "agreed on {agreed}");
    Ok(cell)
}

fn enhanced_refresh(other: Other) -> Result<()> {
    let ask = Ask {
        enhanced_refresh: true,
        ..Ask::new()
    };
    let cell = agreed(other, &ask, "enhanced route refresh")?;
    let before = cell.counter("messagesReceived")?;
    cell.podroute(&["peer", "clear", "other", "--soft", "in"])?;
    // BoRR, the route, EoRR.
    wait::until(CONVERGENCE, "three messages of an enhanced refresh", || {
        let now = cell.counter("messagesReceived")?;
        ensure!(now >= before + 3, "{} more messages", now - before);
        Ok(())
    })
    .map_err(|failure| cell.there.with_words(failure))?;
    cell.both_ways()?;
    cell.done()
}

fn extended_messages(other: Other) -> Result<()> {
    let ask = Ask {
        extended_messages: true,
        ..Ask::new()
    };
    agreed(other, &ask, "extended messages")?.done()
}

fn their_restart(other: Other) -> Result<()> {
    let ask = Ask {
        restart: Some(30),
        ..Ask::new()
    };
    let mut cell = Cell::up(other, &ask, "", "")?;
    cell.both_ways()?;
    cell.there.kill();
    wait::until(CONVERGENCE, "the end of the session", || {
        let peer = peer(&cell.a, "other")?;
        ensure!(peer["state"] != "Established", "{peer}");
        Ok(())
    })?;
    let stays = |seconds| {
        wait::throughout(Duration::from_secs(seconds), "their route in our kernel", || {
            ensure!(
                kernel::route(&cell.a, net("10.244.2.0/24"))?.is_some(),
                "it is gone"
            );
            Ok(())
        })
    };
    stays(2)?;
    cell.there.again()?;
    cell.established()?;
    stays(2)?;
    cell.both_ways()?;
    cell.done()
}

fn our_restart(other: Other) -> Result<()> {
    let ask = Ask {
        restart: Some(30),
        ..Ask::new()
    };
    let mut cell = Cell::up(other, &ask, "", "")?;
    cell.both_ways()?;
    cell.agent.kill();
    let stays = || {
        let told = cell.there.route("10.244.1.0/24")?;
        ensure!(!told.is_empty(), "they dropped our block");
        Ok(())
    };
    wait::throughout(Duration::from_secs(2), "our block stays with them", stays)
        .map_err(|failure| cell.there.with_words(failure))?;
    cell.agent = agent(&cell.a, &ask, "", "")?;
    cell.established()?;
    cell.both_ways()?;
    cell.done()
}

fn long_lived(other: Other) -> Result<()> {
    let ask = Ask {
        restart: Some(1),
        long_lived: true,
        ..Ask::new()
    };
    let mut cell = Cell::up(
        other,
        &ask,
        ", gracefulRestart: {restartTime: 30s, longLived: 1h}",
        "",
    )?;
    cell.both_ways()?;
    cell.there.kill();
    let stale = |wanted: bool| {
        wait::until(CONVERGENCE, format_args!("LLGR_STALE: {wanted}"), || {
            let ours = cell.ours("10.244.2.0/24")?;
            ensure!(
                !ours.is_empty() && ours.contains("llgr-stale") == wanted,
                "{ours}"
            );
            Ok(())
        })
        .map_err(|failure| cell.there.with_words(failure))
    };
    stale(true)?;
    ensure!(
        kernel::route(&cell.a, net("10.244.2.0/24"))?.is_some(),
        "not in the kernel"
    );
    cell.there.again()?;
    cell.established()?;
    wait::until(CONVERGENCE, "a fresh route", || {
        let ours = cell.ours("10.244.2.0/24")?;
        ensure!(!ours.is_empty() && !ours.contains("llgr-stale"), "{ours}");
        Ok(())
    })?;
    cell.done()
}

fn shutdown_text(other: Other) -> Result<()> {
    let cell = Cell::up(other, &Ask::new(), "", "")?;
    cell.there.shut("maintenance-tonight")?;
    wait::until(CONVERGENCE, "their text in show peer", || {
        let said = peer(&cell.a, "other")?["lastReceived"].to_string();
        ensure!(said.contains("maintenance-tonight"), "lastReceived: {said}");
        Ok(())
    })
    .map_err(|failure| cell.there.with_words(failure))?;
    cell.done()
}

fn our_shutdown_text(other: Other) -> Result<()> {
    let cell = Cell::up(other, &Ask::new(), "", "")?;
    cell.podroute(&["peer", "disable", "other", "--message", "rack-move"])?;
    wait::until(CONVERGENCE, "our text with them", || {
        let told = cell.there.session();
        ensure!(told.contains("rack-move"), "they say {told}");
        Ok(())
    })?;
    cell.done()
}

fn max_prefixes(other: Other) -> Result<()> {
    let ask = Ask {
        networks: ["10.244.2.0/24", "10.244.3.0/24", "10.244.4.0/24"]
            .map(net)
            .to_vec(),
        ..Ask::new()
    };
    let cell = Cell::begun(other, &ask, ", maxPrefixes: {limit: 2, action: cease}", "")?;
    wait::until(CONVERGENCE, "a Cease for too many prefixes", || {
        let said = peer(&cell.a, "other")?["lastSent"].to_string();
        ensure!(said.contains("Maximum Number of Prefixes"), "lastSent: {said}");
        let told = cell.there.session().to_lowercase();
        let words = told.contains("max") && told.contains("prefix");
        ensure!(words, "they say {told}");
        Ok(())
    })?;
    // The session may end before our first UPDATE.
    cell.done_with(["1", "3", "4"])
}
