//! The sections that take what Kubernetes knows: `mesh` and `services`.

use std::path::PathBuf;

use bgp_proto::types::{HoldTime, Prefix};

use super::{BFD, Bfd, PASSWORD, Section, labels};
use crate::decode::{At, Fields};
use crate::model::ServiceAddress;
use crate::value::{self, Bad, Kind};

pub(crate) const MESH: Section = Section {
    name: "mesh",
    fields: &["mode", "reflectorSelector", "hold", "password", "bfd"],
};

pub(crate) const SERVICES: Section = Section {
    name: "services",
    fields: &["advertise", "selector", "loadBalancerClass", "aggregates"],
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

/// `mesh`.
#[derive(Debug, Default)]
pub(crate) struct Mesh {
    pub(crate) mode: Option<At<MeshMode>>,
    pub(crate) reflector_selector: Vec<(At<String>, At<String>)>,
    pub(crate) hold: Option<At<HoldTime>>,
    pub(crate) password: Option<At<PathBuf>>,
    pub(crate) bfd: Option<Bfd>,
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
                .and_then(|fields| fields.required("file", &value::FILE)),
            bfd: fields.fields("bfd", &BFD).map(|fields| Bfd::read(&fields)),
        }
    }
}

/// `services`.
#[derive(Debug, Default)]
pub(crate) struct Services {
    pub(crate) advertise: Vec<At<ServiceAddress>>,
    pub(crate) selector: Vec<(At<String>, At<String>)>,
    pub(crate) class: Option<At<String>>,
    pub(crate) aggregates: Vec<At<Prefix>>,
}

impl Services {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let Some(fields) = document.fields("services", &SERVICES) else {
            return Self::default();
        };
        Self {
            advertise: fields.scalars("advertise", &ADDRESS_KIND),
            selector: fields
                .get("selector")
                .map(|cursor| labels(&cursor))
                .unwrap_or_default(),
            class: fields.scalar("loadBalancerClass", &value::TEXT),
            aggregates: fields.scalars("aggregates", &value::PREFIX),
        }
    }
}
