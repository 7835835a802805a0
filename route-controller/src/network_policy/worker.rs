//! The thread that owns the enforcer: takes events, brings rules into force, repairs, ends connections, logs drops.
//!
//! Nothing is written before pods, namespaces and policies have all been listed once: what an earlier process brought into force
//! stands until then.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use podroute_enforce::{Enforcer, LOG_GROUP, Outcome};
use podroute_netfilter::LogReader;
use tokio::sync::mpsc;

use super::drops::Drops;
use super::error::StartError;
use super::watch::{Change, NAMESPACES, PODS, POLICIES, Update};
use crate::whole_file;

/// Everything is compared with the kernel this often.
const AUDIT: Duration = Duration::from_secs(120);
/// After a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks at established connections.
const FLOWS_PAUSE: Duration = Duration::from_millis(100);
/// A look at established connections takes at most this share of the time.
const FLOWS_SHARE: u32 = 10;
const CAPACITY: usize = 4096;
const LOGGED_BYTES: u32 = 96;
const FILE: &str = "policy.json";

/// A question of the agent.
pub(super) type Question = Box<dyn FnOnce(&mut Worker) + Send>;

pub(super) enum Message {
    Update(Update),
    Ask(Question),
    Stop,
}

/// The way to the worker.
#[derive(Clone)]
pub(super) struct Inbox {
    sender: mpsc::Sender<Message>,
    wake: Arc<EventFd>,
}

impl Inbox {
    pub(super) async fn send(&self, update: Update) -> Result<(), ()> {
        self.put(Message::Update(update)).await
    }

    pub(super) async fn put(&self, message: Message) -> Result<(), ()> {
        self.sender.send(message).await.map_err(drop)?;
        let _ = self.wake.write(1); // full: it is awake anyway
        Ok(())
    }
}

/// What the worker does by configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Settings {
    pub(super) ends_established: bool,
    pub(super) wait: Duration,
}

/// What happened, for metrics.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Counts {
    pub(super) transactions: u64,
    pub(super) failures: u64,
    pub(super) repairs: u64,
    pub(super) ended: u64,
    /// The last transaction, from the event to the kernel's answer.
    pub(super) last: Duration,
}

pub(super) struct Worker {
    pub(super) enforcer: Enforcer,
    pub(super) counts: Counts,
    /// What of policies cannot be used, by namespace and name.
    pub(super) problems: BTreeMap<(String, String), Vec<String>>,
    /// What of policies is larger than the limits, likewise.
    pub(super) excesses: BTreeMap<(String, String), Vec<String>>,
    pub(super) last_error: Option<String>,
    settings: Settings,
    run_dir: PathBuf,
    listings: Listings,
    inotify: Inotify,
    log: Option<LogReader>,
    drops: Drops,
    timers: Timers,
}

/// When something is due.
struct Timers {
    audit: Instant,
    retry: Option<Instant>,
    flows: Option<Instant>,
    /// Looks at established connections have pauses between them.
    flows_not_before: Instant,
}

/// Which kinds have been listed once, and what a list that is under way has so far.
#[derive(Default)]
struct Listings {
    complete: BTreeSet<&'static str>,
    was_synced: bool,
    under_way: BTreeMap<&'static str, HashSet<(String, String)>>,
}

