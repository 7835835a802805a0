//! Connection collision detection (RFC 4271 §6.8, RFC 6286 §2.3).
//!
//! The connection opened by the side with the higher BGP identifier stays; if the identifiers are equal, the
//! one opened by the side with the higher AS number. If that side is us, we close the other connection as
//! soon as both OPENs are known or one connection is established. If that side is the peer, RFC 4271 lets
//! both sides close, and in an unlucky order both connections are closed: the peer establishes our connection
//! and closes its own while we close our connection in favor of the peer's. Therefore we leave the decision
//! about our confirmed connection to the peer. Both stay until the peer closes one, or shows by an
//! UPDATE that it established ours, or [`COLLISION_WAIT`] is over; then the rule of RFC 4271 is applied.
//!
//! A third connection replaces the unfinished one that the peer opened before: the peer has given that one
//! up, although its close has not arrived yet. So there are never more than two.
//!
//! A connection of the peer beside an established one is refused (RFC 4271 §6.8), unless it may show that the
//! peer restarted (see `restart`). It is refused at once, not after its OPEN. Otherwise a peer that has our
//! OPEN on it, but has not received our last KEEPALIVE on the established connection, could choose the new
//! connection and close the established one while we close the new one, and no connection would remain. The
//! refusal does not affect the established session.
//!
//! Deviation: while neither connection is established, the identifiers in two OPENs of the peer are not
//! compared with each other. Connections belong to one configured peer, and different identifiers would not
//! make it two peers.

use std::time::Instant;

use super::ConnId;
use super::connection::{Connection, Phase};
use super::fsm::Session;
use super::timer::COLLISION_WAIT;
use crate::wire::{Notification, Open, cease};

impl Session {
    /// Whether connections opened by the peer take precedence (RFC 6286 §2.3).
    fn peer_has_priority(&self, remote: &Open) -> bool {
        let local = (self.config().router_id, self.config().local_asn);
        (remote.router_id, remote.asn) > local
    }

    /// The peer's OPEN arrived on this connection. Returns whether the connection stays.
    pub(super) fn collide(&mut self, now: Instant, id: ConnId, remote: &Open) -> bool {
        if let Some(agreed) = self.negotiated() {
            let same = agreed.remote_id() == remote.router_id;
            if !same {
                self.refuse(id, cease::COLLISION); // RFC 4271 §6.8
            }
            return same;
        }
        let opened = |conn: &&Connection| conn.phase >= Phase::OpenConfirm;
        let Some(other) = self.others(id).find(opened).map(|conn| conn.id) else {
            return true;
        };
        let incoming = self.conn(id).is_some_and(|conn| conn.incoming);
        let peer_has_priority = self.peer_has_priority(remote);
        if incoming == peer_has_priority && peer_has_priority {
            // Our connection is confirmed: the peer may have established it, and decides.
            self.start_collision_wait(now);
            return true;
        }
        let loser = if incoming == peer_has_priority { other } else { id };
        self.close_redundant(loser); // RFC 4271 §6.8
        loser != id
    }

    /// The peer's KEEPALIVE arrived on a connection in OpenConfirm.
    pub(super) fn confirm(&mut self, now: Instant, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        let remote = conn.negotiated.as_deref().map(|agreed| &agreed.remote);
        let peer_decides = !conn.incoming && remote.is_some_and(|open| self.peer_has_priority(open));
        if peer_decides && self.others(id).any(|other| other.phase >= Phase::OpenSent) {
            if let Some(conn) = self.conn_mut(id) {
                conn.phase = Phase::Confirmed;
                conn.restart_hold(now);
            }
            self.start_collision_wait(now);
        } else {
            self.establish(now, id);
        }
    }

    fn start_collision_wait(&mut self, now: Instant) {
        self.collision_deadline.get_or_insert(now + COLLISION_WAIT);
    }

    /// The peer closed neither connection in time: applies the rule of RFC 4271 §6.8.
    pub(super) fn collision_timeout(&mut self, now: Instant) {
        self.collision_deadline = None;
        let peer_opened = self
            .all()
            .any(|conn| conn.incoming && conn.phase >= Phase::OpenConfirm);
        let Some(local) = self.all().find(|conn| !conn.incoming) else {
            return;
        };
        let (id, confirmed) = (local.id, local.phase == Phase::Confirmed);
        if peer_opened {
            self.close_redundant(id);
        } else if confirmed {
            self.establish(now, id);
        }
    }

    /// Establishes a confirmed connection after the peer closed the other one.
    pub(super) fn establish_remaining(&mut self, now: Instant) {
        if self.collision_deadline.is_none() || self.all().count() > 1 {
            return;
        }
        self.collision_deadline = None;
        let won = self.all().find(|conn| conn.phase == Phase::Confirmed);
        if let Some(id) = won.map(|conn| conn.id) {
            self.establish(now, id);
        }
    }

    /// Establishes a connection and closes all others.
    pub(super) fn establish(&mut self, now: Instant, id: ConnId) {
        self.drop_superseded(now);
        let rest: Vec<ConnId> = self.others(id).map(|conn| conn.id).collect();
        for other in rest {
            self.close_redundant(other);
        }
        self.collision_deadline = None;
        self.came_up(now, id);
    }

    /// Closes a redundant connection; this is no failure of the session.
    pub(super) fn close_redundant(&mut self, id: ConnId) {
        let Some(conn) = self.conn(id) else { return };
        if conn.phase > Phase::Connecting {
            self.stats_mut().collisions += 1;
            self.send_notification(id, &Notification::cease(cease::COLLISION)); // RFC 4271 §6.8
        }
        self.close_quietly(id);
    }
}
