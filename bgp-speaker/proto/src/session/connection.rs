//! One TCP connection of a session: how far it is, its timers, what it negotiated.

use std::time::{Duration, Instant};

use super::{ConnId, Negotiated};
use crate::types::FamilySet;
use crate::wire::DecodeContext;

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Phase {
    Connecting,
    OpenSent,
    OpenConfirm,
    Established,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) id: ConnId,
    pub(super) incoming: bool,
    pub(super) phase: Phase,
    pub(super) negotiated: Option<Box<Negotiated>>,
    pub(super) context: DecodeContext,
    pub(super) extended: bool,
    pub(super) hold: Option<Instant>,
    pub(super) hold_time: Duration,
    pub(super) keepalive: Option<Instant>,
    pub(super) send_hold: Option<Instant>,
}

impl Connection {
    pub(super) fn new(id: ConnId, incoming: bool, phase: Phase) -> Self {
        Self {
            id,
            incoming,
            phase,
            negotiated: None,
            context: DecodeContext {
                four_octet_as: false,
                add_path: FamilySet::EMPTY,
                families: FamilySet::EMPTY,
                extended_next_hop: FamilySet::EMPTY,
                external: true,
            },
            extended: false,
            hold: None,
            hold_time: Duration::ZERO,
            keepalive: None,
            send_hold: None,
        }
    }

    /// The peer's OPEN is good: from now on the connection speaks as negotiated.
    pub(super) fn accept(&mut self, now: Instant, negotiated: Negotiated, external: bool) {
        self.phase = Phase::OpenConfirm;
        self.hold_time = Duration::from_secs(u64::from(negotiated.hold_time.seconds()));
        self.hold = (self.hold_time > Duration::ZERO).then(|| now + self.hold_time);
        self.extended = negotiated.extended_message;
        self.context = DecodeContext {
            four_octet_as: negotiated.four_octet_as,
            add_path: negotiated.add_path_receive,
            families: negotiated.families,
            extended_next_hop: negotiated.extended_next_hop,
            external,
        };
        self.negotiated = Some(Box::new(negotiated));
    }

    /// The next instant at which one of the connection's timers fires.
    pub(super) fn timeout(&self) -> Option<Instant> {
        [self.hold, self.keepalive, self.send_hold]
            .into_iter()
            .flatten()
            .min()
    }
}
