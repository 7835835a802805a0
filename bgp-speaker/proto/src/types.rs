//! Basic types: AS numbers, identifiers, prefixes, families and communities.
//!
//! Everything here is `Copy`, ordered and validated at construction, so that the rest of the crate never
//! handles a bare `u32`. [`Prefix`] holds both families in 20 bytes. Its host bits are always zero, which
//! makes equality and hashing plain integer operations.
//!
//! ```
//! use bgp_proto::types::{Family, Prefix, PrefixError};
//!
//! let block: Prefix = "10.244.0.0/16".parse()?;
//! assert!(block.contains(&"10.244.7.0/24".parse()?));
//! assert_eq!((block.family(), block.len()), (Family::Ipv4, 16));
//! assert!(matches!("10.244.1.1/24".parse::<Prefix>(), Err(PrefixError::HostBits { .. })));
//! # Ok::<(), PrefixError>(())
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::str::FromStr;

mod community;
mod ext_community;
mod peer_as;
mod role;

pub use community::{Community, CommunityError, LargeCommunity};
pub use ext_community::{ExtCommunity, ExtCommunityError};
pub use peer_as::PeerAs;
pub use role::Role;

/// An autonomous system number (RFC 6793), 0–4294967295. Zero is reserved (RFC 7607); decoding and
/// configuration refuse it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Asn(pub u32);

impl Asn {
    /// AS_TRANS: replaces a number that does not fit into a 2-octet field (RFC 6793 §9).
    pub const TRANS: Asn = Asn(23456);

    /// The 2-octet form, [`Asn::TRANS`] when the number needs four octets.
    #[must_use]
    pub fn to_two_octets(self) -> u16 {
        u16::try_from(self.0).unwrap_or(23456)
    }

    /// True for the private ranges of RFC 6996: 64512–65534 and 4200000000–4294967294.
    #[must_use]
    pub fn is_private(self) -> bool {
        matches!(self.0, 64512..=65534 | 4_200_000_000..=4_294_967_294)
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BGP identifier: any non-zero 32-bit number (RFC 6286 §2.1), written like an IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(NonZeroU32);

impl RouterId {
    /// `None` for zero, which RFC 6286 §2.1 forbids.
    #[must_use]
    pub fn new(value: u32) -> Option<Self> {
        NonZeroU32::new(value).map(Self)
    }

    /// The identifier as a number in host order, as compared in collisions and in the decision process.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// `None` for 0.0.0.0.
    #[must_use]
    pub fn from_ipv4(addr: Ipv4Addr) -> Option<Self> {
        Self::new(addr.to_bits())
    }
}

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ipv4Addr::from_bits(self.get()).fmt(f)
    }
}

impl fmt::Debug for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An address family that podroute carries: unicast IPv4 (AFI 1, SAFI 1) or IPv6 (AFI 2, SAFI 1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4,
    /// AFI 2, SAFI 1.
    Ipv6,
}

impl Family {
    /// Both, in the order of all reports.
    pub const ALL: [Family; 2] = [Family::Ipv4, Family::Ipv6];

    /// The AFI of RFC 4760: 1 or 2.
    #[must_use]
    pub fn afi(self) -> u16 {
        match self {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// The family of an (AFI, SAFI) pair; `None` for other families.
    #[must_use]
    pub fn from_afi_safi(afi: u16, safi: u8) -> Option<Self> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4),
            (2, 1) => Some(Family::Ipv6),
            _ => None,
        }
    }

    /// Longest prefix length: 32 or 128 bits.
    #[must_use]
    pub fn max_len(self) -> u8 {
        match self {
            Family::Ipv4 => 32,
            Family::Ipv6 => 128,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        })
    }
}

/// A set of families.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FamilySet(u8);

impl FamilySet {
    /// No family.
    pub const EMPTY: FamilySet = FamilySet(0);
    /// Both families.
    pub const ALL: FamilySet = FamilySet(3);

