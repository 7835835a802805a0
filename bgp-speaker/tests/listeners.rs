//! Changes of the listening addresses at run time.
#![cfg(test)]

mod common;

use std::net::SocketAddr;

use bgp_proto::session::State;
use bgp_proto::types::Asn;
use bgp_speaker::{Password, PeerSpec};
use common::*;
use tokio::net::TcpStream;

fn passive(node: &Node, id: u32, last: u8, password: bool) -> PeerSpec {
    let mut spec = spec(node, id, SocketAddr::from(([127, 0, 0, last], 1)), Asn(65009));
    spec.session.passive = true;
    spec.transport.password = password.then(|| Password::new(b"secret").unwrap());
    spec
}

fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().unwrap(), port)
}

async fn session_from(node: &Node, last: u8, to: SocketAddr, id: u32) -> TcpStream {
    let mut stream = connect_from([127, 0, 0, last].into(), to).await;
    handshake(&mut stream, 65009).await;
    in_state(&node.handle, id, State::Established).await;
    stream
}

async fn is_refused(to: SocketAddr) {
    eventually(&format!("{to} is closed"), || async {
        TcpStream::connect(to).await.is_err().then_some(())
    })
    .await;
}

/// From all addresses to one of them and back: the two overlap, and sessions outlive their listener.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_are_replaced_and_sessions_stay() {
    let node = start_on(&[at("0.0.0.0", 0)], 120, 64512);
    let port = node.addr.port();
    let everywhere = node.handle.listening();
    for (id, last) in [(1, 121), (2, 122), (3, 123)] {
        node.handle
            .put_peer(passive(&node, id, last, false))
            .await
            .unwrap();
    }
    let own = at("127.0.0.120", port);
    let _first = session_from(&node, 121, own, 1).await;
    node.handle.listen(&[own]).unwrap();
    assert_eq!(node.handle.listening(), [own]);
    is_refused(at("127.0.0.119", port)).await;
    let _second = session_from(&node, 122, own, 2).await;
    node.handle.listen(&everywhere).unwrap();
    assert_eq!(node.handle.listening(), everywhere);
    let _third = session_from(&node, 123, at("127.0.0.119", port), 3).await;
    // No listener: no connection is accepted, and no session ends.
    node.handle.listen(&[]).unwrap();
    is_refused(own).await;
    for id in 1..=3 {
        let session = peer(&node.handle, id).await.session;
        assert_eq!(
            (session.state, session.stats.established),
            (State::Established, 1)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_changes_nothing() {
    let node = start(124, 64512);
    let before = node.handle.listening();
    let other = tokio::net::TcpListener::bind("127.0.0.125:0").await.unwrap();
    let taken = other.local_addr().unwrap();
    let error = node.handle.listen(&[at("127.0.0.126", 0), taken]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with(&format!("cannot listen on {taken}")),
        "{error}"
    );
    assert_eq!(node.handle.listening(), before);
    TcpStream::connect(node.addr).await.unwrap();
    drop(other);
    node.handle.listen(&[taken]).unwrap();
    TcpStream::connect(taken).await.unwrap();
    is_refused(node.addr).await;
}

/// A new socket has the keys of all peers before it can accept connections.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_on_new_sockets_too() {
    let node = start(127, 64512);
    node.handle.put_peer(passive(&node, 1, 128, true)).await.unwrap();
    node.handle.put_peer(passive(&node, 2, 129, false)).await.unwrap();
    node.handle.listen(&[at("127.0.0.130", 0)]).unwrap();
    let moved = node.handle.listening()[0];
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(at("127.0.0.128", 0)).unwrap();
    let unsigned = tokio::spawn(socket.connect(moved));
    let _plain = session_from(&node, 129, moved, 2).await;
    assert!(!unsigned.is_finished(), "unsigned segments are dropped");
    unsigned.abort();
    // A session from a speaker that has the key.
    let client = start(128, 65009);
    let mut spec = spec(&client, 1, moved, Asn(64512));
    spec.transport.password = Some(Password::new(b"secret").unwrap());
    client.handle.put_peer(spec).await.unwrap();
    let session = in_state(&node.handle, 1, State::Established).await.session;
    assert!(session.signed);
}
