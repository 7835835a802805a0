//! Policies of what is sent.

use super::Passes::{All, AllBut, Only};
use super::{Case, export};

pub(super) const CASES: &[Case] = &[
    export(
        "own AS three times more",
        [
            r"
policies:
  tested:
  - {match: {to: {asns: [65003]}}, set: {prepend: 3}, action: accept}
",
            r"
route-map tested permit 10
 set as-path prepend 64512 64512 64512
",
            r"
  bgp_path.prepend(64512);
  bgp_path.prepend(64512);
  bgp_path.prepend(64512);
  accept;
",
        ],
        All,
    ),
    export(
        "a foreign AS behind the own one",
        [
            r"
policies:
  tested:
  - {match: {communities: ['65001:7']}, set: {prepend: {asn: 64999, times: 2}}, action: accept}
  - {otherwise: accept}
",
            r"
bgp community-list standard seven permit 65001:7
route-map tested permit 10
 match community seven
 set as-path prepend 64999 64999
route-map tested permit 20
",
            r"
  if (65001,7) ~ bgp_community then { bgp_path.prepend(64999); bgp_path.prepend(64999); }
  accept;
",
        ],
        All,
    ),
    export(
        "not to this AS",
        [
            r"
policies:
  tested:
  - {match: {largeCommunities: ['64512:0:peer', '64512:0:0']}, action: reject}
  - {otherwise: accept}
",
            r"
bgp large-community-list standard not-here permit 64512:0:65003
bgp large-community-list standard not-here permit 64512:0:0
route-map tested deny 10
 match large-community not-here
route-map tested permit 20
",
            r"
  if bgp_large_community ~ [(64512,0,65003), (64512,0,0)] then reject;
  accept;
",
        ],
        AllBut("10.12.0.0/16"),
    ),
    export(
        "a MED by community",
        [
            r"
policies:
  tested:
  - {match: {communities: ['65001:1??']}, set: {med: 200}, action: accept}
  - {set: {med: 100}, action: accept}
",
            r"
bgp community-list expanded backup permit 65001:1[0-9][0-9]_
route-map tested permit 10
 match community backup
 set metric 200
route-map tested permit 20
 set metric 100
",
            r"
  if bgp_community ~ [(65001,100..199)] then bgp_med = 200; else bgp_med = 100;
  accept;
",
        ],
        All,
    ),
    export(
        "without own communities, with a new one",
        [
            r"
policies:
  tested:
  - set:
      communities: {remove: ['64512:*'], add: ['64512:3000']}
      largeCommunities: {remove: ['64512:*:*']}
      origin: incomplete
    action: accept
",
            r"
bgp community-list expanded own permit 64512:.*
bgp large-community-list expanded own permit 64512:.*:.*
route-map tested permit 10
 set comm-list own delete
 set community 64512:3000 additive
 set large-comm-list own delete
 set origin incomplete
",
            r"
  bgp_community.delete([(64512,*)]);
  bgp_community.add((64512,3000));
  bgp_large_community.delete([(64512,*,*)]);
  bgp_origin = ORIGIN_INCOMPLETE;
  accept;
",
        ],
        All,
    ),
    export(
        "another router as next hop",
        [
            r"
policies:
  tested:
  - {set: {nextHop: 198.51.100.77}, action: accept}
",
            r"
route-map tested permit 10
 set ip next-hop 198.51.100.77
",
            r"
  bgp_next_hop = 198.51.100.77;
  accept;
",
        ],
        All,
    ),
    export(
        "a route target",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [{in: 10.8.0.0/16}]}, set: {extCommunities: {add: ['rt:64512:44']}}, action: accept}
",
            r"
ip prefix-list these permit 10.8.0.0/16 le 32
route-map tested permit 10
 match ip address prefix-list these
 set extcommunity rt 64512:44
",
            r"
  if net ~ [10.8.0.0/16+] then { bgp_ext_community.add((rt,64512,44)); accept; }
  reject;
",
        ],
        Only("10.8.0.0/16 10.8.1.0/24 10.8.2.0/25 10.8.3.3/32"),
    ),
    export(
        "no route targets to others",
        [
            r"
policies:
  tested:
  - {set: {extCommunities: {clear: true}}, action: accept}
",
            r"
route-map tested permit 10
 set extcommunity none
",
            r"
  bgp_ext_community.empty;
  accept;
",
        ],
        All,
    ),
    export(
        "a short path for customers' routes alone",
        [
            r"
policies:
  tested:
  - {match: {asPath: {length: 1-2}, prefixes: [{in: 10.0.0.0/8, length: 16-24}]}, action: accept}
  - {match: {communities: ['65001:7']}, set: {prepend: 1, med: 10}, action: accept}
",
            r"
bgp as-path access-list short permit ^[0-9]+(_[0-9]+)?$
ip prefix-list these permit 10.0.0.0/8 ge 16 le 24
bgp community-list standard seven permit 65001:7
route-map tested permit 10
 match as-path short
 match ip address prefix-list these
route-map tested permit 20
 match community seven
 set as-path prepend 64512
 set metric 10
",
            r"
  if bgp_path.len <= 2 && net ~ [10.0.0.0/8{16,24}] then accept;
  if (65001,7) ~ bgp_community then { bgp_path.prepend(64512); bgp_med = 10; accept; }
  reject;
",
        ],
        Only(
            "10.8.0.0/16 10.8.1.0/24 10.9.0.0/16 10.9.1.0/24 10.10.0.0/16 10.11.0.0/16 10.12.0.0/16 10.13.0.0/16 10.15.0.0/16 \
             203.0.113.0/24",
        ),
    ),
];
