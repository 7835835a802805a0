//! A TCP connection of a peer: its read buffer and write queue.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use bgp_proto::session::ConnId;
use bytes::BytesMut;
use socket2::SockRef;
use tokio::net::TcpStream;

use crate::queue::Queue;
use crate::sockopt;

/// Most bytes read before they are decoded.
const READ_BURST: usize = 128 << 10;
/// What a connection is ready for.
pub(crate) enum Ready {
    Read,
    Write,
}

pub(crate) struct Connection {
    pub(crate) id: ConnId,
    /// Shared with the outbox while the session is established.
    stream: Arc<TcpStream>,
    pub(crate) read: BytesMut,
    pub(crate) queue: Queue,
}

impl Connection {
    pub(crate) fn new(id: ConnId, stream: TcpStream) -> Self {
        Self {
            id,
            stream: Arc::new(stream),
            read: BytesMut::new(),
            queue: Queue::default(),
        }
    }

    pub(crate) fn stream(&self) -> &Arc<TcpStream> {
        &self.stream
    }

    /// Polls readiness; for reading only with `reading`.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>, reading: bool) -> Poll<Ready> {
        if !self.queue.is_empty() && self.stream.poll_write_ready(context).is_ready() {
            return Poll::Ready(Ready::Write);
        }
        if reading && self.stream.poll_read_ready(context).is_ready() {
            return Poll::Ready(Ready::Read);
        }
        Poll::Pending
    }

    /// Whether data of the peer waits in the socket. This asks the kernel, because the runtime may not have
    /// polled yet.
    pub(crate) fn has_unread(&self) -> bool {
        let mut octet = [MaybeUninit::uninit()];
        let waiting = SockRef::from(&*self.stream).peek(&mut octet);
        waiting.is_ok_and(|octets| octets > 0)
    }

    /// Number of consecutive retransmissions of the oldest unacknowledged segment.
    pub(crate) fn retransmissions(&self) -> Option<u8> {
        sockopt::retransmissions(self.stream.as_fd()).ok()
    }

    /// Reads available data, up to a limit. `Ok(true)` when the peer has closed.
    pub(crate) fn read(&mut self) -> io::Result<bool> {
        while self.read.len() < READ_BURST {
            self.read.reserve(64 << 10);
            match self.stream.try_read_buf(&mut self.read) {
                Ok(0) => return Ok(true),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Writes as much as the socket accepts; returns the credit of completed messages.
    pub(crate) fn write(&mut self) -> io::Result<usize> {
        self.queue.write(&*self.stream)
    }

    /// The stream, to be closed by the caller.
    pub(crate) fn into_stream(self) -> Arc<TcpStream> {
        self.stream
    }
}
