//! What nodes are configured for, against a router's configuration.

use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};

use crate::finding::{Aspect, Finding, Severity};
use crate::router::{At, Neighbor, Place, RemoteAs, Router, Verdict};
use crate::side::{Bfd, Group, Member, NodeAs, OwnAs, Side, Ttl};

/// Hold times below this are those of a fast link, which a higher one of the other side does not help.
const NO_HOLD: u16 = 0;

/// All mismatches, in the order of the peers.
#[must_use]
pub fn compare(side: &Side, router: &Router) -> Vec<Finding> {
    let mut findings = Vec::new();
    for group in &side.groups {
        let mut check = Check {
            side,
            router,
            group,
            findings: Vec::new(),
        };
        check.group();
        findings.append(&mut check.findings);
    }
    findings
}

/// One peer of podroute.yaml and a router.
struct Check<'a> {
    side: &'a Side,
    router: &'a Router,
    group: &'a Group,
    findings: Vec<Finding>,
}

impl Check<'_> {
    fn group(&mut self) {
        self.router_address();
        let neighbors = self.neighbors();
        for neighbor in neighbors {
            self.neighbor(&neighbor);
        }
        // Several nodes have the same statements in the same lines.
        let mut seen: Vec<Finding> = Vec::new();
        for finding in self.findings.drain(..) {
            if !seen.contains(&finding) {
                seen.push(finding);
            }
        }
        self.findings = seen;
    }

    fn add(
        &mut self,
        severity: Severity,
        aspect: Aspect,
        router_line: Option<usize>,
        field: &'static str,
        message: String,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding {
            severity,
            aspect,
            router_line,
            peer: self.group.peer.clone(),
            field,
            message,
            remedy: remedy.into(),
        });
    }

    fn error(
        &mut self,
        aspect: Aspect,
        line: Option<usize>,
        field: &'static str,
        message: String,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Error, aspect, line, field, message, remedy);
    }

    fn warn(
        &mut self,
        aspect: Aspect,
        line: Option<usize>,
        field: &'static str,
        message: String,
        remedy: impl Into<String>,
    ) {
        self.add(Severity::Warning, aspect, line, field, message, remedy);
    }

    /// The router has the address that nodes connect to, where its file has addresses of interfaces.
    fn router_address(&mut self) {
        let Some(wanted) = self.group.router else { return };
        let addresses = &self.router.addresses;
        let same_family: Vec<&At<IpAddr>> = addresses
            .iter()
            .filter(|at| at.value.is_ipv4() == wanted.is_ipv4())
            .collect();
        let has = same_family.iter().any(|at| at.value == wanted);
        if let (false, Some(first)) = (has, same_family.first()) {
            let line = Some(first.line);
            let message = format!("no interface of the router has {wanted}, the address of the peer");
            self.error(Aspect::Address, line, "address", message, "correct address in podroute.yaml");
        }
    }

    /// The router's statements for the nodes of this peer.
    fn neighbors(&mut self) -> Vec<Neighbor> {
        if self.group.members.is_empty() {
            return self.by_asn();
        }
        let mut found = Vec::new();
        for member in &self.group.members {
            match self.find(member) {
                Some(neighbor) => found.push(neighbor.clone()),
                None => {
                    let near = self.near_miss(member);
                    let message = format!("the router has no neighbor for the node at {member}{}", near.1);
                    let remedy = format!("add a neighbor or a range with {member} on the router, or correct localAddress or node.addresses in podroute.yaml");
                    self.error(Aspect::Address, near.0, "", message, remedy);
                }
            }
        }
        found
    }

    fn find(&self, member: &Member) -> Option<&Neighbor> {
        let neighbors = &self.router.neighbors;
        let family = match member {
            Member::Address(IpAddr::V4(_)) => Family::Ipv4,
            _ => Family::Ipv6,
        };
        let exact = |neighbor: &&Neighbor| match (&neighbor.place, member) {
            (Place::Address(address), Member::Address(wanted)) => address == wanted,
            (Place::Range(range), Member::Range(wanted)) => range.contains(wanted),
            (Place::Interface(_), Member::Interface(_)) => true,
            // Any link-local address.
            (Place::Range(range), Member::Interface(_)) => {
                range.family() == Family::Ipv6 && range.to_string() == "fe80::/10"
            }
            _ => false,
        };
        let inside = |neighbor: &&Neighbor| match (&neighbor.place, member) {
            (Place::Range(range), Member::Address(wanted)) => {
                range.family() == family && range.contains(&Prefix::host(*wanted))
            }
            (Place::Address(address), Member::Range(wanted)) => wanted.contains(&Prefix::host(*address)),
            _ => false,
        };
        neighbors
            .iter()
            .find(exact)
            .or_else(|| neighbors.iter().find(inside))
    }

    /// A neighbour with the nodes' AS, which may have been meant.
    fn near_miss(&self, member: &Member) -> (Option<usize>, String) {
        let is_v4 = match member {
            Member::Address(address) => address.is_ipv4(),
            Member::Range(range) => range.family() == Family::Ipv4,
            Member::Interface(_) => false,
        };
        let same_family = |neighbor: &&Neighbor| match &neighbor.place {
            Place::Address(address) => address.is_ipv4() == is_v4,
            Place::Range(range) => (range.family() == Family::Ipv4) == is_v4,
            Place::Interface(_) => false,
        };
        let near = self
            .router
            .neighbors
            .iter()
            .filter(same_family)
            .find(|neighbor| self.has_node_as(neighbor) == Some(true));
        match near {
            Some(near) => (Some(near.line), format!("; with the nodes' AS it has {}", near.place)),
            None => (None, String::new()),
        }
    }

    /// Without addresses of nodes: neighbours of their AS.
    fn by_asn(&mut self) -> Vec<Neighbor> {
        let family = self.group.family();
        let same_family = |neighbor: &&Neighbor| match &neighbor.place {
            Place::Address(address) => address.is_ipv4() == (family == Family::Ipv4),
            Place::Range(range) => range.family() == family,
            Place::Interface(_) => true,
        };
        let candidates: Vec<&Neighbor> = self.router.neighbors.iter().filter(same_family).collect();
        let with_as: Vec<Neighbor> = candidates
            .iter()
            .filter(|neighbor| self.has_node_as(neighbor) == Some(true))
            .map(|neighbor| (*neighbor).clone())
            .collect();
        if !with_as.is_empty() {
            return with_as;
        }
        let line = candidates.first().map(|neighbor| neighbor.line);
        let NodeAs::One(asn) = self.group.node_as else {
            return Vec::new();
        };
        let message = format!("the router has no {family} neighbor in AS {asn}, the nodes' AS");
        let remedy = "add one; with --nodes the addresses of nodes are compared too";
        self.error(Aspect::Asn, line, "", message, remedy);
        Vec::new()
    }

    /// Whether the neighbour's AS is that of nodes; `None`: it cannot be told.
    fn has_node_as(&self, neighbor: &Neighbor) -> Option<bool> {
        let own = self.local_as(neighbor).map(|at| at.value);
        let remote = neighbor.settings.remote_as.as_ref()?;
        match (&remote.value, self.group.node_as) {
            (RemoteAs::Unknown, _) => None,
            (RemoteAs::One(asn), NodeAs::One(wanted)) => Some(*asn == wanted.0),
            (RemoteAs::One(_), NodeAs::Any) => Some(false),
            (RemoteAs::External, NodeAs::Any) => Some(true),
            (RemoteAs::External, NodeAs::One(wanted)) => Some(own? != wanted.0),
            (RemoteAs::Internal, NodeAs::One(wanted)) => Some(own? == wanted.0),
            (RemoteAs::Internal, NodeAs::Any) => Some(false),
        }
    }

    /// The router's AS on a session.
    fn local_as(&self, neighbor: &Neighbor) -> Option<At<u32>> {
        neighbor.settings.local_as.or(self.router.asn)
    }

    fn neighbor(&mut self, neighbor: &Neighbor) {
        self.as_numbers(neighbor);
        self.connection(neighbor);
        self.password(neighbor);
        self.ttl(neighbor);
        self.bfd(neighbor);
        self.timers(neighbor);
        self.graceful_restart(neighbor);
        self.families(neighbor);
    }

    fn as_numbers(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        if let Some(own) = self.local_as(neighbor).filter(|own| own.value != self.side.asn.0) {
            let message = format!(
                "the router is AS {}, and the peer's asn is {}",
                own.value, self.side.asn
            );
            self.error(
                Aspect::Asn,
                Some(own.line),
                "asn",
                message,
                "correct one of them: the session ends with Bad Peer AS (RFC 4271 §6.2)",
            );
        }
        let wanted = match self.group.node_as {
            NodeAs::One(asn) => asn.to_string(),
            NodeAs::Any => "one for each node".to_owned(),
        };
        match (&neighbor.settings.remote_as, self.has_node_as(neighbor)) {
            (None, _) => {
                let message = format!("neighbor {place} has no remote AS; the nodes' is {wanted}");
                self.error(Aspect::Asn, Some(neighbor.line), "/cluster.asn", message, "add it on the router");
            }
            (Some(remote), Some(false)) => {
                let found = match remote.value {
                    RemoteAs::One(asn) => asn.to_string(),
                    RemoteAs::External => "any other than the router's".to_owned(),
                    RemoteAs::Internal => "the router's".to_owned(),
                    RemoteAs::Unknown => "a list".to_owned(),
                };
                let message = format!("the router expects AS {found} of neighbor {place}; the nodes' is {wanted}");
                self.error(
                    Aspect::Asn,
                    Some(remote.line),
                    "/cluster.asn",
                    message,
                    "correct it on the router, or cluster.asn, node.asn or localAs in podroute.yaml",
                );
            }
            (Some(_), _) => {}
        }
    }

    fn connection(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        if let Some(shutdown) = neighbor.settings.shutdown.filter(|at| at.value) {
            let message = format!("neighbor {place} is shut down on the router");
            self.error(
                Aspect::Connection,
                Some(shutdown.line),
                "",
                message,
                "enable it on the router",
            );
        }
        let is_range = matches!(place, Place::Range(_));
        let passive = neighbor.settings.transport.passive.filter(|at| at.value);
        if self.group.session.node_waits && (is_range || passive.is_some()) {
            let line = passive.map_or(neighbor.line, |at| at.line);
            let message = format!("both sides wait for a connection: the router for {place}, the node by passive: true");
            self.error(Aspect::Connection, Some(line), "passive", message, "remove passive in podroute.yaml");
        }
    }

    fn password(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        let password = neighbor.settings.transport.password;
        let has = password.is_some_and(|at| at.value);
        let line = password.map(|at| at.line).or(Some(neighbor.line));
        match (self.group.session.password, has) {
            (true, false) => {
                let message = format!("the node signs with a password (TCP MD5), and neighbor {place} has none");
                self.error(Aspect::Password, line, "password", message, "add the password on the router, or remove password in podroute.yaml");
            }
            (false, true) => {
                let message = format!("neighbor {place} has a password (TCP MD5), and the node none");
                self.error(Aspect::Password, line, "password", message, "add password: {file: …} to the peer, or remove it on the router");
            }
            _ => {}
        }
    }

    fn ttl(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        let found = neighbor.settings.transport.ttl;
        let line = found.map(|at| at.line).or(Some(neighbor.line));
        // Junos keeps the distance of GTSM in a firewall filter.
        let ttl = match found.map(|at| at.value) {
            Some(Ttl::Multihop(255)) if matches!(self.group.session.ttl, Ttl::Security(_)) => self.group.session.ttl,
            other => other.unwrap_or(Ttl::Direct),
        };
        if self.group.is_internal(self.side.asn) && !matches!((self.group.session.ttl, ttl), (Ttl::Security(_), _) | (_, Ttl::Security(_))) {
            return;
        }
        match (self.group.session.ttl, ttl) {
            (Ttl::Security(hops), Ttl::Security(other)) if hops != other => {
                let message = format!("GTSM: the router allows {other} hops to {place}, the node {hops}");
                self.error(Aspect::TtlSecurity, line, "ttlSecurity", message, "set the same number of hops on both sides");
            }
            (Ttl::Security(_), Ttl::Direct | Ttl::Multihop(_)) => {
                let message = format!("the node has ttlSecurity, and the router sends {place} packets with a TTL that the node drops");
                self.error(Aspect::TtlSecurity, line, "ttlSecurity", message, "add GTSM (RFC 5082) for the neighbor on the router, or remove ttlSecurity in podroute.yaml");
            }
            (Ttl::Direct | Ttl::Multihop(_), Ttl::Security(_)) => {
                let message = format!("the router has GTSM for {place}, and drops the node's packets: they do not have TTL 255");
                self.error(Aspect::TtlSecurity, line, "ttlSecurity", message, "add ttlSecurity: {hops: …} to the peer, or remove GTSM on the router");
            }
            (Ttl::Multihop(hops), Ttl::Direct) => {
                let message = format!("the node expects the router up to {hops} hops away, and the router expects {place} to be directly connected");
                self.error(Aspect::Multihop, line, "multihop", message, format!("add eBGP multihop with {hops} hops on the router, or remove multihop in podroute.yaml"));
            }
            (Ttl::Direct, Ttl::Multihop(hops)) => {
                let message = format!("the router expects {place} up to {hops} hops away, and the node's packets reach only a directly connected router");
                self.warn(Aspect::Multihop, line, "multihop", message, format!("add multihop: {hops} to the peer, or remove it on the router"));
            }
            (Ttl::Multihop(hops), Ttl::Multihop(other)) if hops != other => {
                let message = format!("the router allows {other} hops to {place}, the node {hops}");
                self.warn(Aspect::Multihop, line, "multihop", message, "set the same number on both sides");
            }
            _ => {}
        }
    }

    fn bfd(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        let found = neighbor.settings.bfd;
        let line = found.map(|at| at.line).or(Some(neighbor.line));
        match (self.group.session.bfd, found.and_then(|at| at.value)) {
            (Some(_), None) => {
                let message = format!("the node watches the path by BFD, and neighbor {place} does not");
                self.error(Aspect::Bfd, line, "bfd", message, "enable BFD for the neighbor on the router, or remove bfd in podroute.yaml");
            }
            (None, Some(_)) => {
                let message = format!("the router watches the path to {place} by BFD, and the node does not answer");
                self.error(Aspect::Bfd, line, "bfd", message, "add bfd: {} to the peer, or remove BFD on the router");
            }
            (Some(Bfd { interval, multiplier, .. }), Some(read)) => {
                let other = (read.interval.unwrap_or(interval), read.multiplier.unwrap_or(multiplier));
                if other != (interval, multiplier) {
                    let message = format!(
                        "BFD: the router has {} ms times {} for {place}, the node {interval} ms times {multiplier}; the slower interval is used",
                        other.0, other.1
                    );
                    self.warn(Aspect::Bfd, line, "bfd", message, "set the same interval and multiplier on both sides");
                }
            }
            (None, None) => {}
        }
    }

    fn timers(&mut self, neighbor: &Neighbor) {
        let Some(found) = neighbor.settings.hold else { return };
        let wanted = self.group.session.hold;
        if found.value == wanted {
            return;
        }
        let place = &neighbor.place;
        let used = match (found.value, wanted) {
            (NO_HOLD, _) | (_, NO_HOLD) => "no hold time".to_owned(),
            (found, wanted) => format!("{} s", found.min(wanted)),
        };
        let message = format!(
            "the router offers {place} a hold time of {} s, the node {wanted} s; {used} is used",
            found.value
        );
        self.warn(Aspect::Timers, Some(found.line), "timers.hold", message, "set the same hold time on both sides");
    }

    fn graceful_restart(&mut self, neighbor: &Neighbor) {
        if !self.group.session.graceful_restart {
            return;
        }
        let found = neighbor.settings.graceful_restart;
        let helps = found.map_or(self.router.format.helps_restart(), |at| at.value);
        if !helps {
            let place = &neighbor.place;
            let line = found.map(|at| at.line).or(Some(neighbor.line));
            let message = format!("the router does not keep the routes of {place} while its agent restarts");
            self.error(Aspect::GracefulRestart, line, "gracefulRestart", message, "enable graceful restart on the router, or set gracefulRestart: {restartTime: 0} in podroute.yaml");
        }
    }

    fn families(&mut self, neighbor: &Neighbor) {
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

    fn extended_next_hop(&mut self, neighbor: &Neighbor) {
        let found = neighbor.settings.transport.extended_next_hop;
        let says_so = !matches!(neighbor.place, Place::Interface(_));
        let cannot = matches!(self.router.format, crate::Format::Nxos | crate::Format::IosXe);
        if says_so && !cannot && !found.is_some_and(|at| at.value) {
            let place = &neighbor.place;
            let line = found.map(|at| at.line).or(Some(neighbor.line));
            let message = format!("the node sends IPv4 prefixes with IPv6 next hops (RFC 8950), and neighbor {place} does not take them");
            self.error(Aspect::ExtendedNextHop, line, "extendedNextHop", message, "enable extended next hops for the neighbor on the router, or use a session over IPv4");
        }
    }

    fn max_prefixes(&mut self, neighbor: &Neighbor, family: Family) {
        let own = neighbor.settings.families.get(&family);
        let Some(limit) = own.and_then(|own| own.max_prefixes) else { return };
        let originated = self.group.originated.iter().filter(|prefix| prefix.family() == family);
        let count = u32::try_from(originated.count()).unwrap_or(u32::MAX);
        // 0 is no limit in EOS and FRR's older forms.
        if limit.value != 0 && limit.value < count {
            let place = &neighbor.place;
            let message = format!(
                "the router accepts at most {} {family} prefixes of {place}, and this node announces {count}",
                limit.value
            );
            self.error(Aspect::MaximumPrefix, Some(limit.line), "/node.blocks", message, "raise the limit on the router");
        }
    }

    fn own_as(&mut self, neighbor: &Neighbor, family: Family) {
        let place = &neighbor.place;
        let own = neighbor.settings.families.get(&family);
        let overrides = own.and_then(|own| own.as_override).is_some_and(|at| at.value);
        let sends = own.and_then(|own| own.sends_own_as).is_some_and(|at| at.value);
        let holds_back = self.router.format.holds_back_peer_as();
        let line = Some(neighbor.line);
        match self.group.session.own_as {
            OwnAs::Override if !overrides => {
                let message = format!("nodes of one AS learn each other's {family} routes from the router alone, and reject them for their own AS in the path; the router does not replace it for {place}");
                self.error(Aspect::AsOverride, line, "allowOwnAs", message, "add as-override for the neighbor on the router, or allowOwnAs: 1 to the peer");
            }
            OwnAs::Override | OwnAs::Send if holds_back && !sends => {
                let statement = match self.router.format {
                    crate::Format::Junos => "advertise-peer-as",
                    _ => "disable-peer-as-check",
                };
                let message = format!("the router does not send {place} {family} routes of other nodes of its AS");
                self.error(Aspect::AsOverride, line, "allowOwnAs", message, format!("add {statement} for the neighbor on the router"));
            }
            _ => {}
        }
    }

    fn filters(&mut self, neighbor: &Neighbor, family: Family) {
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
                    let message = format!("the router has no filter for {family} routes {word} {place}, and without one it passes none (RFC 8212)");
                    self.error(Aspect::Filter, Some(neighbor.line), "/cluster.podCIDRs", message, "add a filter for both directions on the router");
                }
                None => {}
                Some(names) => self.filter(&names, word, neighbor, family),
            }
        }
    }

    /// Each prefix that nodes announce passes.
    fn filter(&mut self, names: &At<Vec<String>>, word: &str, neighbor: &Neighbor, family: Family) {
        let place = &neighbor.place;
        let originated = self.group.originated.iter().filter(|prefix| prefix.family() == family).copied();
        let mut probes: Vec<(Prefix, &'static str)> = originated.map(|prefix| (prefix, "/node.blocks")).collect();
        let known = probes.clone();
        for permit in self.side.permits_of(family) {
            // Own blocks stand for those of other nodes.
            if known.iter().any(|(prefix, _)| permit.contains(prefix)) {
                continue;
            }
            let field = if permit.min == family.max_len() { "/services" } else { "/cluster.podCIDRs" };
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
            self.error(Aspect::Filter, Some(line), field, message, format!("permit {prefix} and what is like it in the filter"));
        }
    }
}
