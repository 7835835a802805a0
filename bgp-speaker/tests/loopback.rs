//! Speakers on loopback addresses: real sockets, real time, deadlines instead of sleeps.
#![cfg(test)]

mod common;

use std::net::{IpAddr, SocketAddr};

use bgp_proto::engine::Originated;
use bgp_proto::policy::Source;
use bgp_proto::session::State;
use bgp_proto::types::{Asn, HoldTime, PeerId, Prefix};
use bgp_speaker::{DatapathEvent, Password, PeerSpec, Shutdown};
use common::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_speakers_exchange_both_families_and_a_third_receives_them() {
    let (a, mut b, c) = (start(1, 64512), start(2, 65001), start(3, 65002));
    a.handle.originate(vec![block("10.244.1.0/24")]).await.unwrap();
    c.handle.originate(vec![block("10.244.3.0/24")]).await.unwrap();
    // a and b both connect: usually a collision.
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle
        .put_peer(spec(&b, 1, SocketAddr::new(a.addr.ip(), a.addr.port()), a.asn))
        .await
        .unwrap();
    b.handle.put_peer(spec(&b, 2, c.addr, c.asn)).await.unwrap();
    c.handle.put_peer(spec(&c, 1, b.addr, b.asn)).await.unwrap();
    for (node, peer) in [(&a, 1), (&b, 1), (&b, 2), (&c, 1)] {
        in_state(&node.handle, peer, State::Established).await;
    }
    has_route(&b.handle, "10.244.1.0/24", true).await;
    has_route(&a.handle, "10.244.3.0/24", true).await;
    has_route(&c.handle, "10.244.1.0/24", true).await;
    let counts = peer(&a.handle, 1).await.counts;
    assert_eq!((counts.received, counts.advertised), ([1, 0], [1, 0]));
    let mut ends = 0;
    while ends < 4 {
        let event = tokio::time::timeout(DEADLINE, b.datapath.recv())
            .await
            .unwrap()
            .unwrap();
        ends += usize::from(matches!(event, DatapathEvent::EndOfRib(..)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_sends_the_reason_and_the_session_comes_back() {
    let (a, b) = (start(4, 64512), start(5, 64512));
    a.handle.originate(vec![block("10.244.1.0/24")]).await.unwrap();
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    in_state(&b.handle, 1, State::Established).await;
    has_route(&b.handle, "10.244.1.0/24", true).await;
    a.handle.disable(PeerId(1), "rack move until noon").await;
    has_route(&b.handle, "10.244.1.0/24", false).await;
    let down = peer(&b.handle, 1).await.session.stats.last_received.unwrap();
    assert_eq!(
        (down.code, down.subcode, down.shutdown_message().as_deref()),
        (6, 2, Some("rack move until noon"))
    );
    a.handle.enable(PeerId(1)).await;
    in_state(&b.handle, 1, State::Established).await;
    has_route(&b.handle, "10.244.1.0/24", true).await;
    a.handle.shutdown(Shutdown::Withdraw("bye".into())).await;
    has_route(&b.handle, "10.244.1.0/24", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_ends_only_its_own_session() {
    let (a, b) = (start(6, 64512), start(7, 65001));
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    let hostile: IpAddr = [127, 0, 0, 8].into();
    let mut other = spec(&a, 2, SocketAddr::new(hostile, 1), Asn(65009));
    other.session.passive = true;
    a.handle.put_peer(other).await.unwrap();
    in_state(&a.handle, 1, State::Established).await;
    let flaps = peer(&a.handle, 1).await.session.stats.established;
    for junk in [vec![0; 64], vec![0xFF; 5000], b"GET / HTTP/1.1\r\n\r\n".to_vec()] {
        let mut stream = connect_from(hostile, a.addr).await;
        stream.write_all(&junk).await.unwrap();
        let mut notifications = Vec::new();
        // The speaker closes; a reset is fine too if the garbage was truncated.
        let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut notifications))
            .await
            .expect("closed in time");
        assert!(
            notifications
                .windows(2)
                .any(|pair| pair == [1, 1] || pair == [1, 2]),
            "a header error: {notifications:?}"
        );
    }
    let after = peer(&a.handle, 1).await.session;
    assert_eq!(
        (after.state, after.stats.established),
        (State::Established, flaps)
    );
}

/// Anyone with the peer's address can open a connection; the session stays, with graceful restart too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_connection_from_the_peers_address_disturbs_nobody() {
    let (a, b) = (start(41, 64512), start(42, 65001));
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    in_state(&a.handle, 1, State::Established).await;
    in_state(&b.handle, 1, State::Established).await;
    let before = peer(&a.handle, 1).await.session.stats.established;
    // In the first seconds it is refused as a late collision; later it may mean that the peer restarted.
    let mut stream = eventually("an OPEN on the second connection", || async {
        let mut stream = connect_from(b.addr.ip(), a.addr).await;
        (first_message(&mut stream).await == 1).then_some(stream)
    })
    .await;
    stream.write_all(&[0x5A; 64]).await.unwrap();
    let mut notifications = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut notifications)).await;
    read.expect("closed in time").unwrap();
    assert!(
        notifications.windows(2).any(|pair| pair == [1, 1]),
        "{notifications:?}"
    );
    let _silent = connect_from(b.addr.ip(), a.addr).await;
    b.handle.originate(vec![block("10.244.42.0/24")]).await.unwrap();
    has_route(&a.handle, "10.244.42.0/24", true).await;
    for node in [&a, &b] {
        let session = peer(&node.handle, 1).await.session;
        assert_eq!(
            (session.state, session.stats.established),
            (State::Established, before)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_peers_are_closed_at_once() {
    let a = start(9, 64512);
    let mut stream = connect_from([127, 0, 0, 10].into(), a.addr).await;
    let mut notifications = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut notifications))
        .await
        .expect("closed in time");
    assert!(notifications.is_empty(), "{read:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_delays_nobody() {
    let (a, b) = (start(11, 64512), start(12, 65001));
    let slow: IpAddr = [127, 0, 0, 13].into();
    let mut other = spec(&a, 2, SocketAddr::new(slow, 1), Asn(65009));
    other.session.passive = true;
    other.session.hold_time = HoldTime::new(240).unwrap();
    a.handle.put_peer(other).await.unwrap();
    let mut stream = connect_from(slow, a.addr).await;
    handshake(&mut stream, 65009).await;
    in_state(&a.handle, 2, State::Established).await;
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    in_state(&b.handle, 1, State::Established).await;
    // Far more than the slow peer's socket buffers hold: 200 rounds of 20,000 changing routes.
    for round in 0..200u32 {
        let routes = (0..20_000u32).map(|n| Originated {
            prefix: Prefix::v4(0x0B00_0000 + (n << 8), 24),
            source: Source::Service,
            communities: vec![bgp_proto::types::Community(round)],
        });
        a.handle.originate(routes.collect()).await.unwrap();
    }
    a.handle.originate(vec![block("10.244.1.0/24")]).await.unwrap();
    has_route(&b.handle, "10.244.1.0/24", true).await;
    has_route(&b.handle, "11.0.0.0/24", false).await;
    let behind = peer(&a.handle, 2).await;
    assert_eq!(behind.session.state, State::Established);
    assert!(
        behind.counts.outstanding < 6 << 20,
        "bounded: {}",
        behind.counts.outstanding
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_shown_with_its_reason() {
    let a = start(14, 64512);
    let closed = TcpListener::bind("127.0.0.15:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    a.handle.put_peer(spec(&a, 1, closed, Asn(65001))).await.unwrap();
    let peer = eventually("a reason", || async {
        Some(peer(&a.handle, 1).await).filter(|peer| peer.session.stats.last_down.is_some())
    })
    .await;
    let reason = peer.session.stats.last_down.unwrap().to_string();
    assert!(reason.contains("refused"), "{reason}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_as_is_refused_on_both_sides() {
    let (a, b) = (start(16, 64512), start(17, 65001));
    a.handle.put_peer(spec(&a, 1, b.addr, Asn(65099))).await.unwrap();
    let mut passive = spec(&b, 1, a.addr, a.asn);
    passive.session.passive = true;
    b.handle.put_peer(passive).await.unwrap();
    let sent = eventually("Bad Peer AS", || async {
        peer(&a.handle, 1).await.session.stats.last_sent
    })
    .await;
    assert_eq!((sent.code, sent.subcode), (2, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn md5_accepts_only_the_right_key() {
    let key = |text: &str| Some(Password::new(text.as_bytes()).unwrap());
    let (a, b, c) = (start(18, 64512), start(19, 65001), start(20, 65002));
    let with = |mut spec: PeerSpec, password| {
        spec.transport.password = password;
        spec
    };
    a.handle
        .put_peer(with(spec(&a, 1, b.addr, b.asn), key("secret")))
        .await
        .unwrap();
    a.handle
        .put_peer(with(spec(&a, 2, c.addr, c.asn), key("secret")))
        .await
        .unwrap();
    b.handle
        .put_peer(with(spec(&b, 1, a.addr, a.asn), key("secret")))
        .await
        .unwrap();
    c.handle
        .put_peer(with(spec(&c, 1, a.addr, a.asn), key("guess")))
        .await
        .unwrap();
    in_state(&a.handle, 1, State::Established).await;
    assert_ne!(peer(&a.handle, 2).await.session.state, State::Established);
    assert!(peer(&a.handle, 1).await.session.signed);
}
