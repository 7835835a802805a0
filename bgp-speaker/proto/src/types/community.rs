//! Communities (RFC 1997) with their well-known names, and large communities (RFC 8092).

use std::fmt;
use std::str::FromStr;

/// A standard community (RFC 1997), written `high:low`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// RFC 8326: lower the preference of this path.
    pub const GRACEFUL_SHUTDOWN: Community = Community(0xFFFF_0000);
    /// RFC 9494 §4: a long-lived stale route.
    pub const LLGR_STALE: Community = Community(0xFFFF_0006);
    /// RFC 9494 §4: not to be kept as a long-lived stale route.
    pub const NO_LLGR: Community = Community(0xFFFF_0007);
    /// RFC 7999: discard traffic to this prefix.
    pub const BLACKHOLE: Community = Community(0xFFFF_029A);
    /// RFC 1997: do not send outside the AS.
    pub const NO_EXPORT: Community = Community(0xFFFF_FF01);
    /// RFC 1997: do not send to any peer.
    pub const NO_ADVERTISE: Community = Community(0xFFFF_FF02);
    /// RFC 1997: do not send to other (sub-)ASes.
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xFFFF_FF03);

    /// The well-known names, as used in policies and in output.
    pub const NAMES: [(&'static str, Community); 7] = [
        ("graceful-shutdown", Community::GRACEFUL_SHUTDOWN),
        ("llgr-stale", Community::LLGR_STALE),
        ("no-llgr", Community::NO_LLGR),
        ("blackhole", Community::BLACKHOLE),
        ("no-export", Community::NO_EXPORT),
        ("no-advertise", Community::NO_ADVERTISE),
        ("no-export-subconfed", Community::NO_EXPORT_SUBCONFED),
    ];
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, community)| community == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xFFFF),
        }
    }
}

impl fmt::Debug for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a community.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a community: write HIGH:LOW with both 0–65535, or a well-known name such as no-export")]
pub struct CommunityError(pub String);

impl FromStr for Community {
    type Err = CommunityError;

    fn from_str(text: &str) -> Result<Self, CommunityError> {
        if let Some((_, community)) = Self::NAMES.iter().find(|(name, _)| *name == text) {
            return Ok(*community);
        }
        let parse = || {
            let (high, low) = text.split_once(':')?;
            let (high, low) = (high.parse::<u16>().ok()?, low.parse::<u16>().ok()?);
            Some(Community(u32::from(high) << 16 | u32::from(low)))
        };
        parse().ok_or_else(|| CommunityError(text.to_owned()))
    }
}

/// A large community (RFC 8092), written `global:local1:local2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn communities_by_name_and_number() {
        assert_eq!("no-export".parse::<Community>().unwrap(), Community::NO_EXPORT);
        assert_eq!("64512:100".parse::<Community>().unwrap().to_string(), "64512:100");
        assert!("64512".parse::<Community>().is_err());
        assert!("70000:1".parse::<Community>().is_err());
    }
}
