//! The task that follows the API server: lists, then watches, nodes and where they are wanted Services and EndpointSlices.
//!
//! Whoever reads the facts gets the latest; a slow reader misses what was in between, which is as good. While the API
//! server is away what is known stays; it is asked again with growing pauses (`health`). It answers when it has answered a request
//! with success: the library's first event of a list comes before any answer. Bookmarks, resuming and 410 Gone are
//! the library's business (`kube::runtime::watcher`).

use std::pin::Pin;

use axum::http::{Request, Response};
use futures::stream::{SelectAll, select_all};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::client::Body;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use podroute_config::{ClusterFacts, FromKubernetes};
use tokio::sync::watch;
use tokio::time::Instant;

use super::error;
use super::handover::Handover;
use super::health::{Backoff, Change, Watches};
use super::index::Index;
use super::throttle::Throttle;
use crate::clock::sleep_until;

/// Events that are there already are taken together, at most this number.
const BATCH: usize = 100;

/// The history that a watch wants to go on from is gone; the objects are listed again.
const GONE: u16 = 410;
/// A watch is restarted after this time. A connection may die silently, as when kube-proxy's NAT of it is lost with an
/// address of the node: then nothing is received for this time and five seconds more.
pub(crate) const WATCH_SECONDS: u32 = 45;

/// The facts as last known; `None` before the first complete answer.
pub(crate) type Facts = watch::Receiver<Option<ClusterFacts>>;

enum WatchEvent {
    Node(Box<Event<Node>>),
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
}

type Streams = SelectAll<Pin<Box<dyn Stream<Item = WatchEvent> + Send>>>;

/// Follows the cluster for the node of this name until nobody reads the facts any more.
pub(crate) fn follow(node: String, wanted: FromKubernetes, watches: Watches) -> Facts {
    let (sender, receiver) = watch::channel(None);
    watches.clear();
    tokio::spawn(async move {
        expect(wanted, &watches);
        let client = tokio::select! {
            client = patient_client(NODES, &watches) => client,
            () = sender.closed() => return,
        };
        let index = Index::new(node, wanted);
        run(
            index,
            streams(&observed(client, &watches), wanted, &watches),
            sender,
        )
        .await;
    });
    receiver
}

/// A client, as soon as there is a configuration for one; failures are those of the resource.
pub(crate) async fn patient_client(resource: &'static str, watches: &Watches) -> Client {
    let mut backoff = Backoff::default();
    loop {
        match Client::try_default().await {
            Ok(client) => return client,
            Err(error) => {
                let error = format!(
                    "cannot reach the Kubernetes API: {error}; in a pod it needs a service account, elsewhere KUBECONFIG"
                );
                failed(resource, error, watches);
            }
        }
        tokio::time::sleep(backoff.after_failure(Instant::now())).await;
    }
}

const NODES: &str = "nodes";
const SERVICES: &str = "services";
const SLICES: &str = "endpointslices";
/// All that anything of the agent watches.
const RESOURCES: [&str; 6] = [NODES, SERVICES, SLICES, "pods", "namespaces", "networkpolicies"];

fn expect(wanted: FromKubernetes, watches: &Watches) {
    let resources = [
        (NODES, wanted.nodes),
        (SERVICES, wanted.services),
        (SLICES, wanted.services),
    ];
    for (resource, _) in resources.into_iter().filter(|(_, wanted)| *wanted) {
        watches.expect(resource, Instant::now());
    }
}

/// The client, with each answer noted.
pub(crate) fn observed(client: Client, watches: &Watches) -> Client {
    let namespace = client.default_namespace().to_owned();
    let watches = watches.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let path = request.uri().path();
        let asked = RESOURCES.into_iter().find(|resource| path.ends_with(resource));
        let (client, watches) = (client.clone(), watches.clone());
        async move {
            let answer: Response<Body> = client.send(request).await?;
            if let Some(resource) = asked.filter(|_| answer.status().is_success())
                && let Change::Recovered(after) = watches.succeeded(resource, Instant::now())
            {
                tracing::info!(event = "api_reachable", %resource, away_for = ?after, "the Kubernetes API answers again");
            }
            Ok::<_, tower::BoxError>(answer)
        }
    });
    Client::new(service, namespace)
}

