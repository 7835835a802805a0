//! Everything that belongs to one established session, in one value: it is dropped as a whole when the
//! session ends, so that nothing carries over to the next session.

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

/// Credit is reported at this amount: small compared with what lets the engine continue with a slow peer, and
/// much more than one small chunk, of which a reflector with many clients writes many.
const CREDIT_REPORT: usize = Engine::LOW_WATER / 4;

/// An established session.
pub(crate) struct Established {
    pub(crate) id: SessionId,
    /// Its connection.
    pub(crate) conn: ConnId,
    /// Chunks of the engine.
    pub(crate) outbox: Arc<Outbox>,
    /// Our and the peer's address.
    pub(crate) ends: (SocketAddr, SocketAddr),
    /// Host facts of the connection.
    facts: SessionFacts,
    /// The interface with our address, and its address changes.
    interface: Option<(String, watch::Receiver<u64>)>,
    /// Credit to report.
    written: usize,
    /// Number of the engine's messages queued by the peer's task.
    pub(crate) routes_sent: u64,
}

/// An event of an established session.
pub(crate) enum SessionEvent {
    Outbox,
    Host,
}

/// State of our end of a connection.
pub(crate) enum LocalEnd {
    /// No relevant change.
    Same,
    /// The host facts changed.
    Changed(Box<SessionFacts>),
    /// Our address was removed from this host.
    Gone,
}

impl Established {
    /// A session on this connection; `None` if the connection is gone already.
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

    /// The message that reports the session to the engine.
    pub(crate) fn up(&self) -> ToEngine {
        ToEngine::Up(Box::new(self.facts.clone()), Arc::clone(&self.outbox))
    }

    /// Interface index of an unnumbered peer.
    pub(crate) fn scope(&self) -> Option<u32> {
        socket::scope(&self.ends.1)
    }

    /// Number of the engine's messages sent.
    pub(crate) fn messages_sent(&self) -> u64 {
        self.routes_sent + self.outbox.messages()
    }

    /// Octets written that the engine still counts as outstanding.
    pub(crate) fn unreported(&self) -> usize {
        self.written
    }

    /// Records written messages of this cost.
    pub(crate) fn wrote(&mut self, credit: usize) {
        self.written += credit;
    }

    /// Whether there is enough credit to report.
    pub(crate) fn report_due(&self) -> bool {
        self.written >= CREDIT_REPORT
    }

    /// Takes the credit to report.
    pub(crate) fn take_report(&mut self) -> Option<ToEngine> {
        self.report_due().then(|| {
            let written = std::mem::take(&mut self.written);
            ToEngine::Input(EngineInput::Written(self.id, written))
        })
    }

    /// Restores credit that could not be reported.
    pub(crate) fn restore_credit(&mut self, report: &ToEngine) {
        if let ToEngine::Input(EngineInput::Written(_, written)) = report {
            self.written += written;
        }
    }

    /// Waits for chunks (with `taking`) or a failure from the engine, or an address change of the interface.
    pub(crate) async fn next_event(&mut self, taking: bool) -> SessionEvent {
        let (outbox, interface) = (&self.outbox, &mut self.interface);
        tokio::select! {
            biased;
            () = std::future::poll_fn(|context| outbox.poll(context, taking)) => SessionEvent::Outbox,
            () = changed(interface) => SessionEvent::Host,
        }
    }

    /// Reads the host facts again.
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

/// Retained routes of an ended session.
pub(crate) struct StaleRoutes {
    /// The session.
    pub(crate) session: SessionId,
    /// When the present period ends.
    pub(crate) until: Instant,
    /// Families retained after that as long-lived stale routes, and for how long (RFC 9494 §4.2).
    pub(crate) long_lived: Vec<(Family, Duration)>,
}

impl StaleRoutes {
    /// The restart time is over (RFC 4724 §4.2), or the stale time of some families (RFC 9494 §4.2). `up`:
    /// the peer's new session, whose End-of-RIB did not arrive in time. Returns the engine's input, and what
    /// is still retained.
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
        // The next period is the shortest remaining stale time.
        self.long_lived.retain_mut(|(_, time)| {
            *time -= next;
            !time.is_zero()
        });
        (input, Some(self))
    }
}

/// Subscribes to the interface with this address. The first event is due at once, because the addresses may
/// have changed before.
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

/// Waits for the next event of the session; forever without one.
pub(crate) async fn next_session_event(up: Option<&mut Established>, taking: bool) -> SessionEvent {
    match up {
        Some(up) => up.next_event(taking).await,
        None => std::future::pending().await,
    }
}
