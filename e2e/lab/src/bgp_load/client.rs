//! One session of the load.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Socket, Type};

use super::received::{ReceivedRoutes, Rules};
use super::table::Table;
use super::{Spec, wire};
use crate::bail;
use crate::failure::{Context, Result};

#[derive(Debug)]
pub(super) struct Client {
    pub(super) spec: Spec,
    stream: TcpStream,
    unwritten: Vec<u8>,
    written: usize,
    unread: Vec<u8>,
    up: bool,
    is_reading: bool,
    pub(super) received: ReceivedRoutes,
}

impl Client {
    pub(super) fn connect(daemon: Ipv4Addr, spec: Spec, routes: u32) -> Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).context("socket")?;
        let local = SocketAddr::from((spec.local, 0));
        socket.bind(&local.into()).context(format!("binding {local}"))?;
        let target = SocketAddr::from((daemon, 179));
        socket
            .connect(&target.into())
            .context(format!("connecting {local} to {target}"))?;
        let stream = TcpStream::from(socket);
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_nonblocking(true).context("non-blocking")?;
        let mut client = Self {
            unwritten: wire::open(spec.asn, spec.local),
            written: 0,
            unread: Vec::new(),
            up: false,
            is_reading: true,
            received: ReceivedRoutes::new(if spec.receives { routes } else { 0 }),
            spec,
            stream,
        };
        client.flush()?;
        Ok(client)
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Closes with a reset.
    pub(super) fn reset(self) {
        let socket = Socket::from(self.stream);
        let _ = socket.set_linger(Some(std::time::Duration::ZERO));
    }

    pub(super) fn is_up(&self) -> bool {
        self.up
    }

    pub(super) fn stop_reading(&mut self) {
        self.is_reading = false;
    }

    pub(super) fn is_reading(&self) -> bool {
        self.is_reading
    }

    pub(super) fn has_unwritten(&self) -> bool {
        self.written < self.unwritten.len()
    }

    /// Whether it has the whole table without its own part, or waits for nothing.
    pub(super) fn has(&self, whole: u32) -> bool {
        !self.spec.receives || self.received.count() == whole - (self.spec.sends.end - self.spec.sends.start)
    }

    pub(super) fn queue(&mut self, octets: Vec<u8>) {
        if self.has_unwritten() {
            self.unwritten.extend(octets);
        } else {
            (self.unwritten, self.written) = (octets, 0);
        }
    }

    /// Writes what the socket takes; whether that was all.
    pub(super) fn flush(&mut self) -> Result<bool> {
        while self.has_unwritten() {
            match self.stream.write(&self.unwritten[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error).context("writing"),
            }
        }
        Ok(true)
    }

    /// Reads once, and takes every whole message.
    pub(super) fn read(&mut self, table: &Table, rules: &Rules) -> Result<()> {
        let mut buffer = [0; 1 << 16];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the speaker closed the connection"),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("reading"),
        };
        if self.unread.is_empty() {
            let used = self.take(&buffer[..count], table, rules)?;
            self.unread.extend(&buffer[used..count]);
        } else {
            let mut all = std::mem::take(&mut self.unread);
            all.extend(&buffer[..count]);
            let used = self.take(&all, table, rules)?;
            all.drain(..used);
            self.unread = all;
        }
        Ok(())
    }

    fn take(&mut self, octets: &[u8], table: &Table, rules: &Rules) -> Result<usize> {
        let mut used = 0;
        while let Some((kind, body, length)) = wire::frame(&octets[used..]) {
            self.message(kind, body, table, rules)?;
            used += length;
        }
        Ok(used)
    }

    fn send_keepalive(&mut self) -> Result<()> {
        let mut keepalive = Vec::new();
        wire::message(&mut keepalive, wire::KEEPALIVE, &[]);
        self.queue(keepalive);
        self.flush().map(drop)
    }

    fn message(&mut self, kind: u8, body: &[u8], table: &Table, rules: &Rules) -> Result<()> {
        match kind {
            wire::OPEN => self.send_keepalive(),
            // The first one is the answer to the OPEN; each later one is answered, so that the hold timer does not expire.
            wire::KEEPALIVE if self.up => self.send_keepalive(),
            wire::KEEPALIVE => {
                self.up = true;
                Ok(())
            }
            // A session that only sends receives no routes, and need not read.
            wire::UPDATE if !self.spec.receives => Ok(()),
            wire::UPDATE => self.received.update(body, table, rules, &self.spec.sends),
            wire::NOTIFICATION => bail!("NOTIFICATION {body:?}"),
            _ => Ok(()),
        }
    }
}
