//! `services.pools`: addresses for Services of type LoadBalancer.

use bgp_proto::types::Community;
use podroute_services::{Compatibility, Range};

use super::{Section, labels};
use crate::decode::{Cursor, Fields, Located};
use crate::problem::Location;
use crate::value::{self, Bad, Kind, int};

pub(crate) const POOL: Section = Section {
    name: "services.pools[]",
    fields: &[
        "name",
        "addresses",
        "serviceSelector",
        "namespaceSelector",
        "loadBalancerClass",
        "priority",
        "automatic",
        "avoidFirstAndLast",
        "communities",
    ],
};

pub(crate) const COMPATIBILITY: Kind<Compatibility> = Kind {
    what: "a program whose annotations are read",
    example: "metallb",
    parse: |scalar| match scalar.text {
        "metallb" => Ok(Compatibility::Metallb),
        "cilium" => Ok(Compatibility::Cilium),
        _ => Err(Bad::Range("metallb or cilium".to_owned())),
    },
};

const PRIORITY: Kind<u32> = Kind {
    what: "a priority",
    example: "10",
    parse: int::<u32, 0, 1_000_000>,
};

const RANGE: Kind<Range> = Kind {
    what: "a prefix or a range of addresses",
    example: "192.0.2.10-192.0.2.20",
    parse: |scalar| match scalar.text.parse() {
        Ok(range) => Ok(range),
        Err(podroute_services::RangeError::Order) => Err(Bad::Said(
            "does not go from a lower address to a higher one of the same family".to_owned(),
            "write the lower one first, like 192.0.2.10-192.0.2.20".to_owned(),
        )),
        Err(_) if scalar.text.contains('-') => Err(Bad::Shape),
        Err(_) => (value::PREFIX.parse)(scalar).map(Range::from),
    },
};

/// One of `services.pools`.
#[derive(Debug)]
pub(crate) struct Pool {
    pub(crate) location: Location,
    pub(crate) name: Option<Located<String>>,
    pub(crate) addresses: Vec<Located<Range>>,
    pub(crate) service_selector: Vec<(Located<String>, Located<String>)>,
    pub(crate) namespace_selector: Vec<(Located<String>, Located<String>)>,
    pub(crate) class: Option<Located<String>>,
    pub(crate) priority: u32,
    pub(crate) automatic: bool,
    pub(crate) avoid_first_and_last: bool,
    pub(crate) communities: Vec<Located<Community>>,
}

impl Pool {
    /// `services.pools`.
    pub(crate) fn read_all(services: &Fields<'_>) -> Vec<Self> {
        let Some(cursor) = services.get("pools") else {
            return Vec::new();
        };
        let items = cursor.items("a list of pools", "{name: edge, addresses: [198.51.100.0/24]}");
        items.iter().filter_map(Self::read).collect()
    }

    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields(&POOL)?;
        let addresses = fields.scalars("addresses", &RANGE);
        if addresses.is_empty() && !fields.is_given("addresses") {
            let remedy = "name prefixes or ranges, as addresses: [198.51.100.0/24]";
            cursor.error("a pool without addresses", remedy);
        }
        let selector = |name: &str| fields.get(name).map(|cursor| labels(&cursor)).unwrap_or_default();
        let flag = |name: &str| fields.scalar(name, &value::BOOL).map(|at| at.value);
        Some(Self {
            location: fields.location().clone(),
            name: fields.required("name", &value::NAME),
            addresses,
            service_selector: selector("serviceSelector"),
            namespace_selector: selector("namespaceSelector"),
            class: fields.scalar("loadBalancerClass", &value::TEXT),
            priority: fields.scalar("priority", &PRIORITY).map_or(0, |at| at.value),
            automatic: flag("automatic").unwrap_or(true),
            avoid_first_and_last: flag("avoidFirstAndLast").unwrap_or(false),
            communities: fields.scalars("communities", &value::COMMUNITY),
        })
    }
}
