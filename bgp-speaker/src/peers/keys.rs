//! TCP MD5 keys on the listeners (RFC 2385), and which accepted connections were made under them.
//!
//! The kernel takes the key of a connection from the listener when the connection is made, and no later than that does it drop
//! unsigned segments. A connection that was made before, and waits in the listener's queue with what it has sent, would
//! pass as signed. So the queue is emptied whenever a key is set; each accepted connection has the moment of its acceptance,
//! counted in keys, and one from before a peer's key is refused.

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

/// Connections taken out of the queues that wait for their acceptor; more are closed.
const EARLY: usize = 1024;

/// A connection that somebody opened.
pub(crate) struct Accepted {
    pub(crate) stream: TcpStream,
    pub(crate) remote: SocketAddr,
    /// How many keys had been set before.
    pub(crate) moment: u64,
}

/// The listeners and their keys. Set and removed by one thread at a time, under the registry's lock.
pub(crate) struct Keys {
    listeners: RwLock<Vec<Arc<TcpListener>>>,
    /// How many keys were set.
    count: AtomicU64,
    early: Mutex<Early>,
}

#[derive(Default)]
struct Early {
    accepted: VecDeque<Accepted>,
    acceptors: Vec<Waker>,
}

impl Keys {
    pub(crate) fn new() -> Self {
        Self {
            listeners: RwLock::default(),
            count: AtomicU64::new(0),
            early: Mutex::default(),
        }
    }

    pub(crate) fn listeners(&self) -> Vec<Arc<TcpListener>> {
        self.listeners
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Listens on one more address. Its socket has all keys before anybody can connect to it.
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
            .and_then(|socket| with_keys(socket, keys.filter(|(from, _)| is_of_family(addr, *from))))
            .and_then(socket::listen);
        let alone = |listener: &TcpListener| socket::set_shared(listener, false);
        others.iter().try_for_each(|other| alone(other))?;
        let listener = Arc::new(listener?);
        alone(&listener)?;
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Arc::clone(&listener));
        Ok(listener)
    }

    /// Forgets a listener, which is closed with its last holder. Connections in its queue are accepted by the others.
    pub(crate) fn close(&self, listener: &Arc<TcpListener>) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|other| !Arc::ptr_eq(other, listener));
        if !listeners.is_empty() {
            self.empty_queue(listener);
        }
    }

    /// The next connection of a listener, or one that was taken out of the queue of any before.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> io::Result<Accepted> {
        std::future::poll_fn(|context| {
            if let Some(early) = self.early(context) {
                return Poll::Ready(Ok(early));
            }
            // First the moment: if a key is set between these two lines the connection counts as older than the key.
            let moment = self.count.load(Ordering::SeqCst);
            let accepted = std::task::ready!(listener.poll_accept(context));
            Poll::Ready(accepted.map(|(stream, remote)| Accepted {
                stream,
                remote,
                moment,
            }))
        })
        .await
    }

    fn early(&self, context: &Context<'_>) -> Option<Accepted> {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        let accepted = early.accepted.pop_front();
        let known = |waker: &Waker| waker.will_wake(context.waker());
        if accepted.is_none() && !early.acceptors.iter().any(known) {
            early.acceptors.push(context.waker().clone());
        }
        accepted
    }

    /// Sets a key on the listeners. Answers the moment from which on connections from there are signed by it, or why there is no key.
    pub(crate) fn install(&self, from: Prefix, password: &Password) -> Result<u64, String> {
        let listeners = self.listeners_for(from);
        let results = listeners
            .iter()
            .map(|listener| socket::set_md5(listener.as_fd(), from, Some(password)));
        if let Some(error) = results.filter_map(Result::err).next() {
            let remedy = if error.raw_os_error() == Some(libc::ENOMEM) {
                "; raise net.core.optmem_max, of which each key takes some 100 octets"
            } else {
                ""
            };
            return Err(format!("no TCP MD5 key on the listener: {error}{remedy}"));
        }
        for listener in &listeners {
            self.empty_queue(listener);
        }
        Ok(self.count.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// Takes the key away. That one was never set is no fault.
    pub(crate) fn remove(&self, from: Prefix) {
        for listener in self.listeners_for(from) {
            let _ = socket::set_md5(listener.as_fd(), from, None);
        }
    }

    /// What waits in a listener's queue was made before the key that was just set.
    fn empty_queue(&self, listener: &TcpListener) {
        let moment = self.count.load(Ordering::SeqCst);
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok((socket, remote)) = SockRef::from(listener).accept() {
            if let Some(accepted) = accepted(socket, &remote, moment)
                && early.accepted.len() < EARLY
            {
                early.accepted.push_back(accepted);
            }
        }
        let acceptors = std::mem::take(&mut early.acceptors);
        drop(early);
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

fn with_keys<'a>(
    socket: socket2::Socket,
    keys: impl Iterator<Item = (Prefix, &'a Password)>,
) -> io::Result<socket2::Socket> {
    for (from, password) in keys {
        socket::set_md5(socket.as_fd(), from, Some(password))
            .map_err(|error| io::Error::new(error.kind(), format!("TCP MD5 key of {from}: {error}")))?;
    }
    Ok(socket)
}

/// `None` when it is gone already.
fn accepted(socket: socket2::Socket, remote: &socket2::SockAddr, moment: u64) -> Option<Accepted> {
    socket.set_nonblocking(true).ok()?;
    Some(Accepted {
        stream: TcpStream::from_std(socket.into()).ok()?,
        remote: remote.as_socket()?,
        moment,
    })
}
