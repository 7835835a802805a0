//! Policies that look at other attributes, or change them.

use super::Passes::{All, AllBut, Only};
use super::{Case, import};

pub(super) const CASES: &[Case] = &[
    import(
        "preference by prefix",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [{in: 10.8.0.0/16}]}, set: {localPreference: 300}, action: accept}
  - {otherwise: accept}
",
            r"
ip prefix-list these permit 10.8.0.0/16 le 32
route-map tested permit 10
 match ip address prefix-list these
 set local-preference 300
route-map tested permit 20
",
            r"
  if net ~ [10.8.0.0/16+] then bgp_local_pref = 300;
  accept;
",
        ],
        All,
    ),
    import(
        "more preference for all",
        [
            r"
policies:
  tested:
  - {set: {localPreference: +50}, action: accept}
",
            r"
! FRR counts from 0 where there is no LOCAL_PREF.
route-map tested permit 5
 set local-preference 100
 on-match next
route-map tested permit 10
 set local-preference +50
",
            r"
  bgp_local_pref = bgp_local_pref + 50;
  accept;
",
        ],
        All,
    ),
    import(
        "one MED for all",
        [
            r"
policies:
  tested:
  - {set: {med: 70}, action: accept}
",
            r"
route-map tested permit 10
 set metric 70
",
            r"
  bgp_med = 70;
  accept;
",
        ],
        All,
    ),
    import(
        "a MED and more",
        [
            r"
policies:
  tested:
  - {match: {med: 5}, set: {med: +10}, action: accept}
  - {match: {med: 50}, action: reject}
  - {otherwise: accept}
",
            r"
route-map tested permit 10
 match metric 5
 set metric +10
route-map tested deny 20
 match metric 50
route-map tested permit 30
",
            r"
  if defined(bgp_med) then {
    if bgp_med = 50 then reject;
    if bgp_med = 5 then bgp_med = bgp_med + 10;
  }
  accept;
",
        ],
        AllBut("172.17.0.0/16"),
    ),
    import(
        "an origin",
        [
            r"
policies:
  tested:
  - {match: {origin: [incomplete]}, action: accept}
",
            r"
route-map tested permit 10
 match origin incomplete
",
            r"
  if bgp_origin = ORIGIN_INCOMPLETE then accept;
  reject;
",
        ],
        Only("172.17.0.0/16"),
    ),
    import(
        "another origin",
        [
            r"
policies:
  tested:
  - {match: {origin: [igp]}, set: {origin: egp}, action: accept}
  - {set: {origin: igp}, action: accept}
",
            r"
route-map tested permit 10
 match origin igp
 set origin egp
route-map tested permit 20
 set origin igp
",
            r"
  if bgp_origin = ORIGIN_IGP then bgp_origin = ORIGIN_EGP; else bgp_origin = ORIGIN_IGP;
  accept;
",
        ],
        All,
    ),
    import(
        "another next hop",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [{in: 203.0.113.0/24}]}, set: {nextHop: 192.0.2.77}, action: accept}
  - {otherwise: accept}
",
            r"
ip prefix-list these permit 203.0.113.0/24 le 32
route-map tested permit 10
 match ip address prefix-list these
 set ip next-hop 192.0.2.77
route-map tested permit 20
",
            r"
  if net ~ [203.0.113.0/24+] then bgp_next_hop = 192.0.2.77;
  accept;
",
        ],
        All,
    ),
    import(
        "a next hop of this network",
        [
            r"
policies:
  tested:
  - {match: {nextHops: [192.0.2.0/24], prefixes: [{in: 10.8.0.0/15}]}, action: accept}
",
            r"
ip prefix-list network permit 192.0.2.0/24 le 32
ip prefix-list these permit 10.8.0.0/15 le 32
route-map tested permit 10
 match ip next-hop prefix-list network
 match ip address prefix-list these
",
            r"
  if bgp_next_hop ~ 192.0.2.0/24 && net ~ [10.8.0.0/15+] then accept;
  reject;
",
        ],
        Only("10.8.0.0/16 10.8.1.0/24 10.8.2.0/25 10.8.3.3/32 10.9.0.0/16 10.9.1.0/24"),
    ),
    import(
        "neither of two things",
        [
            r"
policies:
  tested:
  - match: {none: [{communities: ['65001:7']}, {asPath: {contains: [64500]}}, {prefixes: [{in: 10.8.0.0/15}]}]}
    set: {localPreference: 150}
    action: accept
  - {otherwise: accept}
",
            r"
bgp community-list standard seven permit 65001:7
bgp as-path access-list foreign permit _64500_
ip prefix-list these permit 10.8.0.0/15 le 32
route-map tested permit 10
 match community seven
route-map tested permit 20
 match as-path foreign
route-map tested permit 30
 match ip address prefix-list these
route-map tested permit 40
 set local-preference 150
",
            r"
  if !((65001,7) ~ bgp_community || bgp_path ~ [64500] || net ~ [10.8.0.0/15+]) then bgp_local_pref = 150;
  accept;
",
        ],
        All,
    ),
    import(
        "either of two pairs",
        [
            r"
policies:
  tested:
  - match:
      any:
      - {prefixes: [{in: 10.8.0.0/13}], communities: ['65001:7']}
      - {asPath: {origin: [9]}, largeCommunities: ['7:8:9']}
    set: {localPreference: 90, med: 3, communities: {add: ['64512:90']}}
    action: accept
  - {otherwise: reject}
",
            r"
ip prefix-list these permit 10.8.0.0/13 le 32
bgp community-list standard seven permit 65001:7
bgp as-path access-list nine permit _9$
bgp large-community-list standard large permit 7:8:9
route-map tested permit 10
 match ip address prefix-list these
 match community seven
 set local-preference 90
 set metric 3
 set community 64512:90 additive
route-map tested permit 20
 match as-path nine
 match large-community large
 set local-preference 90
 set metric 3
 set community 64512:90 additive
",
            r"
  if (net ~ [10.8.0.0/13+] && (65001,7) ~ bgp_community) || (bgp_path.last = 9 && (7,8,9) ~ bgp_large_community) then {
    bgp_local_pref = 90;
    bgp_med = 3;
    bgp_community.add((64512,90));
    accept;
  }
  reject;
",
        ],
        Only("10.11.0.0/16 203.0.113.0/24"),
    ),
];
