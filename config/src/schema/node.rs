//! The sections `cluster`, `node`, `listen` and `fib`.

use std::net::IpAddr;

use bgp_proto::types::{Asn, Family, Prefix};

use super::{Section, labels};
use crate::decode::{Fields, Located};
use crate::model::RouterIdChoice;
use crate::problem::Location;
use crate::value::{self, Bad, Kind, int};

pub(crate) const CLUSTER: Section = Section {
    name: "cluster",
    fields: &["asn", "podCIDRs", "clusterId"],
};

pub(crate) const NODE: Section = Section {
    name: "node",
    fields: &[
        "name",
        "routerId",
        "asn",
        "blocks",
        "mtu",
        "labels",
        "addresses",
        "annotations",
    ],
};

pub(crate) const ADDRESSES: Section = Section {
    name: "node.addresses",
    fields: &["cidrs"],
};

pub(crate) const ROUTER_ID: Section = Section {
    name: "node.routerId",
    fields: &["cidr"],
};

pub(crate) const LISTEN: Section = Section {
    name: "listen",
    fields: &["enabled", "port", "addresses"],
};

pub(crate) const FIB: Section = Section {
    name: "fib",
    fields: &[
        "install",
        "metric",
        "table",
        "rulePriority",
        "maxPaths",
        "multipathRelax",
        "linkBandwidth",
        "resolveViaDefault",
        "nexthopObjects",
        "resilientGroups",
    ],
};

pub(crate) const RESILIENT_GROUPS: Section = Section {
    name: "fib.resilientGroups",
    fields: &["buckets", "idleTimer"],
};

const MTU: Kind<Option<u16>> = Kind {
    what: "an MTU",
    example: "1500",
    parse: |scalar| match scalar.text {
        "auto" => Ok(None),
        _ => int::<u16, 576, 65535>(scalar)
            .map(Some)
            .map_err(|_| Bad::Range("auto, or octets from 576 to 65535".to_owned())),
    },
};

const METRIC: Kind<u32> = Kind {
    what: "a metric",
    example: "20",
    parse: int::<u32, 1, 4_294_967_295>,
};

const MAX_PATHS: Kind<u8> = Kind {
    what: "a number of paths",
    example: "8",
    parse: int::<u8, 1, 64>,
};

const BUCKETS: Kind<u16> = Kind {
    what: "a number of buckets",
    example: "128",
    parse: int::<u16, 1, 32768>,
};

/// The kernel's own rules are at 0, 32766 and 32767.
const RULE_PRIORITY: Kind<u32> = Kind {
    what: "a priority of a rule",
    example: "1000",
    parse: int::<u32, 1, 32765>,
};

/// The kernel's main table (linux/rtnetlink.h).
pub(crate) const MAIN_TABLE: u32 = 254;

const TABLE: Kind<u32> = Kind {
    what: "a routing table",
    example: "main",
    parse: |scalar| match scalar.text {
        "main" => Ok(MAIN_TABLE),
        "local" | "255" => Err(Bad::Said(
            "is the kernel's own table of local addresses".to_owned(),
            "use main".to_owned(),
        )),
        _ => int::<u32, 1, 4_294_967_295>(scalar)
            .map_err(|_| Bad::Range("main, or the number of a table from 1 to 4294967295".to_owned())),
    },
};

/// An annotation of the Node object, by what it is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Annotation {
    Asn,
    Peers,
    RouterId,
}

const ANNOTATION: Kind<Annotation> = Kind {
    what: "an annotation",
    example: "peers",
    parse: |scalar| match scalar.text {
        "asn" => Ok(Annotation::Asn),
        "peers" => Ok(Annotation::Peers),
        "routerId" => Ok(Annotation::RouterId),
        _ => Err(Bad::Range("asn, peers or routerId".to_owned())),
    },
};

/// `cluster`: what all nodes share.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Where an absent `asn` is reported.
    pub(crate) asn_spot: Location,
    /// Whether `asn` is there, readable or not.
    pub(crate) has_asn: bool,
    pub(crate) asn: Option<Located<Asn>>,
    pub(crate) pod_cidrs: Vec<Located<Prefix>>,
    /// Whether each of them could be read; else nothing is known to lie outside.
    pub(crate) pod_cidrs_known: bool,
    pub(crate) cluster_id: Option<Located<u32>>,
}

