//! Which peers there are, and how to reach their tasks. Read when a connection comes in and when the
//! operator asks; never on the path of a route.
//!
//! One lock guards peers, ranges and the keys on the listeners: what depends on several of them is decided at one moment.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::types::{PeerId, Prefix};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::index::{Index, from};
use super::keys::{Accepted, Keys};
use super::progress::Progress;
use crate::api::{Password, PeerSpec, RangeSpec};
use crate::peer::messages::ToPeer;
use crate::peer::rotation::KeyInUse;
use crate::sync::{AtomicU64, Ordering, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A peer.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) spec: PeerSpec,
    pub(crate) commands: mpsc::Sender<ToPeer>,
    /// The range that it came from.
    pub(crate) range: Option<String>,
    /// What its task says of the session.
    pub(crate) progress: Arc<Progress>,
    /// Which of its two passwords the listeners have.
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

    /// Of its connections to the listeners.
    fn password(&self) -> Option<&Password> {
        self.in_use.of(&self.spec.transport)
    }
}

/// The TCP MD5 key on the listeners.
#[derive(Clone, Default)]
struct Key {
    /// Connections accepted before this moment of [`Keys`] may be older than the key.
    since: u64,
    /// Why there is none although the peer has a password: none of its connections is accepted.
    missing: Option<String>,
}

/// Who connects.
pub(crate) enum Caller {
    /// This peer, which has a task. `signed`: by the peer's key.
    Known {
        commands: mpsc::Sender<ToPeer>,
        signed: bool,
    },
    /// A configured peer that is not accepted now.
    Refused(Refusal),
    /// None of those that are there.
    Unknown,
}

/// Why a connection is refused, in words.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

/// A dynamic peer that was put in.
pub(crate) struct Admitted {
    pub(crate) entry: Entry,
    pub(crate) signed: bool,
}

/// Numbers of dynamic peers begin here; those of the agent are lower.
const FIRST_DYNAMIC: u32 = 1 << 31;

/// All of them, and the sockets that wait for them.
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
        let (id, from) = (entry.spec.id, from(&entry.spec.transport.remote));
        self.remove(id);
        self.index.insert(id, from, entry.range.as_deref());
        self.all.insert(id, entry);
    }

    fn remove(&mut self, id: PeerId) -> Option<Entry> {
        let entry = self.all.remove(&id)?;
        let from = from(&entry.spec.transport.remote);
        self.index.remove(id, from, entry.range.as_deref());
        Some(entry)
    }

    fn of_range(&self, name: &str) -> Vec<Entry> {
        let ids = self.index.of_range(name);
        ids.filter_map(|id| self.all.get(id).cloned()).collect()
    }

    /// Passwords for connections from exactly this prefix, and whose they are.
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

    /// The keys on the listeners.
    fn keys(&self) -> impl Iterator<Item = (Prefix, &Password)> {
        let peers = self
            .all
            .values()
            .filter(|entry| entry.range.is_none() && entry.key.missing.is_none());
        let peers = peers
            .filter_map(|entry| Some((Prefix::host(entry.spec.transport.remote.ip()), entry.password()?)));
        let ranges = self.ranges.values().filter(|range| range.key.missing.is_none());
        let ranges = ranges.filter_map(|range| {
            Some((
                range.spec.prefix,
                range.spec.template.transport.password.as_ref()?,
            ))
        });
        peers.chain(ranges)
    }

    /// Somebody without whom the limit of a range is not reached: the one who has been connected longest without a valid OPEN.
    fn silent_of_range(&self, name: &str) -> Option<PeerId> {
        let silent = |id: &&PeerId| self.all.get(id).is_some_and(|entry| !entry.progress.has_opened());
        self.index.of_range(name).find(silent).copied()
    }
}

