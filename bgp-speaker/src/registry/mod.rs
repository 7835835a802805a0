//! The peers and how to reach their tasks. Read for each new connection and for operator commands, never on
//! the path of a route.
//!
//! One lock guards peers, ranges and the keys on the listeners, so that decisions that depend on several of
//! them are consistent.

mod index;
pub(crate) mod keys;
pub(crate) mod messages;
pub(crate) mod progress;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::types::{PeerId, Prefix};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use self::index::{Index, remote_address};
use self::keys::{Accepted, KeyError, Keys};
use self::messages::ToPeer;
use self::progress::Progress;
use crate::api::{Password, PeerSpec, RangeSpec};
use crate::rotation::KeyInUse;
use crate::sync::{AtomicU64, Ordering, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A peer.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) spec: PeerSpec,
    pub(crate) commands: mpsc::Sender<ToPeer>,
    /// The range of a dynamic peer.
    pub(crate) range: Option<String>,
    /// Progress of the session, set by the peer's task.
    pub(crate) progress: Arc<Progress>,
    /// Which of the peer's two passwords is on the listeners.
    in_use: KeyInUse,
    key: Key,
}

impl Entry {
    pub(crate) fn new(spec: PeerSpec, commands: mpsc::Sender<ToPeer>, range: Option<String>) -> Self {
        Self {
            spec,
            commands,
            range,
            progress: Arc::default(),
            in_use: KeyInUse::default(),
            key: Key::default(),
        }
    }

    /// The key of connections to the listeners.
    fn password(&self) -> Option<&Password> {
        self.in_use.of(&self.spec.transport)
    }
}

/// The TCP MD5 key on the listeners.
#[derive(Clone, Default)]
struct Key {
    /// Connections accepted before this key epoch of [`Keys`] may be older than the key.
    installed_at: u64,
    /// Why the key is not set although the peer has a password: all its connections are refused.
    error: Option<KeyError>,
}

impl Key {
    fn new(installed: Result<u64, KeyError>, name: &str) -> Self {
        match installed {
            Ok(installed_at) => Self {
                installed_at,
                error: None,
            },
            Err(error) => {
                tracing::error!(
                    event = "listener_key_failed",
                    peer = %name,
                    %error,
                    "connections from this peer are refused: its TCP MD5 key is not set"
                );
                Self {
                    installed_at: 0,
                    error: Some(error),
                }
            }
        }
    }
}

/// The peer that an accepted connection comes from.
pub(crate) enum IncomingPeer {
    /// A peer with a task. `signed`: the connection has the peer's key.
    Known {
        commands: mpsc::Sender<ToPeer>,
        signed: bool,
    },
    /// A known peer whose connection is refused.
    Refused(Refusal),
    /// No peer with this address.
    Unknown,
}

/// Why a connection is refused. The text begins with the name of the peer or range, if there is one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no peer with this address is configured")]
    NotConfigured,
    #[error("a peer with this address was added at the same time")]
    AlreadyAdded,
    #[error("{range}: the range is being removed")]
    RangeRemoved { range: String },
    #[error("{range}: {reason}")]
    Waiting { range: String, reason: String },
    #[error("{range}: disabled in the configuration")]
    Disabled { range: String },
    #[error("{range}: has {limit} peers already; raise listenLimit to allow more")]
    RangeFull { range: String, limit: usize },
    #[error("{name}: {error}")]
    NoKey { name: String, error: KeyError },
    #[error("{name}: the connection may be older than the TCP MD5 key; the peer connects again")]
    OlderThanKey { name: String },
}

/// A dynamic peer that was just added.
pub(crate) struct AddedDynamic {
    pub(crate) entry: Entry,
    pub(crate) signed: bool,
}

/// Ids of dynamic peers start here; the ids of configured peers are lower.
const FIRST_DYNAMIC_ID: u32 = 1 << 31;

