//! Actions of rules, as written.

use std::net::IpAddr;

use bgp_proto::policy::{KernelActions, NextHopAction, NumberAction};
use bgp_proto::types::Asn;
use bgp_proto::wire::Origin;

use super::super::Section;
use super::matching::{COMMUNITIES, CommunityItem, CommunityText, EXT, LARGE, ORIGIN, read_communities};
use crate::decode::{Cursor, Fields, Located};
use crate::value::{self, Bad, Kind, int};

pub(crate) const SET: Section = Section {
    name: "policies.NAME[].set",
    fields: &[
        "localPreference",
        "med",
        "origin",
        "communities",
        "largeCommunities",
        "extCommunities",
        "prepend",
        "nextHop",
        "install",
        "kernel",
    ],
};

pub(crate) const EDIT_COMMUNITIES: Section = Section {
    name: "policies.NAME[].set.communities",
    fields: &["add", "remove", "clear"],
};

pub(crate) const EDIT_LARGE: Section = Section {
    name: "policies.NAME[].set.largeCommunities",
    fields: &["add", "remove", "clear"],
};

pub(crate) const EDIT_EXT: Section = Section {
    name: "policies.NAME[].set.extCommunities",
    fields: &["add", "remove", "clear"],
};

pub(crate) const PREPEND: Section = Section {
    name: "policies.NAME[].set.prepend",
    fields: &["asn", "times"],
};

pub(crate) const KERNEL: Section = Section {
    name: "policies.NAME[].set.kernel",
    fields: &["type", "metric", "table", "source", "weight"],
};

/// What a rule changes.
#[derive(Debug, Default)]
pub(crate) struct Set {
    pub(crate) local_pref: Option<NumberAction>,
    pub(crate) med: Option<NumberAction>,
    pub(crate) origin: Option<Origin>,
    pub(crate) communities: Edit,
    pub(crate) large_communities: Edit,
    pub(crate) ext_communities: Edit,
    pub(crate) prepend: Option<(Prepend, u8)>,
    pub(crate) next_hop: Option<NextHopAction>,
    pub(crate) kernel: KernelActions,
}

/// Changes of the communities of one kind.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    pub(crate) clear: bool,
    pub(crate) remove: Option<Vec<CommunityItem>>,
    pub(crate) add: Vec<CommunityItem>,
}

/// Which AS number goes in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Prepend {
    Own,
    Asn(Asn),
    /// The one that is first in the path.
    Neighbor,
    /// That of the peer.
    Peer,
}

/// `200`, or by how much: `+50`, `-50`.
const NUMBER: Kind<NumberAction> = Kind {
    what: "a number",
    example: "200",
    parse: |scalar| {
        let range = || Bad::Range("a number from 0 to 4294967295, or +50 or -50 for a change".to_owned());
        let change = scalar.text.strip_prefix(['+', '-']);
        match change {
            Some(digits) => {
                let number: u32 = digits
                    .parse()
                    .ok()
                    .filter(|_| !digits.starts_with('+'))
                    .ok_or_else(range)?;
                let number = i64::from(number);
                let is_less = scalar.text.starts_with('-');
                Ok(NumberAction::Add(if is_less { -number } else { number }))
            }
            None => match int::<u32, 0, 4_294_967_295>(scalar) {
                Ok(number) => Ok(NumberAction::Set(number)),
                Err(Bad::Range(_)) => Err(range()),
                Err(bad) => Err(bad),
            },
        }
    },
};

const TIMES: Kind<u8> = Kind {
    what: "a count",
    example: "2",
    parse: int::<u8, 1, 32>,
};

const PREPENDED: Kind<Prepend> = Kind {
    what: "an AS number",
    example: "64512",
    parse: |scalar| match scalar.text {
        "self" => Ok(Prepend::Own),
        "neighbor" => Ok(Prepend::Neighbor),
        "peer" => Ok(Prepend::Peer),
        _ => (value::ASN.parse)(scalar).map(Prepend::Asn),
    },
};

const NEXT_HOP: Kind<NextHopAction> = Kind {
    what: "a next hop",
    example: "self",
    parse: |scalar| match scalar.text {
        "self" => Ok(NextHopAction::OwnAddress),
        "peer" => Ok(NextHopAction::PeerAddress),
        "unchanged" => Ok(NextHopAction::Unchanged),
        _ => match (value::HOST.parse)(scalar) {
            Ok(addr) => Ok(NextHopAction::Address(addr)),
            Err(Bad::Shape) => Err(Bad::Range("self, peer, unchanged or an IP address".to_owned())),
            Err(bad) => Err(bad),
        },
    },
};

