//! A thread that runs sessions: sockets, clock and timers.
//!
//! One thread for all, with real-time priority where it is permitted, because a session of 10 ms times 3 does not survive
//! an ordinary thread's waits on a busy machine. It owns four receiving sockets (port 3784 for neighbors on the link, 4784
//! for those some hops away, IPv4 and IPv6) and one sending socket per session (RFC 5881 §4: ports 49152–65535).
//!
//! A packet from a neighbor's address counts when all of this holds:
//!
//! - Its TTL is 255 (RFC 5881 §5), or for a neighbor some hops away not below [`Target::min_ttl`] (RFC 5883 §5).
//! - For a neighbor on the link: it came in by an interface over which the kernel has a route to that neighbor, without a
//!   gateway unless there is no such route at all. So a container of this host cannot speak for it. The answer is remembered, and the kernel is asked again when a
//!   packet comes in by another interface. A neighbor some hops away may answer by any interface: there authentication and
//!   a source check of the host help.
//! - It is signed as agreed, and names our discriminator, which is random (see [`crate::Session`] for when it must).
//!
//! The whole set of wanted sessions goes in, the state of each comes out: what happened in between shows in
//! [`Status::downs`], so that no loss goes unseen however late somebody looks.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::Socket;

use crate::auth::Guard;
use crate::packet::{Packet, State};
use crate::receive::{Arrival, Buffer, MULTI_HOP, Receiver, SINGLE_HOP};
use crate::route::Routes;
use crate::session::{Config, Down, Input, Output, Session};
use crate::sys;
use crate::target::{Key, Refusal, Status, Target};

const FIRST_PORT: u16 = 49152;
const LAST_PORT: u16 = 65535;
/// Packets read of one socket before timers get a turn.
const BURST: usize = 64;
/// TTL of what did not cross a router (RFC 5881 §5).
const ON_LINK: u8 = 255;
/// For so long an interface over which a neighbor is not on the link is not asked about again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Shared {
    targets: Vec<Target>,
    changed: bool,
    admin_down: bool,
    ending: bool,
    status: BTreeMap<Key, Status>,
}

/// Talks to the thread, which ends with this.
pub struct Bfd {
    shared: Arc<Mutex<Shared>>,
    wake: UnixStream,
    runs_first: bool,
}

impl std::fmt::Debug for Bfd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bfd").finish_non_exhaustive()
    }
}

impl Drop for Bfd {
    fn drop(&mut self) {
        self.with(|shared| shared.ending = true);
        self.poke();
    }
}

impl Bfd {
    /// Opens the sockets and starts the thread; `notify` is called whenever a session came up or went down.
    ///
    /// # Errors
    /// A socket cannot be had, most often because another BFD daemon has the port.
    pub fn start(notify: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (wake, waked) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        waked.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let mut sockets = Vec::new();
        for multihop in [false, true] {
            for v4 in [true, false] {
                sockets.push(Receiver::open(v4, multihop)?);
            }
        }
        let runner = Runner {
            shared: Arc::clone(&shared),
            waked,
            sockets,
            sessions: BTreeMap::new(),
            by_key: BTreeMap::new(),
            timers: BTreeSet::new(),
            routes: Routes::open()?,
            buffer: Buffer::new(),
            seed: sys::random()?,
            notify: Box::new(notify),
        };
        let (told, heard) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("bfd".to_owned())
            .spawn(move || {
                let _ = told.send(sys::run_first()); // whoever starts it waits
                runner.run();
            })?;
        let runs_first = heard.recv().unwrap_or(false);
        Ok(Self {
            shared,
            wake,
            runs_first,
        })
    }

    /// Whether the thread has real-time priority, for which it takes CAP_SYS_NICE.
    #[must_use]
    pub fn runs_first(&self) -> bool {
        self.runs_first
    }

    /// The whole set of sessions to have. One that is the same goes on.
    pub fn put(&self, targets: Vec<Target>) {
        self.with(|shared| {
            shared.changed |= shared.targets != targets;
            shared.targets = targets;
        });
        self.poke();
    }

