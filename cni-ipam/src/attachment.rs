//! The record of an attachment, and its lock.
//!
//! `pod/<container>@<interface>` is the first thing that an ADD creates and the last that a DEL removes, so everything that
//! a killed process leaves has a record. Its first line is JSON, written when the addresses are known; its second line,
//! `done`, is written when the ADD has succeeded. An exclusive `flock` serializes the operations of one attachment; other
//! attachments do not wait, and the kernel releases the lock of a killed process.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::names::Owner;
use crate::store::{Disk, names};

/// How long a process waits for another that works on the same attachment.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest file that is read: an egress record with many exempt prefixes.
const RECORD_LIMIT: u64 = 1 << 20;
/// Not through a symbolic link, and without blocking on a FIFO.
const PLAIN_FILE: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;

/// The record of an attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Record {
    /// Network name.
    pub(crate) network: String,
    /// `podroute-cni`, or `podroute-ipam` where another plugin made the interface.
    pub(crate) plugin: String,
    /// The pod's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Host interface; empty where another plugin made it.
    pub(crate) host_interface: String,
    /// Path of the network namespace.
    pub(crate) netns: String,
    /// Inode of the network namespace: detects another namespace at the same path.
    pub(crate) netns_inode: u64,
    /// `namespace/name` of the Kubernetes pod, where the runtime said it.
    pub(crate) pod: String,
    /// When it was made, in seconds since 1970.
    pub(crate) created: u64,
    /// MTU of both ends; absent in records of 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    /// Destinations of the pod's routes.
    pub(crate) routes: Vec<IpNet>,
    /// Whether source addresses of the pod's packets are checked.
    pub(crate) checks_sources: bool,
}

/// Progress of an ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// An ADD has begun; nothing else is known.
    Begun,
    /// Addresses are claimed; the interface may exist partly.
    Partial(Record),
    /// The ADD succeeded.
    Complete(Record),
}

impl State {
    /// The record, if there is one.
    pub(crate) fn record(&self) -> Option<&Record> {
        match self {
            Self::Begun => None,
            Self::Partial(record) | Self::Complete(record) => Some(record),
        }
    }

    fn parse(text: &[u8]) -> Self {
        let Some(end) = text.iter().position(|b| *b == b'\n') else {
            return Self::Begun;
        };
        let (first, rest) = text.split_at(end);
        match serde_json::from_slice(first) {
            Ok(record) if rest == b"\ndone\n" => Self::Complete(record),
            Ok(record) => Self::Partial(record),
            Err(_) => Self::Begun,
        }
    }
}

/// An attachment whose lock this process holds.
#[derive(Debug)]
pub(crate) struct Attachment {
    file: Flock<File>,
    path: PathBuf,
    /// Container and interface.
    pub(crate) owner: Owner,
    /// Progress of its ADD when the lock was acquired.
    pub(crate) state: State,
    /// Created by this process: no earlier ADD can have left anything.
    pub(crate) is_new: bool,
}

/// Result of [`Attachment::try_lock`].
#[derive(Debug)]
pub(crate) enum TryLock {
    Acquired(Box<Attachment>),
    /// Another process works on the attachment.
    Busy,
    /// There is no record.
    Gone,
}

impl Attachment {
    /// Locks an attachment's record without waiting.
    pub(crate) fn try_lock(disk: &Disk, owner: &Owner) -> Result<TryLock> {
        let path = disk.dir("pod").join(owner.key());
        let Some((file, is_new)) = open(&path, Access::Read).map_err(|e| Error::io("open", &path, e))? else {
            return Ok(TryLock::Gone);
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Self::confirm_lock(file, &path, owner, is_new)?
                .map_or(TryLock::Gone, |taken| TryLock::Acquired(Box::new(taken)))),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(TryLock::Busy),
            Err((_, e)) => Err(Error::io("lock", &path, e)),
        }
    }

    /// Locks an attachment's record, and creates it if `create`. None: there is no record.
    pub(crate) fn lock(disk: &Disk, owner: &Owner, create: bool) -> Result<Option<Self>> {
        let access = if create { Access::Create } else { Access::Write };
        Self::lock_until(disk, owner, access, Instant::now() + LOCK_TIMEOUT)
    }

    /// Like [`Attachment::lock`] with a common deadline for many attachments: records that stopped processes hold do not
    /// add up.
    pub(crate) fn lock_until(
        disk: &Disk,
        owner: &Owner,
        access: Access,
        deadline: Instant,
    ) -> Result<Option<Self>> {
        let path = disk.dir("pod").join(owner.key());
        loop {
            let (file, is_new) = match open(&path, access) {
                Ok(Some(opened)) => opened,
                Ok(None) if access == Access::Create => continue,
                Ok(None) => return Ok(None),
                Err(e) => return Err(Error::io("open", &path, e)),
            };
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(file) => {
                    if let Some(locked) = Self::confirm_lock(file, &path, owner, is_new)? {
                        return Ok(Some(locked));
                    }
                }
                Err((_, nix::Error::EWOULDBLOCK)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err((_, nix::Error::EWOULDBLOCK)) => {
                    return Err(Error::Busy {
                        attachment: owner.key(),
                        seconds: LOCK_TIMEOUT.as_secs(),
                    });
                }
                Err((_, e)) => return Err(Error::io("lock", &path, e)),
            }
        }
    }

    /// None where the record was removed between opening and locking it.
    fn confirm_lock(mut file: Flock<File>, path: &Path, owner: &Owner, is_new: bool) -> Result<Option<Self>> {
        let held = file.metadata().map_err(|e| Error::io("read", path, e))?;
        let same = fs::symlink_metadata(path).is_ok_and(|now| now.ino() == held.ino());
        if !same {
            return Ok(None);
        }
        let mut text = Vec::new();
        if held.size() > 0 {
            let read = (&mut *file).take(RECORD_LIMIT).read_to_end(&mut text);
            read.map_err(|e| Error::io("read", path, e))?;
        }
        let state = State::parse(&text);
        Ok(Some(Self {
            file,
            path: path.to_owned(),
            owner: owner.clone(),
            state,
            is_new,
        }))
    }

    /// Whether this plugin created it. With `ptp` and `podroute-ipam`, both plugins see the same container and interface. An
    /// attachment in state [`State::Begun`] has no interface yet and belongs to either.
    pub(crate) fn belongs_to(&self, plugin: &str) -> bool {
        self.state.record().is_none_or(|r| r.plugin == plugin)
    }

    /// Empties the record of a failed ADD.
    pub(crate) fn reset(&mut self) -> Result<()> {
        self.state = State::Begun;
        self.file
            .set_len(0)
            .map_err(|e| Error::io("write", &self.path, e))
    }

    /// Writes the record, before an interface is created.
    pub(crate) fn write(&mut self, record: Record) -> Result<()> {
        let mut line = serde_json::to_vec(&record).map_err(|e| Error::Decode {
            what: "the attachment's record",
            cause: e.to_string(),
        })?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|e| Error::io("write", &self.path, e))?;
        self.state = State::Partial(record);
        Ok(())
    }

    /// Marks the ADD as succeeded.
    pub(crate) fn mark_complete(&mut self) -> Result<()> {
        self.file
            .write_all(b"done\n")
            .map_err(|e| Error::io("write", &self.path, e))
    }

    /// Removes the record: the last step of a DEL.
    pub(crate) fn remove(self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &self.path, e)),
            _ => Ok(()),
        }
    }
}

