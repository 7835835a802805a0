//! The thread that runs all sessions: sockets, clock and timers.
//!
//! It has real-time priority if permitted, because a session of 10 ms times 3 does not survive the scheduling
//! delays of an ordinary thread on a busy machine. It owns four receiving sockets (port 3784 for single-hop
//! and 4784 for multihop sessions, IPv4 and IPv6) and one sending socket per session (RFC 5881 §4: ports
//! 49152–65535).
//!
//! A packet from a neighbor's address is accepted if all of this holds:
//!
//! - Its TTL is 255 (RFC 5881 §5), or for a multihop session at least [`Target::min_ttl`] (RFC 5883 §5).
//! - Single-hop: it arrived on an interface over which the kernel has a route to the neighbor, without a
//!   gateway unless every route to it has one. So a container of this host cannot impersonate the neighbor.
//!   The result is cached; the kernel is asked again when a packet arrives on another interface. A multihop
//!   neighbor may answer on any interface: use authentication and the host's source address validation there.
//! - Its authentication is valid, and it has our discriminator, which is random (see [`crate::Session`] for
//!   exceptions).
//!
//! The input is the complete set of wanted sessions, the output the status of each. [`Status::downs`] counts
//! all losses, so that none is missed however late it is read.

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

use crate::auth::Authenticator;
use crate::packet::{Packet, State};
use crate::receive::{Arrival, Buffer, MULTI_HOP_PORT, Receiver, SINGLE_HOP_PORT};
use crate::route::Routes;
use crate::session::{Config, Down, Input, Output, Session};
use crate::sys;
use crate::target::{DropReason, Key, Status, Target};

const FIRST_PORT: u16 = 49152;
const LAST_PORT: u16 = 65535;
/// Packets read from a socket before timers are checked.
const BURST: usize = 64;
/// TTL of packets that did not cross a router (RFC 5881 §5).
const SINGLE_HOP_TTL: u8 = 255;
/// Time for which a rejected interface is not looked up again.
const ROUTE_RECHECK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Shared {
    targets: Vec<Target>,
    changed: bool,
    admin_down: bool,
    ending: bool,
    status: BTreeMap<Key, Status>,
}

/// Handle of the BFD thread, which ends when this is dropped.
pub struct Bfd {
    shared: Arc<Mutex<Shared>>,
    wake: UnixStream,
    has_realtime_priority: bool,
}

impl std::fmt::Debug for Bfd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bfd").finish_non_exhaustive()
    }
}

impl Drop for Bfd {
    fn drop(&mut self) {
        self.with(|shared| shared.ending = true);
        self.wake_thread();
    }
}

impl Bfd {
    /// Opens the sockets and starts the thread; `notify` is called whenever a session goes up or down.
    ///
    /// # Errors
    /// A socket cannot be opened; most often another BFD daemon uses the port.
    pub fn start(notify: impl Fn() + Send + 'static) -> io::Result<Self> {
        let (wake, wake_receiver) = UnixStream::pair()?;
        wake.set_nonblocking(true)?;
        wake_receiver.set_nonblocking(true)?;
        let shared = Arc::new(Mutex::new(Shared::default()));
        let mut sockets = Vec::new();
        for multihop in [false, true] {
            for v4 in [true, false] {
                sockets.push(Receiver::open(v4, multihop)?);
            }
        }
        let runner = Runner {
            shared: Arc::clone(&shared),
            wake_receiver,
            sockets,
            sessions: BTreeMap::new(),
            by_key: BTreeMap::new(),
            timers: BTreeSet::new(),
            routes: Routes::open()?,
            buffer: Buffer::new(),
            seed: sys::random()?,
            notify: Box::new(notify),
        };
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("bfd".to_owned())
            .spawn(move || {
                let _ = sender.send(sys::set_realtime_priority()); // `start` waits for it
                runner.run();
            })?;
        let has_realtime_priority = receiver.recv().unwrap_or(false);
        Ok(Self {
            shared,
            wake,
            has_realtime_priority,
        })
    }

