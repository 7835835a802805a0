//! Netlink sockets that take in what the kernel sends in bulk.

use netlink_sys::Socket;
use nix::sys::socket::{setsockopt, sockopt};

const RECEIVE_BUFFER: usize = 8 << 20;

pub(crate) fn big_buffer(socket: &Socket) {
    // Beyond rmem_max only with CAP_NET_ADMIN, which we need anyway; otherwise as much as there is.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &RECEIVE_BUFFER);
    }
}
