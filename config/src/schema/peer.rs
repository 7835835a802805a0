//! The section `peers`: with whom this node speaks, and how.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bgp_proto::types::{Asn, Family, HoldTime};

use super::{Section, labels};
use crate::decode::{At, Cursor, Fields};
use crate::problem::Spot;
use crate::value::{self, Kind, int};

pub(crate) const PEER: Section = Section {
    name: "peers[]",
    fields: &[
        "name",
        "description",
        "nodeSelector",
        "address",
        "port",
        "asn",
        "localAddress",
        "passive",
        "multihop",
        "ttlSecurity",
        "password",
        "timers",
        "gracefulRestart",
        "families",
        "import",
        "export",
        "nextHopSelf",
        "routeReflectorClient",
        "allowOwnAs",
        "maxPrefixes",
        "shutdown",
    ],
};

pub(crate) const PASSWORD: Section = Section {
    name: "peers[].password",
    fields: &["file"],
};

pub(crate) const TTL_SECURITY: Section = Section {
    name: "peers[].ttlSecurity",
    fields: &["hops"],
};

pub(crate) const TIMERS: Section = Section {
    name: "peers[].timers",
    fields: &["hold", "connectRetry"],
};

pub(crate) const GRACEFUL_RESTART: Section = Section {
    name: "peers[].gracefulRestart",
    fields: &["restartTime"],
};

const TTL: Kind<u8> = Kind {
    what: "a TTL",
    example: "2",
    parse: int::<u8, 1, 255>,
};

const HOPS: Kind<u8> = Kind {
    what: "a number of hops",
    example: "1",
    parse: int::<u8, 1, 254>,
};

const OWN_AS: Kind<u8> = Kind {
    what: "a count",
    example: "1",
    parse: int::<u8, 0, 10>,
};

const MAX_PREFIXES: Kind<u32> = Kind {
    what: "a number of prefixes",
    example: "1000",
    parse: int::<u32, 1, 4_294_967_295>,
};

/// One peer as written.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The whole entry.
    pub(crate) spot: Spot,
    pub(crate) name: Option<At<String>>,
    pub(crate) description: Option<At<String>>,
    pub(crate) node_selector: Vec<(At<String>, At<String>)>,
    pub(crate) address: Option<At<IpAddr>>,
    pub(crate) port: Option<At<u16>>,
    pub(crate) asn: Option<At<Asn>>,
    pub(crate) local_address: Option<At<IpAddr>>,
    pub(crate) passive: Option<At<bool>>,
    pub(crate) multihop: Option<At<u8>>,
    pub(crate) ttl_security: Option<At<u8>>,
    pub(crate) password: Option<At<PathBuf>>,
    pub(crate) hold: Option<At<HoldTime>>,
    pub(crate) connect_retry: Option<At<Duration>>,
    pub(crate) restart_time: Option<At<u16>>,
    pub(crate) families: Option<Vec<At<Family>>>,
    pub(crate) import: Option<At<String>>,
    pub(crate) export: Option<At<String>>,
    pub(crate) next_hop_self: Option<At<bool>>,
    pub(crate) reflector_client: Option<At<bool>>,
    pub(crate) allow_own_as: Option<At<u8>>,
    pub(crate) max_prefixes: Option<At<u32>>,
    pub(crate) shutdown: Option<At<bool>>,
}

/// Reads the list of peers.
pub(crate) fn read_peers(document: &Fields<'_>) -> Vec<Peer> {
    let Some(cursor) = document.get("peers") else {
        return Vec::new();
    };
    let items = cursor.items("a list of peers", "{name: tor-a, address: 192.0.2.1, asn: 65001}");
    items.iter().filter_map(read_peer).collect()
}

fn read_peer(cursor: &Cursor<'_>) -> Option<Peer> {
    let fields = cursor.fields(&PEER)?;
    let timers = fields.fields("timers", &TIMERS);
    let families = fields.get("families");
    if let Some(empty) = families.as_ref().filter(|cursor| cursor.is_empty_list()) {
        empty.error(
            "a session without a family carries nothing",
            "name ipv4, ipv6 or both",
        );
    }
    Some(Peer {
        spot: fields.spot().clone(),
        name: fields.required("name", &value::NAME),
        description: fields.scalar("description", &value::TEXT),
        node_selector: fields
            .get("nodeSelector")
            .map(|cursor| labels(&cursor))
            .unwrap_or_default(),
        address: fields.required("address", &value::HOST),
        port: fields.scalar("port", &value::PORT),
        asn: fields.required("asn", &value::ASN),
        local_address: fields.scalar("localAddress", &value::HOST),
        passive: fields.scalar("passive", &value::BOOL),
        multihop: fields.scalar("multihop", &TTL),
        ttl_security: fields
            .fields("ttlSecurity", &TTL_SECURITY)
            .and_then(|fields| fields.required("hops", &HOPS)),
        password: fields
            .fields("password", &PASSWORD)
            .and_then(|fields| fields.required("file", &value::FILE)),
        hold: timers
            .as_ref()
            .and_then(|fields| fields.scalar("hold", &value::HOLD_TIME)),
        connect_retry: timers
            .as_ref()
            .and_then(|fields| fields.scalar("connectRetry", &value::RETRY_TIME)),
        restart_time: fields
            .fields("gracefulRestart", &GRACEFUL_RESTART)
            .and_then(|fields| fields.required("restartTime", &value::RESTART_TIME)),
        families: families.map(|cursor| cursor.scalars(&value::FAMILY)),
        import: fields.scalar("import", &value::NAME),
        export: fields.scalar("export", &value::NAME),
        next_hop_self: fields.scalar("nextHopSelf", &value::BOOL),
        reflector_client: fields.scalar("routeReflectorClient", &value::BOOL),
        allow_own_as: fields.scalar("allowOwnAs", &OWN_AS),
        max_prefixes: fields.scalar("maxPrefixes", &MAX_PREFIXES),
        shutdown: fields.scalar("shutdown", &value::BOOL),
    })
}
