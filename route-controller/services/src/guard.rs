//! Which addresses no Service may have. Whoever may write a Service chooses its addresses, so that without a guard any tenant draws
//! any traffic (CVE-2020-8554).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bgp_proto::types::Prefix;

use crate::range::Range;

/// What is never an address of a Service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Guard {
    /// Where addresses of Services lie.
    pub ranges: Vec<Range>,
    /// Addresses of pods.
    pub pod_cidrs: Vec<Prefix>,
    /// Addresses of nodes, peers and next hops, and whose each is.
    pub taken: BTreeMap<IpAddr, String>,
}

/// Why an address is refused.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Refusal {
    /// Loopback, link-local, multicast, unspecified or reserved.
    Special,
    /// Of pods.
    PodCidr(Prefix),
    /// Of a node, a peer or a next hop.
    Taken(String),
    /// In no pool and no range.
    Outside,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Special => f.write_str("is a special address (loopback, link-local, multicast, reserved)"),
            Self::PodCidr(cidr) => write!(f, "lies in the pod CIDR {cidr}"),
            Self::Taken(whose) => write!(f, "is the address {whose}"),
            Self::Outside => f.write_str(
                "lies outside services.ranges and services.pools; add its range there if it is yours to announce",
            ),
        }
    }
}

impl Guard {
    /// Whether a Service may have the address.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, addr: IpAddr) -> Result<(), Refusal> {
        if let Some((refusal, _)) = self.refused_until(addr) {
            return Err(refusal);
        }
        let is_inside = self.ranges.iter().any(|range| range.contains(addr));
        is_inside.then_some(()).ok_or(Refusal::Outside)
    }

    /// Why the address is never one of a Service, and up to which address the same holds.
    pub(crate) fn refused_until(&self, addr: IpAddr) -> Option<(Refusal, IpAddr)> {
        if let Some(last) = special(addr) {
            return Some((Refusal::Special, last));
        }
        if let Some(cidr) = self.pod_cidrs.iter().find(|cidr| cidr.contains_addr(addr)) {
            return Some((Refusal::PodCidr(*cidr), Range::from(*cidr).last()));
        }
        let whose = self.taken.get(&addr)?;
        Some((Refusal::Taken(whose.clone()), addr))
    }
}

/// A special address of the range, if it has one.
#[must_use]
pub fn special_in(range: &Range) -> Option<IpAddr> {
    let starts = [
        "0.0.0.0",
        "127.0.0.0",
        "169.254.0.0",
        "224.0.0.0",
        "::",
        "::ffff:0:0",
        "fe80::",
        "ff00::",
    ];
    let starts = starts.into_iter().filter_map(|text| text.parse().ok());
    let mut all = std::iter::once(range.first()).chain(starts.filter(|addr| range.contains(*addr)));
    all.find(|addr| special(*addr).is_some())
}

/// The last address of the special range that the address lies in (RFC 6890).
fn special(addr: IpAddr) -> Option<IpAddr> {
    match addr {
        IpAddr::V4(v4) => {
            let ranges = [
                ([0, 0, 0, 0], [0, 255, 255, 255]),
                ([127, 0, 0, 0], [127, 255, 255, 255]),
                ([169, 254, 0, 0], [169, 254, 255, 255]),
                ([224, 0, 0, 0], [255, 255, 255, 255]),
            ];
            let all = ranges.map(|(first, last)| (Ipv4Addr::from(first), Ipv4Addr::from(last)));
            let found = all
                .into_iter()
                .find(|(first, last)| (first..=last).contains(&&v4));
            found.map(|(_, last)| last.into())
        }
        IpAddr::V6(v6) => {
            let ranges = [
                (0, 1),
                (0xffff_0000_0000, 0xffff_ffff_ffff),
                (0xfe80 << 112, (0xfec0 << 112) - 1),
                (0xff00 << 112, u128::MAX),
            ];
            let mut ranges = ranges.into_iter();
            let found = ranges.find(|(first, last)| (first..=last).contains(&&v6.to_bits()));
            found.map(|(_, last)| Ipv6Addr::from_bits(last).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_of_a_range_are_found() {
        let has = |text: &str| special_in(&text.parse().unwrap()).is_some();
        assert!(
            has("126.255.255.255-127.0.0.0")
                && has("169.254.9.0/24")
                && has("fe00::/8")
                && has("220.0.0.0-230.0.0.0")
        );
        assert!(!has("192.0.2.0/24") && !has("2001:db8::/32") && !has("1.0.0.0-126.255.255.255"));
    }

    #[test]
    fn only_ordinary_addresses_inside_ranges_pass() {
        let guard = Guard {
            ranges: vec!["0.0.0.0/0".parse::<Range>().unwrap(), "::/0".parse().unwrap()],
            pod_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            taken: [("192.0.2.11".parse().unwrap(), "of node node-1".to_owned())].into(),
        };
        for (addr, refused) in [
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("127.1.2.3", true),
            ("169.254.0.1", true),
            ("224.0.0.5", true),
            ("240.0.0.1", true),
            ("255.255.255.255", true),
            ("::", true),
            ("::1", true),
            ("::ffff:192.0.2.1", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("ff02::1", true),
            ("10.244.7.1", true),
            ("192.0.2.11", true),
            ("192.0.2.12", false),
            ("::2", false),
            ("fec0::1", false),
            ("2001:db8::1", false),
            ("223.255.255.255", false),
        ] {
            assert_eq!(guard.check(addr.parse().unwrap()).is_err(), refused, "{addr}");
        }
        let narrow = Guard {
            ranges: vec!["192.0.2.0/28".parse().unwrap()],
            ..Guard::default()
        };
        assert_eq!(narrow.check("192.0.2.15".parse().unwrap()), Ok(()));
        assert_eq!(narrow.check("192.0.2.16".parse().unwrap()), Err(Refusal::Outside));
    }
}
