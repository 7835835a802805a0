//! A BFD session (RFC 5880 §6.8): state machine, timers, Poll sequence.
//!
//! | state | peer is AdminDown | Down | Init | Up | detection time expires |
//! |---|---|---|---|---|---|
//! | Down | – | Init | Up | – | – |
//! | Init | Down | – | Up | Up | Down |
//! | Up | Down | Down | – | – | Down |
//!
//! Deviation from RFC 5880 §6.8.6: while Up, a packet must have our discriminator or the neighbor's known
//! one. Otherwise anyone who can send from the neighbor's address could end the session with a single packet
//! of state Down. A neighbor that no longer receives our packets has forgotten our discriminator but not its
//! own: its packets are accepted at once. A neighbor that restarted knows neither: the session goes down
//! after the detection time, and then its packets are accepted.
//!
//! Packets are sent at the negotiated interval minus up to 25 % (§6.8.7), and at most once a second while not
//! Up (§6.8.3). An increased interval takes effect in Up when the peer has confirmed it by Final.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::packet::{Diagnostic, Packet, State};

/// Shortest interval while the session is not Up (RFC 5880 §6.8.3).
const SLOW_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest interval, whatever is configured.
const MIN_INTERVAL: Duration = Duration::from_millis(1);

/// Configuration of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Our discriminator, unique among our sessions.
    pub discriminator: NonZeroU32,
    /// Desired Min TX Interval, 10 ms or more.
    pub desired_tx: Duration,
    /// Required Min RX Interval.
    pub required_rx: Duration,
    /// Detection multiplier: packets that the peer may miss, 1–255.
    pub multiplier: u8,
}

/// An input of the session.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// A packet for this session was received.
    Received(Packet),
    /// The time of [`Session::poll_timeout`] is reached.
    Tick,
    /// The operator disables (true) or enables the session.
    AdminDown(bool),
    /// The intervals changed.
    Reconfigure(Config),
}

/// Why a session left Up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Down {
    /// Nothing was received for the detection time.
    Expired,
    /// The neighbor is down, with this diagnostic.
    Neighbor(Diagnostic),
    /// The neighbor is administratively down; the path may be usable (RFC 5882 §3.2).
    NeighborAdmin,
    /// The session is administratively down.
    Admin,
}

/// An output of the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this packet.
    Send(Packet),
    /// The session came up.
    Up,
    /// The session left Up.
    Down(Down),
}

/// A session.
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    diagnostic: Diagnostic,
    /// The last packet of the peer; `None` if unknown or forgotten.
    remote: Option<Packet>,
    /// The interval in use; an increase waits for Final.
    tx_in_force: Duration,
    polling: bool,
    next_tx: Option<Instant>,
    detect: Option<Instant>,
    jitter: u64,
    out: VecDeque<Output>,
}

impl Session {
    /// A new session, which sends its first packet at once.
    #[must_use]
    pub fn new(config: Config, now: Instant, seed: u64) -> Self {
        Self {
            config,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: None,
            tx_in_force: config.desired_tx.max(SLOW_INTERVAL),
            polling: false,
            next_tx: Some(now),
            detect: None,
            jitter: seed | 1,
            out: VecDeque::new(),
        }
    }

