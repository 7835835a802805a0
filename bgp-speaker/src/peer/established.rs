//! What an established session has, all in one value: when the session ends it goes as a whole, and nothing of it is left for the
//! next session.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp_proto::engine::{Engine, Input as EngineInput, SessionFacts, SessionId};
use bgp_proto::session::{ConnId, Negotiated};
use bgp_proto::types::Family;
use tokio::sync::watch;

use super::connection::Connection;
use crate::engine::mailbox::ToEngine;
use crate::engine::outbox::Outbox;
use crate::host::{Host, session_facts};
use crate::socket;

/// Credit is reported when it is so much: little beside what lets the engine go on with a slow peer, and far more than one
/// small chunk, of which a reflector with many clients writes many.
const CREDIT_REPORT: usize = Engine::LOW_WATER / 4;

/// An established session.
pub(crate) struct Established {
    pub(crate) id: SessionId,
    /// The connection that it uses.
    pub(crate) conn: ConnId,
    /// What the engine has for it.
    pub(crate) outbox: Arc<Outbox>,
    /// Both ends, ours and the peer's.
    pub(crate) ends: (SocketAddr, SocketAddr),
    /// What the host says of the connection.
    facts: SessionFacts,
    /// The interface that has our address, and its changes.
    interface: Option<(String, watch::Receiver<u64>)>,
    /// Credit to report.
    written: usize,
    /// Messages of the engine's that the peer's task queued.
    pub(crate) routes_sent: u64,
}

/// What an established session woke up for.
pub(crate) enum SessionEvent {
    Outbox,
    Host,
}

/// What became of our end of a connection.
pub(crate) enum LocalEnd {
    /// Nothing that matters.
    Same,
    /// The host says something else of it.
    Changed(Box<SessionFacts>),
    /// The address is not this host's any more.
    Gone,
}

impl Established {
    /// A session that came up on this connection; `None` when the connection is gone already.
    pub(crate) fn new(
        id: SessionId,
        connection: &Connection,
        negotiated: Negotiated,
        host: &Host,
    ) -> Option<Self> {
        let stream = connection.stream();
        let ends = (stream.local_addr().ok()?, stream.peer_addr().ok()?);
        let interface = subscribe(host, &ends.0);
        let facts = session_facts(host, Arc::new(negotiated), ends.0, ends.1.ip().to_canonical());
        Some(Self {
            id,
            conn: connection.id,
            outbox: Arc::new(Outbox::new(id, Arc::clone(stream))),
            ends,
            facts,
            interface,
            written: 0,
            routes_sent: 0,
        })
    }

    /// What the engine is told.
    pub(crate) fn up(&self) -> ToEngine {
        ToEngine::Up(Box::new(self.facts.clone()), Arc::clone(&self.outbox))
    }

    /// The interface of an unnumbered peer.
    pub(crate) fn scope(&self) -> Option<u32> {
        socket::scope(&self.ends.1)
    }

    /// Messages of the engine's for the peer.
    pub(crate) fn messages_sent(&self) -> u64 {
        self.routes_sent + self.outbox.messages()
    }

    /// Octets written that the engine still counts as outstanding.
    pub(crate) fn unreported(&self) -> usize {
        self.written
    }

    /// The socket took messages of this cost.
    pub(crate) fn wrote(&mut self, credit: usize) {
        self.written += credit;
    }

    /// Whether there is enough credit to report.
    pub(crate) fn report_due(&self) -> bool {
        self.written >= CREDIT_REPORT
    }

    /// The credit to report, once.
    pub(crate) fn take_report(&mut self) -> Option<ToEngine> {
        self.report_due().then(|| {
            let written = std::mem::take(&mut self.written);
            ToEngine::Input(EngineInput::Written(self.id, written))
        })
    }

    /// The credit could not be reported.
    pub(crate) fn restore_credit(&mut self, report: &ToEngine) {
        if let ToEngine::Input(EngineInput::Written(_, written)) = report {
            self.written += written;
        }
    }

    /// Waits until the engine has something for the session (chunks count when `taking`), or an address of its interface came
    /// or went.
    pub(crate) async fn next_event(&mut self, taking: bool) -> SessionEvent {
        let (outbox, interface) = (&self.outbox, &mut self.interface);
        tokio::select! {
            biased;
            () = std::future::poll_fn(|context| outbox.poll(context, taking)) => SessionEvent::Outbox,
            () = changed(interface) => SessionEvent::Host,
        }
    }

    /// Looks at our end again.
    pub(crate) fn refresh_facts(&mut self, host: &Host) -> LocalEnd {
        if !host.has(self.ends.0.ip().to_canonical()) {
            return LocalEnd::Gone;
        }
        // The address may have moved to another interface (a bridge).
        let name = self.interface.as_ref().map(|(name, _)| name);
        if host.interface_of(&self.ends.0).as_ref() != name {
            self.interface = subscribe(host, &self.ends.0);
        }
        let negotiated = Arc::clone(&self.facts.negotiated);
        let facts = session_facts(host, negotiated, self.ends.0, self.facts.remote_addr);
        if facts == self.facts {
            return LocalEnd::Same;
        }
        self.facts = facts.clone();
        LocalEnd::Changed(Box::new(facts))
    }
}

/// Routes of an ended session that are kept, and for how long.
pub(crate) struct StaleRoutes {
    /// The session that they are of.
    pub(crate) session: SessionId,
    /// When the next time is over.
    pub(crate) until: Instant,
    /// Families that are kept on after that as long-lived stale routes, and for how long (RFC 9494 §4.2).
    pub(crate) long_lived: Vec<(Family, Duration)>,
}

impl StaleRoutes {
    /// The restart time is over (RFC 4724 §4.2), or the stale time of one family or another (RFC 9494 §4.2). `up`: the session that
    /// the peer has by now, whose End-of-RIB did not come in time. Gives what the engine is told, and what is still kept.
    pub(crate) fn expire(mut self, up: Option<SessionId>) -> (EngineInput, Option<Self>) {
        if let Some(session) = up {
            return (EngineInput::StaleExpired(session), None);
        }
        let Some(next) = self.long_lived.iter().map(|(_, time)| *time).min() else {
            return (EngineInput::Down(self.session), None);
        };
        let families = self.long_lived.iter().map(|(family, _)| *family).collect();
        let input = EngineInput::LongLived(self.session, families);
        self.until += next;
        // The next time is that of the family whose stale time ends first; the others go on from there.
        self.long_lived.retain_mut(|(_, time)| {
            *time -= next;
            !time.is_zero()
        });
        (input, Some(self))
    }
}

/// Follows the interface that has this address. The first look is due at once: something may have changed before.
fn subscribe(host: &Host, local: &SocketAddr) -> Option<(String, watch::Receiver<u64>)> {
    let name = host.interface_of(local)?;
    let mut changes = host.subscribe(&name);
    changes.mark_changed();
    Some((name, changes))
}

async fn changed(interface: &mut Option<(String, watch::Receiver<u64>)>) {
    if let Some((_, changes)) = interface
        && changes.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Waits for what an established session waits for; for ever without one.
pub(crate) async fn next_session_event(up: Option<&mut Established>, taking: bool) -> SessionEvent {
    match up {
        Some(up) => up.next_event(taking).await,
        None => std::future::pending().await,
    }
}
