//! Which peers there are, and how to reach their tasks. Read when a connection comes in and when the
//! operator asks; never on the path of a route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bgp_proto::types::{Family, PeerId, Prefix};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::api::{Password, PeerSpec, RangeSpec};
use crate::peer::messages::ToPeer;
use crate::socket;

/// A peer.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) spec: PeerSpec,
    pub(crate) commands: mpsc::Sender<ToPeer>,
    /// The range that it came from.
    range: Option<String>,
    /// Whether its session is established.
    pub(crate) is_up: Arc<UpFlag>,
    /// Why no connection of the peer is accepted: its key is not on the listeners.
    no_key: Option<String>,
}

impl Entry {
    pub(crate) fn new(spec: PeerSpec, commands: mpsc::Sender<ToPeer>, range: Option<String>) -> Self {
        Self {
            spec,
            commands,
            range,
            is_up: Arc::default(),
            no_key: None,
        }
    }
}

/// Whether a session is established, set by the peer's task for others to see.
#[derive(Default)]
pub(crate) struct UpFlag {
    is_up: AtomicBool,
    /// Of all peers: counts what changes.
    changes: Arc<AtomicU64>,
}

impl UpFlag {
    pub(crate) fn set(&self, is_up: bool) {
        self.is_up.store(is_up, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.is_up.load(Ordering::Relaxed)
    }
}

/// Who connects.
pub(crate) enum Caller {
    /// This peer, which has a task.
    Known(mpsc::Sender<ToPeer>),
    /// A configured peer that is not accepted now.
    Refused(Refusal),
    /// None of those that are there.
    Unknown,
}

/// Why a connection is refused, in words.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

/// Numbers of dynamic peers begin here; those of the agent are lower.
const FIRST_DYNAMIC: u32 = 1 << 31;

/// All of them, and the sockets that wait for them.
pub(crate) struct Registry {
    peers: RwLock<Entries>,
    ranges: RwLock<BTreeMap<String, Range>>,
    next_dynamic: AtomicU32,
    changes: Arc<AtomicU64>,
    listeners: Vec<Arc<TcpListener>>,
}

/// A range, and why none of its peers is accepted.
struct Range {
    spec: RangeSpec,
    no_key: Option<String>,
}

/// Where a peer's connections come from: its address, on this link where it is link-local.
type From = (IpAddr, Option<u32>);

fn from(remote: &SocketAddr) -> From {
    (remote.ip().to_canonical(), socket::scope(remote))
}

/// Numbers of peers by address and by range: of a thousand connections at once each looks up its own peer alone.
#[derive(Default)]
struct Index {
    by_address: BTreeSet<(From, PeerId)>,
    of_range: BTreeMap<String, BTreeSet<PeerId>>,
}

impl Index {
    fn insert(&mut self, id: PeerId, from: From, range: Option<&str>) {
        self.by_address.insert((from, id));
        if let Some(range) = range {
            self.of_range.entry(range.to_owned()).or_default().insert(id);
        }
    }

    fn remove(&mut self, id: PeerId, from: From, range: Option<&str>) {
        self.by_address.remove(&(from, id));
        if let Some(range) = range
            && let Some(ids) = self.of_range.get_mut(range)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.of_range.remove(range);
            }
        }
    }

    /// The first of those with this address: a configured one before a dynamic one.
    fn by_address(&self, from: From) -> Option<PeerId> {
        self.all_by_address(from).next()
    }

    fn all_by_address(&self, from: From) -> impl Iterator<Item = PeerId> {
        let all = self
            .by_address
            .range((from, PeerId(0))..=(from, PeerId(u32::MAX)));
        all.map(|(_, id)| *id)
    }

    fn of_range(&self, name: &str) -> impl Iterator<Item = &PeerId> {
        self.of_range.get(name).into_iter().flatten()
    }

    fn count_of_range(&self, name: &str) -> usize {
        self.of_range.get(name).map_or(0, BTreeSet::len)
    }
}

#[derive(Default)]
struct Entries {
    all: BTreeMap<PeerId, Entry>,
    index: Index,
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
}

