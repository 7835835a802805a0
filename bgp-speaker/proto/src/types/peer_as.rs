//! The AS numbers that a peer may have.

use std::fmt;
use std::sync::Arc;

use super::Asn;

/// The AS number that a peer must have in its OPEN.
///
/// ```
/// use bgp_proto::types::{Asn, PeerAs};
///
/// let own = Asn(64512);
/// assert!(PeerAs::External.accepts(Asn(65001), own));
/// assert!(!PeerAs::External.accepts(own, own));
/// assert!(PeerAs::from([Asn(65001), Asn(65002)]).accepts(Asn(65002), own));
/// assert_eq!(PeerAs::from(own).only(), Some(own));
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PeerAs {
    /// This one.
    Only(Asn),
    /// Any AS but ours.
    External,
    /// One of these; none is ours.
    AnyOf(Arc<[Asn]>),
}

impl PeerAs {
    /// Whether a peer with this number is the right one, where ours is `local`.
    #[must_use]
    pub fn accepts(&self, asn: Asn, local: Asn) -> bool {
        match self {
            PeerAs::Only(only) => *only == asn,
            PeerAs::External => asn != local,
            PeerAs::AnyOf(several) => several.contains(&asn),
        }
    }

    /// The number, if it is known before the peer says it.
    #[must_use]
    pub fn only(&self) -> Option<Asn> {
        match self {
            PeerAs::Only(only) => Some(*only),
            PeerAs::External | PeerAs::AnyOf(_) => None,
        }
    }

    /// Whether the peer is of our AS.
    #[must_use]
    pub fn is_internal(&self, local: Asn) -> bool {
        self.only() == Some(local)
    }
}

impl From<Asn> for PeerAs {
    fn from(asn: Asn) -> Self {
        PeerAs::Only(asn)
    }
}

impl<const N: usize> From<[Asn; N]> for PeerAs {
    fn from(asns: [Asn; N]) -> Self {
        PeerAs::AnyOf(asns.into())
    }
}

impl fmt::Display for PeerAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerAs::Only(only) => only.fmt(f),
            PeerAs::External => f.write_str("external"),
            PeerAs::AnyOf(several) => {
                let several: Vec<String> = several.iter().map(ToString::to_string).collect();
                f.write_str(&several.join(" or "))
            }
        }
    }
}
