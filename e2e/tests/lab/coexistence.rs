//! Another speaker on the node: the host's FRR, or one that announces Services.

use lab::daemon::{Kind, bird, frr, podroute};
use lab::ensure;
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::wait;

use crate::sessions::{cable, established};
use crate::support::{prefix, wait_no_route, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let all = [Kind::Podroute, Kind::Frr, Kind::Bird];
    vec![
        scenario(
            "coexistence::the_hosts_frr_speaks_with_the_router",
            all,
            behind_frr,
        ),
        scenario(
            "coexistence::a_speaker_of_services_on_the_node",
            all,
            before_services,
        ),
    ]
}

/// A router that announces 10.244.2.0/24, and fills its kernel.
fn router(host: &Host, asn: u32) -> Result<Vec<Daemon>> {
    let config = format!(
        "log stderr all;\nrouter id 10.0.0.9;\nprotocol device {{}}\n\
         protocol static {{ ipv4; route 10.244.2.0/24 unreachable; }}\n\
         protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
         protocol bgp node {{ local 192.0.2.2 as 65001; neighbor 192.0.2.1 as {asn}; connect retry time 1; \
         error wait time 1, 2; ipv4 {{ import all; export all; }}; }}\n"
    );
    bird::start_with(host, &config)
}

/// FRR has the session with the router and fills the kernel; the node's block it takes from the kernel, where podroute put it.
fn behind_frr() -> Result<()> {
    let [node, tor] = cable("node-a", "tor-b", true)?;
    let _router = router(&tor, 64512)?;
    let bgpd = "router bgp 64512\n bgp router-id 192.0.2.1\n no bgp ebgp-requires-policy\n \
        neighbor 192.0.2.2 remote-as 65001\n neighbor 192.0.2.2 timers connect 1\n \
        address-family ipv4 unicast\n  redistribute kernel route-map pods\n exit-address-family\n\
        ip prefix-list pods permit 10.244.0.0/16 ge 24 le 24\nroute-map pods permit 10\n match ip address prefix-list pods\n";
    let _frr = frr::start_with(&node, bgpd, "")?;
    let yaml = "apiVersion: podroute/v1\ncluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}\n\
        node: {name: node-a, routerId: 10.0.0.1, blocks: [10.244.1.0/24]}\nlisten: {enabled: false}\n";
    let mut agent = podroute::start_with(&node, yaml)?;
    let gateway: std::net::IpAddr = [192, 0, 2, 1].into();
    wait_route(&tor, prefix("10.244.1.0/24"), CONVERGENCE, |route| {
        route.next_hops.iter().any(|(via, _)| *via == Some(gateway))
    })?;
    wait_route(&node, prefix("10.244.2.0/24"), CONVERGENCE, |route| {
        route.protocol != lab::kernel::PROTO_AGENT
    })?;
    agent.terminate(std::time::Duration::from_secs(5))?;
    ensure!(
        lab::kernel::route(&tor, prefix("10.244.1.0/24"))?.is_some(),
        "the block went with the agent"
    );
    Ok(())
}

/// podroute has the session with the router; a speaker on the node, as MetalLB's, hands it addresses of Services.
fn before_services() -> Result<()> {
    let [node, tor] = cable("node-a", "tor-b", true)?;
    let _router = router(&tor, 64512)?;
    let yaml = "apiVersion: podroute/v1\ncluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}\n\
        node: {name: node-a, routerId: 10.0.0.1, blocks: [10.244.1.0/24]}\n\
        listen: {port: 1790}\npeers:\n\
        - {name: metallb, address: 127.0.0.1, localAddress: 127.0.0.2, asn: 64512, passive: true, import: services}\n\
        - {name: tor, address: 192.0.2.2, asn: 65001, import: all, export: all, timers: {connectRetry: 200ms}}\n\
        policies:\n  all: accept\n\
        \x20 services: [{match: {prefixes: [{in: 198.51.100.0/24, length: 32-32}]}, action: accept}]\n";
    let _agent = podroute::start_with(&node, yaml)?;
    established(&node, "tor")?;
    let config = "log stderr all;\nrouter id 10.0.0.7;\nprotocol device {}\n\
        protocol static { ipv4; route 198.51.100.7/32 unreachable; route 203.0.113.7/32 unreachable; }\n\
        protocol bgp podroute { local 127.0.0.1 as 64512; neighbor 127.0.0.2 port 1790 as 64512; multihop 2; connect retry time 1; \
        error wait time 1, 2; ipv4 { import none; export all; next hop self; }; }\n";
    let mut speaker = bird::start_with(&node, config)?;
    established(&node, "metallb")?;
    let service = prefix("198.51.100.7/32");
    wait_route(&tor, service, CONVERGENCE, |_| true)?;
    wait_route(&node, prefix("10.244.2.0/24"), CONVERGENCE, |_| true)?;
    wait_route(&tor, prefix("10.244.1.0/24"), CONVERGENCE, |_| true)?;
    // What is for this host is not for its own kernel, and what was not agreed on is refused.
    ensure!(
        lab::kernel::route(&node, service)?.is_none(),
        "the node's own kernel has it"
    );
    ensure!(
        lab::kernel::route(&tor, prefix("203.0.113.7/32"))?.is_none(),
        "the router heard of what the policy refuses"
    );
    speaker
        .iter_mut()
        .try_for_each(|daemon| daemon.terminate(std::time::Duration::from_secs(5)))?;
    wait::until(CONVERGENCE, "the address gone from the router", || {
        wait_no_route(&tor, service, std::time::Duration::from_millis(100))
    })
}
