//! What nodes are configured for, against a router's configuration.

mod routes;
mod session;

use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};

use crate::finding::{Aspect, Finding, Severity};
use crate::router::{At, Neighbor, Place, RemoteAs, Router};
use crate::side::{Group, Member, NodeAs, Side};

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
            self.error(
                Aspect::Address,
                line,
                "address",
                message,
                "correct address in podroute.yaml",
            );
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
                    let remedy = format!(
                        "add a neighbor or a range with {member} on the router, or correct localAddress or node.addresses in podroute.yaml"
                    );
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

    /// A neighbor with the nodes' AS, which may have been meant.
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
            Some(near) => (
                Some(near.line),
                format!("; with the nodes' AS it has {}", near.place),
            ),
            None => (None, String::new()),
        }
    }

    /// Without addresses of nodes: neighbors of their AS.
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

    /// Whether the neighbor's AS is that of nodes; `None`: it cannot be told.
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
                self.error(
                    Aspect::Asn,
                    Some(neighbor.line),
                    "/cluster.asn",
                    message,
                    "add it on the router",
                );
            }
            (Some(remote), Some(false)) => {
                let found = match remote.value {
                    RemoteAs::One(asn) => asn.to_string(),
                    RemoteAs::External => "any other than the router's".to_owned(),
                    RemoteAs::Internal => "the router's".to_owned(),
                    RemoteAs::Unknown => "a list".to_owned(),
                };
                let message =
                    format!("the router expects AS {found} of neighbor {place}; the nodes' is {wanted}");
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
}
