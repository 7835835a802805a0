#![cfg(test)]
//! Each kind of mismatch is found, in each format, with the line that it stands on.

use podroute_router::{Aspect, Finding, Format, Options, Side, compare, print, read, sides};

const YAML: &str = "
apiVersion: podroute/v1
cluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}
node: {name: node-1, blocks: [10.244.1.0/24, 10.244.9.0/24]}
peers:
- {name: tor-a, address: 192.0.2.1, asn: 65001, families: [ipv4], FIELDS, import: all, export: all}
policies: {all: accept}
";

fn side(fields: &str) -> Side {
    let yaml = YAML.replace("FIELDS", fields);
    let config = podroute_config::load(&yaml).unwrap_or_else(|errors| panic!("{errors}\n{yaml}"));
    let options = Options {
        nodes: vec!["192.0.2.0/24".parse().unwrap()],
        ..Options::default()
    };
    sides(&config, None, &options).unwrap().remove(0)
}

/// Everything that can differ, but for GTSM, which excludes multihop.
const FULL: &str = "allowOwnAs: 1, bfd: {}, password: {file: /secret}, timers: {hold: 9s}";

/// A fault: the printed text has the first in place of the second, and the finding is of this aspect.
type Fault = (&'static str, &'static str, Aspect);

fn faults(format: Format) -> Vec<Fault> {
    use Aspect::{AsOverride, Asn, Bfd, Families, Filter, GracefulRestart, MaximumPrefix, Password, Timers};
    let cisco: Vec<Fault> = vec![
        ("router bgp 65001", "router bgp 65009", Asn),
        ("permit 10.244.0.0/16", "permit 10.245.0.0/16", Filter),
        ("ge 24 le 28", "ge 25 le 28", Filter),
    ];
    let more: Vec<Fault> = match format {
        Format::Frr | Format::Sonic => vec![
            (
                " neighbor nodes remote-as 64512",
                " neighbor nodes remote-as 64599",
                Asn,
            ),
            (
                " neighbor nodes remote-as 64512",
                " neighbor nodes remote-as internal",
                Asn,
            ),
            (" neighbor nodes remote-as 64512\n", "", Asn),
            (
                "listen range 192.0.2.0/24",
                "listen range 192.0.3.0/24",
                Aspect::Address,
            ),
            ("  neighbor nodes activate\n", "", Families),
            (" neighbor nodes password REPLACE-WITH-PASSWORD\n", "", Password),
            (
                " neighbor nodes bfd\n neighbor nodes bfd profile nodes\n",
                "",
                Bfd,
            ),
            ("detect-multiplier 3", "detect-multiplier 9", Bfd),
            ("timers 3 9", "timers 1 3", Timers),
            ("timers 3 9", "timers 10 30", Timers),
            (" neighbor nodes timers 3 9\n", " timers bgp 10 30\n", Timers),
            (
                " no bgp default",
                " bgp graceful-restart-disable\n no bgp default",
                GracefulRestart,
            ),
            (
                "timers 3 9\n",
                "timers 3 9\n neighbor nodes graceful-restart-disable\n",
                GracefulRestart,
            ),
            ("maximum-prefix 500", "maximum-prefix 1", MaximumPrefix),
            ("  neighbor nodes route-map pods in\n", "", Filter),
            ("  neighbor nodes route-map pods out\n", "", Filter),
            ("route-map pods permit 10", "route-map pods deny 10", Filter),
            (
                " neighbor nodes timers",
                " neighbor nodes ebgp-multihop 4\n neighbor nodes timers",
                Aspect::Multihop,
            ),
            (
                " neighbor nodes timers",
                " neighbor nodes ttl-security hops 1\n neighbor nodes timers",
                Aspect::TtlSecurity,
            ),
            (
                " neighbor nodes timers",
                " neighbor nodes shutdown\n neighbor nodes timers",
                Aspect::Connection,
            ),
            (
                "router bgp",
                "interface eth0\n ip address 192.0.2.9/24\nexit\nrouter bgp",
                Aspect::Address,
            ),
        ],
        Format::Eos => vec![
            (
                "peer-group NODES remote-as 64512",
                "peer-group NODES remote-as 64599",
                Asn,
            ),
            (
                "listen range 192.0.2.0/24",
                "listen range 192.0.3.0/24",
                Aspect::Address,
            ),
            ("      neighbor NODES activate\n", "", Families),
            ("   neighbor NODES password REPLACE-WITH-PASSWORD\n", "", Password),
            (
                "   neighbor NODES bfd\n   neighbor NODES bfd interval 100 min-rx 100 multiplier 3\n",
                "",
                Bfd,
            ),
            ("interval 100 min-rx 100", "interval 300 min-rx 300", Bfd),
            ("timers 3 9", "timers 1 3", Timers),
            (
                "   graceful-restart-helper\n",
                "   no graceful-restart-helper\n",
                GracefulRestart,
            ),
            ("maximum-routes 500", "maximum-routes 1", MaximumPrefix),
            ("route-map PODS permit 10", "route-map PODS deny 10", Filter),
            (
                "   neighbor NODES timers",
                "   neighbor NODES ebgp-multihop 4\n   neighbor NODES timers",
                Aspect::Multihop,
            ),
            (
                "   neighbor NODES timers",
                "   neighbor NODES ttl maximum-hops 0\n   neighbor NODES timers",
                Aspect::TtlSecurity,
            ),
        ],
        Format::Nxos => vec![
            ("    remote-as 64512", "    remote-as 64599", Asn),
            ("neighbor 192.0.2.0/24", "neighbor 192.0.3.0/24", Aspect::Address),
            (
                "    address-family ipv4 unicast\n      route-map",
                "    address-family ipv6 unicast\n      route-map",
                Families,
            ),
            ("    password 0 REPLACE-WITH-PASSWORD\n", "", Password),
            ("    bfd\n    bfd interval 100 min_rx 100 multiplier 3\n", "", Bfd),
            ("multiplier 3", "multiplier 5", Bfd),
            ("timers 3 9", "timers 1 3", Timers),
            (
                "  graceful-restart-helper\n",
                "  no graceful-restart\n",
                GracefulRestart,
            ),
            ("maximum-prefix 500", "maximum-prefix 1", MaximumPrefix),
            ("      disable-peer-as-check\n", "", AsOverride),
            ("route-map PODS permit 10", "route-map PODS deny 10", Filter),
            ("    timers", "    ebgp-multihop 4\n    timers", Aspect::Multihop),
            (
                "    timers",
                "    ttl-security hops 1\n    timers",
                Aspect::TtlSecurity,
            ),
            ("    timers", "    shutdown\n    timers", Aspect::Connection),
        ],
        Format::IosXe => vec![
            (
                " neighbor NODES remote-as 64512",
                " neighbor NODES remote-as 64599",
                Asn,
            ),
            (
                "listen range 192.0.2.0/24",
                "listen range 192.0.3.0/24",
                Aspect::Address,
            ),
            ("  neighbor NODES activate\n", "", Families),
            (" neighbor NODES password REPLACE-WITH-PASSWORD\n", "", Password),
            (" neighbor NODES fall-over bfd\n", "", Bfd),
            ("timers 3 9", "timers 1 3", Timers),
            (" bgp graceful-restart\n", "", GracefulRestart),
            ("maximum-prefix 500", "maximum-prefix 1", MaximumPrefix),
            ("route-map PODS permit 10", "route-map PODS deny 10", Filter),
        ],
        Format::Junos => vec![
            ("autonomous-system 65001", "autonomous-system 65009", Asn),
            ("peer-as 64512", "peer-as 64599", Asn),
            ("allow 192.0.2.0/24", "allow 192.0.3.0/24", Aspect::Address),
            ("family inet unicast", "family inet6 unicast", Families),
            (
                "set protocols bgp group NODES authentication-key \"REPLACE-WITH-PASSWORD\"\n",
                "",
                Password,
            ),
            (
                "set protocols bgp group NODES bfd-liveness-detection minimum-interval 100\nset protocols bgp group NODES bfd-liveness-detection multiplier 3\n",
                "",
                Bfd,
            ),
            ("minimum-interval 100", "minimum-interval 400", Bfd),
            ("hold-time 9", "hold-time 3", Timers),
            (
                "group NODES hold-time 9",
                "group NODES graceful-restart disable\nset protocols bgp group NODES hold-time 9",
                GracefulRestart,
            ),
            (
                "prefix-limit maximum 500",
                "prefix-limit maximum 1",
                MaximumPrefix,
            ),
            (
                "set protocols bgp group NODES advertise-peer-as\n",
                "",
                AsOverride,
            ),
            ("route-filter 10.244.0.0/16", "route-filter 10.245.0.0/16", Filter),
            ("/24-/28", "/25-/28", Filter),
            (
                "group NODES hold-time",
                "group NODES multihop ttl 4\nset protocols bgp group NODES hold-time",
                Aspect::Multihop,
            ),
            (
                "group NODES hold-time",
                "group NODES ttl 255\nset protocols bgp group NODES hold-time",
                Aspect::TtlSecurity,
            ),
        ],
        Format::Bird => vec![
            ("local as 65001", "local as 65009", Asn),
            ("as 64512", "as 64599", Asn),
            ("as 64512", "internal", Asn),
            ("range 192.0.2.0/24", "range 192.0.3.0/24", Aspect::Address),
            ("  ipv4 {", "  ipv6 {", Families),
            ("  password \"REPLACE-WITH-PASSWORD\";\n", "", Password),
            ("  bfd { interval 100 ms; multiplier 3; };\n", "", Bfd),
            ("interval 100 ms", "interval 300 ms", Bfd),
            ("hold time 9", "hold time 3", Timers),
            ("graceful restart aware", "graceful restart off", GracefulRestart),
            ("import limit 500", "import limit 1", MaximumPrefix),
            ("10.244.0.0/16{24,28}", "10.244.0.0/16{25,28}", Filter),
            ("export filter pods4;", "", Filter),
            ("export filter pods4;", "export none;", Filter),
            (
                "import filter pods4;",
                "import where net ~ [ 10.0.0.0/8 ];",
                Filter,
            ),
            ("  direct;", "  multihop 4;", Aspect::Multihop),
            ("  direct;", "  direct; ttl security on;", Aspect::TtlSecurity),
            ("  direct;", "  disabled;", Aspect::Connection),
        ],
        other => panic!("{other} is not read"),
    };
    let is_cisco = !matches!(format, Format::Junos | Format::Bird);
    cisco.into_iter().filter(|_| is_cisco).chain(more).collect()
}

