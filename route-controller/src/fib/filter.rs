//! A socket filter that keeps the kernel from telling us of our own route changes.
//!
//! Every change is announced to the monitor, also those that the writer made: at 100,000 routes as many
//! wake-ups and system calls. The filter drops messages by the port of who asked for the change.
#![allow(
    unsafe_code,
    reason = "SO_ATTACH_FILTER takes a pointer to a program; nothing else is here"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Offset of nlmsg_pid in the netlink header.
const PORT_OFFSET: u32 = 12;

/// Drops datagrams whose first message was caused by `port`. The kernel sends one notification a datagram.
pub(super) fn drop_caused_by(socket: BorrowedFd<'_>, port: u32) -> io::Result<()> {
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let mut program = [
        // BPF loads in network order, netlink headers are in the host's.
        instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, PORT_OFFSET),
        instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, port.to_be()),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).unwrap_or(0);
    // SAFETY: the descriptor is borrowed and thus open; `filter` describes `program`, and both outlive the call,
    // in which the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&filter).cast::<libc::c_void>(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
