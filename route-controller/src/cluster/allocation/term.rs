//! What the holder of the Lease does until it loses it: follows Services, decides, writes, renews.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Fuse, FusedFuture, FutureExt};
use futures::stream::{FuturesUnordered, Stream, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, Service as Object};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt};
use podroute_config::Allocation;
use podroute_services::{Key, LEASE, Labels, Ledger, WRITES_UNTIL, Write};
use tokio::sync::watch;
use tokio::time::Instant;

use super::lease::Lease;
use super::notices::Notices;
use super::{Candidacy, Reports, object};
use crate::clock::sleep_until;
use crate::cluster::health::{Backoff, Watches};
use crate::cluster::throttle::Throttle;
use crate::cluster::watch::{WATCH_SECONDS, patiently};

/// Writes at a time.
const QUEUE_LENGTH: usize = 32;
/// A write that takes longer has an unknown outcome. The API server gives up at the same time.
const WRITE_TIMEOUT: Duration = Duration::from_secs(4);
/// Between renewals, and after one that failed.
const RENEWAL: Duration = Duration::from_secs(3);
/// Between decisions: what comes together is decided together.
const GATHER: Duration = Duration::from_millis(10);
/// Until writes may be sent again, after a Lease that was not renewed in time.
const AGAIN: Duration = Duration::from_secs(1);
/// Before an Event that was not accepted is posted again.
const POST_AGAIN: Duration = Duration::from_secs(10);
/// Events that are there already are taken together, at most this number.
const BATCH: usize = 100;

/// Why a term ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// Another one has the Lease, or it could not be renewed.
    Lost,
    /// What is followed changed.
    Changed,
    /// Nothing is to be allocated any more, or the agent ends.
    Stopped,
}

type Events_<T> = Pin<Box<dyn Stream<Item = Event<T>> + Send>>;
type Renewal = Fuse<BoxFuture<'static, (Lease, Instant, kube::Result<()>)>>;
type Written = (Write, kube::Result<()>);

/// The time in which this agent holds the Lease.
pub(super) struct Term {
    client: Client,
    holder: String,
    lease: Option<Lease>,
    /// When the last renewal that succeeded was asked for.
    renewed: Instant,
    ledger: Ledger,
    objects: BTreeMap<Key, Object>,
    namespaces: Namespaces,
    writes: FuturesUnordered<BoxFuture<'static, Written>>,
    /// When to decide next; none: nothing changed.
    decide_at: Option<Instant>,
    throttle: Throttle,
    retry: Retry,
    notices: Notices,
}

/// Labels of namespaces, where pools are chosen by them.
#[derive(Default)]
struct Namespaces {
    labels: BTreeMap<String, Labels>,
    is_complete: bool,
}

/// Writes that failed: when they are repeated.
#[derive(Default)]
struct Retry {
    at: Option<Instant>,
    backoff: Backoff,
}

impl Term {
    pub(super) fn begin(
        client: Client,
        lease: Lease,
        renewed: Instant,
        is_fenced: bool,
        reports: Arc<Reports>,
    ) -> Self {
        let holder = lease.holder().to_owned();
        reports.change(|report| {
            report.holder = Some(holder.clone());
            report.is_own = true;
        });
        Self {
            client,
            notices: Notices::new(holder.split('_').next().unwrap_or_default(), reports),
            holder,
            lease: Some(lease),
            renewed,
            ledger: Ledger::new(is_fenced),
            objects: BTreeMap::new(),
            namespaces: Namespaces::default(),
            writes: FuturesUnordered::new(),
            decide_at: None,
            throttle: Throttle::default(),
            retry: Retry::default(),
        }
    }