/// The peers, and the keys on the listeners.
pub(crate) struct Registry {
    entries: RwLock<Entries>,
    changes: Arc<AtomicU64>,
    keys: Keys,
}

/// A range of dynamic peers.
struct Range {
    spec: RangeSpec,
    key: Key,
}

#[derive(Default)]
struct Entries {
    all: BTreeMap<PeerId, Entry>,
    index: Index,
    ranges: BTreeMap<String, Range>,
    dynamic: u32,
}

impl Entries {
    fn insert(&mut self, entry: Entry) {
        let (id, from) = (entry.spec.id, remote_address(&entry.spec.transport.remote));
        self.remove(id);
        self.index.insert(id, from, entry.range.as_deref());
        self.all.insert(id, entry);
    }

    fn remove(&mut self, id: PeerId) -> Option<Entry> {
        let entry = self.all.remove(&id)?;
        let from = remote_address(&entry.spec.transport.remote);
        self.index.remove(id, from, entry.range.as_deref());
        Some(entry)
    }

    fn of_range(&self, name: &str) -> Vec<Entry> {
        let ids = self.index.of_range(name);
        ids.filter_map(|id| self.all.get(id).cloned()).collect()
    }

    /// The passwords for connections from exactly this prefix, with their owners.
    fn passwords(&self, of: Prefix) -> impl Iterator<Item = (Owner, &Password)> {
        let host = (of == Prefix::host(of.addr())).then_some(of.addr());
        let peers = host.into_iter().flat_map(|addr| self.index.all_at(addr));
        let peers = peers
            .filter_map(|id| self.all.get(&id))
            .filter(|entry| entry.range.is_none());
        let peers = peers.filter_map(|entry| {
            let password = entry.password()?;
            Some((Owner::Peer(entry.spec.id), password))
        });
        let ranges = self.ranges.values().filter(move |range| range.spec.prefix == of);
        let ranges = ranges.filter_map(|range| {
            let password = range.spec.template.transport.password.as_ref()?;
            Some((Owner::Range(range.spec.name.clone()), password))
        });
        peers.chain(ranges)
    }

    /// All keys that are set on the listeners.
    fn keys(&self) -> impl Iterator<Item = (Prefix, &Password)> {
        let peers = self
            .all
            .values()
            .filter(|entry| entry.range.is_none() && entry.key.error.is_none());
        let peers = peers
            .filter_map(|entry| Some((Prefix::host(entry.spec.transport.remote.ip()), entry.password()?)));
        let ranges = self.ranges.values().filter(|range| range.key.error.is_none());
        let ranges = ranges.filter_map(|range| {
            Some((
                range.spec.prefix,
                range.spec.template.transport.password.as_ref()?,
            ))
        });
        peers.chain(ranges)
    }

    /// A peer of the range that may be replaced: the oldest without a valid OPEN.
    fn peer_without_open(&self, name: &str) -> Option<PeerId> {
        let without_open = |id: &&PeerId| self.all.get(id).is_some_and(|entry| !entry.progress.has_opened());
        self.index.of_range(name).find(without_open).copied()
    }
}

/// The owner of a key. Several owners can share a key: a range of one address and a peer with that address,
/// or peers with one address on two links.
#[derive(PartialEq, Eq)]
enum Owner {
    Peer(PeerId),
    Range(String),
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            entries: RwLock::default(),
            changes: Arc::default(),
            keys: Keys::new(),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listeners(&self) -> Vec<Arc<TcpListener>> {
        self.keys.listeners()
    }

    /// Listens on a further address, with the keys of all peers.
    ///
    /// # Errors
    /// The operating system's.
    pub(crate) fn open(&self, addr: SocketAddr) -> std::io::Result<Arc<TcpListener>> {
        let entries = self.write(); // keys do not change meanwhile
        self.keys.open(addr, entries.keys())
    }

