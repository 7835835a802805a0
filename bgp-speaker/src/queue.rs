//! Whole messages on their way into a socket, in order.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bgp_proto::engine::Chunk;
use bgp_proto::types::PeerId;
use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

/// Buffers written by one system call.
const VECTORS: usize = 64;

/// What takes octets without waiting: a socket.
pub(crate) trait Sink {
    /// Writes some; [`io::ErrorKind::WouldBlock`] when it takes none now.
    fn write(&self, octets: &[u8]) -> io::Result<usize>;
    /// The same, from several buffers.
    fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize>;
}

impl Sink for TcpStream {
    fn write(&self, octets: &[u8]) -> io::Result<usize> {
        self.try_write(octets)
    }

    fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.try_write_vectored(buffers)
    }
}

/// Whole messages to write.
struct Queued {
    bytes: Bytes,
    /// Credit that is due to the engine when they are written.
    credit: usize,
    /// Of the session, not of the engine.
    control: bool,
}

/// What is still to be written.
#[derive(Default)]
pub(crate) struct Queue {
    queue: VecDeque<Queued>,
    octets: usize,
    /// The first buffer has been written in part.
    partial: bool,
}

impl Queue {
    /// Octets not written yet.
    pub(crate) fn octets(&self) -> usize {
        self.octets
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Appends a message of the session.
    pub(crate) fn push_control(&mut self, bytes: Bytes) {
        self.push(bytes, true);
    }

    /// Appends what a chunk holds for the peer; its cost is due when the last of it is written. Answers the number of
    /// messages.
    pub(crate) fn push_chunk(&mut self, chunk: &Chunk, peer: PeerId) -> u64 {
        let mut messages = 0;
        for bytes in chunk.data_for(peer) {
            messages += count_messages(&bytes);
            self.push(bytes, false);
        }
        if let Some(last) = self.queue.back_mut() {
            last.credit += chunk.cost_for(peer);
        }
        messages
    }

    fn push(&mut self, bytes: Bytes, control: bool) {
        self.octets += bytes.len();
        self.queue.push_back(Queued {
            bytes,
            credit: 0,
            control,
        });
    }

    /// Appends what another has left. Its first message may have been begun: nothing else waits then.
    pub(crate) fn append(&mut self, other: &mut Self) {
        debug_assert!(!other.partial || self.is_empty());
        self.partial |= std::mem::take(&mut other.partial);
        self.octets += std::mem::take(&mut other.octets);
        self.queue.append(&mut other.queue);
    }

    /// Writes as much as the socket takes; the credit of what is done with.
    pub(crate) fn write(&mut self, socket: &impl Sink) -> io::Result<usize> {
        let mut credit = 0;
        while !self.queue.is_empty() {
            match self.write_some(socket) {
                Ok(written) => credit += self.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(credit)
    }

    fn write_some(&self, socket: &impl Sink) -> io::Result<usize> {
        match self.queue.front() {
            Some(only) if self.queue.len() == 1 => socket.write(&only.bytes),
            _ => {
                let some = self.queue.iter().take(VECTORS);
                let slices: Vec<IoSlice<'_>> = some.map(|queued| IoSlice::new(&queued.bytes)).collect();
                socket.write_vectored(&slices)
            }
        }
    }

    fn advance(&mut self, mut written: usize) -> usize {
        self.octets -= written;
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

    /// The message under way and what the session still says. What else was queued is dropped.
    pub(crate) fn take_for_close(&mut self) -> Vec<Bytes> {
        let partial = std::mem::take(&mut self.partial);
        self.octets = 0;
        let all = self.queue.drain(..).enumerate();
        all.filter(|(index, queued)| queued.control || (partial && *index == 0))
            .map(|(_, queued)| queued.bytes)
            .collect()
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
