//! Policies that look at prefixes.

use super::Passes::{AllBut, Only};
use super::{Case, import};

pub(super) const CASES: &[Case] = &[
    import(
        "the default route alone",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [0.0.0.0/0]}, action: accept}
",
            r"
ip prefix-list default permit 0.0.0.0/0
route-map tested permit 10
 match ip address prefix-list default
",
            r"
  if net = 0.0.0.0/0 then accept;
  reject;
",
        ],
        Only("0.0.0.0/0"),
    ),
    import(
        "prefixes that nobody should announce",
        [
            r"
lists:
  bogons: {prefixes: [{in: 100.64.0.0/10}, {in: 172.16.0.0/12}, {in: 192.168.0.0/16}]}
policies:
  tested:
  - {match: {prefixes: $bogons}, action: reject}
  - {otherwise: accept}
",
            r"
ip prefix-list bogons permit 100.64.0.0/10 le 32
ip prefix-list bogons permit 172.16.0.0/12 le 32
ip prefix-list bogons permit 192.168.0.0/16 le 32
route-map tested deny 10
 match ip address prefix-list bogons
route-map tested permit 20
",
            r"
  if net ~ [100.64.0.0/10+, 172.16.0.0/12+, 192.168.0.0/16+] then reject;
  accept;
",
        ],
        AllBut("100.64.0.0/16 172.16.0.0/16 172.17.0.0/16 192.168.7.0/24"),
    ),
    import(
        "nothing longer than 24 bits",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [{in: 0.0.0.0/0, length: 25-32}]}, action: reject}
  - {otherwise: accept}
",
            r"
ip prefix-list long permit 0.0.0.0/0 ge 25
route-map tested deny 10
 match ip address prefix-list long
route-map tested permit 20
",
            r"
  if net.len > 24 then reject;
  accept;
",
        ],
        AllBut("10.8.2.0/25 10.8.3.3/32 203.0.113.128/26"),
    ),
    import(
        "these and not what is inside them",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [10.8.0.0/16, 203.0.113.0/24]}, action: accept}
",
            r"
ip prefix-list these permit 10.8.0.0/16
ip prefix-list these permit 203.0.113.0/24
route-map tested permit 10
 match ip address prefix-list these
",
            r"
  if net ~ [10.8.0.0/16, 203.0.113.0/24] then accept;
  reject;
",
        ],
        Only("10.8.0.0/16 203.0.113.0/24"),
    ),
    import(
        "a range of lengths",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [{in: 10.8.0.0/13, length: 16-24}]}, action: accept}
",
            r"
ip prefix-list range permit 10.8.0.0/13 ge 16 le 24
route-map tested permit 10
 match ip address prefix-list range
",
            r"
  if net ~ [10.8.0.0/13{16,24}] then accept;
  reject;
",
        ],
        Only(
            "10.8.0.0/16 10.8.1.0/24 10.9.0.0/16 10.9.1.0/24 10.10.0.0/16 10.11.0.0/16 10.12.0.0/16 10.13.0.0/16 10.14.0.0/16 \
             10.15.0.0/16",
        ),
    ),
    import(
        "a list of lists with other lengths",
        [
            r"
lists:
  first: {prefixes: [10.8.0.0/16]}
  both: {prefixes: [$first, 10.9.0.0/16]}
policies:
  tested:
  - {match: {prefixes: [{in: $both, length: 24}]}, action: accept}
",
            r"
ip prefix-list both permit 10.8.0.0/16 ge 24 le 24
ip prefix-list both permit 10.9.0.0/16 ge 24 le 24
route-map tested permit 10
 match ip address prefix-list both
",
            r"
  if net ~ [10.8.0.0/16{24,24}, 10.9.0.0/16{24,24}] then accept;
  reject;
",
        ],
        Only("10.8.1.0/24 10.9.1.0/24"),
    ),
    import(
        "one accepted before the range around it is rejected",
        [
            r"
policies:
  tested:
  - {match: {prefixes: [10.9.1.0/24]}, action: accept}
  - {match: {prefixes: [{in: 10.0.0.0/8}]}, action: reject}
  - {otherwise: accept}
",
            r"
ip prefix-list one permit 10.9.1.0/24
ip prefix-list around permit 10.0.0.0/8 le 32
route-map tested permit 10
 match ip address prefix-list one
route-map tested deny 20
 match ip address prefix-list around
route-map tested permit 30
",
            r"
  if net = 10.9.1.0/24 then accept;
  if net ~ [10.0.0.0/8+] then reject;
  accept;
",
        ],
        Only(
            "0.0.0.0/0 10.9.1.0/24 100.64.0.0/16 172.16.0.0/16 172.17.0.0/16 192.168.7.0/24 203.0.113.0/24 203.0.113.128/26",
        ),
    ),
    import(
        "common rules first",
        [
            r"
policies:
  hygiene:
  - {match: {prefixes: [{in: 192.168.0.0/16}]}, action: reject}
  - {match: {communities: ['65001:666']}, action: reject}
  - {set: {communities: {remove: ['64512:*']}}, action: continue}
  tested:
  - {apply: hygiene}
  - {match: {prefixes: [{in: 203.0.113.0/24}]}, set: {localPreference: 200}, action: accept}
  - {otherwise: accept}
",
            r"
ip prefix-list private permit 192.168.0.0/16 le 32
ip prefix-list preferred permit 203.0.113.0/24 le 32
bgp community-list standard drop permit 65001:666
bgp community-list expanded own permit 64512:.*
route-map hygiene deny 10
 match ip address prefix-list private
route-map hygiene deny 20
 match community drop
route-map hygiene permit 30
 set comm-list own delete
route-map tested permit 10
 match ip address prefix-list preferred
 call hygiene
 set local-preference 200
route-map tested permit 20
 call hygiene
",
            r"
  if net ~ [192.168.0.0/16+] then reject;
  if (65001,666) ~ bgp_community then reject;
  bgp_community.delete([(64512,*)]);
  if net ~ [203.0.113.0/24+] then bgp_local_pref = 200;
  accept;
",
        ],
        AllBut("192.168.7.0/24 10.9.1.0/24"),
    ),
];