    /// Closes a listener.
    pub(crate) fn close(&self, listener: &Arc<TcpListener>) {
        let _entries = self.write(); // keys do not change meanwhile
        self.keys.close(listener);
    }

    /// The next accepted connection.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> std::io::Result<Accepted> {
        self.keys.accept(listener).await
    }

    fn progress(&self) -> Arc<Progress> {
        Arc::new(Progress::counted_in(&self.changes))
    }

    /// Adds a peer. Its key is set on the listeners before a connection can match the peer.
    pub(crate) fn insert(&self, mut entry: Entry) -> Entry {
        let mut entries = self.write();
        entry.key = self.peer_key(&entries, &entry);
        entry.progress = self.progress();
        entries.insert(entry.clone());
        entry
    }

    /// Increases whenever a session comes up or goes down, or a peer is removed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Changes a peer; `None` if it does not exist.
    pub(crate) fn change(&self, spec: PeerSpec) -> Option<Entry> {
        let mut entries = self.write();
        let mut entry = entries.all.get(&spec.id)?.clone();
        let match_key = |entry: &Entry| (entry.spec.transport.remote.ip(), entry.password().cloned());
        let before = match_key(&entry);
        let old = std::mem::replace(&mut entry.spec, spec);
        entry.in_use = entry.in_use.after(&old.transport, &entry.spec.transport);
        if entry.range.is_some() || (before == match_key(&entry) && entry.key.error.is_none()) {
            entries.insert(entry.clone());
            return Some(entry);
        }
        entries.remove(entry.spec.id);
        if old.transport.password.is_some() {
            self.release_key(&mut entries, Prefix::host(old.transport.remote.ip()));
        }
        entry.key = self.peer_key(&entries, &entry);
        entries.insert(entry.clone());
        Some(entry)
    }

    /// Sets the other of the peer's two keys on the listeners. Dynamic peers use their range's key.
    pub(crate) fn use_key(&self, id: PeerId, in_use: KeyInUse) {
        let mut entries = self.write();
        let Some(mut entry) = entries.all.get(&id).cloned() else {
            return;
        };
        if entry.in_use == in_use || entry.range.is_some() {
            return;
        }
        entries.remove(id);
        entry.in_use = in_use;
        entry.key = self.peer_key(&entries, &entry);
        entries.insert(entry);
    }

    pub(crate) fn remove(&self, id: PeerId) -> Option<Entry> {
        let mut entries = self.write();
        let entry = entries.remove(id)?;
        self.changes.fetch_add(1, Ordering::Relaxed);
        if entry.range.is_none() && entry.spec.transport.password.is_some() {
            self.release_key(&mut entries, Prefix::host(entry.spec.transport.remote.ip()));
        }
        Some(entry)
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<Entry> {
        self.read().all.get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.read().all.values().cloned().collect()
    }

    /// Addresses of the peers, where known.
    pub(crate) fn addresses(&self) -> BTreeMap<PeerId, SocketAddr> {
        let entries = self.read();
        let known = entries.all.iter();
        known
            .map(|(id, entry)| (*id, entry.spec.transport.remote))
            .filter(|(_, remote)| !remote.ip().is_unspecified())
            .collect()
    }

    /// Whether the peer's session is established, or was within `time`.
    pub(crate) fn was_up_within(&self, id: PeerId, now: Instant, time: Duration) -> bool {
        let entries = self.read();
        let entry = entries.all.get(&id);
        entry.is_some_and(|entry| entry.progress.was_up_within(now, time))
    }

    /// The peer of a connection, by its remote address and, for link-local addresses, its interface.
    pub(crate) fn match_incoming(&self, accepted: &Accepted) -> IncomingPeer {
        let entries = self.read();
        let id = entries.index.by_address(remote_address(&accepted.remote));
        let Some(entry) = id.and_then(|id| entries.all.get(&id)) else {
            return IncomingPeer::Unknown;
        };
        let key = match &entry.range {
            None => &entry.key,
            Some(name) => match entries.ranges.get(name) {
                Some(range) => &range.key,
                None => return IncomingPeer::Refused(Refusal::RangeRemoved { range: name.clone() }),
            },
        };
        let password = entry.spec.transport.password.as_ref();
        match check_key(key, password, accepted.key_epoch, &entry.spec.name) {
            Ok(signed) => IncomingPeer::Known {
                commands: entry.commands.clone(),
                signed,
            },
            Err(refusal) => IncomingPeer::Refused(refusal),
        }
    }

    /// Dynamic peers with this address.
    pub(crate) fn dynamic_at(&self, remote: SocketAddr) -> Vec<PeerId> {
        let entries = self.read();
        let found = entries.index.all_by_address(remote_address(&remote));
        found
            .filter(|id| entries.all.get(id).is_some_and(|entry| entry.range.is_some()))
            .collect()
    }

    /// Adds or replaces a range; returns its present peers.
    pub(crate) fn insert_range(&self, spec: RangeSpec) -> Vec<Entry> {
        let mut entries = self.write();
        let name = spec.name.clone();
        let match_key = |spec: &RangeSpec| (spec.prefix, spec.template.transport.password.clone());
        let mut key = Key::default();
        match entries.ranges.remove(&name) {
            Some(old) if match_key(&old.spec) == match_key(&spec) && old.key.error.is_none() => key = old.key,
            old => {
                if let Some(old) = old.filter(|old| old.spec.template.transport.password.is_some()) {
                    self.release_key(&mut entries, old.spec.prefix);
                }
                if let Some(password) = &spec.template.transport.password {
                    key = self.install_key(&entries, spec.prefix, password, &name);
                }
            }
        }
        entries.ranges.insert(name.clone(), Range { spec, key });
        entries.of_range(&name)
    }

    /// Removes a range; returns its present peers.
    pub(crate) fn remove_range(&self, name: &str) -> Vec<Entry> {
        let mut entries = self.write();
        let old = entries.ranges.remove(name);
        if let Some(old) = old.filter(|old| old.spec.template.transport.password.is_some()) {
            self.release_key(&mut entries, old.spec.prefix);
        }
        entries.of_range(name)
    }

    /// Adds the dynamic peer of a connection to the most specific range that contains its address.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub(crate) fn insert_dynamic(
        &self,
        connection: (SocketAddr, u64),
        commands: mpsc::Sender<ToPeer>,
    ) -> Result<AddedDynamic, Refusal> {
        let (remote, key_epoch) = connection;
        let mut entries = self.write();
        let from = remote_address(&remote);
        if entries.index.by_address(from).is_some() {
            return Err(Refusal::AlreadyAdded);
        }
        let (spec, signed) = entries.spec_of_dynamic(remote, key_epoch)?;
        let name = spec.name.clone();
        let limit = spec.limit;
        // A connection without a valid OPEN does not block the range for others.
        if entries.index.count_of_range(&name) >= limit
            && let Some(without_open) = entries.peer_without_open(&name)
        {
            drop(entries.remove(without_open)); // its task ends with its last sender
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        if entries.index.count_of_range(&name) >= limit {
            return Err(Refusal::RangeFull { range: name, limit });
        }
        let addr = remote.ip().to_canonical();
        let mut template = spec.template.called(format!("{name}-{addr}"));
        template.id = PeerId(FIRST_DYNAMIC_ID | entries.dynamic);
        template.transport.remote = match remote {
            SocketAddr::V6(_) if addr.is_ipv6() => remote,
            _ => SocketAddr::new(addr, remote.port()),
        };
        entries.dynamic = entries.dynamic.wrapping_add(1);
        let mut entry = Entry::new(template, commands, Some(name));
        entry.progress = self.progress();
        entries.insert(entry.clone());
        Ok(AddedDynamic { entry, signed })
    }

    /// RFC 2385: the listener needs the key before the first segment.
    fn peer_key(&self, entries: &Entries, entry: &Entry) -> Key {
        let remote = Prefix::host(entry.spec.transport.remote.ip());
        match entry.password() {
            Some(password) => self.install_key(entries, remote, password, &entry.spec.name),
            None => Key::default(),
        }
    }

    fn install_key(&self, entries: &Entries, from: Prefix, password: &Password, name: &str) -> Key {
        let installed = match entries.passwords(from).find(|(_, other)| *other != password) {
            Some(_) => Err(KeyError::Conflict(from)),
            None => self.keys.install(from, password),
        };
        Key::new(installed, name)
    }

    /// An owner of the key is gone: the key passes to another owner, or is removed.
    fn release_key(&self, entries: &mut Entries, from: Prefix) {
        let successor = entries.passwords(from).next();
        let Some((owner, password)) = successor.map(|(owner, password)| (owner, password.clone())) else {
            return self.keys.remove(from);
        };
        let installed = self.keys.install(from, &password);
        match owner {
            Owner::Peer(id) => {
                if let Some(entry) = entries.all.get_mut(&id) {
                    entry.key = Key::new(installed, &entry.spec.name);
                }
            }
            Owner::Range(name) => {
                if let Some(range) = entries.ranges.get_mut(&name) {
                    range.key = Key::new(installed, &name);
                }
            }
        }
    }
}

