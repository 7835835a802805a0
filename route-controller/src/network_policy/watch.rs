//! Follows pods, namespaces and network policies, and sends each event to the worker.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::core::PartialObjectMeta;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use podroute_netpol::{PodInput, Policy};

use super::convert::{self, Pod};
use super::worker::Inbox;
use crate::cluster::{WATCH_SECONDS, Watches, observed, patient_client, patiently};

pub(super) const PODS: &str = "pods";
pub(super) const NAMESPACES: &str = "namespaces";
pub(super) const POLICIES: &str = "networkpolicies";

/// What is known of one kind of objects changes.
#[derive(Debug)]
pub(super) enum Change<T> {
    /// A list begins: what it does not have is gone.
    ListBegins,
    ListEnds,
    Put(T),
    Gone {
        namespace: String,
        name: String,
    },
}

/// A change that the worker takes in.
#[derive(Debug)]
pub(super) enum Update {
    Pod(Change<PodInput>),
    Namespace(Change<(String, Vec<(String, String)>)>),
    Policy(Change<(Policy, Vec<String>)>),
}

/// Follows until the worker is gone.
pub(super) async fn follow(node: String, inbox: Inbox, watches: Watches) {
    let resources = [PODS, NAMESPACES, POLICIES];
    resources
        .iter()
        .for_each(|resource| watches.expect(resource, tokio::time::Instant::now()));
    let client = observed(patient_client(PODS, &watches).await, &watches);
    let config = || watcher::Config::default().timeout(WATCH_SECONDS);
    let pods = watcher(Api::<Pod>::all(client.clone()), config());
    let mut pods = Box::pin(patiently(pods, PODS, watches.clone()));
    let namespaces = watcher(Api::<PartialObjectMeta<Namespace>>::all(client.clone()), config());
    let mut namespaces = Box::pin(patiently(namespaces, NAMESPACES, watches.clone()));
    let policies = policies(client, config());
    let mut policies = Box::pin(patiently(policies, POLICIES, watches));
    loop {
        let update = tokio::select! {
            Some(event) = pods.next() => Update::Pod(change(event, |pod: Pod| pod.input(&node))),
            Some(event) = namespaces.next() => Update::Namespace(change(event, |namespace| {
                let meta = &namespace.metadata;
                Some((meta.name.clone().unwrap_or_default(), convert::labels(meta)))
            })),
            Some(event) = policies.next() => Update::Policy(change(event, |policy| Some(convert::policy(&policy)))),
            else => return,
        };
        if inbox.send(update).await.is_err() {
            return;
        }
    }
}

fn policies(
    client: Client,
    config: watcher::Config,
) -> impl futures::Stream<Item = watcher::Result<Event<NetworkPolicy>>> + Send {
    watcher(Api::<NetworkPolicy>::all(client), config)
}

/// An object that no policy concerns is gone.
fn change<K: Resource, T>(event: Event<K>, convert: impl Fn(K) -> Option<T>) -> Change<T> {
    let gone = |object: &K| {
        let (namespace, name) = convert::key(object.meta());
        Change::Gone { namespace, name }
    };
    match event {
        Event::Init => Change::ListBegins,
        Event::InitDone => Change::ListEnds,
        Event::Delete(object) => gone(&object),
        Event::Apply(object) | Event::InitApply(object) => {
            let absent = gone(&object);
            convert(object).map_or(absent, Change::Put)
        }
    }
}
