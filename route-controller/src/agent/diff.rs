//! `podroute diff`: what another configuration would do, before it does it.

use std::collections::{BTreeMap, BTreeSet};

use bgp_proto::engine::{Input, Preview};
use bgp_proto::types::{PeerId, Prefix};
use podroute_config::{Config, Peer};

use super::reload::equal_paths;
use super::{Agent, config_of, fib_config};
use crate::status::{DiffStatus, PeerDiff};

impl Agent {
    /// What this text would do in place of the file. Nothing changes.
    pub(super) async fn diff(&self, text: &str) -> Result<DiffStatus, String> {
        let new = config_of(text, &self.file.path, &self.file.facts).map_err(|error| error.to_string())?;
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
        let preview = self
            .speaker
            .preview(inputs)
            .await
            .map_err(|error| error.to_string())?;
        self.describe(&new, preview, &mut diff);
        Ok(diff)
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
    }

    fn describe(&self, new: &Config, preview: Preview, diff: &mut DiffStatus) {
        let texts = |list: Vec<Prefix>| list.iter().map(ToString::to_string).collect();
        for (id, heard) in preview.peers {
            let name = self.peer_name(id);
            if diff.removed.contains(&name) {
                continue; // it hears nothing any more
            }
            diff.peers.push(PeerDiff {
                peer: name,
                announced: texts(heard.announced),
                withdrawn: texts(heard.withdrawn),
                changed: texts(heard.changed),
            });
        }
        let fib = fib_config(new, &self.node.host);
        let kernel = preview.installed.into_iter();
        for (prefix, (_, had)) in kernel.filter(|(prefix, (change, _))| fib.admits(prefix, change.install)) {
            let list = if had { &mut diff.moved } else { &mut diff.installed };
            list.push(prefix.to_string());
        }
        diff.uninstalled = texts(preview.removed);
    }
}
