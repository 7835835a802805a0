//! TCP MD5 keys: which unsigned connections are accepted, and when.

use std::net::SocketAddr;

use bgp_proto::types::Asn;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::api::Password;
use crate::registry::keys::KeyError;

fn password() -> Option<Password> {
    Some(Password::new(b"secret").unwrap())
}

/// A peer that connects to us, from any port.
fn passive(node: &Node, id: u32, last: u8, password: Option<Password>) -> PeerSpec {
    let mut spec = spec(node, id, SocketAddr::from(([127, 0, 0, last], 1)), Asn(65009));
    spec.session.passive = true;
    spec.transport.password = password;
    spec
}

/// All messages of a peer at once, so that they wait in the listener's accept queue.
async fn send_all_at_once(stream: &mut TcpStream, prefix: [u8; 3]) {
    let mut octets = vec![0xFF; 16];
    octets.extend([0, 29, 1, 4, 0xFD, 0xF1, 0, 240, 10, 9, 9, 9, 0]);
    octets.extend([0xFF; 16]);
    octets.extend([0, 19, 4]);
    octets.extend(announcement(65009, prefix));
    stream.write_all(&octets).await.unwrap();
}

/// Established while the listener had no key, the connection would pass as signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_from_before_the_key_is_refused() {
    let a = start_listening([127, 0, 0, 70].into(), 64512);
    let mut unsigned = connect_from([127, 0, 0, 71].into(), a.addr).await;
    send_all_at_once(&mut unsigned, [10, 71, 0]).await;
    let mut other = connect_from([127, 0, 0, 72].into(), a.addr).await;
    send_all_at_once(&mut other, [10, 72, 0]).await;
    a.handle.put_peer(passive(&a, 1, 71, password())).await.unwrap();
    a.handle.put_peer(passive(&a, 2, 72, None)).await.unwrap();
    a.handle.accept();
    has_route(&a.handle, "10.72.0.0/24", true).await; // the peer without a password
    let mut octets = Vec::new();
    let read = tokio::time::timeout(DEADLINE, unsigned.read_to_end(&mut octets)).await;
    let _ = read.expect("closed in time"); // a reset is fine too
    assert!(octets.is_empty(), "nothing is sent");
    let peer = peer(&a.handle, 1).await;
    assert_eq!((peer.session.stats.established, peer.session.signed), (0, false));
    has_route(&a.handle, "10.71.0.0/24", false).await;
}

/// A removed key is removed from the listener: otherwise it would keep unsigned segments out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_goes_with_the_password() {
    let a = start(73, 64512);
    a.handle.put_peer(passive(&a, 1, 74, password())).await.unwrap();
    a.handle.put_peer(passive(&a, 1, 74, None)).await.unwrap();
    let mut range = range(&a, 73, 65009, 10);
    range.template.transport.password = password();
    a.handle.put_range(range.clone()).await.unwrap();
    range.template.transport.password = None;
    a.handle.put_range(range).await.unwrap();
    let mut streams = Vec::new();
    for addr in [[127, 0, 0, 74], [127, 73, 0, 1]] {
        let connected = tokio::time::timeout(DEADLINE, connect_from(addr.into(), a.addr));
        let mut stream = connected.await.expect("unsigned segments are accepted");
        handshake(&mut stream, 65009).await;
        streams.push(stream);
    }
    eventually("both sessions", || async {
        (established(&a.handle).await.len() == 2).then_some(())
    })
    .await;
}

/// A peer and a range, or peers on two links, may share an address: the key stays for the remaining one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stays_while_a_peer_uses_it() {
    let (a, b) = (start(75, 64512), start(76, 65001));
    let mut known = spec(&a, 1, b.addr, b.asn);
    known.session.passive = true;
    known.transport.password = password();
    let mut range = range(&a, 75, 65001, 10);
    range.prefix = "127.0.0.76/32".parse().unwrap();
    range.template.transport.password = password();
    a.handle.put_range(range).await.unwrap();
    a.handle.put_peer(known.clone()).await.unwrap();
    let mut dialing = spec(&b, 1, a.addr, a.asn);
    dialing.transport.password = password();
    b.handle.put_peer(dialing).await.unwrap();
    in_state(&a.handle, 1, bgp_proto::session::State::Established).await;
    a.handle.remove_peer(PeerId(1)).await.unwrap();
    let id = eventually("the dynamic peer", || async {
        established(&a.handle).await.pop()
    })
    .await;
    assert!(peer(&a.handle, id.0).await.session.signed);
    // The other order; and a peer with a different password is not accepted with this key.
    let mut other = known.clone();
    other.id = PeerId(2);
    other.transport.password = Some(Password::new(b"other").unwrap());
    a.handle.put_peer(other).await.unwrap();
    let error = a.handle.peers_of_tests().registry.key_error_of_tests(PeerId(2));
    assert!(matches!(error, Some(KeyError::Conflict(_))), "{error:?}");
    a.handle.remove_range("racks").await.unwrap();
    let error = a.handle.peers_of_tests().registry.key_error_of_tests(PeerId(2));
    assert!(error.is_none(), "the listener has its key now: {error:?}");
}

