//! Where a router and a node do not agree.

use std::fmt;

/// What a finding is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Aspect {
    /// AS numbers.
    Asn,
    /// Addresses.
    Address,
    /// Address families.
    Families,
    /// TCP MD5.
    Password,
    /// Generalised TTL security.
    TtlSecurity,
    /// Distance.
    Multihop,
    /// BFD.
    Bfd,
    /// Hold time.
    Timers,
    /// Graceful restart.
    GracefulRestart,
    /// Maximum of prefixes.
    MaximumPrefix,
    /// Paths with the AS of the node that they are sent to.
    AsOverride,
    /// Filters of routes.
    Filter,
    /// Who connects.
    Connection,
    /// IPv4 prefixes with IPv6 next hops.
    ExtendedNextHop,
}

impl Aspect {
    /// The name in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Asn => "asn",
            Self::Address => "address",
            Self::Families => "families",
            Self::Password => "password",
            Self::TtlSecurity => "ttlSecurity",
            Self::Multihop => "multihop",
            Self::Bfd => "bfd",
            Self::Timers => "timers",
            Self::GracefulRestart => "gracefulRestart",
            Self::MaximumPrefix => "maximumPrefix",
            Self::AsOverride => "asOverride",
            Self::Filter => "filter",
            Self::Connection => "connection",
            Self::ExtendedNextHop => "extendedNextHop",
        }
    }
}

impl fmt::Display for Aspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// The session does not come up, or routes are missing.
    Error,
    /// It works, but not as one side is configured.
    Warning,
}

/// One mismatch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// About what.
    pub aspect: Aspect,
    /// Line in the router's configuration; `None`: a statement is missing.
    pub router_line: Option<usize>,
    /// The peer in podroute.yaml.
    pub peer: String,
    /// Field of the peer, as `timers.hold`; or, from `/` on, of the whole file, as `/cluster.podCIDRs`.
    pub field: &'static str,
    /// What does not agree.
    pub message: String,
    /// What to do.
    pub remedy: String,
}
