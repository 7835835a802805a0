//! FRR, SONiC, Arista EOS and Cisco IOS XE: `neighbor NAME …` below `router bgp`.

use std::net::IpAddr;

use bgp_proto::types::Family;

use super::cisco_filters::{Filters, list_name};
use super::lines::{Line, lines};
use super::neighbors::{Collected, place};
use crate::format::Format;
use crate::router::{At, Place, ReadBfd, RemoteAs, Router, Settings};
use crate::side::Ttl;

pub(super) fn read(format: Format, text: &str) -> Router {
    let mut reader = Reader {
        router: Router::new(format),
        collected: Collected::default(),
        filters: Filters::default(),
        profiles: profiles(text),
        of_all: Settings::default(),
        section: Section::Other,
        default_v4: true,
    };
    for line in lines(text) {
        reader.line(&line);
    }
    reader.finish()
}

/// Where statements belong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Section {
    Other,
    Bgp,
    Family(Option<Family>),
    Interface,
}

#[derive(Debug)]
struct Reader {
    router: Router,
    collected: Collected,
    filters: Filters,
    /// BFD profiles with their parameters.
    profiles: Vec<(String, ReadBfd)>,
    of_all: Settings,
    section: Section,
    /// Neighbors have IPv4 without `activate`.
    default_v4: bool,
}

impl Reader {
    fn line(&mut self, line: &Line<'_>) {
        if self.opens_section(line) {
            return;
        }
        if self.filters.nested(line) {
            return;
        }
        match self.section {
            Section::Other => {}
            Section::Bgp => self.bgp(line),
            Section::Family(family) => self.in_family(line, family),
            Section::Interface => self.interface(line),
        }
    }

    /// Whether the statement begins or ends a section.
    fn opens_section(&mut self, line: &Line<'_>) -> bool {
        let next = match line.words.as_slice() {
            ["router", "bgp", asn, rest @ ..] => {
                // BGP of a VRF is another one.
                if rest.contains(&"vrf") {
                    Section::Other
                } else {
                    self.router.asn = number(asn).map(|asn| At::new(line.number, asn));
                    Section::Bgp
                }
            }
            ["address-family", family, rest @ ..]
                if matches!(self.section, Section::Bgp | Section::Family(_)) =>
            {
                let is_unicast = rest.is_empty() || rest == ["unicast"];
                let family = match *family {
                    "ipv4" if is_unicast => Some(Family::Ipv4),
                    "ipv6" if is_unicast => Some(Family::Ipv6),
                    _ => None,
                };
                Section::Family(family)
            }
            ["exit-address-family"] => Section::Bgp,
            ["interface", ..] if line.indent == 0 => Section::Interface,
            ["bfd"] if line.indent == 0 => Section::Other,
            ["exit"] if line.indent == 0 => Section::Other,
            ["router" | "vrf" | "line" | "policy-map", ..] if line.indent == 0 => Section::Other,
            _ if self.filters.top(line) => Section::Other,
            _ => return false,
        };
        if !matches!(next, Section::Other) {
            // Statements that follow are no part of a list or route-map.
            self.filters.close();
        }
        self.section = next;
        true
    }

    fn interface(&mut self, line: &Line<'_>) {
        let address = match line.words.as_slice() {
            ["ip", "address", address, ..] => address.split('/').next(),
            ["ipv6", "address", address, ..] => address.split('/').next(),
            _ => None,
        };
        let address: Option<IpAddr> = address.and_then(|text| text.parse().ok());
        self.router
            .addresses
            .extend(address.map(|address| At::new(line.number, address)));
    }

    /// A statement of the router as a whole.
    fn bgp(&mut self, line: &Line<'_>) {
        let at = line.number;
        match line.words.as_slice() {
            ["no", "bgp", "default", "ipv4-unicast"] => self.default_v4 = false,
            ["no", "bgp", "ebgp-requires-policy"] => self.router.policy_optional = true,
            ["bgp", "ebgp-requires-policy"] => self.router.policy_optional = false,
            ["timers", "bgp", _, hold, ..] => {
                self.of_all.hold = number(hold).map(|hold| At::new(at, hold));
            }
            ["bgp", "graceful-restart-disable"]
            | ["no", "graceful-restart-helper"]
            | ["no", "bgp", "graceful-restart"] => {
                self.of_all.graceful_restart = Some(At::new(at, false));
            }
            ["bgp", "graceful-restart", ..] | ["graceful-restart" | "graceful-restart-helper", ..] => {
                self.of_all.graceful_restart = Some(At::new(at, true));
            }
            ["bgp", "listen", "range", range, "peer-group", group, whose @ ..] => {
                self.listen_range(at, range, group, whose);
            }
            ["neighbor", "interface", port, "peer-group", group, whose @ ..] => {
                self.collected
                    .place(port, Place::Interface((*port).to_owned()), at);
                self.collected.join(port, group);
                self.whose(at, port, whose);
            }
            ["neighbor", name, rest @ ..] => self.neighbor(at, name, rest, true),
            ["no", "neighbor", name, rest @ ..] => self.neighbor(at, name, rest, false),
            _ => {}
        }
    }

