//! OPEN negotiation (RFC 4271 §4.2, RFC 5492, RFC 4760, RFC 6793, RFC 7911, RFC 8654, RFC 8950).
//!
//! Builds our OPEN, checks the peer's OPEN against the configuration, and combines both into [`Negotiated`].
//! Checks that need no configuration (version, hold time, identifier zero) are in `wire`. The values of
//! graceful restart are not negotiated; they are in [`Negotiated::remote`].

use super::{DownReason, SessionConfig};
use crate::types::{Family, FamilySet, HoldTime, RouterId};
use crate::wire::{AddPathDirection, Capability, GracefulRestart, Notification, Open, code, open_error};

/// The result of a successful OPEN exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Negotiated {
    /// Our OPEN.
    pub local: Open,
    /// The peer's OPEN.
    pub remote: Open,
    /// The lower of both hold times; zero: no timers.
    pub hold_time: HoldTime,
    /// Families that both sides offered. Without a multiprotocol capability: IPv4 (RFC 4760 §8).
    pub families: FamilySet,
    /// AS numbers have four octets on this session (RFC 6793).
    pub four_octet_as: bool,
    /// ROUTE-REFRESH is supported (RFC 2918).
    pub refresh: bool,
    /// BoRR and EoRR are supported (RFC 7313).
    pub enhanced_refresh: bool,
    /// Messages up to 65535 octets (RFC 8654).
    pub extended_message: bool,
    /// Families in which the peer sends path identifiers (RFC 7911).
    pub add_path_receive: FamilySet,
    /// Families in which we send path identifiers.
    pub add_path_send: FamilySet,
    /// Families in which IPv4 prefixes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: FamilySet,
    /// Families in which the peer accepts long-lived stale routes (RFC 9494 §4.1).
    pub long_lived: FamilySet,
}

impl Negotiated {
    /// The peer's BGP identifier.
    #[must_use]
    pub fn remote_id(&self) -> RouterId {
        self.remote.router_id
    }

    /// Whether the session carries the family.
    #[must_use]
    pub fn carries(&self, family: Family) -> bool {
        self.families.contains(family)
    }
}

/// The capabilities that our OPEN offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum OpenOffer {
    /// All configured capabilities.
    #[default]
    Full,
    /// Multiprotocol and 4-octet AS.
    Essential,
    /// No optional parameters.
    Bare,
}

impl OpenOffer {
    /// What to offer after a connection ended: less, once, if the peer refused our capabilities (RFC 5492
    /// §3), otherwise everything.
    ///
    /// Only Unsupported Optional Parameter leads to an OPEN without capabilities. Such a session carries IPv4
    /// only, so it is not tried without IPv4. By the RFC, Unsupported Capability means that the peer misses a
    /// capability, but some speakers send it for unknown ones: then only the essential capabilities are
    /// offered.
    pub(super) fn after(self, config: &SessionConfig, reason: &DownReason) -> Self {
        let DownReason::Received(notification) = reason else {
            return Self::Full;
        };
        match (self, notification.code, notification.subcode) {
            (Self::Full, code::OPEN, open_error::UNSUPPORTED_PARAMETER)
                if config.families.contains(Family::Ipv4) =>
            {
                Self::Bare
            }
            (Self::Full, code::OPEN, open_error::UNSUPPORTED_CAPABILITY) => Self::Essential,
            _ => Self::Full,
        }
    }

    /// Our OPEN with the capabilities of this offer.
    pub(super) fn open(self, config: &SessionConfig, restart_bits: RestartBits) -> Open {
        let mut open = local_open(config, restart_bits);
        open.capabilities.retain(|capability| match self {
            Self::Full => true,
            Self::Essential => matches!(
                capability,
                Capability::Multiprotocol(_) | Capability::FourOctetAs(_)
            ),
            Self::Bare => false,
        });
        open
    }
}

/// The restart flags of our OPEN (RFC 4724 §3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RestartBits {
    /// R: this speaker has restarted.
    pub restarting: bool,
    /// F: the kernel preserved our routes.
    pub forwarding_preserved: bool,
}

