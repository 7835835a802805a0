//! Peers that come by themselves from a range of addresses (RFC 4271 knows none; others call them dynamic neighbors): each is there as
//! long as its session, and the routes that are kept after it.
//!
//! What the engine learns of such a peer comes from the peer's task alone, in order: first its configuration, last its removal.
//! Whoever changes or removes the range meanwhile leaves nothing behind.

use std::sync::Arc;

use bgp_proto::engine::Input;
use tokio::sync::mpsc;

use super::keys::Accepted;
use super::registry::{Admitted, Refusal};
use super::{COMMAND_ROOM, Peers};
use crate::api::{RangeSpec, Stopped};
use crate::engine::mailbox::ToEngine;
use crate::peer::messages::ToPeer;

impl Peers {
    /// Somebody connected whose address is no configured peer's. It waits for nobody: other connections wait behind it.
    ///
    /// # Errors
    /// Why the connection is refused.
    pub(super) fn add_dynamic(&self, accepted: Accepted) -> Result<(), Refusal> {
        let (commands, inbox) = mpsc::channel(COMMAND_ROOM);
        let Admitted { entry, signed } = self
            .registry
            .insert_dynamic((accepted.remote, accepted.moment), commands)?;
        let (id, stream) = (entry.spec.id, accepted.stream);
        // There is room in a new channel.
        drop(entry.commands.try_send(ToPeer::Incoming { stream, signed }));
        let task = self.task(&entry, inbox).dynamic();
        let registry = Arc::downgrade(&self.registry);
        tokio::spawn(async move {
            let mailbox = task.run().await;
            // From now on another connection makes another peer.
            if let Some(registry) = registry.upgrade() {
                registry.remove(id);
            }
            mailbox.finish(ToEngine::Input(Input::Remove(id))).await;
        });
        Ok(())
    }

    /// A range as it is wanted from now on; changes apply to the peers that are there.
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
