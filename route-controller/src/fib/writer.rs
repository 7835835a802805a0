//! The thread that makes bulk changes, so that the next are prepared while the kernel is at work on the last.
//!
//! [`BATCH`] messages go with one system call, with an acknowledgement of the last alone; errors come by themselves and
//! are matched by sequence number. Its receive buffer is large and what is in flight bounded, so that no answer is lost;
//! a lost one ends the wait after [`TIMEOUT`]. Nexthop objects are a bound: what comes after them waits for their answers,
//! because it may refer to them.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bfd::RealtimeGuard;
use linux::netlink::{NLMSG_ERROR, Socket, messages};

use super::dump::{self, ObjectReading};
use super::message::encode;
use super::objects::ObjectOp;
use super::{Failure, Op, object_message};

/// Changes sent with one system call.
pub(crate) const BATCH: usize = 512;
const TIMEOUT: Duration = Duration::from_secs(5);
/// Batches handed over: one that the kernel is at work on, and the next.
const UNDER_WAY: usize = 2;

/// Changes that go together.
#[derive(Debug)]
pub(crate) enum Batch {
    Routes(Vec<Op>),
    Objects(Vec<ObjectOp>),
    /// A reading of all nexthop objects: what the kernel has after the changes before, and before those after.
    ReadObjects(ObjectReading),
}

impl Batch {
    fn len(&self) -> usize {
        match self {
            Batch::Routes(ops) => ops.len(),
            Batch::Objects(ops) => ops.len(),
            Batch::ReadObjects(_) => 1,
        }
    }
}

/// The outcome of each change of a batch, in order.
pub(crate) type Outcomes = io::Result<Vec<Result<(), Failure>>>;

struct Job {
    batch: Batch,
    bytes: Vec<u8>,
    first: u32,
}

struct Answer {
    job: Job,
    outcomes: Outcomes,
}

/// Hands changes to the thread, which ends with this.
#[derive(Debug)]
pub(crate) struct Writer {
    jobs: mpsc::SyncSender<Job>,
    answers: tokio::sync::mpsc::Receiver<Answer>,
    port: Arc<AtomicU32>,
    sequence: u32,
    under_way: usize,
    objects_under_way: bool,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job")
            .field("batch", &self.batch)
            .finish_non_exhaustive()
    }
}

impl Writer {
    pub(crate) fn start() -> io::Result<Self> {
        let socket = Exchange::open()?;
        let port = Arc::new(AtomicU32::new(socket.port));
        let (jobs, inbox) = mpsc::sync_channel(UNDER_WAY);
        let (outbox, answers) = tokio::sync::mpsc::channel(UNDER_WAY);
        let shared = Arc::clone(&port);
        std::thread::Builder::new()
            .name("fib-writer".to_owned())
            .spawn(move || run(socket, &inbox, &outbox, &shared))?;
        Ok(Self {
            jobs,
            answers,
            port,
            sequence: 1,
            under_way: 0,
            objects_under_way: false,
            spare: Vec::new(),
        })
    }

    /// The own port, which identifies notifications of own changes. Another one after [`Writer::next`] gave an error.
    pub(crate) fn port(&self) -> u32 {
        self.port.load(Ordering::Acquire)
    }

    /// Whether a batch of routes can be handed over now.
    pub(crate) fn takes_routes(&self) -> bool {
        self.under_way < UNDER_WAY && !self.objects_under_way
    }

    /// Whether changes of nexthop objects are under way.
    pub(crate) fn writes_objects(&self) -> bool {
        self.objects_under_way
    }

