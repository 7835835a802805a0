//! Routes: families, limits, loops, filters.

use bgp_proto::types::{Family, Prefix};

use super::Check;
use crate::finding::Aspect;
use crate::format::Format;
use crate::router::{At, Neighbor, Place, Verdict};
use crate::side::OwnAs;

impl Check<'_> {
    pub(super) fn families(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        for family in self.group.session.families.iter() {
            let own = neighbor.settings.families.get(&family);
            let active = own.and_then(|own| own.active);
            if !active.is_some_and(|at| at.value) {
                let line = active.map(|at| at.line).or(Some(neighbor.line));
                let message = format!("the node offers {family}, and neighbor {place} does not have it");
                self.error(Aspect::Families, line, "families", message, format!("activate {family} unicast for the neighbor on the router, or leave it out of families in podroute.yaml"));
                continue;
            }
            self.max_prefixes(neighbor, family);
            self.own_as(neighbor, family);
            self.filters(neighbor, family);
        }
        if self.group.session.extended_next_hop {
            self.extended_next_hop(neighbor);
        }
    }

    pub(super) fn extended_next_hop(&mut self, neighbor: &Neighbor) {
        let found = neighbor.settings.transport.extended_next_hop;
        let says_so = !matches!(neighbor.place, Place::Interface(_));
        let cannot = matches!(self.router.format, Format::Nxos | Format::IosXe);
        if says_so && !cannot && !found.is_some_and(|at| at.value) {
            let place = &neighbor.place;
            let line = found.map(|at| at.line).or(Some(neighbor.line));
            let message = format!(
                "the node sends IPv4 prefixes with IPv6 next hops (RFC 8950), and neighbor {place} does not take them"
            );
            self.error(
                Aspect::ExtendedNextHop,
                line,
                "extendedNextHop",
                message,
                "enable extended next hops for the neighbor on the router, or use a session over IPv4",
            );
        }
    }

    pub(super) fn max_prefixes(&mut self, neighbor: &Neighbor, family: Family) {
        let own = neighbor.settings.families.get(&family);
        let Some(limit) = own.and_then(|own| own.max_prefixes) else {
            return;
        };
        let originated = self
            .group
            .originated
            .iter()
            .filter(|prefix| prefix.family() == family);
        let count = u32::try_from(originated.count()).unwrap_or(u32::MAX);
        // 0 is no limit in EOS and FRR's older forms.
        if limit.value != 0 && limit.value < count {
            let place = &neighbor.place;
            let message = format!(
                "the router accepts at most {} {family} prefixes of {place}, and this node announces {count}",
                limit.value
            );
            self.error(
                Aspect::MaximumPrefix,
                Some(limit.line),
                "/node.blocks",
                message,
                "raise the limit on the router",
            );
        }
    }

    pub(super) fn own_as(&mut self, neighbor: &Neighbor, family: Family) {
        let place = &neighbor.place;
        let own = neighbor.settings.families.get(&family);
        let overrides = own.and_then(|own| own.as_override).is_some_and(|at| at.value);
        let sends = own.and_then(|own| own.sends_own_as).is_some_and(|at| at.value);
        let holds_back = self.router.format.holds_back_peer_as();
        let line = Some(neighbor.line);
        match self.group.session.own_as {
            OwnAs::Override if !overrides => {
                let message = format!(
                    "nodes of one AS learn each other's {family} routes from the router alone, and reject them for their own AS in the path; the router does not replace it for {place}"
                );
                self.error(
                    Aspect::AsOverride,
                    line,
                    "allowOwnAs",
                    message,
                    "add as-override for the neighbor on the router, or allowOwnAs: 1 to the peer",
                );
            }
            OwnAs::Override | OwnAs::Send if holds_back && !sends => {
                let statement = match self.router.format {
                    Format::Junos => "advertise-peer-as",
                    _ => "disable-peer-as-check",
                };
                let message =
                    format!("the router does not send {place} {family} routes of other nodes of its AS");
                self.error(
                    Aspect::AsOverride,
                    line,
                    "allowOwnAs",
                    message,
                    format!("add {statement} for the neighbor on the router"),
                );
            }
            _ => {}
        }
    }

    pub(super) fn filters(&mut self, neighbor: &Neighbor, family: Family) {
        let own = neighbor.settings.families.get(&family);
        let is_external = !self.group.is_internal(self.side.asn);
        let directions = [
            ("of", own.and_then(|own| own.import.clone())),
            ("to", own.and_then(|own| own.export.clone())),
        ];
        for (word, filter) in directions {
            match filter {
                None if is_external && !self.router.policy_optional => {
                    let place = &neighbor.place;
                    let message = format!(
                        "the router has no filter for {family} routes {word} {place}, and without one it passes none (RFC 8212)"
                    );
                    self.error(
                        Aspect::Filter,
                        Some(neighbor.line),
                        "/cluster.podCIDRs",
                        message,
                        "add a filter for both directions on the router",
                    );
                }
                None => {}
                Some(names) => self.filter(&names, word, neighbor, family),
            }
        }
    }

    /// Each prefix that nodes announce passes.
    pub(super) fn filter(
        &mut self,
        names: &At<Vec<String>>,
        word: &str,
        neighbor: &Neighbor,
        family: Family,
    ) {
        let place = &neighbor.place;
        let originated = self
            .group
            .originated
            .iter()
            .filter(|prefix| prefix.family() == family)
            .copied();
        let mut probes: Vec<(Prefix, &'static str)> =
            originated.map(|prefix| (prefix, "/node.blocks")).collect();
        let known = probes.clone();
        for permit in self.side.permits_of(family) {
            // Own blocks stand for those of other nodes.
            if known.iter().any(|(prefix, _)| permit.contains(prefix)) {
                continue;
            }
            let field = if permit.min == family.max_len() {
                "/services"
            } else {
                "/cluster.podCIDRs"
            };
            probes.push((Prefix::new(permit.prefix.addr(), permit.min), field));
        }
        for (prefix, field) in probes {
            if self.router.verdict(&names.value, &prefix) != Verdict::Deny {
                continue;
            }
            let list = names.value.join(", ");
            let line = self
                .router
                .filters
                .get(names.value.first().map_or("", String::as_str))
                .map(|filter| filter.line)
                .filter(|line| *line > 0)
                .unwrap_or(names.line);
            let message = format!("the router's filter {list} drops {prefix} in routes {word} {place}");
            self.error(
                Aspect::Filter,
                Some(line),
                field,
                message,
                format!("permit {prefix} and what is like it in the filter"),
            );
        }
    }
}
