//! Arithmetic of a node's blocks: which addresses of a block pods may have. Pure.
//!
//! Excluded are: in IPv4 the network address, the broadcast address and the gateway (the first host); in IPv6 the zero
//! address (subnet-router anycast, RFC 4291 §2.6.1) and the gateway `::1`. A block of four or fewer addresses is used
//! entirely and has no gateway. Reserved ranges are excluded from automatic allocation; a static address may be one of them.
//! Of a block larger than 65,536 addresses the first 65,536 are used.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Most addresses of a block that are used.
pub(crate) const BLOCK_LIMIT: u64 = 65_536;

/// Address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Bits of a host prefix.
    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// One block of addresses that the node owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Block(IpNet);

impl Block {
    /// The block that contains `net`: host bits are cleared.
    pub(crate) fn new(net: IpNet) -> Self {
        Self(net.trunc())
    }

    /// As a prefix.
    pub(crate) fn net(self) -> IpNet {
        self.0
    }

    /// IPv4 or IPv6.
    pub(crate) fn family(self) -> Family {
        Family::of(self.0.network())
    }

    /// Whether the block contains the address.
    pub(crate) fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Number of addresses, at most `BLOCK_LIMIT`.
    pub(crate) fn size(self) -> u64 {
        let host_bits = u32::from(self.0.max_prefix_len().saturating_sub(self.0.prefix_len()));
        1u64.checked_shl(host_bits)
            .map_or(BLOCK_LIMIT, |size| size.min(BLOCK_LIMIT))
    }

    /// The `index`-th address, counting the network address as 0.
    pub(crate) fn nth(self, index: u64) -> Option<IpAddr> {
        if index >= self.size() {
            return None;
        }
        match self.0 {
            IpNet::V4(net) => {
                let offset = u32::try_from(index).ok()?;
                Some(Ipv4Addr::from_bits(net.network().to_bits().checked_add(offset)?).into())
            }
            IpNet::V6(net) => {
                let sum = net.network().to_bits().checked_add(u128::from(index))?;
                Some(Ipv6Addr::from_bits(sum).into())
            }
        }
    }

    /// The address that a bridge or ptp plugin uses itself; none in a block of four or fewer.
    pub(crate) fn gateway(self) -> Option<IpAddr> {
        if self.size() > 4 { self.nth(1) } else { None }
    }

    /// The reason why a pod can never have this address, if there is one.
    pub(crate) fn forbids(self, address: IpAddr) -> Option<&'static str> {
        if !self.contains(address) {
            return Some("it lies outside this node's blocks");
        }
        if self.size() <= 4 {
            return None;
        }
        if address == self.0.network() {
            return Some("it is the block's network address");
        }
        if Some(address) == self.gateway() {
            return Some("it is the block's gateway address");
        }
        if self.family() == Family::V4 && address == self.0.broadcast() {
            return Some("it is the block's broadcast address");
        }
        None
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Blocks for a message: `a, b` or `no block`.
pub(crate) fn list(blocks: &[Block]) -> String {
    if blocks.is_empty() {
        return "no block".to_owned();
    }
    blocks.iter().map(Block::to_string).collect::<Vec<_>>().join(", ")
}

/// A range of addresses that is excluded from automatic allocation, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserved {
    first: IpAddr,
    last: IpAddr,
}

impl Reserved {
    /// Parses `10.244.1.10`, `10.244.1.16/28` or `10.244.1.10-10.244.1.20`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self {
                first: address,
                last: address,
            });
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return Some(Self {
                first: net.network(),
                last: net.broadcast(),
            });
        }
        let (first, last) = text.split_once('-')?;
        let range = Self {
            first: first.trim().parse().ok()?,
            last: last.trim().parse().ok()?,
        };
        let ordered = range.first <= range.last && range.first.is_ipv4() == range.last.is_ipv4();
        ordered.then_some(range)
    }

    /// Whether the address is reserved.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        self.first.is_ipv4() == address.is_ipv4() && self.first <= address && address <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> Block {
        Block::new(text.parse().unwrap())
    }

    fn usable(text: &str) -> u64 {
        let b = block(text);
        let count = (0..b.size())
            .filter(|i| b.forbids(b.nth(*i).unwrap()).is_none())
            .count();
        u64::try_from(count).unwrap()
    }

    #[test]
    fn usable_addresses_of_a_block() {
        assert_eq!(usable("10.0.0.0/24"), 253);
        assert_eq!(usable("10.0.0.0/29"), 5);
        assert_eq!(usable("10.0.0.0/30"), 4);
        assert_eq!(usable("10.0.0.1/32"), 1);
        assert_eq!(usable("fd00::/64"), BLOCK_LIMIT - 2);
        assert_eq!(usable("fd00::/127"), 2);
        assert_eq!(
            usable("10.0.0.0/8"),
            BLOCK_LIMIT - 2,
            "the broadcast lies past the limit"
        );
    }

    #[test]
    fn nth_stays_inside() {
        for text in [
            "10.0.0.0/30",
            "255.255.255.0/24",
            "fd00::/120",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:0/112",
        ] {
            let b = block(text);
            assert!(b.contains(b.nth(b.size() - 1).unwrap()), "{text}");
            assert_eq!(b.nth(b.size()), None, "{text}");
        }
        assert_eq!(block("0.0.0.0/0").size(), BLOCK_LIMIT);
        assert_eq!(block("::/0").size(), BLOCK_LIMIT);
    }

    #[test]
    fn reserved_forms() {
        let range = Reserved::parse("10.0.0.5-10.0.0.7").unwrap();
        assert!(range.contains("10.0.0.7".parse().unwrap()));
        assert!(!range.contains("10.0.0.8".parse().unwrap()));
        assert!(!range.contains("::1".parse().unwrap()));
        assert!(
            Reserved::parse("10.0.0.0/28")
                .unwrap()
                .contains("10.0.0.15".parse().unwrap())
        );
        for bad in [
            "",
            "x",
            "10.0.0.7-10.0.0.5",
            "10.0.0.1-fd00::1",
            "10.0.0.0/33",
            "-",
        ] {
            assert_eq!(Reserved::parse(bad), None, "{bad}");
        }
    }
}