/// An outage is logged once.
fn failed(resource: &'static str, error: String, watches: &Watches) {
    if watches.failed(resource, Instant::now(), error.clone()) == Change::Lost {
        tracing::warn!(event = "api_unreachable", %resource, %error, "cannot read from the Kubernetes API; the last known objects stay in use; trying again at least every 30 s");
    }
}

fn streams(client: &Client, wanted: FromKubernetes, watches: &Watches) -> Streams {
    let mut all: Vec<Pin<Box<dyn Stream<Item = WatchEvent> + Send>>> = Vec::new();
    let config = || watcher::Config::default().timeout(WATCH_SECONDS);
    if wanted.nodes {
        let nodes = watcher(Api::<Node>::all(client.clone()), config());
        let nodes = patiently(nodes, NODES, watches.clone());
        all.push(Box::pin(nodes.map(|event| WatchEvent::Node(Box::new(event)))));
    }
    if wanted.services {
        let services = watcher(Api::<Service>::all(client.clone()), config());
        let services = patiently(services, SERVICES, watches.clone());
        all.push(Box::pin(
            services.map(|event| WatchEvent::Service(Box::new(event))),
        ));
        let slices = watcher(Api::<EndpointSlice>::all(client.clone()), config());
        let slices = patiently(slices, SLICES, watches.clone());
        all.push(Box::pin(slices.map(|event| WatchEvent::Slice(Box::new(event)))));
    }
    select_all(all)
}

/// The events of a watch. After a failure it is asked again only after a pause.
pub(crate) fn patiently<K: Send + 'static>(
    events: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    resource: &'static str,
    watches: Watches,
) -> impl Stream<Item = Event<K>> + Send {
    let begin = (Box::pin(events), Backoff::default(), watches);
    futures::stream::unfold(begin, move |(mut events, mut backoff, watches)| async move {
        loop {
            let error = match events.next().await? {
                Ok(event) => return Some((event, (events, backoff, watches))),
                Err(error) => error,
            };
            let is_gone = matches!(&error, watcher::Error::WatchError(status) if status.code == GONE);
            if !is_gone {
                failed(resource, error::of_watch(&error), &watches);
            }
            let pause = backoff.after_failure(Instant::now());
            if is_gone {
                tracing::info!(event = "history_gone", %resource, ?pause, "the Kubernetes API no longer has the changes since the last one received; all objects are listed again");
            }
            tokio::time::sleep(pause).await;
        }
    })
}

async fn run(mut index: Index, streams: Streams, sender: watch::Sender<Option<ClusterFacts>>) {
    let mut batches = streams.ready_chunks(BATCH);
    let (mut handover, mut throttle) = (Handover::default(), Throttle::default());
    // When the facts may be others.
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            batch = batches.next() => match batch {
                Some(batch) => {
                    batch.into_iter().for_each(|event| take(&mut index, event));
                    let at = throttle.due(Instant::now());
                    due = Some(due.map_or(at, |due| due.min(at)));
                }
                None => return,
            },
            () = sleep_until(due) => {
                let start = Instant::now();
                due = publish(&index, &mut handover, &sender);
                throttle.ran(start, Instant::now());
            }
            () = sender.closed() => return,
        }
    }
}

/// Sends the facts if they changed. Returns when they change by themselves, because a handover is over.
fn publish(
    index: &Index,
    handover: &mut Handover,
    sender: &watch::Sender<Option<ClusterFacts>>,
) -> Option<Instant> {
    let mut facts = index.facts()?;
    let over = handover.hold(Instant::now(), index.leaving(), &mut facts);
    sender.send_if_modified(|known| {
        let is_new = known.as_ref() != Some(&facts);
        if is_new {
            *known = Some(facts);
        }
        is_new
    });
    over
}

fn take(index: &mut Index, event: WatchEvent) {
    match event {
        WatchEvent::Node(event) => index.node(*event),
        WatchEvent::Service(event) => index.service(*event),
        WatchEvent::Slice(event) => index.slice(*event),
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
