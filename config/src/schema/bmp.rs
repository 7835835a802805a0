//! The sections `bmp` (monitoring stations, RFC 7854) and `metrics` (Prometheus): who watches.

use std::net::IpAddr;
use std::time::Duration;

use super::Section;
use crate::decode::{At, Cursor, Fields};
use crate::value::{self, Bad, Kind};

pub(crate) const BMP: Section = Section {
    name: "bmp[]",
    fields: &["address", "port", "routes", "statistics"],
};

pub(crate) const METRICS: Section = Section {
    name: "metrics",
    fields: &["port", "addresses"],
};

/// `metrics` as written.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) port: Option<At<u16>>,
    pub(crate) addresses: Vec<At<IpAddr>>,
}

impl Metrics {
    pub(crate) fn read(document: &Fields<'_>) -> Option<Self> {
        let fields = document.fields("metrics", &METRICS)?;
        Some(Self {
            port: fields.required("port", &value::PORT),
            addresses: fields.scalars("addresses", &value::ADDRESS),
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
    pub(crate) address: Option<At<IpAddr>>,
    pub(crate) port: Option<At<u16>>,
    pub(crate) routes: Option<Vec<At<BmpRoutes>>>,
    pub(crate) statistics: Option<At<Duration>>,
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