fn key(text: &str) -> Option<Password> {
    Some(Password::new(text.as_bytes()).unwrap())
}

/// Both ends of a session, with a short hold time: without the right key it would end.
fn short(mut spec: PeerSpec, password: &str, next: Option<&str>) -> PeerSpec {
    spec.session.hold_time = bgp_proto::types::HoldTime::new(12).unwrap();
    spec.transport.password = key(password);
    spec.transport.next_password = next.and_then(key);
    spec
}

/// The original session still receives messages.
async fn goes_on(node: &Node) {
    let received = |peer: &crate::api::PeerSnapshot| peer.session.stats.messages_in.total();
    let before = received(&peer(&node.handle, 1).await);
    eventually("messages in the same session", || async {
        let peer = peer(&node.handle, 1).await;
        let session = (peer.session.state, peer.session.stats.established);
        assert_eq!(session, (bgp_proto::session::State::Established, 1));
        (received(&peer) > before + 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_while_its_key_is_replaced() {
    let (a, b) = (start(91, 64512), start(92, 65001));
    let (to_b, to_a) = (spec(&a, 1, b.addr, b.asn), spec(&b, 1, a.addr, a.asn));
    let put_a = |password, next| a.handle.put_peer(short(to_b.clone(), password, next));
    let put_b = |password, next| b.handle.put_peer(short(to_a.clone(), password, next));
    let next_key = async || peer(&a.handle, 1).await.session.next_key;
    put_a("one", None).await.unwrap();
    put_b("one", None).await.unwrap();
    in_state(&a.handle, 1, bgp_proto::session::State::Established).await;
    // The new key is configured here first; then the other end changes.
    put_a("one", Some("two")).await.unwrap();
    goes_on(&a).await;
    assert!(!next_key().await);
    put_b("two", None).await.unwrap();
    eventually("the next key", || async { next_key().await.then_some(()) }).await;
    goes_on(&a).await;
    goes_on(&b).await;
    put_a("two", None).await.unwrap();
    assert!(!next_key().await);
    goes_on(&a).await;
    // Both at once, without a second key.
    put_a("three", None).await.unwrap();
    put_b("three", None).await.unwrap();
    goes_on(&a).await;
    goes_on(&b).await;
    // A new password here first, with the old one as second; the other end follows.
    put_a("four", Some("three")).await.unwrap();
    goes_on(&a).await;
    goes_on(&b).await;
    assert!(next_key().await, "the peer has the old key");
    put_b("four", None).await.unwrap();
    eventually("the new one", || async { (!next_key().await).then_some(()) }).await;
    goes_on(&b).await;
    for node in [&a, &b] {
        let session = peer(&node.handle, 1).await.session;
        assert!(session.signed);
        assert_eq!(session.stats.established, 1);
    }
}

/// The key is found whichever side connects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_begins_with_either_key() {
    for (numbers, dials) in [([93, 94], true), ([95, 96], false)] {
        let (a, b) = (start(numbers[0], 64512), start(numbers[1], 65001));
        let (mut to_b, mut to_a) = (spec(&a, 1, b.addr, b.asn), spec(&b, 1, a.addr, a.asn));
        (to_b.session.passive, to_a.session.passive) = (!dials, dials);
        to_a.session.connect_retry = std::time::Duration::from_secs(1);
        b.handle.put_peer(short(to_a, "two", None)).await.unwrap();
        a.handle
            .put_peer(short(to_b.clone(), "one", Some("two")))
            .await
            .unwrap();
        in_state(&a.handle, 1, bgp_proto::session::State::Established).await;
        let session = peer(&a.handle, 1).await.session;
        assert!(session.signed && session.next_key);
        goes_on(&a).await;
        // The listener keeps the key that it found for the next session.
        assert!(a.handle.clear(PeerId(1), "").await);
        eventually("the second session", || async {
            let session = peer(&a.handle, 1).await.session;
            (session.stats.established == 2 && session.next_key).then_some(())
        })
        .await;
    }
}