    fn bit(family: Family) -> u8 {
        match family {
            Family::Ipv4 => 1,
            Family::Ipv6 => 2,
        }
    }

    /// Adds a family.
    pub fn insert(&mut self, family: Family) {
        self.0 |= Self::bit(family);
    }

    /// Removes a family.
    pub fn remove(&mut self, family: Family) {
        self.0 &= !Self::bit(family);
    }

    /// Whether the family is in the set.
    #[must_use]
    pub fn contains(self, family: Family) -> bool {
        self.0 & Self::bit(family) != 0
    }

    /// Whether no family is in the set.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The families in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The members, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL
            .into_iter()
            .filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<T: IntoIterator<Item = Family>>(iter: T) -> Self {
        let mut set = Self::EMPTY;
        iter.into_iter().for_each(|family| set.insert(family));
        set
    }
}

impl fmt::Debug for FamilySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// An IPv4 or IPv6 prefix with host bits zero. Ordered by family, then address, then length.
///
/// The first word holds an IPv4 address, so that both families fit one 20-byte `Copy` value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix {
    family: Family,
    words: [u32; 4],
    len: u8,
}

impl std::hash::Hash for Prefix {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match self.family {
            Family::Ipv4 => state.write_u64(u64::from(self.word0()) << 8 | u64::from(self.len)),
            Family::Ipv6 => {
                state.write_u128(self.v6_bits());
                state.write_u8(self.len);
            }
        }
    }
}

impl Prefix {
    fn word0(&self) -> u32 {
        let [word, ..] = self.words;
        word
    }

    /// The index of an IPv4 network among those of its length: neighboring networks differ by one.
    pub(crate) fn number_v4(&self) -> u32 {
        self.word0().checked_shr(32 - u32::from(self.len)).unwrap_or(0)
    }

    /// The index of an IPv6 network among those of its length.
    pub(crate) fn number_v6(&self) -> u128 {
        self.v6_bits().checked_shr(128 - u32::from(self.len)).unwrap_or(0)
    }

    /// The address as 32-bit words; an IPv4 address is the first word.
    pub(crate) fn words(&self) -> [u32; 4] {
        self.words
    }

    /// The prefix of [`Prefix::words`], a family and a length.
    pub(crate) fn from_words(family: Family, words: [u32; 4], len: u8) -> Self {
        Self { family, words, len }
    }

    fn v6_bits(&self) -> u128 {
        let [a, b, c, d] = self.words;
        u128::from(a) << 96 | u128::from(b) << 64 | u128::from(c) << 32 | u128::from(d)
    }

