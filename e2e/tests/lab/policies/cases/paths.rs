//! Policies that look at AS paths, or change them.

use super::Passes::{All, AllBut, Only};
use super::{Case, import};

pub(super) const CASES: &[Case] = &[
    import(
        "AS numbers that nobody should send",
        [
            r"
lists:
  bogons: {asns: [0, 23456, 64496-64511, 4200000000-4294967295]}
policies:
  tested:
  - {match: {asPath: {contains: $bogons}}, action: reject}
  - {otherwise: accept}
",
            r"
bgp as-path access-list bogons permit _(0|23456|6449[6-9]|6450[0-9]|6451[01]|42[0-9]{8})_
route-map tested deny 10
 match as-path bogons
route-map tested permit 20
",
            r"
  if bgp_path ~ [0, 23456, 64496..64511, 4200000000..4294967295] then reject;
  accept;
",
        ],
        AllBut("10.10.0.0/16 10.13.0.0/16"),
    ),
    import(
        "paths that are too long",
        [
            r"
policies:
  tested:
  - {match: {asPath: {length: 5-65535}}, action: reject}
  - {otherwise: accept}
",
            r"
bgp as-path access-list long permit ^[0-9]+_[0-9]+_[0-9]+_[0-9]+_[0-9]+
route-map tested deny 10
 match as-path long
route-map tested permit 20
",
            r"
  if bgp_path.len > 4 then reject;
  accept;
",
        ],
        AllBut("10.14.0.0/16"),
    ),
    import(
        "who originates a route",
        [
            r"
policies:
  tested:
  - {match: {asPath: {origin: [8, 9]}}, action: accept}
",
            r"
bgp as-path access-list customers permit _(8|9)$
route-map tested permit 10
 match as-path customers
",
            r"
  if bgp_path.last ~ [8, 9] then accept;
  reject;
",
        ],
        Only("10.14.0.0/16 203.0.113.0/24"),
    ),
    import(
        "the neighbor's own routes",
        [
            r"
policies:
  tested:
  - {match: {asPath: {regex: ['^65001$']}}, action: accept}
",
            r"
bgp as-path access-list direct permit ^65001$
route-map tested permit 10
 match as-path direct
",
            r"
  if bgp_path ~ [= 65001 =] then accept;
  reject;
",
        ],
        AllBut("10.10.0.0/16 10.11.0.0/16 10.13.0.0/16 10.14.0.0/16 203.0.113.0/24"),
    ),
    import(
        "through another AS",
        [
            r"
policies:
  tested:
  - {match: {asPath: {regex: ['_7_']}}, action: accept}
",
            r"
bgp as-path access-list seven permit _7_
route-map tested permit 10
 match as-path seven
",
            r"
  if bgp_path ~ [= * 7 * =] then accept;
  reject;
",
        ],
        Only("10.11.0.0/16 10.14.0.0/16"),
    ),
    import(
        "through one AS and not from another",
        [
            r"
policies:
  tested:
  - {match: {asPath: {contains: [7]}, not: {asPath: {origin: [8]}}}, action: accept}
",
            r"
bgp as-path access-list eight permit _8$
bgp as-path access-list seven permit _7_
route-map tested deny 10
 match as-path eight
route-map tested permit 20
 match as-path seven
",
            r"
  if bgp_path ~ [7] && bgp_path.last != 8 then accept;
  reject;
",
        ],
        Only("10.11.0.0/16"),
    ),
    import(
        "the neighbor AS first, and no more than three",
        [
            r"
policies:
  tested:
  - {match: {asPath: {neighbor: [peer], length: 2-3}}, action: accept}
",
            r"
bgp as-path access-list some permit ^65001_[0-9]+(_[0-9]+)?$
route-map tested permit 10
 match as-path some
",
            r"
  if bgp_path.first = 65001 && bgp_path.len >= 2 && bgp_path.len <= 3 then accept;
  reject;
",
        ],
        Only("10.10.0.0/16 10.11.0.0/16 10.13.0.0/16 203.0.113.0/24"),
    ),
    import(
        "the neighbor AS again",
        [
            r"
policies:
  tested:
  - {match: {communities: ['65001:7']}, set: {prepend: {asn: neighbor, times: 2}}, action: accept}
  - {otherwise: accept}
",
            r"
bgp community-list standard seven permit 65001:7
route-map tested permit 10
 match community seven
 set as-path prepend last-as 2
route-map tested permit 20
",
            r"
  if (65001,7) ~ bgp_community then { bgp_path.prepend(65001); bgp_path.prepend(65001); }
  accept;
",
        ],
        All,
    ),
    import(
        "a foreign AS in front of what came in",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [{in: 203.0.113.0/24}]}, set: {prepend: {asn: 64999}}, action: accept}
  - {otherwise: accept}
",
            r"
ip prefix-list these permit 203.0.113.0/24 le 32
route-map tested permit 10
 match ip address prefix-list these
 set as-path prepend 64999
route-map tested permit 20
",
            r"
  if net ~ [203.0.113.0/24+] then bgp_path.prepend(64999);
  accept;
",
        ],
        All,
    ),
];
