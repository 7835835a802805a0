//! The session: who connects, password, distance, BFD, timers, restart.

use super::Check;
use crate::finding::Aspect;
use crate::router::{Neighbor, Place};
use crate::side::{Bfd, Ttl};

/// Neither side sends keepalives.
const NO_HOLD: u16 = 0;

impl Check<'_> {
    pub(super) fn connection(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        if let Some(shutdown) = neighbor.settings.shutdown.filter(|at| at.value) {
            let message = format!("neighbor {place} is shut down on the router");
            self.error(
                Aspect::Connection,
                Some(shutdown.line),
                "",
                message,
                "enable it on the router",
            );
        }
        let is_range = matches!(place, Place::Range(_));
        let passive = neighbor.settings.transport.passive.filter(|at| at.value);
        if self.group.session.node_waits && (is_range || passive.is_some()) {
            let line = passive.map_or(neighbor.line, |at| at.line);
            let message = format!(
                "both sides wait for a connection: the router for {place}, the node by passive: true"
            );
            self.error(
                Aspect::Connection,
                Some(line),
                "passive",
                message,
                "remove passive in podroute.yaml",
            );
        }
    }

    pub(super) fn password(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        let password = neighbor.settings.transport.password;
        let has = password.is_some_and(|at| at.value);
        let line = password.map(|at| at.line).or(Some(neighbor.line));
        match (self.group.session.password, has) {
            (true, false) => {
                let message =
                    format!("the node signs with a password (TCP MD5), and neighbor {place} has none");
                self.error(
                    Aspect::Password,
                    line,
                    "password",
                    message,
                    "add the password on the router, or remove password in podroute.yaml",
                );
            }
            (false, true) => {
                let message = format!("neighbor {place} has a password (TCP MD5), and the node none");
                self.error(
                    Aspect::Password,
                    line,
                    "password",
                    message,
                    "add password: {file: …} to the peer, or remove it on the router",
                );
            }
            _ => {}
        }
    }

    pub(super) fn ttl(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        let found = neighbor.settings.transport.ttl;
        let line = found.map(|at| at.line).or(Some(neighbor.line));
        // Junos keeps the distance of GTSM in a firewall filter.
        let ttl = match found.map(|at| at.value) {
            Some(Ttl::Multihop(255)) if matches!(self.group.session.ttl, Ttl::Security(_)) => {
                self.group.session.ttl
            }
            other => other.unwrap_or(Ttl::Direct),
        };
        if self.group.is_internal(self.side.asn)
            && !matches!(
                (self.group.session.ttl, ttl),
                (Ttl::Security(_), _) | (_, Ttl::Security(_))
            )
        {
            return;
        }
        match (self.group.session.ttl, ttl) {
            (Ttl::Security(hops), Ttl::Security(other)) if hops != other => {
                let message = format!("GTSM: the router allows {other} hops to {place}, the node {hops}");
                self.error(
                    Aspect::TtlSecurity,
                    line,
                    "ttlSecurity",
                    message,
                    "set the same number of hops on both sides",
                );
            }
            (Ttl::Security(_), Ttl::Direct | Ttl::Multihop(_)) => {
                let message = format!(
                    "the node has ttlSecurity, and the router sends {place} packets with a TTL that the node drops"
                );
                self.error(Aspect::TtlSecurity, line, "ttlSecurity", message, "add GTSM (RFC 5082) for the neighbor on the router, or remove ttlSecurity in podroute.yaml");
            }
            (Ttl::Direct | Ttl::Multihop(_), Ttl::Security(_)) => {
                let message = format!(
                    "the router has GTSM for {place}, and drops the node's packets: they do not have TTL 255"
                );
                self.error(
                    Aspect::TtlSecurity,
                    line,
                    "ttlSecurity",
                    message,
                    "add ttlSecurity: {hops: …} to the peer, or remove GTSM on the router",
                );
            }
            (Ttl::Multihop(hops), Ttl::Direct) => {
                let message = format!(
                    "the node expects the router up to {hops} hops away, and the router expects {place} to be directly connected"
                );
                self.error(Aspect::Multihop, line, "multihop", message, format!("add eBGP multihop with {hops} hops on the router, or remove multihop in podroute.yaml"));
            }
            (Ttl::Direct, Ttl::Multihop(hops)) => {
                let message = format!(
                    "the router expects {place} up to {hops} hops away, and the node's packets reach only a directly connected router"
                );
                self.warn(
                    Aspect::Multihop,
                    line,
                    "multihop",
                    message,
                    format!("add multihop: {hops} to the peer, or remove it on the router"),
                );
            }
            (Ttl::Multihop(hops), Ttl::Multihop(other)) if hops != other => {
                let message = format!("the router allows {other} hops to {place}, the node {hops}");
                self.warn(
                    Aspect::Multihop,
                    line,
                    "multihop",
                    message,
                    "set the same number on both sides",
                );
            }
            _ => {}
        }
    }

    pub(super) fn bfd(&mut self, neighbor: &Neighbor) {
        let place = &neighbor.place;
        let found = neighbor.settings.bfd;
        let line = found.map(|at| at.line).or(Some(neighbor.line));
        match (self.group.session.bfd, found.and_then(|at| at.value)) {
            (Some(_), None) => {
                let message = format!("the node watches the path by BFD, and neighbor {place} does not");
                self.error(
                    Aspect::Bfd,
                    line,
                    "bfd",
                    message,
                    "enable BFD for the neighbor on the router, or remove bfd in podroute.yaml",
                );
            }
            (None, Some(_)) => {
                let message =
                    format!("the router watches the path to {place} by BFD, and the node does not answer");
                self.error(
                    Aspect::Bfd,
                    line,
                    "bfd",
                    message,
                    "add bfd: {} to the peer, or remove BFD on the router",
                );
            }
            (
                Some(Bfd {
                    interval, multiplier, ..
                }),
                Some(read),
            ) => {
                let other = (
                    read.interval.unwrap_or(interval),
                    read.multiplier.unwrap_or(multiplier),
                );
                if other != (interval, multiplier) {
                    let message = format!(
                        "BFD: the router has {} ms times {} for {place}, the node {interval} ms times {multiplier}; the slower interval is used",
                        other.0, other.1
                    );
                    self.warn(
                        Aspect::Bfd,
                        line,
                        "bfd",
                        message,
                        "set the same interval and multiplier on both sides",
                    );
                }
            }
            (None, None) => {}
        }
    }

    pub(super) fn timers(&mut self, neighbor: &Neighbor) {
        let Some(found) = neighbor.settings.hold else {
            return;
        };
        let wanted = self.group.session.hold;
        if found.value == wanted {
            return;
        }
        let place = &neighbor.place;
        let used = match (found.value, wanted) {
            (NO_HOLD, _) | (_, NO_HOLD) => "no hold time".to_owned(),
            (found, wanted) => format!("{} s", found.min(wanted)),
        };
        let message = format!(
            "the router offers {place} a hold time of {} s, the node {wanted} s; {used} is used",
            found.value
        );
        self.warn(
            Aspect::Timers,
            Some(found.line),
            "timers.hold",
            message,
            "set the same hold time on both sides",
        );
    }

    pub(super) fn graceful_restart(&mut self, neighbor: &Neighbor) {
        if !self.group.session.graceful_restart {
            return;
        }
        let found = neighbor.settings.graceful_restart;
        let helps = found.map_or(self.router.format.helps_restart(), |at| at.value);
        if !helps {
            let place = &neighbor.place;
            let line = found.map(|at| at.line).or(Some(neighbor.line));
            let message = format!("the router does not keep the routes of {place} while its agent restarts");
            self.error(Aspect::GracefulRestart, line, "gracefulRestart", message, "enable graceful restart on the router, or set gracefulRestart: {restartTime: 0} in podroute.yaml");
        }
    }
}
