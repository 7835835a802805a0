//! Many numbered streams from one machine to another, so that equal paths all carry some; what is lost, and for how long.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::failure::{Context, Failure, Result};
use crate::machine::Host;
use crate::wait;

const PORT: u16 = 7009;
/// Streams in one direction, each with a source port of its own.
const STREAMS: u64 = 32;
/// Packets per second of all of them.
pub const RATE: u32 = 2000;

/// The streams of one direction.
#[derive(Debug)]
pub struct Streams {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<Vec<bool>>>,
}

/// What was lost of a part of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Loss {
    /// Packets.
    pub packets: u64,
    /// How long the stream that was silent longest was silent, in seconds.
    pub longest: f64,
}

impl Loss {
    /// Both directions together.
    pub fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            longest: self.longest.max(other.longest),
        }
    }
}

impl Streams {
    /// Starts them; answers when packets arrive.
    pub fn start(from: &Host, to: &Host, source: Ipv4Addr, target: Ipv4Addr) -> Result<Self> {
        let sink = to.within(|| UdpSocket::bind((target, PORT)).context("the sink"))?;
        sink.set_read_timeout(Some(Duration::from_millis(300)))
            .context("sink timeout")?;
        let sockets = from.within(|| {
            (0..STREAMS)
                .map(|_| UdpSocket::bind((source, 0)).context("a source"))
                .collect::<Result<Vec<_>>>()
        })?;
        let (stop, sent, received) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicU64::new(0)),
        );
        let sender = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || send(&sockets, SocketAddr::from((target, PORT)), &stop, &sent)
        });
        let receiver = std::thread::spawn({
            let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
            move || receive(&sink, &stop, &received)
        });
        let streams = Self {
            stop,
            sent,
            received,
            sender: Some(sender),
            receiver: Some(receiver),
        };
        streams.wait_for(STREAMS * 4)?;
        Ok(streams)
    }

    /// The number of the next packet: marks a moment.
    pub fn mark(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Waits until so many more packets have arrived.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let target = self.received.load(Ordering::SeqCst) + more;
        wait::until(Duration::from_secs(20), "packets of the streams", || {
            let now = self.received.load(Ordering::SeqCst);
            if now >= target {
                Ok(())
            } else {
                wait::not_yet(format!("{} are missing", target - now))
            }
        })
    }

    /// Ends them; what was lost between each mark and the next.
    pub fn finish(mut self, marks: &[u64]) -> Result<Vec<Loss>> {
        self.stop.store(true, Ordering::SeqCst);
        let panicked = |_| Failure::new("a thread of the streams panicked");
        self.sender
            .take()
            .map(JoinHandle::join)
            .transpose()
            .map_err(panicked)?;
        let seen = self
            .receiver
            .take()
            .map(JoinHandle::join)
            .transpose()
            .map_err(panicked)?
            .unwrap_or_default();
        let end = self.mark();
        let bounds = marks.iter().copied().chain([end]);
        let bounds: Vec<u64> = bounds.collect();
        Ok(bounds
            .windows(2)
            .map(|part| loss(&seen, part[0]..part[1]))
            .collect())
    }
}

fn loss(seen: &[bool], part: std::ops::Range<u64>) -> Loss {
    let is_lost = |number: u64| !seen.get(number as usize).copied().unwrap_or(false);
    let packets = part.clone().filter(|number| is_lost(*number)).count() as u64;
    let run_of = |stream: u64| {
        let (mut longest, mut run) = (0u64, 0u64);
        for number in part.clone().filter(|number| number % STREAMS == stream) {
            run = if is_lost(number) { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        longest
    };
    let longest = (0..STREAMS).map(run_of).max().unwrap_or(0);
    Loss {
        packets,
        longest: (longest * STREAMS) as f64 / f64::from(RATE),
    }
}

fn send(sockets: &[UdpSocket], target: SocketAddr, stop: &AtomicBool, sent: &AtomicU64) {
    let mut next = Instant::now();
    while !stop.load(Ordering::SeqCst) {
        let number = sent.load(Ordering::SeqCst);
        // What the kernel refuses to send (no route) is lost like any other.
        let socket = &sockets[(number % STREAMS) as usize];
        let _ = socket.send_to(&number.to_be_bytes(), target);
        sent.store(number + 1, Ordering::SeqCst);
        next += Duration::from_secs(1) / RATE;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(sink: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) -> Vec<bool> {
    let mut seen = Vec::new();
    let mut buffer = [0u8; 16];
    loop {
        match sink.recv(&mut buffer) {
            Ok(8) => {
                let number: [u8; 8] = buffer[..8].try_into().unwrap_or_default();
                let number = u64::from_be_bytes(number) as usize;
                if seen.len() <= number {
                    seen.resize(number + 1, false);
                }
                seen[number] = true;
                received.fetch_add(1, Ordering::SeqCst);
            }
            Ok(_) => {}
            // Quiet for a read timeout after the sender's end: nothing is under way any more.
            Err(_) if stop.load(Ordering::SeqCst) => return seen,
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted_by_stream() {
        let mut seen = vec![true; 1000];
        // Stream 3 three times in a row, stream 4 twice with one between.
        for number in [3, 3 + STREAMS, 3 + 2 * STREAMS, 4, 4 + 2 * STREAMS] {
            seen[number as usize] = false;
        }
        let all = loss(&seen, 0..1000);
        assert_eq!(all.packets, 5);
        assert!((all.longest - (3 * STREAMS) as f64 / f64::from(RATE)).abs() < 1e-9);
        assert_eq!(loss(&seen, 500..1000), Loss::default());
        assert_eq!(loss(&seen, 990..1010).packets, 10);
    }
}