    /// The state of RFC 5880 §6.8.1.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Detection time: the peer's multiplier times the larger of its transmit and our receive interval (RFC
    /// 5880 §6.8.4). `None` before a packet was received.
    #[must_use]
    pub fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote?;
        Some(self.config.required_rx.max(remote.desired_tx) * u32::from(remote.multiplier))
    }

    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When to call [`Session::handle`] with [`Input::Tick`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.next_tx, self.detect].into_iter().flatten().min()
    }

    /// Takes an input.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Received(packet) => self.received(now, packet),
            Input::Tick => {}
            Input::AdminDown(true) => self.admin_down(now),
            Input::AdminDown(false) => self.admin_up(now),
            Input::Reconfigure(config) => self.reconfigure(now, config),
        }
        self.run_timers(now);
    }

    /// RFC 5880 §6.8.6.
    fn received(&mut self, now: Instant, packet: Packet) {
        let names_us = packet.your_discriminator == self.config.discriminator.get();
        let is_known = self
            .remote
            .is_some_and(|remote| remote.my_discriminator == packet.my_discriminator);
        if !names_us && (packet.your_discriminator != 0 || (self.state == State::Up && !is_known)) {
            return;
        }
        let before = self.interval();
        self.remote = Some(packet);
        if packet.is_final && self.polling {
            self.polling = false;
            self.tx_in_force = self.wanted_tx();
        }
        if self.state == State::AdminDown {
            return;
        }
        self.detect = self.detection_time().map(|time| now + time);
        self.transition(now, &packet);
        if packet.poll {
            self.send(true); // RFC 5880 §6.5: at once
        }
        if self.interval() != before {
            self.reschedule(now);
        }
    }

    fn transition(&mut self, now: Instant, packet: &Packet) {
        match (self.state, packet.state) {
            (State::Init | State::Up, State::AdminDown) => {
                self.go_down(now, Diagnostic::NeighborDown, Down::NeighborAdmin);
            }
            (State::Down, State::Down) => self.enter(now, State::Init),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => self.come_up(now),
            (State::Up, State::Down) => {
                self.go_down(now, Diagnostic::NeighborDown, Down::Neighbor(packet.diagnostic));
            }
            _ => {}
        }
    }

    fn enter(&mut self, now: Instant, state: State) {
        self.state = state;
        self.next_tx = Some(now); // informs the peer at once
    }

    fn come_up(&mut self, now: Instant) {
        self.enter(now, State::Up);
        self.diagnostic = Diagnostic::None;
        self.change_tx();
        self.out.push_back(Output::Up);
    }

    fn go_down(&mut self, now: Instant, diagnostic: Diagnostic, why: Down) {
        let was_up = self.state == State::Up;
        self.diagnostic = diagnostic;
        self.polling = false;
        self.enter(now, State::Down);
        self.tx_in_force = self.wanted_tx();
        if was_up {
            self.out.push_back(Output::Down(why));
        }
    }

    /// RFC 5880 §6.8.16.
    fn admin_down(&mut self, now: Instant) {
        if self.state != State::AdminDown {
            self.go_down(now, Diagnostic::AdminDown, Down::Admin);
            self.state = State::AdminDown;
            self.detect = None;
        }
    }

    fn admin_up(&mut self, now: Instant) {
        if self.state == State::AdminDown {
            self.remote = None;
            self.diagnostic = Diagnostic::None;
            self.enter(now, State::Down);
        }
    }

    fn reconfigure(&mut self, now: Instant, config: Config) {
        self.config = config;
        self.change_tx();
        self.reschedule(now);
    }

    /// The interval that we want to use in this state.
    fn wanted_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.desired_tx
        } else {
            self.config.desired_tx.max(SLOW_INTERVAL)
        }
    }

    /// RFC 5880 §6.8.3: announces a change by Poll. A shorter interval is used at once, a longer one after
    /// Final.
    fn change_tx(&mut self) {
        let wanted = self.wanted_tx();
        if self.state != State::Up {
            self.tx_in_force = wanted;
            return;
        }
        self.polling = true;
        self.tx_in_force = self.tx_in_force.min(wanted);
    }

    /// The transmit interval: what we want, but not less than the peer accepts (RFC 5880 §6.8.7); `None` if
    /// it accepts no packets.
    fn interval(&self) -> Option<Duration> {
        match self.remote {
            Some(remote) if remote.required_rx.is_zero() => None,
            Some(remote) => Some(self.tx_in_force.max(remote.required_rx).max(MIN_INTERVAL)),
            None => Some(self.tx_in_force.max(MIN_INTERVAL)),
        }
    }

    fn reschedule(&mut self, now: Instant) {
        let jittered = self.interval().map(|interval| now + self.shorten(interval));
        self.next_tx = match (self.next_tx, jittered) {
            (Some(planned), Some(next)) => Some(planned.min(next)),
            (_, next) => next,
        };
    }

    /// RFC 5880 §6.8.7: minus 0–25 %, or 10–25 % with a multiplier of 1.
    fn shorten(&mut self, interval: Duration) -> Duration {
        self.jitter ^= self.jitter >> 12;
        self.jitter ^= self.jitter << 25;
        self.jitter ^= self.jitter >> 27;
        let random = u32::try_from(self.jitter.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40).unwrap_or(0);
        let least = if self.config.multiplier == 1 { 10 } else { 0 };
        interval * (100 - least - random % (26 - least)) / 100
    }

    fn send(&mut self, is_final: bool) {
        let packet = Packet {
            state: self.state,
            diagnostic: self.diagnostic,
            poll: self.polling && !is_final, // RFC 5880 §6.5: never both
            is_final,
            multiplier: self.config.multiplier,
            my_discriminator: self.config.discriminator,
            your_discriminator: self.remote.map_or(0, |remote| remote.my_discriminator.get()),
            desired_tx: self.wanted_tx(),
            required_rx: self.config.required_rx,
        };
        self.out.push_back(Output::Send(packet));
    }

    fn run_timers(&mut self, now: Instant) {
        if self.detect.is_some_and(|detect| detect <= now) {
            self.detect = None;
            self.remote = None; // RFC 5880 §6.8.1: the peer's discriminator is forgotten
            if matches!(self.state, State::Init | State::Up) {
                self.go_down(now, Diagnostic::TimeExpired, Down::Expired);
            }
        }
        if self.next_tx.is_some_and(|next| next <= now) {
            let interval = self.interval();
            self.next_tx = interval.map(|interval| now + self.shorten(interval));
            if interval.is_some() {
                self.send(false);
            }
        }
    }
}