fn find(side: &Side, format: Format, text: &str) -> Vec<Finding> {
    let router = read(format, text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    compare(side, &router)
}

#[test]
fn every_fault_is_found() {
    let side = side(FULL);
    for format in Format::READ {
        let text = print(format, &side);
        assert_eq!(find(&side, format, &text), [], "{text}");
        for (good, bad, aspect) in faults(format) {
            assert!(text.contains(good), "{format}: no '{good}' in\n{text}");
            let faulty = text.replace(good, bad);
            let findings = find(&side, format, &faulty);
            let found = findings.iter().find(|finding| finding.aspect == aspect);
            let found =
                found.unwrap_or_else(|| panic!("{format}: '{bad}' is not found: {findings:#?}\n{faulty}"));
            // The line exists, and the message names what to do.
            if let Some(line) = found.router_line {
                assert!((1..=faulty.lines().count()).contains(&line), "{found:?}");
            }
            assert!(!found.remedy.is_empty() && !found.message.is_empty());
            assert_eq!(found.peer, "tor-a");
        }
    }
}

#[test]
fn the_line_is_that_of_the_statement() {
    let side = side(FULL);
    for (format, bad, wanted) in [
        (Format::Frr, ("timers 3 9", "timers 1 3"), "timers 1 3"),
        (Format::Junos, ("hold-time 9", "hold-time 3"), "hold-time 3"),
        (Format::Bird, ("hold time 9", "hold time 3"), "hold time 3"),
        (Format::Nxos, ("timers 3 9", "timers 1 3"), "timers 1 3"),
        (
            Format::Eos,
            ("maximum-routes 500", "maximum-routes 1"),
            "maximum-routes 1",
        ),
    ] {
        let text = print(format, &side).replacen(bad.0, bad.1, 1);
        let findings = find(&side, format, &text);
        assert_eq!(findings.len(), 1, "{findings:#?}");
        let line = findings[0].router_line.unwrap();
        let line = text.lines().nth(line - 1).unwrap();
        assert!(line.contains(wanted), "{format}: {line}");
    }
}

/// What the node asks for and the router does not have.
#[test]
fn what_only_the_node_has_is_found() {
    let plain = side("allowOwnAs: 1, gracefulRestart: {restartTime: 0}");
    for format in Format::READ {
        let text = print(format, &plain);
        for (fields, aspect) in [
            ("password: {file: /secret}", Aspect::Password),
            ("ttlSecurity: {hops: 1}", Aspect::TtlSecurity),
            ("multihop: 3", Aspect::Multihop),
            ("bfd: {}", Aspect::Bfd),
            ("timers: {hold: 30s}", Aspect::Timers),
        ] {
            let other = side(&format!(
                "allowOwnAs: 1, gracefulRestart: {{restartTime: 0}}, {fields}"
            ));
            let findings = find(&other, format, &text);
            assert!(
                findings.iter().any(|finding| finding.aspect == aspect),
                "{format} {fields}: {findings:#?}"
            );
        }
        // Without allowOwnAs nodes of one AS need as-override.
        let other = side("gracefulRestart: {restartTime: 0}");
        let findings = find(&other, format, &text);
        assert!(
            findings
                .iter()
                .any(|finding| finding.aspect == Aspect::AsOverride),
            "{format}: {findings:#?}"
        );
    }
}

/// Both sides would wait.
#[test]
fn nobody_connects() {
    let side = side("passive: true, allowOwnAs: 1");
    for format in Format::READ {
        let findings = find(&side, format, &print(format, &side));
        assert!(
            findings
                .iter()
                .any(|finding| finding.aspect == Aspect::Connection),
            "{format}: {findings:#?}"
        );
    }
}

/// A file as a switch writes it: more than one group, other neighbors, parts that are nothing of BGP.
#[test]
fn a_running_configuration_is_read() {
    let side = side("allowOwnAs: 1");
    let frr = "frr version 8.4.4\nfrr defaults datacenter\nhostname tor-a\n!\ninterface swp1\n ip address 192.0.2.1/24\nexit\n!\nrouter bgp 65001\n \
        no bgp ebgp-requires-policy\n neighbor FABRIC peer-group\n neighbor FABRIC remote-as external\n neighbor FABRIC timers 1 3\n \
        neighbor 192.0.2.11 remote-as 64512\n neighbor 192.0.2.12 remote-as 64512\n neighbor 203.0.113.2 peer-group FABRIC\n !\n \
        address-family ipv4 unicast\n  redistribute connected\n exit-address-family\nexit\n!\nrouter bgp 65001 vrf blue\n neighbor 192.0.2.0 remote-as 9\nexit\n";
    assert_eq!(podroute_router::detect(frr), Some(Format::Frr));
    assert_eq!(find(&side, Format::Frr, frr), []);
    let junos = "routing-options { autonomous-system 65001; }\nprotocols {\n  bgp {\n    group NODES {\n      type external;\n      import [ PODS ];\n      \
        family inet { unicast { prefix-limit { maximum 5; } } }\n      peer-as 64512; advertise-peer-as;\n      neighbor 192.0.2.11;\n      \
        neighbor 192.0.2.12 { hold-time 90; }\n    }\n  }\n}\npolicy-options {\n  policy-statement PODS {\n    term a {\n      from { \
        route-filter 10.244.0.0/16 orlonger; }\n      then accept;\n    }\n    then reject;\n  }\n}\n";
    assert_eq!(podroute_router::detect(junos), Some(Format::Junos));
    assert_eq!(find(&side, Format::Junos, junos), []);
    let denied = find(&side, Format::Junos, &junos.replace("10.244", "10.99"));
    assert_eq!(
        denied.iter().map(|one| one.aspect).collect::<Vec<_>>(),
        [Aspect::Filter; 2],
        "{denied:#?}"
    );
}
