//! The task that follows the API server: lists, then watches, nodes and where they are wanted Services and EndpointSlices.
//!
//! Whoever reads the facts gets the latest; a slow reader misses what was in between, which is as good. While the API
//! server is away what is known stays; it is asked again with growing pauses. Bookmarks, resuming and 410 Gone are
//! the library's business (`kube::runtime::watcher`).

use std::pin::Pin;
use std::time::Duration;

use futures::stream::{SelectAll, select_all};
use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use podroute_config::{ClusterFacts, FromKubernetes};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::handover::Handover;
use super::index::Index;

/// Between attempts to find out where the API server is.
const PAUSE: Duration = Duration::from_secs(5);
/// Events taken before the facts are made.
const BURST: usize = 1000;

/// The facts as last known; `None` before the first complete answer.
pub(crate) type Facts = watch::Receiver<Option<ClusterFacts>>;

enum Heard {
    Node(Box<Event<Node>>),
    Service(Box<Event<Service>>),
    Slice(Box<Event<EndpointSlice>>),
    Trouble(String),
}

type Streams = SelectAll<Pin<Box<dyn Stream<Item = Heard> + Send>>>;

/// Follows the cluster for the node of this name until nobody reads the facts any more.
pub(crate) fn follow(node: String, wanted: FromKubernetes) -> Facts {
    let (sender, receiver) = watch::channel(None);
    tokio::spawn(async move {
        let index = Index::new(node, wanted);
        let client = loop {
            match Client::try_default().await {
                Ok(client) => break client,
                Err(error) => {
                    tracing::warn!(%error, "no way to the Kubernetes API; in a pod it needs a service account, elsewhere KUBECONFIG")
                }
            }
            tokio::time::sleep(PAUSE).await;
        };
        run(index, streams(&client, wanted), sender).await;
    });
    receiver
}

fn streams(client: &Client, wanted: FromKubernetes) -> Streams {
    let mut all: Vec<Pin<Box<dyn Stream<Item = Heard> + Send>>> = Vec::new();
    if wanted.nodes {
        let nodes = watcher(Api::<Node>::all(client.clone()), watcher::Config::default());
        all.push(Box::pin(
            nodes
                .default_backoff()
                .map(|heard| told(heard, |event| Heard::Node(Box::new(event)))),
        ));
    }
    if wanted.services {
        let services = watcher(Api::<Service>::all(client.clone()), watcher::Config::default());
        all.push(Box::pin(
            services
                .default_backoff()
                .map(|heard| told(heard, |event| Heard::Service(Box::new(event)))),
        ));
        let slices = watcher(
            Api::<EndpointSlice>::all(client.clone()),
            watcher::Config::default(),
        );
        all.push(Box::pin(
            slices
                .default_backoff()
                .map(|heard| told(heard, |event| Heard::Slice(Box::new(event)))),
        ));
    }
    select_all(all)
}

fn told<K>(heard: watcher::Result<Event<K>>, of: fn(Event<K>) -> Heard) -> Heard {
    match heard {
        Ok(event) => of(event),
        Err(error) => Heard::Trouble(error.to_string()),
    }
}

async fn run(mut index: Index, mut streams: Streams, sender: watch::Sender<Option<ClusterFacts>>) {
    let (mut away, mut handover, mut over) = (false, Handover::default(), None);
    loop {
        let heard = match over {
            Some(over) => timeout_at(over, streams.next()).await,
            None => Ok(streams.next().await),
        };
        match heard {
            Ok(Some(heard)) => take(&mut index, heard, &mut away),
            Ok(None) => return,
            // A handover is over.
            Err(_) => {}
        }
        // What is there already goes together.
        for _ in 0..BURST {
            match streams.next().now_or_never() {
                Some(Some(heard)) => take(&mut index, heard, &mut away),
                _ => break,
            }
        }
        let mut facts = index.facts();
        if let Some(facts) = &mut facts {
            over = handover.hold(Instant::now(), index.leaving(), facts);
        }
        sender.send_if_modified(|known| {
            let news = facts.is_some() && *known != facts;
            if news {
                known.clone_from(&facts);
            }
            news
        });
        if sender.is_closed() {
            return;
        }
    }
}

/// The log hears of an outage once, and once of its end.
fn take(index: &mut Index, heard: Heard, away: &mut bool) {
    let trouble = match heard {
        Heard::Trouble(error) => {
            if !*away {
                tracing::warn!(%error, "the Kubernetes API does not answer; what is known stays");
            }
            true
        }
        Heard::Node(event) => {
            index.node(*event);
            false
        }
        Heard::Service(event) => {
            index.service(*event);
            false
        }
        Heard::Slice(event) => {
            index.slice(*event);
            false
        }
    };
    if *away && !trouble {
        tracing::info!("the Kubernetes API answers again");
    }
    *away = trouble;
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
