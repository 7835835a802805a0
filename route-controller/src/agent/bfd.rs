//! BFD for the agent: which paths are watched, and what follows when one is lost.

use std::net::{IpAddr, SocketAddr};

use bgp_proto::wire::{Notification, cease};

use super::Agent;
use crate::fib::task::ToFib;
use crate::paths::{Watch, Whom};

impl Agent {
    /// Gives BFD the peers and next hops that want it, where their addresses are known.
    pub(super) async fn watch_paths(&mut self) {
        let wanting: Vec<_> = self
            .config
            .peers
            .iter()
            .filter_map(|peer| Some((*self.ids.get(&peer.name)?, peer, peer.bfd.as_ref()?)))
            .collect();
        let known = if wanting.is_empty() {
            Vec::new()
        } else {
            self.speaker.peers().await.unwrap_or_default()
        };
        let peers = wanting.into_iter().filter_map(|(id, peer, bfd)| {
            let remote = known.iter().find(|peer| peer.id == id)?.spec.transport.remote;
            let whom = Whom::Peer(id, peer.name.clone());
            let local = peer.transport.local_address;
            (!remote.ip().is_unspecified()).then(|| watch(whom, remote, local, bfd))?
        });
        let peers: Vec<Watch> = peers.collect();
        let hops = self.config.next_hops.iter().filter_map(|hop| {
            let remote = SocketAddr::new(hop.address, 0);
            watch(Whom::NextHop, remote, hop.local_address, &hop.bfd)
        });
        // With a peer at the same address the peer's settings hold.
        let hops = hops.filter(|hop| peers.iter().all(|peer| peer.target.key != hop.target.key));
        let all = hops.chain(peers.iter().cloned()).collect();
        self.paths.put(all);
        self.tell_dead().await;
    }

    /// Lost paths are no next hops, and those that are back are.
    async fn tell_dead(&mut self) {
        let dead = self.paths.dead();
        if dead != self.dead {
            self.dead.clone_from(&dead);
            self.to_fib(ToFib::Dead(dead)).await;
        }
    }

    /// News of paths: a lost one is no next hop, and ends its session at once; a strict one may begin when it is up.
    pub(super) async fn look_at_paths(&mut self) {
        let lost = self.paths.lost();
        self.tell_dead().await;
        for lost in lost {
            let why = crate::paths::words(lost.why);
            match lost.whom {
                Whom::Peer(id, name) => {
                    tracing::warn!(peer = %name, %why, "path lost (BFD)");
                    self.speaker.fail(id, Notification::cease(cease::BFD_DOWN)).await;
                }
                Whom::NextHop => tracing::warn!(next_hop = %lost.address, %why, "path lost (BFD)"),
            }
        }
        let waits = |bfd: &podroute_config::Bfd| bfd.strict || bfd.dampening.is_some();
        let waiting = self
            .config
            .peers
            .iter()
            .any(|peer| peer.bfd.as_ref().is_some_and(waits));
        if waiting && let Err(error) = self.put_peers().await {
            tracing::error!("{error}");
        }
    }
}

/// A path to watch; `None`, and an error in the log, when its key cannot be had.
fn watch(whom: Whom, remote: SocketAddr, local: Option<IpAddr>, bfd: &podroute_config::Bfd) -> Option<Watch> {
    let scope = match remote {
        SocketAddr::V6(remote) if remote.ip().is_unicast_link_local() => remote.scope_id(),
        _ => 0,
    };
    let auth = match bfd.auth.as_ref().map(read_key).transpose() {
        Ok(auth) => auth,
        Err(error) => {
            tracing::error!(neighbor = %remote.ip(), error, "no BFD with this neighbor (bfd.auth.file)");
            return None;
        }
    };
    Some(Watch {
        whom,
        target: bfd::Target {
            key: bfd::Key {
                remote: remote.ip(),
                scope,
            },
            local,
            multihop: bfd.multihop,
            min_ttl: bfd.min_ttl,
            interval: bfd.interval,
            multiplier: bfd.multiplier,
            auth,
        },
        dampening: bfd.dampening.map(|dampening| bfd::DampeningConfig {
            losses: dampening.losses,
            half_life: dampening.half_life,
            longest: dampening.longest,
        }),
    })
}

fn read_key(auth: &podroute_config::BfdAuth) -> Result<bfd::Auth, String> {
    use bfd::AuthKind;
    use podroute_config::BfdAuthKind;
    let kind = match auth.kind {
        BfdAuthKind::Simple => AuthKind::Simple,
        BfdAuthKind::KeyedMd5 => AuthKind::KeyedMd5,
        BfdAuthKind::MeticulousKeyedMd5 => AuthKind::MeticulousMd5,
        BfdAuthKind::KeyedSha1 => AuthKind::KeyedSha1,
        BfdAuthKind::MeticulousKeyedSha1 => AuthKind::MeticulousSha1,
    };
    let path = auth.file.display();
    let text = std::fs::read(&auth.file).map_err(|error| format!("{path}: {error}"))?;
    let key = text.strip_suffix(b"\n").unwrap_or(&text);
    let key = key.strip_suffix(b"\r").unwrap_or(key);
    bfd::Auth::new(kind, auth.key_id, key).ok_or_else(|| {
        let (has, most) = (key.len(), kind.longest_key());
        format!("{path} holds {has} octets; this type of authentication takes 1 to {most}")
    })
}
