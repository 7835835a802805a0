//! Listening sockets and the tasks that accept on them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use super::Peers;
use super::accept::accept;
use crate::api::SpeakerError;

/// The listeners by their configured address. They are closed when this is dropped.
#[derive(Default)]
pub(crate) struct Listeners(Mutex<State>);

#[derive(Default)]
struct State {
    open: BTreeMap<SocketAddr, Open>,
    /// Whether connections are accepted.
    accepting: bool,
}

struct Open {
    socket: Arc<TcpListener>,
    task: Option<AbortHandle>,
}

impl Open {
    fn accept(&mut self, peers: &Peers) {
        let start = || tokio::spawn(accept(Arc::clone(&self.socket), peers.clone())).abort_handle();
        self.task.get_or_insert_with(start);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Listeners {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to accept connections, also on listeners that are added later.
    pub(crate) fn accept(&self, peers: &Peers) {
        let mut state = self.state();
        state.accepting = true;
        state.open.values_mut().for_each(|open| open.accept(peers));
    }

    /// Listens on exactly these addresses. New listeners are opened before others are closed, and sessions
    /// are not affected.
    ///
    /// # Errors
    /// One of them cannot be opened; nothing changes then.
    pub(crate) fn put(&self, wanted: &[SocketAddr], peers: &Peers) -> Result<(), SpeakerError> {
        let mut state = self.state();
        let mut opened = BTreeMap::new();
        for addr in wanted {
            if state.open.contains_key(addr) || opened.contains_key(addr) {
                continue;
            }
            match peers.registry.open(*addr) {
                Ok(socket) => drop(opened.insert(*addr, Open { socket, task: None })),
                Err(source) => {
                    close(opened, peers);
                    return Err(SpeakerError::Listen { addr: *addr, source });
                }
            }
        }
        if state.accepting {
            opened.values_mut().for_each(|open| open.accept(peers));
        }
        let mut gone = std::mem::take(&mut state.open);
        for addr in wanted {
            opened.extend(gone.remove_entry(addr));
        }
        state.open = opened;
        drop(state);
        close(gone, peers);
        Ok(())
    }
}

fn close(listeners: BTreeMap<SocketAddr, Open>, peers: &Peers) {
    for open in listeners.into_values() {
        peers.registry.close(&open.socket);
    }
}
