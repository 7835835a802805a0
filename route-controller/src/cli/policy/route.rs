//! A route as an operator writes it for a test.

use std::net::IpAddr;
use std::str::FromStr;

use bgp_proto::engine::PeerKind;
use bgp_proto::policy::Source;
use bgp_proto::types::{Asn, Community, ExtCommunity, Family, LargeCommunity, Prefix, PrefixError};
use bgp_proto::wire::{AsPath, NextHop, Origin, PathAttrs};
use podroute_config::Peer;
use serde_json::{Map, Value};

use super::Direction;

/// A route with what was written of it.
#[derive(Clone, Debug)]
pub(super) struct TestRoute {
    pub(super) prefix: Prefix,
    pub(super) source: Option<Source>,
    /// The peer that it was learned from.
    pub(super) from: Option<String>,
    fields: Vec<(String, Vec<String>)>,
}

const FIELDS: [&str; 10] = [
    "asPath",
    "communities",
    "largeCommunities",
    "extCommunities",
    "localPreference",
    "med",
    "origin",
    "nextHop",
    "source",
    "from",
];

/// Why a text is not a route.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouteError {
    #[error("'{0}' is not FIELD=VALUE; fields are {fields}", fields = FIELDS.join(", "))]
    NoField(String),
    #[error("a route has no '{0}'; there are {fields}", fields = FIELDS.join(", "))]
    UnknownField(String),
    #[error("a route needs a prefix")]
    NoPrefix,
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    #[error("{0} is not a text, a number or a list of these")]
    NoText(Value),
    #[error("{0} takes one value")]
    SeveralValues(String),
    #[error("{field}: '{value}' is not {wanted}")]
    Value {
        field: String,
        value: String,
        wanted: &'static str,
    },
}

impl RouteError {
    fn value(field: &str, value: &str, wanted: &'static str) -> Self {
        Self::Value {
            field: field.to_owned(),
            value: value.to_owned(),
            wanted,
        }
    }
}

impl FromStr for TestRoute {
    type Err = RouteError;

    /// `PREFIX FIELD=VALUE,… …`
    fn from_str(text: &str) -> Result<Self, RouteError> {
        let mut words = text.split_whitespace();
        let prefix = words.next().unwrap_or_default();
        let fields = words.map(|word| {
            let (name, values) = word
                .split_once('=')
                .ok_or_else(|| RouteError::NoField(word.to_owned()))?;
            let values = values.split(',').filter(|value| !value.is_empty());
            Ok((name.to_owned(), values.map(str::to_owned).collect()))
        });
        Self::new(prefix, fields.collect::<Result<Vec<_>, RouteError>>()?)
    }
}