    /// Whether the thread has real-time priority, which requires CAP_SYS_NICE.
    #[must_use]
    pub fn has_realtime_priority(&self) -> bool {
        self.has_realtime_priority
    }

    /// Sets the wanted sessions. Unchanged sessions continue.
    pub fn put(&self, targets: Vec<Target>) {
        self.with(|shared| {
            shared.changed |= shared.targets != targets;
            shared.targets = targets;
        });
        self.wake_thread();
    }

    /// Puts all sessions into AdminDown (RFC 5880 §6.8.16), or ends that.
    pub fn set_all_admin_down(&self, down: bool) {
        self.with(|shared| {
            shared.changed |= shared.admin_down != down;
            shared.admin_down = down;
        });
        self.wake_thread();
    }

    /// Status of all sessions.
    #[must_use]
    pub fn status(&self) -> BTreeMap<Key, Status> {
        self.with(|shared| shared.status.clone())
    }

    fn with<T>(&self, job: impl FnOnce(&mut Shared) -> T) -> T {
        job(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wake_thread(&self) {
        // A full socket wakes the thread as well.
        let _ = (&self.wake).write(&[0]);
    }
}

struct RunningSession {
    target: Target,
    session: Session,
    authenticator: Authenticator,
    socket: UdpSocket,
    /// Single-hop: the interface on which its packets arrive.
    interface: Option<u32>,
    /// The last rejected interface, and when the kernel was asked.
    rejected_interface: Option<(u32, Instant)>,
    /// The entry in `timers`.
    timer: Option<Instant>,
}

struct Runner {
    shared: Arc<Mutex<Shared>>,
    wake_receiver: UnixStream,
    sockets: Vec<Receiver>,
    buffer: Buffer,
    routes: Routes,
    /// Sessions by our discriminator.
    sessions: BTreeMap<u32, RunningSession>,
    by_key: BTreeMap<Key, u32>,
    timers: BTreeSet<(Instant, u32)>,
    /// Seed of jitter and source ports.
    seed: u64,
    notify: Box<dyn Fn() + Send>,
}

impl Runner {
    fn run(mut self) {
        loop {
            self.wait();
            if self.apply_changes() {
                return;
            }
            self.receive();
            self.run_timers();
        }
    }

    /// Waits for a packet, a change of the wanted sessions, or a timer.
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
        fds.push(readable(self.wake_receiver.as_fd()));
        // An interruption only shortens the wait.
        let _ = ppoll(&mut fds, timeout, None);
    }

    /// Applies changes of the wanted sessions. Returns true when the thread has to end.
    fn apply_changes(&mut self) -> bool {
        let mut drain = [0; 64];
        while matches!((&self.wake_receiver).read(&mut drain), Ok(1..)) {}
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
        let removed: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, running)| {
                !wanted
                    .get(&running.target.key)
                    .is_some_and(|target| can_reconfigure(&running.target, target))
            })
            .map(|(id, _)| *id)
            .collect();
        removed.into_iter().for_each(|id| self.remove(id));
        for target in wanted.into_values() {
            self.put(target);
        }
        let ids: Vec<u32> = self.sessions.keys().copied().collect();
        ids.into_iter()
            .for_each(|id| self.session_input(id, Input::AdminDown(admin_down)));
        false
    }

    /// Removes a session; the neighbor is sent AdminDown.
    fn remove(&mut self, id: u32) {
        self.session_input(id, Input::AdminDown(true));
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
                running.authenticator.replace(target.auth.clone());
                running.target = target;
                self.session_input(id, Input::Reconfigure(config));
            }
            return;
        }
        // Tried again with the next change; the usual cause is a missing local address.
        let Ok(socket) = self.sender(&target) else { return };
        let Ok((id, numbers)) = self.discriminator() else {
            return;
        };
        let now = Instant::now();
        let session = Session::new(config(id, &target), now, self.seed ^ u64::from(id) << 20);
        let key = target.key;
        let running = RunningSession {
            authenticator: Authenticator::new(target.auth.clone(), numbers),
            target,
            session,
            socket,
            interface: None,
            rejected_interface: None,
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
            dropped: (0, None),
        };
        self.shared
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .status
            .insert(key, status);
        self.session_input(id, Input::Tick);
    }

    /// A random unused discriminator, which cannot be guessed (RFC 5880 §9), and the first sequence number
    /// (§6.8.1).
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
                    Ok(()) => self.session_input(id, Input::Received(packet)),
                    Err(why) => running.record_dropped(why, &self.shared),
                }
            }
        }
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some((at, id)) = self.timers.first().copied() {
            if at > now {
                return;
            }
            self.session_input(id, Input::Tick);
        }
    }

    /// Passes an input to a session and performs its outputs.
    fn session_input(&mut self, id: u32, input: Input) {
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
        let changed = change.is_some();
        running.update_status(now, change, &self.shared);
        if changed {
            (self.notify)();
        }
    }
}

