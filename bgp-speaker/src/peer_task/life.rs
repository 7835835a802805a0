//! Connections come and go, and sessions with them.

use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::Input as EngineInput;
use bgp_proto::session::{ConnId, DownReason, Input, Negotiated};
use bgp_proto::types::{Asn, Family, FamilySet};
use tokio::net::TcpStream;

use super::PeerTask;
use crate::api::Event;
use crate::clock::now;
use crate::connection::Connection;
use crate::facts::session_facts;
use crate::messages::ToEngine;
use crate::outbox::Outbox;
use crate::socket;

/// What outlives a session: families, until the restart time is over, and for how long after that.
pub(super) struct Kept(
    pub(super) FamilySet,
    pub(super) Duration,
    pub(super) Vec<(Family, Duration)>,
);

impl PeerTask {
    pub(super) fn incoming(&mut self, stream: TcpStream) {
        if let Err(error) = socket::tune(
            std::os::fd::AsFd::as_fd(&stream),
            &self.spec.transport,
            self.is_external(),
        ) {
            tracing::warn!(peer = %self.spec.name, %error, "cannot set the options of an accepted connection");
            return;
        }
        let id = ConnId(self.next_incoming);
        self.next_incoming += 1;
        self.connections.push(Connection::new(id, stream));
        self.tell_session(Input::Connected {
            conn: id,
            incoming: true,
        });
    }

    pub(super) fn dialed(&mut self, id: ConnId, result: std::io::Result<TcpStream>) {
        self.dial = None;
        match result {
            Ok(stream) => {
                self.connections.push(Connection::new(id, stream));
                self.tell_session(Input::Connected {
                    conn: id,
                    incoming: false,
                });
            }
            Err(error) => self.tell_session(Input::Closed {
                conn: id,
                error: Some(error.to_string()),
            }),
        }
    }

    /// The connection is gone by itself.
    pub(super) fn lost(&mut self, id: ConnId, error: Option<std::io::Error>) {
        if let Some(position) = self.connections.iter().position(|connection| connection.id == id) {
            let mut connection = self.connections.remove(position);
            let earlier = self.part(&mut connection);
            let error = earlier.or(error).map(|error| error.to_string());
            self.tell_session(Input::Closed { conn: id, error });
        }
    }

    /// The engine writes no more on the connection; what the system told it, if anything.
    fn part(&mut self, connection: &mut Connection) -> Option<std::io::Error> {
        let (_, outbox) = self
            .up
            .take_if(|(established, _)| *established == connection.id)?;
        self.routes_sent += outbox.messages();
        outbox.close(&mut connection.queue)
    }

    pub(super) fn close(&mut self, id: ConnId) {
        if self.dial.as_ref().is_some_and(|(dialing, _)| *dialing == id) {
            self.dial = None;
        }
        if let Some(position) = self.connections.iter().position(|connection| connection.id == id) {
            let mut connection = self.connections.remove(position);
            self.part(&mut connection);
            self.farewells.retain(|task| !task.is_finished());
            self.farewells.push(connection.close());
        }
    }

    pub(super) fn came_up(&mut self, id: ConnId, negotiated: Negotiated) {
        let Some(connection) = self.connections.iter().find(|connection| connection.id == id) else {
            return;
        };
        let (local, remote) = (connection.stream().local_addr(), connection.stream().peer_addr());
        let (Ok(local), Ok(remote)) = (local, remote) else {
            return;
        };
        let asn: Asn = negotiated.remote.asn;
        let facts = session_facts(
            &self.host,
            Arc::new(negotiated),
            local,
            remote.ip().to_canonical(),
        );
        self.scope = socket::scope(&remote);
        let outbox = Arc::new(Outbox::new(self.spec.id, Arc::clone(connection.stream())));
        self.up = Some((id, Arc::clone(&outbox)));
        self.written = 0;
        self.pending.push_back(ToEngine::Up(
            EngineInput::Up(self.spec.id, Box::new(facts)),
            outbox,
        ));
        tracing::info!(peer = %self.spec.name, address = %remote.ip(), %asn, "session established");
        self.pending
            .push_back(ToEngine::Tell(Event::PeerUp(self.spec.id)));
    }

    pub(super) fn went_down(&mut self, was_up: bool, reason: &DownReason, Kept(retain, time, longer): Kept) {
        let words = crate::api::words(reason);
        if !was_up {
            tracing::debug!(peer = %self.spec.name, reason = %words, "attempt failed");
            return;
        }
        let id = self.spec.id;
        let input = if retain.is_empty() {
            self.stale_until = None;
            self.long_lived.clear();
            EngineInput::Down(id)
        } else {
            self.stale_until = Some(now() + time);
            self.long_lived = longer;
            EngineInput::Restarting(id, retain)
        };
        self.pending.push_back(ToEngine::Input(input));
        tracing::warn!(peer = %self.spec.name, reason = %words, keeping = ?retain, "session down");
        self.pending.push_back(ToEngine::Tell(Event::PeerDown(id, words)));
    }

    /// The peer did not come back, or not with its End-of-RIB, in its restart time (RFC 4724 §4.2), or in the
    /// stale time after that of one family or another (RFC 9494 §4.2).
    pub(super) fn end_stale(&mut self) {
        let now = now();
        let Some(until) = self.stale_until.filter(|until| *until <= now) else {
            return;
        };
        let id = self.spec.id;
        if self.up.is_some() {
            self.long_lived.clear();
        }
        let families: FamilySet = self.long_lived.iter().map(|(family, _)| *family).collect();
        let next = self.long_lived.iter().map(|(_, time)| *time).min();
        self.stale_until = next.map(|time| until + time);
        let input = match (next, self.up.is_some()) {
            (Some(_), _) => EngineInput::LongLived(id, families),
            (None, true) => EngineInput::Swept(id),
            (None, false) => EngineInput::Down(id),
        };
        // The next time is that of the family whose stale time ends first; the others go on from there.
        let passed = next.unwrap_or_default();
        self.long_lived.retain_mut(|(_, time)| {
            *time -= passed;
            !time.is_zero()
        });
        self.pending.push_back(ToEngine::Input(input));
    }
}