    /// Until the Lease is lost, or given up because nothing is to be allocated.
    pub(super) async fn serve(mut self, candidacies: &mut watch::Receiver<Option<Candidacy>>) -> End {
        let Some(mut allocation) = current(candidacies) else {
            return self.stop().await;
        };
        let (services, mut namespaces) = self.follow(&allocation);
        let mut services = services.ready_chunks(BATCH);
        let mut renewals = tokio::time::interval(RENEWAL);
        let mut renewal: Renewal = Fuse::terminated();
        loop {
            tokio::select! {
                Some(batch) = services.next() => self.take(batch, &allocation),
                Some(event) = namespaces.next() => self.take_namespace(event),
                _ = renewals.tick() => if let Some(lease) = self.lease.take() {
                    renewal = renew(lease).boxed().fuse();
                },
                (lease, asked, outcome) = &mut renewal, if !renewal.is_terminated() => {
                    self.lease = Some(lease);
                    match outcome {
                        Ok(()) => self.renewed = asked,
                        Err(kube::Error::Api(status)) if status.code == 409 => return End::Lost,
                        Err(error) => self.notices.reports.failed(&error),
                    }
                }
                Some(written) = self.writes.next() => self.settle(written),
                changed = candidacies.changed() => match current(candidacies).filter(|_| changed.is_ok()) {
                    None => return self.stop().await,
                    Some(new) if follows_other(&new, &allocation) => return End::Changed,
                    Some(new) => {
                        allocation = new;
                        self.decide_soon(Duration::ZERO);
                    }
                },
                () = sleep_until(self.decide_at) => self.decide(&allocation),
                () = sleep_until(self.retry.at) => self.retry(),
            }
            if self.renewed.elapsed() >= LEASE {
                return End::Lost;
            }
        }
    }

    /// Gives the Lease up when all writes are over.
    async fn stop(mut self) -> End {
        while self.writes.next().await.is_some() {}
        if let Some(lease) = &mut self.lease
            && let Err(error) = lease.release().await
        {
            self.notices.reports.failed(&error);
        }
        End::Stopped
    }

    fn follow(&mut self, allocation: &Allocation) -> (Events_<Object>, Events_<Namespace>) {
        let config = || watcher::Config::default().timeout(WATCH_SECONDS);
        let services = watcher(Api::<Object>::all(self.client.clone()), config());
        let services = patiently(services, "services (allocation)", Watches::default());
        if !allocation.needs_namespaces() {
            self.namespaces.is_complete = true;
            return (Box::pin(services), Box::pin(futures::stream::pending()));
        }
        let namespaces = watcher(Api::<Namespace>::all(self.client.clone()), config());
        let namespaces = patiently(namespaces, "namespaces", Watches::default());
        (Box::pin(services), Box::pin(namespaces))
    }

    fn take(&mut self, batch: Vec<Event<Object>>, allocation: &Allocation) {
        for event in batch {
            self.take_service(event, allocation);
        }
        self.decide_soon(GATHER);
    }

    fn take_service(&mut self, event: Event<Object>, allocation: &Allocation) {
        match event {
            Event::Init => self.ledger.list_begins(),
            Event::InitApply(object) | Event::Apply(object) => {
                let key = object::key(&object);
                let service = object::service(&object, &allocation.compatibility);
                let version = object.resource_version().unwrap_or_default();
                self.ledger.see(key.clone(), &version, service);
                self.objects.insert(key, object);
            }
            Event::InitDone => {
                self.ledger.list_ends();
                self.objects
                    .retain(|key, _| self.ledger.services().contains_key(key));
            }
            Event::Delete(object) => {
                let key = object::key(&object);
                self.ledger.remove(&key);
                self.objects.remove(&key);
            }
        }
    }

    fn take_namespace(&mut self, event: Event<Namespace>) {
        let known = &mut self.namespaces;
        match event {
            Event::Init => {}
            Event::InitApply(namespace) | Event::Apply(namespace) => {
                known
                    .labels
                    .insert(namespace.name_any(), namespace.labels().clone());
            }
            Event::InitDone => known.is_complete = true,
            Event::Delete(namespace) => drop(known.labels.remove(&namespace.name_any())),
        }
        self.decide_soon(GATHER);
    }

    fn decide_soon(&mut self, pause: Duration) {
        let now = Instant::now();
        let at = self.throttle.due(now).max(now + pause);
        self.decide_at = Some(self.decide_at.map_or(at, |due| due.min(at)));
    }

    fn decide(&mut self, allocation: &Allocation) {
        self.decide_at = None;
        if !self.namespaces.is_complete {
            return;
        }
        let start = Instant::now();
        let plan = self.ledger.decide(&allocation.settings, &self.namespaces.labels);
        self.throttle.ran(start, Instant::now());
        if let Some(plan) = plan {
            self.send();
            if !self.notices.publish(plan, &self.objects, self.ledger.under_way()) {
                self.decide_soon(POST_AGAIN);
            }
        }
    }

