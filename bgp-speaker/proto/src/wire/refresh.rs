//! ROUTE-REFRESH (RFC 2918 §3) with the subtypes of RFC 7313 §3.2.

use crate::types::Family;

/// Which refresh message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefreshKind {
    /// Send your routes again (0).
    Request,
    /// BoRR (1): the resend begins.
    Begin,
    /// EoRR (2): the resend is done.
    End,
}

/// A decoded ROUTE-REFRESH for a family that we carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refresh {
    /// Which family.
    pub family: Family,
    /// Request or demarcation.
    pub kind: RefreshKind,
}