    /// Tells all neighbors that we go on purpose (RFC 5880 §6.8.16), or takes that back.
    pub fn admin_down(&self, down: bool) {
        self.with(|shared| {
            shared.changed |= shared.admin_down != down;
            shared.admin_down = down;
        });
        self.poke();
    }

    /// All sessions as they are.
    #[must_use]
    pub fn status(&self) -> BTreeMap<Key, Status> {
        self.with(|shared| shared.status.clone())
    }

    fn with<T>(&self, job: impl FnOnce(&mut Shared) -> T) -> T {
        job(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn poke(&self) {
        // A full pipe means that it is awake already.
        let _ = (&self.wake).write(&[0]);
    }
}

struct Running {
    target: Target,
    session: Session,
    guard: Guard,
    socket: UdpSocket,
    /// Of a neighbor on the link: the interface that its packets come in by.
    interface: Option<u32>,
    /// The last interface where it is not, and when the kernel said so.
    not_by: Option<(u32, Instant)>,
    /// As it stands in `timers`.
    timer: Option<Instant>,
}

struct Runner {
    shared: Arc<Mutex<Shared>>,
    waked: UnixStream,
    sockets: Vec<Receiver>,
    buffer: Buffer,
    routes: Routes,
    /// By discriminator.
    sessions: BTreeMap<u32, Running>,
    by_key: BTreeMap<Key, u32>,
    timers: BTreeSet<(Instant, u32)>,
    /// Of jitter and source ports.
    seed: u64,
    notify: Box<dyn Fn() + Send>,
}

impl Runner {
    fn run(mut self) {
        loop {
            self.wait();
            if self.take_orders() {
                return;
            }
            self.receive();
            self.fire();
        }
    }

    /// Until a socket can be read, an order comes or a timer is due.
    fn wait(&self) {
        let first = self
            .timers
            .first()
            .map(|(at, _)| at.saturating_duration_since(Instant::now()));
        let timeout = first.map(TimeSpec::from_duration);
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds: Vec<PollFd<'_>> = self
            .sockets
            .iter()
            .map(|socket| readable(socket.as_fd()))
            .collect();
        fds.push(readable(self.waked.as_fd()));
        // An interrupted wait is a short one.
        let _ = ppoll(&mut fds, timeout, None);
    }

    /// True at the end.
    fn take_orders(&mut self) -> bool {
        let mut drain = [0; 64];
        while matches!((&self.waked).read(&mut drain), Ok(1..)) {}
        let (targets, admin_down) = {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            if shared.ending {
                return true;
            }
            if !std::mem::take(&mut shared.changed) {
                return false;
            }
            (shared.targets.clone(), shared.admin_down)
        };
        let wanted: BTreeMap<Key, Target> = targets.into_iter().map(|target| (target.key, target)).collect();
        let gone: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, running)| {
                !wanted
                    .get(&running.target.key)
                    .is_some_and(|target| keeps(&running.target, target))
            })
            .map(|(id, _)| *id)
            .collect();
        gone.into_iter().for_each(|id| self.remove(id));
        for target in wanted.into_values() {
            self.put(target);
        }
        let ids: Vec<u32> = self.sessions.keys().copied().collect();
        ids.into_iter()
            .for_each(|id| self.give(id, Input::AdminDown(admin_down)));
        false
    }

    /// Tells the neighbor that it is on purpose, and forgets the session.
    fn remove(&mut self, id: u32) {
        self.give(id, Input::AdminDown(true));
        if let Some(running) = self.sessions.remove(&id) {
            if let Some(at) = running.timer {
                self.timers.remove(&(at, id));
            }
            self.by_key.remove(&running.target.key);
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.status.remove(&running.target.key);
        }
    }