    fn listen_range(&mut self, at: usize, range: &str, group: &str, whose: &[&str]) {
        let place = place(range);
        self.collected.place(range, place, at);
        self.collected.join(range, group);
        self.whose(at, range, whose);
    }

    /// EOS: `remote-as N` or `peer-filter F` behind a range.
    fn whose(&mut self, at: usize, name: &str, words: &[&str]) {
        let remote = match words {
            ["remote-as", asn, ..] => remote_as(asn),
            ["peer-filter", ..] => Some(RemoteAs::Unknown),
            _ => None,
        };
        if let Some(remote) = remote {
            self.collected.settings(name).remote_as = Some(At::new(at, remote));
        }
    }

    fn neighbor(&mut self, at: usize, name: &str, words: &[&str], on: bool) {
        if on {
            match words {
                ["peer-group"] | ["peer", "group"] => return self.collected.group(name),
                ["peer-group", group] | ["peer", "group", group] => {
                    self.collected.place(name, place(name), at);
                    return self.collected.join(name, group);
                }
                ["interface", rest @ ..] => {
                    self.collected.place(name, Place::Interface(name.to_owned()), at);
                    self.collected.settings(name).transport.extended_next_hop = Some(At::new(at, true));
                    match rest {
                        ["peer-group", group] | ["v6only", "peer-group", group] => {
                            self.collected.join(name, group);
                        }
                        ["remote-as", asn] | ["v6only", "remote-as", asn] => {
                            self.collected.settings(name).remote_as =
                                remote_as(asn).map(|remote| At::new(at, remote));
                        }
                        _ => {}
                    }
                    return;
                }
                _ => {}
            }
        }
        if let ("remote-as", Place::Address(_)) = (words.first().copied().unwrap_or_default(), place(name)) {
            self.collected.place(name, place(name), at);
        }
        let is_eos = self.router.format == Format::Eos;
        let profiles = &self.profiles;
        let settings = self.collected.settings(name);
        statement(settings, at, words, on, is_eos);
        if let (["bfd", "profile", name], true) = (words, on) {
            let profile = profiles.iter().find(|(known, _)| known == name);
            let bfd = profile.map(|(_, bfd)| *bfd).unwrap_or_default();
            settings.bfd = Some(At::new(at, Some(bfd)));
        }
        // Statements of a family may stand outside of it.
        let family = Family::Ipv4;
        if words.first().is_some_and(|word| OF_FAMILY.contains(word)) && *words != ["activate"] {
            in_family(settings, at, family, words, on);
            if is_eos {
                in_family(settings, at, Family::Ipv6, words, on);
            }
        }
    }

    fn in_family(&mut self, line: &Line<'_>, family: Option<Family>) {
        let Some(family) = family else { return };
        let at = line.number;
        let (name, words, on) = match line.words.as_slice() {
            ["neighbor", name, rest @ ..] => (name, rest, true),
            ["no", "neighbor", name, rest @ ..] => (name, rest, false),
            _ => return self.bgp(line),
        };
        match words {
            // Older FRR and IOS join groups here.
            ["peer-group", group] if on => self.collected.join(name, group),
            words if words.first().is_some_and(|word| OF_FAMILY.contains(word)) => {
                in_family(self.collected.settings(name), at, family, words, on);
            }
            words => self.neighbor(at, name, words, on),
        }
    }

    fn finish(self) -> Router {
        let mut router = self.router;
        router.neighbors = self.collected.resolve(&self.of_all);
        if self.default_v4 {
            for neighbor in &mut router.neighbors {
                let line = neighbor.line;
                let active = &mut neighbor.settings.family(Family::Ipv4).active;
                active.get_or_insert(At::new(line, true));
            }
        }
        router.filters = self.filters.finish();
        router
    }
}

/// FRR's BFD profiles, which may stand behind the neighbors that use them.
fn profiles(text: &str) -> Vec<(String, ReadBfd)> {
    let mut profiles: Vec<(String, ReadBfd)> = Vec::new();
    let mut is_bfd = false;
    for line in lines(text) {
        match line.words.as_slice() {
            ["bfd"] if line.indent == 0 => is_bfd = true,
            ["profile", name] if is_bfd => profiles.push(((*name).to_owned(), ReadBfd::default())),
            _ if line.indent == 0 => is_bfd = false,
            words => {
                if let (true, Some((_, profile))) = (is_bfd, profiles.last_mut()) {
                    of_profile(profile, words);
                }
            }
        }
    }
    profiles
}

