//! Steady streams of numbered datagrams between two namespaces, to count what is lost.
//!
//! The sender keeps to an absolute schedule (a late tick is caught up at once, not skipped), so the
//! number of packets is the time times the rate.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::failure::{Context, Failure, Result};
use crate::{ensure, netns};

const PORT: u16 = 7008;
/// Room for what the sink has not read yet.
const QUEUE: usize = 32 << 20;

/// Running streams.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    /// The highest number that arrived of each stream.
    latest: Arc<[AtomicU64]>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<BTreeSet<u64>>>,
}

/// What a stream did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Datagrams sent.
    pub sent: u64,
    /// Numbers of those that never arrived.
    pub lost: Vec<u64>,
}

impl Outcome {
    /// Nothing was lost, of at least this number.
    pub fn check_no_loss(&self, at_least: u64) -> Result<()> {
        ensure!(self.sent >= at_least, "only {} packets were sent", self.sent);
        ensure!(
            self.lost.is_empty(),
            "{} of {} packets lost: {:?}",
            self.lost.len(),
            self.sent,
            self.lost
        );
        Ok(())
    }
}

impl Flow {
    /// Starts `rate` datagrams per second from one namespace to an address in another; answers when
    /// the first ones have arrived.
    pub fn start(from: &str, to: &str, address: IpAddr, rate: u32) -> Result<Self> {
        let any: IpAddr = if address.is_ipv4() {
            [0, 0, 0, 0].into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        Self::start_many(from, to, (any, address), 1, rate)
    }

    /// The same in several streams, each from a port of its own, which take turns: equal paths all carry some.
    pub fn start_many(
        from: &str,
        to: &str,
        (source, target): (IpAddr, IpAddr),
        streams: usize,
        rate: u32,
    ) -> Result<Self> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
        let sink = netns::within(to, || UdpSocket::bind(any).context("binding the sink"))?;
        // On a busy machine the sink is late: what waits for it is not lost. Where it is not allowed, the default stays.
        let _ = setsockopt(&sink, sockopt::RcvBufForce, &QUEUE);
        sink.set_read_timeout(Some(Duration::from_millis(300)))
            .context("sink timeout")?;
        let sources = netns::within(from, || {
            let bind = |_| UdpSocket::bind((source, 0)).context("binding a source");
            (0..streams).map(bind).collect::<Result<Vec<_>>>()
        })?;
        let (stop, sent, received) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let latest: Arc<[AtomicU64]> = (0..streams).map(|_| AtomicU64::new(0)).collect();
        let sender = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let (target, interval) = (SocketAddr::new(target, PORT), Duration::from_secs(1) / rate);
            move || send(&sources, target, interval, &stop, &sent)
        });
        let receiver = std::thread::spawn({
            let (stop, received, latest) = (Arc::clone(&stop), Arc::clone(&received), Arc::clone(&latest));
            move || receive(&sink, &stop, &received, &latest)
        });
        let flow = Self {
            stop,
            sent,
            received,
            latest,
            sender: Some(sender),
            receiver: Some(receiver),
        };
        flow.wait_for(10)?;
        Ok(flow)
    }

    /// The number of the next datagram: marks a moment.
    pub fn mark(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Waits until this number of further datagrams has arrived: the stream still flows.
    pub fn wait_for(&self, more: u64) -> Result<()> {
        let target = self.received.load(Ordering::SeqCst) + more;
        crate::wait::until(
            Duration::from_secs(10),
            format_args!("{more} more datagrams"),
            || {
                let now = self.received.load(Ordering::SeqCst);
                if now >= target {
                    Ok(())
                } else {
                    crate::wait::not_yet(format!("{} are missing", target - now))
                }
            },
        )
    }

    /// Fails while a stream has not arrived since the datagram of that number.
    pub fn all_arrive_since(&self, mark: u64) -> Result<()> {
        let silent = self
            .latest
            .iter()
            .filter(|latest| latest.load(Ordering::SeqCst) < mark)
            .count();
        ensure!(
            silent == 0,
            "{silent} of {} streams are silent",
            self.latest.len()
        );
        Ok(())
    }

    /// Stops the sender, lets what is under way arrive, and counts.
    pub fn finish(mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::SeqCst);
        let panicked = |_| Failure::new("a thread of the stream panicked");
        let sender = self.sender.take().map(JoinHandle::join);
        sender.transpose().map_err(panicked)?;
        let seen = self
            .receiver
            .take()
            .map(JoinHandle::join)
            .transpose()
            .map_err(panicked)?
            .unwrap_or_default();
        let sent = self.mark();
        Ok(Outcome {
            sent,
            lost: (0..sent).filter(|number| !seen.contains(number)).collect(),
        })
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
    }
}

fn send(sources: &[UdpSocket], target: SocketAddr, interval: Duration, stop: &AtomicBool, sent: &AtomicU64) {
    let mut next = Instant::now();
    for (number, source) in (0u64..).zip(sources.iter().cycle()) {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        // What the kernel refuses to send (no route) is lost like any other.
        let _ = source.send_to(&number.to_be_bytes(), target);
        sent.store(number + 1, Ordering::SeqCst);
        next += interval;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

fn receive(sink: &UdpSocket, stop: &AtomicBool, received: &AtomicU64, latest: &[AtomicU64]) -> BTreeSet<u64> {
    let mut seen = BTreeSet::new();
    let mut buffer = [0u8; 64];
    loop {
        match sink.recv(&mut buffer) {
            Ok(8) => {
                let number: [u8; 8] = buffer[..8].try_into().unwrap_or_default();
                let number = u64::from_be_bytes(number);
                seen.insert(number);
                if let Some(latest) = latest.get(number as usize % latest.len()) {
                    latest.fetch_max(number, Ordering::SeqCst);
                }
                received.store(seen.len() as u64, Ordering::SeqCst);
            }
            Ok(_) => {}
            // Quiet for a read timeout after the sender's end: nothing is under way any more.
            Err(_) if stop.load(Ordering::SeqCst) => return seen,
            Err(_) => {}
        }
    }
}