    /// An IPv4 prefix; host bits are cleared, a length above 32 is clamped to 32.
    #[must_use]
    pub fn v4(addr: u32, len: u8) -> Self {
        let len = len.min(32);
        let mask = u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0);
        Self {
            family: Family::Ipv4,
            words: [addr & mask, 0, 0, 0],
            len,
        }
    }

    /// An IPv6 prefix; host bits are cleared, a length above 128 is clamped to 128.
    #[must_use]
    pub fn v6(addr: u128, len: u8) -> Self {
        let len = len.min(128);
        let addr = addr & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
        let word = |shift: u32| ((addr >> shift) & u128::from(u32::MAX)) as u32;
        Self {
            family: Family::Ipv6,
            words: [word(96), word(64), word(32), word(0)],
            len,
        }
    }

    /// A prefix of either family; host bits are cleared and the length is clamped to the family's.
    #[must_use]
    pub fn new(addr: IpAddr, len: u8) -> Self {
        match addr {
            IpAddr::V4(addr) => Self::v4(addr.to_bits(), len),
            IpAddr::V6(addr) => Self::v6(addr.to_bits(), len),
        }
    }

    /// The prefix of one address: /32 or /128.
    #[must_use]
    pub fn host(addr: IpAddr) -> Self {
        Self::new(addr, 128)
    }

    /// Which family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// Prefix length in bits: 0–32 or 0–128.
    #[expect(
        clippy::len_without_is_empty,
        reason = "the length of a prefix, not of a collection"
    )]
    #[must_use]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// True for a default route (length 0).
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.len == 0
    }

    /// The network address, host bits zero.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        match self.family {
            Family::Ipv4 => IpAddr::V4(Ipv4Addr::from_bits(self.word0())),
            Family::Ipv6 => IpAddr::V6(Ipv6Addr::from_bits(self.v6_bits())),
        }
    }

    /// The address bits left-aligned in 128 bits, so that both families can be compared by the same code.
    #[must_use]
    pub fn aligned_bits(&self) -> u128 {
        self.v6_bits()
    }

    /// Whether `other` is this prefix or lies inside it (same family).
    #[must_use]
    pub fn contains(&self, other: &Prefix) -> bool {
        let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
        self.family == other.family
            && self.len <= other.len
            && (self.aligned_bits() ^ other.aligned_bits()) & mask == 0
    }

    /// Whether the address lies inside this prefix.
    #[must_use]
    pub fn contains_addr(&self, addr: IpAddr) -> bool {
        self.contains(&Prefix::host(addr))
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr(), self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// No address, slash or number.
    #[error("'{0}' is not ADDRESS/LENGTH, for example 10.244.1.0/24 or fd00:10:244:1::/64")]
    Syntax(String),
    /// The length does not fit the family.
    #[error("'{0}' has a length beyond {1} bits")]
    Length(String, u8),
    /// Bits after the length are set.
    #[error("'{given}' has host bits set; did you mean {meant}?")]
    HostBits {
        /// The text.
        given: String,
        /// The prefix with host bits cleared.
        meant: Prefix,
    },
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.to_owned());
        let (addr, len) = text.split_once('/').ok_or_else(syntax)?;
        let addr: IpAddr = addr.parse().map_err(|_| syntax())?;
        let len: u8 = len.parse().map_err(|_| syntax())?;
        let prefix = Prefix::new(addr, len);
        if len > prefix.family.max_len() {
            return Err(PrefixError::Length(text.to_owned(), prefix.family.max_len()));
        }
        if prefix.addr() != addr {
            return Err(PrefixError::HostBits {
                given: text.to_owned(),
                meant: prefix,
            });
        }
        Ok(prefix)
    }
}

impl From<ipnet::IpNet> for Prefix {
    fn from(net: ipnet::IpNet) -> Self {
        Prefix::new(net.addr(), net.prefix_len())
    }
}

impl From<Prefix> for ipnet::IpNet {
    fn from(prefix: Prefix) -> Self {
        ipnet::IpNet::new_assert(prefix.addr(), prefix.len)
    }
}

/// A path identifier of ADD-PATH (RFC 7911), 0 where it is not negotiated.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PathId(pub u32);

/// A configured peer. The caller chooses the number; it is stable while the peer is configured.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Stands for this speaker: the source of originated routes.
    pub const LOCAL: PeerId = PeerId(u32::MAX);
}

/// A hold time (RFC 4271 §4.2): 0 (no keepalives) or 3–65535 seconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HoldTime(u16);

impl HoldTime {
    /// 90 seconds, the value RFC 4271 §10 suggests.
    pub const DEFAULT: HoldTime = HoldTime(90);

    /// `None` for 1 and 2 seconds (RFC 4271 §4.2).
    #[must_use]
    pub fn new(seconds: u16) -> Option<Self> {
        (!matches!(seconds, 1 | 2)).then_some(Self(seconds))
    }

    /// Seconds; 0 means that neither side sends keepalives.
    #[must_use]
    pub fn seconds(self) -> u16 {
        self.0
    }
}

/// A link-local address and its interface in one address, so that a next hop is a single value inside the
/// speaker. Bits 32–63 hold the interface index; in link-local addresses they are zero (RFC 4291 §2.5.6).
/// This form is never sent, and a received address with such bits is malformed ([`is_malformed_link_local`]).
/// Other addresses are returned unchanged.
#[must_use]
pub fn with_scope(addr: Ipv6Addr, ifindex: u32) -> Ipv6Addr {
    if !addr.is_unicast_link_local() {
        return addr;
    }
    Ipv6Addr::from_bits(without_scope(addr).to_bits() | u128::from(ifindex) << 64)
}

