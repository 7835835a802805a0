//! What decoded UPDATEs hand to the engine: a batch of operations over two flat arenas.
//!
//! A peer's task decodes many UPDATEs into one [`RouteBatch`] and sends it as one message. Prefixes
//! stand in one vector, operations refer to ranges of it, so that most messages cost no allocation.

use std::ops::Range;

use super::{AttrIssue, PathAttrs};
use crate::types::{Family, PathId, Prefix};

/// A prefix with its ADD-PATH identifier (0 where not negotiated).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nlri {
    /// RFC 7911 §3.
    pub path_id: PathId,
    /// The prefix.
    pub prefix: Prefix,
}

/// One operation, in the order received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteOp {
    /// These prefixes have this path now.
    Announce {
        /// Their attributes.
        attrs: PathAttrs,
        /// Range in [`RouteBatch::nlri`].
        nlri: Range<usize>,
    },
    /// These prefixes have no path from the peer any more; also the treat-as-withdraw verdict (RFC 7606 §2).
    Withdraw {
        /// Range in [`RouteBatch::nlri`].
        nlri: Range<usize>,
    },
    /// End-of-RIB (RFC 4724 §2).
    EndOfRib(Family),
}

/// Decoded routes of one peer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RouteBatch {
    /// What to do, in order.
    pub ops: Vec<RouteOp>,
    /// The prefixes that the operations refer to.
    pub nlri: Vec<Nlri>,
    /// Errors that did not reset the session, for counters and the log (RFC 7606).
    pub issues: Vec<AttrIssue>,
    /// UPDATE messages that went into the batch.
    pub messages: u32,
}

impl RouteBatch {
    /// The prefixes of an operation.
    #[must_use]
    pub fn slice(&self, range: &Range<usize>) -> &[Nlri] {
        self.nlri.get(range.clone()).unwrap_or_default()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.issues.is_empty()
    }
}
