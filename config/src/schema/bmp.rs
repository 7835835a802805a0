//! The sections `bmp` (monitoring stations, RFC 7854), `metrics` (Prometheus) and `web` (the looking glass): who watches.

use std::net::IpAddr;
use std::time::Duration;

use super::Section;
use crate::decode::{Cursor, Fields, Located};
use crate::model::PerPeer;
use crate::value::{self, Bad, Kind};

pub(crate) const BMP: Section = Section {
    name: "bmp[]",
    fields: &["address", "port", "routes", "statistics"],
};

pub(crate) const METRICS: Section = Section {
    name: "metrics",
    fields: &["port", "addresses", "perPeer"],
};

pub(crate) const WEB: Section = Section {
    name: "web",
    fields: &["port"],
};

/// `web` as written.
#[derive(Debug)]
pub(crate) struct Web {
    pub(crate) port: Option<Located<u16>>,
}

impl Web {
    pub(crate) fn read(document: &Fields<'_>) -> Option<Self> {
        let fields = document.fields("web", &WEB)?;
        Some(Self {
            port: fields.required("port", &value::PORT),
        })
    }
}

/// `metrics` as written.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) port: Option<Located<u16>>,
    pub(crate) addresses: Vec<Located<IpAddr>>,
    pub(crate) per_peer: Option<Located<PerPeer>>,
}

const PER_PEER: Kind<PerPeer> = Kind {
    what: "which peers have series of their own",
    example: "configured",
    parse: |scalar| match scalar.text {
        "all" => Ok(PerPeer::All),
        "configured" => Ok(PerPeer::Configured),
        "none" => Ok(PerPeer::None),
        _ => Err(Bad::Range("all, configured or none".to_owned())),
    },
};

impl Metrics {
    pub(crate) fn read(document: &Fields<'_>) -> Option<Self> {
        let fields = document.fields("metrics", &METRICS)?;
        Some(Self {
            port: fields.required("port", &value::PORT),
            addresses: fields.scalars("addresses", &value::ADDRESS),
            per_peer: fields.scalar("perPeer", &PER_PEER),
        })
    }
}

/// Which of a peer's routes are sent to a station.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BmpRoutes {
    PrePolicy,
    PostPolicy,
}

const ROUTES: Kind<BmpRoutes> = Kind {
    what: "a view of routes",
    example: "prePolicy",
    parse: |scalar| match scalar.text {
        "prePolicy" => Ok(BmpRoutes::PrePolicy),
        "postPolicy" => Ok(BmpRoutes::PostPolicy),
        _ => Err(Bad::Range("prePolicy or postPolicy".to_owned())),
    },
};

/// One station as written.
#[derive(Debug)]
pub(crate) struct Bmp {
    pub(crate) address: Option<Located<IpAddr>>,
    pub(crate) port: Option<Located<u16>>,
    pub(crate) routes: Option<Vec<Located<BmpRoutes>>>,
    pub(crate) statistics: Option<Located<Duration>>,
}

/// Reads the list of stations.
pub(crate) fn read_bmp(document: &Fields<'_>) -> Vec<Bmp> {
    let Some(cursor) = document.get("bmp") else {
        return Vec::new();
    };
    let items = cursor.items("a list of stations", "{address: 192.0.2.9}");
    items.iter().filter_map(read).collect()
}

fn read(cursor: &Cursor<'_>) -> Option<Bmp> {
    let fields = cursor.fields(&BMP)?;
    Some(Bmp {
        address: fields.required("address", &value::HOST),
        port: fields.scalar("port", &value::PORT),
        routes: fields.get("routes").map(|cursor| cursor.scalars(&ROUTES)),
        statistics: fields.scalar("statistics", &value::PAUSE),
    })
}
