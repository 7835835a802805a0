//! The one system call without a safe form: netlink's socket options. The only `unsafe` of the crate.
#![expect(unsafe_code, reason = "setsockopt has no safe wrapper for netlink's options")]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// `SOL_NETLINK` option with an int value.
pub(crate) fn set_netlink_option(
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
