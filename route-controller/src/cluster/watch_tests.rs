//! What a real API server cannot be made to do at will: history that is gone, streams that break off or trickle, hours of
//! outage. A stand-in in this process answers instead of HTTP, and time is virtual.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::{Request, Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use std::time::Duration;

use super::super::health::Watch;
use super::*;

type Piece = Result<Vec<u8>, std::io::Error>;

#[derive(Default)]
struct State {
    version: u64,
    /// Pod CIDRs by node.
    nodes: BTreeMap<String, String>,
    /// Watches that are open.
    watches: Vec<mpsc::UnboundedSender<Piece>>,
    /// Nobody answers.
    away: bool,
    /// The account may not list.
    forbidden: bool,
    /// The next watch is answered that its history is gone.
    gone: bool,
    lists: usize,
    requests: usize,
}

/// The API server as the agent sees it: nodes alone.
#[derive(Clone, Default)]
struct StandIn {
    state: Arc<Mutex<State>>,
    watches: Watches,
}

fn object(name: &str, cidr: &str, version: u64) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "resourceVersion": version.to_string()},
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
    })
}

impl StandIn {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<kube::client::Body>) -> Result<Response<Body>, std::io::Error> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let mut state = self.state();
        state.requests += 1;
        if state.away {
            return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        }
        if state.forbidden {
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 403, "reason": "Forbidden",
                "message": "nodes is forbidden: User \"podroute\" cannot list resource \"nodes\"",
            });
            let answer = Response::builder()
                .status(403)
                .body(Body::from(status.to_string()));
            return answer.map_err(std::io::Error::other);
        }
        let body = if query.contains("watch=true") || query.contains("watch=1") {
            state.watch()
        } else {
            state.list()
        };
        Ok(Response::new(body))
    }

    /// A node comes or changes; open watches receive it in this number of pieces.
    fn put(&self, name: &str, cidr: &str, pieces: usize) {
        let mut state = self.state();
        state.version += 1;
        let kind = if state.nodes.contains_key(name) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        state.nodes.insert(name.to_owned(), cidr.to_owned());
        let line = format!(
            "{}\n",
            json!({"type": kind, "object": object(name, cidr, state.version)})
        );
        let size = line.len().div_ceil(pieces);
        for piece in line.as_bytes().chunks(size) {
            state.send(Ok(piece.to_vec()));
        }
    }

    /// All watches break off, in the middle of an object.
    fn cut(&self) {
        let mut state = self.state();
        state.send(Ok(b"{\"type\": \"ADDED\", \"object\": {\"kin".to_vec()));
        state.send(Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        state.watches.clear();
    }

    fn follow(&self) -> Facts {
        let stand_in = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = stand_in.answer(&request);
            async move { answer }
        });
        let client = Client::new(service, "default");
        let wanted = FromKubernetes {
            nodes: true,
            services: false,
            network: true,
        };
        let (sender, receiver) = watch::channel(None);
        let index = Index::new("node-1".to_owned(), wanted);
        let watches = self.watches.clone();
        expect(wanted, &watches);
        let client = observed(client, &watches);
        tokio::spawn(async move { run(index, streams(&client, wanted, &watches), sender).await });
        receiver
    }
}

impl State {
    fn send(&mut self, piece: Piece) {
        let copy = |piece: &Piece| match piece {
            Ok(bytes) => Ok(bytes.clone()),
            Err(error) => Err(std::io::Error::from(error.kind())),
        };
        self.watches.retain(|watch| watch.send(copy(&piece)).is_ok());
    }

    fn list(&mut self) -> Body {
        self.lists += 1;
        let items: Vec<Value> = self
            .nodes
            .iter()
            .map(|(name, cidr)| object(name, cidr, self.version))
            .collect();
        let list = json!({
            "apiVersion": "v1", "kind": "NodeList", "items": items,
            "metadata": {"resourceVersion": self.version.to_string()},
        });
        Body::from(list.to_string())
    }

    fn watch(&mut self) -> Body {
        let (sender, pieces) = mpsc::unbounded_channel();
        if std::mem::take(&mut self.gone) {
            let status = json!({
                "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": 410, "reason": "Expired",
                "message": "too old resource version",
            });
            let line = format!("{}\n", json!({"type": "ERROR", "object": status}));
            let _ = sender.send(Ok(line.into_bytes()));
            // The server closes.
        } else {
            self.watches.push(sender);
        }
        let stream = futures::stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((piece, pieces))
        });
        Body::from_stream(stream)
    }
}

/// Waits, in virtual time, until the facts have these blocks.
async fn blocks(facts: &mut Facts, wanted: &[(&str, &str)]) {
    let is = |facts: &Option<ClusterFacts>| {
        facts.as_ref().is_some_and(|facts| {
            let found = facts.nodes.iter().map(|(name, node)| {
                let block = node.blocks.first().map(ToString::to_string).unwrap_or_default();
                (name.clone(), block)
            });
            found.eq(wanted
                .iter()
                .map(|(name, block)| ((*name).to_owned(), (*block).to_owned())))
        })
    };
    let limit = Duration::from_secs(120);
    let outcome = tokio::time::timeout(limit, facts.wait_for(is)).await;
    assert!(outcome.is_ok(), "{wanted:?} is not known after {limit:?}");
}

