//! The TCP connections of a peer: at most one being opened, the open ones, and the closing ones.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use bgp_proto::session::ConnId;
use tokio::net::TcpStream;

use super::closing::Closing;
use super::connection::{Connection, Ready};
use crate::api::{Password, Transport};
use crate::rotation::{KeyInUse, Rotation};
use crate::socket;

/// A new connection, and the key with which it was opened.
pub(crate) type Dialed = io::Result<(TcpStream, Option<Password>)>;
type Dial = Pin<Box<dyn Future<Output = Dialed> + Send>>;

/// First number of accepted connections; those of the session are lower.
const FIRST_INCOMING: u64 = 1 << 32;

/// Connections by number.
pub(crate) struct Connections {
    dial: Option<(ConnId, Dial)>,
    open: Vec<Connection>,
    closing: Closing,
    next_incoming: u64,
    rotation: Rotation,
}

/// An event of a connection.
pub(crate) enum ConnectionEvent {
    Dialed(ConnId, Dialed),
    Readable(ConnId),
    Writable,
}

impl Connections {
    pub(crate) fn new() -> Self {
        Self {
            dial: None,
            open: Vec::new(),
            closing: Closing::default(),
            next_incoming: FIRST_INCOMING,
            rotation: Rotation::default(),
        }
    }

    /// The TCP MD5 key in use.
    pub(crate) fn key(&self) -> KeyInUse {
        self.rotation.in_use
    }

    /// Sets the key for new connections.
    pub(crate) fn set_key_for_new(&mut self, key: KeyInUse) {
        self.rotation.in_use = key;
    }

    /// Sets the key for all connections.
    ///
    /// # Errors
    /// The system's error: a connection cannot be used any more.
    pub(crate) fn use_key(&mut self, key: KeyInUse, transport: &Transport) -> io::Result<()> {
        self.set_key_for_new(key);
        let sign = |connection: &Connection| {
            let fd = std::os::fd::AsFd::as_fd(&**connection.stream());
            socket::sign(fd, transport.remote, key.of(transport))
        };
        self.open.iter().try_for_each(sign)
    }

    /// When the key in use is to be checked, if there are two.
    pub(crate) fn key_check_due(&mut self, transport: &Transport, now: Instant) -> Option<Instant> {
        self.rotation.due(transport, now)
    }

    /// Checks the key if it is time; returns the new key if it changes.
    pub(crate) fn check_key(&mut self, now: Instant) -> Option<KeyInUse> {
        let retransmissions = self.open.iter().filter_map(Connection::retransmissions).max();
        self.rotation.check(now, retransmissions).then(|| self.key())
    }

    /// Opens a connection to the peer.
    pub(crate) fn dial(&mut self, id: ConnId, transport: Transport, external: bool) {
        self.dial = Some((id, Box::pin(socket::dial(transport, self.key(), external))));
    }

    /// Adds an outgoing connection.
    pub(crate) fn add(&mut self, id: ConnId, stream: TcpStream) {
        self.open.push(Connection::new(id, stream));
    }

    /// Adds a connection opened by the peer.
    pub(crate) fn add_incoming(&mut self, stream: TcpStream) -> ConnId {
        let id = ConnId(self.next_incoming);
        self.next_incoming += 1;
        self.add(id, stream);
        id
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(crate) fn get(&self, id: ConnId) -> Option<&Connection> {
        self.open.iter().find(|connection| connection.id == id)
    }

    pub(crate) fn get_mut(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.open.iter_mut().find(|connection| connection.id == id)
    }

    /// Connections with queued messages.
    pub(crate) fn to_write(&self) -> Vec<ConnId> {
        let queued = self.open.iter().filter(|connection| !connection.queue.is_empty());
        queued.map(|connection| connection.id).collect()
    }

    /// Octets in the longest write queue.
    pub(crate) fn queued(&self) -> usize {
        let queued = self.open.iter().map(|connection| connection.queue.octets());
        queued.max().unwrap_or(0)
    }

    pub(crate) fn take(&mut self, id: ConnId) -> Option<Connection> {
        let position = self.open.iter().position(|connection| connection.id == id)?;
        Some(self.open.remove(position))
    }

    /// Stops an attempt that is no longer needed.
    pub(crate) fn stop_dialing(&mut self, id: ConnId) {
        self.dial.take_if(|(dialing, _)| *dialing == id);
    }

    /// Delivers the last messages on a connection, and closes it.
    pub(crate) fn close(&mut self, connection: Connection, established: bool) {
        self.closing.add(connection, established);
    }

    /// The closing connections.
    pub(crate) fn take_closing(&mut self) -> Closing {
        std::mem::take(&mut self.closing)
    }

    /// Waits for the next event; for readable sockets only with `reading`.
    pub(crate) async fn next_event(&mut self, reading: bool) -> ConnectionEvent {
        let (dial, open) = (&mut self.dial, &self.open);
        let event = std::future::poll_fn(|context| {
            if let Some((id, dial)) = dial
                && let Poll::Ready(result) = dial.as_mut().poll(context)
            {
                return Poll::Ready(ConnectionEvent::Dialed(*id, result));
            }
            for connection in open {
                match connection.poll_ready(context, reading) {
                    Poll::Ready(Ready::Read) => return Poll::Ready(ConnectionEvent::Readable(connection.id)),
                    Poll::Ready(Ready::Write) => return Poll::Ready(ConnectionEvent::Writable),
                    Poll::Pending => {}
                }
            }
            Poll::Pending
        })
        .await;
        if matches!(event, ConnectionEvent::Dialed(..)) {
            self.dial = None;
        }
        event
    }
}