/// RFC 5880 §6.3: finds the session by the neighbor's address and port. A discriminator in the packet must be
/// ours.
fn find(
    by_key: &BTreeMap<Key, u32>,
    sessions: &BTreeMap<u32, RunningSession>,
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
    let is_right = running.target.multihop == multihop
        && (packet.your_discriminator == 0 || packet.your_discriminator == id);
    is_right.then_some(id)
}

/// Whether a session can continue with another target: only intervals may change.
fn can_reconfigure(old: &Target, new: &Target) -> bool {
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

impl RunningSession {
    /// Checks that a packet from the neighbor's address is the neighbor's.
    fn check(&mut self, arrival: &Arrival<'_>, routes: &mut Routes) -> Result<(), DropReason> {
        let min_ttl = if self.target.multihop {
            self.target.min_ttl
        } else {
            SINGLE_HOP_TTL
        };
        // RFC 5881 §5, RFC 5883 §5
        if arrival.ttl < min_ttl {
            return Err(DropReason::Ttl(arrival.ttl, min_ttl));
        }
        let now = Instant::now();
        if !self.interface_allowed(now, arrival.interface, routes) {
            return Err(DropReason::Interface(arrival.interface));
        }
        let detection_time = self.session.detection_time();
        self.authenticator.verify(now, arrival.bytes, detection_time)?; // RFC 5880 §6.7
        Ok(())
    }

    /// Whether the neighbor's packets may arrive on this interface. For a link-local address the interface is
    /// part of the key.
    fn interface_allowed(&mut self, now: Instant, interface: u32, routes: &mut Routes) -> bool {
        let key = self.target.key;
        if self.target.multihop || key.scope > 0 || self.interface == Some(interface) {
            return true;
        }
        let is_recent = |(known, at): (u32, Instant)| known == interface && now < at + ROUTE_RECHECK;
        if self.rejected_interface.is_some_and(is_recent) {
            return false;
        }
        let over_interface = routes.reaches_over(key.remote, interface);
        if over_interface {
            self.interface = Some(interface);
        } else {
            self.rejected_interface = Some((interface, now));
        }
        over_interface
    }

    fn record_dropped(&self, why: DropReason, shared: &Mutex<Shared>) {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = shared.status.get_mut(&self.target.key) {
            status.dropped = (status.dropped.0 + 1, Some(why));
        }
    }

    fn send(&mut self, packet: &Packet) {
        let port = if self.target.multihop {
            MULTI_HOP_PORT
        } else {
            SINGLE_HOP_PORT
        };
        let to = match self.target.key.remote {
            IpAddr::V4(addr) => SocketAddr::from((addr, port)),
            IpAddr::V6(addr) => SocketAddr::V6(SocketAddrV6::new(addr, port, 0, self.target.key.scope)),
        };
        // A packet that cannot be sent counts as lost on the wire.
        let _ = self
            .socket
            .send_to(&self.authenticator.sign(&packet.encode()), to);
    }

    fn update_status(&self, now: Instant, change: Option<Option<Down>>, shared: &Mutex<Shared>) {
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
