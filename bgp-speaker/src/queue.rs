//! The write queue of a connection: whole messages, in order.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bgp_proto::engine::Chunk;
use bgp_proto::types::PeerId;
use bytes::{Buf, Bytes};
use tokio::net::TcpStream;

/// Most buffers written by one system call.
const VECTORS: usize = 64;

/// A non-blocking sink of octets: a socket.
pub(crate) trait Sink {
    /// Writes some octets; [`io::ErrorKind::WouldBlock`] when the sink is full.
    fn write(&self, octets: &[u8]) -> io::Result<usize>;
    /// As [`Sink::write`], from several buffers.
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

/// One or more whole messages.
struct Queued {
    bytes: Bytes,
    /// Credit that is returned to the engine when they are written.
    credit: usize,
    /// Sent by the session, not by the engine.
    control: bool,
}

/// Messages to write.
#[derive(Default)]
pub(crate) struct Queue {
    queue: VecDeque<Queued>,
    octets: usize,
    /// The first buffer is partly written.
    partial: bool,
}

impl Queue {
    /// Number of octets to write.
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

    /// Appends the peer's part of a chunk; its cost is returned when all of it is written. Returns the number
    /// of messages.
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

    /// Appends the contents of another queue. If its first message is partly written, this one must be empty.
    pub(crate) fn append(&mut self, other: &mut Self) {
        debug_assert!(!other.partial || self.is_empty());
        self.partial |= std::mem::take(&mut other.partial);
        self.octets += std::mem::take(&mut other.octets);
        self.queue.append(&mut other.queue);
    }

    /// Writes as much as the socket accepts; returns the credit of completed messages.
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

    /// The partly written message and messages of the session; other messages are dropped.
    pub(crate) fn take_for_close(&mut self) -> Vec<Bytes> {
        let partial = std::mem::take(&mut self.partial);
        self.octets = 0;
        let all = self.queue.drain(..).enumerate();
        all.filter(|(index, queued)| queued.control || (partial && *index == 0))
            .map(|(_, queued)| queued.bytes)
            .collect()
    }
}

/// Number of consecutive messages, by the lengths in their headers (RFC 4271 §4.1).
fn count_messages(mut octets: &[u8]) -> u64 {
    let mut count = 0;
    while let Some(&[high, low]) = octets.get(16..18) {
        let length = usize::from(u16::from_be_bytes([high, low])).max(19);
        octets = octets.get(length..).unwrap_or_default();
        count += 1;
    }
    count
}
