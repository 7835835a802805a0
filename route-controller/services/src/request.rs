//! What a Service asks for: `spec.loadBalancerIP` and annotations.

use std::collections::BTreeMap;
use std::net::IpAddr;

/// Annotations of a Service.
pub type Annotations = BTreeMap<String, String>;

/// Whose annotations are read beside those of podroute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Compatibility {
    /// MetalLB: `metallb.io/…` and `metallb.universe.tf/…`.
    Metallb,
    /// Cilium: `lbipam.cilium.io/…` and `io.cilium/…`.
    Cilium,
}

/// What a Service asks for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Request {
    /// These addresses.
    pub addresses: Vec<IpAddr>,
    /// An address of this pool.
    pub pool: Option<String>,
    /// An address is shared with Services of the same key.
    pub share: Option<String>,
    /// What is no address where one should be.
    pub unreadable: Vec<String>,
}

const ADDRESSES: &str = "podroute/addresses";
const POOL: &str = "podroute/pool";
const SHARE: &str = "podroute/share";

impl Request {
    /// Of `spec.loadBalancerIP` and the annotations. Podroute's own annotation wins over others, and any annotation over the field.
    #[must_use]
    pub fn read(field: Option<&str>, annotations: &Annotations, compatibility: &[Compatibility]) -> Self {
        let first = |own: &'static str, of: fn(Compatibility) -> &'static [&'static str]| {
            let others = compatibility.iter().flat_map(move |other| of(*other)).copied();
            let mut names = std::iter::once(own).chain(others);
            names
                .find_map(|name| annotations.get(name))
                .map(|text| text.trim())
                .filter(|text| !text.is_empty())
        };
        let wanted = first(ADDRESSES, addresses_of).or(field).unwrap_or_default();
        let mut request = Self {
            pool: first(POOL, pool_of).map(str::to_owned),
            share: first(SHARE, share_of).map(str::to_owned),
            ..Self::default()
        };
        for text in wanted.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match text.parse() {
                Ok(addr) => request.addresses.push(addr),
                Err(_) => request.unreadable.push(text.to_owned()),
            }
        }
        request
    }
}

fn addresses_of(other: Compatibility) -> &'static [&'static str] {
    match other {
        Compatibility::Metallb => &[
            "metallb.io/loadBalancerIPs",
            "metallb.universe.tf/loadBalancerIPs",
        ],
        Compatibility::Cilium => &["lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"],
    }
}

fn pool_of(other: Compatibility) -> &'static [&'static str] {
    match other {
        Compatibility::Metallb => &["metallb.io/address-pool", "metallb.universe.tf/address-pool"],
        // Cilium's pools select Services, and not the other way round.
        Compatibility::Cilium => &[],
    }
}

fn share_of(other: Compatibility) -> &'static [&'static str] {
    match other {
        Compatibility::Metallb => &[
            "metallb.io/allow-shared-ip",
            "metallb.universe.tf/allow-shared-ip",
        ],
        Compatibility::Cilium => &["lbipam.cilium.io/sharing-key", "io.cilium/lb-ipam-sharing-key"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: Option<&str>, list: &[(&str, &str)], compatibility: &[Compatibility]) -> Request {
        let annotations = list
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Request::read(field, &annotations, compatibility)
    }

    #[test]
    fn annotations_win_over_the_field() {
        let both = read(
            Some("192.0.2.1"),
            &[("podroute/addresses", "192.0.2.2, 2001:db8::2,x")],
            &[],
        );
        assert_eq!(
            both.addresses,
            ["192.0.2.2", "2001:db8::2"].map(|text| text.parse::<IpAddr>().unwrap())
        );
        assert_eq!(both.unreadable, ["x"]);
        assert_eq!(
            read(Some("192.0.2.1"), &[], &[]).addresses,
            ["192.0.2.1".parse::<IpAddr>().unwrap()]
        );
        assert_eq!(read(Some(""), &[("podroute/pool", " ")], &[]), Request::default());
    }

    #[test]
    fn annotations_of_others_are_read_where_that_is_wanted() {
        let list = [
            ("metallb.universe.tf/loadBalancerIPs", "192.0.2.3"),
            ("metallb.io/address-pool", "edge"),
            ("io.cilium/lb-ipam-sharing-key", "k"),
        ];
        assert_eq!(read(None, &list, &[]), Request::default());
        let metallb = read(None, &list, &[Compatibility::Metallb]);
        assert_eq!(
            (metallb.addresses.len(), metallb.pool.as_deref(), metallb.share),
            (1, Some("edge"), None)
        );
        let cilium = read(None, &list, &[Compatibility::Cilium]);
        assert_eq!(
            (cilium.addresses.len(), cilium.pool, cilium.share.as_deref()),
            (0, None, Some("k"))
        );
    }
}
