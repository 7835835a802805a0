//! Cisco NX-OS: a section for each neighbor below `router bgp`.

use std::net::IpAddr;

use bgp_proto::types::Family;

use super::cisco::{as_number, filter, number, remote_as};
use super::cisco_filters::{Filters, list_name};
use super::lines::{Line, lines};
use super::neighbors::{Collected, place};
use crate::format::Format;
use crate::router::{At, ReadBfd, RemoteAs, Router, Settings};
use crate::side::Ttl;

pub(super) fn read(text: &str) -> Router {
    let mut reader = Reader {
        router: Router::new(Format::Nxos),
        collected: Collected::default(),
        filters: Filters::default(),
        of_all: Settings::default(),
        top: Top::Other,
        neighbor: None,
        family: None,
    };
    for line in lines(text) {
        reader.line(&line);
    }
    let mut router = reader.router;
    router.neighbors = reader.collected.resolve(&reader.of_all);
    router.filters = reader.filters.finish();
    router
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Top {
    Other,
    Bgp,
    /// Below `vrf` of `router bgp`: another BGP.
    Vrf,
    Interface,
}

#[derive(Debug)]
struct Reader {
    router: Router,
    collected: Collected,
    filters: Filters,
    of_all: Settings,
    top: Top,
    /// The neighbor or template, and how far its line is indented.
    neighbor: Option<(String, usize)>,
    /// The family in it, and how far its line is indented.
    family: Option<(Option<Family>, usize)>,
}

impl Reader {
    fn line(&mut self, line: &Line<'_>) {
        if line.indent == 0 {
            return self.top(line);
        }
        if self.filters.nested(line) {
            return;
        }
        match self.top {
            Top::Bgp => self.bgp(line),
            Top::Interface => self.interface(line),
            Top::Other | Top::Vrf => {}
        }
    }

    fn top(&mut self, line: &Line<'_>) {
        self.neighbor = None;
        self.family = None;
        self.filters.close();
        self.top = match line.words.as_slice() {
            ["router", "bgp", asn] => {
                self.router.asn = as_number(asn).map(|asn| At::new(line.number, asn));
                Top::Bgp
            }
            ["interface", ..] => Top::Interface,
            _ => {
                self.filters.top(line);
                Top::Other
            }
        };
    }

    fn interface(&mut self, line: &Line<'_>) {
        if let ["ip" | "ipv6", "address", address, ..] = line.words.as_slice() {
            let address: Option<IpAddr> = address.split('/').next().and_then(|text| text.parse().ok());
            self.router
                .addresses
                .extend(address.map(|address| At::new(line.number, address)));
        }
    }

    fn bgp(&mut self, line: &Line<'_>) {
        let at = line.number;
        if self
            .neighbor
            .as_ref()
            .is_some_and(|(_, indent)| line.indent <= *indent)
        {
            self.neighbor = None;
            self.family = None;
        }
        if self
            .family
            .as_ref()
            .is_some_and(|(_, indent)| line.indent <= *indent)
        {
            self.family = None;
        }
        match line.words.as_slice() {
            ["vrf", ..] => self.top = Top::Vrf,
            ["neighbor", name, rest @ ..] if self.neighbor.is_none() => {
                self.collected.place(name, place(name), at);
                if let ["remote-as", asn] = rest {
                    let remote = remote_as(asn).map(|remote| At::new(at, remote));
                    self.collected.settings(name).remote_as = remote;
                }
                self.neighbor = Some(((*name).to_owned(), line.indent));
            }
            ["template", "peer" | "peer-policy" | "peer-session", name] => {
                self.collected.group(name);
                self.neighbor = Some(((*name).to_owned(), line.indent));
            }
            ["address-family", family, rest @ ..] => {
                let family = family_of(family).filter(|_| rest.first() == Some(&"unicast"));
                if let (Some((name, _)), Some(family)) = (&self.neighbor, family) {
                    self.collected.settings(name).family(family).active = Some(At::new(at, true));
                }
                self.family = Some((family, line.indent));
            }
            words => self.statement(at, words),
        }
    }

    fn statement(&mut self, at: usize, words: &[&str]) {
        let (words, on) = match words {
            ["no", rest @ ..] => (rest, false),
            words => (words, true),
        };
        let Some((name, _)) = &self.neighbor else {
            if self.family.is_none() {
                of_all(&mut self.of_all, at, words, on);
            }
            return;
        };
        if let ["inherit", "peer" | "peer-policy" | "peer-session", template, ..] = words {
            return self.collected.join(&name.clone(), template);
        }
        let settings = self.collected.settings(name);
        match self.family {
            Some((Some(family), _)) => in_family(settings, at, family, words, on),
            Some((None, _)) => {}
            None => of_neighbor(settings, at, words, on),
        }
    }
}

fn family_of(word: &str) -> Option<Family> {
    match word {
        "ipv4" => Some(Family::Ipv4),
        "ipv6" => Some(Family::Ipv6),
        _ => None,
    }
}

fn of_all(settings: &mut Settings, at: usize, words: &[&str], on: bool) {
    match words {
        // `no graceful-restart` is the end of both; `graceful-restart` alone is the default.
        ["graceful-restart"] if !on => settings.graceful_restart = Some(At::new(at, false)),
        ["graceful-restart-helper"] => settings.graceful_restart = Some(At::new(at, on)),
        ["timers", "bgp", _, hold] if on => settings.hold = number(hold).map(|hold| At::new(at, hold)),
        _ => {}
    }
}

fn of_neighbor(settings: &mut Settings, at: usize, words: &[&str], on: bool) {
    let flag = Some(At::new(at, on));
    match words {
        ["remote-as", "route-map", ..] => settings.remote_as = Some(At::new(at, RemoteAs::Unknown)),
        ["remote-as", asn] => settings.remote_as = remote_as(asn).map(|remote| At::new(at, remote)),
        ["local-as", asn, ..] => settings.local_as = as_number(asn).map(|asn| At::new(at, asn)),
        ["password", ..] => settings.transport.password = flag,
        ["timers", _, hold] => settings.hold = number(hold).map(|hold| At::new(at, hold)),
        ["ttl-security", "hops", hops] => {
            settings.transport.ttl = number(hops).map(|hops| At::new(at, Ttl::Security(hops)));
        }
        ["ebgp-multihop", hops] => {
            settings.transport.ttl = number(hops).map(|hops| At::new(at, Ttl::Multihop(hops)));
        }
        [
            "bfd",
            "interval",
            interval,
            "min_rx",
            receive,
            "multiplier",
            multiplier,
        ]
        | [
            "bfd",
            "multihop",
            "interval",
            interval,
            "min_rx",
            receive,
            "multiplier",
            multiplier,
        ] => {
            let bfd = ReadBfd {
                interval: number(interval).max(number(receive)),
                multiplier: number(multiplier),
            };
            settings.bfd = Some(At::new(at, Some(bfd)));
        }
        ["bfd", ..] => {
            let known = settings.bfd.and_then(|bfd| bfd.value).unwrap_or_default();
            settings.bfd = Some(At::new(at, on.then_some(known)));
        }
        ["shutdown"] => settings.shutdown = flag,
        ["transport", "connection-mode", "passive"] => settings.transport.passive = flag,
        _ => {}
    }
}

fn in_family(settings: &mut Settings, at: usize, family: Family, words: &[&str], on: bool) {
    let flag = Some(At::new(at, on));
    let own = settings.family(family);
    match words {
        ["route-map", name, direction] => filter(own, direction, at, on, (*name).to_owned()),
        ["prefix-list", name, direction] => filter(own, direction, at, on, list_name(family, name)),
        ["maximum-prefix", limit, ..] => own.max_prefixes = number(limit).map(|limit| At::new(at, limit)),
        ["as-override"] => own.as_override = flag,
        ["disable-peer-as-check"] => own.sends_own_as = flag,
        _ => {}
    }
}
