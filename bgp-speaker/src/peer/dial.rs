//! The peer's TCP connections: at most one being opened, those that are there, and those that are closing.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use bgp_proto::session::ConnId;
use tokio::net::TcpStream;

use super::closing::Closing;
use super::connection::{Connection, Ready};
use super::rotation::{KeyInUse, Rotation};
use crate::api::{Password, Transport};
use crate::socket;

/// A new connection, and the key that it was opened with.
pub(crate) type Dialed = io::Result<(TcpStream, Option<Password>)>;
type Dial = Pin<Box<dyn Future<Output = Dialed> + Send>>;

/// Numbers of accepted connections begin here; those of the session are lower.
const FIRST_INCOMING: u64 = 1 << 32;

/// Connections by their number.
pub(crate) struct Connections {
    dial: Option<(ConnId, Dial)>,
    open: Vec<Connection>,
    closing: Closing,
    next_incoming: u64,
    rotation: Rotation,
}

/// What happened to one.
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

    /// Which of the peer's TCP MD5 keys they have.
    pub(crate) fn key(&self) -> KeyInUse {
        self.rotation.in_use
    }

    /// Those that are opened from now on have this one.
    pub(crate) fn set_key_for_new(&mut self, key: KeyInUse) {
        self.rotation.in_use = key;
    }

    /// All have this one from now on.
    ///
    /// # Errors
    /// The system's: a connection cannot be used any more.
    pub(crate) fn use_key(&mut self, key: KeyInUse, transport: &Transport) -> io::Result<()> {
        self.set_key_for_new(key);
        let sign = |connection: &Connection| {
            let fd = std::os::fd::AsFd::as_fd(&**connection.stream());
            socket::sign(fd, transport.remote, key.of(transport))
        };
        self.open.iter().try_for_each(sign)
    }

    /// When to look whether the key is the peer's, if it has two.
    pub(crate) fn key_check_due(&mut self, transport: &Transport, now: Instant) -> Option<Instant> {
        self.rotation.due(transport, now)
    }

    /// Looks, when it is time: the key to use from now on, if it is another one.
    pub(crate) fn check_key(&mut self, now: Instant) -> Option<KeyInUse> {
        let retransmissions = self.open.iter().filter_map(Connection::retransmissions).max();
        self.rotation.check(now, retransmissions).then(|| self.key())
    }

    /// Opens a connection to the peer.
    pub(crate) fn dial(&mut self, id: ConnId, transport: Transport, external: bool) {
        self.dial = Some((id, Box::pin(socket::dial(transport, self.key(), external))));
    }

    /// Takes in one that is open.
    pub(crate) fn add(&mut self, id: ConnId, stream: TcpStream) {
        self.open.push(Connection::new(id, stream));
    }

    /// Takes in one that the peer opened.
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

    /// Those with something to write.
    pub(crate) fn to_write(&self) -> Vec<ConnId> {
        let queued = self.open.iter().filter(|connection| !connection.queue.is_empty());
        queued.map(|connection| connection.id).collect()
    }

    /// Octets that wait in the longest queue.
    pub(crate) fn queued(&self) -> usize {
        let queued = self.open.iter().map(|connection| connection.queue.octets());
        queued.max().unwrap_or(0)
    }

    pub(crate) fn take(&mut self, id: ConnId) -> Option<Connection> {
        let position = self.open.iter().position(|connection| connection.id == id)?;
        Some(self.open.remove(position))
    }

    /// An attempt that is not needed any more.
    pub(crate) fn stop_dialing(&mut self, id: ConnId) {
        self.dial.take_if(|(dialing, _)| *dialing == id);
    }

    /// Delivers what the session said last on a connection, and closes it.
    pub(crate) fn close(&mut self, connection: Connection, established: bool) {
        self.closing.add(connection, established);
    }

    /// Those that still deliver their last messages.
    pub(crate) fn take_closing(&mut self) -> Closing {
        std::mem::take(&mut self.closing)
    }

    /// Waits until something happens; reading is only looked at when `reading`.
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
