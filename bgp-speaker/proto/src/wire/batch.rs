//! Decoded UPDATEs: a batch of operations over a shared list of prefixes.
//!
//! A peer's task decodes many UPDATEs into one [`RouteBatch`]. Operations refer to ranges of one vector of
//! prefixes, so that most messages need no allocation.

use std::ops::Range;

use super::{AttrIssue, PathAttrs};
use crate::types::{Family, PathId, Prefix};

/// A prefix with its path identifier (0 without ADD-PATH).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Nlri {
    /// Path identifier (RFC 7911 §3).
    pub path_id: PathId,
    /// The prefix.
    pub prefix: Prefix,
}

/// An operation, in the order received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteOp {
    /// Announces a path to these prefixes.
    Announce {
        /// Their attributes.
        attrs: PathAttrs,
        /// Range in [`RouteBatch::nlri`].
        nlri: Range<usize>,
    },
    /// Withdraws these prefixes; also used for treat-as-withdraw (RFC 7606 §2).
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
    /// The operations, in order.
    pub ops: Vec<RouteOp>,
    /// The prefixes that operations refer to.
    pub nlri: Vec<Nlri>,
    /// Errors that did not end the session, for counters and the log (RFC 7606).
    pub issues: Vec<AttrIssue>,
    /// Number of UPDATE messages in the batch.
    pub messages: u32,
}

impl RouteBatch {
    /// The prefixes of an operation.
    #[must_use]
    pub fn slice(&self, range: &Range<usize>) -> &[Nlri] {
        self.nlri.get(range.clone()).unwrap_or_default()
    }

    /// Whether the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.issues.is_empty()
    }
}
