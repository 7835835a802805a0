//! Network namespaces of pods: open by path, distinguish from the host's, enter.
//!
//! A plugin process has one thread; `inside` moves it into the pod's namespace and back. Sockets stay in the namespace where
//! they were opened. The host's own namespace is refused before anything is changed.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use linux::netns;
use serde::Serialize;

use crate::error::{Error, Result};

/// The inode of the machine's first PID namespace (PROC_PID_INIT_INO of linux/proc_ns.h).
const FIRST_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// An open network namespace that is not the host's.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    own: File,
    path: String,
    inode: u64,
}

impl Netns {
    /// Opens the namespace at a path.
    pub(crate) fn open(path: &str) -> Result<Self> {
        let fail = |cause: String| Error::Netns {
            path: path.to_owned(),
            cause,
        };
        // O_NONBLOCK: opening a FIFO would block.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(|e| fail(e.to_string()))?;
        let own = File::open("/proc/self/ns/net").map_err(|e| fail(e.to_string()))?;
        let (here, there) = (own.metadata().ok().map(ids), file.metadata().ok().map(ids));
        let Some((_, inode)) = there else {
            return Err(fail("it cannot be read".into()));
        };
        let same_device = here.map(|(device, _)| device) == there.map(|(device, _)| device);
        if !same_device || netns::is_network_namespace(&file) != Ok(true) {
            return Err(fail("it is not a network namespace".into()));
        }
        if here == there {
            return Err(Error::Environment {
                name: "CNI_NETNS",
                cause: format!("{path} is the host's own network namespace"),
                remedy: "pods on the host's network need no CNI plugin; pass the pod's own namespace",
            });
        }
        Ok(Self {
            file,
            own,
            path: path.to_owned(),
            inode,
        })
    }

    /// The path by which it was opened.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The namespace's inode number.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `work` with the calling thread inside, then returns to the previous namespace.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let fail = |cause: String| Error::Netns {
            path: self.path.clone(),
            cause,
        };
        netns::enter(&self.file).map_err(|e| fail(format!("cannot be entered: {e}")))?;
        let done = work();
        netns::enter(&self.own).map_err(|e| fail(format!("cannot be left: {e}")))?;
        done
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Whether a network namespace still exists, as far as this process can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NetnsStatus {
    /// It is mounted at its path.
    Alive,
    /// Its path was removed, or is another namespace.
    Gone,
    /// The path cannot be seen from here, as in a container that has not mounted /run/netns.
    Unknown,
}

/// Whether the namespace with this inode number is still at this path. A path that cannot be seen is `Unknown`, not `Gone`:
/// this process may run in a container, whose mounts and process ids differ from the runtime's.
pub(crate) fn status(path: &str, inode: u64) -> NetnsStatus {
    let path = Path::new(path);
    match std::fs::metadata(path) {
        Ok(meta) if meta.ino() == inode && is_namespace(&meta) => NetnsStatus::Alive,
        // Another namespace took the path.
        Ok(meta) if is_namespace(&meta) => NetnsStatus::Gone,
        // A namespace's mount point: it was unmounted, or mounted where this process cannot see it.
        Ok(_) => NetnsStatus::Unknown,
        Err(error) if error.kind() == ErrorKind::NotFound && sees_directory_of(path) => NetnsStatus::Gone,
        Err(_) => NetnsStatus::Unknown,
    }
}

/// All namespaces are on one file system (nsfs).
fn is_namespace(meta: &std::fs::Metadata) -> bool {
    std::fs::metadata("/proc/self/ns/net").is_ok_and(|own| own.dev() == meta.dev())
}

/// Whether this process sees the same directory as the runtime.
fn sees_directory_of(path: &Path) -> bool {
    if path.starts_with("/proc") {
        // /proc/<pid>/ns/net: a container has other process ids.
        return std::fs::metadata("/proc/self/ns/pid").is_ok_and(|own| own.ino() == FIRST_PID_NAMESPACE);
    }
    path.parent().is_some_and(Path::is_dir)
}

fn ids(meta: std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_unknown() {
        let dir = std::env::temp_dir().join(format!("podroute-life-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let own = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        let at = |name: &str| dir.join(name).display().to_string();
        std::fs::write(at("unmounted"), "").unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", at("there")).unwrap();
        for (path, inode, wanted) in [
            (at("there"), own, NetnsStatus::Alive),
            (at("there"), own + 1, NetnsStatus::Gone),
            (at("missing"), own, NetnsStatus::Gone),
            (at("unmounted"), own, NetnsStatus::Unknown),
            (
                at("unmounted"),
                std::fs::metadata(at("unmounted")).unwrap().ino(),
                NetnsStatus::Unknown,
            ),
            (at("no-directory/pod"), own, NetnsStatus::Unknown),
        ] {
            assert_eq!(status(&path, inode), wanted, "{path}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
