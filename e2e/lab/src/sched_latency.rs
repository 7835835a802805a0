//! How long the machine itself keeps threads waiting: the measure for what is promised in milliseconds.
//!
//! On each processor a datagram goes at a steady pace between two threads that have real-time priority as BFD has; one more
//! thread, with ordinary priority, only wakes up at a steady pace. What comes late there is the machine's fault and not that
//! of who is tested, but for the CPU time that these used meanwhile.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use crate::failure::{Context, Failure, Result};
use crate::netns;

/// Between two datagrams, and between two times of waking up.
const INTERVAL: Duration = Duration::from_millis(5);

/// Threads that look at the clock until this is dropped.
#[derive(Debug)]
pub struct LatencyMonitor {
    stop: Arc<AtomicBool>,
    /// One for each processor.
    realtime: Vec<Arc<ThreadLatency>>,
    ordinary: Arc<ThreadLatency>,
    threads: Vec<JoinHandle<()>>,
}

/// How late threads were at most.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct SchedLatency {
    /// A thread with real-time priority, on any processor, in seconds.
    #[serde(rename = "first")]
    pub realtime: f64,
    /// A thread with ordinary priority, in seconds.
    pub ordinary: f64,
}

/// What one thread saw, in nanoseconds.
#[derive(Debug)]
struct ThreadLatency {
    start: Instant,
    /// When it was on time last, counted from the start.
    last: AtomicU64,
    longest: AtomicU64,
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl ThreadLatency {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        })
    }

    /// It runs now; `excluded` of the time since the last time is not the machine's.
    fn tick(&self, excluded: Duration) {
        let now = nanos(self.start.elapsed());
        let gap = now - self.last.swap(now, Ordering::SeqCst);
        self.longest
            .fetch_max(gap.saturating_sub(nanos(excluded)), Ordering::SeqCst);
    }

    /// The longest lateness since this was asked last, with one that is not over yet.
    fn latency(&self) -> f64 {
        let open = nanos(self.start.elapsed()).saturating_sub(self.last.load(Ordering::SeqCst));
        let gap = Duration::from_nanos(self.longest.swap(0, Ordering::SeqCst).max(open));
        gap.saturating_sub(INTERVAL).as_secs_f64()
    }
}

impl LatencyMonitor {
    /// Looks at these processors, by the loopback of a namespace. `used` answers the CPU time that those who are tested have used so far.
    pub fn start<U>(netns: &str, processors: &[usize], used: U) -> Result<Self>
    where
        U: Fn() -> Duration + Clone + Send + 'static,
    {
        let mut monitor = Self {
            stop: Arc::default(),
            realtime: processors.iter().map(|_| ThreadLatency::new()).collect(),
            ordinary: ThreadLatency::new(),
            threads: Vec::new(),
        };
        for (processor, thread) in processors.iter().zip(monitor.realtime.clone()) {
            let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("a socket of the monitor");
            let (source, sink) = netns::within(netns, || Ok((bind()?, bind()?)))?;
            let target = sink.local_addr().context("a socket of the monitor")?;
            sink.set_read_timeout(Some(INTERVAL * 10)).context("timeout")?;
            let stop = Arc::clone(&monitor.stop);
            monitor.spawn_realtime(*processor, move || {
                while !stop.load(Ordering::SeqCst) {
                    let _ = source.send_to(&[0], target);
                    std::thread::sleep(INTERVAL);
                }
            })?;
            let (stop, used) = (Arc::clone(&monitor.stop), used.clone());
            monitor.spawn_realtime(*processor, move || {
                let mut before = used();
                while !stop.load(Ordering::SeqCst) {
                    if sink.recv(&mut [0; 8]).is_ok() {
                        let now = used();
                        thread.tick(now.saturating_sub(before));
                        before = now;
                    }
                }
            })?;
        }
        let (stop, thread) = (Arc::clone(&monitor.stop), Arc::clone(&monitor.ordinary));
        monitor.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                thread.tick(Duration::ZERO);
                std::thread::sleep(INTERVAL);
            }
        }));
        Ok(monitor)
    }

    /// Looks at all processors, and blames the machine for everything.
    pub fn of_machine(netns: &str) -> Result<Self> {
        Self::start(netns, &processors()?, || Duration::ZERO)
    }

    /// Starts a thread with real-time priority where that is allowed, on one processor.
    fn spawn_realtime(&mut self, processor: usize, job: impl FnOnce() + Send + 'static) -> Result<()> {
        let (ready, is_ready) = std::sync::mpsc::channel();
        self.threads.push(std::thread::spawn(move || {
            // The priority first, and on any processor: it is not given to who may run on one only.
            let prepared = may_run_on(0..CpuSet::count()).and_then(|()| {
                let priority = bfd::RealtimeGuard::begin();
                pin(processor).map(|()| priority)
            });
            let (priority, outcome) = match prepared {
                Ok(priority) => (Some(priority), Ok(())),
                Err(failure) => (None, Err(failure)),
            };
            let _ = ready.send(outcome);
            if priority.is_some() {
                job();
            }
        }));
        is_ready.recv().map_err(|_| Failure::new("the monitor ended"))?
    }

    /// How late threads were since this was asked last.
    pub fn latency(&self) -> SchedLatency {
        SchedLatency {
            realtime: self
                .realtime
                .iter()
                .map(|thread| thread.latency())
                .fold(0.0, f64::max),
            ordinary: self.ordinary.latency(),
        }
    }
}

impl Drop for LatencyMonitor {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Processors of the calling thread.
fn processors() -> Result<Vec<usize>> {
    let set = sched_getaffinity(Pid::from_raw(0)).context("processors")?;
    let is_set = |number: &usize| set.is_set(*number).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(is_set).collect())
}

/// The kernel leaves those out that there are not.
fn may_run_on(processors: impl IntoIterator<Item = usize>) -> Result<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(processor).context("a processor")?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("processors of a thread")
}

/// Keeps the calling thread, and those that it starts, on one processor.
pub fn pin(processor: usize) -> Result<()> {
    may_run_on([processor])
}

/// CPU time of threads of that name, which these processes have now, whenever it is asked for.
pub fn cpu_of_threads(
    name: &str,
    processes: &[Pid],
) -> Result<impl Fn() -> Duration + Clone + Send + 'static> {
    let mut files = Vec::new();
    for process in processes {
        let dir = format!("/proc/{process}/task");
        for thread in std::fs::read_dir(&dir).context(&dir)? {
            let dir = thread.context(&dir)?.path();
            if std::fs::read_to_string(dir.join("comm")).is_ok_and(|comm| comm.trim() == name) {
                files.push(dir.join("schedstat"));
            }
        }
    }
    if files.is_empty() {
        return Err(Failure::new(format!("no thread is called {name}")));
    }
    let of = |file: &std::path::PathBuf| -> Option<u64> {
        // Nanoseconds on a processor, nanoseconds of waiting, number of times.
        let text = std::fs::read_to_string(file).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    Ok(move || Duration::from_nanos(files.iter().filter_map(of).sum()))
}
