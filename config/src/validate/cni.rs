//! Checks of `cni`.

use super::node::Node;
use crate::model::{Cluster, Cni, Portmap};
use crate::problem::Problems;
use crate::schema;

/// The plugins take as many reserved ranges.
const MOST_RESERVED: usize = 1024;

pub(super) fn cni(written: &schema::Cni, cluster: &Cluster, node: &Node, problems: &Problems) -> Cni {
    if let Some(extra) = written.reserved.get(MOST_RESERVED) {
        problems.error(extra.location.problem(
            format!("more than {MOST_RESERVED} ranges"),
            "join neighboring ranges",
        ));
    }
    if let Some(mtu) = &written.mtu {
        super::node::check_mtu(mtu, cluster, problems);
        if node.has_mtu() {
            problems.warn(mtu.location.problem(
                "node.mtu has no effect beside it",
                "keep one of the two; node.mtu is enough",
            ));
        }
    }
    for plugin in &written.plugins {
        let kind = plugin.value.get("type").and_then(serde_json::Value::as_str);
        let remedy = match kind {
            Some("portmap") => "write portmap: true instead",
            Some("bandwidth") => "write bandwidth: true instead",
            Some("podroute-cni") => "remove it: it is always the first",
            _ => continue,
        };
        problems.error(plugin.location.problem(
            format!("{} is chained by a field of its own", kind.unwrap_or_default()),
            remedy,
        ));
    }
    let plain = Cni::plain();
    let masquerade = written.masquerade.as_ref().filter(|masquerade| {
        let enabled = masquerade.enabled.as_ref();
        enabled.is_none_or(|enabled| enabled.value)
    });
    Cni {
        name: written
            .name
            .as_ref()
            .map_or(plain.name, |name| name.value.clone()),
        mtu: written.mtu.as_ref().map(|mtu| mtu.value),
        masquerade: masquerade.map(|masquerade| masquerade.exempt.iter().map(|at| at.value).collect()),
        mark: written.mark.as_ref().map(|mark| mark.value),
        reserved: written.reserved.iter().map(|range| range.value.clone()).collect(),
        portmap: written
            .portmap
            .as_ref()
            .map_or(Portmap::Auto, |portmap| portmap.value),
        bandwidth: written
            .bandwidth
            .as_ref()
            .is_some_and(|bandwidth| bandwidth.value),
        plugins: written
            .plugins
            .iter()
            .map(|plugin| plugin.value.clone())
            .collect(),
    }
}
