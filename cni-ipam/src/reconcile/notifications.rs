//! Reads the kernel's notifications and decides which of them indicate that something may be missing.
//!
//! A comparison covers everything of a kind, so a notification only has to mark the kind: host sides of pods, or the
//! nftables table. A lost notification marks both.

use std::io::Read;
use std::ops::BitOrAssign;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Result;
use crate::kernel::link::ROUTE_PROTOCOL;
use crate::kernel::nft;
use crate::names::IFNAME_PREFIX;
use linux::netlink::{self, Attributes, Message, Socket};

/// What has to be compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Dirty {
    /// Interfaces, addresses and routes.
    pub(super) host: bool,
    /// The nftables table.
    pub(super) table: bool,
}

impl Dirty {
    pub(super) const ALL: Self = Self {
        host: true,
        table: true,
    };

    pub(super) fn is_any(self) -> bool {
        self.host || self.table
    }
}

impl BitOrAssign for Dirty {
    fn bitor_assign(&mut self, other: Self) {
        self.host |= other.host;
        self.table |= other.table;
    }
}

/// The sockets that receive notifications.
#[derive(Debug)]
pub(super) struct Notifications {
    route: Socket,
    /// None: the kernel has no nftables.
    netfilter: Option<Socket>,
}

impl Notifications {
    pub(super) fn open() -> Result<Self> {
        const LINK: u32 = 1;
        const IPV4_ADDRESS: u32 = 5;
        const IPV4_ROUTE: u32 = 7;
        const IPV6_ADDRESS: u32 = 9;
        const IPV6_ROUTE: u32 = 11;
        const IPV4_SETTINGS: u32 = 24;
        const IPV6_SETTINGS: u32 = 25;
        const NFTABLES: u32 = 7;
        let groups = [
            LINK,
            IPV4_ADDRESS,
            IPV4_ROUTE,
            IPV6_ADDRESS,
            IPV6_ROUTE,
            IPV4_SETTINGS,
            IPV6_SETTINGS,
        ];
        let route = Socket::route()?;
        route.ignore_routes_of(LEARNED_PROTOCOL)?;
        route.join(&groups)?;
        let netfilter = Socket::netfilter().and_then(|socket| socket.join(&[NFTABLES]).map(|()| socket));
        Ok(Self {
            route,
            netfilter: netfilter.ok(),
        })
    }

    /// Waits for a relevant notification, for `wake`, or until a time.
    pub(super) fn wait(&self, wake: BorrowedFd<'_>, until: Option<Instant>) -> Result<Dirty> {
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let timeout = left.map_or(PollTimeout::NONE, |left| {
                // Rounded up: less than a millisecond must not become a busy loop.
                PollTimeout::try_from(left.as_millis() + u128::from(!left.is_zero()))
                    .unwrap_or(PollTimeout::MAX)
            });
            let sockets = [Some(&self.route), self.netfilter.as_ref()];
            let mut polled: Vec<PollFd<'_>> = sockets
                .into_iter()
                .flatten()
                .map(AsFd::as_fd)
                .chain([wake])
                .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
                .collect();
            match poll(&mut polled, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(linux::Error::new("wait for notifications", errno).into()),
            }
            let dirty = self.drain(wake)?;
            if dirty.is_any() || until.is_some_and(|until| until <= Instant::now()) {
                return Ok(dirty);
            }
        }
    }

    /// Reads everything that waits to be read.
    pub(super) fn drain(&self, wake: BorrowedFd<'_>) -> Result<Dirty> {
        let mut dirty = Dirty::default();
        dirty.host |= self.route.notifications(is_loss_on_host)?;
        if let Some(netfilter) = &self.netfilter {
            dirty.table |= netfilter.notifications(is_loss_in_table)?;
        }
        dirty.host |= is_woken(wake);
        Ok(dirty)
    }
}

/// Protocol of the agent's routes: irrelevant here, and there may be very many.
const LEARNED_PROTOCOL: u8 = 245;

/// Reads an eventfd or a non-blocking pipe empty.
fn is_woken(wake: BorrowedFd<'_>) -> bool {
    let Ok(copy) = wake.try_clone_to_owned() else {
        return true;
    };
    let mut ready = [PollFd::new(copy.as_fd(), PollFlags::POLLIN)];
    if !poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0) {
        return false;
    }
    let mut number = [0; 8];
    std::fs::File::from(copy).read(&mut number).is_ok()
}

