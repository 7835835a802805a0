//! What keeps a Service from an address, each with its remedy.

use std::fmt;
use std::net::IpAddr;

use bgp_proto::types::Family;

use crate::guard::Refusal;
use crate::pool::Mismatch;
use crate::service::{Key, ShareConflict};

/// A reason.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Problem {
    /// No pool serves the Service.
    NoPool,
    /// No pool that serves the Service has an address of this family.
    NoPoolOfFamily(Family),
    /// The pools that serve the Service have no free address of this family.
    Exhausted {
        /// The family.
        family: Family,
        /// The pools.
        pools: Vec<String>,
    },
    /// The requested pool does not exist.
    UnknownPool(String),
    /// The pool does not serve the Service.
    PoolRefuses {
        /// The pool.
        pool: String,
        /// Why.
        why: Mismatch,
    },
    /// What is requested is not an address.
    Unreadable(String),
    /// The requested address is of a family that the Service does not have.
    OtherFamily(IpAddr),
    /// Two addresses of one family are requested.
    SecondOfFamily(IpAddr),
    /// The requested address is in no pool.
    OutsidePools(IpAddr),
    /// The requested address is not in the requested pool.
    OutsidePool {
        /// The address.
        address: IpAddr,
        /// The pool.
        pool: String,
    },
    /// Nobody may have the requested address.
    Refused {
        /// The address.
        address: IpAddr,
        /// Why.
        why: Refusal,
    },
    /// Another Service has the address.
    Taken {
        /// The address.
        address: IpAddr,
        /// The other one.
        by: Key,
        /// Why they do not share it.
        why: ShareConflict,
    },
    /// A pool that has the address does not exist any more, or does not serve the Service any more.
    Withdrawn(IpAddr),
    /// One of two families cannot be had, and the Service requires both.
    RequiresBoth,
}

impl Problem {
    /// The reason of the Event.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoPool | Self::NoPoolOfFamily(_) => "NoAddressPool",
            Self::Exhausted { .. } => "AddressPoolExhausted",
            Self::Taken { .. } => "AddressConflict",
            Self::Withdrawn(_) => "AddressWithdrawn",
            Self::RequiresBoth => "DualStackRequired",
            Self::UnknownPool(_)
            | Self::PoolRefuses { .. }
            | Self::Unreadable(_)
            | Self::OtherFamily(_)
            | Self::SecondOfFamily(_)
            | Self::OutsidePools(_)
            | Self::OutsidePool { .. }
            | Self::Refused { .. } => "AddressRequestRejected",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPool => f.write_str(
                "no pool of services.pools serves this Service; add one with automatic: true and matching selectors, or name one \
                 in the annotation podroute/pool",
            ),
            Self::NoPoolOfFamily(family) => {
                write!(f, "no pool that serves this Service has {family} addresses; add a range to one of services.pools")
            }
            Self::Exhausted { family, pools } => {
                let pools = pools.join(", ");
                write!(
                    f,
                    "no free {family} address in {pools}; add a range to the pool, or delete a Service that no longer needs its address"
                )
            }
            Self::UnknownPool(pool) => write!(
                f,
                "there is no pool '{pool}'; correct the annotation podroute/pool, or add the pool to services.pools"
            ),
            Self::PoolRefuses { pool, why } => write!(f, "the pool {pool} does not serve this Service: {why}; choose another pool"),
            Self::Unreadable(text) => write!(
                f,
                "the requested address '{}' is not an IP address; write addresses with commas between them, one for each family",
                text.escape_debug()
            ),
            Self::OtherFamily(address) => write!(
                f,
                "the requested address {address} is of a family that is not in the Service's ipFamilies; add the family, or leave the address out"
            ),
            Self::SecondOfFamily(address) => {
                write!(f, "{address} is a second requested address of its family; request one for each family")
            }
            Self::OutsidePools(address) => write!(
                f,
                "the requested address {address} is in no pool; add it to one of services.pools, or request another"
            ),
            Self::OutsidePool { address, pool } => write!(
                f,
                "the requested address {address} is not in the requested pool {pool}; leave out one of the two requests"
            ),
            Self::Refused { address, why } => write!(f, "the requested address {address} {why}; request another"),
            Self::Taken { address, by, why } => write!(f, "{address} belongs to Service {by}: {why}"),
            Self::Withdrawn(address) => write!(
                f,
                "{address} is in no pool that serves this Service any more; add it to one of services.pools to keep it"
            ),
            Self::RequiresBoth => f.write_str(
                "ipFamilyPolicy is RequireDualStack and one family has no address; use PreferDualStack to have the other one alone",
            ),
        }
    }
}