impl Worker {
    /// Prepares the table and what the plugin reads, then starts the thread.
    pub(super) fn start(run_dir: &Path, settings: Settings) -> Result<Inbox, StartError> {
        let mut enforcer = Enforcer::open()?;
        enforcer.prepare()?;
        let records = cni_ipam::records_dir(&run_dir.join("ipam"))?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.map_err(StartError::Watch)?;
        let changes = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_DELETE;
        inotify.add_watch(&records, changes).map_err(StartError::Watch)?;
        let log = LogReader::open(LOG_GROUP, LOGGED_BYTES)
            .map_err(|error| tracing::warn!(event = "policy_log_failed", %error, "dropped packets are counted and not logged"))
            .ok();
        if !cni_ipam::has_policy_file(run_dir) {
            // Any namespace may have policies: pods are isolated until it is known. Neither does a broken file keep pods from starting.
            write_file(run_dir, None, settings.wait).map_err(|source| StartError::WriteFile {
                path: run_dir.join(FILE),
                source,
            })?;
        }
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = Arc::new(wake.map_err(StartError::Wake)?);
        let (sender, receiver) = mpsc::channel(CAPACITY);
        let worker = Self {
            enforcer,
            counts: Counts::default(),
            problems: BTreeMap::new(),
            excesses: BTreeMap::new(),
            last_error: None,
            settings,
            run_dir: run_dir.to_owned(),
            listings: Listings::default(),
            inotify,
            log,
            drops: Drops::default(),
            timers: Timers {
                audit: crate::clock::now() + AUDIT,
                retry: None,
                flows: None,
                flows_not_before: crate::clock::now(),
            },
        };
        let inbox = Inbox {
            sender,
            wake: Arc::clone(&wake),
        };
        let run = move || worker.run(receiver, &wake);
        std::thread::Builder::new()
            .name("policies".to_owned())
            .spawn(run)
            .map_err(StartError::Thread)?;
        Ok(inbox)
    }

    /// All kinds of objects are known.
    pub(super) fn is_synced(&self) -> bool {
        [PODS, NAMESPACES, POLICIES]
            .iter()
            .all(|kind| self.listings.complete.contains(kind))
    }

    /// What of a policy allows nothing.
    pub(super) fn problems_of(&self, policy: &(String, String)) -> Vec<String> {
        let all = [self.problems.get(policy), self.excesses.get(policy)];
        all.into_iter().flatten().flatten().cloned().collect()
    }

    pub(super) fn set(&mut self, settings: Settings) {
        self.settings = settings;
        self.enforcer.model.touch_namespaces();
    }

    fn run(mut self, mut receiver: mpsc::Receiver<Message>, wake: &EventFd) {
        self.read_records();
        loop {
            if let Err(error) = self.wait(wake.as_fd()) {
                tracing::error!(event = "policy_thread_ended", %error, "network policies: the thread cannot wait and ends; the rules stay as they are");
                return;
            }
            let began = crate::clock::now();
            let _ = wake.read(); // empty: something else woke it
            // Not more than the inbox holds: endless changes of one tenant must not delay the rules of others.
            for _ in 0..CAPACITY {
                match receiver.try_recv() {
                    Ok(Message::Update(update)) => self.take(update),
                    Ok(Message::Ask(question)) => question(&mut self),
                    Ok(Message::Stop) | Err(mpsc::error::TryRecvError::Disconnected) => return,
                    Err(mpsc::error::TryRecvError::Empty) => break,
                }
            }
            if !receiver.is_empty() {
                let _ = wake.write(1); // the rest, after these are in force
            }
            if self.inotify.read_events().is_ok() {
                self.read_records();
            }
            self.log_drops();
            self.bring_into_force(began);
            self.end_flows();
        }
    }

