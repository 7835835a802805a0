//! Addresses that `ipBlock` peers allow, as ranges that do not overlap, each with its ports.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ports::{PortRange, PortSet};

/// Addresses from one to another, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange {
    pub first: IpAddr,
    pub last: IpAddr,
}

impl AddressRange {
    /// Every address of a family.
    fn of(net: IpNet) -> Self {
        Self {
            first: net.network(),
            last: net.broadcast(),
        }
    }

    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

/// Ranges of one family and ports, unordered and overlapping.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    spans: Vec<Span>,
}

/// Numbers make both families alike.
#[derive(Debug, Clone)]
struct Span {
    is_v4: bool,
    first: u128,
    last: u128,
    ports: Vec<PortRange>,
}

impl BlockBuilder {
    /// Addresses of `cidr` that are in none of `except`.
    pub(crate) fn add(&mut self, cidr: IpNet, except: &[IpNet], ports: &[PortRange]) {
        let is_v4 = cidr.addr().is_ipv4();
        let whole = AddressRange::of(cidr);
        let (mut from, end) = (bits(whole.first), bits(whole.last));
        let mut holes: Vec<(u128, u128)> = except
            .iter()
            .filter(|net| net.addr().is_ipv4() == is_v4)
            .map(|net| AddressRange::of(*net))
            .map(|hole| (bits(hole.first), bits(hole.last)))
            .collect();
        holes.sort_unstable();
        let mut push = |first: u128, last: u128| {
            self.spans.push(Span {
                is_v4,
                first,
                last,
                ports: ports.to_vec(),
            });
        };
        for (first, last) in holes {
            if last < from {
                continue;
            }
            if first > end {
                break;
            }
            if first > from {
                push(from, first - 1);
            }
            match last.checked_add(1).filter(|next| *next <= end) {
                Some(next) => from = next,
                None => return,
            }
        }
        push(from, end);
    }

    /// Ranges that do not overlap, sorted; neighbours with the same ports are one.
    pub(crate) fn build(self) -> Vec<(AddressRange, PortSet)> {
        let (v4, v6): (Vec<Span>, Vec<Span>) = self.spans.into_iter().partition(|span| span.is_v4);
        let mut all = sweep(&v4, true);
        all.extend(sweep(&v6, false));
        all
    }
}

/// Cuts at every edge, joins the ports of all spans that cover a piece, and joins equal neighbours.
fn sweep(spans: &[Span], is_v4: bool) -> Vec<(AddressRange, PortSet)> {
    let starts = spans.iter().map(|span| span.first);
    let ends = spans.iter().filter_map(|span| span.last.checked_add(1));
    let mut edges: Vec<u128> = starts.chain(ends).collect();
    edges.sort_unstable();
    edges.dedup();
    let mut sorted: Vec<&Span> = spans.iter().collect();
    sorted.sort_unstable_by_key(|span| span.first);
    let mut pieces: Vec<(u128, u128, PortSet)> = Vec::new();
    let mut active: Vec<&Span> = Vec::new();
    let mut waiting = sorted.into_iter().peekable();
    let mut following = edges.iter().skip(1).copied();
    for edge in &edges {
        let next = following.next();
        while let Some(span) = waiting.next_if(|span| span.first <= *edge) {
            active.push(span);
        }
        active.retain(|span| span.last >= *edge);
        let ports: PortSet = active
            .iter()
            .flat_map(|span| span.ports.iter().copied())
            .collect();
        if ports.is_empty() {
            continue;
        }
        let longest = active.iter().map(|span| span.last).max().unwrap_or(*edge);
        let last = next.map_or(longest, |next| next - 1);
        match pieces.last_mut() {
            Some(piece) if piece.1.checked_add(1) == Some(*edge) && piece.2 == ports => piece.1 = last,
            _ => pieces.push((*edge, last, ports)),
        }
    }
    let range = |first, last| AddressRange {
        first: address(first, is_v4),
        last: address(last, is_v4),
    };
    pieces
        .into_iter()
        .map(|(first, last, ports)| (range(first, last), ports))
        .collect()
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn address(bits: u128, is_v4: bool) -> IpAddr {
    match u32::try_from(bits) {
        Ok(low) if is_v4 => IpAddr::V4(low.into()),
        _ => IpAddr::V6(bits.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        (0..16_u8, 26..=32_u8).prop_map(|(low, length)| {
            let address = IpAddr::from([10, 0, 0, low * 16]);
            IpNet::new(address, length).unwrap().trunc()
        })
    }

    type Rule = (IpNet, Vec<IpNet>, u16);

    fn rules() -> impl Strategy<Value = Vec<Rule>> {
        proptest::collection::vec((net(), proptest::collection::vec(net(), 0..3), 1..3_u16), 0..5)
    }

    proptest! {
        #[test]
        fn ranges_hold_what_the_blocks_say(rules in rules()) {
            let mut builder = BlockBuilder::default();
            for (cidr, except, port) in &rules {
                builder.add(*cidr, except, &[PortRange { protocol: Some(6), from: *port, to: *port }]);
            }
            let built = builder.build();
            for low in 0..=255 {
                let address = IpAddr::from([10, 0, 0, low]);
                for port in 1..3 {
                    let allowed = rules.iter().any(|(cidr, except, own)| {
                        *own == port && cidr.contains(&address) && !except.iter().any(|net| net.contains(&address))
                    });
                    let found = built.iter().filter(|(range, _)| range.contains(address)).collect::<Vec<_>>();
                    prop_assert!(found.len() <= 1);
                    prop_assert_eq!(found.iter().any(|(_, ports)| ports.contains(6, port)), allowed);
                }
            }
        }
    }

    #[test]
    fn everything_but_the_last_address() {
        let mut builder = BlockBuilder::default();
        builder.add(
            "::/0".parse().unwrap(),
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap()],
            &[PortRange::ALL],
        );
        builder.add("0.0.0.0/0".parse().unwrap(), &[], &[PortRange::ALL]);
        let built = builder.build();
        assert_eq!(built.len(), 2);
        assert_eq!(built[0].0.last, "255.255.255.255".parse::<IpAddr>().unwrap());
        assert_eq!(
            built[1].0.last,
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"
                .parse::<IpAddr>()
                .unwrap()
        );
    }
}
