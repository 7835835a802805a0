//! What several tests are made of: a speaker without peers, a peer as the speaker shows it, and as the operator sees it.

use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{EngineConfig, PeerCounts, PeerKind, PeerRouting};
use bgp_proto::policy::Policy;
use bgp_proto::session::{SessionConfig, State, Stats};
use bgp_proto::types::{Asn, FamilySet, HoldTime, PeerId, RouterId};
use bgp_speaker::{
    PeerSnapshot, PeerSpec, SessionSnapshot, Speaker, SpeakerConfig, SpeakerHandle, Transport, Ttl,
};

use crate::status::PeerStatus;
use crate::views;

/// Listens nowhere. To be called inside a tokio runtime.
pub(crate) fn speaker() -> SpeakerHandle {
    let engine = EngineConfig {
        asn: Asn(64512),
        router_id: RouterId::new(1).unwrap(),
        cluster_id: None,
        max_paths: 1,
        multipath_relax: false,
        link_bandwidth: false,
        assume_reachable: false,
    };
    let started = Speaker::start(SpeakerConfig {
        engine,
        listen: Vec::new(),
        seed: 1,
    });
    started.unwrap().handle
}

/// A router that is not connected.
pub(crate) fn peer() -> PeerSnapshot {
    let routing = PeerRouting {
        name: "tor-a".to_owned(),
        kind: PeerKind::External,
        local_asn: Asn(64512),
        remote_asn: Some(Asn(65001)),
        import: Arc::new(Policy::accept_all()),
        export: Arc::new(Policy::accept_all()),
        next_hop_self: false,
        allow_own_as: 0,
        max_prefixes: None,
        max_paths_per_prefix: 64,
        max_memory: None,
        rules: Default::default(),
    };
    let session = SessionConfig {
        local_asn: Asn(64512),
        remote_asn: Asn(65001).into(),
        router_id: RouterId::new(1).unwrap(),
        families: FamilySet::ALL,
        hold_time: HoldTime::DEFAULT,
        connect_retry: Duration::from_secs(5),
        passive: false,
        graceful_restart: None,
        restart_on_notification: false,
        restarting_until: None,
        forwarding_preserved: false,
        role: None,
        strict_role: false,
        extra_capabilities: Vec::new(),
    };
    PeerSnapshot {
        id: PeerId(1),
        name: "tor-a".to_owned(),
        range: None,
        spec: PeerSpec {
            id: PeerId(1),
            name: "tor-a".to_owned(),
            session,
            routing: Arc::new(routing),
            transport: Transport {
                remote: "192.0.2.1:179".parse().unwrap(),
                local: None,
                ttl: Ttl::Multihop(1),
                password: None,
                next_password: None,
            },
            enabled: true,
            connect_after: Duration::ZERO,
            waiting_for: None,
        },
        session: SessionSnapshot {
            state: State::Active,
            stats: Stats::default(),
            messages_sent: 0,
            unreported: 0,
            negotiated: None,
            opens: None,
            ends: None,
            signed: false,
            next_key: false,
            enabled: true,
            waiting_for: None,
        },
        counts: PeerCounts::default(),
        since: None,
    }
}

/// The same as `show peers` has it.
pub(crate) fn peer_status() -> PeerStatus {
    views::peer(&peer())
}