    fn put(&mut self, target: Target) {
        if let Some(id) = self.by_key.get(&target.key).copied() {
            let Some(running) = self.sessions.get_mut(&id) else {
                return;
            };
            if running.target != target {
                let config = config(id, &target);
                running.guard.replace(target.auth.clone());
                running.target = target;
                self.give(id, Input::Reconfigure(config));
            }
            return;
        }
        // Tried again with the next set; a missing local address is the usual cause.
        let Ok(socket) = self.sender(&target) else { return };
        let Ok((id, numbers)) = self.discriminator() else {
            return;
        };
        let now = Instant::now();
        let session = Session::new(config(id, &target), now, self.seed ^ u64::from(id) << 20);
        let key = target.key;
        let running = Running {
            guard: Guard::new(target.auth.clone(), numbers),
            target,
            session,
            socket,
            interface: None,
            not_by: None,
            timer: None,
        };
        self.sessions.insert(id, running);
        self.by_key.insert(key, id);
        let status = Status {
            state: State::Down,
            since: now,
            downs: 0,
            last_down: None,
            detection_time: None,
            refused: (0, None),
        };
        self.shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .status
            .insert(key, status);
        self.give(id, Input::Tick);
    }

    /// A discriminator that is free and cannot be guessed (RFC 5880 §9), and where sequence numbers begin (§6.8.1).
    fn discriminator(&self) -> io::Result<(u32, u32)> {
        loop {
            let random = sys::random()?;
            let (id, numbers) = ((random >> 32) as u32, random as u32);
            if id != 0 && !self.sessions.contains_key(&id) {
                return Ok((id, numbers));
            }
        }
    }