    fn wait(&self, wake: BorrowedFd<'_>) -> nix::Result<()> {
        let due = [Some(self.timers.audit), self.timers.retry, self.timers.flows];
        let due = due.into_iter().flatten().min().unwrap_or(self.timers.audit);
        let left = due.saturating_duration_since(crate::clock::now()).as_millis();
        let left = PollTimeout::try_from(left + 1).unwrap_or(PollTimeout::MAX);
        let mut fds = vec![
            PollFd::new(wake, PollFlags::POLLIN),
            PollFd::new(self.enforcer.notifications(), PollFlags::POLLIN),
            PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(log) = &self.log {
            fds.push(PollFd::new(log.fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, left) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn take(&mut self, update: Update) {
        let (model, listings, problems) = (&mut self.enforcer.model, &mut self.listings, &mut self.problems);
        match update {
            Update::Pod(change) => match change {
                Change::Put(pod) => {
                    listings.saw(PODS, &pod.namespace, &pod.name);
                    model.put_pod(&pod);
                }
                Change::Gone { namespace, name } => model.remove_pod(&namespace, &name),
                Change::ListBegins => listings.begin(PODS),
                Change::ListEnds => {
                    let known = model
                        .pod_names()
                        .map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
                    for (namespace, name) in listings.end(PODS, known.collect()) {
                        model.remove_pod(&namespace, &name);
                    }
                }
            },
            Update::Namespace(change) => match change {
                Change::Put((name, labels)) => {
                    listings.saw(NAMESPACES, "", &name);
                    model.put_namespace(&name, &labels);
                }
                Change::Gone { name, .. } => model.remove_namespace(&name),
                Change::ListBegins => listings.begin(NAMESPACES),
                Change::ListEnds => {
                    let known = model
                        .namespace_names()
                        .map(|name| (String::new(), name.to_owned()));
                    for (_, name) in listings.end(NAMESPACES, known.collect()) {
                        model.remove_namespace(&name);
                    }
                }
            },
            Update::Policy(change) => match change {
                Change::Put((policy, found)) => {
                    let key = (policy.namespace.clone(), policy.name.clone());
                    listings.saw(POLICIES, &key.0, &key.1);
                    if found.is_empty() {
                        problems.remove(&key);
                    } else if problems.insert(key, found.clone()).as_ref() != Some(&found) {
                        let (policy, problems) =
                            (format!("{}/{}", policy.namespace, policy.name), found.join("; "));
                        tracing::warn!(event = "policy_rejected", %policy, %problems, "a part of a NetworkPolicy cannot be used and allows nothing");
                    }
                    model.put_policy(policy);
                }
                Change::Gone { namespace, name } => {
                    model.remove_policy(&namespace, &name);
                    problems.remove(&(namespace, name));
                }
                Change::ListBegins => listings.begin(POLICIES),
                Change::ListEnds => {
                    let known = model
                        .policies()
                        .map(|policy| (policy.namespace.clone(), policy.name.clone()));
                    for (namespace, name) in listings.end(POLICIES, known.collect()) {
                        model.remove_policy(&namespace, &name);
                    }
                }
            },
        }
    }

    /// Which interfaces lead to which pods.
    fn read_records(&mut self) {
        let found = match cni_ipam::pod_interfaces(&self.run_dir.join("ipam")) {
            Ok(found) => found,
            Err(error) => {
                self.note_failure(&error.to_string());
                return;
            }
        };
        let names: HashSet<&str> = found.iter().map(|pod| pod.interface.as_str()).collect();
        let model = &mut self.enforcer.model;
        let gone: Vec<String> = model
            .interface_names()
            .filter(|name| !names.contains(name))
            .map(str::to_owned)
            .collect();
        gone.iter().for_each(|name| model.detach(name));
        for pod in &found {
            model.attach(&pod.interface, &pod.namespace, &pod.pod);
        }
    }

    fn bring_into_force(&mut self, began: Instant) {
        let now = crate::clock::now();
        if now >= self.timers.audit {
            self.timers.audit = now + AUDIT;
            self.read_records();
            self.enforcer.audit();
            // The plugin's file is compared with nothing: it is written.
            self.enforcer.model.touch_namespaces();
        }
        if !self.is_synced() || self.timers.retry.is_some_and(|retry| now < retry) {
            return;
        }
        self.timers.retry = None;
        // The plugin's elements are looked at with the records that it wrote before them.
        if let Err(error) = self.enforcer.read_notifications() {
            self.note_failure(&error.to_string());
        }
        if self.enforcer.is_disturbed() {
            self.read_records();
        }
        // The first time, whatever an earlier process wrote is wrong or right.
        if !std::mem::replace(&mut self.listings.was_synced, true) {
            self.enforcer.model.touch_namespaces();
        }
        let namespaces = self.enforcer.model.namespaces_changed();
        // Before the rules: pods that start from here on are isolated first.
        let mut is_written = true;
        if namespaces {
            let with = self.enforcer.model.namespaces_with_policies();
            if let Err(error) = write_file(&self.run_dir, Some(&with), self.settings.wait) {
                self.note_failure(&format!("{FILE}: {error}"));
                is_written = false;
            }
        }
        match self.enforcer.sync() {
            Ok(outcome) => self.note_success(outcome, began, is_written),
            Err(error) => self.note_failure(&error.to_string()),
        }
        if !is_written {
            self.enforcer.model.touch_namespaces();
        }
    }

    fn note_success(&mut self, outcome: Outcome, began: Instant, is_written: bool) {
        if is_written && self.last_error.take().is_some() {
            tracing::info!(event = "policies_in_force", "network policies are in force again");
        }
        if outcome.octets == 0 {
            return;
        }
        self.note_excesses();
        self.counts.transactions += 1;
        self.counts.last = crate::clock::now().duration_since(began);
        if outcome.repaired {
            self.counts.repairs += 1;
            tracing::debug!(
                event = "policies_repaired",
                "another program changed the table podroute-policy; it is repaired"
            );
        }
        if outcome.restricts && self.settings.ends_established {
            let now = crate::clock::now();
            self.timers.flows = self.timers.flows.or(Some(now.max(self.timers.flows_not_before)));
        }
    }

    /// Logs what of policies is larger than the limits, once.
    fn note_excesses(&mut self) {
        let found = self.enforcer.model.excesses();
        for ((namespace, name), reasons) in &found {
            if self.excesses.get(&(namespace.clone(), name.clone())) != Some(reasons) {
                let (policy, problems) = (format!("{namespace}/{name}"), reasons.join("; "));
                tracing::warn!(event = "policy_rejected", %policy, %problems, "a part of a NetworkPolicy cannot be used and allows nothing");
            }
        }
        self.excesses = found;
    }

    fn note_failure(&mut self, error: &str) {
        self.counts.failures += 1;
        self.timers.retry = Some(crate::clock::now() + RETRY);
        if self.last_error.as_deref() != Some(error) {
            tracing::error!(event = "policies_failed", %error, "network policies are not all in force; trying again every second");
            self.last_error = Some(error.to_owned());
        }
    }

    fn end_flows(&mut self) {
        let began = crate::clock::now();
        if self.timers.flows.is_none_or(|due| began < due) {
            return;
        }
        self.timers.flows = None;
        match self.enforcer.end_forbidden_flows() {
            Ok(0) => {}
            Ok(count) => {
                self.counts.ended += u64::try_from(count).unwrap_or_default();
                tracing::info!(
                    event = "policy_connections_ended",
                    connections = count,
                    "ended connections that network policies forbid"
                );
            }
            Err(error) => self.note_failure(&error.to_string()),
        }
        let now = crate::clock::now();
        let pause = (now.duration_since(began) * FLOWS_SHARE).max(FLOWS_PAUSE);
        self.timers.flows_not_before = now + pause;
    }

    fn log_drops(&mut self) {
        let Some(log) = &mut self.log else { return };
        match log.read() {
            Ok(packets) => self
                .drops
                .take(crate::clock::now(), &packets, &self.enforcer.model),
            Err(error) => {
                tracing::warn!(event = "policy_log_failed", %error, "dropped packets are counted and not logged");
                self.log = None;
            }
        }
    }
}

impl Listings {
    fn begin(&mut self, kind: &'static str) {
        self.under_way.insert(kind, HashSet::new());
    }

    fn saw(&mut self, kind: &'static str, namespace: &str, name: &str) {
        if let Some(seen) = self.under_way.get_mut(kind) {
            seen.insert((namespace.to_owned(), name.to_owned()));
        }
    }

    /// What is known and was not in the list.
    fn end(&mut self, kind: &'static str, known: Vec<(String, String)>) -> Vec<(String, String)> {
        self.complete.insert(kind);
        let seen = self.under_way.remove(kind).unwrap_or_default();
        known.into_iter().filter(|key| !seen.contains(key)).collect()
    }
}

/// What podroute-cni reads; None: not known yet.
fn write_file(run_dir: &Path, namespaces: Option<&BTreeSet<String>>, wait: Duration) -> std::io::Result<()> {
    let content = serde_json::json!({
        "version": 1,
        "namespaces": namespaces,
        "waitMillis": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    });
    whole_file::replace(&run_dir.join(FILE), &serde_json::to_vec(&content)?)
}

/// Policies were enforced with this directory.
pub(super) fn has_file(run_dir: &Path) -> bool {
    run_dir.join(FILE).exists()
}

/// Pods start without isolation from here on.
pub(super) fn remove_file(run_dir: &Path) {
    let _ = std::fs::remove_file(run_dir.join(FILE)); // not there
}