/// The plain address of a [`with_scope`] result.
#[must_use]
pub fn without_scope(addr: Ipv6Addr) -> Ipv6Addr {
    if addr.is_unicast_link_local() {
        Ipv6Addr::from_bits(addr.to_bits() & !(u128::from(u32::MAX) << 64))
    } else {
        addr
    }
}

/// Whether the address is in fe80::/10 but not in fe80::/64 (RFC 4291 §2.5.6: these bits are zero).
#[must_use]
pub fn is_malformed_link_local(addr: Ipv6Addr) -> bool {
    addr.is_unicast_link_local() && addr.to_bits() >> 64 != 0xFE80_0000_0000_0000
}

/// The interface index in a [`with_scope`] result.
#[must_use]
pub fn scope_of(addr: IpAddr) -> Option<u32> {
    match addr {
        IpAddr::V6(addr) if addr.is_unicast_link_local() => {
            u32::try_from(addr.to_bits() >> 64 & u128::from(u32::MAX))
                .ok()
                .filter(|index| *index > 0)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_carry_their_interface() {
        let plain: Ipv6Addr = "fe80::1:2:3:4".parse().unwrap();
        let scoped = with_scope(plain, 7);
        assert_eq!((scope_of(scoped.into()), without_scope(scoped)), (Some(7), plain));
        assert_eq!(
            with_scope(scoped, u32::MAX).to_string(),
            "fe80:0:ffff:ffff:1:2:3:4"
        );
        let global: Ipv6Addr = "2001:db8:0:7::1".parse().unwrap();
        assert_eq!((scope_of(global.into()), without_scope(global)), (None, global));
        assert_eq!(with_scope(global, 9), global, "an interface is not part of it");
        for (text, malformed) in [
            ("fe80::1", false),
            ("fe80::ffff:ffff:ffff:ffff", false),
            ("fe80:0:0:3::bad", true),
            ("fe80:0:1::bad", true),
            ("fe90::bad", true),
            ("febf::bad", true),
            ("fec0::bad", false),
            ("2001:db8:0:7::1", false),
        ] {
            assert_eq!(
                is_malformed_link_local(text.parse().unwrap()),
                malformed,
                "{text}"
            );
        }
        assert_eq!(
            (scope_of(plain.into()), scope_of([192, 0, 2, 1].into())),
            (None, None)
        );
    }

    #[test]
    fn prefix_text_round_trip_and_errors() {
        for text in [
            "0.0.0.0/0",
            "10.244.1.0/24",
            "192.0.2.1/32",
            "::/0",
            "fd00:10:244:1::/64",
            "2001:db8::1/128",
        ] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert!(matches!(
            "10.244.1.1/24".parse::<Prefix>(),
            Err(PrefixError::HostBits { .. })
        ));
        assert!(matches!(
            "10.244.1.0/33".parse::<Prefix>(),
            Err(PrefixError::Length(_, 32))
        ));
        assert!(matches!(
            "10.244.1.0".parse::<Prefix>(),
            Err(PrefixError::Syntax(_))
        ));
    }

    #[test]
    fn containment() {
        let outer: Prefix = "10.244.0.0/16".parse().unwrap();
        let inner: Prefix = "10.244.7.0/24".parse().unwrap();
        assert!(outer.contains(&inner) && outer.contains(&outer) && !inner.contains(&outer));
        let all: Prefix = "::/0".parse().unwrap();
        assert!(!all.contains(&inner));
        assert!(all.contains_addr("2001:db8::1".parse().unwrap()));
    }

    #[test]
    fn prefix_is_small() {
        assert_eq!(std::mem::size_of::<Prefix>(), 20);
    }
}
