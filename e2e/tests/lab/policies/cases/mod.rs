//! Policies that operators write, in three languages, and the routes that go through them.

mod attributes;
mod communities;
mod export;
mod paths;
mod prefixes;

/// Cases by what they look at; one scenario each.
pub(super) const GROUPS: [(&str, &[Case]); 5] = [
    ("prefixes", prefixes::CASES),
    ("communities", communities::CASES),
    ("paths", paths::CASES),
    ("attributes", attributes::CASES),
    ("export", export::CASES),
];

/// One policy.
pub(super) struct Case {
    pub(super) key: &'static str,
    pub(super) direction: Direction,
    /// The section `policies` with the policy `tested`, and what it needs.
    pub(super) podroute: &'static str,
    /// The route map `tested`, and what it needs.
    pub(super) frr: &'static str,
    /// The body of a filter.
    pub(super) bird: &'static str,
    pub(super) passes: Passes,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the sender.
    Import,
    /// To the observer of another AS.
    Export,
}

/// The prefixes that the policy accepts.
pub(super) enum Passes {
    All,
    Only(&'static str),
    AllBut(&'static str),
}

/// A route of the sender, AS 65001.
pub(super) struct Sent {
    pub(super) prefix: &'static str,
    /// AS numbers behind the sender's.
    pub(super) path: &'static str,
    pub(super) communities: &'static str,
    pub(super) large: &'static str,
    pub(super) ext: &'static str,
    pub(super) med: Option<u32>,
    pub(super) incomplete: bool,
}

const fn plain(prefix: &'static str) -> Sent {
    Sent {
        prefix,
        path: "",
        communities: "",
        large: "",
        ext: "",
        med: None,
        incomplete: false,
    }
}

const fn behind(prefix: &'static str, path: &'static str) -> Sent {
    Sent {
        path,
        ..plain(prefix)
    }
}

const fn tagged(prefix: &'static str, communities: &'static str) -> Sent {
    Sent {
        communities,
        ..plain(prefix)
    }
}

pub(super) const ROUTES: &[Sent] = &[
    plain("0.0.0.0/0"),
    plain("10.8.0.0/16"),
    tagged("10.8.1.0/24", "65001:150"),
    plain("10.8.2.0/25"),
    plain("10.8.3.3/32"),
    tagged("10.9.0.0/16", "64512:5 65001:1500"),
    tagged("10.9.1.0/24", "65001:666"),
    behind("10.10.0.0/16", "64500"),
    Sent {
        communities: "65001:100 65001:7 64512:1",
        large: "64512:0:65002",
        ..behind("10.11.0.0/16", "7")
    },
    Sent {
        large: "64512:0:65003",
        ..plain("10.12.0.0/16")
    },
    behind("10.13.0.0/16", "4200000001"),
    behind("10.14.0.0/16", "7 7 7 7 8"),
    Sent {
        ext: "rt:65001:10",
        ..plain("10.15.0.0/16")
    },
    plain("100.64.0.0/16"),
    Sent {
        med: Some(5),
        ..plain("172.16.0.0/16")
    },
    Sent {
        med: Some(50),
        incomplete: true,
        ..plain("172.17.0.0/16")
    },
    plain("192.168.7.0/24"),
    Sent {
        communities: "65001:7",
        large: "7:8:9",
        ..behind("203.0.113.0/24", "8 9")
    },
    tagged("203.0.113.128/26", "65001:99 65001:200"),
];

const fn import(key: &'static str, [podroute, frr, bird]: [&'static str; 3], passes: Passes) -> Case {
    Case {
        key,
        direction: Direction::Import,
        podroute,
        frr,
        bird,
        passes,
    }
}

const fn export(key: &'static str, languages: [&'static str; 3], passes: Passes) -> Case {
    Case {
        direction: Direction::Export,
        ..import(key, languages, passes)
    }
}