/// Whose a key is. Several may have the same: a range of one address and a peer there, peers with one address on two links.
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

    /// Listens on one more address, with the keys of all peers.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn open(&self, addr: SocketAddr) -> std::io::Result<Arc<TcpListener>> {
        let entries = self.write(); // no key changes meanwhile
        self.keys.open(addr, entries.keys())
    }

    /// Listens there no longer.
    pub(crate) fn close(&self, listener: &Arc<TcpListener>) {
        let _entries = self.write(); // no key changes meanwhile
        self.keys.close(listener);
    }

    /// The next connection of a listener.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> std::io::Result<Accepted> {
        self.keys.accept(listener).await
    }

    fn progress(&self) -> Arc<Progress> {
        Arc::new(Progress::counted_in(&self.changes))
    }

    /// Puts a new peer in. Its key is on the listeners before anybody can connect as this peer.
    pub(crate) fn insert(&self, mut entry: Entry) -> Entry {
        let mut entries = self.write();
        entry.key = self.peer_key(&entries, &entry);
        entry.progress = self.progress();
        entries.insert(entry.clone());
        entry
    }

    /// Grows whenever a session came up or went down, or a peer went.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Changes a peer; `None` when it is gone.
    pub(crate) fn change(&self, spec: PeerSpec) -> Option<Entry> {
        let mut entries = self.write();
        let mut entry = entries.all.get(&spec.id)?.clone();
        let lock = |entry: &Entry| (entry.spec.transport.remote.ip(), entry.password().cloned());
        let before = lock(&entry);
        let old = std::mem::replace(&mut entry.spec, spec);
        entry.in_use = entry.in_use.after(&old.transport, &entry.spec.transport);
        if entry.range.is_some() || (before == lock(&entry) && entry.key.missing.is_none()) {
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

    /// The listeners take connections of this peer that are signed by this key from now on. Those of a range have the range's.
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

    /// Addresses of configured peers, as far as they are known.
    pub(crate) fn addresses(&self) -> BTreeMap<PeerId, SocketAddr> {
        let entries = self.read();
        let known = entries.all.iter();
        known
            .map(|(id, entry)| (*id, entry.spec.transport.remote))
            .filter(|(_, remote)| !remote.ip().is_unspecified())
            .collect()
    }

    /// Whether the peer's session is established, or was until this long ago.
    pub(crate) fn was_up_within(&self, id: PeerId, now: Instant, time: Duration) -> bool {
        let entries = self.read();
        let entry = entries.all.get(&id);
        entry.is_some_and(|entry| entry.progress.was_up_within(now, time))
    }

    /// Whose connection this is: who has its address, on this link where it is link-local.
    pub(crate) fn caller(&self, accepted: &Accepted) -> Caller {
        let entries = self.read();
        let id = entries.index.by_address(from(&accepted.remote));
        let Some(entry) = id.and_then(|id| entries.all.get(&id)) else {
            return Caller::Unknown;
        };
        let key = match &entry.range {
            None => &entry.key,
            Some(name) => match entries.ranges.get(name) {
                Some(range) => &range.key,
                None => return Caller::Refused(Refusal(format!("{name} was removed a moment ago"))),
            },
        };
        match check_key(key, entry.spec.transport.password.as_ref(), accepted.moment) {
            Ok(signed) => Caller::Known {
                commands: entry.commands.clone(),
                signed,
            },
            Err(why) => Caller::Refused(Refusal(format!("{}: {why}", entry.spec.name))),
        }
    }

    /// Dynamic peers with this address.
    pub(crate) fn dynamic_at(&self, remote: SocketAddr) -> Vec<PeerId> {
        let entries = self.read();
        let found = entries.index.all_by_address(from(&remote));
        found
            .filter(|id| entries.all.get(id).is_some_and(|entry| entry.range.is_some()))
            .collect()
    }

    /// Puts a range in, in place of one of the same name; gives the peers that are there from it.
    pub(crate) fn insert_range(&self, spec: RangeSpec) -> Vec<Entry> {
        let mut entries = self.write();
        let name = spec.name.clone();
        let lock = |spec: &RangeSpec| (spec.prefix, spec.template.transport.password.clone());
        let mut key = Key::default();
        match entries.ranges.remove(&name) {
            Some(old) if lock(&old.spec) == lock(&spec) && old.key.missing.is_none() => key = old.key,
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

    /// Takes a range out; gives the peers that are there from it.
    pub(crate) fn remove_range(&self, name: &str) -> Vec<Entry> {
        let mut entries = self.write();
        let old = entries.ranges.remove(name);
        if let Some(old) = old.filter(|old| old.spec.template.transport.password.is_some()) {
            self.release_key(&mut entries, old.spec.prefix);
        }
        entries.of_range(name)
    }

    /// Puts in the dynamic peer of a connection: of the longest range around its address, if that has room.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn insert_dynamic(
        &self,
        caller: (SocketAddr, u64),
        commands: mpsc::Sender<ToPeer>,
    ) -> Result<Admitted, Refusal> {
        let (remote, moment) = caller;
        let mut entries = self.write();
        let from = from(&remote);
        if entries.index.by_address(from).is_some() {
            return Err(Refusal(
                "a peer with this address was added a moment ago".to_owned(),
            ));
        }
        let (spec, signed) = entries.spec_of_dynamic(remote, moment)?;
        let name = spec.name.clone();
        let limit = spec.limit;
        // Whoever connects and says nothing keeps nobody out.
        if entries.index.count_of_range(&name) >= limit
            && let Some(silent) = entries.silent_of_range(&name)
        {
            drop(entries.remove(silent)); // its task ends with its last sender
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        if entries.index.count_of_range(&name) >= limit {
            return Err(Refusal(format!(
                "{name} has its {limit} peers already (listenLimit)"
            )));
        }
        let mut template = spec.template;
        let addr = remote.ip().to_canonical();
        template.id = PeerId(FIRST_DYNAMIC | entries.dynamic);
        template.name = format!("{name}-{addr}");
        template.transport.remote = match remote {
            SocketAddr::V6(_) if addr.is_ipv6() => remote,
            _ => SocketAddr::new(addr, remote.port()),
        };
        entries.dynamic = entries.dynamic.wrapping_add(1);
        let mut entry = Entry::new(template, commands, Some(name));
        entry.progress = self.progress();
        entries.insert(entry.clone());
        Ok(Admitted { entry, signed })
    }

    /// RFC 2385: the listener must know the key before the first segment.
    fn peer_key(&self, entries: &Entries, entry: &Entry) -> Key {
        let remote = Prefix::host(entry.spec.transport.remote.ip());
        match entry.password() {
            Some(password) => self.install_key(entries, remote, password, &entry.spec.name),
            None => Key::default(),
        }
    }

    fn install_key(&self, entries: &Entries, from: Prefix, password: &Password, name: &str) -> Key {
        let installed = match entries.passwords(from).find(|(_, other)| *other != password) {
            Some(_) => Err(format!(
                "another peer with the address {from} has another password"
            )),
            None => self.keys.install(from, password),
        };
        match installed {
            Ok(since) => Key { since, missing: None },
            Err(why) => {
                tracing::error!(peer = %name, "connections of this peer are refused: {why}");
                Key {
                    since: 0,
                    missing: Some(why),
                }
            }
        }
    }

    /// Somebody with this key is gone: it is another's from now on, or goes.
    fn release_key(&self, entries: &mut Entries, from: Prefix) {
        let heir = entries.passwords(from).next();
        let Some((owner, password)) = heir.map(|(owner, password)| (owner, password.clone())) else {
            return self.keys.remove(from);
        };
        let key = match self.keys.install(from, &password) {
            Ok(since) => Key { since, missing: None },
            Err(why) => Key {
                since: 0,
                missing: Some(why),
            },
        };
        match owner {
            Owner::Peer(id) => {
                if let Some(entry) = entries.all.get_mut(&id) {
                    entry.key = key;
                }
            }
            Owner::Range(name) => {
                if let Some(range) = entries.ranges.get_mut(&name) {
                    range.key = key;
                }
            }
        }
    }
}

impl Entries {
    /// The range that a connection belongs to, and whether it is signed.
    fn spec_of_dynamic(&self, remote: SocketAddr, moment: u64) -> Result<(RangeSpec, bool), Refusal> {
        let addr = remote.ip().to_canonical();
        let range = self
            .ranges
            .values()
            .filter(|range| range.spec.prefix.contains_addr(addr))
            .max_by_key(|range| range.spec.prefix.len())
            .ok_or_else(|| Refusal("no peer with this address is configured".to_owned()))?;
        let (name, template) = (&range.spec.name, &range.spec.template);
        if let Some(why) = &template.waiting_for {
            return Err(Refusal(format!("{name}: {why}")));
        }
        if !template.enabled {
            return Err(Refusal(format!("{name} is disabled in the configuration")));
        }
        let signed = check_key(&range.key, template.transport.password.as_ref(), moment)
            .map_err(|why| Refusal(format!("{name}: {why}")))?;
        Ok((range.spec.clone(), signed))
    }
}

/// Whether a connection is signed by the peer's key; why it is refused when it should be and is not.
fn check_key(key: &Key, password: Option<&Password>, moment: u64) -> Result<bool, String> {
    if password.is_none() {
        return Ok(false);
    }
    if let Some(why) = &key.missing {
        return Err(why.clone());
    }
    if moment < key.since {
        return Err("the connection may be older than the peer's TCP MD5 key".to_owned());
    }
    Ok(true)
}

/// What entries there are, for tests that look for leaks.
#[cfg(test)]
pub(crate) struct Census {
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
            .map(|admitted| admitted.entry)
    }

    /// Why connections of a peer are refused for want of its key.
    pub(crate) fn refusal_of_tests(&self, id: PeerId) -> Option<String> {
        self.read().all.get(&id)?.key.missing.clone()
    }

    pub(crate) fn census(&self) -> Census {
        let entries = self.read();
        Census {
            peers: entries.all.len(),
            addresses: entries.index.by_address.len(),
            ranges_with_peers: entries.index.of_range.len(),
        }
    }
}
