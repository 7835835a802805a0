//! `podroute show pods`: the attachments of this boot.

use std::net::IpAddr;
use std::path::Path;

use linux::netlink::Socket;
use serde::Serialize;

use super::netns_status;
use crate::attachment::{self, State};
use crate::error::{Error, Result};
use crate::kernel::link::{self, Link};
use crate::kernel::netns::NetnsStatus;
use crate::kernel::veth;
use crate::names::Owner;
use crate::store::Disk;

/// An attachment, for `podroute show pods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentInfo {
    /// The container id.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The host interface; empty where another plugin made the interface.
    pub host_interface: String,
    /// The network's name.
    pub network: String,
    /// `namespace/name` of the Kubernetes pod; empty for other runtimes.
    pub pod: String,
    /// Path of the network namespace.
    pub netns: String,
    /// Time of its ADD in seconds since 1970; 0: unknown.
    pub created: u64,
    /// Whether its ADD succeeded.
    pub complete: bool,
    /// Whether its network namespace still exists.
    #[serde(rename = "life")]
    pub netns_status: NetnsStatus,
}

/// All attachments of this boot, by first address. `state_dir` is normally `/run/podroute/ipam`.
pub fn attachments(state_dir: &Path) -> Result<Vec<AttachmentInfo>> {
    let Some(disk) = Disk::open(state_dir, false)? else {
        return Ok(Vec::new());
    };
    // An existing host interface proves that the pod's namespace exists, wherever its path is mounted.
    let links = Socket::route()
        .map_err(Error::from)
        .and_then(|host| link::links(&host))
        .unwrap_or_default();
    let mut found = Vec::new();
    for owner in attachment::owners(&disk)? {
        match attachment::read(&disk, &owner) {
            Ok(Some(state)) => found.push(info(owner, &state, &links)),
            // Removed meanwhile.
            Ok(None) => {}
            // 'ipam check' reports why it cannot be read.
            Err(_) => found.push(info(owner, &State::Begun, &links)),
        }
    }
    found.sort_by(|a, b| {
        (&a.addresses, &a.container, &a.ifname).cmp(&(&b.addresses, &b.container, &b.ifname))
    });
    Ok(found)
}

fn info(owner: Owner, state: &State, links: &[Link]) -> AttachmentInfo {
    let record = state.record().cloned().unwrap_or_default();
    AttachmentInfo {
        netns_status: netns_status(&record, links.iter().any(|l| veth::is_host_side(l, &owner))),
        container: owner.container,
        ifname: owner.ifname,
        addresses: record.addresses,
        host_interface: record.host_interface,
        network: record.network,
        pod: record.pod,
        netns: record.netns,
        created: record.created,
        complete: matches!(state, State::Complete(_)),
    }
}