/// Our OPEN: families, 4-octet AS, route refresh (both kinds), extended messages, graceful restart, and
/// configured capabilities.
#[must_use]
pub fn local_open(config: &SessionConfig, restart_bits: RestartBits) -> Open {
    let RestartBits {
        restarting,
        forwarding_preserved,
    } = restart_bits;
    let mut capabilities: Vec<Capability> = config.families.iter().map(Capability::Multiprotocol).collect();
    capabilities.extend([
        Capability::RouteRefresh,
        Capability::ExtendedMessage,
        Capability::FourOctetAs(config.local_asn),
        Capability::EnhancedRefresh,
    ]);
    capabilities.extend(config.graceful_restart.map(|restart_time| {
        Capability::GracefulRestart(GracefulRestart {
            restarting,
            notification: config.restart_on_notification,
            restart_time,
            families: config
                .families
                .iter()
                .map(|family| (family, forwarding_preserved))
                .collect(),
        })
    }));
    capabilities.extend(config.role.map(|role| Capability::Role(role.code())));
    capabilities.extend(config.extra_capabilities.iter().cloned());
    for capability in &mut capabilities {
        if let Capability::LongLivedGracefulRestart(families) = capability {
            // RFC 9494 §3.1: F has the same meaning there.
            families
                .iter_mut()
                .for_each(|family| family.forwarding &= forwarding_preserved);
        }
    }
    Open {
        asn: config.local_asn,
        hold_time: config.hold_time,
        router_id: config.router_id,
        capabilities,
    }
}

/// Checks the peer's OPEN against the configuration and combines both.
///
/// # Errors
/// The NOTIFICATION to send: Bad Peer AS, Bad BGP Identifier (RFC 6286 §2.2), Role Mismatch (RFC 9234 §4.2), or Unsupported Capability with
/// the families that we offer when none is common (RFC 5492 §5).
pub fn negotiate(config: &SessionConfig, local: &Open, remote: &Open) -> Result<Negotiated, Notification> {
    // RFC 4271 §6.2: the AS number must be a configured one.
    if !config.remote_asn.accepts(remote.asn, config.local_asn) {
        return Err(Notification::bad_peer_as());
    }
    // RFC 6286 §2.2: within an AS, identifiers are unique.
    if config.is_internal() && remote.router_id == config.router_id {
        return Err(Notification::bad_identifier());
    }
    check_roles(config, local, remote)?;
    // RFC 4760 §8: only families that both sides offer.
    let families = config
        .families
        .intersection(local.families())
        .intersection(remote.families());
    if families.is_empty() {
        let missing: Vec<Capability> = config.families.iter().map(Capability::Multiprotocol).collect();
        return Err(Notification::unsupported_capability(&missing));
    }
    let both = |pick: fn(&Open) -> bool| pick(local) && pick(remote);
    // RFC 7911 §4: one side must be able to send, the other to receive.
    let add_path = |local_side: fn(AddPathDirection) -> bool, remote_side: fn(AddPathDirection) -> bool| {
        families
            .iter()
            .filter(|family| local_side(local.add_path(*family)) && remote_side(remote.add_path(*family)))
            .collect()
    };
    Ok(Negotiated {
        hold_time: local.hold_time.min(remote.hold_time), // RFC 4271 §4.2
        families,
        four_octet_as: both(|open| open.four_octet_as().is_some()),
        refresh: both(Open::route_refresh),
        enhanced_refresh: both(Open::enhanced_refresh),
        extended_message: both(Open::extended_message),
        add_path_receive: add_path(|local_side| local_side.receive, |remote_side| remote_side.send),
        add_path_send: add_path(|local_side| local_side.send, |remote_side| remote_side.receive),
        extended_next_hop: local
            .extended_next_hop()
            .intersection(remote.extended_next_hop())
            .intersection(families),
        long_lived: families
            .iter()
            .filter(|family| remote.long_lived(*family).is_some())
            .collect(),
        local: local.clone(),
        remote: remote.clone(),
    })
}

/// RFC 9234 §4.2: the roles must fit where both sides say one; in strict mode the peer must say one.
fn check_roles(config: &SessionConfig, local: &Open, remote: &Open) -> Result<(), Notification> {
    // A reduced offer has no role to compare with.
    let Some(role) = config.role.filter(|_| local.roles().next().is_some()) else {
        return Ok(());
    };
    let fits = remote.roles().all(|theirs| theirs == role.counterpart().code());
    if !fits || (config.strict_role && remote.roles().next().is_none()) {
        return Err(Notification::role_mismatch());
    }
    Ok(())
}
