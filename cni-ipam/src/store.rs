//! The claims on addresses, as files. Each operation is one atomic step of the file system.
//!
//! Layout under the state directory, in a directory named by the kernel's boot id (a reboot ends all pods and thus all
//! claims):
//!
//! - `addr/<address>`: a symbolic link to `<address> <container>@<interface>`, the claim. Only this is authoritative.
//! - `blocks/<prefix>_<length>/queue/<n>`: released claims in order of release.
//! - `blocks/<prefix>_<length>/{fresh,head,tail}`: counters, stored as file sizes (one `truncate` sets one). They may lag.
//!
//! `allocator` decides which address to claim. No lock is used here: a stopped process cannot block another.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::block::Block;
use crate::error::{Error, Result};
use crate::names::Owner;

/// The counters of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Counter {
    /// Addresses from this index on were never allocated (file `fresh`).
    NextUnused,
    /// The oldest released claim.
    Head,
    /// The slot for the next released claim.
    Tail,
}

impl Counter {
    const ALL: [Self; 3] = [Self::NextUnused, Self::Head, Self::Tail];

    fn file(self) -> &'static str {
        match self {
            Self::NextUnused => "fresh",
            Self::Head => "head",
            Self::Tail => "tail",
        }
    }
}

/// Result of [`Store::release_to_slot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Released {
    /// The claim is in the queue.
    Queued,
    /// The slot is in use.
    SlotTaken,
    /// There was no claim.
    NotClaimed,
}

/// Storage of claims. Each method is atomic: a killed process leaves the state before or after it.
pub(crate) trait Store {
    /// Claims an address; false: it is claimed already.
    fn claim(&self, address: IpAddr, owner: &Owner) -> Result<bool>;
    /// The owner of the claim on an address.
    fn claim_owner(&self, address: IpAddr) -> Result<Option<Owner>>;
    /// Releases a claim into a slot of its block's queue, in one step.
    fn release_to_slot(&self, address: IpAddr, block: Block, slot: u64) -> Result<Released>;
    /// Removes a claim on an address that is in no known block.
    fn discard_claim(&self, address: IpAddr) -> Result<()>;
    /// The released address in a slot of the queue.
    fn slot_address(&self, block: Block, slot: u64) -> Result<Option<IpAddr>>;
    /// Clears a slot of the queue.
    fn clear_slot(&self, block: Block, slot: u64) -> Result<()>;
    /// All slots in use, ascending.
    fn used_slots(&self, block: Block) -> Result<Vec<u64>>;
    /// Reads a counter; it may lag.
    fn counter(&self, block: Block, counter: Counter) -> Result<u64>;
    /// Sets a counter.
    fn set_counter(&self, block: Block, counter: Counter, value: u64) -> Result<()>;
    /// All claimed addresses, unordered.
    fn claims(&self) -> Result<Vec<IpAddr>>;
    /// All known blocks, current and past.
    fn blocks(&self) -> Result<Vec<Block>>;
    /// Adds a block, unless it is known.
    fn add_block(&self, block: Block) -> Result<()>;
    /// Removes a block with its queue and counters.
    fn remove_block(&self, block: Block) -> Result<()>;
}

/// The claims on disk (normally a tmpfs: /run).
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Opens the state of the running boot, and creates it if `create`. None: there is no state.
    pub(crate) fn open(state_dir: &Path, create: bool) -> Result<Option<Self>> {
        let boot = boot_id()?;
        Self::open_boot(state_dir, &boot, create)
    }

    /// Like [`Disk::open`], for a boot id.
    pub(crate) fn open_boot(state_dir: &Path, boot: &str, create: bool) -> Result<Option<Self>> {
        let disk = Self {
            root: state_dir.join(boot),
        };
        let is_known = disk.root.is_dir();
        if !create {
            return Ok(is_known.then_some(disk));
        }
        // Any of them may have been removed by hand.
        for dir in ["addr", "pod", "blocks"].map(|name| disk.dir(name)) {
            if !dir.is_dir() {
                fs::create_dir_all(&dir).map_err(|e| Error::io("create", &dir, e))?;
            }
        }
        if !is_known {
            remove_other_boots(state_dir, boot);
        }
        Ok(Some(disk))
    }

    /// Fails where a record cannot be written. Leaves nothing, even if killed: the test file has no name.
    pub(crate) fn probe(&self) -> Result<()> {
        let dir = self.dir("pod");
        let opened = fs::OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_TMPFILE)
            .open(&dir);
        match opened.and_then(|mut file| file.write_all(&[0; 4096])) {
            // Some file systems do not support O_TMPFILE; then the check is skipped.
            Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
            done => done.map_err(|e| Error::io("write a record in", &dir, e)),
        }
    }

    /// A directory of the state.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn addr(&self, address: IpAddr) -> PathBuf {
        self.root.join("addr").join(address.to_string())
    }

    fn block(&self, block: Block) -> PathBuf {
        let net = block.net();
        self.root
            .join("blocks")
            .join(format!("{}_{}", net.network(), net.prefix_len()))
    }

    fn slot(&self, block: Block, slot: u64) -> PathBuf {
        self.block(block).join("queue").join(slot.to_string())
    }

    fn hint(&self, block: Block, counter: Counter) -> PathBuf {
        self.block(block).join(counter.file())
    }
}

