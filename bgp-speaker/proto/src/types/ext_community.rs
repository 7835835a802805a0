//! Extended communities (RFC 4360). Route targets, route origins and link bandwidth have names; others are
//! shown as hexadecimal octets.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// An extended community (RFC 4360): eight octets as received.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtCommunity(pub u64);

/// Set in the first octet of a community that must not cross an AS boundary (RFC 4360 §2).
const NON_TRANSITIVE: u8 = 0x40;
/// Sub-type of link bandwidth (draft-ietf-idr-link-bandwidth), of the two-octet AS type.
const BANDWIDTH: u8 = 4;
/// The name of link bandwidth.
const BANDWIDTH_NAME: &str = "bandwidth";
/// Sub-types with names (RFC 4360 §4, §5).
const EXT_NAMES: [(&str, u8); 2] = [("rt", 2), ("ro", 3)];

impl ExtCommunity {
    /// Whether it may cross an AS boundary (RFC 4360 §2: the second bit clear means transitive).
    #[must_use]
    pub fn is_transitive(self) -> bool {
        let [kind, ..] = self.0.to_be_bytes();
        kind & NON_TRANSITIVE == 0
    }

    /// Link bandwidth in octets per second (draft-ietf-idr-link-bandwidth), transitive or not. `None` for
    /// other communities and for values below one or not finite.
    #[must_use]
    pub fn bandwidth(self) -> Option<f32> {
        let [kind, subtype, _, _, rate @ ..] = self.0.to_be_bytes();
        let rate = f32::from_be_bytes(rate);
        let is_bandwidth = kind & !NON_TRANSITIVE == 0 && subtype == BANDWIDTH;
        (is_bandwidth && rate.is_finite() && rate >= 1.0).then_some(rate)
    }

    /// Link bandwidth, non-transitive, in octets per second.
    fn with_bandwidth(asn: u16, rate: f32) -> Self {
        let [a, b] = asn.to_be_bytes();
        let [c, d, e, f] = rate.to_be_bytes();
        Self(u64::from_be_bytes([NON_TRANSITIVE, BANDWIDTH, a, b, c, d, e, f]))
    }
}

impl fmt::Display for ExtCommunity {
    /// `rt:64512:100`, `ro:192.0.2.1:7`, `bandwidth:64512:1250000000`, or all octets in hexadecimal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, subtype, a, b, c, d, e, g] = self.0.to_be_bytes();
        if let (NON_TRANSITIVE, Some(rate)) = (kind, self.bandwidth()) {
            return write!(f, "{BANDWIDTH_NAME}:{}:{rate}", u16::from_be_bytes([a, b]));
        }
        let name = EXT_NAMES
            .iter()
            .find(|(_, known)| *known == subtype)
            .map(|(name, _)| *name);
        let Some(name) = name.filter(|_| kind <= 2) else {
            return write!(f, "0x{:016x}", self.0);
        };
        let short = u16::from_be_bytes([e, g]);
        match kind {
            0 => write!(
                f,
                "{name}:{}:{}",
                u16::from_be_bytes([a, b]),
                u32::from_be_bytes([c, d, e, g])
            ),
            1 => write!(f, "{name}:{}:{short}", Ipv4Addr::new(a, b, c, d)),
            _ => write!(f, "{name}:{}:{short}", u32::from_be_bytes([a, b, c, d])),
        }
    }
}

/// Why a text is not an extended community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not an extended community: write rt:AS:NUMBER, ro:AS:NUMBER, the same with an IPv4 address, \
     bandwidth:AS:OCTETS_PER_SECOND, or 0x and 16 hexadecimal digits"
)]
pub struct ExtCommunityError(pub String);

impl FromStr for ExtCommunity {
    type Err = ExtCommunityError;

    /// An AS number up to 65535 is encoded in two octets with four octets for the number; a larger AS number
    /// takes four octets and leaves two (RFC 5668).
    fn from_str(text: &str) -> Result<Self, ExtCommunityError> {
        parse(text).ok_or_else(|| ExtCommunityError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<ExtCommunity> {
    if let Some(hex) = text.strip_prefix("0x").filter(|hex| hex.len() == 16) {
        return u64::from_str_radix(hex, 16).ok().map(ExtCommunity);
    }
    let (name, rest) = text.split_once(':')?;
    let (global, local) = rest.split_once(':')?;
    if name == BANDWIDTH_NAME {
        let rate: f32 = local.parse().ok()?;
        let known = ExtCommunity::with_bandwidth(global.parse().ok()?, rate);
        return known.bandwidth().map(|_| known);
    }
    let (_, subtype) = EXT_NAMES.iter().find(|(known, _)| *known == name)?;
    let head = |kind: u8| u64::from(kind) << 56 | u64::from(*subtype) << 48;
    if let Ok(addr) = global.parse::<Ipv4Addr>() {
        let local: u16 = local.parse().ok()?;
        let octets = head(1) | u64::from(addr.to_bits()) << 16 | u64::from(local);
        return Some(ExtCommunity(octets));
    }
    let asn: u32 = global.parse().ok()?;
    let octets = match u16::try_from(asn) {
        Ok(asn) => head(0) | u64::from(asn) << 32 | u64::from(local.parse::<u32>().ok()?),
        Err(_) => head(2) | u64::from(asn) << 16 | u64::from(local.parse::<u16>().ok()?),
    };
    Some(ExtCommunity(octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_communities_as_text() {
        for (text, octets) in [
            ("rt:64512:100", 0x0002_FC00_0000_0064),
            ("ro:65535:4294967295", 0x0003_FFFF_FFFF_FFFF),
            ("rt:4200000000:7", 0x0202_FA56_EA00_0007),
            ("rt:192.0.2.1:9", 0x0102_C000_0201_0009),
            // 1.25e9 octets per second (10 Gbit/s) is 0x4E9502F9 as IEEE 754 single precision.
            ("bandwidth:64512:1250000000", 0x4004_FC00_4E95_02F9),
            ("0x0004fc004e9502f9", 0x0004_FC00_4E95_02F9),
            ("0x4006fc0000000001", 0x4006_FC00_0000_0001),
        ] {
            let parsed: ExtCommunity = text.parse().unwrap();
            assert_eq!((parsed.0, parsed.to_string().as_str()), (octets, text));
        }
        for text in [
            "rt:1",
            "rt:1:2:3",
            "xx:1:2",
            "rt:4200000000:65536",
            "bandwidth:70000:1",
            "bandwidth:1:-1",
            "bandwidth:1:0",
            "bandwidth:1:inf",
            "0x12",
            "rt:-1:2",
            "",
        ] {
            assert!(text.parse::<ExtCommunity>().is_err(), "{text}");
        }
    }

    #[test]
    fn bandwidth_of_either_kind() {
        assert_eq!(ExtCommunity(0x4004_FC00_4E95_02F9).bandwidth(), Some(1.25e9));
        assert_eq!(ExtCommunity(0x0004_FC00_4E95_02F9).bandwidth(), Some(1.25e9));
        for other in [
            0x4004_FC00_FFC0_0000,
            0x4004_FC00_0000_0000,
            0x0002_FC00_4E95_02F9,
            0x0104_FC00_4E95_02F9,
        ] {
            assert_eq!(ExtCommunity(other).bandwidth(), None, "{other:x}");
        }
    }
}
