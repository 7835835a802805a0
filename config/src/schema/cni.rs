//! The section `cni`: the network configuration of the container runtime.

use std::time::Duration;

use bgp_proto::types::Prefix;

use super::Section;
use crate::decode::{Cursor, Fields, Located};
use crate::model::Portmap;
use crate::problem::Location;
use crate::value::{self, Bad, Kind, int};
use crate::yaml::{Node, Value};

pub(crate) const CNI: Section = Section {
    name: "cni",
    fields: &[
        "name",
        "mtu",
        "masquerade",
        "mark",
        "reserved",
        "portmap",
        "bandwidth",
        "policyWait",
        "plugins",
    ],
};

pub(crate) const MASQUERADE: Section = Section {
    name: "cni.masquerade",
    fields: &["enabled", "exempt"],
};

const NETWORK_NAME: Kind<String> = Kind {
    what: "a name of a network",
    example: "pods",
    parse: |scalar| {
        let text = scalar.text;
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= 200 && text.chars().all(good) {
            return Ok(text.to_owned());
        }
        Err(Bad::Range(
            "1–200 letters, digits, '_', '.' and '-', beginning with a letter or digit".to_owned(),
        ))
    },
};

const MTU: Kind<u16> = Kind {
    what: "an MTU",
    example: "1450",
    parse: int::<u16, 576, 65535>,
};

const MARK: Kind<u32> = Kind {
    what: "a firewall mark",
    example: "256",
    parse: int::<u32, 1, 4_294_967_295>,
};

const RESERVED: Kind<String> = Kind {
    what: "a range of addresses",
    example: "10.244.1.2-10.244.1.9",
    parse: |scalar| {
        let address = |text: &str| text.parse::<std::net::IpAddr>().ok();
        let is_range = |(first, last): (&str, &str)| {
            let both = address(first).zip(address(last));
            both.is_some_and(|(first, last)| first.is_ipv4() == last.is_ipv4() && first <= last)
        };
        let text = scalar.text;
        let good = address(text).is_some()
            || text.parse::<Prefix>().is_ok()
            || text.split_once('-').is_some_and(is_range);
        if good {
            return Ok(text.to_owned());
        }
        Err(Bad::Range("an address, a prefix, or first-last".to_owned()))
    },
};

const PORTMAP: Kind<Portmap> = Kind {
    what: "whether portmap is chained",
    example: "auto",
    parse: |scalar| match scalar.text {
        "auto" => Ok(Portmap::Auto),
        "true" => Ok(Portmap::On),
        "false" => Ok(Portmap::Off),
        _ => Err(Bad::Range("auto, true or false".to_owned())),
    },
};

/// `cni`.
#[derive(Debug, Default)]
pub(crate) struct Cni {
    pub(crate) name: Option<Located<String>>,
    pub(crate) mtu: Option<Located<u16>>,
    pub(crate) masquerade: Option<Masquerade>,
    pub(crate) mark: Option<Located<u32>>,
    pub(crate) reserved: Vec<Located<String>>,
    pub(crate) portmap: Option<Located<Portmap>>,
    pub(crate) bandwidth: Option<Located<bool>>,
    pub(crate) policy_wait: Option<Located<Duration>>,
    pub(crate) plugins: Vec<Located<serde_json::Value>>,
}

/// `cni.masquerade`.
#[derive(Debug)]
pub(crate) struct Masquerade {
    pub(crate) enabled: Option<Located<bool>>,
    pub(crate) exempt: Vec<Located<Prefix>>,
}

impl Cni {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let Some(fields) = document.fields("cni", &CNI) else {
            return Self::default();
        };
        let plugins = fields.get("plugins").map(|cursor| {
            let items = cursor.items("a list of plugins", "{type: tuning}");
            items.iter().filter_map(plugin).collect()
        });
        Self {
            name: fields.scalar("name", &NETWORK_NAME),
            mtu: fields.scalar("mtu", &MTU),
            masquerade: fields.fields("masquerade", &MASQUERADE).map(|fields| Masquerade {
                enabled: fields.scalar("enabled", &value::BOOL),
                exempt: fields.scalars("exempt", &value::PREFIX),
            }),
            mark: fields.scalar("mark", &MARK),
            reserved: fields.scalars("reserved", &RESERVED),
            portmap: fields.scalar("portmap", &PORTMAP),
            bandwidth: fields.scalar("bandwidth", &value::BOOL),
            policy_wait: fields.scalar("policyWait", &value::POLICY_WAIT),
            plugins: plugins.unwrap_or_default(),
        }
    }
}

/// A plugin's configuration as it is written; what its fields mean is the plugin's affair.
fn plugin(cursor: &Cursor<'_>) -> Option<Located<serde_json::Value>> {
    if !cursor.is_map() {
        cursor.error(
            "expected the configuration of a plugin, a mapping",
            "write it like {type: tuning}",
        );
        return None;
    }
    let value = json(cursor.node);
    let kind = value.get("type").and_then(serde_json::Value::as_str);
    let good = |kind: &str| !kind.is_empty() && !kind.contains('/') && !kind.starts_with('.');
    if !kind.is_some_and(good) {
        cursor.error(
            "a plugin needs a type, the name of its program",
            "write it like {type: tuning, sysctl: {net.core.somaxconn: \"500\"}}",
        );
        return None;
    }
    let location = Location {
        path: cursor.location.path.clone(),
        position: cursor.location.position,
    };
    Some(Located::new(value, &location))
}

/// YAML as JSON, by the rules of YAML 1.2's core schema (§10.3.2): what stands in quotes is a text.
fn json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Scalar { text, quoted } => scalar(text, *quoted),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.clone(), json(&entry.value)));
            serde_json::Value::Object(pairs.collect())
        }
    }
}

fn scalar(text: &str, quoted: bool) -> serde_json::Value {
    let as_number = || {
        let number = serde_json::from_str::<serde_json::Number>(text).ok()?;
        Some(serde_json::Value::Number(number))
    };
    match text {
        _ if quoted => text.into(),
        "true" => true.into(),
        "false" => false.into(),
        _ => as_number().unwrap_or_else(|| text.into()),
    }
}