impl Entries {
    /// The range of a connection's address, and whether the connection is signed.
    fn spec_of_dynamic(&self, remote: SocketAddr, key_epoch: u64) -> Result<(RangeSpec, bool), Refusal> {
        let addr = remote.ip().to_canonical();
        let range = self
            .ranges
            .values()
            .filter(|range| range.spec.prefix.contains_addr(addr))
            .max_by_key(|range| range.spec.prefix.len())
            .ok_or(Refusal::NotConfigured)?;
        let (name, template) = (&range.spec.name, &range.spec.template);
        if let Some(why) = &template.waiting_for {
            return Err(Refusal::Waiting {
                range: name.clone(),
                reason: why.clone(),
            });
        }
        if !template.enabled {
            return Err(Refusal::Disabled { range: name.clone() });
        }
        let signed = check_key(&range.key, template.transport.password.as_ref(), key_epoch, name)?;
        Ok((range.spec.clone(), signed))
    }
}

/// Whether a connection is signed by the key; an error if it must be signed and may not be.
fn check_key(key: &Key, password: Option<&Password>, key_epoch: u64, name: &str) -> Result<bool, Refusal> {
    if password.is_none() {
        return Ok(false);
    }
    let name = name.to_owned();
    if let Some(error) = key.error.clone() {
        return Err(Refusal::NoKey { name, error });
    }
    if key_epoch < key.installed_at {
        return Err(Refusal::OlderThanKey { name });
    }
    Ok(true)
}

/// Sizes of the tables, for tests that check for leaks.
#[cfg(test)]
pub(crate) struct TableSizes {
    pub(crate) peers: usize,
    pub(crate) addresses: usize,
    pub(crate) ranges_with_peers: usize,
}

#[cfg(test)]
impl Registry {
    pub(crate) fn insert_dynamic_of_tests(
        &self,
        remote: SocketAddr,
        commands: mpsc::Sender<ToPeer>,
    ) -> Result<Entry, Refusal> {
        self.insert_dynamic((remote, 0), commands)
            .map(|added| added.entry)
    }

    /// Why the key of a peer is not set.
    pub(crate) fn key_error_of_tests(&self, id: PeerId) -> Option<KeyError> {
        self.read().all.get(&id)?.key.error.clone()
    }

    pub(crate) fn table_sizes(&self) -> TableSizes {
        let entries = self.read();
        TableSizes {
            peers: entries.all.len(),
            addresses: entries.index.by_address.len(),
            ranges_with_peers: entries.index.of_range.len(),
        }
    }
}