impl Store for Disk {
    fn claim(&self, address: IpAddr, owner: &Owner) -> Result<bool> {
        let path = self.addr(address);
        match symlink(format!("{address} {}", owner.key()), &path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(Error::io("claim", &path, e)),
        }
    }

    fn claim_owner(&self, address: IpAddr) -> Result<Option<Owner>> {
        Ok(read_claim(&self.addr(address))?.and_then(|(_, owner)| owner))
    }

    fn release_to_slot(&self, address: IpAddr, block: Block, slot: u64) -> Result<Released> {
        let (from, to) = (self.addr(address), self.slot(block, slot));
        match renameat2(AT_FDCWD, &from, AT_FDCWD, &to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => Ok(Released::Queued),
            Err(nix::Error::EEXIST) => Ok(Released::SlotTaken),
            // No claim, or the block was removed: then there is no queue.
            Err(nix::Error::ENOENT) => remove(&from).map(|()| Released::NotClaimed),
            Err(e) => Err(Error::io("release", &from, e)),
        }
    }

    fn discard_claim(&self, address: IpAddr) -> Result<()> {
        remove(&self.addr(address))
    }

    fn slot_address(&self, block: Block, slot: u64) -> Result<Option<IpAddr>> {
        Ok(read_claim(&self.slot(block, slot))?.and_then(|(address, _)| address))
    }

    fn clear_slot(&self, block: Block, slot: u64) -> Result<()> {
        remove(&self.slot(block, slot))
    }

    fn used_slots(&self, block: Block) -> Result<Vec<u64>> {
        let mut slots: Vec<u64> = names(&self.block(block).join("queue"), |n| n.parse().ok())?;
        slots.sort_unstable();
        Ok(slots)
    }

    fn counter(&self, block: Block, counter: Counter) -> Result<u64> {
        let path = self.hint(block, counter);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.size()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(0),
            Err(e) => Err(Error::io("read", &path, e)),
        }
    }

    fn set_counter(&self, block: Block, counter: Counter, value: u64) -> Result<()> {
        let path = self.hint(block, counter);
        let size = i64::try_from(value).unwrap_or(i64::MAX);
        nix::unistd::truncate(&path, size).map_err(|e| Error::io("write", &path, e))
    }

    fn claims(&self) -> Result<Vec<IpAddr>> {
        names(&self.dir("addr"), |n| n.parse().ok())
    }

    fn blocks(&self) -> Result<Vec<Block>> {
        names(&self.dir("blocks"), |name| {
            let (network, length) = name.split_once('_')?;
            Some(Block::new(
                IpNet::new(network.parse().ok()?, length.parse().ok()?).ok()?,
            ))
        })
    }

    fn add_block(&self, block: Block) -> Result<()> {
        // `tail` is created last: if it exists, everything exists.
        if exists(&self.hint(block, Counter::Tail)) {
            return Ok(());
        }
        let queue = self.block(block).join("queue");
        fs::create_dir_all(&queue).map_err(|e| Error::io("create", &queue, e))?;
        for counter in Counter::ALL {
            let path = self.hint(block, counter);
            let made = fs::OpenOptions::new().create(true).append(true).open(&path);
            made.map_err(|e| Error::io("create", &path, e))?;
        }
        Ok(())
    }

    fn remove_block(&self, block: Block) -> Result<()> {
        let path = self.block(block);
        match fs::remove_dir_all(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", &path, e)),
            _ => Ok(()),
        }
    }
}

fn boot_id() -> Result<String> {
    let path = Path::new("/proc/sys/kernel/random/boot_id");
    let id = fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let id = id.trim();
    if id.is_empty() || id.contains('/') || id.starts_with('.') {
        return Err(Error::Decode {
            what: "the kernel's boot id",
            cause: format!("{id:?}"),
        });
    }
    Ok(id.to_owned())
}

/// Removes claims of earlier boots, whose pods no longer exist. A failure is harmless.
fn remove_other_boots(state_dir: &Path, boot: &str) {
    let is_old = |name: &str| (name != boot && is_boot_id(name)).then(|| name.to_owned());
    for name in names(state_dir, is_old).unwrap_or_default() {
        let _ = fs::remove_dir_all(state_dir.join(name));
    }
}

fn is_boot_id(name: &str) -> bool {
    name.len() == 36 && name.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, e)),
        _ => Ok(()),
    }
}

/// The address and owner of a claim; None for parts that cannot be parsed.
fn read_claim(path: &Path) -> Result<Option<(Option<IpAddr>, Option<Owner>)>> {
    match fs::read_link(path) {
        Ok(target) => {
            let text = target.to_str().unwrap_or_default();
            let (address, key) = text.split_once(' ').unwrap_or_default();
            Ok(Some((address.parse().ok(), Owner::from_key(key))))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) if e.kind() == ErrorKind::InvalidInput => Ok(Some((None, None))),
        Err(e) => Err(Error::io("read", path, e)),
    }
}

/// The entries of a directory that `parse` accepts; none if there is no directory.
pub(crate) fn names<T>(dir: &Path, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", dir, e)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("list", dir, e))?;
        found.extend(OsStr::to_str(&entry.file_name()).and_then(&parse));
    }
    Ok(found)
}
