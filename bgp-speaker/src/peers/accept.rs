//! Listening: connections of configured peers go to their tasks, all others are closed at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::Peers;
use super::registry::{Caller, Refusal};
use crate::api::Stopped;
use crate::clock::now;
use crate::peer::messages::ToPeer;

/// Unknown sources are logged at most once in this time.
const QUIET: Duration = Duration::from_secs(10);
/// After an error of accept(2), most often too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the listener is closed with the speaker.
pub(crate) async fn accept(listener: Arc<TcpListener>, peers: Peers) {
    let mut last_refusal = None;
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match peers.registry.caller(remote) {
            // A task that is flooded with connections loses this one; the peer will try again.
            Caller::Known(peer) => drop(peer.try_send(ToPeer::Incoming(stream))),
            Caller::Refused(why) => refuse(remote, &why, &mut last_refusal),
            Caller::Unknown => match peers.add_dynamic(stream, remote).await {
                Ok(Ok(())) => {}
                Ok(Err(why)) => refuse(remote, &why, &mut last_refusal),
                Err(Stopped) => return,
            },
        }
    }
}

fn refuse(remote: SocketAddr, Refusal(why): &Refusal, last: &mut Option<std::time::Instant>) {
    let now = now();
    if last.is_none_or(|last| now.duration_since(last) >= QUIET) {
        *last = Some(now);
        tracing::warn!(source = %remote.ip(), "refused a connection: {why}");
    }
}
