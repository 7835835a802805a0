//! `podroute diff`: what another configuration would do, before it does it.

use std::collections::{BTreeMap, BTreeSet};

use bgp_proto::engine::{Input, Preview};
use bgp_proto::types::{PeerId, Prefix};
use podroute_config::{Config, Peer};
use tokio::sync::oneshot;

use super::reload::equal_paths;
use super::{Agent, config_of, fib_config};
use crate::fib::FibConfig;
use crate::status::{DiffStatus, PeerDiff};

/// What is known of another configuration's effects, and what its routes are to be asked for.
struct Begun {
    diff: DiffStatus,
    inputs: Vec<Input>,
    names: BTreeMap<PeerId, String>,
    fib: FibConfig,
}

impl Agent {
    /// Answers what this text would do in place of the file. Nothing changes, and the agent does not wait: beside a large table the
    /// answer takes seconds.
    pub(super) fn diff(&self, text: &str, answer: oneshot::Sender<Result<DiffStatus, String>>) {
        let mut begun = match self.begin_diff(text) {
            Ok(begun) => begun,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let speaker = self.speaker.clone();
        tokio::spawn(async move {
            let preview = speaker.preview(std::mem::take(&mut begun.inputs)).await;
            let outcome = preview.map(|preview| begun.describe(preview));
            drop(answer.send(outcome.map_err(|error| error.to_string())));
        });
    }

    fn begin_diff(&self, text: &str) -> Result<Begun, String> {
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
        let names = self.peers.ids.iter().map(|(name, id)| (*id, name.clone()));
        Ok(Begun {
            diff,
            inputs,
            names: names.collect(),
            fib: fib_config(&new, &self.node.host),
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
    }
}

impl Begun {
    fn describe(self, preview: Preview) -> DiffStatus {
        let Self {
            mut diff, names, fib, ..
        } = self;
        let texts = |list: Vec<Prefix>| list.iter().map(ToString::to_string).collect();
        for (id, heard) in preview.peers {
            diff.peers.push(PeerDiff {
                peer: names.get(&id).map_or_else(|| format!("#{}", id.0), String::clone),
                announced: texts(heard.announced),
                withdrawn: texts(heard.withdrawn),
                changed: texts(heard.changed),
            });
        }
        let kernel = preview.installed.into_iter();
        for (prefix, (_, had)) in kernel.filter(|(prefix, (change, _))| fib.admits(prefix, change.install)) {
            let list = if had { &mut diff.moved } else { &mut diff.installed };
            list.push(prefix.to_string());
        }
        diff.uninstalled = texts(preview.removed);
        diff
    }
}
