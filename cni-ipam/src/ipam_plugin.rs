//! `podroute-ipam`: the verbs of the delegated IPAM (CNI spec 1.1.0, section 4).
//!
//! An address has the prefix length of its block and the block's first host as gateway, as the reference main plugins
//! expect. Routes are those of `ipam.routes`, by default one default route per family. Changes nothing in the kernel.

use serde_json::Value;

use crate::attachment::{Attachment, Record};
use crate::block::Family;
use crate::error::{Error, Result};
use crate::gc;
use crate::ipam;
use crate::kernel::netns::Netns;
use crate::kernel::veth;
use crate::names::Owner;
use crate::netconf::{BUILTIN_IPAM, Netconf};
use crate::node::Node;
use crate::plugin::{default_routes, pod_name, unix_time};
use crate::request::Request;
use crate::result::{CniResult, Ip, ResultRoute};
use crate::store::Disk;

pub(crate) fn add(request: &Request, conf: &Netconf) -> Result<Value> {
    let node = Node::read(&conf.run_dir)?;
    let disk = ipam::open(conf)?;
    let mut attachment = ipam::begin_add(&disk, &request.owner, || Ok(()))?;
    match add_locked(request, conf, &node, &disk, &mut attachment) {
        Ok(result) => Ok(result.render(conf.version)),
        Err(error) => Err(ipam::abort_add(&disk, attachment, error)),
    }
}

fn add_locked(
    request: &Request,
    conf: &Netconf,
    node: &Node,
    disk: &Disk,
    attachment: &mut Attachment,
) -> Result<CniResult> {
    let addresses = ipam::allocate(disk, &request.owner, conf, node, None)?;
    attachment.write(Record {
        network: conf.name.clone(),
        plugin: BUILTIN_IPAM.to_owned(),
        addresses: addresses.clone(),
        host_interface: String::new(),
        netns: request.netns.clone(),
        // The main plugin checks the namespace; here the inode only serves to detect that the pod is gone.
        netns_inode: Netns::open(&request.netns).map_or(0, |n| n.inode()),
        pod: pod_name(request),
        created: unix_time(),
        ..Record::default()
    })?;
    let ip = |address| {
        let block = ipam::block_of(node, address).ok_or_else(|| Error::AddressRefused {
            address,
            cause: "it lies outside this node's blocks",
            blocks: crate::block::list(&node.blocks()),
        })?;
        let length = block.net().prefix_len();
        let gateway = block
            .gateway()
            .unwrap_or_else(|| veth::gateway(Family::of(address)));
        Ok(Ip {
            address: ipnet::IpNet::new_assert(address, length),
            gateway: Some(gateway),
            interface: None,
        })
    };
    let ips: Vec<Ip> = addresses.iter().copied().map(ip).collect::<Result<_>>()?;
    let routes = conf
        .ipam_routes
        .clone()
        .unwrap_or_else(|| default_routes(&addresses));
    let routes = routes
        .into_iter()
        .map(|r| ResultRoute { dst: r.dst, gw: r.gw })
        .collect();
    attachment.mark_complete()?;
    Ok(CniResult {
        ips,
        routes,
        ..CniResult::default()
    })
}

pub(crate) fn del(conf: &Netconf, owner: &Owner) -> Result<()> {
    let Some(disk) = Disk::open(&conf.state_dir, false)? else {
        return Ok(());
    };
    let attachment = Attachment::lock(&disk, owner, false)?;
    attachment
        .filter(|a| a.belongs_to(BUILTIN_IPAM))
        .map_or(Ok(()), |attachment| ipam::end_attachment(&disk, attachment))
}

pub(crate) fn check(conf: &Netconf, owner: &Owner) -> Result<()> {
    ipam::check(conf, owner).map(drop)
}

pub(crate) fn gc(conf: &Netconf) -> Result<()> {
    let Some(valid) = &conf.valid else { return Ok(()) };
    let Some(disk) = Disk::open(&conf.state_dir, false)? else {
        return Ok(());
    };
    gc::collect_claims(&disk, &conf.name, valid)
}
