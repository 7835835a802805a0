//! Network namespaces: opening one by path, telling it from the host's, and entering it.
//!
//! A plugin process has one thread; `inside` takes it into the pod's namespace and back. Sockets stay in
//! the namespace where they were opened. Refuses the host's own namespace before
//! anything else is done.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

use crate::error::{Error, Result};

/// An open network namespace that is not the host's.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    home: File,
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
        let file = File::open(path).map_err(|e| fail(e.to_string()))?;
        let home = File::open("/proc/self/ns/net").map_err(|e| fail(e.to_string()))?;
        let (here, there) = (home.metadata().ok().map(ids), file.metadata().ok().map(ids));
        let Some((_, inode)) = there else {
            return Err(fail("it cannot be read".into()));
        };
        if here.map(|(device, _)| device) != there.map(|(device, _)| device) {
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
            home,
            path: path.to_owned(),
            inode,
        })
    }

    /// Where it was opened.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// The namespace's inode number.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Runs `work` with this thread inside, and comes back whatever it returns.
    pub(crate) fn inside<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let fail = |cause: String| Error::Netns {
            path: self.path.clone(),
            cause,
        };
        let enter = |file: &File| setns(file, CloneFlags::CLONE_NEWNET);
        enter(&self.file).map_err(|e| fail(format!("cannot be entered: {e}")))?;
        let done = work();
        enter(&self.home).map_err(|e| fail(format!("cannot be left: {e}")))?;
        done
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Is the namespace of this inode number still at this path?
pub(crate) fn is_alive(path: &str, inode: u64) -> bool {
    identity(Path::new(path)).is_some_and(|(_, now)| now == inode)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(ids)
}

fn ids(meta: std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}
