//! Make before break for Services: a node that loses an address announces it until another node does.
//!
//! Both nodes learn of a new endpoint at about the same time. Were the address withdrawn here at once, a router could receive
//! that before the announcement of the new node, and have no route in between. So a Service whose endpoint here is going away but
//! still answers stays announced until another node has been ready for a moment. One that answers no more goes at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use podroute_config::ClusterFacts;
use tokio::time::Instant;

use super::index::OfFamily;

/// How long both announce: many times what the other's news takes to all routers of a fabric, and short for
/// servers that take no new connections once they are asked to end.
pub(super) const BOTH: Duration = Duration::from_millis(500);

/// Services being handed over, by name.
#[derive(Debug, Default)]
pub(super) struct Handover {
    until: BTreeMap<OfFamily, Instant>,
}

impl Handover {
    /// Adds to the facts what is being handed over, given all Services that others take over. Returns when the facts change
    /// by themselves.
    pub(super) fn hold(
        &mut self,
        now: Instant,
        leaving: BTreeSet<OfFamily>,
        facts: &mut ClusterFacts,
    ) -> Option<Instant> {
        self.until.retain(|name, _| leaving.contains(name));
        for name in leaving {
            self.until.entry(name).or_insert(now + BOTH);
        }
        let held = || self.until.iter().filter(|(_, until)| **until > now);
        for ((name, family), _) in held() {
            if let Some(service) = facts.services.get_mut(name) {
                service.endpoint_here.insert(*family);
            }
        }
        held().map(|(_, until)| *until).min()
    }
}

#[cfg(test)]
mod tests {
    use bgp_proto::types::Family;
    use podroute_config::ServiceFact;

    use super::*;

    fn names(list: &[&str]) -> BTreeSet<OfFamily> {
        list.iter().map(|&name| (name.to_owned(), Family::Ipv4)).collect()
    }

    /// Which Services are announced for their endpoints, and until when.
    fn announced(handover: &mut Handover, now: Instant, leaving: &[&str]) -> (Vec<String>, Option<Instant>) {
        let services = ["a", "b"].map(|name| (name.to_owned(), ServiceFact::default()));
        let mut facts = ClusterFacts {
            services: services.into(),
            ..ClusterFacts::default()
        };
        let until = handover.hold(now, names(leaving), &mut facts);
        let all = facts.services.into_iter();
        let here = all.filter(|(_, service)| service.endpoint_here.contains(Family::Ipv4));
        (here.map(|(name, _)| name).collect(), until)
    }

    fn these(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn both_announce_for_a_moment() {
        let start = Instant::now();
        let mut handover = Handover::default();
        let mut at = |now, leaving: &[&str]| announced(&mut handover, now, leaving);
        assert_eq!(at(start, &["a"]), (these(&["a"]), Some(start + BOTH)));
        // Changes in between do not make it longer.
        let later = start + BOTH / 2;
        assert_eq!(at(later, &["a", "b"]), (these(&["a", "b"]), Some(start + BOTH)));
        assert_eq!(at(start + BOTH, &["a", "b"]), (these(&["b"]), Some(later + BOTH)));
        assert_eq!(at(later + BOTH, &["a", "b"]), (these(&[]), None));
    }

    #[test]
    fn what_answers_no_more_goes_at_once() {
        let start = Instant::now();
        let mut handover = Handover::default();
        announced(&mut handover, start, &["a"]);
        assert_eq!(announced(&mut handover, start, &[]), (these(&[]), None));
    }
}