fn of_profile(profile: &mut ReadBfd, words: &[&str]) {
    match words {
        ["detect-multiplier", value] => profile.multiplier = number(value),
        ["receive-interval" | "transmit-interval", value] => {
            profile.interval = number(value).max(profile.interval);
        }
        _ => {}
    }
}

/// Statements that belong to an address family.
const OF_FAMILY: [&str; 7] = [
    "activate",
    "route-map",
    "prefix-list",
    "maximum-prefix",
    "maximum-routes",
    "as-override",
    "next-hop",
];

pub(super) fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// `64512`, `1.10`, `external` or `internal`.
pub(super) fn remote_as(text: &str) -> Option<RemoteAs> {
    match text {
        "external" => Some(RemoteAs::External),
        "internal" => Some(RemoteAs::Internal),
        "auto" | "route-map" => Some(RemoteAs::Unknown),
        other => as_number(other).map(RemoteAs::One),
    }
}

/// An AS number, also in dotted form (RFC 5396).
pub(super) fn as_number(text: &str) -> Option<u32> {
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((high, low)) => Some((high.parse::<u32>().ok()? << 16) | low.parse::<u32>().ok()?),
    }
}

/// A statement of a neighbor or a group.
fn statement(settings: &mut Settings, at: usize, words: &[&str], on: bool, is_eos: bool) {
    let flag = Some(At::new(at, on));
    match words {
        ["remote-as", asn, ..] => {
            settings.remote_as = remote_as(asn).filter(|_| on).map(|remote| At::new(at, remote));
        }
        ["local-as", asn, ..] if on => settings.local_as = as_number(asn).map(|asn| At::new(at, asn)),
        ["password", ..] => settings.transport.password = flag,
        ["ttl-security", "hops", hops] if on => {
            settings.transport.ttl = number(hops).map(|hops| At::new(at, Ttl::Security(hops)));
        }
        ["ttl", "maximum-hops", hops] if on && is_eos => {
            let hops = number::<u8>(hops).map(|hops| hops.saturating_add(1));
            settings.transport.ttl = hops.map(|hops| At::new(at, Ttl::Security(hops)));
        }
        ["ebgp-multihop", rest @ ..] if on => {
            let hops = rest.first().and_then(|hops| number(hops)).unwrap_or(255);
            let ttl = if hops == 1 {
                Ttl::Direct
            } else {
                Ttl::Multihop(hops)
            };
            settings.transport.ttl = Some(At::new(at, ttl));
        }
        [
            "bfd",
            "interval",
            interval,
            "min-rx",
            receive,
            "multiplier",
            multiplier,
        ] if on => {
            let bfd = ReadBfd {
                interval: number(interval).max(number(receive)),
                multiplier: number(multiplier),
            };
            settings.bfd = Some(At::new(at, Some(bfd)));
        }
        ["bfd"] | ["fall-over", "bfd", ..] | ["bfd", "check-control-plane-failure"] => {
            let known = settings.bfd.and_then(|bfd| bfd.value).unwrap_or_default();
            settings.bfd = Some(At::new(at, on.then_some(known)));
        }
        ["timers", _, hold] if on && *words != ["timers", "connect", hold] => {
            settings.hold = number(hold).map(|hold| At::new(at, hold));
        }
        ["graceful-restart-disable"] => settings.graceful_restart = Some(At::new(at, !on)),
        ["graceful-restart" | "graceful-restart-helper", ..] => settings.graceful_restart = flag,
        ["passive"] => settings.transport.passive = flag,
        ["shutdown", ..] => settings.shutdown = flag,
        ["capability", "extended-nexthop"] => settings.transport.extended_next_hop = flag,
        ["as-path", "remote-as", "replace", "out"] => {
            for family in Family::ALL {
                settings.family(family).as_override = flag;
            }
        }
        _ => {}
    }
}

/// A statement of a neighbor or a group in an address family.
fn in_family(settings: &mut Settings, at: usize, family: Family, words: &[&str], on: bool) {
    let flag = Some(At::new(at, on));
    if let ["next-hop", "address-family", "ipv6", ..] = words {
        settings.transport.extended_next_hop = flag;
    }
    let own = settings.family(family);
    match words {
        ["activate"] => own.active = flag,
        ["as-override", ..] => own.as_override = flag,
        ["maximum-prefix" | "maximum-routes", limit, ..] if on => {
            own.max_prefixes = number(limit).map(|limit| At::new(at, limit));
        }
        ["route-map", name, direction] => filter(own, direction, at, on, (*name).to_owned()),
        ["prefix-list", name, direction] => filter(own, direction, at, on, list_name(family, name)),
        _ => {}
    }
}

pub(super) fn filter(
    own: &mut crate::router::FamilySettings,
    direction: &str,
    at: usize,
    on: bool,
    name: String,
) {
    let value = on.then(|| At::new(at, vec![name]));
    match direction {
        "in" => own.import = value,
        "out" => own.export = value,
        _ => {}
    }
}
