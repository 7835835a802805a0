//! The section `peers`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bgp_proto::engine::PrivateAs;
use bgp_proto::types::{Asn, Family, HoldTime, Prefix, Role};

use super::bfd::{BFD, Bfd};
use super::{Section, labels};
use crate::decode::{Cursor, Fields, Located};
use crate::model::LocalAddress;
use crate::problem::Location;
use crate::value::{self, Bad, Kind, int};

pub(crate) const PEER: Section = Section {
    name: "peers[]",
    fields: &[
        "name",
        "description",
        "nodeSelector",
        "address",
        "interface",
        "listenRange",
        "listenLimit",
        "port",
        "asn",
        "localAs",
        "localAddress",
        "passive",
        "multihop",
        "ttlSecurity",
        "password",
        "timers",
        "bfd",
        "gracefulRestart",
        "families",
        "extendedNextHop",
        "addPath",
        "import",
        "export",
        "nextHopSelf",
        "nextHopUnchanged",
        "routeReflectorClient",
        "routeServerClient",
        "allowOwnAs",
        "asOverride",
        "removePrivateAs",
        "enforceFirstAs",
        "role",
        "strictRole",
        "maxPrefixes",
        "maxMemory",
        "shutdown",
    ],
};

pub(crate) const PASSWORD: Section = Section {
    name: "peers[].password",
    fields: &["file", "next"],
};

/// `password`: keys of TCP MD5.
#[derive(Debug)]
pub(crate) struct Password {
    pub(crate) file: Located<PathBuf>,
    pub(crate) next: Option<Located<PathBuf>>,
}

impl Password {
    pub(crate) fn read(fields: &Fields<'_>) -> Option<Self> {
        let next = fields.scalar("next", &value::FILE);
        let file = fields.required("file", &value::FILE)?;
        Some(Self { file, next })
    }

    pub(crate) fn next(&self) -> Option<PathBuf> {
        self.next.as_ref().map(|next| next.value.clone())
    }
}

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
    fields: &["restartTime", "notification", "longLived"],
};

pub(crate) const LOCAL_AS: Section = Section {
    name: "peers[].localAs",
    fields: &["asn", "noPrepend", "replaceAs"],
};

pub(crate) const MAX_PREFIXES: Section = Section {
    name: "peers[].maxPrefixes",
    fields: &["limit", "warnAt", "action", "restartAfter"],
};

pub(crate) const ADD_PATH: Section = Section {
    name: "peers[].addPath",
    fields: &["receive", "send", "maxPaths"],
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

const PREFIX_COUNT: Kind<u32> = Kind {
    what: "a number of prefixes",
    example: "1000",
    parse: int::<u32, 1, 4_294_967_295>,
};

const PERCENT: Kind<u8> = Kind {
    what: "a percentage",
    example: "80",
    parse: int::<u8, 1, 100>,
};

const PEER_COUNT: Kind<u32> = Kind {
    what: "a number of peers",
    example: "100",
    parse: int::<u32, 1, 10_000>,
};

const PRIVATE_AS: Kind<PrivateAs> = Kind {
    what: "what to do with private AS numbers",
    example: "remove",
    parse: |scalar| match scalar.text {
        "keep" => Ok(PrivateAs::Keep),
        "remove" => Ok(PrivateAs::Remove),
        "replace" => Ok(PrivateAs::Replace),
        _ => Err(Bad::Range("keep, remove or replace".to_owned())),
    },
};

/// An address, or the interface whose address it is.
const LOCAL_ADDRESS: Kind<LocalAddress> = Kind {
    what: "an IP address or the name of a network interface",
    example: "192.0.2.11",
    parse: |scalar| match (value::HOST.parse)(scalar) {
        Ok(address) => Ok(LocalAddress::Address(address)),
        // What looks like an address is meant as one.
        Err(bad) if scalar.text.contains([':', '/']) || is_dotted(scalar.text) => Err(bad),
        Err(_) => (INTERFACE.parse)(scalar).map(LocalAddress::Interface),
    },
};

fn is_dotted(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_digit() || c == '.')
}

const ROLE: Kind<Role> = Kind {
    what: "a role of this node",
    example: "customer",
    parse: |scalar| {
        let found = Role::ALL.into_iter().find(|role| role.to_string() == scalar.text);
        found.ok_or_else(|| Bad::Range("provider, customer, peer, rs-server or rs-client".to_owned()))
    },
};

