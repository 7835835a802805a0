//! Peers that come by themselves from a range of addresses (RFC 4271 knows none; others call them dynamic neighbors): each is there as
//! long as its session, and the routes that are kept after it.

use std::net::SocketAddr;
use std::sync::Arc;

use bgp_proto::engine::Input;
use tokio::net::TcpStream;

use super::Peers;
use super::registry::Refusal;
use crate::api::{RangeSpec, Stopped};
use crate::engine::mailbox::ToEngine;
use crate::peer::messages::ToPeer;

impl Peers {
    /// Somebody connected whose address is no configured peer's.
    ///
    /// # Errors
    /// The speaker has stopped.
    pub(super) async fn add_dynamic(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> Result<Result<(), Refusal>, Stopped> {
        let (spec, range) = match self.registry.dynamic(remote) {
            Ok(found) => found,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let id = spec.id;
        let (entry, inbox) = self.register(spec, Some(range)).await?;
        // There is room in a new channel.
        drop(entry.commands.try_send(ToPeer::Incoming(stream)));
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
        Ok(Ok(()))
    }

    /// A range as it is wanted from now on; changes apply to the peers that are there.
    pub(crate) async fn put_range(&self, range: RangeSpec) -> Result<(), Stopped> {
        let template = range.template.clone();
        for entry in self.registry.insert_range(range) {
            let mut spec = template.clone();
            (spec.id, spec.name) = (entry.spec.id, entry.spec.name);
            spec.transport.remote = entry.spec.transport.remote;
            self.change(spec).await?;
        }
        Ok(())
    }
}
