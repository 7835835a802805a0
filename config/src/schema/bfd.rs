//! The sections `bfd` of peers, of the mesh, and of `nextHops`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::Section;
use crate::decode::{Fields, Located};
use crate::model::BfdAuthKind;
use crate::problem::Location;
use crate::value::{self, Bad, Kind, int};

pub(crate) const BFD: Section = Section {
    name: "peers[].bfd",
    fields: &[
        "interval",
        "multiplier",
        "multihop",
        "strict",
        "auth",
        "dampening",
    ],
};

pub(crate) const BFD_AUTH: Section = Section {
    name: "peers[].bfd.auth",
    fields: &["type", "keyId", "file"],
};

pub(crate) const BFD_DAMPENING: Section = Section {
    name: "peers[].bfd.dampening",
    fields: &["losses", "halfLife", "longest"],
};

pub(crate) const NEXT_HOP: Section = Section {
    name: "nextHops[]",
    fields: &["address", "localAddress", "bfd"],
};

const MULTIPLIER: Kind<u8> = Kind {
    what: "a number of packets",
    example: "3",
    parse: int::<u8, 1, 255>,
};

const KEY_ID: Kind<u8> = Kind {
    what: "a key's number",
    example: "1",
    parse: int::<u8, 0, 255>,
};

const LOSSES: Kind<u8> = Kind {
    what: "a number of losses",
    example: "3",
    parse: int::<u8, 2, 100>,
};

/// The names of RFC 5880 §4.1.
const AUTH_KINDS: [(&str, BfdAuthKind); 5] = [
    ("simple", BfdAuthKind::Simple),
    ("keyed-md5", BfdAuthKind::KeyedMd5),
    ("meticulous-keyed-md5", BfdAuthKind::MeticulousKeyedMd5),
    ("keyed-sha1", BfdAuthKind::KeyedSha1),
    ("meticulous-keyed-sha1", BfdAuthKind::MeticulousKeyedSha1),
];

const AUTH_KIND: Kind<BfdAuthKind> = Kind {
    what: "a type of authentication",
    example: "meticulous-keyed-sha1",
    parse: |scalar| match AUTH_KINDS.iter().find(|(name, _)| *name == scalar.text) {
        Some((_, kind)) => Ok(*kind),
        None => Err(Bad::Range(AUTH_KINDS.map(|(name, _)| name).join(", "))),
    },
};

/// `bfd` as written.
#[derive(Debug)]
pub(crate) struct Bfd {
    pub(crate) interval: Option<Located<Duration>>,
    pub(crate) multiplier: Option<Located<u8>>,
    pub(crate) multihop: Option<Located<bool>>,
    pub(crate) strict: Option<Located<bool>>,
    pub(crate) auth: Option<BfdAuth>,
    pub(crate) dampening: Option<BfdDampening>,
}

/// `bfd.auth` as written.
#[derive(Debug)]
pub(crate) struct BfdAuth {
    pub(crate) kind: Option<Located<BfdAuthKind>>,
    pub(crate) key_id: Option<Located<u8>>,
    pub(crate) file: Option<Located<PathBuf>>,
}

/// `bfd.dampening` as written.
#[derive(Debug)]
pub(crate) struct BfdDampening {
    pub(crate) losses: Option<Located<u8>>,
    pub(crate) half_life: Option<Located<Duration>>,
    pub(crate) longest: Option<Located<Duration>>,
}

impl Bfd {
    pub(crate) fn read(fields: &Fields<'_>) -> Self {
        let auth = fields.fields("auth", &BFD_AUTH);
        let dampening = fields.fields("dampening", &BFD_DAMPENING);
        Self {
            interval: fields.scalar("interval", &value::BFD_INTERVAL),
            multiplier: fields.scalar("multiplier", &MULTIPLIER),
            multihop: fields.scalar("multihop", &value::BOOL),
            strict: fields.scalar("strict", &value::BOOL),
            auth: auth.map(|fields| BfdAuth {
                kind: fields.required("type", &AUTH_KIND),
                key_id: fields.scalar("keyId", &KEY_ID),
                file: fields.required("file", &value::FILE),
            }),
            dampening: dampening.map(|fields| BfdDampening {
                losses: fields.scalar("losses", &LOSSES),
                half_life: fields.scalar("halfLife", &value::DAMPENING_TIME),
                longest: fields.scalar("longest", &value::DAMPENING_TIME),
            }),
        }
    }
}

/// One of `nextHops` as written.
#[derive(Debug)]
pub(crate) struct NextHop {
    pub(crate) location: Location,
    pub(crate) address: Option<Located<IpAddr>>,
    pub(crate) local_address: Option<Located<IpAddr>>,
    pub(crate) bfd: Option<Bfd>,
}

pub(crate) fn read_next_hops(document: &Fields<'_>) -> Vec<NextHop> {
    let Some(cursor) = document.get("nextHops") else {
        return Vec::new();
    };
    let read = |item: crate::decode::Cursor<'_>| {
        let fields = item.fields(&NEXT_HOP)?;
        let bfd = fields.fields("bfd", &BFD);
        if bfd.is_none() && !fields.is_given("bfd") {
            item.error("nothing watches this next hop", "add bfd: {}");
        }
        Some(NextHop {
            location: item.location.clone(),
            address: fields.required("address", &value::HOST),
            local_address: fields.scalar("localAddress", &value::HOST),
            bfd: bfd.map(|fields| Bfd::read(&fields)),
        })
    };
    cursor
        .items("a list of next hops", "{address: 192.0.2.12, bfd: {}}")
        .into_iter()
        .filter_map(read)
        .collect()
}
