//! Tests of complete speakers that inspect internal state: leaks of removed peers, and a busy engine.

mod bounces;
mod busy;
#[path = "../../tests/common/mod.rs"]
pub(crate) mod common;
mod dynamic;
mod keys;
mod model;
mod queries;

use std::sync::Arc;

use bgp_proto::policy::Policy;
use bgp_proto::types::{Asn, PeerId};
use tokio::sync::oneshot;

use crate::api::{PeerSpec, RangeSpec};
use crate::speaker::SpeakerHandle;
use common::*;

/// Blocks the engine's task until this is dropped.
struct Pause(#[allow(dead_code, reason = "its end is what counts")] std::sync::mpsc::Sender<()>);

async fn pause(handle: &SpeakerHandle) -> Pause {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (begin, begun) = oneshot::channel();
    let peers = handle.peers_of_tests().clone();
    tokio::spawn(async move {
        let blocking = move |_: &mut bgp_proto::engine::Engine| {
            let _ = begin.send(());
            // The other tasks of this thread continue on another one. An error means that the other end was
            // dropped: that is the signal.
            let _ = tokio::task::block_in_place(|| released.recv());
        };
        let _ = peers.query(blocking).await;
    });
    begun.await.unwrap();
    Pause(release)
}

/// A range of dynamic peers of this AS in 127.X.0.0/16.
fn range(node: &Node, second: u8, asn: u32, limit: usize) -> RangeSpec {
    let remote = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let mut template = spec(node, 0, remote, Asn(asn));
    template.session.passive = true;
    template.session.graceful_restart = None;
    template.session.hold_time = bgp_proto::types::HoldTime::new(240).unwrap();
    RangeSpec {
        name: "racks".to_owned(),
        prefix: format!("127.{second}.0.0/16").parse().unwrap(),
        limit,
        template,
    }
}

/// Sends no routes to it.
fn quiet(mut spec: PeerSpec) -> PeerSpec {
    let mut routing = (*spec.routing).clone();
    routing.export = Arc::new(Policy::reject_all());
    spec.routing = Arc::new(routing);
    spec
}

/// Number of peers in the engine.
async fn peers_of_engine(handle: &SpeakerHandle) -> usize {
    let text = handle
        .peers_of_tests()
        .query(|engine| format!("{engine:?}"))
        .await;
    text.unwrap().matches("PeerRouting {").count()
}

/// Whether nothing remains of any peer.
async fn is_empty(handle: &SpeakerHandle) -> bool {
    let table_sizes = handle.peers_of_tests().registry.table_sizes();
    (
        table_sizes.peers,
        table_sizes.addresses,
        table_sizes.ranges_with_peers,
    ) == (0, 0, 0)
        && handle.outboxes_of_tests().await == 0
        && peers_of_engine(handle).await == 0
}

async fn established(handle: &SpeakerHandle) -> Vec<PeerId> {
    let peers = handle.peers().await.unwrap();
    let up = peers
        .iter()
        .filter(|peer| peer.session.state == bgp_proto::session::State::Established);
    up.map(|peer| peer.id).collect()
}
