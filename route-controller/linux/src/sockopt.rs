//! Socket options of netlink and socket filters, which have no safe wrapper. Every call passes a live pointer to a
//! value of the size that the kernel expects.
#![expect(unsafe_code, reason = "setsockopt has no safe wrapper for these options")]

use std::os::fd::{AsRawFd, BorrowedFd};

use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};
use nix::errno::Errno;

/// Sets a `SOL_NETLINK` option with an int value.
pub(crate) fn set_netlink_option(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> nix::Result<()> {
    set(fd, libc::SOL_NETLINK, option, &value)
}

/// Drops rtnetlink notifications of routes with this protocol number. The kernel sends one notification per datagram.
pub(crate) fn drop_routes_of(fd: BorrowedFd<'_>, protocol: u8) -> nix::Result<()> {
    // nlmsg_type, behind nlmsg_len; rtm_protocol, in the body behind the header.
    const KIND: u32 = 4;
    const PROTOCOL: u32 = 16 + 5;
    const NEWROUTE: u16 = 24;
    const DELROUTE: u16 = 25;
    // BPF loads in network order, netlink headers are in the host's.
    let kind = |kind: u16| u32::from(kind.to_be());
    attach(
        fd,
        &mut [
            load(BPF_H, KIND),
            jump_if(kind(NEWROUTE), 1, 0),
            jump_if(kind(DELROUTE), 0, 3),
            load(BPF_B, PROTOCOL),
            jump_if(u32::from(protocol), 0, 1),
            DROP,
            ACCEPT,
        ],
    )
}

/// Drops notifications of changes that the socket with this port made. The kernel sends one notification per datagram.
pub(crate) fn drop_caused_by(fd: BorrowedFd<'_>, port: u32) -> nix::Result<()> {
    // nlmsg_pid.
    const PORT: u32 = 12;
    attach(
        fd,
        &mut [load(BPF_W, PORT), jump_if(port.to_be(), 0, 1), DROP, ACCEPT],
    )
}

const DROP: sock_filter = instruction(BPF_RET | BPF_K, 0, 0, 0);
const ACCEPT: sock_filter = instruction(BPF_RET | BPF_K, 0, 0, u32::MAX);

/// Loads a number of this width at an offset.
fn load(width: u32, offset: u32) -> sock_filter {
    instruction(BPF_LD | width | BPF_ABS, 0, 0, offset)
}

/// Skips `equal` instructions if what was loaded equals `value`, else `other`.
fn jump_if(value: u32, equal: u8, other: u8) -> sock_filter {
    instruction(BPF_JMP | BPF_JEQ | BPF_K, equal, other, value)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "opcodes of classic BPF fit 16 bits"
)]
const fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

fn attach(fd: BorrowedFd<'_>, program: &mut [sock_filter]) -> nix::Result<()> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?,
        filter: program.as_mut_ptr(),
    };
    // `program` outlives the call, in which the kernel copies it.
    set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
}

fn set<T>(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &T) -> nix::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `value` lives through the call and `size` is its size.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size,
        )
    };
    Errno::result(result).map(drop)
}
