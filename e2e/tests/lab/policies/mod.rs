//! Peer policies beside FRR and BIRD, and what they do to the kernel and to originated routes.

mod beside;
mod cases;

use std::collections::BTreeMap;

use lab::daemon::{Kind, bird, frr, podroute};
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::{bins, ensure, wait};

use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let all = [Kind::Podroute, Kind::Bird, Kind::Frr];
    let groups = cases::GROUPS.iter();
    let beside = groups.map(|(name, cases)| {
        scenario(format!("policies::beside_frr_and_bird::{name}"), all, || {
            beside::compare(cases)
        })
    });
    let more = [
        scenario("policies::the_same_as_frr_and_bird", all, the_same),
        scenario(
            "policies::blackholes_lists_and_own_routes",
            [Kind::Podroute, Kind::Frr],
            own_routes,
        ),
    ];
    beside.chain(more).collect()
}

/// Attributes by prefix.
type Routes = BTreeMap<String, Vec<String>>;

/// A daemon under test between one that sends and one that looks on.
struct Row {
    dut: Host,
    sender: Host,
    observer: Host,
}

impl Row {
    fn new() -> Result<Self> {
        let row = Self {
            dut: Host::create("dut")?,
            sender: Host::create("sender")?,
            observer: Host::create("observer")?,
        };
        for (link, name, network) in [
            ("to-sender", "sender", "192.0.2"),
            ("to-observer", "observer", "198.51.100"),
        ] {
            row.dut
                .ip(&format!("link add {link} type veth peer name eth0 netns {name}"))?;
            row.dut.ip(&format!("addr add {network}.1/24 dev {link}"))?;
            row.dut.ip(&format!("link set {link} up"))?;
            let other = Host::existing(name);
            other.ip(&format!("addr add {network}.2/24 dev eth0"))?;
            other.ip("link set eth0 up")?;
        }
        for host in [&row.dut, &row.sender, &row.observer] {
            host.ip("link set lo up")?;
        }
        Ok(row)
    }
}

/// Prefixes, AS numbers behind the sender's, communities, large communities.
const ROUTES: [(&str, &str, &str, &str); 11] = [
    ("10.8.0.0/16", "", "", ""),
    ("10.8.1.0/24", "", "65001:150", ""),
    ("10.8.2.0/25", "", "", ""),
    ("10.9.0.0/16", "", "64512:5 65001:1500", ""),
    ("10.9.1.0/24", "", "65001:666", ""),
    ("10.10.0.0/16", "64500", "", ""),
    ("10.11.0.0/16", "7", "65001:100 65001:7 64512:1", "64512:0:65002"),
    ("10.12.0.0/16", "", "", "64512:0:65003"),
    ("203.0.113.0/24", "8 9", "65001:7", "7:8:9"),
    ("203.0.113.128/26", "", "65001:99 65001:200", ""),
    ("172.16.0.0/16", "", "", ""),
];

fn sender() -> String {
    let mut routes = String::new();
    for (prefix, path, communities, large) in ROUTES {
        let mut then = String::new();
        for asn in path.split_whitespace().rev() {
            then.push_str(&format!("bgp_path.prepend({asn}); "));
        }
        for community in communities.split_whitespace() {
            then.push_str(&format!("bgp_community.add(({})); ", community.replace(':', ",")));
        }
        for community in large.split_whitespace() {
            then.push_str(&format!(
                "bgp_large_community.add(({})); ",
                community.replace(':', ",")
            ));
        }
        routes.push_str(&format!("  route {prefix} unreachable {{ {then}}};\n"));
    }
    format!(
        "log stderr all;\nrouter id 10.0.0.2;\nprotocol device {{}}\nprotocol static own {{\n  ipv4;\n{routes}}}\n{}",
        bird_peer(
            "dut",
            "192.0.2.2 as 65001",
            "192.0.2.1 as 64512",
            "import none; export all;"
        )
    )
}

fn bird_peer(name: &str, local: &str, remote: &str, channel: &str) -> String {
    format!(
        "protocol bgp {name} {{\n  local {local};\n  neighbor {remote};\n  direct;\n  connect delay time 1;\n  connect retry time 1;\n  \
         error wait time 1, 4;\n  graceful restart off;\n  ipv4 {{ {channel} }};\n}}\n"
    )
}

fn observer() -> String {
    format!(
        "log stderr all;\nrouter id 10.0.0.3;\nprotocol device {{}}\n{}",
        bird_peer(
            "dut",
            "198.51.100.2 as 65003",
            "198.51.100.1 as 64512",
            "import all; export none;"
        )
    )
}

