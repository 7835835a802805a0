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
const QUIET: Duration = Duration::from_secs(10);
/// After an error of accept(2), most often too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the listener is closed with the speaker.
pub(crate) async fn accept(listener: Arc<TcpListener>, peers: Peers) {
    let (mut refused, mut failed) = (Quiet::default(), Quiet::default());
    loop {
        let accepted = match peers.registry.accept(&listener).await {
            Ok(accepted) => accepted,
            Err(error) => {
                if failed.may_log(now()) {
                    tracing::warn!(%error, "cannot accept a connection");
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        match peers.registry.caller(&accepted) {
            Caller::Known { commands, signed } => {
                let stream = accepted.stream;
                // A task that is flooded with connections loses this one; the peer will try again.
                drop(commands.try_send(ToPeer::Incoming { stream, signed }));
            }
            Caller::Refused(why) => refuse(accepted.remote, &why, &mut refused),
            Caller::Unknown => {
                let remote = accepted.remote;
                if let Err(why) = peers.add_dynamic(accepted) {
                    refuse(remote, &why, &mut refused);
                }
            }
        }
    }
}

fn refuse(remote: SocketAddr, Refusal(why): &Refusal, quiet: &mut Quiet) {
    if quiet.may_log(now()) {
        tracing::warn!(source = %remote.ip(), "refused a connection: {why}");
    }
}

/// Lets one message through in [`QUIET`].
#[derive(Default)]
struct Quiet(Option<Instant>);

impl Quiet {
    fn may_log(&mut self, now: Instant) -> bool {
        let may = self.0.is_none_or(|last| now.duration_since(last) >= QUIET);
        if may {
            self.0 = Some(now);
        }
        may
    }
}