    /// Sends what was decided, as far as there is room.
    fn send(&mut self) {
        // Until then nobody else can have taken the Lease; later this agent may be a former holder.
        if self.renewed.elapsed() >= WRITES_UNTIL {
            self.decide_soon(AGAIN);
            return;
        }
        for write in self
            .ledger
            .next_writes(QUEUE_LENGTH.saturating_sub(self.writes.len()))
        {
            if let Some(object) = self.objects.get(&write.key) {
                let body = object::patch(object, &write.version, &write.what, &self.holder);
                let request = request(&write.key, &self.holder, &body);
                self.writes
                    .push(send(self.client.clone(), write, request).boxed());
            }
        }
    }

    fn settle(&mut self, (write, outcome): Written) {
        // 404, 409: it is gone or has another version; the watch reports that.
        let is_outdated =
            matches!(&outcome, Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409));
        let is_applied = outcome.is_ok();
        self.ledger.settle(&write, is_applied);
        match outcome {
            Err(error) if !is_outdated => self.notices.reports.failed(&error),
            _ => self.notices.reports.change(|report| {
                report.writes += 1;
                report.last_error = None;
            }),
        }
        if !is_applied && self.retry.at.is_none() {
            let now = Instant::now();
            self.retry.at = Some(now + self.retry.backoff.after_failure(now));
        }
        self.send();
    }

    /// Sends again what failed.
    fn retry(&mut self) {
        self.retry.at = None;
        if self.ledger.retry() {
            self.send();
        } else {
            self.retry.backoff = Backoff::default();
        }
    }
}

fn current(candidacies: &mut watch::Receiver<Option<Candidacy>>) -> Option<Allocation> {
    let candidacy = candidacies.borrow_and_update();
    candidacy.as_ref().map(|candidacy| candidacy.allocation.clone())
}

/// Whether other objects, or other annotations of them, matter now.
fn follows_other(new: &Allocation, old: &Allocation) -> bool {
    new.compatibility != old.compatibility || new.needs_namespaces() != old.needs_namespaces()
}

async fn renew(mut lease: Lease) -> (Lease, Instant, kube::Result<()>) {
    let asked = Instant::now();
    let timeout = tokio::time::timeout(WRITE_TIMEOUT, lease.renew()).await;
    let outcome = match timeout {
        Ok(outcome) => outcome,
        Err(_) => Err(no_answer()),
    };
    // After an unknown outcome the version may be another one.
    let is_conflict = matches!(&outcome, Err(kube::Error::Api(status)) if status.code == 409);
    if outcome.is_err() && !is_conflict {
        let own = lease.holder().to_owned();
        if let Ok(Ok(Some(found))) = tokio::time::timeout(WRITE_TIMEOUT, lease.read()).await
            && found.holder != own
        {
            let status =
                kube::core::Status::failure("another agent holds the Lease", "Conflict").with_code(409);
            return (lease, asked, Err(kube::Error::Api(Box::new(status))));
        }
    }
    (lease, asked, outcome)
}

fn no_answer() -> kube::Error {
    kube::Error::Service(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
}

/// A PATCH of the status; the API server gives up when this agent does.
fn request(key: &Key, holder: &str, body: &serde_json::Value) -> kube::Result<axum::http::Request<Vec<u8>>> {
    let path = format!(
        "/api/v1/namespaces/{}/services/{}/status?fieldManager=podroute-{holder}&timeout={}s",
        key.namespace,
        key.name,
        WRITE_TIMEOUT.as_secs()
    );
    axum::http::Request::patch(path)
        .header(axum::http::header::CONTENT_TYPE, "application/merge-patch+json")
        .body(body.to_string().into_bytes())
        .map_err(kube::Error::HttpError)
}

async fn send(client: Client, write: Write, request: kube::Result<axum::http::Request<Vec<u8>>>) -> Written {
    let outcome = async {
        let answer = tokio::time::timeout(WRITE_TIMEOUT, client.request_text(request?)).await;
        answer.unwrap_or_else(|_| Err(no_answer())).map(drop)
    };
    let outcome = outcome.await;
    (write, outcome)
}