    fn sender(&mut self, target: &Target) -> io::Result<UdpSocket> {
        let v4 = target.key.remote.is_ipv4();
        let any = if v4 {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let local = target.local.unwrap_or(any);
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..64 {
            self.seed = self
                .seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let spread = u64::from(LAST_PORT - FIRST_PORT) + 1;
            let port = FIRST_PORT + u16::try_from((self.seed >> 33) % spread).unwrap_or(0);
            match UdpSocket::bind(SocketAddr::new(local, port)) {
                Ok(socket) => {
                    let options = Socket::from(socket);
                    if v4 {
                        options.set_ttl_v4(255)?;
                        options.set_tos_v4(0xC0)?;
                    } else {
                        options.set_unicast_hops_v6(255)?;
                        options.set_tclass_v6(0xC0)?;
                    }
                    options.set_nonblocking(true)?;
                    return Ok(options.into());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn receive(&mut self) {
        for index in 0..self.sockets.len() {
            for _ in 0..BURST {
                let Some(socket) = self.sockets.get(index) else {
                    break;
                };
                let arrival = match socket.next(&mut self.buffer) {
                    Ok(Some(arrival)) => arrival,
                    Ok(None) => continue,
                    Err(_) => break,
                };
                let Ok(packet) = Packet::decode(arrival.bytes) else {
                    continue;
                };
                let Some(id) = find(
                    &self.by_key,
                    &self.sessions,
                    &packet,
                    arrival.from,
                    socket.multihop,
                ) else {
                    continue;
                };
                let Some(running) = self.sessions.get_mut(&id) else {
                    continue;
                };
                match running.check(&arrival, &mut self.routes) {
                    Ok(()) => self.give(id, Input::Received(packet)),
                    Err(why) => running.refuse(why, &self.shared),
                }
            }
        }
    }

    fn fire(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.give(id, Input::Tick);
        }
    }

    /// Tells a session something and does what it says.
    fn give(&mut self, id: u32, input: Input) {
        let now = Instant::now();
        let Some(running) = self.sessions.get_mut(&id) else {
            return;
        };
        running.session.handle(now, input);
        let mut change = None;
        while let Some(output) = running.session.poll_output() {
            match output {
                Output::Send(packet) => running.send(&packet),
                Output::Up => change = Some(None),
                Output::Down(why) => change = Some(Some(why)),
            }
        }
        if let Some(at) = running.timer.take() {
            self.timers.remove(&(at, id));
        }
        running.timer = running.session.poll_timeout();
        if let Some(at) = running.timer {
            self.timers.insert((at, id));
        }
        let news = change.is_some();
        running.note(now, change, &self.shared);
        if news {
            (self.notify)();
        }
    }
}

/// RFC 5880 §6.3: by our discriminator, and before the neighbor knows it by its address. Either way only from the
/// neighbor itself and on the right port.
fn find(
    by_key: &BTreeMap<Key, u32>,
    sessions: &BTreeMap<u32, Running>,
    packet: &Packet,
    from: SocketAddr,
    multihop: bool,
) -> Option<u32> {
    let scope = match from {
        SocketAddr::V6(from) if from.ip().is_unicast_link_local() => from.scope_id(),
        _ => 0,
    };
    let key = Key {
        remote: from.ip(),
        scope,
    };
    let id = *by_key.get(&key)?;
    let running = sessions.get(&id)?;
    let is_right = running.target.multihop == multihop && (packet.yours == 0 || packet.yours == id);
    is_right.then_some(id)
}

/// Whether a session can go on as another target: intervals may change, the rest may not.
fn keeps(old: &Target, new: &Target) -> bool {
    (old.local, old.multihop) == (new.local, new.multihop)
}

fn config(id: u32, target: &Target) -> Config {
    Config {
        discriminator: NonZeroU32::new(id).unwrap_or(NonZeroU32::MIN),
        desired_tx: target.interval,
        required_rx: target.interval,
        multiplier: target.multiplier,
    }
}

impl Running {
    /// Whether a packet from the neighbor's address is the neighbor's.
    fn check(&mut self, arrival: &Arrival<'_>, routes: &mut Routes) -> Result<(), Refusal> {
        let min_ttl = if self.target.multihop {
            self.target.min_ttl
        } else {
            ON_LINK
        };
        // RFC 5881 §5, RFC 5883 §5
        if arrival.ttl < min_ttl {
            return Err(Refusal::Ttl(arrival.ttl, min_ttl));
        }
        let now = Instant::now();
        if !self.may_come_by(now, arrival.interface, routes) {
            return Err(Refusal::Interface(arrival.interface));
        }
        let silence = self.session.detection_time();
        self.guard.verify(now, arrival.bytes, silence)?; // RFC 5880 §6.7
        Ok(())
    }

    /// Whether packets of the neighbor may come in by this interface. That of a link-local address is part of the key.
    fn may_come_by(&mut self, now: Instant, interface: u32, routes: &mut Routes) -> bool {
        let key = self.target.key;
        if self.target.multihop || key.scope > 0 || self.interface == Some(interface) {
            return true;
        }
        let is_fresh = |(known, at): (u32, Instant)| known == interface && now < at + ASK_AGAIN;
        if self.not_by.is_some_and(is_fresh) {
            return false;
        }
        let leads = routes.lead_over(key.remote, interface);
        if leads {
            self.interface = Some(interface);
        } else {
            self.not_by = Some((interface, now));
        }
        leads
    }

    fn refuse(&self, why: Refusal, shared: &Mutex<Shared>) {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = shared.status.get_mut(&self.target.key) {
            status.refused = (status.refused.0 + 1, Some(why));
        }
    }

    fn send(&mut self, packet: &Packet) {
        let port = if self.target.multihop {
            MULTI_HOP
        } else {
            SINGLE_HOP
        };
        let to = match self.target.key.remote {
            IpAddr::V4(addr) => SocketAddr::from((addr, port)),
            IpAddr::V6(addr) => SocketAddr::V6(SocketAddrV6::new(addr, port, 0, self.target.key.scope)),
        };
        // What cannot be sent is lost, as on the wire; the neighbor will notice.
        let _ = self.socket.send_to(&self.guard.sign(&packet.encode()), to);
    }

    fn note(&self, now: Instant, change: Option<Option<Down>>, shared: &Mutex<Shared>) {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(status) = shared.status.get_mut(&self.target.key) else {
            return;
        };
        status.state = self.session.state();
        status.detection_time = self.session.detection_time();
        match change {
            None => {}
            Some(None) => status.since = now,
            Some(Some(why)) => {
                status.since = now;
                status.downs += 1;
                status.last_down = Some(why);
            }
        }
    }
}
