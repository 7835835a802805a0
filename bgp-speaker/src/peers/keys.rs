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
use crate::sync::{AtomicU64, Mutex, Ordering, PoisonError};

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
    listeners: Vec<Arc<TcpListener>>,
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
    pub(crate) fn new(listeners: Vec<Arc<TcpListener>>) -> Self {
        Self {
            listeners,
            count: AtomicU64::new(0),
            early: Mutex::default(),
        }
    }

    pub(crate) fn listeners(&self) -> &[Arc<TcpListener>] {
        &self.listeners
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
        let results = self
            .listeners_for(from)
            .map(|listener| socket::set_md5(listener.as_fd(), from, Some(password)));
        if let Some(error) = results.filter_map(Result::err).next() {
            let remedy = if error.raw_os_error() == Some(libc::ENOMEM) {
                "; raise net.core.optmem_max, of which each key takes some 100 octets"
            } else {
                ""
            };
            return Err(format!("no TCP MD5 key on the listener: {error}{remedy}"));
        }
        for listener in self.listeners_for(from) {
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

    fn listeners_for(&self, from: Prefix) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.listeners.iter().filter(move |listener| {
            listener
                .local_addr()
                .is_ok_and(|local| local.is_ipv4() == (from.family() == Family::Ipv4))
        })
    }
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