/// What a lock permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading; works on a read-only file system.
    Read,
    /// Changing an existing record.
    Write,
    /// Changing or creating a record.
    Create,
}

/// Opens or creates a record; true: created. None: there is none.
fn open(path: &Path, access: Access) -> std::io::Result<Option<(File, bool)>> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(access != Access::Read)
        .mode(0o600)
        .custom_flags(PLAIN_FILE);
    if access == Access::Create {
        match options.clone().create_new(true).open(path) {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            made => return made.map(|file| Some((file, true))),
        }
    }
    match options.open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        opened => opened.map(|file| Some((file, false))),
    }
}

/// The owners of all records, unordered.
pub(crate) fn owners(disk: &Disk) -> Result<Vec<Owner>> {
    names(&disk.dir("pod"), Owner::from_key)
}

/// Whether there is a record, readable or not.
pub(crate) fn exists(disk: &Disk, owner: &Owner) -> Result<bool> {
    let path = disk.dir("pod").join(owner.key());
    match fs::symlink_metadata(&path) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io("read", &path, e)),
    }
}

/// Reads a record without its lock. None: there is no record.
pub(crate) fn read(disk: &Disk, owner: &Owner) -> Result<Option<State>> {
    let path = disk.dir("pod").join(owner.key());
    Ok(read_file(&path)?.map(|text| State::parse(&text)))
}

/// Reads a small file of the state, never through a symbolic link and without blocking. None: there is no file.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    let mut text = Vec::new();
    let opened = OpenOptions::new().read(true).custom_flags(PLAIN_FILE).open(path);
    match opened.and_then(|file| file.take(RECORD_LIMIT).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> (tempfile::TempDir, Disk, Owner) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open_boot(dir.path(), "boot", true).unwrap().unwrap();
        (
            dir,
            disk,
            Owner {
                container: "c".into(),
                ifname: "eth0".into(),
            },
        )
    }

    #[test]
    fn a_record_goes_through_its_states() {
        let (_dir, disk, owner) = setup();
        assert!(Attachment::lock(&disk, &owner, false).unwrap().is_none());
        let mut a = Attachment::lock(&disk, &owner, true).unwrap().unwrap();
        assert_eq!(a.state, State::Begun);
        let record = Record {
            network: "n".into(),
            ..Record::default()
        };
        a.write(record.clone()).unwrap();
        drop(a);
        let mut a = Attachment::lock(&disk, &owner, false).unwrap().unwrap();
        assert_eq!(a.state, State::Partial(record.clone()));
        a.mark_complete().unwrap();
        assert_eq!(read(&disk, &owner).unwrap(), Some(State::Complete(record)));
        assert_eq!(owners(&disk).unwrap(), vec![owner.clone()]);
        a.reset().unwrap();
        assert_eq!(read(&disk, &owner).unwrap(), Some(State::Begun));
        a.remove().unwrap();
        assert_eq!(read(&disk, &owner).unwrap(), None);
    }

    #[test]
    fn a_waiter_sees_the_removal() {
        let (_dir, disk, owner) = setup();
        let held = Attachment::lock(&disk, &owner, true).unwrap().unwrap();
        let waiter = {
            let (disk, owner) = (disk.clone(), owner.clone());
            std::thread::spawn(move || Attachment::lock(&disk, &owner, false).unwrap().is_none())
        };
        held.remove().unwrap();
        assert!(waiter.join().unwrap(), "the record is gone for the waiter too");
    }

    #[test]
    fn half_a_line_is_no_record() {
        assert_eq!(State::parse(b"{\"network\":\"n\""), State::Begun);
        assert_eq!(State::parse(b"garbage\ndone\n"), State::Begun);
        assert!(matches!(State::parse(b"{}\ndo"), State::Partial(_)));
    }
}