impl Cluster {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let fields = document.fields("cluster", &CLUSTER);
        let section = fields.as_ref();
        let pod_cidrs = section
            .map(|fields| fields.scalars("podCIDRs", &value::PREFIX))
            .unwrap_or_default();
        // A section that could not be read may have had everything in it.
        let is_given =
            |name| section.map_or_else(|| document.is_given("cluster"), |fields| fields.is_given(name));
        let written = section
            .and_then(|fields| fields.get("podCIDRs"))
            .map_or(0, |cursor| cursor.len());
        Self {
            pod_cidrs_known: if pod_cidrs.is_empty() {
                !is_given("podCIDRs")
            } else {
                written == pod_cidrs.len()
            },
            asn_spot: section.map_or_else(|| document.key_spot("cluster"), |fields| fields.key_spot("asn")),
            has_asn: is_given("asn"),
            asn: section.and_then(|fields| fields.scalar("asn", &value::ASN)),
            pod_cidrs,
            cluster_id: section.and_then(|fields| fields.scalar("clusterId", &value::CLUSTER_ID)),
        }
    }
}

/// `node`: what is this node's alone.
#[derive(Default, Debug)]
pub(crate) struct Node {
    pub(crate) name: Option<Located<String>>,
    pub(crate) router_id: Option<RouterIdChoice>,
    pub(crate) has_asn: bool,
    pub(crate) asn: Option<Located<Asn>>,
    pub(crate) blocks: Vec<Located<Prefix>>,
    /// Where the file says that they come from Kubernetes.
    pub(crate) blocks_of_cluster: Option<Location>,
    pub(crate) mtu: Option<Located<Option<u16>>>,
    pub(crate) labels: Vec<(Located<String>, Located<String>)>,
    pub(crate) addresses: Addresses,
    /// Annotations of the Node object that are taken.
    pub(crate) annotations: Vec<Located<Annotation>>,
}

impl Node {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let Some(fields) = document.fields("node", &NODE) else {
            return Self {
                has_asn: document.is_given("node"),
                ..Self::default()
            };
        };
        Self {
            name: fields.scalar("name", &value::NODE_NAME),
            router_id: read_router_id(&fields),
            has_asn: fields.is_given("asn"),
            asn: fields.scalar("asn", &value::ASN),
            blocks: read_blocks(&fields),
            blocks_of_cluster: fields
                .get("blocks")
                .filter(|cursor| cursor.text() == Some("kubernetes"))
                .map(|cursor| cursor.location.clone()),
            mtu: fields.scalar("mtu", &MTU),
            labels: fields
                .get("labels")
                .map(|cursor| labels(&cursor))
                .unwrap_or_default(),
            addresses: read_addresses(&fields),
            annotations: fields.scalars("annotations", &ANNOTATION),
        }
    }
}

fn read_blocks(fields: &Fields<'_>) -> Vec<Located<Prefix>> {
    let Some(cursor) = fields.get("blocks") else {
        return Vec::new();
    };
    if cursor.text() == Some("kubernetes") {
        return Vec::new();
    }
    cursor.scalars(&value::PREFIX)
}

fn read_addresses(fields: &Fields<'_>) -> Addresses {
    let Some(cursor) = fields.get("addresses") else {
        return Addresses::Auto;
    };
    match cursor.text() {
        Some("auto") => Addresses::Auto,
        Some("internalIP") => Addresses::InternalIp,
        _ if cursor.is_map() => {
            let Some(fields) = cursor.fields(&ADDRESSES) else {
                return Addresses::Auto;
            };
            if !fields.is_given("cidrs") {
                cursor.error(
                    "no prefix",
                    "name some, as {cidrs: [192.0.2.0/24]}, or write auto",
                );
            }
            Addresses::Cidrs(fields.scalars("cidrs", &value::PREFIX))
        }
        _ => Addresses::Given(cursor.scalars(&value::HOST)),
    }
}

