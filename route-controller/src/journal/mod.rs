//! What changed on this node: a bounded journal that survives restarts, for `podroute events`.
//!
//! | module | does |
//! |---|---|
//! | `entry`, `kinds` | an entry, and what each log event is about |
//! | `store` | the entries that are kept; pure |
//! | `routes` | changes of learned routes, gathered and counted; pure |
//! | `recorder` | takes log events into the journal |
//! | `file` | the file of the run directory |
//!
//! One thread owns the journal. Whoever records does not wait for it: what its queue has no room for is counted and the count
//! becomes an entry.

mod entry;
mod file;
mod kinds;
pub(crate) mod recorder;
mod routes;
mod store;

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

pub(crate) use entry::{Change, Entry, Kind, Severity};
pub(crate) use routes::{RouteChange, RouteChanges, RouteWindow};
pub(crate) use store::Query;

use crate::clock;
use file::JournalFile;
use routes::Flaps;
use store::Journal;

/// Messages that wait for the thread.
const ROOM: usize = 4096;
/// An incomplete file is replaced this often although nothing happens.
const REPAIR: Duration = Duration::from_secs(5);

static SENDER: OnceLock<SyncSender<Message>> = OnceLock::new();
static LOST: AtomicU64 = AtomicU64::new(0);

enum Message {
    Change(Change),
    Routes(RouteWindow),
    Find(Query, oneshot::Sender<(Vec<Entry>, u64)>),
}

/// Starts the thread with the journal of the last run.
pub(crate) fn start(run_dir: &Path) -> std::io::Result<()> {
    let (sender, inbox) = sync_channel(ROOM);
    let path = run_dir.join("journal");
    std::thread::Builder::new()
        .name("journal".to_owned())
        .spawn(move || Keeper::open(path).run(&inbox))?;
    let _ = SENDER.set(sender); // once in a process
    Ok(())
}

/// Adds what happened. Without a journal, and where it has no room, nothing but a count.
pub(crate) fn record(change: Change) {
    send(Message::Change(change));
}

/// Adds changes of routes.
pub(crate) fn record_routes(window: RouteWindow) {
    send(Message::Routes(window));
}

/// The wanted entries, and the number of the last one.
pub(crate) async fn find(query: Query) -> Option<(Vec<Entry>, u64)> {
    let sender = SENDER.get()?.clone();
    let (reply, answer) = oneshot::channel();
    let send = move || sender.send(Message::Find(query, reply)).is_ok();
    tokio::task::spawn_blocking(send).await.ok()?;
    answer.await.ok()
}

fn send(message: Message) {
    if let Some(sender) = SENDER.get()
        && sender.try_send(message).is_err()
    {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

struct Keeper {
    journal: Journal,
    flaps: Flaps,
    file: JournalFile,
}

impl Keeper {
    fn open(path: std::path::PathBuf) -> Self {
        let (file, journal) = JournalFile::open(path);
        let mut flaps = Flaps::default();
        for entry in journal.find(&Query::default()) {
            if let (Some(prefix), Some(count)) = (entry.subject, entry.flaps) {
                flaps.restore(&prefix, count);
            }
        }
        Self { journal, flaps, file }
    }

    fn run(mut self, inbox: &Receiver<Message>) {
        loop {
            match inbox.recv_timeout(REPAIR) {
                Ok(Message::Change(change)) => self.add(change),
                Ok(Message::Routes(window)) => {
                    let entries = self.flaps.entries(window);
                    entries.into_iter().for_each(|change| self.add(change));
                }
                Ok(Message::Find(query, answer)) => {
                    let _ = answer.send((self.journal.find(&query), self.journal.last())); // whoever asked may have gone
                }
                Err(RecvTimeoutError::Timeout) => self.file.repair(clock::now(), &self.journal),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.note_lost();
        }
    }

    fn add(&mut self, change: Change) {
        let entry = self.journal.add(now_ms(), change);
        self.file.append(clock::now(), &self.journal, &entry);
    }

    /// What had no room.
    fn note_lost(&mut self) {
        let count = LOST.swap(0, Ordering::Relaxed);
        if count > 0 {
            self.add(Change {
                kind: Kind::Node,
                severity: Severity::Warn,
                event: "journal_full".to_owned(),
                subject: None,
                message: format!("{count} events came too fast and are not in the journal"),
                cause: None,
                count,
                flaps: None,
            });
        }
    }
}

/// Milliseconds since 1970, UTC.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
