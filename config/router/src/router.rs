//! A router's configuration as it was read: what of it concerns BGP.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};

use crate::format::Format;
use crate::side::{PrefixRange, Ttl};

/// A value and its line, from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) line: usize,
}

impl<T> At<T> {
    pub(crate) fn new(line: usize, value: T) -> Self {
        Self { value, line }
    }
}

/// A router's configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    pub(crate) format: Format,
    pub(crate) asn: Option<At<u32>>,
    pub(crate) neighbors: Vec<Neighbor>,
    pub(crate) filters: BTreeMap<String, Filter>,
    /// Of interfaces; empty where the file has none.
    pub(crate) addresses: Vec<At<IpAddr>>,
    /// eBGP neighbors without a policy send and get routes all the same.
    pub(crate) policy_optional: bool,
}

impl Router {
    pub(crate) fn new(format: Format) -> Self {
        Self {
            format,
            asn: None,
            neighbors: Vec::new(),
            filters: BTreeMap::new(),
            addresses: Vec::new(),
            policy_optional: !format.needs_policy(),
        }
    }

    /// Neighbors of BGP that the file has.
    #[must_use]
    pub fn neighbor_count(&self) -> usize {
        self.neighbors.len()
    }
}

/// A neighbor, with what it has of groups and templates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Neighbor {
    pub(crate) place: Place,
    pub(crate) line: usize,
    pub(crate) settings: Settings,
}

/// Where a neighbor is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Place {
    Address(IpAddr),
    Range(Prefix),
    Interface(String),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Range(range) => range.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

/// AS numbers of a neighbor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum RemoteAs {
    One(u32),
    External,
    Internal,
    /// A list or policy that is not read here.
    Unknown,
}

/// BFD as the neighbor's statements say; parameters may be elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReadBfd {
    pub(crate) interval: Option<u32>,
    pub(crate) multiplier: Option<u8>,
}

/// Statements of a neighbor, a group or a template.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) remote_as: Option<At<RemoteAs>>,
    pub(crate) local_as: Option<At<u32>>,
    pub(crate) transport: Transport,
    pub(crate) bfd: Option<At<Option<ReadBfd>>>,
    pub(crate) hold: Option<At<u16>>,
    pub(crate) graceful_restart: Option<At<bool>>,
    pub(crate) shutdown: Option<At<bool>>,
    pub(crate) families: BTreeMap<Family, FamilySettings>,
}

impl Settings {
    /// Takes from `group` what is not set here.
    pub(crate) fn inherit(&mut self, group: &Self) {
        fill(&mut self.remote_as, &group.remote_as);
        fill(&mut self.local_as, &group.local_as);
        self.transport.inherit(&group.transport);
        fill(&mut self.bfd, &group.bfd);
        fill(&mut self.hold, &group.hold);
        fill(&mut self.graceful_restart, &group.graceful_restart);
        fill(&mut self.shutdown, &group.shutdown);
        for (family, settings) in &group.families {
            self.families.entry(*family).or_default().inherit(settings);
        }
    }

    pub(crate) fn family(&mut self, family: Family) -> &mut FamilySettings {
        self.families.entry(family).or_default()
    }
}

fn fill<T: Clone>(own: &mut Option<T>, of_group: &Option<T>) {
    if own.is_none() {
        own.clone_from(of_group);
    }
}

/// The TCP connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Transport {
    pub(crate) password: Option<At<bool>>,
    pub(crate) ttl: Option<At<Ttl>>,
    pub(crate) passive: Option<At<bool>>,
    pub(crate) extended_next_hop: Option<At<bool>>,
}

impl Transport {
    fn inherit(&mut self, group: &Self) {
        fill(&mut self.password, &group.password);
        fill(&mut self.ttl, &group.ttl);
        fill(&mut self.passive, &group.passive);
        fill(&mut self.extended_next_hop, &group.extended_next_hop);
    }
}

/// Statements of one address family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct FamilySettings {
    pub(crate) active: Option<At<bool>>,
    pub(crate) max_prefixes: Option<At<u32>>,
    pub(crate) as_override: Option<At<bool>>,
    pub(crate) sends_own_as: Option<At<bool>>,
    /// Names of filters, one after the other.
    pub(crate) import: Option<At<Vec<String>>>,
    pub(crate) export: Option<At<Vec<String>>>,
}

impl FamilySettings {
    fn inherit(&mut self, group: &Self) {
        fill(&mut self.active, &group.active);
        fill(&mut self.max_prefixes, &group.max_prefixes);
        fill(&mut self.as_override, &group.as_override);
        fill(&mut self.sends_own_as, &group.sends_own_as);
        fill(&mut self.import, &group.import);
        fill(&mut self.export, &group.export);
    }
}

/// A filter of routes: the first term that contains a prefix decides.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Filter {
    pub(crate) line: usize,
    pub(crate) terms: Vec<Term>,
    /// Terms on which something else than the prefix decides.
    pub(crate) is_partial: bool,
    /// For what no term contains; `None`: the next filter, or else the default.
    pub(crate) otherwise: Option<bool>,
}

/// One term of a filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Term {
    pub(crate) range: PrefixRange,
    pub(crate) permits: bool,
}

/// What filters make of a prefix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Permit,
    Deny,
    /// It depends on more than the prefix.
    Unknown,
}

impl Router {
    /// What filters, one after the other, make of a prefix. A filter that is not in the file is unknown.
    pub(crate) fn verdict(&self, names: &[String], prefix: &Prefix) -> Verdict {
        for name in names {
            let Some(filter) = self.filters.get(name) else {
                return Verdict::Unknown;
            };
            if let Some(term) = filter.terms.iter().find(|term| term.range.contains(prefix)) {
                return match (filter.is_partial, term.permits) {
                    (true, _) => Verdict::Unknown,
                    (false, true) => Verdict::Permit,
                    (false, false) => Verdict::Deny,
                };
            }
            match filter.otherwise {
                _ if filter.is_partial => return Verdict::Unknown,
                Some(true) => return Verdict::Permit,
                Some(false) => return Verdict::Deny,
                None => {}
            }
        }
        // Junos accepts what its policies leave open; the others have a last word in each filter.
        Verdict::Permit
    }
}