/// The same policies in three languages.
const PODROUTE: &str = "\
apiVersion: podroute/v1
cluster: {asn: 64512}
node: {name: dut, routerId: 10.0.0.1}
fib: off
lists:
  good: {prefixes: [{in: 10.8.0.0/13, length: 16-24}, {in: 203.0.113.0/24}]}
  bogons: {asns: [0, 23456, 64496-64511]}
policies:
  in:
  - {match: {asPath: {contains: $bogons}}, action: reject}
  - {match: {not: {prefixes: $good}}, action: reject}
  - {match: {communities: [\"65001:666\"]}, action: reject}
  - {set: {communities: {remove: [\"64512:*\"]}, largeCommunities: {add: [\"64512:100:peer\"]}}, action: continue}
  - {match: {communities: [\"65001:1??\"]}, set: {communities: {add: [\"64512:1\"]}}, action: accept}
  - {otherwise: accept}
  out:
  - {match: {largeCommunities: [\"64512:0:peer\"]}, action: reject}
  - {match: {communities: [\"64512:1\"]}, set: {prepend: 2, med: 50}, action: accept}
  - {match: {communities: [\"65001:7\"]}, set: {prepend: {asn: 64999}}, action: accept}
  - {otherwise: accept}
peers:
- {name: sender, address: 192.0.2.2, asn: 65001, import: in, export: reject-all, timers: {connectRetry: 200ms}}
- {name: observer, address: 198.51.100.2, asn: 65003, import: reject-all, export: out, timers: {connectRetry: 200ms}}
";

const FRR: &str = "\
log stdout informational
bgp as-path access-list bogons seq 5 permit _(0|23456|6449[6-9]|6450[0-9]|6451[01])_
bgp community-list expanded ours seq 5 permit 64512:.*
bgp community-list expanded backup seq 5 permit 65001:1[0-9][0-9]_
bgp community-list standard drop seq 5 permit 65001:666
bgp community-list standard one seq 5 permit 64512:1
bgp community-list standard seven seq 5 permit 65001:7
bgp large-community-list standard not-here seq 5 permit 64512:0:65003
ip prefix-list bad seq 5 deny 10.8.0.0/13 ge 16 le 24
ip prefix-list bad seq 10 deny 203.0.113.0/24 le 32
ip prefix-list bad seq 15 permit 0.0.0.0/0 le 32
route-map in deny 10
 match as-path bogons
route-map in deny 20
 match ip address prefix-list bad
route-map in deny 30
 match community drop
route-map in permit 40
 set comm-list ours delete
 set large-community 64512:100:65001 additive
 on-match next
route-map in permit 50
 match community backup
 set community 64512:1 additive
route-map in permit 60
route-map out deny 10
 match large-community not-here
route-map out permit 20
 match community one
 set as-path prepend 64512 64512
 set metric 50
route-map out permit 30
 match community seven
 set as-path prepend 64999
route-map out permit 40
route-map none deny 10
router bgp 64512
 bgp router-id 10.0.0.1
 neighbor 192.0.2.2 remote-as 65001
 neighbor 192.0.2.2 timers connect 1
 neighbor 198.51.100.2 remote-as 65003
 neighbor 198.51.100.2 timers connect 1
 neighbor 198.51.100.2 advertisement-interval 0
 address-family ipv4 unicast
  neighbor 192.0.2.2 route-map in in
  neighbor 192.0.2.2 route-map none out
  neighbor 198.51.100.2 route-map none in
  neighbor 198.51.100.2 route-map out out
";

fn bird_between() -> String {
    format!(
        "log stderr all;\nrouter id 10.0.0.1;\nprotocol device {{}}\n\
         filter take {{\n  if bgp_path ~ [0, 23456, 64496..64511] then reject;\n  \
         if !(net ~ [10.8.0.0/13{{16,24}}, 203.0.113.0/24+]) then reject;\n  \
         if (65001,666) ~ bgp_community then reject;\n  bgp_community.delete([(64512,*)]);\n  \
         bgp_large_community.add((64512,100,65001));\n  \
         if bgp_community ~ [(65001,100..199)] then bgp_community.add((64512,1));\n  accept;\n}}\n\
         filter give {{\n  if (64512,0,65003) ~ bgp_large_community then reject;\n  \
         if (64512,1) ~ bgp_community then {{ bgp_path.prepend(64512); bgp_path.prepend(64512); bgp_med = 50; accept; }}\n  \
         if (65001,7) ~ bgp_community then bgp_path.prepend(64999);\n  accept;\n}}\n{}{}",
        bird_peer(
            "sender",
            "192.0.2.1 as 64512",
            "192.0.2.2 as 65001",
            "import filter take; export none;"
        ),
        bird_peer(
            "observer",
            "198.51.100.1 as 64512",
            "198.51.100.2 as 65003",
            "import none; export filter give;"
        )
    )
}

/// What a session of the observer received. LOCAL_PREF on routes of another AS is the observer's own.
fn observed(observer: &Host, protocol: &str) -> Result<Routes> {
    let text = observer.run(
        "birdc",
        &["show", "route", "table", "all", "protocol", protocol, "all"],
    )?;
    let mut routes = Routes::new();
    let mut prefix = String::new();
    for line in text.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if line.starts_with(|c: char| c.is_ascii_digit()) && first.contains('/') {
            first.clone_into(&mut prefix);
            routes.entry(prefix.clone()).or_default();
        } else if first.starts_with("BGP.") && (protocol == "inner" || first != "BGP.local_pref:") {
            routes
                .entry(prefix.clone())
                .or_default()
                .push(normal(line.trim()));
        }
    }
    Ok(routes)
}

/// Communities in order: daemons sort them or leave them as they came.
fn normal(line: &str) -> String {
    let (name, values) = line.split_once(':').unwrap_or((line, ""));
    if !name.contains("community") {
        return line.to_owned();
    }
    let values = values.replace(", ", ",");
    let mut values: Vec<&str> = values.split_whitespace().collect();
    values.sort_unstable();
    format!("{name}: {}", values.join(" "))
}

fn the_same() -> Result<()> {
    let row = Row::new()?;
    let _sender = bird::start_with(&row.sender, &sender())?;
    let _observer = bird::start_with(&row.observer, &observer())?;
    let agent = vec![podroute::start_with(&row.dut, PODROUTE)?];
    let ours = passed_by(agent, &row, "podroute")?;
    let of_frr = passed_by(frr::start_with(&row.dut, FRR, "")?, &row, "FRR")?;
    let of_bird = passed_by(bird::start_with(&row.dut, &bird_between())?, &row, "BIRD")?;
    let differ = |other: &Routes| -> Vec<String> {
        let prefixes = ours.keys().chain(other.keys());
        let differing = prefixes.filter(|prefix| ours.get(*prefix) != other.get(*prefix));
        differing
            .map(|prefix| format!("{prefix}: {:?}, but {:?}", ours.get(prefix), other.get(prefix)))
            .collect()
    };
    ensure!(differ(&of_frr).is_empty(), "beside FRR: {:#?}", differ(&of_frr));
    ensure!(
        differ(&of_bird).is_empty(),
        "beside BIRD: {:#?}",
        differ(&of_bird)
    );
    Ok(())
}

/// What the observer has once the routes are all there. Then the daemon ends, and the observer has none.
fn passed_by(daemons: Vec<Daemon>, row: &Row, whose: &str) -> Result<Routes> {
    const TAKEN: [&str; 6] = [
        "10.11.0.0/16",
        "10.8.0.0/16",
        "10.8.1.0/24",
        "10.9.0.0/16",
        "203.0.113.0/24",
        "203.0.113.128/26",
    ];
    let mut found = BTreeMap::new();
    wait::until(
        CONVERGENCE * 3,
        format_args!("the routes that {whose} lets through"),
        || {
            found = observed(&row.observer, "dut")?;
            let prefixes: Vec<&str> = found.keys().map(String::as_str).collect();
            ensure!(prefixes == TAKEN, "{prefixes:?}");
            Ok(())
        },
    )?;
    drop(daemons);
    wait::until(CONVERGENCE, format_args!("no route of {whose}"), || {
        let left = observed(&row.observer, "dut")?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    Ok(found)
}

/// FRR refuses paths that do not begin with our number, and sends what is to be dropped.
const ROUTER: &str = "\
log stdout informational
route-map tag permit 10
 match ip address prefix-list host
 set community blackhole additive
route-map tag permit 20
ip prefix-list host seq 5 permit 10.244.9.9/32
router bgp 65003
 bgp router-id 10.0.0.3
 no bgp ebgp-requires-policy
 no bgp network import-check
 neighbor 198.51.100.1 remote-as 64512
 neighbor 198.51.100.1 timers connect 1
 neighbor 198.51.100.1 advertisement-interval 0
 neighbor 198.51.100.1 enforce-first-as
 address-family ipv4 unicast
  network 10.244.9.9/32
  network 203.0.113.0/24
  neighbor 198.51.100.1 route-map tag out
  neighbor 198.51.100.1 soft-reconfiguration inbound
";

fn agent_of_own_routes(list: &str) -> String {
    format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64512, podCIDRs: [10.244.0.0/16]}}\n\
         node: {{name: dut, routerId: 10.0.0.1, blocks: [10.244.1.0/24]}}\n\
         lists:\n  taken: {{prefixes: {{file: {list}}}}}\n\
         originate:\n- {{kernel: {{protocols: [static], tables: [254]}}}}\n\
         - {{prefix: 10.99.0.0/16, when: {{present: 203.0.113.0/24}}}}\n\
         - {{aggregate: 203.0.112.0/23}}\n\
         policies:\n  in:\n  - name: rtbh\n    match: {{communities: [blackhole]}}\n    set: {{kernel: {{type: blackhole, metric: 50}}}}\n    \
         action: accept\n  - {{match: {{prefixes: $taken}}, action: accept}}\n  out:\n  - {{name: foreign, set: {{prepend: {{asn: 64999}}}}, \
         action: accept}}\n\
         peers:\n- {{name: router, address: 198.51.100.2, asn: 65003, import: in, export: out, timers: {{connectRetry: 200ms}}}}\n"
    )
}

fn own_routes() -> Result<()> {
    let row = Row::new()?;
    row.dut.ip("route add 10.77.0.0/16 via 192.0.2.2 proto static")?;
    let list = row.dut.write_config("taken", "# nothing yet\n")?;
    let _agent: Daemon = podroute::start_with(&row.dut, &agent_of_own_routes(&list.to_string_lossy()))?;
    let _router = frr::start_with(&row.observer, ROUTER, "")?;
    let router_says = |prefix: &str, wanted: &str| {
        wait::until(
            CONVERGENCE,
            format_args!("{prefix} at the router: {wanted}"),
            || {
                let text = frr::vtysh(&row.observer, &format!("show bgp ipv4 unicast {prefix}"))?;
                ensure!(text.contains(wanted), "{text}");
                Ok(())
            },
        )
    };
    let kernel = |prefix: &str, wanted: &str| {
        wait::until(
            CONVERGENCE,
            format_args!("{prefix} in the kernel: '{wanted}'"),
            || {
                let text = row.dut.ip(&format!("route show {prefix}"))?;
                ensure!(
                    text.contains(wanted) && (!wanted.is_empty() || text.is_empty()),
                    "{text}"
                );
                Ok(())
            },
        )
    };
    // FRR takes the path although another number is prepended: ours is the first.
    router_says("10.244.1.0/24", "64512 64999")?;
    // What is to be dropped is dropped, by a route of its own.
    kernel("10.244.9.9", "blackhole 10.244.9.9 proto 245 metric 50")?;
    let reason = row.dut.output("ping", &["-c1", "-W1", "10.244.9.9"])?;
    ensure!(!reason.status.success(), "a packet to a blackhole was answered");
    // Routes of the kernel come and go.
    router_says("10.77.0.0/16", "64512")?;
    row.dut.ip("route add 10.78.0.0/16 via 192.0.2.2 proto static")?;
    router_says("10.78.0.0/16", "64512")?;
    row.dut.ip("route del 10.78.0.0/16")?;
    router_says("10.78.0.0/16", "not in table")?;
    // The list is empty, so that 203.0.113.0/24 is not taken, and what depends on it is not originated.
    router_says("10.99.0.0/16", "not in table")?;
    std::fs::write(&list, "203.0.113.0/24\n")
        .map_err(|error| lab::failure::Failure::new(error.to_string()))?;
    router_says("10.99.0.0/16", "64512")?;
    // What of an aggregate has no route is dropped.
    router_says("203.0.112.0/23", "64512")?;
    kernel(
        "203.0.112.0/23",
        "blackhole 203.0.112.0/23 proto 245 metric 4294967294",
    )?;
    let podroute = bins::find("podroute")?;
    let said = row
        .dut
        .run(&podroute.to_string_lossy(), &["show", "routes", "10.244.9.9/32"])?;
    ensure!(
        said.contains("from router: accepted by in[rtbh], changed by in[rtbh]"),
        "{said}"
    );
    let said = row
        .dut
        .run(&podroute.to_string_lossy(), &["show", "routes", "10.77.0.0/16"])?;
    ensure!(said.contains("to router: accepted by out[foreign]"), "{said}");
    let said = row.dut.run(&podroute.to_string_lossy(), &["show", "policies"])?;
    ensure!(said.contains("in[rtbh]"), "{said}");
    // An empty file is one that is being written.
    std::fs::write(&list, "# none\n").map_err(|error| lab::failure::Failure::new(error.to_string()))?;
    router_says("10.99.0.0/16", "not in table")?;
    kernel("203.0.112.0/23", "")
}
