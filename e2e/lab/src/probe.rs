//! All pairs: one echo and one TCP connection per ordered pair and family.
//!
//! Sources work in parallel, each in a thread inside its own namespace. A TCP server in every
//! namespace answers with the client address it sees, so that the client learns whether somebody
//! rewrote its address on the way.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::failure::{Context, Failure, Result};
use crate::icmp;
use crate::netns;

/// The port of the lab's TCP servers.
pub const PORT: u16 = 7007;
const LIMIT: Duration = Duration::from_secs(3);

/// A namespace that can send and be reached.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Name of the machine or pod, and of its namespace.
    pub name: String,
    /// Addresses at which others reach it.
    pub addresses: Vec<IpAddr>,
    /// Addresses it may be seen with, empty if these are `addresses`.
    pub seen_as: Vec<IpAddr>,
}

/// What a round of probes found.
#[derive(Debug, Default)]
pub struct Matrix {
    /// Probes made.
    pub attempts: usize,
    /// Time each success took.
    pub times: Vec<Duration>,
    /// `source → target: why` of each failure.
    pub failures: Vec<String>,
}

impl Matrix {
    /// Fails with every failed pair as evidence.
    pub fn check(self, what: &str) -> Result<Self> {
        if self.failures.is_empty() && self.attempts > 0 {
            return Ok(self);
        }
        let title = format!("{what}: {} of {} failed", self.failures.len(), self.attempts);
        let mut pairs = self.failures;
        let more = pairs.len().saturating_sub(24);
        pairs.truncate(24);
        if more > 0 {
            pairs.push(format!("… and {more} more"));
        }
        Err(Failure::new(title).evidence("pairs", pairs.join("\n")))
    }

    /// The middle time of the successes.
    pub fn median(&self) -> Duration {
        let mut times = self.times.clone();
        times.sort();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }

    fn merge(mut self, other: Self) -> Self {
        self.attempts += other.attempts;
        self.times.extend(other.times);
        self.failures.extend(other.failures);
        self
    }
}

/// TCP servers in namespaces; they stop when this is dropped.
#[derive(Debug)]
pub struct Servers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Starts a server in each endpoint's namespace; they listen when this returns.
    pub fn start(endpoints: &[Endpoint]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for endpoint in endpoints {
            let listener = netns::within(&endpoint.name, || {
                let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
                TcpListener::bind(any).context(format!("listening on port {PORT} in {}", endpoint.name))
            })?;
            let stop = Arc::clone(&stop);
            threads.push(std::thread::spawn(move || serve(&listener, &stop)));
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::from(100u8)), Ok(1)) {
            continue;
        }
        if let Ok((mut client, address)) = listener.accept() {
            let _ = client.write_all(address.ip().to_canonical().to_string().as_bytes());
        }
    }
}

/// One echo from every source to every address of every target but itself.
pub fn ping(sources: &[Endpoint], targets: &[Endpoint]) -> Result<Matrix> {
    each_source(sources, |index, source| {
        let addresses = names_by_address(source, targets);
        let list: Vec<IpAddr> = addresses.keys().copied().collect();
        let id = u16::try_from(index).context("source number")? ^ 0x5050;
        let answers = icmp::ping_all(&list, id, LIMIT)?;
        let mut matrix = Matrix {
            attempts: list.len(),
            ..Matrix::default()
        };
        for (address, target) in &addresses {
            match answers.get(address) {
                Some(time) => matrix.times.push(*time),
                None => matrix
                    .failures
                    .push(format!("{} → {target} {address}: no echo reply", source.name)),
            }
        }
        Ok(matrix)
    })
}

/// One TCP connection from every source to every address of every target but itself.
pub fn tcp(sources: &[Endpoint], targets: &[Endpoint]) -> Result<Matrix> {
    each_source(sources, |_, source| {
        let mut matrix = Matrix::default();
        for (address, target) in names_by_address(source, targets) {
            matrix.attempts += 1;
            let start = Instant::now();
            match connect(source, address) {
                Ok(()) => matrix.times.push(start.elapsed()),
                Err(why) => {
                    matrix
                        .failures
                        .push(format!("{} → {target} {address}: {}", source.name, why.summary()));
                }
            }
        }
        Ok(matrix)
    })
}

fn connect(source: &Endpoint, address: IpAddr) -> Result<()> {
    let socket = SocketAddr::new(address, PORT);
    let mut stream = TcpStream::connect_timeout(&socket, LIMIT).context("TCP connection")?;
    stream.set_read_timeout(Some(LIMIT)).context("read timeout")?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("reading the server's answer")?;
    let seen: IpAddr = answer
        .parse()
        .context(format!("the server's answer {answer:?}"))?;
    let allowed = if source.seen_as.is_empty() {
        &source.addresses
    } else {
        &source.seen_as
    };
    crate::ensure!(
        allowed.contains(&seen),
        "the receiver saw {seen}, which is not the sender's own address"
    );
    Ok(())
}

fn names_by_address(source: &Endpoint, targets: &[Endpoint]) -> BTreeMap<IpAddr, String> {
    let others = targets.iter().filter(|target| target.name != source.name);
    others
        .flat_map(|t| t.addresses.iter().map(|a| (*a, t.name.clone())))
        .collect()
}

fn each_source(
    sources: &[Endpoint],
    probe: impl Fn(usize, &Endpoint) -> Result<Matrix> + Sync,
) -> Result<Matrix> {
    std::thread::scope(|scope| {
        let probe = &probe;
        let run = |(index, source): (usize, &'_ Endpoint)| {
            netns::enter(&source.name)?;
            probe(index, source).map_err(|f| f.during(&source.name))
        };
        let threads: Vec<_> = sources
            .iter()
            .enumerate()
            .map(|numbered| scope.spawn(move || run(numbered)))
            .collect();
        threads.into_iter().try_fold(Matrix::default(), |all, thread| {
            let one = thread
                .join()
                .map_err(|_| Failure::new("a probe thread panicked"))??;
            Ok(all.merge(one))
        })
    })
}
