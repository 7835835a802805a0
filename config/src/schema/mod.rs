//! The fields of every section, and the type that each is read into.
//!
//! A section lists its fields in a [`Section`] (which drives "unknown field" errors and the test that
//! every field is documented) and has a reader below that yields a plain struct of located values. To
//! add a field: put its name in the section, read it, carry it through `validate` into the model, show
//! it in `explain`, and describe it in docs/reference/configuration.md.

mod bfd;
mod bmp;
mod cluster;
mod cni;
mod lists;
mod network_policy;
mod node;
mod originate;
mod peer;
mod policy;
mod pools;

pub(crate) use bfd::*;
pub(crate) use bmp::*;
pub(crate) use cluster::*;
pub(crate) use cni::*;
pub(crate) use lists::*;
pub(crate) use network_policy::*;
pub(crate) use node::*;
pub(crate) use originate::*;
pub(crate) use peer::*;
pub(crate) use policy::*;
pub(crate) use pools::*;

pub use crate::decode::Section;
use crate::decode::{Cursor, Located};
use crate::model::OnShutdown;
use crate::problem::{Location, Problems, quoted};
use crate::value::{self, Bad, Kind, Scalar};
use crate::yaml::{Node as YamlNode, Value};

/// Every section of the file.
pub const SECTIONS: &[&Section] = &[
    &DOCUMENT,
    &CLUSTER,
    &NODE,
    &node::ADDRESSES,
    &node::ROUTER_ID,
    &LISTEN,
    &FIB,
    &RESILIENT_GROUPS,
    &PEER,
    &PASSWORD,
    &BFD,
    &BFD_AUTH,
    &BFD_DAMPENING,
    &NEXT_HOP,
    &LOCAL_AS,
    &GRACEFUL_RESTART,
    &ADD_PATH,
    &MAX_PREFIXES,
    &BMP,
    &METRICS,
    &WEB,
    &TTL_SECURITY,
    &TIMERS,
    &RULE,
    &MATCH,
    &PREFIX_RANGE,
    &MATCH_COMMUNITIES,
    &AS_PATH,
    &FROM,
    &SET,
    &EDIT_COMMUNITIES,
    &EDIT_LARGE,
    &EDIT_EXT,
    &PREPEND,
    &KERNEL,
    &ORIGINATE,
    &WHEN,
    &KERNEL_ROUTES,
    &LIST,
    &LIST_FILE,
    &MESH,
    &SERVICES,
    &SERVICE_COMMUNITIES,
    &POOL,
    &NETWORK_POLICY,
    &CNI,
    &MASQUERADE,
];

pub(crate) const DOCUMENT: Section = Section {
    name: "",
    fields: &[
        "apiVersion",
        "cluster",
        "node",
        "listen",
        "fib",
        "mesh",
        "peers",
        "nextHops",
        "originate",
        "lists",
        "policies",
        "services",
        "policy",
        "cni",
        "bmp",
        "metrics",
        "web",
        "shutdown",
    ],
};

const API_VERSION: Kind<()> = Kind {
    what: "an API version",
    example: "podroute/v1",
    parse: |scalar| match scalar.text {
        "podroute/v1" => Ok(()),
        _ => Err(Bad::Said(
            "is not known to this version of podroute".to_owned(),
            "write podroute/v1".to_owned(),
        )),
    },
};

const SHUTDOWN: Kind<OnShutdown> = Kind {
    what: "what the end of the agent means to peers",
    example: "preserve",
    parse: |scalar| match scalar.text {
        "preserve" => Ok(OnShutdown::Preserve),
        "withdraw" => Ok(OnShutdown::Withdraw),
        _ => Err(Bad::Range("preserve or withdraw".to_owned())),
    },
};

/// The file as written.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) cluster: Cluster,
    pub(crate) node: Node,
    pub(crate) listen: Listen,
    pub(crate) fib: Fib,
    pub(crate) mesh: Mesh,
    pub(crate) services: Services,
    pub(crate) network_policy: NetworkPolicy,
    pub(crate) cni: Cni,
    pub(crate) peers: Vec<Peer>,
    pub(crate) next_hops: Vec<NextHop>,
    pub(crate) originate: Vec<Located<Originate>>,
    pub(crate) lists: Vec<List>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) bmp: Vec<Bmp>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) web: Option<Web>,
    pub(crate) shutdown: Option<Located<OnShutdown>>,
}

/// Reads the tree; `None` when it is no mapping at all.
pub(crate) fn read(root: &YamlNode, problems: &Problems) -> Option<Document> {
    let cursor = Cursor::root(root, problems);
    if matches!(root.value, Value::Null) {
        cursor.error("the file is empty", "begin with apiVersion: podroute/v1");
        return None;
    }
    let fields = cursor.fields(&DOCUMENT)?;
    fields.required("apiVersion", &API_VERSION);
    Some(Document {
        cluster: Cluster::read(&fields),
        node: Node::read(&fields),
        listen: Listen::read(&fields),
        fib: Fib::read(&fields),
        mesh: Mesh::read(&fields),
        services: Services::read(&fields),
        network_policy: NetworkPolicy::read(&fields),
        cni: Cni::read(&fields),
        peers: read_peers(&fields),
        next_hops: read_next_hops(&fields),
        originate: read_originate(&fields),
        lists: read_lists(&fields),
        policies: read_policies(&fields),
        bmp: read_bmp(&fields),
        metrics: Metrics::read(&fields),
        web: Web::read(&fields),
        shutdown: fields.scalar("shutdown", &SHUTDOWN),
    })
}

/// A mapping of names to values, as labels are.
pub(crate) fn labels(cursor: &Cursor<'_>) -> Vec<(Located<String>, Located<String>)> {
    let entries = cursor.entries("a mapping of labels", "{rack: a}");
    entries
        .into_iter()
        .filter_map(|(key, value)| read_label(key, &value))
        .collect()
}

fn read_label(key: Located<String>, value: &Cursor<'_>) -> Option<(Located<String>, Located<String>)> {
    let bad = (value::LABEL.parse)(Scalar {
        text: &key.value,
        quoted: true,
    })
    .err();
    if let Some(Bad::Range(range)) = &bad {
        let message = format!("{} is not a label", quoted(&key.value));
        value
            .problems
            .error(key.location.problem(message, format!("use {range}")));
    }
    let value = value.scalar(&value::TEXT)?;
    bad.is_none().then_some((key, value))
}

/// The first value that occurs twice, with where it did first.
pub(crate) fn repeated<T: PartialEq>(list: &[Located<T>]) -> impl Iterator<Item = (&Located<T>, &Location)> {
    list.iter().enumerate().filter_map(|(index, item)| {
        list.iter()
            .take(index)
            .find(|other| other.value == item.value)
            .map(|other| (item, &other.location))
    })
}
