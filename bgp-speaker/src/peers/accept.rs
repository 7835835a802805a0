//! Accepting: connections of configured peers go to their tasks, others are closed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::Peers;
use crate::clock::now;
use crate::registry::messages::ToPeer;
use crate::registry::{IncomingPeer, Refusal};

/// Interval of log messages about refused connections and about errors of accept(2).
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Wait after an error of accept(2), most often too many open files.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Accepts until the listener is closed.
pub(crate) async fn accept(listener: Arc<TcpListener>, peers: Peers) {
    let (mut refused, mut failed) = (LogLimit::default(), LogLimit::default());
    loop {
        let accepted = match peers.registry.accept(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                if failed.may_log(now()) {
                    tracing::warn!(event = "accept_failed", %error, "cannot accept connections; retrying");
                }
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
        };
        match peers.registry.match_incoming(&accepted) {
            IncomingPeer::Known { commands, signed } => {
                let stream = accepted.stream;
                // If the task's queue is full, the connection is dropped; the peer tries again.
                drop(commands.try_send(ToPeer::Incoming { stream, signed }));
            }
            IncomingPeer::Refused(reason) => refuse(accepted.remote, &reason, &mut refused),
            IncomingPeer::Unknown => {
                let remote = accepted.remote;
                if let Err(reason) = peers.add_dynamic(accepted) {
                    refuse(remote, &reason, &mut refused);
                }
            }
        }
    }
}

/// Allows one log message per [`LOG_INTERVAL`].
#[derive(Default)]
struct LogLimit(Option<Instant>);

impl LogLimit {
    fn may_log(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|last| now.duration_since(last) >= LOG_INTERVAL);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

fn refuse(remote: SocketAddr, reason: &Refusal, log_limit: &mut LogLimit) {
    if log_limit.may_log(now()) {
        tracing::warn!(event = "connection_refused", source = %remote.ip(), %reason, "connection refused");
    }
}
