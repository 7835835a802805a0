//! Settings of an interface, as `net.ipv4.conf` and `net.ipv6.conf` have them: read from the link itself (`IFLA_AF_SPEC`).

use linux::netlink::{Attributes, u32_at};

use super::link;
use crate::block::Family;

/// What of them a pod's interface needs on the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) rp_filter: u32,
    pub(crate) forwarding: [bool; 2],
    pub(crate) accept_ra: u32,
}

/// The place of a family in arrays by family.
pub(crate) fn slot(family: Family) -> usize {
    match family {
        Family::V4 => 0,
        Family::V6 => 1,
    }
}

impl Settings {
    /// From a link's attributes; what the kernel does not say is 0.
    pub(crate) fn read(attrs: &Attributes<'_>) -> Self {
        const INET_CONF: u16 = 1;
        const INET6_CONF: u16 = 2;
        // Numbers of uapi/linux/ip.h, from 1, and of uapi/linux/ipv6.h, from 0.
        const FORWARDING4: usize = 0;
        const RP_FILTER: usize = 7;
        const FORWARDING6: usize = 0;
        const ACCEPT_RA: usize = 3;
        let conf = |family: Family, kind: u16| {
            let all = attrs.get(link::IFLA_AF_SPEC)?;
            let of_family = Attributes(all).get(u16::from(link::af(family)))?;
            Attributes(of_family).get(kind)
        };
        let (v4, v6) = (conf(Family::V4, INET_CONF), conf(Family::V6, INET6_CONF));
        let value = |conf: Option<&[u8]>, at: usize| conf.and_then(|conf| u32_at(conf, at * 4)).unwrap_or(0);
        Self {
            rp_filter: value(v4, RP_FILTER),
            forwarding: [value(v4, FORWARDING4) != 0, value(v6, FORWARDING6) != 0],
            accept_ra: value(v6, ACCEPT_RA),
        }
    }
}