    /// Whether all answers are in.
    pub(crate) fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Hands a batch over, at most [`BATCH`] changes of routes.
    pub(crate) fn submit(&mut self, batch: Batch) {
        if batch.len() == 0 {
            return;
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        let first = self.sequence;
        match &batch {
            Batch::Routes(ops) => {
                for (index, op) in ops.iter().enumerate() {
                    encode(op, self.sequence, index + 1 == ops.len(), &mut bytes);
                    self.sequence = self.sequence.wrapping_add(1);
                }
            }
            Batch::Objects(ops) => {
                self.objects_under_way = true;
                for op in ops {
                    object_message::encode(op, self.sequence, &mut bytes);
                    self.sequence = self.sequence.wrapping_add(1);
                }
            }
            Batch::ReadObjects(_) => self.objects_under_way = true,
        }
        self.under_way += 1;
        // There is room for as many as may be under way; the thread ends only with the writer.
        let _ = self.jobs.try_send(Job { batch, bytes, first });
    }

    /// The next batch that is done; `None` when the thread has ended. Pending while nothing is under way.
    pub(crate) async fn next(&mut self) -> Option<(Batch, Outcomes)> {
        let Answer { job, outcomes } = self.answers.recv().await?;
        self.under_way -= 1;
        self.objects_under_way &= matches!(job.batch, Batch::Routes(_));
        self.spare.push(job.bytes);
        Some((job.batch, outcomes))
    }
}

fn run(
    mut socket: Exchange,
    inbox: &mpsc::Receiver<Job>,
    outbox: &tokio::sync::mpsc::Sender<Answer>,
    port: &AtomicU32,
) {
    while let Ok(mut job) = inbox.recv() {
        if let Batch::ReadObjects(reading) = &mut job.batch {
            let outcomes = dump::read_objects().map(|read| {
                *reading = read;
                Vec::new()
            });
            if outbox.blocking_send(Answer { job, outcomes }).is_err() {
                return;
            }
            continue;
        }
        // One message about a nexthop object can move a hundred thousand routes, in a tenth of a second.
        let beside = matches!(job.batch, Batch::Objects(_)).then(RealtimeGuard::begin);
        let outcomes = socket.make(&job.bytes, job.first, job.batch.len());
        drop(beside);
        // Answers that come late must not be taken for those to what follows.
        if outcomes.is_err()
            && let Ok(fresh) = Exchange::open()
        {
            port.store(fresh.port, Ordering::Release);
            socket = fresh;
        }
        if outbox.blocking_send(Answer { job, outcomes }).is_err() {
            return;
        }
    }
}

/// Makes the changes of nexthop objects and waits for the answers; for where there is no agent.
pub(crate) fn apply_objects(ops: &[ObjectOp]) -> Outcomes {
    let mut socket = Exchange::open()?;
    let mut outcomes = Vec::new();
    for ops in ops.chunks(BATCH) {
        let mut bytes = Vec::new();
        for (sequence, op) in (0..).zip(ops) {
            object_message::encode(op, sequence, &mut bytes);
        }
        outcomes.extend(socket.make(&bytes, 0, ops.len())?);
    }
    Ok(outcomes)
}

/// A socket for messages that are answered.
struct Exchange {
    socket: Socket,
    port: u32,
    buf: Vec<u8>,
}

impl Exchange {
    fn open() -> io::Result<Self> {
        let socket = Socket::route()?;
        let port = socket.bind()?;
        socket.set_receive_buffer(dump::RECEIVE_BUFFER);
        socket.set_timeout(TIMEOUT)?;
        Ok(Self {
            socket,
            port,
            buf: vec![0; 64 << 10],
        })
    }

    /// Sends `count` messages from number `first` on, and waits for the answer to the last.
    fn make(&mut self, bytes: &[u8], first: u32, count: usize) -> Outcomes {
        self.socket.send(bytes)?;
        let mut outcomes = vec![Ok(()); count];
        let last = count.saturating_sub(1);
        loop {
            let answers = messages(self.socket.receive(&mut self.buf)?);
            for answer in answers.filter(|message| message.kind == NLMSG_ERROR) {
                let index = answer.sequence.wrapping_sub(first) as usize;
                let Some(outcome) = outcomes.get_mut(index) else {
                    continue;
                };
                *outcome = match answer.errno() {
                    0 => Ok(()),
                    errno => Err(failure(errno)),
                };
                if index == last {
                    return Ok(outcomes);
                }
            }
        }
    }
}

fn failure(errno: i32) -> Failure {
    match errno {
        libc::EEXIST => Failure::Exists,
        libc::ESRCH | libc::ENOENT => Failure::Missing,
        errno => Failure::Errno(errno),
    }
}
