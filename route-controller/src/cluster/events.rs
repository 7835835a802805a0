//! Events on the node's object: sessions that come and go, a configuration that was refused; and on Services: why they have no address.
//!
//! They are for people who look at the cluster, and nothing depends on them: what the API server does not take, or
//! what comes faster than one per minute and subject, is dropped.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::PostParams;
use tokio::sync::mpsc;

use super::client::LazyClient;

/// Events that wait to be posted.
const QUEUE_LENGTH: usize = 64;
/// An Event with the same reason and subject is written at most once in this time.
const REPEAT_AFTER: Duration = Duration::from_secs(60);
/// Where Events of objects without a namespace live.
const NAMESPACE: &str = "default";

/// What an Event is about.
#[derive(Debug)]
pub(crate) enum About {
    /// The agent's own node.
    Node,
    Service {
        namespace: String,
        name: String,
        uid: String,
    },
}

/// An Event to post.
#[derive(Debug)]
pub(crate) struct NewEvent {
    pub(crate) about: About,
    pub(crate) reason: &'static str,
    pub(crate) warning: bool,
    pub(crate) message: String,
}

/// Queues Events for the API server.
#[derive(Debug)]
pub(crate) struct Events {
    sender: mpsc::Sender<NewEvent>,
    last: HashMap<(&'static str, String), Instant>,
}

impl Events {
    /// Starts the task that posts them.
    pub(crate) fn start(node: String) -> Self {
        let (sender, inbox) = mpsc::channel(QUEUE_LENGTH);
        tokio::spawn(post_all(node, inbox));
        Self {
            sender,
            last: HashMap::new(),
        }
    }

    /// Queues an Event about a subject: a peer, the file, a Service. False: not now, because an Event with the same reason and
    /// subject was queued within a minute, or too many are being written.
    pub(crate) fn post(&mut self, now: Instant, subject: &str, event: NewEvent) -> bool {
        self.last.retain(|_, at| now.duration_since(*at) < REPEAT_AFTER);
        let (reason, key) = (event.reason, (event.reason, subject.to_owned()));
        if self.last.contains_key(&key) {
            return false;
        }
        let is_queued = self.sender.try_send(event).is_ok();
        if is_queued {
            self.last.insert(key, now);
        } else {
            tracing::debug!(
                event = "event_dropped",
                reason,
                "Event dropped: too many are being written"
            );
        }
        is_queued
    }
}

async fn post_all(node: String, mut inbox: mpsc::Receiver<NewEvent>) {
    let (mut number, mut client) = (0u64, LazyClient::default());
    while let Some(queued) = inbox.recv().await {
        number += 1;
        if let Err(error) = post(&mut client, &node, number, &queued).await {
            tracing::debug!(event = "event_dropped", %error, reason = queued.reason, "the API server refused an Event");
        }
    }
}

async fn post(client: &mut LazyClient, node: &str, number: u64, queued: &NewEvent) -> kube::Result<()> {
    let now = k8s_openapi::jiff::Timestamp::now();
    let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let (object, namespace) = match &queued.about {
        // The kubelet gives the name as UID too: `kubectl describe node` looks for that.
        About::Node => (
            serde_json::json!({"apiVersion": "v1", "kind": "Node", "name": node, "uid": node}),
            NAMESPACE,
        ),
        About::Service { namespace, name, uid } => (
            serde_json::json!({"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": name, "uid": uid}),
            namespace.as_str(),
        ),
    };
    let event = serde_json::json!({
        "metadata": {
            "name": format!("{node}.podroute.{:x}.{number:x}", now.as_microsecond()),
            "namespace": namespace,
        },
        "involvedObject": object,
        "reason": queued.reason,
        "message": queued.message,
        "type": if queued.warning { "Warning" } else { "Normal" },
        "source": {"component": "podroute", "host": node},
        "reportingComponent": "podroute",
        "reportingInstance": node,
        "firstTimestamp": seconds,
        "lastTimestamp": seconds,
        "count": 1,
    });
    let event: Event = serde_json::from_value(event).map_err(kube::Error::SerdeError)?;
    client
        .run(|client| async move {
            let api = Api::<Event>::namespaced(client, namespace);
            api.create(&PostParams::default(), &event).await.map(drop)
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> (Events, mpsc::Receiver<NewEvent>) {
        let (sender, inbox) = mpsc::channel(QUEUE_LENGTH);
        let last = HashMap::new();
        (Events { sender, last }, inbox)
    }

    fn down(message: String) -> NewEvent {
        NewEvent {
            about: About::Node,
            reason: "SessionDown",
            warning: true,
            message,
        }
    }

    #[test]
    fn a_flapping_session_posts_once_a_minute() {
        let (mut events, mut inbox) = events();
        let start = Instant::now();
        for second in [0, 1, 59, 61] {
            let now = start + Duration::from_secs(second);
            events.post(now, "tor-a", down(format!("at {second}")));
            events.post(now, "tor-b", down(format!("at {second}")));
        }
        let mut messages = Vec::new();
        while let Ok(queued) = inbox.try_recv() {
            messages.push(queued.message);
        }
        assert_eq!(messages, ["at 0", "at 0", "at 61", "at 61"]);
    }

    /// What did not fit into the queue was not posted: the next Event of the same subject is.
    #[test]
    fn a_dropped_event_does_not_hold_back_the_next_one() {
        let (mut events, mut inbox) = events();
        let now = Instant::now();
        for peer in 0..QUEUE_LENGTH {
            assert!(events.post(now, &format!("peer-{peer}"), down(String::new())));
        }
        assert!(!events.post(now, "tor-a", down("dropped".to_owned())));
        while inbox.try_recv().is_ok() {}
        assert!(events.post(now, "tor-a", down("posted".to_owned())));
    }
}
