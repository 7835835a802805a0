//! When routes of the previous run are removed.

use std::collections::BTreeSet;

use bgp_proto::types::{Family, PeerId};
use tokio::sync::watch;

/// When routes go that were there before the start and that nobody announced again.
pub(super) struct Sweep {
    /// Whose initial routes are waited for; `None` until it is known which peers there are.
    pub(super) expected: Option<BTreeSet<(PeerId, Family)>>,
    /// Whose initial routes are complete.
    pub(super) ended: BTreeSet<(PeerId, Family)>,
    pub(super) done: watch::Sender<bool>,
}

impl Sweep {
    pub(super) fn new(done: watch::Sender<bool>) -> Self {
        Self {
            expected: None,
            ended: BTreeSet::new(),
            done,
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        let expected = self.expected.as_ref();
        expected.is_some_and(|expected| expected.is_subset(&self.ended))
    }
}