impl TestRoute {
    /// A route of a file of cases.
    pub(super) fn of_json(fields: &Map<String, Value>) -> Result<Self, RouteError> {
        let texts = |value: &Value| -> Result<Vec<String>, RouteError> {
            let one = |value: &Value| match value {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) => Ok(number.to_string()),
                other => Err(RouteError::NoText(other.clone())),
            };
            match value {
                Value::Array(items) => items.iter().map(one).collect(),
                Value::String(text) => Ok(text.split_whitespace().map(str::to_owned).collect()),
                value => Ok(vec![one(value)?]),
            }
        };
        let prefix = fields
            .get("prefix")
            .and_then(Value::as_str)
            .ok_or(RouteError::NoPrefix)?;
        let others = fields.iter().filter(|(name, _)| *name != "prefix");
        let others = others.map(|(name, value)| Ok((name.clone(), texts(value)?)));
        Self::new(prefix, others.collect::<Result<Vec<_>, RouteError>>()?)
    }

    fn new(prefix: &str, fields: Vec<(String, Vec<String>)>) -> Result<Self, RouteError> {
        if let Some((name, _)) = fields.iter().find(|(name, _)| !FIELDS.contains(&name.as_str())) {
            return Err(RouteError::UnknownField(name.clone()));
        }
        let prefix = prefix.parse::<Prefix>()?;
        let mut route = Self {
            prefix,
            source: None,
            from: None,
            fields,
        };
        route.from = route.one("from")?.map(str::to_owned);
        route.source = route.one("source")?.map(source).transpose()?;
        Ok(route)
    }

    fn values(&self, name: &str) -> Option<&[String]> {
        let field = self.fields.iter().find(|(known, _)| known == name);
        field.map(|(_, values)| values.as_slice())
    }

    fn one(&self, name: &str) -> Result<Option<&str>, RouteError> {
        match self.values(name) {
            None => Ok(None),
            Some([value]) => Ok(Some(value)),
            Some(_) => Err(RouteError::SeveralValues(name.to_owned())),
        }
    }

    fn all<T: FromStr>(&self, name: &str) -> Result<Vec<T>, RouteError> {
        let values = self.values(name).unwrap_or_default().iter();
        let parse = |value: &String| value.parse().map_err(|_| RouteError::value(name, value, "one"));
        values.map(parse).collect()
    }

    fn number(&self, name: &str) -> Result<Option<u32>, RouteError> {
        let parse = |text: &str| {
            text.parse()
                .map_err(|_| RouteError::value(name, text, "a number"))
        };
        self.one(name)?.map(parse).transpose()
    }

    /// The attributes before the policy. What is not written is what such a route usually has.
    pub(super) fn attrs(&self, peer: &Peer, direction: Direction) -> Result<PathAttrs, RouteError> {
        let next_hop = match self.one("nextHop")? {
            Some(text) => text
                .parse()
                .map_err(|_| RouteError::value("nextHop", text, "an address"))?,
            None => self.usual_next_hop(peer),
        };
        let mut attrs = PathAttrs::originated(NextHop::from(next_hop));
        attrs.as_path = match self.values("asPath") {
            Some(_) => {
                let asns: Vec<u32> = self.all("asPath")?;
                AsPath::sequence(&asns.into_iter().map(Asn).collect::<Vec<_>>())
            }
            None if direction == Direction::Import && peer.routing.kind == PeerKind::External => {
                AsPath::sequence(&[peer.routing.remote_asn])
            }
            None => AsPath::default(),
        };
        attrs.communities = self.all::<Community>("communities")?.into();
        let large = self.values("largeCommunities").unwrap_or_default();
        let large: Result<Vec<LargeCommunity>, RouteError> =
            large.iter().map(|text| large_community(text)).collect();
        attrs.extra_mut().large_communities = large?;
        attrs.extra_mut().ext_communities = self.all::<ExtCommunity>("extCommunities")?;
        attrs.local_pref = self.number("localPreference")?;
        attrs.med = self.number("med")?;
        attrs.origin = self.one("origin")?.map_or(Ok(Origin::Igp), origin)?;
        attrs.normalize();
        Ok(attrs)
    }

    fn usual_next_hop(&self, peer: &Peer) -> IpAddr {
        let of_family = |addr: &IpAddr| Prefix::host(*addr).family() == self.prefix.family();
        let documentation = match self.prefix.family() {
            Family::Ipv4 => IpAddr::from([192, 0, 2, 1]),
            Family::Ipv6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
        };
        peer.remote.address().filter(of_family).unwrap_or(documentation)
    }
}

fn large_community(text: &str) -> Result<LargeCommunity, RouteError> {
    let numbers: Result<Vec<u32>, _> = text.split(':').map(str::parse).collect();
    match numbers.as_deref() {
        Ok([global, one, two]) => Ok(LargeCommunity(*global, *one, *two)),
        _ => Err(RouteError::value("largeCommunities", text, "one")),
    }
}

fn origin(text: &str) -> Result<Origin, RouteError> {
    match text {
        "igp" => Ok(Origin::Igp),
        "egp" => Ok(Origin::Egp),
        "incomplete" => Ok(Origin::Incomplete),
        _ => Err(RouteError::value("origin", text, "igp, egp or incomplete")),
    }
}

fn source(text: &str) -> Result<Source, RouteError> {
    match text {
        "podBlock" => Ok(Source::PodBlock),
        "service" => Ok(Source::Service),
        "kernel" => Ok(Source::Kernel),
        "static" => Ok(Source::Static),
        _ => Err(RouteError::value(
            "source",
            text,
            "podBlock, service, kernel or static; of a peer's route write from=PEER",
        )),
    }
}
