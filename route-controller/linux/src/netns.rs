//! Network namespaces: the calling thread's own, recognizing one, entering one.
#![expect(unsafe_code, reason = "the ioctl NS_GET_NSTYPE has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};

/// Path of the calling thread's network namespace.
pub const OWN: &str = "/proc/thread-self/ns/net";

/// Opens the calling thread's network namespace, to return to it.
pub fn own() -> io::Result<File> {
    File::open(OWN)
}

/// Moves the calling thread, and no other, into a network namespace. Sockets stay where they were opened.
pub fn enter(namespace: impl AsFd) -> nix::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET)
}

/// Whether this is a network namespace; an error where it is no namespace at all.
pub fn is_network_namespace(file: impl AsFd) -> nix::Result<bool> {
    const NS_GET_NSTYPE: libc::Ioctl = 0xb703;
    // SAFETY: the request takes no argument.
    let kind = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), NS_GET_NSTYPE) };
    Errno::result(kind).map(|kind| kind == libc::CLONE_NEWNET)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_network_namespace_is_one() {
        assert_eq!(is_network_namespace(own().unwrap()), Ok(true));
        let other = File::open("/proc/self/ns/mnt").unwrap();
        assert_eq!(is_network_namespace(other), Ok(false));
        assert!(is_network_namespace(File::open("/dev/null").unwrap()).is_err());
    }
}
