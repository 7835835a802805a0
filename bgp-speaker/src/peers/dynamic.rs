//! Dynamic peers (not defined by RFC 4271): accepted from a range of addresses. A dynamic peer exists as long
//! as its session and its retained routes.
//!
//! Only the peer's task reports such a peer to the engine, in order: first its configuration, last its
//! removal. So nothing is left when the range is changed or removed meanwhile.

use std::sync::Arc;

use bgp_proto::engine::Input;
use tokio::sync::mpsc;

use super::{COMMAND_CAPACITY, Peers};
use crate::api::{RangeSpec, Stopped};
use crate::engine::mailbox::ToEngine;
use crate::registry::keys::Accepted;
use crate::registry::messages::ToPeer;
use crate::registry::{AddedDynamic, Refusal};

impl Peers {
    /// Adds a dynamic peer for a connection from an address without a configured peer. It does not wait,
    /// because further connections wait behind it.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub(super) fn add_dynamic(&self, accepted: Accepted) -> Result<(), Refusal> {
        let (commands, inbox) = mpsc::channel(COMMAND_CAPACITY);
        let AddedDynamic { entry, signed } = self
            .registry
            .insert_dynamic((accepted.remote, accepted.key_epoch), commands)?;
        let (id, stream) = (entry.spec.id, accepted.stream);
        // A new channel has capacity.
        drop(entry.commands.try_send(ToPeer::Incoming { stream, signed }));
        let task = self.task(&entry, inbox).dynamic();
        let registry = Arc::downgrade(&self.registry);
        tokio::spawn(async move {
            let mailbox = task.run().await;
            // From now on a new connection makes a new peer.
            if let Some(registry) = registry.upgrade() {
                registry.remove(id);
            }
            mailbox.finish(ToEngine::Input(Input::Remove(id))).await;
        });
        Ok(())
    }

    /// Sets a range; changes apply to its present peers.
    pub(crate) async fn put_range(&self, range: RangeSpec) -> Result<(), Stopped> {
        let template = range.template.clone();
        for entry in self.registry.insert_range(range) {
            let mut spec = template.clone().called(entry.spec.name);
            spec.id = entry.spec.id;
            spec.transport.remote = entry.spec.transport.remote;
            self.change(spec).await?;
        }
        Ok(())
    }
}
