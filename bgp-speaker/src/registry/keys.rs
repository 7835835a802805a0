//! TCP MD5 keys on the listeners (RFC 2385), and which connections were accepted under them.
//!
//! The kernel copies the key from the listener when a connection is established, and only from then on drops
//! unsigned segments. A connection that was established earlier and waits in the accept queue with received
//! data would pass as signed. Therefore each new key drains the accept queue. The keys are counted; each
//! accepted connection records the count at its acceptance, and a connection from before the peer's key is
//! refused.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bgp_proto::types::{Family, Prefix};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::api::Password;
use crate::socket;
use crate::sync::{AtomicU64, Mutex, Ordering, PoisonError, RwLock};

/// Most drained connections that wait for an acceptor; more are closed.
const MAX_DRAINED: usize = 1024;

/// Why there is no key for a peer's connections.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error(
        "another peer or range with the address {0} has a different password; configure the same one for both"
    )]
    Conflict(Prefix),
    #[error(
        "no memory for another TCP MD5 key on the listener; raise net.core.optmem_max, each key takes about 100 octets"
    )]
    NoMemory,
    #[error("cannot set the TCP MD5 key on the listener: {0}")]
    System(Arc<io::Error>),
}

impl From<io::Error> for KeyError {
    fn from(error: io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ENOMEM) => Self::NoMemory,
            _ => Self::System(Arc::new(error)),
        }
    }
}

/// An accepted connection.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) remote: SocketAddr,
    /// Number of keys set before the connection was accepted.
    pub(crate) key_epoch: u64,
}

/// The listeners and their keys. Keys are set and removed under the registry's lock, by one thread at a time.
pub(crate) struct Keys {
    listeners: RwLock<Vec<Arc<TcpListener>>>,
    /// Number of keys set so far.
    epoch: AtomicU64,
    drained: Mutex<Drained>,
}

#[derive(Default)]
struct Drained {
    accepted: VecDeque<Accepted>,
    acceptors: Vec<Waker>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            listeners: RwLock::default(),
            epoch: AtomicU64::new(0),
            drained: Mutex::default(),
        }
    }

    pub(crate) fn listeners(&self) -> Vec<Arc<TcpListener>> {
        self.listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Listens on a further address. All keys are on the socket before it can accept connections.
    pub(crate) fn open<'a>(
        &self,
        addr: SocketAddr,
        keys: impl Iterator<Item = (Prefix, &'a Password)>,
    ) -> io::Result<Arc<TcpListener>> {
        let others = self.listeners();
        others
            .iter()
            .try_for_each(|other| socket::set_shared(other, true))?;
        let listener = socket::bind(addr, !others.is_empty())
            .and_then(|socket| set_keys(socket, keys.filter(|(from, _)| is_of_family(addr, *from))))
            .and_then(socket::listen);
        let exclusive = |listener: &TcpListener| socket::set_shared(listener, false);
        others.iter().try_for_each(|other| exclusive(other))?;
        let listener = Arc::new(listener?);
        exclusive(&listener)?;
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Arc::clone(&listener));
        Ok(listener)
    }

    /// Removes a listener; it is closed with its last reference. The connections in its accept queue go to
    /// the other listeners.
    pub(crate) fn close(&self, listener: &Arc<TcpListener>) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|other| !Arc::ptr_eq(other, listener));
        if !listeners.is_empty() {
            self.drain_queue(listener);
        }
    }

    /// The next connection of a listener, or a drained connection of any listener.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> io::Result<Accepted> {
        std::future::poll_fn(|context| {
            if let Some(drained) = self.drained(context) {
                return Poll::Ready(Ok(drained));
            }
            // The count is read first: if a key is set between these two lines, the connection counts as
            // older than the key.
            let key_epoch = self.epoch.load(Ordering::SeqCst);
            let accepted = std::task::ready!(listener.poll_accept(context));
            Poll::Ready(accepted.map(|(stream, remote)| Accepted {
                stream,
                remote,
                key_epoch,
            }))
        })
        .await
    }

    fn drained(&self, context: &Context<'_>) -> Option<Accepted> {
        let mut drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = drained.accepted.pop_front();
        let known = |waker: &Waker| waker.will_wake(context.waker());
        if accepted.is_none() && !drained.acceptors.iter().any(known) {
            drained.acceptors.push(context.waker().clone());
        }
        accepted
    }

    /// Sets a key on the listeners. Connections from `from` that are accepted at the returned key epoch or
    /// later are signed.
    pub(crate) fn install(&self, from: Prefix, password: &Password) -> Result<u64, KeyError> {
        let listeners = self.listeners_for(from);
        let results = listeners
            .iter()
            .map(|listener| socket::set_md5(listener.as_fd(), from, Some(password)));
        if let Some(error) = results.filter_map(Result::err).next() {
            return Err(error.into());
        }
        for listener in &listeners {
            self.drain_queue(listener);
        }
        Ok(self.epoch.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Removes a key; it need not be set.
    pub(crate) fn remove(&self, from: Prefix) {
        for listener in self.listeners_for(from) {
            let _ = socket::set_md5(listener.as_fd(), from, None);
        }
    }

    /// Connections in the accept queue were established before the key that was just set.
    fn drain_queue(&self, listener: &TcpListener) {
        let key_epoch = self.epoch.load(Ordering::SeqCst);
        let mut drained = self.drained.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok((socket, remote)) = SockRef::from(listener).accept() {
            if let Some(accepted) = accepted(socket, &remote, key_epoch)
                && drained.accepted.len() < MAX_DRAINED
            {
                drained.accepted.push_back(accepted);
            }
        }
        let acceptors = std::mem::take(&mut drained.acceptors);
        drop(drained);
        acceptors.into_iter().for_each(Waker::wake);
    }

    fn listeners_for(&self, from: Prefix) -> Vec<Arc<TcpListener>> {
        let mut listeners = self.listeners();
        listeners.retain(|listener| listener.local_addr().is_ok_and(|local| is_of_family(local, from)));
        listeners
    }
}

fn is_of_family(local: SocketAddr, from: Prefix) -> bool {
    local.is_ipv4() == (from.family() == Family::Ipv4)
}

fn set_keys<'a>(
    socket: socket2::Socket,
    keys: impl Iterator<Item = (Prefix, &'a Password)>,
) -> io::Result<socket2::Socket> {
    for (from, password) in keys {
        socket::set_md5(socket.as_fd(), from, Some(password)).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("cannot set the TCP MD5 key for {from}: {error}"),
            )
        })?;
    }
    Ok(socket)
}

/// `None` if the connection was closed meanwhile.
fn accepted(socket: socket2::Socket, remote: &socket2::SockAddr, key_epoch: u64) -> Option<Accepted> {
    socket.set_nonblocking(true).ok()?;
    Some(Accepted {
        stream: TcpStream::from_std(socket.into()).ok()?,
        remote: remote.as_socket()?,
        key_epoch,
    })
}