/// True: warn only.
const ACTION: Kind<bool> = Kind {
    what: "an action",
    example: "cease",
    parse: |scalar| match scalar.text {
        "cease" => Ok(false),
        "warn" => Ok(true),
        _ => Err(Bad::Range("cease or warn".to_owned())),
    },
};

const RECEIVED_PATHS: Kind<u16> = Kind {
    what: "a number of paths",
    example: "64",
    parse: int::<u16, 1, 1000>,
};

/// How many paths of a prefix; `None` for one, 0 for all.
const PATHS: Kind<Option<u16>> = Kind {
    what: "a number of paths",
    example: "all",
    parse: |scalar| match scalar.text {
        "best" => Ok(None),
        "all" => Ok(Some(0)),
        _ => int::<u16, 2, 1000>(scalar)
            .map(Some)
            .map_err(|_| Bad::Range("best, all, or a number from 2 to 1000".to_owned())),
    },
};

const INTERFACE: Kind<String> = Kind {
    what: "the name of a network interface",
    example: "eth0",
    parse: |scalar| {
        let good = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | '%');
        let text = scalar.text;
        let fits = (1..=15).contains(&text.len()) && text.chars().all(good) && text != "." && text != "..";
        if fits {
            return Ok(text.to_owned());
        }
        Err(Bad::Range(
            "a name of up to 15 characters, as `ip link` shows it".to_owned(),
        ))
    },
};

/// `asn` of a peer as written.
#[derive(Clone, Debug)]
pub(crate) enum PeerAsn {
    /// This one.
    Only(Asn),
    /// Any but this node's.
    External,
    /// This node's.
    Internal,
    /// One of these.
    AnyOf(Vec<Located<Asn>>),
}

impl PeerAsn {
    /// The numbers that are written.
    pub(crate) fn numbers(&self) -> Vec<Asn> {
        match self {
            PeerAsn::Only(asn) => vec![*asn],
            PeerAsn::AnyOf(several) => several.iter().map(|asn| asn.value).collect(),
            PeerAsn::External | PeerAsn::Internal => Vec::new(),
        }
    }
}

const PEER_ASN: Kind<PeerAsn> = Kind {
    what: "an AS number, external or internal",
    example: "65001",
    parse: |scalar| match scalar.text {
        "external" => Ok(PeerAsn::External),
        "internal" => Ok(PeerAsn::Internal),
        _ => (value::ASN.parse)(scalar).map(PeerAsn::Only),
    },
};

/// `maxPrefixes` as written.
#[derive(Debug)]
pub(crate) struct MaxPrefixes {
    pub(crate) limit: Located<u32>,
    pub(crate) warn_at: Option<Located<u8>>,
    pub(crate) warn_only: Option<Located<bool>>,
    pub(crate) restart_after: Option<Located<Duration>>,
}

/// `localAs` as written.
#[derive(Debug)]
pub(crate) struct LocalAs {
    pub(crate) asn: Located<Asn>,
    pub(crate) no_prepend: Option<Located<bool>>,
    pub(crate) replace_as: Option<Located<bool>>,
}

