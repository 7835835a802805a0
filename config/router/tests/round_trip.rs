#![cfg(test)]
//! What is printed for a router is read back, and nothing in it disagrees with the node it was printed for.

use podroute_router::{Format, Options, compare, detect, print, read, sides};

/// One configuration of a peer.
struct Case {
    yaml: String,
    options: Options,
}

/// All combinations of what a session can be configured with.
fn cases() -> Vec<Case> {
    let places = [
        ("address: 192.0.2.1", "[ipv4]", vec!["192.0.2.0/24"]),
        (
            "address: 192.0.2.1",
            "[ipv4, ipv6]",
            vec!["192.0.2.11/32", "192.0.2.12/32"],
        ),
        ("address: \"2001:db8:a::1\"", "[ipv6]", vec!["2001:db8:a::/64"]),
        (
            "address: \"2001:db8:a::1\"",
            "[ipv4, ipv6]",
            vec!["2001:db8:a::11/128"],
        ),
        ("interface: eth0", "[ipv4, ipv6]", vec![]),
        ("address: 192.0.2.1", "[ipv4]", vec![]),
    ];
    let distances = [
        "",
        "multihop: 3",
        "ttlSecurity: {hops: 1}",
        "ttlSecurity: {hops: 2}",
    ];
    let bfd = ["", "bfd: {}", "bfd: {interval: 300ms, multiplier: 5}"];
    let more = [
        "",
        "password: {file: /secret}, allowOwnAs: 1",
        "gracefulRestart: {restartTime: 0}, timers: {hold: 30s}",
    ];
    let mut all = Vec::new();
    for (place, families, nodes) in places {
        for distance in distances {
            for bfd in bfd {
                for more in more {
                    for any_as in [false, true] {
                        let fields = [place, distance, bfd, more];
                        let fields: Vec<&str> =
                            fields.into_iter().filter(|field| !field.is_empty()).collect();
                        if place.starts_with("interface") && distance.starts_with("multihop") {
                            continue;
                        }
                        all.push(Case {
                            yaml: format!(
                                "apiVersion: podroute/v1\n\
                                 cluster: {{asn: 64512, podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}}\n\
                                 node: {{name: node-1, blocks: [10.244.1.0/24, \"fd00:10:244:1::/64\"]}}\n\
                                 services: {{advertise: [loadBalancer], ranges: [203.0.113.128/25, \"fd00:10:98::/112\"]}}\n\
                                 originate: [{{prefix: 198.51.100.0/24}}]\n\
                                 peers:\n- {{name: tor-a, {}, asn: 65001, families: {families}, import: all, export: all}}\n\
                                 policies: {{all: accept}}\n",
                                fields.join(", ")
                            ),
                            options: Options {
                                nodes: nodes.iter().map(|text| text.parse().unwrap()).collect(),
                                any_as,
                                ..Options::default()
                            },
                        });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn what_is_printed_is_accepted() {
    for case in cases() {
        let config =
            podroute_config::load(&case.yaml).unwrap_or_else(|errors| panic!("{errors}\n{}", case.yaml));
        for side in sides(&config, None, &case.options).unwrap() {
            for format in Format::READ {
                // A list of neighbors has no place for one AS each.
                let each_as = case.options.any_as && case.options.nodes.iter().any(|node| node.len() >= 32);
                let each_as = each_as && matches!(format, Format::Eos | Format::Junos | Format::IosXe);
                // IOS XE takes up to five numbers for a group, no links without addresses, and no as-override.
                let is_ios_limit = format == Format::IosXe
                    && (case.options.any_as
                        || case.yaml.contains("interface:")
                        || !case.yaml.contains("allowOwnAs"));
                // BIRD has no as-override, and its range has no distance for link-local addresses.
                let is_bird_limit =
                    format == Format::Bird && !case.options.any_as && !case.yaml.contains("allowOwnAs");
                if each_as || is_ios_limit || is_bird_limit {
                    continue;
                }
                let text = print(format, &side);
                if side.groups[0].members.is_empty() {
                    assert!(text.contains("--nodes"), "{text}");
                    continue;
                }
                let found = detect(&text);
                let same = found == Some(format) || format == Format::Sonic && found == Some(Format::Frr);
                assert!(same, "{format} looks like {found:?}:\n{text}");
                let router = read(format, &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert_ne!(router.neighbor_count(), 0, "{text}");
                let findings = compare(&side, &router);
                assert!(findings.is_empty(), "{findings:#?}\n{}\n{text}", case.yaml);
            }
        }
    }
}

#[test]
fn every_language_has_every_statement() {
    let case = &cases()[0];
    let yaml = case.yaml.replace(
        "asn: 65001,",
        "asn: 65001, ttlSecurity: {hops: 2}, bfd: {interval: 250ms}, password: {file: /secret}, timers: {hold: 12s},",
    );
    let config = podroute_config::load(&yaml).unwrap();
    let side = &sides(&config, None, &case.options).unwrap()[0];
    for format in Format::ALL {
        let text = print(format, side);
        for wanted in [
            "65001",
            "64512",
            "10.244.0.0/16",
            "203.0.113.128/25",
            "198.51.100.0/24",
            "500",
            "12",
        ] {
            assert!(text.contains(wanted), "{format} lacks {wanted}:\n{text}");
        }
        assert!(text.contains("REPLACE-WITH-PASSWORD"), "{format}:\n{text}");
        let has_bfd = text.to_lowercase().contains("bfd");
        assert!(has_bfd, "{format}:\n{text}");
        assert!(text.contains("192.0.2.0/24"), "{format}:\n{text}");
    }
}

#[test]
fn other_files_are_refused_with_the_reason() {
    assert_eq!(detect("hostname core-1\ninterface eth0\n"), None);
    let error = read(Format::Frr, "interface eth0\n").unwrap_err().to_string();
    assert!(error.contains("no BGP"), "{error}");
    let error = read(Format::Bird, "protocol bgp a {\n  local as 1;\n")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("line 1") && error.contains("not closed"),
        "{error}"
    );
    let error = read(Format::Junos, "protocols { } }\n").unwrap_err().to_string();
    assert!(error.contains("line 1"), "{error}");
    let error = read(Format::Gobgp, "").unwrap_err().to_string();
    assert!(error.contains("gobgp"), "{error}");
}

/// The snippets for routers of examples/ fit the node's file beside them.
#[test]
fn the_shipped_snippets_agree() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let text = |name: &str| std::fs::read_to_string(examples.join(name)).unwrap();
    let config = podroute_config::load(&text("as-per-rack.yaml")).unwrap();
    let options = Options {
        nodes: ["192.0.2.0/24", "2001:db8:a::/64"]
            .map(|text| text.parse().unwrap())
            .to_vec(),
        ..Options::default()
    };
    let all = sides(&config, None, &options).unwrap();
    for (name, format) in [
        ("arista-eos.txt", Format::Eos),
        ("bird.conf", Format::Bird),
        ("cisco-nxos.txt", Format::Nxos),
        ("frr.conf", Format::Frr),
        ("juniper-junos.txt", Format::Junos),
        ("sonic-frr.txt", Format::Frr),
    ] {
        let snippet = text(&format!("tor-snippets/{name}"));
        assert_eq!(detect(&snippet), Some(format), "{name}");
        let router = read(format, &snippet).unwrap();
        let side = podroute_router::select(&all, &router).unwrap();
        assert_eq!(side.groups.len(), 2, "{name}");
        assert_eq!(compare(side, &router), [], "{name}");
    }
}
