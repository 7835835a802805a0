//! What the machines of a mesh run, for podroute and for BIRD: iBGP over IPv4 with both families on one session.

use std::fmt::Write;
use std::net::IpAddr;

use super::bridge::{self, BLOCKS, address};
use lab::daemon::Kind;
use lab::topology::Family;

/// The machines that reflect are the first ones.
pub(super) const REFLECTORS: usize = 2;
const ASN: u32 = 64512;
/// Between attempts to connect, in seconds: podroute's default.
pub(super) const RETRY: u32 = 5;

/// Who has a session with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peering {
    /// Everybody with everybody.
    Full,
    /// Each client with the two reflectors. These have no session with each other, so that a route between a client and
    /// a reflector has crossed the session of the two.
    Reflectors,
}

impl Peering {
    /// Whether two machines have a session.
    pub(super) fn peers(self, one: usize, other: usize) -> bool {
        match self {
            Self::Full => one != other,
            Self::Reflectors => (one < REFLECTORS) != (other < REFLECTORS),
        }
    }

    /// Whether one learns the other's routes.
    pub(super) fn learns(self, one: usize, other: usize) -> bool {
        match self {
            Self::Full => one != other,
            Self::Reflectors => one != other && (one >= REFLECTORS || other >= REFLECTORS),
        }
    }
}

/// One machine's configuration.
#[derive(Debug, Clone, Copy)]
pub(super) struct Config {
    pub(super) peering: Peering,
    pub(super) at: usize,
    pub(super) count: usize,
    /// The generation of the blocks that it has beside its own; 0: none.
    pub(super) generation: u16,
    /// Hold time in seconds.
    pub(super) hold: u32,
}

impl Config {
    fn blocks(&self, family: Family) -> impl Iterator<Item = ipnet::IpNet> {
        let at = self.at;
        let more = (self.generation > 0).then_some(self.generation);
        [Some(0), more]
            .into_iter()
            .flatten()
            .map(move |generation| bridge::block(at, generation, family))
    }

    fn peers(&self) -> impl Iterator<Item = (usize, IpAddr)> {
        let (peering, at) = (self.peering, self.at);
        (0..self.count)
            .filter(move |other| peering.peers(at, *other))
            .map(|other| (other, address(other, Family::V4)))
    }

    /// Whether its peers are its clients.
    fn reflects(&self) -> bool {
        self.peering == Peering::Reflectors && self.at < REFLECTORS
    }

    /// The file for a daemon.
    pub(super) fn render(&self, kind: Kind) -> String {
        match kind {
            Kind::Bird => self.bird(),
            _ => self.podroute(),
        }
    }

    fn podroute(&self) -> String {
        let blocks = Family::BOTH.map(|family| self.blocks(family).map(|block| format!("\"{block}\"")));
        let blocks: Vec<String> = blocks.into_iter().flatten().collect();
        let mut out = format!(
            "apiVersion: podroute/v1\ncluster: {{asn: {ASN}, podCIDRs: [{}, \"{}\"]}}\n\
             node: {{name: n{}, routerId: {}, blocks: [{}]}}\npeers:\n",
            BLOCKS[0],
            BLOCKS[1],
            self.at,
            address(self.at, Family::V4),
            blocks.join(", ")
        );
        let client = if self.reflects() {
            ", routeReflectorClient: true"
        } else {
            ""
        };
        for (other, remote) in self.peers() {
            let _ = writeln!(
                out,
                "- {{name: n{other}, address: {remote}, asn: {ASN}, timers: {{hold: {}s, connectRetry: {RETRY}s}}{client}}}",
                self.hold
            );
        }
        out
    }

    fn bird(&self) -> String {
        let local = address(self.at, Family::V4);
        let mut out = format!(
            "log stderr {{ warning, error, fatal, bug }};\nrouter id {local};\nprotocol device {{}}\n"
        );
        for (family, channel) in [(Family::V4, "ipv4"), (Family::V6, "ipv6")] {
            let routes: String = self
                .blocks(family)
                .map(|block| format!(" route {block} unreachable;"))
                .collect();
            let _ = write!(
                out,
                "protocol kernel {{ persist; graceful restart on; {channel} {{ import none; export all; }}; }}\n\
                 protocol static {{ {channel};{routes} }}\n"
            );
        }
        let _ = writeln!(
            out,
            "template bgp mesh {{ local {local} as {ASN}; direct; hold time {}; connect delay time 1; connect retry time {RETRY}; \
             error wait time 1, {RETRY}; error forget time {RETRY}; graceful restart on; {}\
             ipv4 {{ import all; export all; gateway direct; }}; \
             ipv6 {{ import all; export all; gateway direct; next hop address {}; }}; }}",
            self.hold,
            if self.reflects() { "rr client; " } else { "" },
            address(self.at, Family::V6)
        );
        for (other, remote) in self.peers() {
            // One side connects, as in other meshes of BIRDs: two connections that collide cost it three seconds.
            let passive = if other > self.at { "passive; " } else { "" };
            let _ = writeln!(
                out,
                "protocol bgp n{other} from mesh {{ neighbor {remote} as {ASN}; {passive}}}"
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mesh_has_all_sessions_and_reflectors_have_none_with_each_other() {
        let count = |peering: Peering| {
            let pairs = (0..6).flat_map(|one| (0..6).map(move |other| (one, other)));
            pairs.filter(|(one, other)| peering.peers(*one, *other)).count()
        };
        assert_eq!(count(Peering::Full), 30);
        assert_eq!(count(Peering::Reflectors), 2 * 2 * 4);
        assert!(
            !Peering::Reflectors.learns(0, 1)
                && Peering::Reflectors.learns(0, 2)
                && Peering::Reflectors.learns(2, 3)
        );
    }
}
