//! Processing of received messages in each state (RFC 4271 §8.2.2, events 19–28; RFC 6608; RFC 7313).
//!
//! | message | OpenSent | OpenConfirm | Established |
//! |---|---|---|---|
//! | OPEN | negotiate, send KEEPALIVE | FSM error 5/2 | 5/3 |
//! | KEEPALIVE | 5/1 | established | restart hold timer |
//! | UPDATE | 5/1 | 5/2 | restart hold timer, output routes |
//! | ROUTE-REFRESH | 5/1 | 5/2 | output refresh |
//! | NOTIFICATION | close | close | close |
//!
//! An UPDATE on a connection that waits for the peer's decision (see `collision`) shows that the peer
//! established it.
//!
//! Bounds: a batch is output when it holds [`BATCH`] entries; refresh requests are output once per call and
//! family. Only the unfinished message in the caller's buffer is kept.
//!
//! Deviations: a NOTIFICATION is never answered, also where RFC 4271 §8.2.2 treats it as an FSM error (event
//! 25 in OpenSent; §6.4 takes precedence). A NOTIFICATION that is too short is a header error (§6.1).

use std::time::Instant;

use ::bytes::{Bytes, BytesMut};

use super::connection::Phase;
use super::fsm::{Fault, Session};
use super::negotiate::negotiate;
use super::timer::keepalive_interval;
use super::{ConnId, Output};
use crate::types::FamilySet;
use crate::wire::{
    Frame, MessageKind, Notification, Open, Refresh, RefreshKind, cut_frame, decode_update, fsm_error,
    keepalive, whole_message,
};

/// Prefixes, operations and issues after which a batch is output; a single UPDATE may exceed it.
const BATCH: usize = 4096;

