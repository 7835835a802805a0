//! Peers whose AS is open, and roles with ONLY_TO_CUSTOMER (RFC 9234), beside BIRD and FRR.

use lab::daemon::{Kind, bird, frr, podroute};
use lab::ensure;
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::wait;

use crate::sessions::{cable, established, yaml};
use crate::support::{peer, prefix, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let both = [Kind::Bird, Kind::Frr];
    let beside = |name: &'static str, run: fn(Kind) -> Result<()>| {
        both.map(|tor| {
            scenario(
                format!("roles::{name}_{}", tor.name()),
                [Kind::Podroute, tor],
                move || run(tor),
            )
        })
    };
    let mut all = vec![scenario(
        "roles::a_marked_route_of_a_customer_is_a_leak",
        [Kind::Podroute, Kind::Bird],
        leak,
    )];
    all.extend(beside("a_provider_s_routes_go_to_no_peer", provider));
    all.extend(beside("roles_that_do_not_fit", mismatch));
    all
}

/// The router with AS 65001 and network 10.244.2.0/24; `more` are lines of its neighbor.
fn router(tor: Kind, host: &Host, role: &str, network: &str) -> Result<Vec<Daemon>> {
    if tor == Kind::Frr {
        let role = if role.is_empty() {
            String::new()
        } else {
            format!(" neighbor 192.0.2.1 local-role {role}\n")
        };
        return frr::start_with(
            host,
            &format!(
                "router bgp 65001\n bgp router-id 10.0.0.2\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
                 neighbor 192.0.2.1 remote-as 64601\n neighbor 192.0.2.1 timers connect 1\n{role} \
                 address-family ipv4 unicast\n  network 10.244.2.0/24\n exit-address-family\n"
            ),
            "",
        );
    }
    let role = if role.is_empty() {
        String::new()
    } else {
        format!("local role {role};")
    };
    bird::start_with(
        host,
        &format!(
            "log stderr all;\nrouter id 10.0.0.2;\nprotocol device {{}}\n\
             protocol static own {{ ipv4; route 10.244.2.0/24 unreachable {{ {network} }}; }}\n\
             protocol bgp node {{\n  local 192.0.2.2 as 65001;\n  neighbor 192.0.2.1 as 64601;\n  direct;\n  {role}\n  \
             connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 4;\n  \
             ipv4 {{ import all; export all; }};\n}}\n"
        ),
    )
}

/// The node in the middle; its peer in AS 65001 is any external one.
fn node(host: &Host, role: &str, more: &str) -> Result<Daemon> {
    let peers = format!(
        "peers:\n- {{name: other, address: 192.0.2.2, asn: external, {role}, families: [ipv4], import: all, export: all, \
         timers: {{connectRetry: 200ms}}}}\n{more}policies: {{all: accept}}\n"
    );
    podroute::start_with(host, &yaml("node-a", 64601, "10.244.1.0/24", &peers))
}

fn provider(tor: Kind) -> Result<()> {
    let [a, b] = cable("node-a", "other-b", true)?;
    // A third machine, whose AS the node does not know either.
    let c = Host::create("node-c")?;
    a.ip("link add eth1 type veth peer name eth0 netns node-c")?;
    a.ip("addr add 198.51.100.1/24 dev eth1")?;
    a.ip("link set eth1 up")?;
    c.ip("link set lo up")?;
    c.ip("addr add 198.51.100.3/24 dev eth0")?;
    c.ip("link set eth0 up")?;
    let ranges = "- {name: peers, listenRange: 198.51.100.0/24, asn: [65002, 64603], role: peer, strictRole: true, \
                  families: [ipv4], import: all, export: all}\n";
    let _router = router(tor, &b, "provider", "")?;
    let _node = node(&a, "role: customer, strictRole: true", ranges)?;
    let peers = "peers:\n- {name: middle, address: 198.51.100.1, asn: 64601, role: peer, families: [ipv4], \
                 import: all, export: all, timers: {connectRetry: 200ms}}\npolicies: {all: accept}\n";
    let _third = podroute::start_with(&c, &yaml("node-c", 64603, "10.244.3.0/24", peers))?;
    established(&a, "other")?;
    established(&a, "peers-198.51.100.3")?;
    ensure!(
        peer(&a, "other")?["asn"] == 65001,
        "the AS is that of the session"
    );
    ensure!(
        peer(&a, "peers-198.51.100.3")?["asn"] == 64603,
        "the AS is that of the session"
    );
    wait_route(&a, prefix("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    // The node's own block arrives; what came from the provider does not, whenever it was learned.
    wait_route(&c, prefix("10.244.1.0/24"), CONVERGENCE, |_| true)?;
    let routes = podroute::show(&c, "routes")?.to_string();
    ensure!(
        !routes.contains("10.244.2.0/24"),
        "a provider's route went to a peer: {routes}"
    );
    // The peer's routes do not go to the provider, as the provider's own side says too.
    let there = if tor == Kind::Frr {
        frr::vtysh(&b, "show bgp ipv4 unicast")?
    } else {
        b.run("birdc", &["show", "route", "all"])?
    };
    ensure!(
        !there.contains("10.244.3.0/24"),
        "a peer's route went to a provider: {there}"
    );
    Ok(())
}

fn leak() -> Result<()> {
    let [a, b] = cable("node-a", "other-b", true)?;
    let _router = router(Kind::Bird, &b, "", "bgp_otc = 65099;")?;
    let _node = node(&a, "role: provider", "")?;
    established(&a, "other")?;
    wait::until(CONVERGENCE, "the leak", || {
        let routes = podroute::show(&a, "routes")?.to_string();
        if routes.contains("a route leak") {
            return Ok(());
        }
        wait::not_yet(routes)
    })
}

fn mismatch(tor: Kind) -> Result<()> {
    let [a, b] = cable("node-a", "other-b", true)?;
    let _router = router(tor, &b, "customer", "")?;
    let _node = node(&a, "role: customer", "")?;
    wait::until(CONVERGENCE, "the hint", || {
        let peer = peer(&a, "other")?;
        let hint = peer["hint"].as_str().unwrap_or_default();
        if hint.contains("here role is customer, so the peer must be provider") {
            ensure!(peer["state"] != "Established", "{peer}");
            return Ok(());
        }
        wait::not_yet(peer.to_string())
    })
}
