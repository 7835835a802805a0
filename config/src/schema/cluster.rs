//! The sections that use objects of Kubernetes: `mesh` and `services`.

use bgp_proto::types::{Community, HoldTime, Prefix};

use podroute_services::Compatibility;

use super::{BFD, Bfd, COMPATIBILITY, PASSWORD, Password, Pool, Section, labels};
use crate::decode::{Cursor, Fields, Located};
use crate::model::ServiceAddress;
use crate::problem::Location;
use crate::value::{self, Bad, Kind};

pub(crate) const MESH: Section = Section {
    name: "mesh",
    fields: &["mode", "reflectorSelector", "hold", "password", "bfd", "import"],
};

pub(crate) const SERVICES: Section = Section {
    name: "services",
    fields: &[
        "advertise",
        "ranges",
        "pools",
        "compatibility",
        "selector",
        "loadBalancerClass",
        "withoutEndpoints",
        "aggregates",
        "communities",
    ],
};

pub(crate) const SERVICE_COMMUNITIES: Section = Section {
    name: "services.communities[]",
    fields: &["selector", "loadBalancerClass", "add"],
};

/// How nodes find each other, as written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MeshMode {
    Off,
    Full,
    Reflectors,
}

const MODE: Kind<MeshMode> = Kind {
    what: "a mode of the mesh",
    example: "full",
    parse: |scalar| match scalar.text {
        "off" => Ok(MeshMode::Off),
        "full" => Ok(MeshMode::Full),
        "reflectors" => Ok(MeshMode::Reflectors),
        _ => Err(Bad::Range("full, reflectors or off".to_owned())),
    },
};

const ADDRESS_KIND: Kind<ServiceAddress> = Kind {
    what: "a kind of Service address",
    example: "loadBalancer",
    parse: |scalar| match scalar.text {
        "loadBalancer" => Ok(ServiceAddress::LoadBalancer),
        "external" => Ok(ServiceAddress::External),
        "cluster" => Ok(ServiceAddress::Cluster),
        _ => Err(Bad::Range("loadBalancer, external or cluster".to_owned())),
    },
};

/// Whether a Service without endpoints is withdrawn.
const WITHOUT_ENDPOINTS: Kind<bool> = Kind {
    what: "what becomes of a Service without endpoints",
    example: "withdraw",
    parse: |scalar| match scalar.text {
        "announce" => Ok(false),
        "withdraw" => Ok(true),
        _ => Err(Bad::Range("announce or withdraw".to_owned())),
    },
};

/// `mesh`.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    pub(crate) mode: Option<Located<MeshMode>>,
    pub(crate) reflector_selector: Vec<(Located<String>, Located<String>)>,
    pub(crate) hold: Option<Located<HoldTime>>,
    pub(crate) password: Option<Password>,
    pub(crate) bfd: Option<Bfd>,
    /// A policy in place of what a node may say by itself.
    pub(crate) import: Option<Vec<Located<String>>>,
}

impl Mesh {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let Some(fields) = document.fields("mesh", &MESH) else {
            return Self::default();
        };
        Self {
            mode: fields.required("mode", &MODE),
            reflector_selector: fields
                .get("reflectorSelector")
                .map(|cursor| labels(&cursor))
                .unwrap_or_default(),
            hold: fields.scalar("hold", &value::HOLD_TIME),
            password: fields
                .fields("password", &PASSWORD)
                .and_then(|fields| Password::read(&fields)),
            bfd: fields.fields("bfd", &BFD).map(|fields| Bfd::read(&fields)),
            import: super::read_chain(&fields, "import"),
        }
    }
}

/// `services`.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) advertise: Vec<Located<ServiceAddress>>,
    pub(crate) ranges: Vec<Located<Prefix>>,
    /// Where `ranges` is, or should be.
    pub(crate) ranges_spot: Option<Location>,
    /// Whether the operator wrote `ranges`, readable or not.
    pub(crate) has_ranges: bool,
    /// A Service without a ready endpoint is not announced.
    pub(crate) needs_endpoints: bool,
    pub(crate) selector: Vec<(Located<String>, Located<String>)>,
    pub(crate) class: Option<Located<String>>,
    pub(crate) aggregates: Vec<Located<Prefix>>,
    pub(crate) communities: Vec<ServiceCommunities>,
    pub(crate) pools: Vec<Pool>,
    pub(crate) compatibility: Vec<Located<Compatibility>>,
}

/// One of `services.communities`.
#[derive(Debug)]
pub(crate) struct ServiceCommunities {
    pub(crate) selector: Vec<(Located<String>, Located<String>)>,
    pub(crate) class: Option<Located<String>>,
    pub(crate) add: Vec<Located<Community>>,
}

impl ServiceCommunities {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields(&SERVICE_COMMUNITIES)?;
        let add = fields.scalars("add", &value::COMMUNITY);
        if add.is_empty() && !fields.is_given("add") {
            cursor.error("nothing is added", "name communities, as add: [\"64512:80\"]");
        }
        Some(Self {
            selector: fields
                .get("selector")
                .map(|cursor| labels(&cursor))
                .unwrap_or_default(),
            class: fields.scalar("loadBalancerClass", &value::TEXT),
            add,
        })
    }
}

impl Services {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let Some(fields) = document.fields("services", &SERVICES) else {
            return Self::default();
        };
        Self {
            advertise: fields.scalars("advertise", &ADDRESS_KIND),
            ranges: fields.scalars("ranges", &value::PREFIX),
            ranges_spot: Some(fields.key_spot("ranges")),
            has_ranges: fields.is_given("ranges"),
            needs_endpoints: fields
                .scalar("withoutEndpoints", &WITHOUT_ENDPOINTS)
                .is_some_and(|at| at.value),
            selector: fields
                .get("selector")
                .map(|cursor| labels(&cursor))
                .unwrap_or_default(),
            class: fields.scalar("loadBalancerClass", &value::TEXT),
            pools: Pool::read_all(&fields),
            compatibility: fields.scalars("compatibility", &COMPATIBILITY),
            aggregates: fields.scalars("aggregates", &value::PREFIX),
            communities: fields
                .get("communities")
                .map(|cursor| {
                    let items = cursor.items("a list", "{selector: {tier: edge}, add: [\"64512:80\"]}");
                    items.iter().filter_map(ServiceCommunities::read).collect()
                })
                .unwrap_or_default(),
        }
    }
}