impl Session {
    pub(super) fn received(&mut self, now: Instant, id: ConnId, buf: &mut BytesMut) {
        let mut requested = FamilySet::EMPTY;
        loop {
            let Some(extended) = self.conn(id).map(|conn| conn.extended) else {
                buf.clear(); // closed, perhaps by the previous message
                break;
            };
            let step = cut_frame(buf, extended)
                .map_err(Fault::from)
                .and_then(|frame| match frame {
                    None => Ok(false),
                    Some(frame) => self.message(now, id, &frame, &mut requested).map(|()| true),
                });
            match step {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    self.emit_batch();
                    self.end(now, id, fault);
                }
            }
        }
        self.emit_batch();
        if self.negotiated().is_none() {
            return; // the session ended meanwhile
        }
        for family in requested.iter() {
            let kind = RefreshKind::Request;
            self.push(Output::Refresh(Refresh { family, kind }));
        }
    }

    fn message(
        &mut self,
        now: Instant,
        id: ConnId,
        frame: &Frame,
        requested: &mut FamilySet,
    ) -> Result<(), Fault> {
        self.stats_mut().message_in(frame.kind);
        let Some(phase) = self.conn(id).map(|conn| conn.phase) else {
            return Ok(());
        };
        let unexpected = |subcode| {
            let notification = Notification::unexpected_message(subcode, frame.kind);
            Err(Fault::Notify(notification)) // RFC 6608 §4
        };
        match (phase, frame.kind) {
            (_, MessageKind::Notification) => Err(Fault::Notified(Notification::decode(&frame.body)?)),
            (Phase::Connecting, _) => Err(Fault::Notify(Notification::fsm_error())),
            (Phase::OpenSent, MessageKind::Open) => self.open(now, id, &frame.body),
            (Phase::OpenSent, _) => unexpected(fsm_error::OPEN_SENT),
            (Phase::OpenConfirm, MessageKind::Keepalive) => {
                self.confirm(now, id);
                Ok(())
            }
            (Phase::OpenConfirm, _) | (Phase::Confirmed, MessageKind::Open) => {
                unexpected(fsm_error::OPEN_CONFIRM)
            }
            (Phase::Established, MessageKind::Open) => unexpected(fsm_error::ESTABLISHED),
            (Phase::Confirmed | Phase::Established, MessageKind::Keepalive) => {
                self.restart_hold(now, id); // RFC 4271 §8.2.2, event 26
                Ok(())
            }
            (Phase::Confirmed, MessageKind::Update | MessageKind::Refresh) => {
                self.establish(now, id); // the peer has established it
                self.routing_message(now, id, frame, requested)
            }
            (Phase::Established, MessageKind::Update | MessageKind::Refresh) => {
                self.routing_message(now, id, frame, requested)
            }
        }
    }

    fn routing_message(
        &mut self,
        now: Instant,
        id: ConnId,
        frame: &Frame,
        requested: &mut FamilySet,
    ) -> Result<(), Fault> {
        if frame.kind == MessageKind::Update {
            self.restart_hold(now, id); // RFC 4271 §8.2.2, event 27
            self.update(id, &frame.body)
        } else {
            self.refresh(&frame.body, requested)
        }
    }

    fn update(&mut self, id: ConnId, body: &Bytes) -> Result<(), Fault> {
        let Some(context) = self.conn(id).map(|conn| conn.context) else {
            return Ok(());
        };
        let batch = self.batch_mut();
        decode_update(body, &context, batch)?;
        if batch.nlri.len() + batch.ops.len() + batch.issues.len() >= BATCH {
            self.emit_batch();
        }
        Ok(())
    }

    /// RFC 2918 §4, RFC 7313 §5: ignored unless negotiated.
    fn refresh(&mut self, body: &[u8], requested: &mut FamilySet) -> Result<(), Fault> {
        let Some(refresh) = Refresh::decode(body)? else {
            return Ok(());
        };
        let Some(agreed) = self.negotiated() else {
            return Ok(());
        };
        let known = agreed.carries(refresh.family);
        match refresh.kind {
            RefreshKind::Request if known && agreed.refresh => requested.insert(refresh.family),
            RefreshKind::Begin | RefreshKind::End if known && agreed.enhanced_refresh => {
                self.emit_batch(); // keeps the order of routes, BoRR and EoRR
                self.push(Output::Refresh(refresh));
            }
            _ => {}
        }
        Ok(())
    }

    /// RFC 4271 §6.2, §8.2.2 event 19: checks the peer's OPEN, resolves a collision, confirms with KEEPALIVE.
    fn open(&mut self, now: Instant, id: ConnId, body: &Bytes) -> Result<(), Fault> {
        let remote = Open::decode(body)?;
        let Some(local) = self.conn(id).and_then(|conn| conn.sent.clone()) else {
            return Ok(());
        };
        let negotiated = negotiate(self.config(), &local, &remote).map_err(Fault::Notify)?;
        let external = !self.config().is_internal();
        if let Some(conn) = self.conn_mut(id) {
            conn.opens.1 = whole_message(MessageKind::Open, body);
            conn.accept(now, negotiated, external);
        }
        if self.collide(now, id, &remote) {
            self.send(id, MessageKind::Keepalive, keepalive());
            self.restart_keepalive(now, id);
        }
        Ok(())
    }

    fn emit_batch(&mut self) {
        if self.batch_mut().is_empty() {
            return;
        }
        let batch = std::mem::take(self.batch_mut());
        self.stats_mut().update_issues += batch.issues.len() as u64;
        self.push(Output::Routes(batch));
    }

    pub(super) fn restart_hold(&mut self, now: Instant, id: ConnId) {
        if let Some(conn) = self.conn_mut(id) {
            conn.restart_hold(now);
        }
    }

    /// RFC 4271 §4.4: restarted whenever we send KEEPALIVE or UPDATE.
    pub(super) fn restart_keepalive(&mut self, now: Instant, id: ConnId) {
        let timed = self.conn(id).filter(|conn| conn.timed());
        let Some(hold_time) = timed.map(|conn| conn.hold_time) else {
            return;
        };
        let next = now + keepalive_interval(self.jitter_mut(), hold_time);
        if let Some(conn) = self.conn_mut(id) {
            conn.keepalive = Some(next);
        }
    }
}
