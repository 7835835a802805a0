//! BFD sessions of peers and next hops, and peers that wait for theirs (`bfd.strict`).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use podroute_config::Bfd;

use super::Agent;
use crate::bfd_watch::{Watch, WatchOwner};
use crate::secrets::{Secrets, UnreadableKey};

impl Agent {
    /// Gives BFD the peers and next hops that want it, where their addresses are known.
    pub(super) async fn watch_paths(&mut self) {
        let known = self.speaker.addresses();
        let secrets = &self.peers.secrets;
        let mut all: Vec<Watch> = Vec::new();
        for peer in &self.config.peers {
            let (Some(bfd), Some(id)) = (&peer.bfd, self.peers.ids.get(&peer.name)) else {
                continue;
            };
            if let Some(remote) = known.get(id) {
                let owner = WatchOwner::Peer(*id, peer.name.clone());
                let local = self.node.host.local_address(peer).ok().flatten();
                all.extend(watch(owner, *remote, local, bfd, secrets));
            }
        }
        // With a peer at the same address the peer's settings hold.
        let of_peers: std::collections::BTreeSet<bfd::Key> =
            all.iter().map(|watch| watch.target.key).collect();
        for hop in &self.config.next_hops {
            let remote = SocketAddr::new(hop.address, 0);
            let watch = watch(WatchOwner::NextHop, remote, hop.local_address, &hop.bfd, secrets);
            all.extend(watch.filter(|watch| !of_peers.contains(&watch.target.key)));
        }
        self.bfd.put(all).await;
    }

    /// Paths to peers came up or were lost: those peers that wait for theirs are put again.
    pub(super) async fn check_paths(&mut self) {
        let states = self.bfd.states();
        let before = std::mem::replace(&mut self.peers.paths, states);
        let waits = |bfd: &Bfd| bfd.strict || bfd.dampening.is_some();
        let mut changed = Vec::new();
        for peer in &self.config.peers {
            let Some(id) = self.peers.ids.get(&peer.name) else {
                continue;
            };
            let differs = before.get(id) != self.peers.paths.get(id);
            if differs && peer.bfd.as_ref().is_some_and(waits) {
                changed.push((peer.clone(), *id));
            }
        }
        for (peer, id) in changed {
            if let Err(error) = self.put_peer(&peer, id).await {
                tracing::error!(event = "bfd_update_failed", %error, "cannot apply a BFD state change to its peer");
            }
        }
    }
}

/// A path to watch; `None`, and an error in the log, when its key cannot be had.
fn watch(
    owner: WatchOwner,
    remote: SocketAddr,
    local: Option<IpAddr>,
    bfd: &Bfd,
    secrets: &Secrets,
) -> Option<Watch> {
    let scope = match remote {
        SocketAddr::V6(remote) if remote.ip().is_unicast_link_local() => remote.scope_id(),
        _ => 0,
    };
    let auth = match bfd.auth.as_ref().map(|auth| read_key(auth, secrets)).transpose() {
        Ok(auth) => auth,
        Err(error) => {
            tracing::error!(event = "bfd_key_unusable", neighbor = %remote.ip(), %error, "no BFD with this neighbor until its key file (bfd.auth.file) is usable");
            return None;
        }
    };
    Some(Watch {
        owner,
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

/// Why a key of BFD cannot be used.
#[derive(Debug, thiserror::Error)]
enum KeyError {
    #[error(transparent)]
    Unreadable(#[from] UnreadableKey),
    #[error("{} contains {octets} octets; this type of authentication needs 1 to {most}", file.display())]
    Length {
        file: PathBuf,
        octets: usize,
        most: usize,
    },
}

fn read_key(auth: &podroute_config::BfdAuth, secrets: &Secrets) -> Result<bfd::Auth, KeyError> {
    use bfd::AuthKind;
    use podroute_config::BfdAuthKind;
    let kind = match auth.kind {
        BfdAuthKind::Simple => AuthKind::Simple,
        BfdAuthKind::KeyedMd5 => AuthKind::KeyedMd5,
        BfdAuthKind::MeticulousKeyedMd5 => AuthKind::MeticulousMd5,
        BfdAuthKind::KeyedSha1 => AuthKind::KeyedSha1,
        BfdAuthKind::MeticulousKeyedSha1 => AuthKind::MeticulousSha1,
    };
    let key = secrets.key(&auth.file)?;
    bfd::Auth::new(kind, auth.key_id, key).ok_or_else(|| KeyError::Length {
        file: auth.file.clone(),
        octets: key.len(),
        most: kind.longest_key(),
    })
}
