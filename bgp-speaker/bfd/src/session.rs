//! A session with one neighbor (RFC 5880 §6.8): state machine, timers, Poll sequence.
//!
//! | state | peer says AdminDown | Down | Init | Up | detection time passes |
//! |---|---|---|---|---|---|
//! | Down | – | Init | Up | – | – |
//! | Init | Down | – | Up | Up | Down |
//! | Up | Down | Down | – | – | Down |
//!
//! Deviation from RFC 5880 §6.8.6: while Up, a packet must have our discriminator, or the neighbor's as we know it.
//! Whoever can send from the neighbor's address could otherwise end the session with one packet of state Down. A neighbor
//! that hears us no more has forgotten our discriminator but not its own, so that it is believed at once. One that has
//! restarted knows neither: the session is down after the detection time, and then it is believed.
//!
//! Packets go out at the agreed interval less up to a quarter (§6.8.7), at most once a second while not Up
//! (§6.8.3). An interval that grows while Up takes effect when the peer has confirmed it by Final.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use crate::packet::{Diagnostic, Packet, State};

/// While the session is not Up, no faster than this (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// No faster than this, whatever is configured: time must pass between packets.
const FASTEST: Duration = Duration::from_millis(1);

/// What a session is configured with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// Our discriminator, unique among our sessions.
    pub discriminator: NonZeroU32,
    /// How often we would like to send, 10 ms or more.
    pub desired_tx: Duration,
    /// How often we can receive.
    pub required_rx: Duration,
    /// Packets of ours that the peer may miss, 1–255.
    pub multiplier: u8,
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// A packet that was addressed to this session came in.
    Received(Packet),
    /// The clock reached [`Session::poll_timeout`].
    Tick,
    /// The operator takes the session down (true) or lets it come up again.
    AdminDown(bool),
    /// Other intervals.
    Reconfigure(Config),
}

/// Why a session is down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Down {
    /// Nothing heard for the detection time.
    Expired,
    /// The neighbor says so.
    Neighbor(Diagnostic),
    /// The neighbor's operator wants it; the path may be fine (RFC 5882 §3.2).
    NeighborAdmin,
    /// Our operator wants it.
    Admin,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this.
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
    /// The peer as last heard; `None` when nothing is known of it.
    remote: Option<Packet>,
    /// The interval in force, which trails a longer one until Final comes.
    tx_in_force: Duration,
    polling: bool,
    next_tx: Option<Instant>,
    detect: Option<Instant>,
    jitter: u64,
    out: VecDeque<Output>,
}

impl Session {
    /// A session that begins to send at once.
    #[must_use]
    pub fn new(config: Config, now: Instant, seed: u64) -> Self {
        Self {
            config,
            state: State::Down,
            diagnostic: Diagnostic::None,
            remote: None,
            tx_in_force: config.desired_tx.max(SLOW),
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

    /// Silence of this length takes the session down: the peer's multiplier times the slower of what it sends
    /// and what we receive (RFC 5880 §6.8.4). `None` before anything was heard.
    #[must_use]
    pub fn detection_time(&self) -> Option<Duration> {
        let remote = self.remote?;
        Some(self.config.required_rx.max(remote.desired_tx) * u32::from(remote.multiplier))
    }

    /// The next thing to do.
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
        self.fire(now);
    }

    /// RFC 5880 §6.8.6.
    fn received(&mut self, now: Instant, packet: Packet) {
        let knows_us = packet.yours == self.config.discriminator.get();
        let is_known = self.remote.is_some_and(|remote| remote.mine == packet.mine);
        if !knows_us && (packet.yours != 0 || (self.state == State::Up && !is_known)) {
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
            self.send(true); // RFC 5880 §6.5: at once, whatever the timer says
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
        self.next_tx = Some(now); // the peer learns of it at once
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

    /// What we want to send at, in this state.
    fn wanted_tx(&self) -> Duration {
        if self.state == State::Up {
            self.config.desired_tx
        } else {
            self.config.desired_tx.max(SLOW)
        }
    }

    /// RFC 5880 §6.8.3: a change is told by Poll; a shorter interval holds at once, a longer one after Final.
    fn change_tx(&mut self) {
        let wanted = self.wanted_tx();
        if self.state != State::Up {
            self.tx_in_force = wanted;
            return;
        }
        self.polling = true;
        self.tx_in_force = self.tx_in_force.min(wanted);
    }

    /// How often we send: what we want, but no more than the peer can take (RFC 5880 §6.8.7); `None` when it can
    /// take none.
    fn interval(&self) -> Option<Duration> {
        match self.remote {
            Some(remote) if remote.required_rx.is_zero() => None,
            Some(remote) => Some(self.tx_in_force.max(remote.required_rx).max(FASTEST)),
            None => Some(self.tx_in_force.max(FASTEST)),
        }
    }

    fn reschedule(&mut self, now: Instant) {
        let jittered = self.interval().map(|interval| now + self.shorten(interval));
        self.next_tx = match (self.next_tx, jittered) {
            (Some(planned), Some(next)) => Some(planned.min(next)),
            (_, next) => next,
        };
    }

    /// RFC 5880 §6.8.7: less 0–25 %, and less 10–25 % with a multiplier of 1.
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
            mine: self.config.discriminator,
            yours: self.remote.map_or(0, |remote| remote.mine.get()),
            desired_tx: self.wanted_tx(),
            required_rx: self.config.required_rx,
        };
        self.out.push_back(Output::Send(packet));
    }

    fn fire(&mut self, now: Instant) {
        if self.detect.is_some_and(|detect| detect <= now) {
            self.detect = None;
            self.remote = None; // RFC 5880 §6.8.1: its discriminator is forgotten
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
