//! STATUS: whether the host forwards packets of pods.

use crate::block::Family;
use crate::error::{Error, Result};
use crate::kernel::nft;
use crate::netconf::Netconf;
use crate::node::Node;
use linux::netlink::Socket;
use linux::sysctl::dotted;

/// Fails where pods cannot reach anything outside the node.
pub(crate) fn status(conf: &Netconf) -> Result<()> {
    let limited = |cause: String| Err(Error::Limited { cause });
    for family in families(conf) {
        if !is_on(family) {
            let name = dotted(key(family));
            return limited(format!(
                "{name} is 0: the node forwards no {family} packets; run 'sysctl -w {name}=1' and see who switched it off"
            ));
        }
        if forward_chain_drops_all(family) {
            return limited(format!(
                "the policy of the chain FORWARD is DROP, and no rule there accepts anything ({family}): accept the pods' \
                 addresses, or 'iptables -P FORWARD ACCEPT'"
            ));
        }
    }
    Ok(())
}

fn families(conf: &Netconf) -> Vec<Family> {
    let all = [Family::V4, Family::V6];
    if let Some(families) = &conf.families {
        return families.clone();
    }
    let Ok(node) = Node::read(&conf.run_dir) else {
        return Vec::new();
    };
    all.into_iter()
        .filter(|family| !node.blocks_of(*family).is_empty())
        .collect()
}

fn key(family: Family) -> &'static str {
    match family {
        Family::V4 => "net/ipv4/ip_forward",
        Family::V6 => "net/ipv6/conf/all/forwarding",
    }
}

/// Where the setting cannot be read, forwarding is assumed.
fn is_on(family: Family) -> bool {
    linux::sysctl::read(key(family)).map_or(true, |value| value != "0")
}

/// Whether the chain FORWARD of iptables-nft drops everything. With rules in it this cannot be decided, so false.
fn forward_chain_drops_all(family: Family) -> bool {
    let looked = Socket::netfilter()
        .map_err(Error::from)
        .and_then(|s| nft::foreign_chain(&s, family, "filter", "FORWARD"));
    matches!(looked, Ok(Some((true, 0))))
}
