//! Blocks of a family that no peer was sent: sessions are up, the node is ready, and nobody outside reaches its pods in that family.

use bgp_proto::types::{Family, FamilySet};

use super::Agent;

/// What a family without a peer means, and what to look at.
pub(crate) fn warning(family: Family) -> String {
    format!(
        "no peer was sent the node's {family} blocks: look at the sessions' families on both sides ('podroute show peer NAME'), at \
         export policies and, for IPv4 on IPv6 sessions, RFC 8950"
    )
}

/// Families that are not sent, as last looked at.
#[derive(Debug, Default)]
pub(super) struct Unsent {
    /// Not sent at the last look: routes of a session that just came up may be on their way.
    suspected: FamilySet,
    reported: FamilySet,
}

impl Unsent {
    /// Takes a look in; `sent` is `None` while no session is up. Gives the families that nobody is sent, and those of them that are new.
    fn observe(&mut self, blocks: FamilySet, sent: Option<FamilySet>) -> (FamilySet, FamilySet) {
        let missing = |family: &Family| sent.is_some_and(|sent| !sent.contains(*family));
        let missing: FamilySet = blocks.iter().filter(missing).collect();
        let of = |set: FamilySet, other: FamilySet, both: bool| -> FamilySet {
            set.iter()
                .filter(|family| other.contains(*family) == both)
                .collect()
        };
        let unsent = of(missing, self.suspected, true);
        let new = of(unsent, self.reported, false);
        (self.suspected, self.reported) = (missing, unsent);
        (unsent, new)
    }
}

impl Agent {
    /// Looks whether peers were sent the node's blocks.
    pub(super) async fn check_unsent(&mut self) {
        let blocks = &self.config.node.blocks;
        let blocks: FamilySet = blocks.iter().map(|block| block.family()).collect();
        let is_expected = self.sweep_at.is_none() && !self.drain.withdraw;
        let Ok(sent) = self.speaker.advertised_families().await else {
            return;
        };
        let (unsent, new) = self.reports.unsent.observe(blocks, sent.filter(|_| is_expected));
        if let Ok(mut known) = self.reports.health.unsent.lock() {
            *known = unsent;
        }
        for family in new.iter() {
            let message = warning(family);
            tracing::warn!(event = "blocks_unsent", "{message}");
            self.post_event("BlocksUnsent", true, "the node's blocks", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(families: &[Family]) -> FamilySet {
        families.iter().copied().collect()
    }

    #[test]
    fn a_family_that_stays_away_is_reported_once() {
        const V4: &[Family] = &[Family::Ipv4];
        const V6: &[Family] = &[Family::Ipv6];
        let both = set(&Family::ALL);
        let mut unsent = Unsent::default();
        let mut look = |sent: Option<&[Family]>| {
            let (unsent, new) = unsent.observe(both, sent.map(set));
            (unsent == set(V6), new == set(V6), unsent.is_empty())
        };
        assert_eq!(look(None), (false, false, true), "no session is up");
        assert_eq!(look(Some(V4)), (false, false, true), "it may be on its way");
        assert_eq!(look(Some(V4)), (true, true, false));
        assert_eq!(look(Some(V4)), (true, false, false), "once");
        assert_eq!(look(Some(&Family::ALL)), (false, false, true));
        assert_eq!(look(Some(V4)), (false, false, true));
        assert_eq!(look(Some(V4)), (true, true, false), "and again");
    }

    #[test]
    fn blocks_of_one_family_need_no_other() {
        let mut unsent = Unsent::default();
        for _ in 0..3 {
            let (found, _) = unsent.observe(set(&[Family::Ipv4]), Some(set(&[Family::Ipv4])));
            assert!(found.is_empty());
        }
    }
}
