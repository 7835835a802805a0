//! Two sessions exchange packets in virtual time.
#![cfg(test)]

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bfd::{Config, Diagnostic, Down, Input, Output, Packet, Session, State};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn config(discriminator: u32, interval: u64) -> Config {
    Config {
        discriminator: NonZeroU32::new(discriminator).unwrap(),
        desired_tx: MS * interval as u32,
        required_rx: MS * interval as u32,
        multiplier: 3,
    }
}

/// Two sessions and the packets between them.
struct Pair {
    now: Instant,
    ends: [Session; 2],
    /// Arrival, receiver, packet.
    wire: Vec<(Instant, usize, Packet)>,
    delay: Duration,
    cut: [bool; 2],
    /// When each end last received a packet.
    last_received: [Instant; 2],
    events: [Vec<Output>; 2],
    sent: [Vec<(Instant, Packet)>; 2],
}

impl Pair {
    fn new(a: Config, b: Config) -> Self {
        let now = Instant::now();
        Self {
            now,
            ends: [Session::new(a, now, 7), Session::new(b, now, 8)],
            wire: Vec::new(),
            delay: MS,
            cut: [false; 2],
            last_received: [now; 2],
            events: Default::default(),
            sent: Default::default(),
        }
    }

    fn collect(&mut self) {
        for end in 0..2 {
            while let Some(output) = self.ends[end].poll_output() {
                if let Output::Send(packet) = output {
                    self.sent[end].push((self.now, packet));
                    if !self.cut[end] {
                        let packet = Packet::decode(&packet.encode()).unwrap();
                        self.wire.push((self.now + self.delay, 1 - end, packet));
                    }
                } else {
                    self.events[end].push(output);
                }
            }
        }
    }

    fn input(&mut self, end: usize, input: Input) {
        self.ends[end].handle(self.now, input);
        self.collect();
    }

