//! `podroute diff`: what another configuration would change.

use std::collections::{BTreeMap, BTreeSet};

use bgp_proto::engine::{Input, OverLimit, Preview};
use bgp_proto::session::State;
use bgp_proto::types::{Family, PeerId, Prefix};
use bgp_speaker::{PeerSnapshot, Stopped};
use podroute_config::{Config, Peer};
use tokio::sync::oneshot;

use super::config_file::{config_of, facts_for};
use super::reload::equal_paths;
use super::{Agent, AgentError, CommandError, fib_config};
use crate::attributes;
use crate::fib::FibConfig;
use crate::status::{DiffStatus, PeerDiff};

/// What is known of another configuration's effects, and what its routes are to be asked for.
struct Begun {
    diff: DiffStatus,
    inputs: Vec<Input>,
    /// As they are to be.
    peers: Vec<Peer>,
    names: BTreeMap<PeerId, String>,
    fib: FibConfig,
}

impl Agent {
    /// Answers what this text would do in place of the file. Nothing changes, and the agent does not wait: beside a large table the
    /// answer takes seconds.
    pub(super) fn diff(&self, text: &str, answer: oneshot::Sender<Result<DiffStatus, CommandError>>) {
        let mut begun = match self.begin_diff(text) {
            Ok(begun) => begun,
            Err(error) => return drop(answer.send(Err(error.into()))),
        };
        let speaker = self.speaker.clone();
        tokio::spawn(async move {
            let inputs = std::mem::take(&mut begun.inputs);
            let outcome = async {
                begun.check_limits(&speaker.peers().await?);
                Ok(begun.describe(speaker.preview(inputs).await?))
            };
            drop(answer.send(outcome.await.map_err(|error: Stopped| error.into())));
        });
    }

    fn begin_diff(&self, text: &str) -> Result<Begun, AgentError> {
        let facts = facts_for(self.file.facts.clone(), text);
        let new = config_of(text, &self.file.path, &facts)?;
        let mut diff = DiffStatus {
            restart: (!new.deferred.is_empty()).then(|| new.deferred.join("; ")),
            ..DiffStatus::default()
        };
        let names = |config: &Config| {
            config
                .peers
                .iter()
                .map(|peer| peer.name.clone())
                .collect::<BTreeSet<_>>()
        };
        let (before, after) = (names(&self.config), names(&new));
        diff.added = after.difference(&before).cloned().collect();
        diff.removed = before.difference(&after).cloned().collect();
        let mut inputs: Vec<Input> = diff
            .removed
            .iter()
            .filter_map(|name| self.peers.ids.get(name))
            .map(|id| Input::Remove(*id))
            .collect();
        let was: BTreeMap<&str, &Peer> = self
            .config
            .peers
            .iter()
            .map(|peer| (peer.name.as_str(), peer))
            .collect();
        for peer in &new.peers {
            let (Some(old), Some(id)) = (was.get(peer.name.as_str()), self.peers.ids.get(&peer.name)) else {
                continue;
            };
            if self.resets(&new, old, peer, *id) {
                diff.reset.push(peer.name.clone());
            }
            inputs.push(Input::Configure(*id, peer.routing.clone().into()));
        }
        inputs.push(Input::Multipath(equal_paths(&new)));
        if !self.drain.withdraw {
            inputs.push(Input::Originate(new.originated()));
        }
        let names = self.peers.ids.iter().map(|(name, id)| (*id, name.clone()));
        Ok(Begun {
            diff,
            inputs,
            names: names.collect(),
            fib: fib_config(&new, &self.node.host),
            peers: new.peers,
        })
    }

    /// As the speaker sees it: what was said in OPEN, or belongs to the connection.
    fn resets(&self, new: &Config, old: &Peer, peer: &Peer, id: PeerId) -> bool {
        let (before, after) = (
            super::peers::spec(&self.config, old, id, &self.node.host),
            super::peers::spec(new, peer, id, &self.node.host),
        );
        before.session != after.session
            || before.transport != after.transport
            || before.enabled != after.enabled
            || old.transport.password_file.is_some() != peer.transport.password_file.is_some()
    }
}

impl Begun {
    /// What established peers have sent already may be more than they may send then.
    fn check_limits(&mut self, known: &[PeerSnapshot]) {
        for peer in &self.peers {
            let now = known.iter().find(|now| now.name == peer.name);
            let now = now.filter(|now| now.session.state == State::Established);
            let over = now.and_then(|now| over_limit(peer, now.counts.received));
            self.diff.over_limit.extend(over);
        }
    }

    fn describe(self, preview: Preview) -> DiffStatus {
        let Self {
            mut diff, names, fib, ..
        } = self;
        let texts = |list: Vec<Prefix>| list.iter().map(ToString::to_string).collect();
        for (id, change) in preview.peers {
            let peer = names.get(&id).map_or_else(|| format!("#{}", id.0), String::clone);
            if diff.removed.contains(&peer) {
                continue; // it is sent nothing any more
            }
            diff.peers.push(PeerDiff {
                peer,
                announced: texts(change.announced),
                withdrawn: texts(change.withdrawn),
                changed: texts(change.changed),
                attributes: change
                    .attributes
                    .iter()
                    .map(|(prefix, (before, after))| (prefix.to_string(), attributes::changes(before, after)))
                    .collect(),
            });
        }
        let kernel = preview.installed.into_iter();
        for (prefix, (_, had)) in
            kernel.filter(|(prefix, (change, _))| fib.admits(prefix, change.route.is_wanted()))
        {
            let list = if had { &mut diff.moved } else { &mut diff.installed };
            list.push(prefix.to_string());
        }
        diff.uninstalled = texts(preview.removed);
        diff
    }
}

/// What of these prefixes is more than the peer may send, where that ends the session (RFC 4486 §4).
fn over_limit(peer: &Peer, received: [usize; 2]) -> Option<String> {
    let limit = peer.routing.max_prefixes?;
    if !matches!(limit.action, OverLimit::Cease { .. }) {
        return None;
    }
    let most = usize::try_from(limit.limit).unwrap_or(usize::MAX);
    let (family, count) = Family::ALL
        .into_iter()
        .zip(received)
        .find(|(_, count)| *count > most)?;
    Some(format!(
        "{}: {count} {family} prefixes, and maxPrefixes is {most}",
        peer.name
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_what_is_there_ends_the_session() {
        let of = |limit: &str| {
            let text = format!(
                "apiVersion: podroute/v1\ncluster: {{asn: 64512}}\nnode: {{name: n}}\npeers:\n\
                 - {{name: a, address: 192.0.2.1, asn: 64512, maxPrefixes: {limit}}}\n"
            );
            podroute_config::load(&text).unwrap().peers.remove(0)
        };
        let said = over_limit(&of("{limit: 100}"), [100, 120]).unwrap();
        assert!(
            said.starts_with("a: 120 ") && said.ends_with("maxPrefixes is 100"),
            "{said}"
        );
        assert_eq!(over_limit(&of("{limit: 120}"), [100, 120]), None);
        assert_eq!(over_limit(&of("{limit: 100, action: warn}"), [100, 120]), None);
    }
}