impl Registry {
    pub(crate) fn new(listeners: Vec<Arc<TcpListener>>) -> Self {
        Self {
            peers: RwLock::default(),
            ranges: RwLock::default(),
            next_dynamic: AtomicU32::new(FIRST_DYNAMIC),
            changes: Arc::default(),
            listeners,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Entries> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Entries> {
        self.peers.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn listeners(&self) -> &[Arc<TcpListener>] {
        &self.listeners
    }

    /// Puts a new peer in. Its key is on the listeners before anybody can connect as this peer.
    pub(crate) fn insert(&self, mut entry: Entry) -> Entry {
        if entry.range.is_none() {
            entry.no_key = self.install_key(&entry.spec);
        }
        entry.is_up = Arc::new(UpFlag {
            changes: Arc::clone(&self.changes),
            ..UpFlag::default()
        });
        self.write().insert(entry.clone());
        entry
    }

    /// Grows whenever a session came up or went down, or a peer went.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Changes a peer; `None` when it is gone.
    pub(crate) fn change(&self, spec: PeerSpec) -> Option<Entry> {
        let mut entry = self.get(spec.id)?;
        let old = std::mem::replace(&mut entry.spec, spec);
        if entry.range.is_none() {
            let (before, now) = (&old.transport, &entry.spec.transport);
            if before.remote.ip() != now.remote.ip() && before.password.is_some() {
                self.remove_key(Prefix::host(before.remote.ip()));
            }
            if (before.remote.ip(), &before.password) != (now.remote.ip(), &now.password)
                || entry.no_key.is_some()
            {
                entry.no_key = self.install_key(&entry.spec);
            }
        }
        let mut peers = self.write();
        if !peers.all.contains_key(&entry.spec.id) {
            return None;
        }
        peers.insert(entry.clone());
        Some(entry)
    }

    pub(crate) fn remove(&self, id: PeerId) -> Option<Entry> {
        let entry = self.write().remove(id)?;
        self.changes.fetch_add(1, Ordering::Relaxed);
        if entry.range.is_none() && entry.spec.transport.password.is_some() {
            self.remove_key(Prefix::host(entry.spec.transport.remote.ip()));
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
        let peers = self.read();
        let known = peers.all.iter();
        known
            .map(|(id, entry)| (*id, entry.spec.transport.remote))
            .filter(|(_, remote)| !remote.ip().is_unspecified())
            .collect()
    }

    /// Whether the peer's session is established.
    pub(crate) fn is_up(&self, id: PeerId) -> bool {
        let peers = self.read();
        peers.all.get(&id).is_some_and(|entry| entry.is_up.get())
    }

    /// Who has this address, on this link where it is link-local.
    pub(crate) fn caller(&self, remote: SocketAddr) -> Caller {
        let peers = self.read();
        let id = peers.index.by_address(from(&remote));
        match id.and_then(|id| peers.all.get(&id)) {
            None => Caller::Unknown,
            Some(Entry {
                spec,
                no_key: Some(why),
                ..
            }) => Caller::Refused(Refusal(format!("{}: {why}", spec.name))),
            Some(entry) => Caller::Known(entry.commands.clone()),
        }
    }

    /// Dynamic peers with this address.
    pub(crate) fn dynamic_at(&self, remote: SocketAddr) -> Vec<PeerId> {
        let peers = self.read();
        let found = peers.index.all_by_address(from(&remote));
        found
            .filter(|id| peers.all.get(id).is_some_and(|entry| entry.range.is_some()))
            .collect()
    }

    /// Puts a range in, in place of one of the same name; gives the peers that are there from it.
    pub(crate) fn insert_range(&self, spec: RangeSpec) -> Vec<Entry> {
        let (name, prefix) = (spec.name.clone(), spec.prefix);
        let password = spec.template.transport.password.clone();
        let no_key = password.and_then(|password| self.set_key(prefix, &password));
        let range = Range { spec, no_key };
        let old = self
            .ranges
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), range);
        if let Some(old) = old.filter(|old| old.spec.prefix != prefix) {
            self.remove_key(old.spec.prefix);
        }
        self.of_range(&name)
    }

    /// Takes a range out; gives the peers that are there from it.
    pub(crate) fn remove_range(&self, name: &str) -> Vec<Entry> {
        let old = self
            .ranges
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
        if let Some(old) = old {
            self.remove_key(old.spec.prefix);
        }
        self.of_range(name)
    }

    fn of_range(&self, name: &str) -> Vec<Entry> {
        let peers = self.read();
        let ids = peers.index.of_range(name);
        ids.filter_map(|id| peers.all.get(id).cloned()).collect()
    }

    /// What a peer from this address would be, and of which range: the longest one around it, if it has room.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn dynamic(&self, from: SocketAddr) -> Result<(PeerSpec, String), Refusal> {
        let addr = from.ip().to_canonical();
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let range = ranges
            .values()
            .filter(|range| range.spec.prefix.contains_addr(addr))
            .max_by_key(|range| range.spec.prefix.len())
            .ok_or_else(|| Refusal("no peer with this address is configured".to_owned()))?;
        let name = &range.spec.name;
        if let Some(why) = &range.no_key {
            return Err(Refusal(format!("{name}: {why}")));
        }
        if let Some(why) = range.spec.template.waiting_for.as_ref() {
            return Err(Refusal(format!("{name}: {why}")));
        }
        if self.read().index.count_of_range(name) >= range.spec.limit {
            return Err(Refusal(format!(
                "{name} has its {} peers already (listenLimit)",
                range.spec.limit
            )));
        }
        let mut spec = range.spec.template.clone();
        spec.id = PeerId(self.next_dynamic.fetch_add(1, Ordering::Relaxed) | FIRST_DYNAMIC);
        spec.name = format!("{name}-{addr}");
        spec.transport.remote = SocketAddr::new(addr, from.port());
        Ok((spec, name.clone()))
    }

    /// RFC 2385: the listener must know the key before the first segment. Why it does not, if so.
    fn install_key(&self, spec: &PeerSpec) -> Option<String> {
        let remote = Prefix::host(spec.transport.remote.ip());
        let password = spec.transport.password.as_ref()?;
        let why = self.set_key(remote, password);
        if let Some(why) = &why {
            tracing::error!(peer = %spec.name, "connections of this peer are refused: {why}");
        }
        why
    }

    fn set_key(&self, from: Prefix, password: &Password) -> Option<String> {
        let results = self
            .listeners_for(from)
            .map(|listener| socket::set_md5(listener.as_fd(), from, Some(password)));
        let error = results.filter_map(Result::err).next()?;
        let remedy = if error.raw_os_error() == Some(libc::ENOMEM) {
            "; raise net.core.optmem_max, of which each key takes some 100 octets"
        } else {
            ""
        };
        Some(format!("no TCP MD5 key on the listener: {error}{remedy}"))
    }

    /// Taking away a key that was never set is no fault.
    fn remove_key(&self, from: Prefix) {
        for listener in self.listeners_for(from) {
            let _ = socket::set_md5(listener.as_fd(), from, None);
        }
    }

    fn listeners_for(&self, from: Prefix) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.listeners.iter().filter(move |listener| {
            listener
                .local_addr()
                .is_ok_and(|local| local.is_ipv4() == (from.family() == Family::Ipv4))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_address_and_by_range_until_removed() {
        let from = |last: u8, scope| (IpAddr::from([192, 0, 2, last]), scope);
        let mut index = Index::default();
        index.insert(PeerId(2), from(1, None), None);
        index.insert(PeerId(1), from(1, None), Some("racks"));
        index.insert(PeerId(3), from(1, Some(7)), Some("racks"));
        index.insert(PeerId(4), from(2, None), Some("others"));
        assert_eq!(
            index.by_address(from(1, None)),
            Some(PeerId(1)),
            "the lower number"
        );
        assert_eq!(index.by_address(from(1, Some(7))), Some(PeerId(3)));
        assert_eq!(index.by_address(from(1, Some(8))), None);
        assert_eq!(index.count_of_range("racks"), 2);
        index.remove(PeerId(1), from(1, None), Some("racks"));
        assert_eq!(index.by_address(from(1, None)), Some(PeerId(2)));
        assert!(index.of_range("racks").eq(&[PeerId(3)]));
        index.remove(PeerId(4), from(2, None), Some("others"));
        assert_eq!(
            (index.count_of_range("others"), index.by_address(from(2, None))),
            (0, None)
        );
    }
}