    fn run(&mut self, time: Duration) {
        let stop = self.now + time;
        loop {
            self.collect();
            let arrival = self.wire.iter().map(|(at, _, _)| *at).min();
            let timers = self.ends.iter().filter_map(Session::poll_timeout);
            let Some(next) = timers.chain(arrival).min().filter(|next| *next <= stop) else {
                break;
            };
            self.now = self.now.max(next);
            if let Some(index) = self.wire.iter().position(|(at, _, _)| *at <= self.now) {
                let (_, end, packet) = self.wire.remove(index);
                self.last_received[end] = self.now;
                self.input(end, Input::Received(packet));
            }
            for end in 0..2 {
                if self.ends[end].poll_timeout().is_some_and(|at| at <= self.now) {
                    self.input(end, Input::Tick);
                    assert!(
                        self.ends[end].poll_timeout().is_none_or(|at| at > self.now),
                        "no progress"
                    );
                }
            }
        }
        self.now = stop;
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

#[test]
fn comes_up_and_speeds_up_after_poll_and_final() {
    let mut pair = Pair::new(config(1, 50), config(2, 100));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
    assert_eq!(pair.events, [vec![Output::Up], vec![Output::Up]]);
    // The slower of the transmit and receive intervals: 100 ms in both directions, 300 ms detection.
    assert_eq!(pair.ends[0].detection_time(), Some(MS * 300));
    let early = pair.sent[0]
        .iter()
        .filter(|(_, packet)| packet.state != State::Up)
        .count();
    assert!(early <= 4, "slow start: {early} packets before Up");
    assert!(pair.sent[0].iter().any(|(_, packet)| packet.poll));
    assert!(pair.sent[1].iter().any(|(_, packet)| packet.is_final));
    assert!(
        pair.sent[0]
            .iter()
            .all(|(_, packet)| !(packet.poll && packet.is_final))
    );
    let last: Vec<Instant> = pair.sent[0].iter().rev().take(10).map(|(at, _)| *at).collect();
    for gap in last.windows(2).map(|pair| pair[0] - pair[1]) {
        assert!((MS * 75..=MS * 100).contains(&gap), "jittered interval: {gap:?}");
    }
}

#[test]
fn silence_is_detected_in_time() {
    let mut pair = Pair::new(config(1, 50), config(2, 50));
    pair.run(Duration::from_secs(5));
    pair.cut[1] = true;
    pair.run(MS * 2); // packets in flight arrive
    let deadline = pair.last_received[0] + MS * 150;
    pair.run(deadline - MS - pair.now);
    assert_eq!(pair.ends[0].state(), State::Up);
    pair.run(MS * 2);
    assert_eq!(pair.events[0].last(), Some(&Output::Down(Down::Expired)));
    pair.run(MS * 60);
    // The other end still receives our packets and is sent the change.
    assert_eq!(
        pair.events[1].last(),
        Some(&Output::Down(Down::Neighbor(Diagnostic::TimeExpired)))
    );
    pair.cut[1] = false;
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn admin_down_is_sent_and_ends() {
    let mut pair = Pair::new(config(1, 50), config(2, 50));
    pair.run(Duration::from_secs(5));
    pair.input(0, Input::AdminDown(true));
    pair.run(Duration::from_secs(3));
    assert_eq!(pair.states(), [State::AdminDown, State::Down]);
    assert_eq!(pair.events[1].last(), Some(&Output::Down(Down::NeighborAdmin)));
    pair.input(0, Input::AdminDown(false));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.states(), [State::Up; 2]);
}

#[test]
fn a_longer_interval_waits_for_final() {
    let mut pair = Pair::new(config(1, 50), config(2, 50));
    pair.run(Duration::from_secs(5));
    pair.cut[1] = true; // no Final arrives
    pair.input(0, Input::Reconfigure(config(1, 100)));
    let from = pair.sent[0].len();
    pair.run(MS * 120);
    assert!(pair.sent[0].len() - from >= 2, "still at the old interval");
    assert!(
        pair.sent[0][from..]
            .iter()
            .all(|(_, packet)| packet.poll && packet.desired_tx == MS * 100)
    );
    pair.cut[1] = false;
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.ends[1].detection_time(), Some(MS * 300));
}

#[test]
fn another_sessions_packet_is_ignored() {
    let mut pair = Pair::new(config(1, 50), config(2, 50));
    pair.run(Duration::from_secs(5));
    let mut stray = pair.sent[1].last().unwrap().1;
    stray.your_discriminator = 99;
    stray.state = State::Down;
    pair.input(0, Input::Received(stray));
    assert_eq!(pair.ends[0].state(), State::Up);
}

#[test]
fn an_up_packet_has_one_of_the_two_discriminators() {
    let mut pair = Pair::new(config(1, 50), config(2, 50));
    pair.run(Duration::from_secs(5));
    let last = pair.sent[1].last().unwrap().1;
    let down = |my_discriminator: u32, your_discriminator: u32| Packet {
        state: State::Down,
        my_discriminator: NonZeroU32::new(my_discriminator).unwrap(),
        your_discriminator,
        ..last
    };
    // A packet with neither discriminator; also with the other state that allows it.
    pair.input(0, Input::Received(down(77, 0)));
    let admin = Packet {
        state: State::AdminDown,
        ..down(77, 0)
    };
    pair.input(0, Input::Received(admin));
    assert_eq!(pair.ends[0].state(), State::Up);
    // Nor does it keep a session up whose neighbor is silent.
    pair.cut[1] = true;
    pair.run(MS * 2);
    for _ in 0..4 {
        pair.run(MS * 40);
        pair.input(0, Input::Received(down(77, 0)));
    }
    assert_eq!(pair.events[0].last(), Some(&Output::Down(Down::Expired)));
    // The neighbor no longer receives our packets, or restarted and learned our discriminator.
    for (my_discriminator, your_discriminator) in [(2, 0), (77, 1)] {
        let mut pair = Pair::new(config(1, 50), config(2, 50));
        pair.run(Duration::from_secs(5));
        pair.input(0, Input::Received(down(my_discriminator, your_discriminator)));
        assert_eq!(pair.ends[0].state(), State::Down);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Cuts, operator commands and changed intervals in any order: afterwards both ends are Up.
    #[test]
    fn recovers_after_disturbances(steps in proptest::collection::vec((0u8..6, 1u64..400, 10u64..120), 0..25)) {
        let mut pair = Pair::new(config(1, 50), config(2, 30));
        for (what, time, interval) in steps {
            match what {
                0 => pair.cut[0] = !pair.cut[0],
                1 => pair.cut[1] = !pair.cut[1],
                2 => pair.input(0, Input::AdminDown(true)),
                3 => pair.input(0, Input::AdminDown(false)),
                4 => pair.input(1, Input::Reconfigure(config(2, interval))),
                _ => pair.delay = MS * (time / 10) as u32,
            }
            pair.run(MS * time as u32);
        }
        pair.cut = [false; 2];
        pair.delay = MS;
        pair.input(0, Input::AdminDown(false));
        pair.run(Duration::from_secs(10));
        prop_assert_eq!(pair.states(), [State::Up; 2]);
        let ups = |end: usize| pair.events[end].iter().filter(|event| **event == Output::Up).count();
        let downs = |end: usize| pair.events[end].len() - ups(end);
        prop_assert_eq!((ups(0), ups(1)), (downs(0) + 1, downs(1) + 1), "up and down alternate");
    }

    /// A silent peer never lets a session come up, whatever it is sent before.
    #[test]
    fn never_up_without_receiving(time in 1u64..20_000) {
        let mut pair = Pair::new(config(1, 50), config(2, 50));
        pair.cut[0] = true; // the peer does not receive our packets
        pair.run(MS * time as u32);
        prop_assert_ne!(pair.ends[0].state(), State::Up);
    }
}
