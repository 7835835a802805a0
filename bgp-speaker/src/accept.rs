//! Listening: connections of configured peers go to their tasks, all others are closed at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::clock::now;
use crate::messages::ToPeer;
use crate::speaker::Peers;

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
        match peers.registry.by_address(remote) {
            // A task that is flooded with connections loses this one; the peer will try again.
            Some(peer) => drop(peer.try_send(ToPeer::Incoming(stream))),
            None => match peers.registry.passing(remote) {
                Ok((spec, range)) => {
                    if peers.add_passing(spec, range, stream).await.is_err() {
                        return;
                    }
                }
                Err(why) => refuse(remote, &why, &mut last_refusal),
            },
        }
    }
}

fn refuse(remote: SocketAddr, why: &str, last: &mut Option<std::time::Instant>) {
    let now = now();
    if last.is_none_or(|last| now.duration_since(last) >= QUIET) {
        *last = Some(now);
        tracing::warn!(source = %remote.ip(), "refused a connection: {why}");
    }
}