/// One peer as written.
#[derive(Debug)]
pub(crate) struct Peer {
    /// The whole entry.
    pub(crate) location: Location,
    pub(crate) name: Option<Located<String>>,
    pub(crate) description: Option<Located<String>>,
    pub(crate) node_selector: Vec<(Located<String>, Located<String>)>,
    pub(crate) address: Option<Located<IpAddr>>,
    pub(crate) interface: Option<Located<String>>,
    pub(crate) listen_range: Option<Located<Prefix>>,
    pub(crate) listen_limit: Option<Located<u32>>,
    /// Whether one of the three is there, readable or not.
    pub(crate) is_somewhere: bool,
    pub(crate) port: Option<Located<u16>>,
    pub(crate) asn: Option<Located<PeerAsn>>,
    pub(crate) local_as: Option<LocalAs>,
    pub(crate) local_address: Option<Located<LocalAddress>>,
    pub(crate) passive: Option<Located<bool>>,
    pub(crate) multihop: Option<Located<u8>>,
    pub(crate) ttl_security: Option<Located<u8>>,
    pub(crate) password: Option<Password>,
    pub(crate) hold: Option<Located<HoldTime>>,
    pub(crate) connect_retry: Option<Located<Duration>>,
    pub(crate) bfd: Option<Bfd>,
    pub(crate) restart_time: Option<Located<u16>>,
    pub(crate) restart_notification: Option<Located<bool>>,
    pub(crate) long_lived: Option<Located<u32>>,
    pub(crate) families: Option<Vec<Located<Family>>>,
    pub(crate) extended_next_hop: Option<Located<bool>>,
    pub(crate) add_path_receive: Option<Located<bool>>,
    pub(crate) add_path_send: Option<Located<Option<u16>>>,
    pub(crate) add_path_max: Option<Located<u16>>,
    pub(crate) import: Option<Vec<Located<String>>>,
    pub(crate) export: Option<Vec<Located<String>>>,
    pub(crate) next_hop_self: Option<Located<bool>>,
    pub(crate) next_hop_unchanged: Option<Located<bool>>,
    pub(crate) reflector_client: Option<Located<bool>>,
    pub(crate) route_server_client: Option<Located<bool>>,
    pub(crate) allow_own_as: Option<Located<u8>>,
    pub(crate) as_override: Option<Located<bool>>,
    pub(crate) private_as: Option<Located<PrivateAs>>,
    pub(crate) enforce_first_as: Option<Located<bool>>,
    pub(crate) role: Option<Located<Role>>,
    pub(crate) strict_role: Option<Located<bool>>,
    pub(crate) max_prefixes: Option<MaxPrefixes>,
    pub(crate) max_memory: Option<Located<usize>>,
    pub(crate) shutdown: Option<Located<bool>>,
}

/// Reads the list of peers.
pub(crate) fn read_peers(document: &Fields<'_>) -> Vec<Peer> {
    let Some(cursor) = document.get("peers") else {
        return Vec::new();
    };
    let items = cursor.items("a list of peers", "{name: tor-a, address: 192.0.2.1, asn: 65001}");
    items.iter().filter_map(read_peer).collect()
}

/// A list of peers that is a document of its own.
pub(crate) fn read_peer_list(
    root: &crate::yaml::Node,
    problems: &crate::problem::Problems,
    name: &str,
) -> Vec<Peer> {
    let items = Cursor::named(root, problems, name).items(
        "a list of peers",
        "- {name: tor-a, address: 192.0.2.1, asn: 65001}",
    );
    items.iter().filter_map(read_peer).collect()
}

