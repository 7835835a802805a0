//! Which peers there are, and how to reach their tasks. Read when a connection comes in and when the
//! operator asks; never on the path of a route.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bgp_proto::types::{Family, PeerId, Prefix};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::api::{PeerSpec, RangeSpec, Transport};
use crate::messages::ToPeer;
use crate::socket;

/// A configured peer.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) spec: PeerSpec,
    pub(crate) commands: mpsc::Sender<ToPeer>,
    /// The range that it came from.
    pub(crate) range: Option<String>,
}

/// Numbers of peers that come from ranges begin here; those of the agent are lower.
const FIRST_PASSING: u32 = 1 << 31;

/// All of them, and the sockets that wait for them.
pub(crate) struct Registry {
    peers: RwLock<Entries>,
    ranges: RwLock<BTreeMap<String, RangeSpec>>,
    next_passing: AtomicU32,
    listeners: Vec<Arc<TcpListener>>,
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

    /// The first of those with this address.
    fn by_address(&self, from: From) -> Option<PeerId> {
        let first = self.by_address.range((from, PeerId(0))..).next();
        first.filter(|(found, _)| *found == from).map(|(_, id)| *id)
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
            next_passing: AtomicU32::new(FIRST_PASSING),
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

    /// Puts a peer in, in place of one of the same number.
    pub(crate) fn insert(&self, entry: Entry) {
        if entry.range.is_none() {
            let transport = &entry.spec.transport;
            self.expect(Prefix::host(transport.remote.ip()), transport, &entry.spec.name);
        }
        self.write().insert(entry);
    }

    pub(crate) fn remove(&self, id: PeerId) -> Option<Entry> {
        let entry = self.write().remove(id)?;
        if entry.range.is_none() {
            let from = Prefix::host(entry.spec.transport.remote.ip());
            self.set_md5(from, None, &entry.spec.name);
        }
        Some(entry)
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<Entry> {
        self.read().all.get(&id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.read().all.values().cloned().collect()
    }

    /// The task of the peer with this address, on this link where it is link-local.
    pub(crate) fn by_address(&self, remote: SocketAddr) -> Option<mpsc::Sender<ToPeer>> {
        let peers = self.read();
        let id = peers.index.by_address(from(&remote))?;
        peers.all.get(&id).map(|entry| entry.commands.clone())
    }

    /// Puts a range in, in place of one of the same name; gives the peers that are there from it.
    pub(crate) fn insert_range(&self, range: RangeSpec) -> Vec<Entry> {
        let name = range.name.clone();
        let old = self
            .ranges
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name.clone(), range.clone());
        if let Some(old) = old.filter(|old| old.prefix != range.prefix) {
            self.set_md5(old.prefix, None, &name);
        }
        self.expect(range.prefix, &range.template.transport, &name);
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
            self.set_md5(old.prefix, None, name);
        }
        self.of_range(name)
    }

    fn of_range(&self, name: &str) -> Vec<Entry> {
        let peers = self.read();
        let ids = peers.index.of_range(name);
        ids.filter_map(|id| peers.all.get(id).cloned()).collect()
    }

    /// What a peer from this address would be: by the longest range around it that has room.
    ///
    /// # Errors
    /// In words, why there is none.
    pub(crate) fn passing(&self, from: SocketAddr) -> Result<(PeerSpec, String), String> {
        let addr = from.ip().to_canonical();
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let range = ranges
            .values()
            .filter(|range| range.prefix.contains_addr(addr))
            .max_by_key(|range| range.prefix.len())
            .ok_or("no peer with this address is configured")?;
        if self.read().index.count_of_range(&range.name) >= range.limit {
            return Err(format!(
                "{} has its {} peers already (listenLimit)",
                range.name, range.limit
            ));
        }
        let mut spec = range.template.clone();
        spec.id = PeerId(self.next_passing.fetch_add(1, Ordering::Relaxed) | FIRST_PASSING);
        spec.name = format!("{}-{addr}", range.name);
        spec.transport.remote = SocketAddr::new(addr, from.port());
        Ok((spec, range.name.clone()))
    }

    /// RFC 2385: the listener must know the secret before the first segment.
    fn expect(&self, from: Prefix, transport: &Transport, name: &str) {
        match socket::secret(transport) {
            Ok(secret) => self.set_md5(from, secret.as_deref(), name),
            Err(error) => tracing::error!(peer = %name, %error, "no incoming connections of this peer"),
        }
    }

    /// Taking away a key that was never set is no fault.
    fn set_md5(&self, from: Prefix, secret: Option<&[u8]>, name: &str) {
        for listener in &self.listeners {
            let same = listener
                .local_addr()
                .is_ok_and(|local| local.is_ipv4() == (from.family() == Family::Ipv4));
            let result = if same {
                socket::set_md5(listener.as_fd(), from, secret)
            } else {
                Ok(())
            };
            if let (Err(error), Some(_)) = (result, secret) {
                tracing::error!(peer = %name, %error, "cannot set the TCP MD5 key of the listener");
            }
        }
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
