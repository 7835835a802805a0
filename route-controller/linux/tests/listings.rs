//! Listings of what changes meanwhile, in a network namespace of the test's own thread. Left out where the user is not root.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::net::Ipv4Addr;

use linux::netlink::{Batch, CREATE, DUMP, Reply, Socket};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const IFA_LOCAL: u16 = 2;
const LOOPBACK: u32 = 1;

/// A change of addresses of the loopback interface.
fn change(socket: &Socket, kind: u16, addresses: impl Iterator<Item = u32>) {
    let mut batch = Batch::default();
    for address in addresses {
        let mut header = vec![2, 32, 0, 0];
        header.extend(LOOPBACK.to_ne_bytes());
        let flags = if kind == RTM_NEWADDR { CREATE } else { 0 };
        batch.begin(kind, flags, &header, "change an address");
        batch.attr(IFA_LOCAL, &address.to_be_bytes());
    }
    socket.run(batch).unwrap();
}

fn listed(socket: &Socket) -> Result<u32, Errno> {
    let mut batch = Batch::default();
    batch.begin(RTM_GETADDR, DUMP, &[2, 0, 0, 0, 0, 0, 0, 0], "list addresses");
    let stays = |reply: &&Reply| {
        let address = reply
            .attrs(8)
            .get(IFA_LOCAL)
            .and_then(|octets| <[u8; 4]>::try_from(octets).ok());
        address.is_some_and(|octets| Ipv4Addr::from(octets).octets()[0] == 10)
    };
    let replies = socket.run(batch).map_err(|error| error.errno)?;
    Ok(u32::try_from(replies.iter().filter(stays).count()).unwrap())
}

#[test]
fn a_listing_has_all_that_was_there_all_the_time() {
    const STAY: u32 = 10_000;
    if !nix::unistd::geteuid().is_root() {
        eprintln!("left out: needs root");
        return;
    }
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let socket = Socket::route().unwrap();
    let others = || 0x0b00_0000..0x0b00_0100_u32;
    change(&socket, RTM_NEWADDR, others());
    for first in (0x0a00_0000..0x0a00_0000 + STAY).step_by(1000) {
        change(&socket, RTM_NEWADDR, first..first + 1000);
    }
    std::thread::scope(|scope| {
        // Those in front go, and come back behind.
        let changes = scope.spawn(|| {
            let socket = Socket::route().unwrap();
            for _ in 0..30 {
                change(&socket, RTM_DELADDR, others());
                change(&socket, RTM_NEWADDR, others());
            }
        });
        while !changes.is_finished() {
            match listed(&socket) {
                Ok(count) => assert_eq!(count, STAY),
                Err(errno) => assert_eq!(errno, Errno::EINTR),
            }
        }
    });
    assert_eq!(listed(&socket), Ok(STAY));
}
