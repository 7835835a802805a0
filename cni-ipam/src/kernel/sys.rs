//! The ioctl `ETHTOOL_GLINK`, which has no safe wrapper. The only `unsafe` code of the crate.
#![expect(unsafe_code, reason = "the ioctl has no safe wrapper")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

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
