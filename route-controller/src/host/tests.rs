use super::*;
use crate::fib::{ForeignRoute, Link, NextHop};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn id(text: &str) -> RouterId {
    RouterId::from_ipv4(text.parse().unwrap()).unwrap()
}

/// lo, eth0 (uplink) and eth1, with routes; addresses as `(interface, address/length, state)`.
fn mirror(
    addresses: &[(u32, &str, AddressState)],
    routes: &[(&str, Option<&str>, u32, Option<&str>)],
) -> Mirror {
    let mut mirror = Mirror::default();
    for (ifindex, name) in [(1, "lo"), (2, "eth0"), (3, "eth1"), (4, "kube-ipvs0")] {
        let link = Link {
            name: name.to_owned(),
            up: true,
            enabled: true,
            carrier_losses: 0,
            mtu: if ifindex == 2 { 9000 } else { 1500 },
            loopback: ifindex == 1,
        };
        mirror.links.insert(ifindex, link);
    }
    for (ifindex, address, state) in addresses {
        let (addr, len) = address.split_once('/').unwrap();
        let address = Address {
            ifindex: *ifindex,
            addr: ip(addr),
            len: len.parse().unwrap(),
        };
        mirror.addresses.insert(address, *state);
    }
    for (prefix, gateway, ifindex, source) in routes {
        let route = ForeignRoute {
            metric: 0,
            table: 254,
            protocol: 2,
            hops: vec![NextHop {
                gateway: gateway.map(ip),
                ifindex: *ifindex,
            }],
            source: source.map(ip),
            object: None,
            discards: false,
        };
        mirror.add_foreign(prefix.parse().unwrap(), route);
    }
    mirror
}

fn choice() -> HostChoice {
    HostChoice {
        addresses: NodeAddresses::Auto,
        router_id: RouterIdChoice::Auto,
        mtu: Auto::Auto,
        internal: Vec::new(),
        peers: vec![ip("192.0.2.1")],
        sources: BTreeSet::new(),
        kept_router_id: None,
    }
}

fn found(choice: &HostChoice, mirror: &Mirror) -> Vec<String> {
    let host = choice.find_out(mirror).unwrap();
    host.addresses.iter().map(IpAddr::to_string).collect()
}

use AddressState::{NotPreferred, Preferred, Tentative};

const CONNECTED: (&str, Option<&str>, u32, Option<&str>) = ("192.0.2.0/24", None, 2, Some("192.0.2.11"));
const DEFAULT: (&str, Option<&str>, u32, Option<&str>) = ("0.0.0.0/0", Some("192.0.2.1"), 2, None);

#[test]
fn addresses_that_come_and_go_are_not_the_nodes() {
    let addresses = [
        (2, "192.0.2.11/24", Preferred),
        (2, "192.0.2.5/32", Preferred),    // keepalived, kube-vip
        (2, "192.0.2.9/24", NotPreferred), // secondary
        (2, "192.0.2.7/24", Tentative),
        (2, "2001:db8:a::11/64", Preferred),
        (2, "2001:db8:a::1/64", NotPreferred), // deprecated or temporary
        (2, "2001:db8:a::2/128", Preferred),
        (2, "fe80::1/64", Preferred),
        (4, "10.96.0.1/32", Preferred), // kube-proxy in IPVS mode
    ];
    let mirror = mirror(&addresses, &[CONNECTED, DEFAULT]);
    assert_eq!(found(&choice(), &mirror), ["192.0.2.11", "2001:db8:a::11"]);
    let host = choice().find_out(&mirror).unwrap();
    assert_eq!((host.mtu, host.router_id), (9000, id("192.0.2.11")));
}

#[test]
fn the_kernels_source_towards_the_first_peer_and_else_the_default_route() {
    let addresses = [
        (2, "192.0.2.11/24", Preferred),
        (2, "198.51.100.11/24", Preferred),
        (3, "10.0.0.11/24", Preferred),
    ];
    let routes = [
        CONNECTED,
        ("198.51.100.0/24", None, 2, Some("198.51.100.11")),
        ("10.0.0.0/24", None, 3, Some("10.0.0.11")),
        ("0.0.0.0/0", Some("198.51.100.1"), 2, None),
        ("203.0.113.0/24", Some("10.0.0.1"), 3, None),
    ];
    let mirror = mirror(&addresses, &routes);
    let towards = |peers: &[&str]| {
        let peers = peers.iter().map(|peer| ip(peer)).collect();
        found(&HostChoice { peers, ..choice() }, &mirror)
    };
    assert_eq!(towards(&["192.0.2.1"]), ["192.0.2.11"]);
    assert_eq!(towards(&["10.0.0.1", "192.0.2.1"]), ["10.0.0.11"]);
    assert_eq!(
        towards(&["203.0.113.9"]),
        ["10.0.0.11"],
        "behind a gateway of the other subnet"
    );
    assert_eq!(
        towards(&[]),
        ["198.51.100.11"],
        "the default route's gateway is in that subnet"
    );
    let fixed = [
        ("0.0.0.0/0", Some("198.51.100.1"), 2, Some("192.0.2.11")),
        CONNECTED,
    ];
    let with_source = super::tests::mirror(&addresses, &fixed);
    let peers = Vec::new();
    assert_eq!(
        found(&HostChoice { peers, ..choice() }, &with_source),
        ["192.0.2.11"],
        "the route says it"
    );
}

