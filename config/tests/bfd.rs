//! BFD as a peer's configuration makes it.
#![cfg(test)]

use podroute_config::{Bfd, load};

fn bfd(more: &str) -> Bfd {
    let text = format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64512, podCIDRs: [10.244.0.0/16]}}\nnode: {{blocks: [10.244.1.0/24]}}\n\
         peers: [{{name: a, address: 192.0.2.1, asn: 65001, import: all, export: all, {more}}}]\n\
         policies: {{all: accept}}\n"
    );
    load(&text).unwrap().peers[0].bfd.clone().unwrap()
}

/// RFC 5082 §3: a peer at most n hops away.
#[test]
fn the_least_ttl_is_that_of_the_session() {
    for (more, multihop, min_ttl) in [
        ("bfd: {}", false, 0),
        ("bfd: {multihop: true}", true, 0),
        ("multihop: 5, bfd: {}", true, 0),
        ("ttlSecurity: {hops: 3}, bfd: {}", true, 253),
        ("ttlSecurity: {hops: 254}, bfd: {}", true, 2),
        ("ttlSecurity: {hops: 1}, bfd: {multihop: true}", true, 255),
    ] {
        let bfd = bfd(more);
        assert_eq!((bfd.multihop, bfd.min_ttl), (multihop, min_ttl), "{more}");
    }
}
