//! Which peers there are, and how to reach their tasks. Read when a connection comes in and when the
//! operator asks; never on the path of a route.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

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
    peers: RwLock<BTreeMap<PeerId, Entry>>,
    ranges: RwLock<BTreeMap<String, RangeSpec>>,
    next_passing: AtomicU32,
    listeners: Vec<Arc<TcpListener>>,
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

    pub(crate) fn listeners(&self) -> &[Arc<TcpListener>] {
        &self.listeners
    }

    /// Puts a peer in, in place of one of the same number.
    pub(crate) fn insert(&self, entry: Entry) {
        if entry.range.is_none() {
            let transport = &entry.spec.transport;
            self.expect(Prefix::host(transport.remote.ip()), transport, &entry.spec.name);
        }
        self.peers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(entry.spec.id, entry);
    }

    pub(crate) fn remove(&self, id: PeerId) -> Option<Entry> {
        let entry = self
            .peers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id)?;
        if entry.range.is_none() {
            let from = Prefix::host(entry.spec.transport.remote.ip());
            self.set_md5(from, None, &entry.spec.name);
        }
        Some(entry)
    }

    pub(crate) fn get(&self, id: PeerId) -> Option<Entry> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    pub(crate) fn all(&self) -> Vec<Entry> {
        self.peers
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The task of the peer with this address, on this link where it is link-local.
    pub(crate) fn by_address(&self, from: SocketAddr) -> Option<mpsc::Sender<ToPeer>> {
        let same = |entry: &&Entry| {
            let remote = entry.spec.transport.remote;
            remote.ip() == from.ip().to_canonical() && socket::scope(&remote) == socket::scope(&from)
        };
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers.values().find(same).map(|entry| entry.commands.clone())
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
        let all = self.all().into_iter();
        all.filter(|entry| entry.range.as_deref() == Some(name)).collect()
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
        if self.of_range(&range.name).len() >= range.limit {
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