const A: (&str, &str) = ("node-1", "10.244.1.0/24");
const B: (&str, &str) = ("node-2", "10.244.2.0/24");

fn api() -> StandIn {
    let api = StandIn::default();
    api.put(A.0, A.1, 1);
    api
}

#[tokio::test(start_paused = true)]
async fn an_object_that_trickles_in_counts_when_it_is_whole() {
    let api = api();
    let mut facts = api.follow();
    blocks(&mut facts, &[A]).await;
    api.put(B.0, B.1, 50);
    blocks(&mut facts, &[A, B]).await;
    assert_eq!(api.state().lists, 1, "one list is enough");
}

#[tokio::test(start_paused = true)]
async fn history_that_is_gone_is_listed_again() {
    let api = api();
    let mut facts = api.follow();
    blocks(&mut facts, &[A]).await;
    // While the watch is broken something happens, and the server does not remember it.
    api.state().gone = true;
    api.cut();
    api.put(B.0, B.1, 1);
    blocks(&mut facts, &[A, B]).await;
    assert_eq!(api.state().lists, 2);
    // And what comes then is received again.
    api.put(A.0, "10.244.9.0/24", 1);
    blocks(&mut facts, &[("node-1", "10.244.9.0/24"), B]).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_changes_nothing() {
    let api = api();
    let mut facts = api.follow();
    blocks(&mut facts, &[A]).await;
    facts.mark_unchanged();
    for _ in 0..20 {
        api.cut();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(
            !facts.has_changed().unwrap(),
            "a piece of an object was taken for one"
        );
    }
    api.put(B.0, B.1, 3);
    blocks(&mut facts, &[A, B]).await;
}

#[tokio::test(start_paused = true)]
async fn hours_of_outage_change_nothing_and_ask_little() {
    let api = api();
    let mut facts = api.follow();
    blocks(&mut facts, &[A]).await;
    facts.mark_unchanged();
    let before = api.state().requests;
    api.state().away = true;
    api.cut();
    tokio::time::sleep(Duration::from_secs(6 * 3600)).await;
    assert!(!facts.has_changed().unwrap(), "the outage changed what is known");
    let asked = api.state().requests - before;
    // Once a minute on average would be 360.
    assert!((10..=1500).contains(&asked), "{asked} requests in six hours");
    // What changed meanwhile is there soon after.
    {
        let mut state = api.state();
        state.away = false;
        state.gone = true;
        state.nodes.insert(B.0.to_owned(), B.1.to_owned());
        state.version += 1;
    }
    blocks(&mut facts, &[A, B]).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_at_the_start_is_waited_for() {
    let api = api();
    api.state().away = true;
    let mut facts = api.follow();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(
        facts.borrow().is_none(),
        "nothing is known, and nothing is made up"
    );
    api.state().away = false;
    blocks(&mut facts, &[A]).await;
}

/// What a server that is away, or gives no permission, costs in half an hour, and how the watch is then.
async fn half_an_hour(api: &StandIn) -> (usize, Watch) {
    let before = api.state().requests;
    tokio::time::sleep(Duration::from_secs(1800)).await;
    let asked = api.state().requests - before;
    (asked, api.watches.all()["nodes"].clone())
}

#[tokio::test(start_paused = true)]
async fn what_does_not_answer_is_asked_every_half_minute_and_is_not_well() {
    for forbidden in [true, false] {
        let api = api();
        (api.state().forbidden, api.state().away) = (forbidden, !forbidden);
        let mut facts = api.follow();
        let (asked, watch) = half_an_hour(&api).await;
        // 15 to 30 s apart: 60 to 120, and a few at the start.
        assert!((60..=130).contains(&asked), "{asked} requests in half an hour");
        assert!(!watch.answers && watch.failures as usize >= 60, "{watch:?}");
        let error = watch.last_error.unwrap();
        assert!(!forbidden || error.contains("rbac.yaml"), "{error}");
        (api.state().forbidden, api.state().away) = (false, false);
        blocks(&mut facts, &[A]).await;
        assert!(api.watches.all()["nodes"].answers);
    }
}

#[tokio::test(start_paused = true)]
async fn history_that_is_gone_is_no_outage() {
    let api = api();
    let mut facts = api.follow();
    blocks(&mut facts, &[A]).await;
    api.state().gone = true;
    let cuts = api.watches.all()["nodes"].failures;
    api.cut();
    api.put(B.0, B.1, 1);
    blocks(&mut facts, &[A, B]).await;
    let watch = api.watches.all()["nodes"].clone();
    assert_eq!(
        (watch.answers, watch.failures),
        (true, cuts + 1),
        "the cut alone: {watch:?}"
    );
}
