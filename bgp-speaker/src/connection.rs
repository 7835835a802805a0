//! One TCP connection of a peer: its read buffer and what is still to be written.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Duration;

use bgp_proto::engine::Chunk;
use bgp_proto::session::ConnId;
use bgp_proto::types::PeerId;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Bytes read in one go before they are decoded.
const READ_BURST: usize = 128 << 10;
/// Buffers written by one system call.
const VECTORS: usize = 64;
/// How long a closing connection may take to deliver its last words.
const FLUSH: Duration = Duration::from_secs(1);

/// What can be done with a connection now.
pub(crate) enum Ready {
    Read,
    Write,
}

/// Whole messages to write.
struct Queued {
    bytes: Bytes,
    /// Credit that is due to the engine when they are written.
    credit: usize,
    /// Of the session, not of the engine.
    control: bool,
}

pub(crate) struct Connection {
    pub(crate) id: ConnId,
    stream: TcpStream,
    pub(crate) read: BytesMut,
    queue: VecDeque<Queued>,
    queued: usize,
    /// The first buffer has been written in part.
    partial: bool,
}

impl Connection {
    pub(crate) fn new(id: ConnId, stream: TcpStream) -> Self {
        Self {
            id,
            stream,
            read: BytesMut::new(),
            queue: VecDeque::new(),
            queued: 0,
            partial: false,
        }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Appends a message of the session.
    pub(crate) fn push_control(&mut self, bytes: Bytes) {
        self.queued += bytes.len();
        self.queue.push_back(Queued {
            bytes,
            credit: 0,
            control: true,
        });
    }

    /// Appends what a chunk holds for the peer; its cost is due when the last of it is written. Answers the number of
    /// messages.
    pub(crate) fn push_chunk(&mut self, chunk: &Chunk, peer: PeerId) -> u64 {
        let mut messages = 0;
        for bytes in chunk.data_for(peer) {
            messages += count_messages(&bytes);
            self.queued += bytes.len();
            self.queue.push_back(Queued {
                bytes,
                credit: 0,
                control: false,
            });
        }
        if let Some(last) = self.queue.back_mut() {
            last.credit += chunk.cost_for(peer);
        }
        messages
    }

    /// Bytes not written yet.
    pub(crate) fn queued(&self) -> usize {
        self.queued
    }

    /// What can be done; reading is only asked about when `reading`.
    pub(crate) fn poll_ready(&self, context: &mut Context<'_>, reading: bool) -> Poll<Ready> {
        if !self.queue.is_empty() && self.stream.poll_write_ready(context).is_ready() {
            return Poll::Ready(Ready::Write);
        }
        if reading && self.stream.poll_read_ready(context).is_ready() {
            return Poll::Ready(Ready::Read);
        }
        Poll::Pending
    }

    /// Whether bytes of the peer wait in the socket.
    pub(crate) fn has_unread(&self) -> bool {
        use std::future::Future;
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut octet = [0];
        let peek = self.stream.peek(&mut octet);
        matches!(std::pin::pin!(peek).poll(&mut context), Poll::Ready(Ok(1)))
    }

    /// Reads what is there, up to a burst. `Ok(true)` when the peer has closed.
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

    /// Writes as much as the socket takes; the credit of what is done with.
    pub(crate) fn write(&mut self) -> io::Result<usize> {
        let mut credit = 0;
        while !self.queue.is_empty() {
            match self.write_some() {
                Ok(written) => credit += self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(credit)
    }

    fn write_some(&self) -> io::Result<usize> {
        match self.queue.front() {
            Some(only) if self.queue.len() == 1 => self.stream.try_write(&only.bytes),
            _ => {
                let some = self.queue.iter().take(VECTORS);
                let slices: Vec<IoSlice<'_>> = some.map(|queued| IoSlice::new(&queued.bytes)).collect();
                self.stream.try_write_vectored(&slices)
            }
        }
    }

    fn advance(&mut self, mut written: usize) -> usize {
        self.queued -= written;
        let mut credit = 0;
        while let Some(front) = self.queue.front_mut() {
            if written < front.bytes.len() {
                self.partial |= written > 0;
                front.bytes.advance(written);
                break;
            }
            written -= front.bytes.len();
            credit += front.credit;
            self.partial = false;
            self.queue.pop_front();
        }
        credit
    }

    /// Delivers the message under way and the session's last words, then closes, all within [`FLUSH`]. What
    /// else was queued is dropped: the session is over. The task ends when the peer has it all.
    pub(crate) fn close(mut self) -> JoinHandle<()> {
        let head = if self.partial {
            self.queue.pop_front().map(|queued| queued.bytes)
        } else {
            None
        };
        let last: Vec<Bytes> = self
            .queue
            .drain(..)
            .filter(|queued| queued.control)
            .map(|queued| queued.bytes)
            .collect();
        tokio::spawn(async move {
            let farewell = async {
                for bytes in head.into_iter().chain(last) {
                    self.stream.write_all(&bytes).await?;
                }
                self.stream.shutdown().await?;
                // Unread bytes would turn the close into a reset, which can overtake the NOTIFICATION.
                let mut rest = [0; 4096];
                while self.stream.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            // The peer may be gone already; there is nobody left to tell.
            let _ = tokio::time::timeout(FLUSH, farewell).await;
        })
    }
}

/// How many messages lie there one after another, by the lengths in their headers (RFC 4271 §4.1).
fn count_messages(mut octets: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(&[high, low]) = octets.get(16..18) {
        let length = usize::from(u16::from_be_bytes([high, low])).max(19);
        octets = octets.get(length..).unwrap_or_default();
        count += 1;
    }
    count
}
