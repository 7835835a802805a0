//! The section `policy`: enforcement of NetworkPolicies.

use super::Section;
use crate::decode::{Fields, Located};
use crate::value::{Bad, Kind};

pub(crate) const NETWORK_POLICY: Section = Section {
    name: "policy",
    fields: &["mode", "establishedConnections"],
};

const MODE: Kind<bool> = Kind {
    what: "a mode of network policies",
    example: "kubernetes",
    parse: |scalar| match scalar.text {
        "off" => Ok(false),
        "kubernetes" => Ok(true),
        _ => Err(Bad::Range("kubernetes or off".to_owned())),
    },
};

const ESTABLISHED: Kind<bool> = Kind {
    what: "what becomes of established connections",
    example: "end",
    parse: |scalar| match scalar.text {
        "end" => Ok(true),
        "keep" => Ok(false),
        _ => Err(Bad::Range("end or keep".to_owned())),
    },
};

/// `policy`.
#[derive(Debug, Default)]
pub(crate) struct NetworkPolicy {
    pub(crate) is_enforced: Option<Located<bool>>,
    /// Connections that a new policy forbids end.
    pub(crate) ends_established: Option<Located<bool>>,
}

impl NetworkPolicy {
    pub(crate) fn read(document: &Fields<'_>) -> Self {
        let Some(fields) = document.fields("policy", &NETWORK_POLICY) else {
            return Self::default();
        };
        Self {
            is_enforced: fields.required("mode", &MODE),
            ends_established: fields.scalar("establishedConnections", &ESTABLISHED),
        }
    }
}