#[test]
fn the_loopback_interface_where_the_uplink_has_no_address() {
    let addresses = [
        (1, "127.0.0.1/8", Preferred),
        (1, "10.255.0.7/32", Preferred),
        (1, "2001:db8::7/128", Preferred),
        (2, "fe80::2/64", Preferred),
    ];
    let mirror = mirror(&addresses, &[("0.0.0.0/0", Some("fe80::1"), 2, None)]);
    assert_eq!(found(&choice(), &mirror), ["10.255.0.7", "2001:db8::7"]);
    assert_eq!(choice().find_out(&mirror).unwrap().mtu, 9000);
}

#[test]
fn the_nodes_internal_addresses_come_first_where_the_host_has_them() {
    let addresses = [(2, "192.0.2.11/24", Preferred), (3, "10.0.0.11/24", Preferred)];
    let mirror = mirror(&addresses, &[CONNECTED, DEFAULT]);
    let internal = vec![ip("10.0.0.11"), ip("2001:db8::99")];
    let auto = HostChoice { internal, ..choice() };
    assert_eq!(found(&auto, &mirror), ["10.0.0.11"]);
    let behind_nat = HostChoice {
        internal: vec![ip("203.0.113.7")],
        ..choice()
    };
    assert_eq!(found(&behind_nat, &mirror), ["192.0.2.11"]);
    let only = HostChoice {
        addresses: NodeAddresses::InternalIp,
        kept_router_id: Some(id("10.0.0.1")),
        ..behind_nat
    };
    assert_eq!(found(&only, &mirror), Vec::<String>::new());
    let cidrs = ["10.0.0.0/8", "192.0.2.0/24"]
        .map(|cidr| cidr.parse().unwrap())
        .to_vec();
    let within = HostChoice {
        addresses: NodeAddresses::Cidrs(cidrs),
        ..choice()
    };
    assert_eq!(found(&within, &mirror), ["10.0.0.11", "192.0.2.11"]);
}

#[test]
fn the_router_id_is_kept() {
    let before = mirror(&[(2, "192.0.2.11/24", Preferred)], &[CONNECTED]);
    let after = mirror(
        &[(2, "192.0.2.99/24", Preferred), (1, "10.255.0.7/32", Preferred)],
        &[CONNECTED],
    );
    let router_id = |choice: &HostChoice, mirror: &Mirror| choice.find_out(mirror).map(|host| host.router_id);
    assert_eq!(router_id(&choice(), &before), Ok(id("192.0.2.11")));
    let again = HostChoice {
        kept_router_id: Some(id("192.0.2.11")),
        ..choice()
    };
    assert_eq!(router_id(&again, &after), Ok(id("192.0.2.11")));
    let fixed = HostChoice {
        router_id: RouterIdChoice::Fixed(id("1.1.1.1")),
        ..again.clone()
    };
    assert_eq!(router_id(&fixed, &after), Ok(id("1.1.1.1")));
    let cidr = RouterIdChoice::Cidr("10.255.0.0/16".parse().unwrap());
    let in_cidr = HostChoice {
        router_id: cidr,
        ..again
    };
    assert_eq!(router_id(&in_cidr, &after), Ok(id("10.255.0.7")));
    assert_eq!(
        router_id(&in_cidr, &before),
        Ok(id("192.0.2.11")),
        "as long as the prefix has none"
    );
    let nothing = mirror(&[], &[]);
    assert_eq!(router_id(&choice(), &nothing), Err(NoRouterId));
}

/// On an interface all addresses count that stay, those of a loopback too.
#[test]
fn the_source_of_connections_is_an_interfaces_address() {
    let addresses = [
        (1, "127.0.0.1/8", Preferred),
        (1, "198.51.100.7/32", Preferred),
        (1, "2001:db8:7::1/128", Preferred),
        (2, "192.0.2.11/24", Preferred),
        (2, "192.0.2.9/24", NotPreferred),
    ];
    let choice = HostChoice {
        sources: BTreeSet::from(["lo".to_owned(), "eth0".to_owned(), "absent".to_owned()]),
        ..choice()
    };
    let host = choice
        .find_out(&mirror(&addresses, &[CONNECTED, DEFAULT]))
        .unwrap();
    let of = |name: &str| -> Vec<String> { host.sources[name].iter().map(IpAddr::to_string).collect() };
    assert_eq!(of("lo"), ["198.51.100.7", "2001:db8:7::1"]);
    assert_eq!(of("eth0"), ["192.0.2.11"]);
    assert!(of("absent").is_empty());

    let text = "apiVersion: podroute/v1\ncluster: {asn: 64512}\npeers:\n\
        - {name: a, address: 192.0.2.1, asn: internal, localAddress: lo}\n\
        - {name: b, address: \"2001:db8::1\", asn: internal, localAddress: eth0}\n\
        - {name: c, address: 192.0.2.3, asn: internal, localAddress: 192.0.2.11}\n\
        - {name: d, address: 192.0.2.4, asn: internal}\n";
    let config = podroute_config::load(text).unwrap();
    let local: Vec<String> = config
        .peers
        .iter()
        .map(|peer| match host.local_address(peer) {
            Ok(address) => format!("{address:?}"),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(local[0], "Some(198.51.100.7)");
    assert!(
        local[1].starts_with("localAddress: interface eth0 has no ipv6 address"),
        "{}",
        local[1]
    );
    assert_eq!(local[2..], ["Some(192.0.2.11)", "None"]);
}