/// Whether a rtnetlink notification indicates that part of a pod's wiring may be missing.
fn is_loss_on_host(message: &Message<'_>) -> bool {
    const NEWLINK: u16 = 16;
    const NEWADDR: u16 = 20;
    const DELADDR: u16 = 21;
    const NEWROUTE: u16 = 24;
    const DELROUTE: u16 = 25;
    const NEWNETCONF: u16 = 80;
    const IFINFO: usize = 16;
    const RTM_PROTOCOL: usize = 5;
    const IFLA_IFNAME: u16 = 3;
    let body = message.body();
    let protocol = || body.get(RTM_PROTOCOL).copied();
    match message.kind {
        // A pod's interface changed: down, up, another hardware address.
        NEWLINK => Attributes(body.get(IFINFO..).unwrap_or_default())
            .text(IFLA_IFNAME)
            .is_some_and(|name| name.starts_with(IFNAME_PREFIX)),
        // The preferred source of routes, or a gateway's address.
        NEWADDR | DELADDR => true,
        // Forwarding or the reverse path filter of an interface. For accept_ra there is no notification.
        NEWNETCONF => true,
        // A route of a pod was deleted.
        DELROUTE => protocol() == Some(ROUTE_PROTOCOL),
        // A foreign route may have replaced one of a pod.
        NEWROUTE => message.flags & netlink::REPLACE != 0 && protocol() != Some(ROUTE_PROTOCOL),
        _ => false,
    }
}

/// Whether a notification of nftables reports a deletion from the table.
fn is_loss_in_table(message: &Message<'_>) -> bool {
    const NFGENMSG: usize = 4;
    nft::is_deletion(message.kind)
        && Attributes(message.body().get(NFGENMSG..).unwrap_or_default()).text(1) == Some(nft::TABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux::netlink::{Batch, frame, messages};

    fn attribute(kind: u16, text: &str) -> Vec<u8> {
        Batch::attributes(|batch| batch.text(kind, text))
    }

    fn is_loss(check: fn(&Message<'_>) -> bool, kind: u16, flags: u16, body: &[u8]) -> bool {
        let mut bytes = Vec::new();
        frame::message(&mut bytes, kind, flags, 0, |out| out.extend(body));
        messages(&bytes).any(|message| check(&message))
    }

    fn route(protocol: u8) -> Vec<u8> {
        vec![2, 32, 0, 0, 254, protocol, 253, 1, 0, 0, 0, 0]
    }

    #[test]
    fn what_makes_the_host_suspect() {
        let link = |name: &str| [vec![0; 16], attribute(3, name)].concat();
        let cases = [
            (16, 0, link("podabcdefghijkl"), true),
            (16, 0, link("eth0"), false),
            (20, 0, vec![0; 8], true),
            (21, 0, vec![0; 8], true),
            (25, 0, route(246), true),
            (25, 0, route(3), false),
            (80, 0, vec![2, 0, 0, 0], true),
            (24, netlink::REPLACE, route(4), true),
            (24, netlink::REPLACE, route(246), false),
            (24, netlink::CREATE, route(4), false),
            (25, 0, Vec::new(), false),
        ];
        for (kind, flags, body, wanted) in cases {
            assert_eq!(
                is_loss(is_loss_on_host, kind, flags, &body),
                wanted,
                "{kind} {flags} {body:?}"
            );
        }
    }

    #[test]
    fn only_our_table_makes_the_table_suspect() {
        let of = |table: &str| [vec![1, 0, 0, 0], attribute(1, table)].concat();
        assert!(
            is_loss(is_loss_in_table, 0x0a02, 0, &of("podroute-cni")),
            "NFT_MSG_DELTABLE"
        );
        assert!(!is_loss(is_loss_in_table, 0x0a02, 0, &of("kube-proxy")));
        assert!(
            !is_loss(is_loss_in_table, 0x0a0c, 0, &of("podroute-cni")),
            "NFT_MSG_NEWSETELEM"
        );
    }
}