const ROUTE_TYPE: Kind<bool> = Kind {
    what: "a type of route",
    example: "blackhole",
    parse: |scalar| match scalar.text {
        "unicast" => Ok(false),
        "blackhole" => Ok(true),
        _ => Err(Bad::Range("unicast or blackhole".to_owned())),
    },
};

const METRIC: Kind<u32> = Kind {
    what: "a metric",
    example: "40",
    parse: int::<u32, 1, 4_294_967_294>,
};

/// Other tables than the main one and that of `fib.table` are not followed.
const TABLE: Kind<u32> = Kind {
    what: "the main table",
    example: "254",
    parse: int::<u32, 254, 254>,
};

const WEIGHT: Kind<u8> = Kind {
    what: "a weight",
    example: "2",
    parse: int::<u8, 1, 255>,
};

const SOURCE_ADDRESS: Kind<IpAddr> = value::HOST;

pub(super) fn read_set(fields: &Fields<'_>) -> Set {
    let edit = |name, section, kind| {
        let inside = fields.fields(name, section);
        inside.map(|fields| read_edit(&fields, kind)).unwrap_or_default()
    };
    let kernel = fields.fields("kernel", &KERNEL);
    let kernel = kernel.map(|fields| read_kernel(&fields)).unwrap_or_default();
    Set {
        local_pref: fields.scalar("localPreference", &NUMBER).map(|at| at.value),
        med: fields.scalar("med", &NUMBER).map(|at| at.value),
        origin: fields.scalar("origin", &ORIGIN).map(|at| at.value),
        communities: edit("communities", &EDIT_COMMUNITIES, &COMMUNITIES),
        large_communities: edit("largeCommunities", &EDIT_LARGE, &LARGE),
        ext_communities: edit("extCommunities", &EDIT_EXT, &EXT),
        prepend: fields.get("prepend").and_then(|cursor| read_prepend(&cursor)),
        next_hop: fields.scalar("nextHop", &NEXT_HOP).map(|at| at.value),
        kernel: KernelActions {
            install: fields.scalar("install", &value::BOOL).map(|at| at.value),
            ..kernel
        },
    }
}

fn read_edit(fields: &Fields<'_>, kind: &CommunityText) -> Edit {
    let list = |name| {
        let cursor: Cursor<'_> = fields.get(name)?;
        Some(read_communities(&cursor, kind))
    };
    let add = list("add").unwrap_or_default();
    if let Some(cursor) = fields.get("add") {
        let is_pattern = |item: &CommunityItem| match item {
            CommunityItem::Text(text) => text.contains(['*', '?']),
            CommunityItem::List(_) => false,
        };
        if add.iter().any(is_pattern) {
            cursor.error(
                "what is added is a community, not a pattern of many",
                "write out the numbers",
            );
        }
    }
    Edit {
        clear: fields.scalar("clear", &value::BOOL).is_some_and(|at| at.value),
        remove: list("remove"),
        add,
    }
}

fn read_kernel(fields: &Fields<'_>) -> KernelActions {
    KernelActions {
        install: None,
        blackhole: fields.scalar("type", &ROUTE_TYPE).map(|at| at.value),
        metric: fields.scalar("metric", &METRIC).map(|at| at.value),
        table: fields.scalar("table", &TABLE).map(|at| at.value),
        source: fields.scalar("source", &SOURCE_ADDRESS).map(|at| at.value),
        weight: fields.scalar("weight", &WEIGHT).map(|at| at.value),
    }
}

fn read_prepend(cursor: &Cursor<'_>) -> Option<(Prepend, u8)> {
    if !cursor.is_map() {
        return Some((Prepend::Own, cursor.scalar(&TIMES)?.value));
    }
    let fields = cursor.fields(&PREPEND)?;
    let asn: Option<Located<Prepend>> = fields.required("asn", &PREPENDED);
    let times = fields.scalar("times", &TIMES).map_or(1, |times| times.value);
    Some((asn?.value, times))
}

/// A community that is added: one, not a pattern of many.
#[derive(Debug)]
pub(crate) struct Exact(pub(crate) String);

impl Exact {
    pub(crate) fn community(&self) -> Option<bgp_proto::types::Community> {
        self.0.parse().ok()
    }

    pub(crate) fn large(&self) -> Option<bgp_proto::types::LargeCommunity> {
        (value::LARGE_COMMUNITY.parse)(value::Scalar {
            text: &self.0,
            quoted: true,
        })
        .ok()
    }

    pub(crate) fn ext(&self) -> Option<bgp_proto::types::ExtCommunity> {
        self.0.parse().ok()
    }
}
