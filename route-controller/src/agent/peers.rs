//! Peers of the configuration are added to, changed in and removed from the speaker; keys and warnings of peers.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bgp_proto::engine::PeerKind;
use bgp_proto::types::{Family, PeerId};
use bgp_speaker::{BmpSpec, LinkSpec, Password, PeerSpec, RangeSpec, Transport, Ttl};
use podroute_config::{Config, IMPORT_OF_REFLECTOR, Remote, mesh_import};

use super::{Agent, AgentError};
use crate::clock;
use crate::fib::task::ToFib;
use crate::host::Host;

impl Agent {
    pub(super) async fn put_peers(&mut self) -> Result<(), AgentError> {
        self.read_secrets();
        self.put_stations();
        self.note_clients();
        self.sessions.want(self.config.peers.iter());
        self.check_sessions();
        let waits = |peer: &&podroute_config::Peer| !matches!(peer.remote, Remote::Range { .. });
        let ranges: BTreeSet<String> = self
            .config
            .peers
            .iter()
            .filter(|peer| !waits(peer))
            .map(|peer| peer.name.clone())
            .collect();
        for gone in self.peers.ranges.difference(&ranges) {
            self.speaker.remove_range(gone).await?;
        }
        for peer in self.config.peers.iter().filter(|peer| !waits(peer)) {
            let Remote::Range { prefix, limit } = peer.remote else {
                continue;
            };
            let range = RangeSpec {
                name: peer.name.clone(),
                prefix,
                limit: limit as usize,
                template: self.spec(peer, PeerId(0)),
            };
            self.speaker.put_range(range).await?;
        }
        self.peers.ranges = ranges;
        for peer in self.config.peers.iter().filter(waits) {
            let id = *self.peers.ids.entry(peer.name.clone()).or_insert_with(|| {
                self.peers.next_id += 1;
                PeerId(self.peers.next_id)
            });
            self.put_peer(peer, id).await?;
        }
        let kept: BTreeSet<&String> = self
            .config
            .peers
            .iter()
            .filter(waits)
            .map(|peer| &peer.name)
            .collect();
        let gone: Vec<String> = self
            .peers
            .ids
            .keys()
            .filter(|name| !kept.contains(name))
            .cloned()
            .collect();
        for name in self.start_retiring(gone) {
            self.remove_peer(&name).await?;
        }
        let of_mesh = self.config.peers.iter().filter(|peer| peer.of_mesh);
        self.peers.of_mesh = of_mesh
            .map(|peer| peer.name.clone())
            .chain(self.mesh.retiring.keys().cloned())
            .collect();
        self.watch_paths().await;
        self.expect_initial_routes().await;
        Ok(())
    }

    /// Gives the speaker one peer.
    pub(super) async fn put_peer(&self, peer: &podroute_config::Peer, id: PeerId) -> Result<(), AgentError> {
        let template = self.spec(peer, id);
        match &peer.remote {
            Remote::Interface(interface) => {
                let interface = interface.clone();
                self.speaker.put_link(LinkSpec { interface, template }).await?;
            }
            _ => self.speaker.put_peer(template).await?,
        }
        Ok(())
    }

    /// Routes that were there before the start go when these peers have sent their initial routes.
    async fn expect_initial_routes(&self) {
        if self.sweep_at.is_none() || !self.knows_cluster() {
            return;
        }
        let peers = self.config.peers.iter().filter(|peer| !peer.shutdown);
        let expected = peers.filter_map(|peer| Some((self.peers.ids.get(&peer.name)?, peer.families)));
        let expected = expected.flat_map(|(id, families)| families.iter().map(|family| (*id, family)));
        let expected = expected.collect::<BTreeSet<_>>();
        self.to_fib(ToFib::SweepAfter(expected)).await;
    }

    pub(super) async fn remove_peer(&mut self, name: &str) -> Result<(), AgentError> {
        if let Some(id) = self.peers.ids.remove(name) {
            self.speaker.remove_peer(id).await?;
        }
        Ok(())
    }

    fn spec(&self, peer: &podroute_config::Peer, id: PeerId) -> PeerSpec {
        let mut spec = spec(&self.config, peer, id, &self.node.host);
        spec.session.restarting_until = self.node.start.restarting_until;
        spec.session.forwarding_preserved = self.node.start.forwarding_preserved;
        let path = self.bfd.state(id);
        if path.is_held {
            spec.waiting_for = Some(
                "its path was lost too often (bfd.dampening); `podroute show bfd` says how long it is held back"
                    .to_owned(),
            );
        } else if peer.bfd.as_ref().is_some_and(|bfd| bfd.strict) && !path.is_up {
            spec.waiting_for = Some("BFD is not up (bfd.strict); `podroute show bfd` says more".to_owned());
        }
        if self.mesh.trusting.holds(&peer.name) {
            let services = &self.config.services.ranges;
            let import = mesh_import(IMPORT_OF_REFLECTOR, &self.config.cluster.pod_cidrs, services);
            Arc::make_mut(&mut spec.routing).import = Arc::new(import);
        }
        if self.mesh.reflecting.holds(&peer.name) {
            Arc::make_mut(&mut spec.routing).kind = PeerKind::Client;
        }
        if let Some(file) = &peer.transport.password_file {
            let key = self.peers.secrets.key(file).map_err(|error| error.to_string());
            let password = key
                .and_then(|key| Password::new(key).map_err(|error| format!("{}: {error}", file.display())));
            match password {
                Ok(password) => {
                    spec.transport.next_password = self.next_password(&peer.transport, &password);
                    spec.transport.password = Some(password);
                }
                // Without its key no session is tried, and no connection of the peer accepted.
                Err(error) => spec.waiting_for = Some(format!("no key for TCP MD5: {error}")),
            }
        }
        spec
    }