fn read_router_id(fields: &Fields<'_>) -> Option<RouterIdChoice> {
    let cursor = fields.get("routerId")?;
    if !cursor.is_map() {
        let id = cursor.scalar(&value::ROUTER_ID)?;
        return Some(id.value.map_or(RouterIdChoice::Auto, RouterIdChoice::Fixed));
    }
    let cidr = cursor.fields(&ROUTER_ID)?.scalar("cidr", &value::PREFIX)?;
    if cidr.value.family() == Family::Ipv4 {
        return Some(RouterIdChoice::Cidr(cidr.value));
    }
    let message = format!("{} is not an IPv4 prefix", cidr.value);
    let remedy = "name an IPv4 prefix that holds one address of each node, or an identifier of each node";
    cursor.error(message, remedy);
    None
}

/// `node.addresses`.
#[derive(Default, Debug)]
pub(crate) enum Addresses {
    #[default]
    Auto,
    InternalIp,
    Cidrs(Vec<Located<Prefix>>),
    Given(Vec<Located<IpAddr>>),
}

/// `listen`: where peers connect to.
#[derive(Default, Debug)]
pub(crate) struct Listen {
    pub(crate) enabled: Option<Located<bool>>,
    pub(crate) port: Option<Located<u16>>,
    pub(crate) addresses: Option<Vec<Located<IpAddr>>>,
}

impl Listen {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let Some(fields) = document.fields("listen", &LISTEN) else {
            return Self::default();
        };
        let addresses = fields.get("addresses");
        if let Some(empty) = addresses.as_ref().filter(|cursor| cursor.is_empty_list()) {
            let remedy = "name an address, remove the field to listen on all, or set listen.enabled: false";
            empty.error("no address to listen on", remedy);
        }
        Self {
            enabled: fields.scalar("enabled", &value::BOOL),
            port: fields.scalar("port", &value::PORT),
            addresses: addresses.map(|cursor| cursor.scalars(&value::ADDRESS)),
        }
    }
}

/// `fib`: what goes into the kernel.
#[derive(Default, Debug)]
pub(crate) struct Fib {
    pub(crate) install: Option<Located<bool>>,
    pub(crate) metric: Option<Located<u32>>,
    pub(crate) table: Option<Located<u32>>,
    pub(crate) rule_priority: Option<Located<u32>>,
    pub(crate) max_paths: Option<Located<u8>>,
    pub(crate) multipath_relax: Option<Located<bool>>,
    pub(crate) link_bandwidth: Option<Located<bool>>,
    pub(crate) resolve_via_default: Option<Located<bool>>,
    pub(crate) nexthop_objects: Option<Located<bool>>,
    pub(crate) resilient_groups: Option<ResilientGroups>,
}

/// `fib.resilientGroups`.
#[derive(Debug)]
pub(crate) struct ResilientGroups {
    pub(crate) location: Location,
    pub(crate) buckets: Option<Located<u16>>,
    pub(crate) idle_timer: Option<Located<u32>>,
}

impl ResilientGroups {
    fn read(fib: &Fields<'_>) -> Option<Self> {
        let fields = fib.fields("resilientGroups", &RESILIENT_GROUPS)?;
        Some(Self {
            location: fib.key_spot("resilientGroups"),
            buckets: fields.scalar("buckets", &BUCKETS),
            idle_timer: fields.scalar("idleTimer", &value::IDLE_TIMER),
        })
    }
}

impl Fib {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        // The short way to say that the kernel's routes are left alone.
        if let Some(cursor) = document.get("fib").filter(|cursor| cursor.text() == Some("off")) {
            return Self {
                install: Some(Located::new(false, &cursor.location)),
                ..Self::default()
            };
        }
        let Some(fields) = document.fields("fib", &FIB) else {
            return Self::default();
        };
        Self {
            install: fields.scalar("install", &value::BOOL),
            metric: fields.scalar("metric", &METRIC),
            table: fields.scalar("table", &TABLE),
            rule_priority: fields.scalar("rulePriority", &RULE_PRIORITY),
            max_paths: fields.scalar("maxPaths", &MAX_PATHS),
            multipath_relax: fields.scalar("multipathRelax", &value::BOOL),
            link_bandwidth: fields.scalar("linkBandwidth", &value::BOOL),
            resolve_via_default: fields.scalar("resolveViaDefault", &value::BOOL),
            nexthop_objects: fields.scalar("nexthopObjects", &value::BOOL),
            resilient_groups: ResilientGroups::read(&fields),
        }
    }
}
