//! Listening: connections of configured peers go to their tasks, all others are closed at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use super::Peers;
use super::registry::{Caller, Refusal};
use crate::clock::now;
use crate::peer::messages::ToPeer;

/// Refused sources, and errors of accept(2), are logged at most once in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// After an error of accept(2), most often too many open files.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Accepts until the listener is closed with the speaker.
pub(crate) async fn accept(listener: Arc<TcpListener>, peers: Peers) {
    let (mut refused, mut failed) = (LogLimit::default(), LogLimit::default());
    loop {
        let accepted = match peers.registry.accept(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                if failed.may_log(now()) {
                    tracing::warn!(%error, "cannot accept a connection");
                }
                tokio::time::sleep(RETRY_AFTER).await;
                continue;
            }
        };
        match peers.registry.caller(&accepted) {
            Caller::Known { commands, signed } => {
                let stream = accepted.stream;
                // A task that is flooded with connections loses this one; the peer will try again.
                drop(commands.try_send(ToPeer::Incoming { stream, signed }));
            }
            Caller::Refused(reason) => refuse(accepted.remote, &reason, &mut refused),
            Caller::Unknown => {
                let remote = accepted.remote;
                if let Err(reason) = peers.add_dynamic(accepted) {
                    refuse(remote, &reason, &mut refused);
                }
            }
        }
    }
}

fn refuse(remote: SocketAddr, Refusal(reason): &Refusal, log_limit: &mut LogLimit) {
    if log_limit.may_log(now()) {
        tracing::warn!(source = %remote.ip(), "refused a connection: {reason}");
    }
}

/// Lets one message through in [`LOG_INTERVAL`].
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
