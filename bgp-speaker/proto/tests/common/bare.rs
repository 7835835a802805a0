//! An engine whose output is written at once and whose next hops are all reachable, to measure its cost.

use std::time::Instant;

use bgp_proto::engine::{Engine, EngineConfig, Input, Output, PeerKind, SessionId};
use bgp_proto::types::PeerId;

use super::{config, facts, routing};

/// The only session of a peer.
pub(crate) fn session(peer: PeerId) -> SessionId {
    SessionId { peer, epoch: 1 }
}

pub(crate) struct Bare {
    pub(crate) engine: Engine,
    /// Octets and chunks written so far.
    pub(crate) octets: usize,
    pub(crate) chunks: usize,
}

impl Bare {
    pub(crate) fn new() -> Self {
        Self {
            engine: Engine::new(EngineConfig {
                assume_reachable: true,
                ..config()
            }),
            octets: 0,
            chunks: 0,
        }
    }

    /// Passes an input; no work is done yet.
    pub(crate) fn handle(&mut self, input: Input) {
        self.engine.handle(Instant::now(), input);
    }

    /// Passes an input and does all resulting work.
    pub(crate) fn apply(&mut self, input: Input) {
        self.handle(input);
        self.pump();
    }

    /// Brings a peer's session up; no work is done yet.
    pub(crate) fn up(&mut self, peer: u32, kind: PeerKind) {
        let peer = PeerId(peer);
        self.handle(Input::Configure(peer, routing(peer, kind).into()));
        self.handle(Input::Up(session(peer), facts(peer, kind).into()));
    }

    pub(crate) fn pump(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            if let Output::Advertise(session, chunk) = output {
                self.octets += chunk.len_for(session.peer);
                self.chunks += 1;
                self.handle(Input::Written(session, chunk.cost_for(session.peer)));
            }
        }
    }
}

/// Resident memory of this process in octets.
pub(crate) fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() * 1024
}
