//! Load for BGP speakers: many clients over real TCP, in one thread with one epoll.
//!
//! Tables are encoded before the clock starts. What comes back is checked on the way: every prefix once, with its own
//! attributes, none of one's own; reflected routes carry ORIGINATOR_ID and CLUSTER_LIST (RFC 4456 §8). [`mirror`] hands
//! messages on with no routing at all and so shows what sockets and this tool cost by themselves.

mod client;
pub mod mirror;
mod received;
mod table;
mod wire;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::failure::{Context, Failure, Result};
use client::Client;
pub use received::Rules;
pub use table::Table;

/// Connections that wait for their session at a time.
const MAX_PENDING: usize = 8;

/// One session of the load.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where it connects from.
    pub local: Ipv4Addr,
    /// Its AS number.
    pub asn: u32,
    /// The part of the table that it sends.
    pub sends: std::ops::Range<u32>,
    /// Whether it waits for the whole table, without its own part.
    pub receives: bool,
}

/// All sessions towards one speaker.
#[derive(Debug)]
pub struct Load {
    epoll: Epoll,
    clients: Vec<Client>,
    table: Table,
    rules: Rules,
}

impl Load {
    /// Connects every session and waits until all are established; answers how long that took.
    pub fn connect(
        daemon: Ipv4Addr,
        specs: &[Spec],
        table: Table,
        rules: Rules,
        limit: Duration,
    ) -> Result<(Self, Duration)> {
        let mut load = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?,
            clients: Vec::new(),
            table,
            rules,
        };
        let start = Instant::now();
        for spec in specs {
            load.join(daemon, spec.clone())?;
            // No more at once than the shortest queue of a listening socket among the competitors holds.
            load.until(limit, "a session established", |load| {
                load.clients.iter().filter(|client| !client.is_up()).count() < MAX_PENDING
            })?;
        }
        load.until(limit, "all sessions established", |load| {
            load.clients.iter().all(Client::is_up)
        })?;
        Ok((load, start.elapsed()))
    }

    /// Everyone sends its part; answers how long it takes until everyone who receives has all.
    pub fn announce(&mut self, limit: Duration) -> Result<Duration> {
        let parts: Vec<_> = self
            .clients
            .iter()
            .map(|client| self.table.announce(&client.spec, client.spec.sends.clone()))
            .collect();
        let whole = self.table.len();
        let start = Instant::now();
        for (index, part) in parts.into_iter().enumerate() {
            self.send(index, part)?;
        }
        self.until(limit, "every route with everybody", |load| {
            load.clients.iter().all(|client| client.has(whole))
        })?;
        Ok(start.elapsed())
    }

    /// Everyone takes its part back.
    pub fn withdraw(&mut self, limit: Duration) -> Result<Duration> {
        let parts: Vec<_> = self
            .clients
            .iter()
            .map(|client| self.table.withdraw(client.spec.sends.clone()))
            .collect();
        let start = Instant::now();
        for (index, part) in parts.into_iter().enumerate() {
            self.send(index, part)?;
        }
        self.until(limit, "no route with anybody", |load| {
            load.clients.iter().all(|client| client.received.count() == 0)
        })?;
        Ok(start.elapsed())
    }

    /// One session's first prefix goes and comes back; answers both times.
    pub fn flap(&mut self, index: usize, limit: Duration) -> Result<[Duration; 2]> {
        self.flap_until(index, limit, |other| other != index)
    }

    fn flap_until(
        &mut self,
        index: usize,
        limit: Duration,
        counts: impl Fn(usize) -> bool,
    ) -> Result<[Duration; 2]> {
        let client = &self.clients[index];
        let first = client.spec.sends.start..client.spec.sends.start + 1;
        let parts = [
            self.table.withdraw(first.clone()),
            self.table.announce(&client.spec, first.clone()),
        ];
        let mut times = [Duration::ZERO; 2];
        for ((part, wanted), time) in parts.into_iter().zip([false, true]).zip(&mut times) {
            let start = Instant::now();
            self.send(index, part)?;
            let what = format!("prefix {} with everybody: {wanted}", first.start);
            self.until(limit, &what, |load| {
                load.clients.iter().enumerate().all(|(other, client)| {
                    !counts(other) || !client.spec.receives || client.received.has(first.start) == wanted
                })
            })?;
            *time = start.elapsed();
        }
        Ok(times)
    }

    /// One more session, which has to come up by itself; answers its index.
    pub fn join(&mut self, daemon: Ipv4Addr, spec: Spec) -> Result<usize> {
        let index = self.clients.len();
        let client = Client::connect(daemon, spec, self.table.len())?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
        self.epoll
            .add(client.stream(), event)
            .context("adding a socket to epoll")?;
        self.clients.push(client);
        Ok(index)
    }

    /// Waits until a session is up.
    pub fn wait_up(&mut self, index: usize, limit: Duration) -> Result<()> {
        self.until(limit, "the session established", |load| {
            load.clients[index].is_up()
        })
    }

    /// The session reads nothing from now on.
    pub fn stop_reading(&mut self, index: usize) -> Result<()> {
        self.clients[index].stop_reading();
        self.interest(index)
    }

    /// Whether a session has everything that it waits for.
    pub fn has_all(&self, index: usize) -> bool {
        self.clients[index].has(self.table.len())
    }

    /// How many routes a session has.
    pub fn count(&self, index: usize) -> u32 {
        self.clients[index].received.count()
    }

    /// Waits until a session has all that others send.
    pub fn wait_for_all(&mut self, index: usize, limit: Duration) -> Result<()> {
        self.until(limit, "everything with one session", |load| load.has_all(index))
    }

    /// Waits until a session has this number of routes.
    pub fn wait_count(&mut self, index: usize, count: u32, limit: Duration) -> Result<()> {
        let what = format!("{count} routes with one session");
        self.until(limit, &what, |load| load.clients[index].received.count() == count)
    }

    /// One session's whole part goes, or comes.
    pub fn send_part(&mut self, index: usize, announce: bool) -> Result<()> {
        let spec = &self.clients[index].spec;
        let part = if announce {
            self.table.announce(spec, spec.sends.clone())
        } else {
            self.table.withdraw(spec.sends.clone())
        };
        self.send(index, part)
    }

    /// The first prefix of a session goes and comes back; answers how long each takes to one other.
    pub fn flap_to(&mut self, index: usize, witness: usize, limit: Duration) -> Result<[Duration; 2]> {
        self.flap_until(index, limit, |other| other == witness)
    }

    /// One session sends its part; returns when it is all with the socket.
    pub fn announce_from(&mut self, index: usize, limit: Duration) -> Result<()> {
        self.send_part(index, true)?;
        self.until(limit, "everything sent", |load| {
            !load.clients[index].has_unwritten()
        })
    }

    /// Reads and writes for so long.
    pub fn settle(&mut self, span: Duration) -> Result<()> {
        let end = Instant::now() + span;
        self.until(span * 2, "time to settle", |_| Instant::now() >= end)
    }

    /// Resets a session's connection (RST); those after it move up.
    pub fn reset(&mut self, index: usize) -> Result<()> {
        self.clients.remove(index).reset();
        (index..self.clients.len()).try_for_each(|index| self.interest(index))
    }

    /// UPDATEs that everybody got so far.
    pub fn updates(&self) -> u64 {
        self.clients.iter().map(|client| client.received.updates).sum()
    }

    fn send(&mut self, index: usize, octets: Vec<u8>) -> Result<()> {
        let client = &mut self.clients[index];
        client.queue(octets);
        if !client.flush()? {
            self.interest(index)?;
        }
        Ok(())
    }

    fn interest(&self, index: usize) -> Result<()> {
        let client = &self.clients[index];
        let mut flags = EpollFlags::empty();
        flags.set(EpollFlags::EPOLLIN, client.is_reading());
        flags.set(EpollFlags::EPOLLOUT, client.has_unwritten());
        let mut event = EpollEvent::new(flags, index as u64);
        self.epoll.modify(client.stream(), &mut event).context("epoll")
    }

    fn until(&mut self, limit: Duration, what: &str, done: impl Fn(&Self) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        let mut events = vec![EpollEvent::empty(); 1024];
        while !done(self) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timeout_failure(what, limit));
            }
            let millis = u16::try_from(left.as_millis().clamp(1, 50)).unwrap_or(50);
            let ready = self
                .epoll
                .wait(&mut events, EpollTimeout::from(millis))
                .context("epoll")?;
            for event in &events[..ready] {
                self.serve(usize::try_from(event.data()).unwrap_or(0), event.events())?;
            }
        }
        Ok(())
    }

    fn serve(&mut self, index: usize, events: EpollFlags) -> Result<()> {
        let client = &mut self.clients[index];
        let had = client.has_unwritten();
        if events.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            client
                .read(&self.table, &self.rules)
                .map_err(|failure| failure.during(format_args!("client {index} ({})", client.spec.local)))?;
        }
        client.flush()?;
        if had != client.has_unwritten() || events.contains(EpollFlags::EPOLLOUT) {
            self.interest(index)?;
        }
        Ok(())
    }

    fn timeout_failure(&self, what: &str, limit: Duration) -> Failure {
        let up = self.clients.iter().filter(|client| client.is_up()).count();
        let (least, most) = self
            .clients
            .iter()
            .filter(|client| client.spec.receives)
            .map(|client| client.received.count())
            .fold((u32::MAX, 0), |(least, most), count| {
                (least.min(count), most.max(count))
            });
        Failure::new(format!(
            "{what}: not within {limit:?}: {up} of {} sessions up; receivers have between {least} and {most} of {} prefixes",
            self.clients.len(),
            self.table.len()
        ))
    }
}

/// Splits a table among clients, each with as many /24 and /32.
pub fn shares(clients: u32, prefixes_each: u32) -> impl Iterator<Item = std::ops::Range<u32>> {
    (0..clients).map(move |client| client * prefixes_each..(client + 1) * prefixes_each)
}

/// The client's address: 10.100.0.1 and on.
pub fn address(network: [u8; 2], index: u32) -> Ipv4Addr {
    let host = u16::try_from(index + 1)
        .expect("at most 65,534 clients")
        .to_be_bytes();
    Ipv4Addr::new(network[0], network[1], host[0], host[1])
}
