//! Which peers there are, and how to reach their tasks. Read when a connection comes in and when the
//! operator asks; never on the path of a route.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError, RwLock};

use bgp_proto::types::PeerId;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::api::PeerSpec;
use crate::messages::ToPeer;
use crate::socket;

/// A configured peer.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) spec: PeerSpec,
    pub(crate) commands: mpsc::Sender<ToPeer>,
}

/// All of them, and the sockets that wait for them.
pub(crate) struct Registry {
    peers: RwLock<BTreeMap<PeerId, Entry>>,
    listeners: Vec<Arc<TcpListener>>,
}

impl Registry {
    pub(crate) fn new(listeners: Vec<Arc<TcpListener>>) -> Self {
        Self {
            peers: RwLock::default(),
            listeners,
        }
    }

    pub(crate) fn listeners(&self) -> &[Arc<TcpListener>] {
        &self.listeners
    }

    /// Puts a peer in, in place of one of the same number.
    pub(crate) fn insert(&self, entry: Entry) {
        self.expect_signatures(&entry.spec);
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
        self.set_md5(entry.spec.transport.remote.ip(), None, &entry.spec.name);
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

    /// The task of the peer with this address.
    pub(crate) fn by_address(&self, addr: IpAddr) -> Option<mpsc::Sender<ToPeer>> {
        let peers = self.peers.read().unwrap_or_else(PoisonError::into_inner);
        peers
            .values()
            .find(|entry| entry.spec.transport.remote.ip() == addr)
            .map(|entry| entry.commands.clone())
    }

    /// RFC 2385: the listener must know the secret before the peer's first segment.
    fn expect_signatures(&self, spec: &PeerSpec) {
        match socket::secret(&spec.transport) {
            Ok(None) => {}
            Ok(Some(secret)) => self.set_md5(spec.transport.remote.ip(), Some(&secret), &spec.name),
            Err(error) => tracing::error!(peer = %spec.name, %error, "no incoming connections of this peer"),
        }
    }

    fn set_md5(&self, peer: IpAddr, secret: Option<&[u8]>, name: &str) {
        for listener in &self.listeners {
            let same = listener
                .local_addr()
                .is_ok_and(|local| local.is_ipv4() == peer.is_ipv4());
            let result = if same {
                socket::set_md5(listener.as_fd(), peer, secret)
            } else {
                Ok(())
            };
            // Taking away a key that was never set is no fault.
            if let (Err(error), Some(_)) = (result, secret) {
                tracing::error!(peer = %name, %error, "cannot set the TCP MD5 key of the listener");
            }
        }
    }
}
