//! What no library does for us: the minimum TTL of received packets, and real-time scheduling of a thread.
#![allow(
    unsafe_code,
    reason = "setsockopt and sched_setscheduler with plain structures; nothing else is here"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// linux/in6.h.
const IPV6_MINHOPCOUNT: libc::c_int = 73;

/// The kernel drops what comes with a lower TTL (RFC 5881 §5).
pub(crate) fn set_min_ttl(socket: &impl AsFd, v4: bool, minimum: libc::c_int) -> io::Result<()> {
    let (level, name) = if v4 {
        (libc::IPPROTO_IP, libc::IP_MINTTL)
    } else {
        (libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT)
    };
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: the descriptor is borrowed and thus open; pointer and length describe one live integer.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&minimum).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Lets the calling thread run before all ordinary ones. False without the privilege (CAP_SYS_NICE).
pub(crate) fn run_first() -> bool {
    let parameters = libc::sched_param { sched_priority: 1 };
    // SAFETY: 0 is the calling thread, and the pointer is to a live structure.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) == 0 }
}
