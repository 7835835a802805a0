//! Policies that look at communities, or change them.

use super::Passes::{All, AllBut, Only};
use super::{Case, import};

pub(super) const CASES: &[Case] = &[
    import(
        "one of two communities",
        [
            r"
policies:
  tested:
  - {match: {communities: ['65001:7', '65001:200']}, action: accept}
",
            r"
bgp community-list standard these permit 65001:7
bgp community-list standard these permit 65001:200
route-map tested permit 10
 match community these
",
            r"
  if bgp_community ~ [(65001,7), (65001,200)] then accept;
  reject;
",
        ],
        Only("10.11.0.0/16 203.0.113.0/24 203.0.113.128/26"),
    ),
    import(
        "both communities",
        [
            r"
policies:
  tested:
  - {match: {communities: {all: ['65001:100', '65001:7']}}, action: accept}
",
            r"
bgp community-list standard both permit 65001:100 65001:7
route-map tested permit 10
 match community both
",
            r"
  if (65001,100) ~ bgp_community && (65001,7) ~ bgp_community then accept;
  reject;
",
        ],
        Only("10.11.0.0/16"),
    ),
    import(
        "no community at all",
        [
            r"
policies:
  tested:
  - {match: {communities: {exact: []}}, action: accept}
",
            r"
bgp community-list expanded some permit .+
route-map tested deny 10
 match community some
route-map tested permit 20
",
            r"
  if bgp_community.len > 0 then reject;
  accept;
",
        ],
        AllBut("10.8.1.0/24 10.9.0.0/16 10.9.1.0/24 10.11.0.0/16 203.0.113.0/24 203.0.113.128/26"),
    ),
    import(
        "this community and no other",
        [
            r"
policies:
  tested:
  - {match: {communities: {exact: ['65001:7']}}, action: accept}
",
            r"
bgp community-list standard seven permit 65001:7
route-map tested permit 10
 match community seven exact-match
",
            r"
  if (65001,7) ~ bgp_community && bgp_community.len = 1 then accept;
  reject;
",
        ],
        Only("203.0.113.0/24"),
    ),
    import(
        "preference by communities",
        [
            r"
policies:
  tested:
  - {match: {communities: ['65001:150']}, set: {localPreference: 80}, action: accept}
  - {match: {communities: ['65001:7']}, set: {localPreference: 120}, action: accept}
  - {otherwise: accept}
",
            r"
bgp community-list standard low permit 65001:150
bgp community-list standard high permit 65001:7
route-map tested permit 10
 match community low
 set local-preference 80
route-map tested permit 20
 match community high
 set local-preference 120
route-map tested permit 30
",
            r"
  if (65001,150) ~ bgp_community then { bgp_local_pref = 80; accept; }
  if (65001,7) ~ bgp_community then bgp_local_pref = 120;
  accept;
",
        ],
        All,
    ),
    import(
        "a community written with digits",
        [
            r"
policies:
  tested:
  - {match: {communities: ['65001:1??']}, set: {localPreference: -50}, action: accept}
  - {otherwise: accept}
",
            r"
bgp community-list expanded backup permit 65001:1[0-9][0-9]_
! FRR counts from 0 where there is no LOCAL_PREF.
route-map tested permit 5
 set local-preference 100
 on-match next
route-map tested permit 10
 match community backup
 set local-preference -50
route-map tested permit 20
",
            r"
  if bgp_community ~ [(65001,100..199)] then bgp_local_pref = bgp_local_pref - 50;
  accept;
",
        ],
        All,
    ),
    import(
        "a range of communities",
        [
            r"
policies:
  tested:
  - {match: {communities: ['65001:150-1500']}, action: reject}
  - {otherwise: accept}
",
            r"
bgp community-list expanded range permit _65001:(1[5-9][0-9]|[2-9][0-9][0-9]|1[0-4][0-9][0-9]|1500)_
route-map tested deny 10
 match community range
route-map tested permit 20
",
            r"
  if bgp_community ~ [(65001,150..1500)] then reject;
  accept;
",
        ],
        AllBut("10.8.1.0/24 10.9.0.0/16 10.9.1.0/24 203.0.113.128/26"),
    ),
    import(
        "own communities from outside",
        [
            r"
policies:
  tested:
  - {set: {communities: {remove: ['64512:*']}}, action: continue}
  - {otherwise: accept}
",
            r"
bgp community-list expanded own permit 64512:.*
route-map tested permit 10
 set comm-list own delete
",
            r"
  bgp_community.delete([(64512,*)]);
  accept;
",
        ],
        All,
    ),
    import(
        "own large communities from outside",
        [
            r"
policies:
  tested:
  - {set: {largeCommunities: {remove: ['64512:*:*']}}, action: accept}
",
            r"
bgp large-community-list expanded own permit 64512:.*:.*
route-map tested permit 10
 set large-comm-list own delete
",
            r"
  bgp_large_community.delete([(64512,*,*)]);
  accept;
",
        ],
        All,
    ),
    import(
        "one community in place of all",
        [
            r"
policies:
  tested:
  - {set: {communities: {clear: true, add: ['64512:77']}}, action: accept}
",
            r"
route-map tested permit 10
 set community 64512:77
",
            r"
  bgp_community.empty;
  bgp_community.add((64512,77));
  accept;
",
        ],
        All,
    ),
    import(
        "one community removed, two added",
        [
            r"
policies:
  tested:
  - {set: {communities: {remove: ['65001:7'], add: ['64512:1', '64512:1000']}}, action: accept}
",
            r"
bgp community-list standard seven permit 65001:7
route-map tested permit 10
 set comm-list seven delete
 set community 64512:1 64512:1000 additive
",
            r"
  bgp_community.delete((65001,7));
  bgp_community.add((64512,1));
  bgp_community.add((64512,1000));
  accept;
",
        ],
        All,
    ),
    import(
        "without this community",
        [
            r"
policies:
  tested:
  - {match: {communities: {none: ['65001:666']}}, action: accept}
",
            r"
bgp community-list standard drop permit 65001:666
route-map tested deny 10
 match community drop
route-map tested permit 20
",
            r"
  if (65001,666) ~ bgp_community then reject;
  accept;
",
        ],
        AllBut("10.9.1.0/24"),
    ),
    import(
        "preference by a large community",
        [
            r"
policies:
  tested:
  - {match: {largeCommunities: ['64512:0:65002', '7:8:9']}, set: {localPreference: 200}, action: accept}
  - {otherwise: accept}
",
            r"
bgp large-community-list standard these permit 64512:0:65002
bgp large-community-list standard these permit 7:8:9
route-map tested permit 10
 match large-community these
 set local-preference 200
route-map tested permit 20
",
            r"
  if bgp_large_community ~ [(64512,0,65002), (7,8,9)] then bgp_local_pref = 200;
  accept;
",
        ],
        All,
    ),
    import(
        "any large community of a function",
        [
            r"
policies:
  tested:
  - {match: {largeCommunities: ['64512:0:*']}, action: reject}
  - {otherwise: accept}
",
            r"
bgp large-community-list expanded function permit 64512:0:.*
route-map tested deny 10
 match large-community function
route-map tested permit 20
",
            r"
  if bgp_large_community ~ [(64512,0,*)] then reject;
  accept;
",
        ],
        AllBut("10.11.0.0/16 10.12.0.0/16"),
    ),
    import(
        "where a route came in",
        [
            r"
policies:
  tested:
  - {set: {largeCommunities: {add: ['64512:100:peer']}}, action: accept}
",
            r"
route-map tested permit 10
 set large-community 64512:100:65001 additive
",
            r"
  bgp_large_community.add((64512,100,65001));
  accept;
",
        ],
        All,
    ),
    import(
        "preference by a route target",
        [
            r"
policies:
  tested:
  - {match: {extCommunities: ['rt:65001:10']}, set: {localPreference: 150}, action: accept}
  - {otherwise: accept}
",
            r"
bgp extcommunity-list standard ten permit rt 65001:10
route-map tested permit 10
 match extcommunity ten
 set local-preference 150
route-map tested permit 20
",
            r"
  if (rt,65001,10) ~ bgp_ext_community then bgp_local_pref = 150;
  accept;
",
        ],
        All,
    ),
];
