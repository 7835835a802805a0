//! The order in which the kernel has the least work with many routes (ADR 14).
//!
//! Linux keeps IPv4 routes in a trie whose nodes grow and shrink with what they hold. Neighbors one after another make it build
//! many small nodes at the edge of what is there, and split and join large ones again and again; prefixes spread evenly over what will be
//! there, each time halfway between those before, fill places that are there already. Numbers are in that order when
//! their bits are, read from the lowest: 0, 4, 2, 6, 1, 5, 3, 7 (van der Corput's sequence). 100,000 neighbors take two
//! thirds of the time to add and a third to remove, and the trie that comes of it is the same.
//!
//! IPv6 routes stand in a tree that never changes its shape; neighbors one after another find their way to it in the caches.

use std::net::IpAddr;

use super::route::RouteKey;

/// Sorts routes that are all to be added or removed.
pub(super) fn sort(keys: &mut [RouteKey]) {
    keys.sort_by_cached_key(place);
}

/// IPv4 before IPv6, of which the half that distinguishes subnets is enough.
fn place(key: &RouteKey) -> (bool, u64) {
    match key.prefix.addr() {
        IpAddr::V4(addr) => (false, u64::from(u32::from(addr).reverse_bits())),
        IpAddr::V6(addr) => (true, (u128::from(addr) >> 64) as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(prefixes: &[&str]) -> Vec<String> {
        let mut keys: Vec<RouteKey> = prefixes
            .iter()
            .map(|text| RouteKey {
                prefix: text.parse().unwrap(),
                metric: 20,
                table: 254,
            })
            .collect();
        sort(&mut keys);
        keys.iter().map(|key| key.prefix.to_string()).collect()
    }

    #[test]
    fn neighbors_are_spread() {
        let list: Vec<String> = (0..8).map(|number| format!("10.0.{number}.0/24")).collect();
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        let third = |text: &String| text.split('.').nth(2).unwrap().parse().unwrap();
        let order: Vec<u8> = sorted(&list).iter().map(third).collect();
        assert_eq!(order, [0, 4, 2, 6, 1, 5, 3, 7]);
    }

    #[test]
    fn routes_of_one_prefix_keep_their_order() {
        let key = |metric| RouteKey {
            prefix: "10.0.0.0/24".parse().unwrap(),
            metric,
            table: 254,
        };
        let mut keys = [key(30), key(20), key(25)];
        sort(&mut keys);
        assert_eq!(
            keys.map(|key| key.metric),
            [30, 20, 25],
            "the new one comes before the old one goes"
        );
    }

    #[test]
    fn ipv6_stays_in_order_behind_ipv4() {
        assert_eq!(
            sorted(&[
                "fd00:2::/64",
                "fd00:1:0:1::/64",
                "fd00:1::/64",
                "10.0.1.0/24",
                "10.0.0.0/24"
            ]),
            [
                "10.0.0.0/24",
                "10.0.1.0/24",
                "fd00:1::/64",
                "fd00:1:0:1::/64",
                "fd00:2::/64"
            ]
        );
    }
}
