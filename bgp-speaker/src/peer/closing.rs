//! Closing connections: they deliver the last messages of the session first.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::connection::Connection;

/// Longest time to deliver the last messages.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Most connections of a peer that close at the same time. Of further ones the last messages are written as
/// far as the socket accepts them, and the connection is reset: a peer that opens one connection after
/// another uses no more descriptors.
const MAX_PER_PEER: usize = 8;
/// The limit for all peers together, against connections from many addresses of a range.
static ALL_PEERS: Semaphore = Semaphore::const_new(512);

/// Tasks of closing connections.
#[derive(Default)]
pub(crate) struct Closing(Vec<JoinHandle<()>>);

impl Closing {
    /// Delivers a partly written message and the session's last messages, then closes, all within
    /// [`CLOSE_TIMEOUT`]. Other queued messages are dropped, since the session has ended. The task ends when
    /// the peer has received everything. A connection that was `established` is never reset early: there are
    /// few, and their NOTIFICATION matters.
    pub(crate) fn add(&mut self, mut connection: Connection, established: bool) {
        self.0.retain(|task| !task.is_finished());
        let slot = ALL_PEERS.try_acquire();
        if !established && (self.0.len() >= MAX_PER_PEER || slot.is_err()) {
            let _ = connection.write(); // it is closed either way
            return;
        }
        self.0.push(tokio::spawn(async move {
            close(connection).await;
            drop(slot);
        }));
    }

    /// Waits for all of them.
    pub(crate) async fn finished(self) {
        for task in self.0 {
            let _ = task.await; // it does not panic
        }
    }
}

async fn close(mut connection: Connection) {
    let last = connection.queue.take_for_close();
    // The outbox has released it.
    let Some(mut stream) = Arc::into_inner(connection.into_stream()) else {
        return;
    };
    let deliver = async {
        for bytes in last {
            stream.write_all(&bytes).await?;
        }
        stream.shutdown().await?;
        // Unread bytes would turn the close into a reset, which can overtake the NOTIFICATION.
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // The peer may be gone already.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, deliver).await;
}

#[cfg(test)]
mod tests {
    use bgp_proto::session::ConnId;
    use bytes::Bytes;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A connection with this much to deliver, more than its socket accepts at once, and the peer's end.
    async fn connection(octets: usize) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (local, remote) = tokio::join!(TcpStream::connect(addr), listener.accept());
        let local = local.unwrap();
        socket2::SockRef::from(&local).set_send_buffer_size(8192).unwrap();
        local.writable().await.unwrap();
        let mut connection = Connection::new(ConnId(1), local);
        connection.queue.push_control(Bytes::from(vec![7; octets]));
        (connection, remote.unwrap().0)
    }

    /// However many connections close that were never established.
    #[tokio::test]
    async fn the_last_message_of_a_session_always_gets_its_time() {
        const OCTETS: usize = 2 << 20;
        let mut closing = Closing::default();
        let mut silent = Vec::new();
        for _ in 0..3 * MAX_PER_PEER {
            let (connection, remote) = connection(100).await;
            closing.add(connection, false);
            silent.push(remote);
        }
        assert_eq!(closing.0.len(), MAX_PER_PEER, "no more descriptors than that");
        let (session, mut remote) = connection(OCTETS).await;
        let reader = tokio::spawn(async move {
            let mut all = vec![0; OCTETS];
            remote.read_exact(&mut all).await.map(|_| all)
        });
        closing.add(session, true);
        let all = reader.await.unwrap().expect("everything arrives");
        assert!(all.iter().all(|octet| *octet == 7));
        // The others deliver as much as the socket accepts.
        let mut octets = [0; 100];
        silent.last_mut().unwrap().read_exact(&mut octets).await.unwrap();
    }
}
