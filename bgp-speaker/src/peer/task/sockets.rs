//! Sockets of a peer's task: accepting, reading, writing, closing, and TCP MD5 keys.

use std::os::fd::AsFd;

use bgp_proto::session::{ConnId, Input};
use bgp_proto::wire::cease;
use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::PeerTask;
use crate::clock::now;
use crate::peer::connection::Connection;
use crate::peer::dial::Dialed;
use crate::rotation::KeyInUse;
use crate::socket;

impl PeerTask {
    pub(super) fn incoming(&mut self, stream: TcpStream, signed: bool) {
        let fd = stream.as_fd();
        let transport = &self.spec.transport;
        if signed != transport.password.is_some() {
            tracing::info!(
                event = "connection_refused", peer = %self.spec.name,
                reason = "the connection was made before the TCP MD5 key changed; the peer connects again",
                "connection refused"
            );
            return;
        }
        let password = self.connections.key().of(transport);
        let tuned = socket::sign(fd, transport.remote, password)
            .and_then(|()| socket::set_options(fd, transport, self.is_external()));
        if let Err(error) = tuned {
            tracing::warn!(
                event = "socket_options_failed", peer = %self.spec.name, %error,
                "cannot set the options of an accepted connection; closing it"
            );
            return;
        }
        let conn = self.connections.add_incoming(stream);
        self.session_input(Input::Connected { conn, incoming: true });
    }

    pub(super) fn dialed(&mut self, conn: ConnId, result: Dialed) {
        match result {
            Ok((stream, password)) => {
                self.connections.add(conn, stream);
                let next = &self.spec.transport.next_password;
                let is_next = next.is_some() && *next == password;
                self.use_key(if is_next {
                    KeyInUse::Next
                } else {
                    KeyInUse::Password
                });
                self.session_input(Input::Connected {
                    conn,
                    incoming: false,
                });
            }
            Err(error) => self.session_input(Input::Closed {
                conn,
                error: Some(error.to_string()),
            }),
        }
    }

    /// Sets the key of connections and listeners.
    pub(super) fn use_key(&mut self, key: KeyInUse) {
        if self.spec.transport.password.is_none() {
            return;
        }
        let of_connections = self.connections.use_key(key, &self.spec.transport);
        if let Some(registry) = self.history.registry.upgrade() {
            registry.use_key(self.spec.id, key);
        }
        if let Err(error) = of_connections {
            tracing::warn!(
                event = "md5_key_failed", peer = %self.spec.name, %error,
                "cannot change the TCP MD5 key of a connection; restarting the session"
            );
            self.session_input(Input::Stop {
                subcode: cease::OTHER_CONFIGURATION_CHANGE,
                message: String::new(),
            });
            self.session_input(Input::Start);
        }
    }

    pub(super) fn read(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let outcome = connection.read();
        let mut buf = std::mem::take(&mut connection.read);
        if !buf.is_empty() {
            let conn = id;
            self.session
                .handle(now(), Input::Received { conn, buf: &mut buf });
            if let Some(connection) = self.connections.get_mut(id) {
                // An empty buffer is freed: most peers are idle most of the time.
                connection.read = if buf.is_empty() { BytesMut::new() } else { buf };
            }
            self.run_outputs();
        }
        match outcome {
            Ok(false) => {}
            Ok(true) => self.connection_lost(id, None),
            Err(error) => self.connection_lost(id, Some(error.to_string())),
        }
    }

    /// Writes queued messages. Most fit into the socket.
    pub(super) fn write_all(&mut self) {
        for id in self.connections.to_write() {
            self.write(id);
        }
        if let Some(up) = &self.up
            && let Some(connection) = self.connections.get(up.conn)
            && connection.queue.is_empty()
        {
            up.outbox.release();
        }
    }

    fn write(&mut self, id: ConnId) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let before = connection.queue.octets();
        match connection.write() {
            // The socket accepted nothing: this does not show that the peer reads.
            Ok(_) if connection.queue.octets() == before => {}
            Ok(credit) => {
                if let Some(up) = &mut self.up {
                    up.wrote(credit);
                }
                self.session_input(Input::Wrote);
            }
            Err(error) => self.connection_lost(id, Some(error.to_string())),
        }
    }

    /// Queues a message of the session behind a partly written one.
    pub(super) fn queue_control_message(&mut self, id: ConnId, bytes: Bytes) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if let Some(up) = self.up.as_ref().filter(|up| up.conn == id) {
            up.outbox.claim(&mut connection.queue);
        }
        connection.queue.push_control(bytes);
    }

    /// The connection was closed by the peer or failed.
    pub(super) fn connection_lost(&mut self, id: ConnId, error: Option<String>) {
        if let Some(mut connection) = self.connections.take(id) {
            let earlier = self.detach_outbox(&mut connection);
            let error = earlier.map(|error| error.to_string()).or(error);
            self.session_input(Input::Closed { conn: id, error });
        }
    }

    pub(super) fn close(&mut self, id: ConnId) {
        self.connections.stop_dialing(id);
        if let Some(mut connection) = self.connections.take(id) {
            let established = self.up.as_ref().is_some_and(|up| up.conn == id);
            self.detach_outbox(&mut connection);
            self.connections.close(connection, established);
        }
    }

    /// Detaches the outbox of this connection's session, which has ended, if there is one. Returns the error
    /// of the engine's last write, if any.
    fn detach_outbox(&mut self, connection: &mut Connection) -> Option<std::io::Error> {
        let up = self.up.take_if(|up| up.conn == connection.id)?;
        self.history.progress.set_up(false);
        self.history.routes_sent += up.messages_sent();
        up.outbox.close(&mut connection.queue)
    }
}