    /// A second key that a peer with this password may have: the one that is to come, or the one before, if there is one.
    fn next_password(&self, transport: &podroute_config::Transport, password: &Password) -> Option<Password> {
        let file = transport.password_file.as_ref()?;
        let next = transport.next_password_file.as_ref();
        let next = next.and_then(|next| self.peers.secrets.key(next).ok());
        let key = next.or_else(|| self.peers.secrets.key_before(file))?;
        Password::new(key).ok().filter(|key| key != password)
    }

    /// The name of a peer; a number for one that is gone.
    pub(super) fn peer_name(&self, peer: PeerId) -> String {
        self.speaker.name(peer).unwrap_or_else(|| format!("#{}", peer.0))
    }

    pub(super) fn warn_of_prefixes(&mut self, peer: PeerId, family: Family, count: usize) {
        let name = self.peer_name(peer);
        tracing::warn!(event = "prefix_limit_near", peer = %name, %family, count, "the peer's number of prefixes is near or above maxPrefixes");
        let message = format!("{count} {family} prefixes from {name}: near or above maxPrefixes");
        self.post_event("PeerLimit", true, &name, message);
    }

    pub(super) fn warn_of_memory(&mut self, peer: PeerId, octets: usize) {
        let name = self.peer_name(peer);
        tracing::warn!(event = "memory_limit_near", peer = %name, octets, "the memory of the peer's routes is near or above maxMemory");
        let message = format!("routes from {name} use {octets} octets: near or above maxMemory");
        self.post_event("PeerLimit", true, &name, message);
    }

    pub(super) fn warn_of_paths(&self, peer: PeerId, prefix: bgp_proto::types::Prefix) {
        let name = self.peer_name(peer);
        tracing::warn!(event = "path_limit", peer = %name, %prefix, "the peer advertises more paths of one prefix than addPath.maxPaths; the others are ignored");
    }

    /// Kubernetes replaces mounted secrets without a word. Sessions go on with the new key, as soon as the peer has it too.
    pub(super) async fn check_secrets(&mut self) {
        if self.read_secrets() {
            tracing::info!(event = "password_changed", "a password file changed");
            if let Err(error) = self.put_peers().await {
                tracing::error!(event = "peers_not_applied", %error, "cannot apply the peers' new keys");
            }
        }
    }

    fn put_stations(&self) {
        let station = |wanted: &podroute_config::BmpStation| BmpSpec {
            station: wanted.station,
            pre_policy: wanted.pre_policy,
            post_policy: wanted.post_policy,
            statistics: wanted.statistics,
            name: self.name(),
        };
        self.speaker
            .put_stations(self.config.bmp.iter().map(station).collect());
    }

    fn read_secrets(&mut self) -> bool {
        let peers = self.config.peers.iter().flat_map(secret_files);
        let hops = self.config.next_hops.iter().filter_map(|hop| key_file(&hop.bfd));
        let changed = self.peers.secrets.changed(peers.chain(hops), clock::now());
        let unreadable = self.peers.secrets.unreadable();
        self.reports
            .health
            .unreadable_secrets
            .store(unreadable, Ordering::Relaxed);
        changed
    }
}

/// A peer of the configuration as the speaker takes it.
pub(super) fn spec(config: &Config, peer: &podroute_config::Peer, id: PeerId, host: &Host) -> PeerSpec {
    let ttl = match peer.transport.ttl {
        podroute_config::Ttl::Send(ttl) => Ttl::Multihop(ttl),
        podroute_config::Ttl::Security { hops } => Ttl::Gtsm(hops),
    };
    PeerSpec {
        id,
        name: peer.name.clone(),
        session: config.session_config(peer, host.router_id),
        routing: Arc::new(peer.routing.clone()),
        transport: Transport {
            remote: std::net::SocketAddr::new(
                peer.remote
                    .address()
                    .unwrap_or(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)),
                peer.port,
            ),
            // Without the interface's address the session waits, as `waiting_for` says.
            local: host.local_address(peer).ok().flatten(),
            ttl,
            password: None,
            next_password: None,
        },
        enabled: !peer.shutdown,
        connect_after: connect_after(config, peer, host),
        waiting_for: host.local_address(peer).err().map(|error| error.to_string()),
    }
}

/// The peer's time to connect before we do.
const PEER_CONNECTS_FIRST: Duration = Duration::from_millis(300);

/// Of two nodes of one AS the one with the higher address connects, so that a mesh has one connection for each session from the start.
fn connect_after(config: &Config, peer: &podroute_config::Peer, host: &Host) -> Duration {
    let internal = peer.remote_asn.is_internal(config.node.asn);
    let remote = peer.remote.address().filter(|_| internal);
    let own = |remote: std::net::IpAddr| {
        let mut addresses = host.addresses.iter();
        addresses.find(|own| own.is_ipv4() == remote.is_ipv4())
    };
    match remote.and_then(|remote| Some((remote, own(remote)?))) {
        Some((remote, own)) if *own < remote => PEER_CONNECTS_FIRST,
        _ => Duration::ZERO,
    }
}

fn secret_files(peer: &podroute_config::Peer) -> impl Iterator<Item = PathBuf> {
    let bfd = peer.bfd.as_ref().and_then(key_file);
    let transport = &peer.transport;
    [
        transport.password_file.clone(),
        transport.next_password_file.clone(),
        bfd,
    ]
    .into_iter()
    .flatten()
}

fn key_file(bfd: &podroute_config::Bfd) -> Option<PathBuf> {
    bfd.auth.as_ref().map(|auth| auth.file.clone())
}