fn read_peer(cursor: &Cursor<'_>) -> Option<Peer> {
    let fields = cursor.fields(&PEER)?;
    let timers = fields.fields("timers", &TIMERS);
    let restart = fields.fields("gracefulRestart", &GRACEFUL_RESTART);
    let add_path = fields.fields("addPath", &ADD_PATH);
    let families = fields.get("families");
    if let Some(empty) = families.as_ref().filter(|cursor| cursor.is_empty_list()) {
        empty.error(
            "a session without a family carries nothing",
            "name ipv4, ipv6 or both",
        );
    }
    Some(Peer {
        location: fields.location().clone(),
        name: fields.required("name", &value::NAME),
        description: fields.scalar("description", &value::TEXT),
        node_selector: fields
            .get("nodeSelector")
            .map(|cursor| labels(&cursor))
            .unwrap_or_default(),
        address: fields.scalar("address", &value::HOST),
        interface: fields.scalar("interface", &INTERFACE),
        listen_range: fields.scalar("listenRange", &value::PREFIX),
        listen_limit: fields.scalar("listenLimit", &PEER_COUNT),
        is_somewhere: ["address", "interface", "listenRange"]
            .iter()
            .any(|name| fields.is_given(name)),
        port: fields.scalar("port", &value::PORT),
        asn: fields
            .need("asn", PEER_ASN.example)
            .and_then(|cursor| read_asn(&cursor)),
        local_as: fields
            .fields("localAs", &LOCAL_AS)
            .and_then(|fields| read_local_as(&fields)),
        local_address: fields.scalar("localAddress", &LOCAL_ADDRESS),
        passive: fields.scalar("passive", &value::BOOL),
        multihop: fields.scalar("multihop", &TTL),
        ttl_security: fields
            .fields("ttlSecurity", &TTL_SECURITY)
            .and_then(|fields| fields.required("hops", &HOPS)),
        password: fields
            .fields("password", &PASSWORD)
            .and_then(|fields| Password::read(&fields)),
        hold: timers
            .as_ref()
            .and_then(|fields| fields.scalar("hold", &value::HOLD_TIME)),
        connect_retry: timers
            .as_ref()
            .and_then(|fields| fields.scalar("connectRetry", &value::RETRY_TIME)),
        bfd: fields.fields("bfd", &BFD).map(|fields| Bfd::read(&fields)),
        restart_time: restart
            .as_ref()
            .and_then(|fields| fields.scalar("restartTime", &value::RESTART_TIME)),
        restart_notification: restart
            .as_ref()
            .and_then(|fields| fields.scalar("notification", &value::BOOL)),
        long_lived: restart
            .as_ref()
            .and_then(|fields| fields.scalar("longLived", &value::LONG_LIVED_TIME)),
        families: families.map(|cursor| cursor.scalars(&value::FAMILY)),
        extended_next_hop: fields.scalar("extendedNextHop", &value::BOOL),
        add_path_receive: add_path
            .as_ref()
            .and_then(|fields| fields.scalar("receive", &value::BOOL)),
        add_path_send: add_path.as_ref().and_then(|fields| fields.scalar("send", &PATHS)),
        add_path_max: add_path
            .as_ref()
            .and_then(|fields| fields.scalar("maxPaths", &RECEIVED_PATHS)),
        import: super::read_chain(&fields, "import"),
        export: super::read_chain(&fields, "export"),
        next_hop_self: fields.scalar("nextHopSelf", &value::BOOL),
        next_hop_unchanged: fields.scalar("nextHopUnchanged", &value::BOOL),
        reflector_client: fields.scalar("routeReflectorClient", &value::BOOL),
        route_server_client: fields.scalar("routeServerClient", &value::BOOL),
        allow_own_as: fields.scalar("allowOwnAs", &OWN_AS),
        as_override: fields.scalar("asOverride", &value::BOOL),
        private_as: fields.scalar("removePrivateAs", &PRIVATE_AS),
        enforce_first_as: fields.scalar("enforceFirstAs", &value::BOOL),
        role: fields.scalar("role", &ROLE),
        strict_role: fields.scalar("strictRole", &value::BOOL),
        max_prefixes: fields
            .get("maxPrefixes")
            .and_then(|cursor| read_max_prefixes(&cursor)),
        max_memory: fields.scalar("maxMemory", &value::MEMORY),
        shutdown: fields.scalar("shutdown", &value::BOOL),
    })
}

/// A number, a word, or a list of numbers.
fn read_asn(cursor: &Cursor<'_>) -> Option<Located<PeerAsn>> {
    if !cursor.is_list() {
        return cursor.scalar(&PEER_ASN);
    }
    if cursor.is_empty_list() {
        cursor.error(
            "no peer has an AS number of an empty list",
            "name the numbers, or say external",
        );
        return None;
    }
    let several = cursor.scalars(&value::ASN);
    (!several.is_empty()).then(|| Located::new(PeerAsn::AnyOf(several), &cursor.location))
}

fn read_local_as(fields: &Fields<'_>) -> Option<LocalAs> {
    let (no_prepend, replace_as) = (
        fields.scalar("noPrepend", &value::BOOL),
        fields.scalar("replaceAs", &value::BOOL),
    );
    Some(LocalAs {
        asn: fields.required("asn", &value::ASN)?,
        no_prepend,
        replace_as,
    })
}

/// A number, or a section.
fn read_max_prefixes(cursor: &Cursor<'_>) -> Option<MaxPrefixes> {
    if !cursor.is_map() {
        return Some(MaxPrefixes {
            limit: cursor.scalar(&PREFIX_COUNT)?,
            warn_at: None,
            warn_only: None,
            restart_after: None,
        });
    }
    let fields = cursor.fields(&MAX_PREFIXES)?;
    let (warn_at, warn_only, restart_after) = (
        fields.scalar("warnAt", &PERCENT),
        fields.scalar("action", &ACTION),
        fields.scalar("restartAfter", &value::PAUSE),
    );
    Some(MaxPrefixes {
        limit: fields.required("limit", &PREFIX_COUNT)?,
        warn_at,
        warn_only,
        restart_after,
    })
}
