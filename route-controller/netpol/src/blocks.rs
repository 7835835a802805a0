//! Addresses that `ipBlock` peers allow, as ranges that do not overlap, each with its ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

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

/// The largest list that is compiled: the sum of each range's ranges of ports, where blocks overlap those of all of them.
/// Overlaps multiply: 5,000 ports of everybody and 5,000 addresses with one more port each are 50 million pieces.
pub(crate) const MAX_PIECES: usize = 1 << 18;

/// Blocks that are more than [`MAX_PIECES`] when they are compiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TooMany;

/// Ranges of one family and ports, unordered and overlapping.
#[derive(Debug, Default)]
pub(crate) struct BlockBuilder {
    spans: Vec<Span>,
    /// Ranges of addresses times ranges of ports, before overlaps are cut.
    size: usize,
}

/// Numbers make both families alike.
#[derive(Debug, Clone)]
struct Span {
    is_v4: bool,
    first: u128,
    last: u128,
    ports: Rc<[PortRange]>,
}

impl BlockBuilder {
    /// Addresses of `cidr` that are in none of `except`.
    pub(crate) fn add(&mut self, cidr: IpNet, except: &[IpNet], ports: &Rc<[PortRange]>) {
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
            self.size += ports.len();
            self.spans.push(Span {
                is_v4,
                first,
                last,
                ports: Rc::clone(ports),
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

    /// Ranges that do not overlap, sorted; neighbors with the same ports are one.
    pub(crate) fn build(self) -> Result<Vec<(AddressRange, PortSet)>, TooMany> {
        if self.size > MAX_PIECES {
            return Err(TooMany);
        }
        let (v4, v6): (Vec<Span>, Vec<Span>) = self.spans.into_iter().partition(|span| span.is_v4);
        let mut left = MAX_PIECES;
        let mut all = sweep(&v4, true, &mut left)?;
        all.extend(sweep(&v6, false, &mut left)?);
        Ok(all)
    }
}

/// Cuts at every edge, joins the ports of all spans that cover a piece, and joins equal neighbors. `left` counts down from
/// the limit.
fn sweep(spans: &[Span], is_v4: bool, left: &mut usize) -> Result<Vec<(AddressRange, PortSet)>, TooMany> {
    let starts = spans.iter().map(|span| span.first);
    let ends = spans.iter().filter_map(|span| span.last.checked_add(1));
    let mut edges: Vec<u128> = starts.chain(ends).collect();
    edges.sort_unstable();
    edges.dedup();
    let sorted = |key: fn(&Span) -> u128| {
        let mut sorted: Vec<&Span> = spans.iter().collect();
        sorted.sort_unstable_by_key(|span| key(span));
        sorted.into_iter().peekable()
    };
    let (mut beginning, mut ending) = (sorted(|span| span.first), sorted(|span| span.last));
    let mut pieces: Vec<(u128, u128, PortSet)> = Vec::new();
    let mut active = Active::default();
    let mut following = edges.iter().skip(1).copied();
    for edge in &edges {
        let next = following.next();
        while let Some(span) = beginning.next_if(|span| span.first <= *edge) {
            active.begin(&span.ports);
        }
        while let Some(span) = ending.next_if(|span| span.last < *edge) {
            active.end(&span.ports);
        }
        *left = left.checked_sub(active.0.len()).ok_or(TooMany)?;
        let ports: PortSet = active.0.keys().copied().collect();
        if ports.is_empty() {
            continue;
        }
        // Without a following edge what is active reaches to the last address.
        let last = next.map_or(u128::MAX, |next| next - 1);
        match pieces.last_mut() {
            Some(piece) if piece.1.checked_add(1) == Some(*edge) && piece.2 == ports => piece.1 = last,
            _ => pieces.push((*edge, last, ports)),
        }
    }
    let range = |first, last| AddressRange {
        first: address(first, is_v4),
        last: address(last, is_v4),
    };
    let ranges = pieces
        .into_iter()
        .map(|(first, last, ports)| (range(first, last), ports));
    Ok(ranges.collect())
}

/// The ports of the spans that cover an address, each with the number of spans that have it.
#[derive(Default)]
struct Active(BTreeMap<PortRange, usize>);

impl Active {
    fn begin(&mut self, ports: &[PortRange]) {
        for range in ports {
            *self.0.entry(*range).or_default() += 1;
        }
    }

    fn end(&mut self, ports: &[PortRange]) {
        for range in ports {
            if let Some(count) = self.0.get_mut(range) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(range);
                }
            }
        }
    }
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
                let ports: Rc<[PortRange]> = Rc::new([PortRange { protocol: Some(6), from: *port, to: *port }]);
                builder.add(*cidr, except, &ports);
            }
            let built = builder.build().unwrap();
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
        let everything: Rc<[PortRange]> = Rc::new([PortRange::ALL]);
        let mut builder = BlockBuilder::default();
        builder.add(
            "::/0".parse().unwrap(),
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128".parse().unwrap()],
            &everything,
        );
        builder.add("0.0.0.0/0".parse().unwrap(), &[], &everything);
        let built = builder.build().unwrap();
        assert_eq!(built.len(), 2);
        assert_eq!(built[0].0.last, "255.255.255.255".parse::<IpAddr>().unwrap());
        assert_eq!(
            built[1].0.last,
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"
                .parse::<IpAddr>()
                .unwrap()
        );
    }

    fn odd_ports(count: u16) -> Rc<[PortRange]> {
        let ports = (0..count).map(|number| PortRange {
            protocol: Some(6),
            from: 2 * number + 1,
            to: 2 * number + 1,
        });
        ports.collect()
    }

    fn host(number: u32) -> IpNet {
        IpNet::new_assert(IpAddr::V4((0x0a00_0000 + 2 * number).into()), 32)
    }

    #[test]
    fn a_list_beyond_the_limit_is_not_compiled() {
        // Ports times addresses, written out.
        let mut product = BlockBuilder::default();
        (0..1000).for_each(|number| product.add(host(number), &[], &odd_ports(1000)));
        assert_eq!(product.build(), Err(TooMany));
        // A short list that overlaps multiplies: 1,000 ports of everybody, and another port of 1,000 addresses.
        let mut overlap = BlockBuilder::default();
        overlap.add("0.0.0.0/0".parse().unwrap(), &[], &odd_ports(1000));
        let other: Rc<[PortRange]> = Rc::new([PortRange::of(17)]);
        (0..1000).for_each(|number| overlap.add(host(number), &[], &other));
        assert_eq!(overlap.build(), Err(TooMany));
        // As many blocks as a long list has, each by itself and all inside another.
        let mut list = BlockBuilder::default();
        list.add("0.0.0.0/0".parse().unwrap(), &[], &odd_ports(1));
        (0..50_000).for_each(|number| list.add(host(number), &[], &other));
        assert_eq!(list.build().map(|built| built.len()), Ok(100_001));
    }
}
