//! Messages of the peer: framing, the OPEN exchange, and what each message means in each state.

use std::time::{Duration, Instant};

use ::bytes::{Bytes, BytesMut};

use super::connection::Phase;
use super::fsm::{Fault, Session};
use super::negotiate::negotiate;
use super::{ConnId, Output};
use crate::wire::{
    Frame, MessageKind, Notification, Open, Refresh, cut_frame, decode_update, fsm_error, keepalive,
};

/// Prefixes after which a batch is handed out.
const BATCH: usize = 4096;

impl Session {
    pub(super) fn received(&mut self, now: Instant, id: ConnId, buf: &mut BytesMut) {
        loop {
            let Some(extended) = self.conn(id).map(|conn| conn.extended) else {
                buf.clear();
                return;
            };
            let step = cut_frame(buf, extended)
                .map_err(Fault::from)
                .and_then(|frame| match frame {
                    None => Ok(false),
                    Some(frame) => self.message(now, id, &frame).map(|()| true),
                });
            match step {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    self.emit_batch();
                    self.end(now, id, fault);
                    buf.clear();
                    return;
                }
            }
        }
        self.emit_batch();
    }

    fn message(&mut self, now: Instant, id: ConnId, frame: &Frame) -> Result<(), Fault> {
        self.stats_mut().received += 1;
        let Some(phase) = self.conn(id).map(|conn| conn.phase) else {
            return Ok(());
        };
        if frame.kind == MessageKind::Notification {
            return Err(Fault::Notified(
                Notification::decode(&frame.body).map_err(Fault::from)?,
            ));
        }
        match (phase, frame.kind) {
            (Phase::OpenSent, MessageKind::Open) => self.open(now, id, &frame.body),
            (Phase::OpenConfirm, MessageKind::Keepalive) => {
                self.establish(now, id);
                Ok(())
            }
            (Phase::Established, kind) => self.established_message(now, id, kind, frame),
            (Phase::OpenSent, kind) => Err(Fault::Notify(Notification::unexpected_message(
                fsm_error::OPEN_SENT,
                kind,
            ))),
            (Phase::OpenConfirm, kind) => Err(Fault::Notify(Notification::unexpected_message(
                fsm_error::OPEN_CONFIRM,
                kind,
            ))),
            (Phase::Connecting, _) => Err(Fault::Notify(Notification::fsm_error())),
        }
    }

    fn established_message(
        &mut self,
        now: Instant,
        id: ConnId,
        kind: MessageKind,
        frame: &Frame,
    ) -> Result<(), Fault> {
        match kind {
            MessageKind::Update => {
                self.restart_hold(now, id);
                self.update(id, &frame.body)
            }
            MessageKind::Keepalive => {
                self.restart_hold(now, id);
                Ok(())
            }
            MessageKind::Refresh => {
                if let Some(refresh) = Refresh::decode(&frame.body)? {
                    self.emit_batch();
                    self.push(Output::Refresh(refresh));
                }
                Ok(())
            }
            kind => Err(Fault::Notify(Notification::unexpected_message(
                fsm_error::ESTABLISHED,
                kind,
            ))),
        }
    }
}

impl Session {
    fn update(&mut self, id: ConnId, body: &Bytes) -> Result<(), Fault> {
        self.stats_mut().updates_received += 1;
        let Some(context) = self.conn(id).map(|conn| conn.context) else {
            return Ok(());
        };
        decode_update(body, &context, self.batch_mut())?;
        if self.batch_mut().nlri.len() >= BATCH {
            self.emit_batch();
        }
        Ok(())
    }

    /// RFC 4271 §6.2: takes the peer's OPEN, decides a collision, confirms with KEEPALIVE.
    fn open(&mut self, now: Instant, id: ConnId, body: &Bytes) -> Result<(), Fault> {
        let open = Open::decode(body)?;
        let negotiated = negotiate(self.config(), &self.our_open(), &open).map_err(Fault::Notify)?;
        let external = self.config().local_asn != self.config().remote_asn;
        if let Some(conn) = self.conn_mut(id) {
            conn.accept(now, negotiated, external);
        }
        if !self.decide_collision(now, id, &open) {
            return Ok(());
        }
        self.push(Output::Send {
            conn: id,
            bytes: keepalive(),
        });
        self.restart_keepalive(now, id);
        Ok(())
    }

    /// RFC 4271 §6.8, RFC 6286 §2.3: of two connections that both have the peer's OPEN, or where the
    /// other is still waiting for it, the one opened by the side with the higher identifier stays; with
    /// equal identifiers, by the side with the higher AS number. Says whether this connection stays.
    fn decide_collision(&mut self, now: Instant, id: ConnId, open: &Open) -> bool {
        let other = self
            .others(id)
            .find(|conn| conn.phase == Phase::OpenConfirm)
            .map(|conn| conn.id);
        let Some(other) = other else { return true };
        let ours = (self.config().router_id, self.config().local_asn);
        let we_win = ours > (open.router_id, open.asn);
        let incoming = self.conn(id).is_some_and(|conn| conn.incoming);
        let this_stays = incoming != we_win;
        let loser = if this_stays { other } else { id };
        self.end_quietly(now, loser, Notification::cease(crate::wire::cease::COLLISION));
        this_stays
    }

    fn establish(&mut self, now: Instant, id: ConnId) {
        let rest: Vec<ConnId> = self.others(id).map(|conn| conn.id).collect();
        for other in rest {
            self.end_quietly(now, other, Notification::cease(crate::wire::cease::COLLISION));
        }
        self.restart_hold(now, id);
        self.restart_keepalive(now, id);
        self.came_up(now, id);
    }

    fn emit_batch(&mut self) {
        if !self.batch_mut().is_empty() {
            let batch = std::mem::take(self.batch_mut());
            self.push(Output::Routes(batch));
        }
    }

    pub(super) fn restart_hold(&mut self, now: Instant, id: ConnId) {
        if let Some(conn) = self.conn_mut(id) {
            conn.hold = (conn.hold_time > Duration::ZERO).then(|| now + conn.hold_time);
        }
    }
}
