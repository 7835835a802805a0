//! The system calls that have no safe form in our libraries: socket options of netlink, a filter of notifications and
//! the ioctls `ETHTOOL_GLINK` and `NS_GET_NSTYPE`. The only `unsafe` of the crate; every call passes a live pointer to a value of
//! the size that the kernel expects.
#![expect(
    unsafe_code,
    reason = "setsockopt and ioctl have no safe wrapper for these requests"
)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `SOL_NETLINK` option with an int value.
pub(super) fn set_netlink_option(
    fd: BorrowedFd<'_>,
    option: libc::c_int,
    value: libc::c_int,
) -> nix::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `value` lives through the call and `size` is its size.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            (&raw const value).cast(),
            size,
        )
    };
    Errno::result(rc).map(drop)
}

/// Drops rtnetlink notifications of routes with this protocol number, before they wake anybody. The kernel sends one
/// notification a datagram.
pub(super) fn drop_routes_of(fd: BorrowedFd<'_>, protocol: u8) -> nix::Result<()> {
    // nlmsg_type, behind nlmsg_len; rtm_protocol, in the body behind the header.
    const KIND: u32 = 4;
    const PROTOCOL: u32 = 16 + 5;
    const NEWROUTE: u16 = 24;
    const DELROUTE: u16 = 25;
    let instruction = |code: u32, jt, jf, k| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt,
        jf,
        k,
    };
    let equals = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    // BPF loads in network order, netlink headers are in the host's.
    let kind = |kind: u16| u32::from(kind.to_be());
    let mut program = [
        instruction(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, KIND),
        instruction(equals, 1, 0, kind(NEWROUTE)),
        instruction(equals, 0, 3, kind(DELROUTE)),
        instruction(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, PROTOCOL),
        instruction(equals, 0, 1, u32::from(protocol)),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        instruction(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap_or(0),
        filter: program.as_mut_ptr(),
    };
    let size = libc::socklen_t::try_from(size_of::<libc::sock_fprog>()).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `filter` describes `program`, and both live through the call, in which the kernel copies them.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size,
        )
    };
    Errno::result(rc).map(drop)
}

#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    data: *mut EthtoolValue,
    // The kernel copies a whole `struct ifreq`, whose union is 24 bytes.
    rest: [u8; 16],
}

/// Asks whether an interface has a link. The answer is of no interest: asking makes the kernel bring
/// the interface's carrier state and its queue up to date, which it would do later by itself.
pub(super) fn ethtool_glink(fd: BorrowedFd<'_>, ifname: &str) -> nix::Result<()> {
    const ETHTOOL_GLINK: u32 = 0x0a;
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    let mut value = EthtoolValue {
        command: ETHTOOL_GLINK,
        data: 0,
    };
    let mut request = IfReq {
        name: [0; libc::IFNAMSIZ],
        data: &raw mut value,
        rest: [0; 16],
    };
    if ifname.len() >= request.name.len() {
        return Err(Errno::EINVAL);
    }
    for (to, from) in request.name.iter_mut().zip(ifname.bytes()) {
        *to = from;
    }
    // SAFETY: `request` is a whole ifreq and `value` lives through the call.
    let rc = unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    Errno::result(rc).map(drop)
}

/// Is this a network namespace? Fails where it is no namespace at all.
pub(super) fn is_network_namespace(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    Errno::result(kind).map(|kind| kind == libc::CLONE_NEWNET)
}
