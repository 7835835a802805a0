//! Dynamic peers: nothing remains of removed ones.

use std::net::{IpAddr, SocketAddr};

use bgp_proto::session::State;
use bgp_proto::types::{Asn, PeerId};
use tokio::io::AsyncReadExt;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_connections_in_turn_leave_nothing_behind() {
    let a = start(60, 64512);
    let mut range = range(&a, 60, 65009, 100);
    range.template = quiet(range.template);
    a.handle.put_range(range).await.unwrap();
    for n in 0..2000u16 {
        let [high, low] = n.to_be_bytes();
        let mut stream = connect_from([127, 60, high, low].into(), a.addr).await;
        match n % 4 {
            0 => handshake(&mut stream, 65009).await,
            1 => drop(stream.read(&mut [0; 64]).await), // its OPEN
            _ => {}
        }
    }
    eventually("nothing is left", || async {
        is_empty(&a.handle).await.then_some(())
    })
    .await;
}

/// After a restart, dynamic peers are waited for by their own names (RFC 4724 §4.1), and routes go out when their End-of-RIB is in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dynamic_peer_that_is_back_ends_the_deferral() {
    let (a, b) = (start(58, 64512), start(59, 65009));
    let mut range = range(&a, 0, 65009, 10);
    range.prefix = "127.0.0.59/32".parse().unwrap();
    range.template.session.graceful_restart = Some(120);
    let names = ["racks-127.0.0.59".to_owned()].into();
    let hour = std::time::Duration::from_secs(3600);
    a.handle.defer(names, hour).await.unwrap();
    a.handle.originate(vec![block("10.244.58.0/24")]).await.unwrap();
    a.handle.put_range(range.clone()).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    has_route(&b.handle, "10.244.58.0/24", true).await;
    // A change of the range leaves its peers their names.
    range.template = quiet(range.template);
    a.handle.put_range(range).await.unwrap();
    has_route(&b.handle, "10.244.58.0/24", false).await;
    let peers = a.handle.peers().await.unwrap();
    let names: Vec<&str> = peers.iter().map(|peer| peer.spec.routing.name.as_str()).collect();
    assert_eq!(names, ["racks-127.0.0.59"]);
}

/// In either order: the changed configuration and the end of the peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_changes_while_its_peers_go_leaves_nothing_behind() {
    let a = start(61, 64512);
    let base = range(&a, 61, 65009, 100);
    let mut other = base.clone();
    other.template = quiet(other.template);
    for round in 0..60u8 {
        a.handle.put_range(base.clone()).await.unwrap();
        let mut streams = Vec::new();
        for n in 1..=4 {
            let mut stream = connect_from([127, 61, round, n].into(), a.addr).await;
            if round % 2 == 0 {
                handshake(&mut stream, 65009).await;
            }
            streams.push(stream);
        }
        let pause = pause(&a.handle).await;
        let (handle, changed) = (a.handle.clone(), other.clone());
        let change = tokio::spawn(async move {
            match round % 3 {
                0 => handle.remove_range("racks").await,
                _ => handle.put_range(changed).await,
            }
        });
        drop(streams);
        tokio::task::yield_now().await;
        drop(pause);
        change.await.unwrap().unwrap();
        eventually("nothing is left", || async {
            is_empty(&a.handle).await.then_some(())
        })
        .await;
    }
}

/// The engine's channel is full: peers that end meanwhile wait for it, and new connections do not.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_busy_engine_does_not_delay_new_connections() {
    let (a, b) = (start(62, 64512), start(63, 65001));
    a.handle.put_range(range(&a, 62, 65009, 100)).await.unwrap();
    let mut known = spec(&a, 1, b.addr, b.asn);
    known.session.passive = true;
    a.handle.put_peer(known).await.unwrap();
    let pause = pause(&a.handle).await;
    // The control channel has a capacity of 64: if each of these used it, no further connection would be
    // accepted.
    let mut streams = Vec::new();
    for n in 0..80 {
        streams.push(connect_from([127, 62, 0, n].into(), a.addr).await);
    }
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    in_state(&b.handle, 1, State::Established).await;
    drop(streams);
    drop(pause);
    eventually("the peer alone is left", || async {
        let one = a.handle.peers_of_tests().registry.table_sizes().peers == 1;
        (one && peers_of_engine(&a.handle).await == 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configured_peer_takes_the_place_of_a_dynamic_one() {
    let a = start(64, 64512);
    a.handle.put_range(range(&a, 64, 65009, 100)).await.unwrap();
    let configured = |id, last| {
        let remote = SocketAddr::from(([127, 64, 0, last], 1));
        let mut spec = spec(&a, id, remote, Asn(65009));
        spec.session.passive = true;
        spec
    };
    // One that is added, and one whose address changes.
    a.handle.put_peer(configured(2, 99)).await.unwrap();
    for (id, last) in [(1, 1), (2, 2)] {
        let addr: IpAddr = [127, 64, 0, last].into();
        let mut stream = connect_from(addr, a.addr).await;
        handshake(&mut stream, 65009).await;
        eventually("the dynamic peer", || async {
            let up = established(&a.handle).await;
            up.iter().any(|peer| peer.0 >= 1 << 31).then_some(())
        })
        .await;
        a.handle.put_peer(configured(id, last)).await.unwrap();
        assert_eq!(
            notification(&mut stream).await,
            Some((6, 3)),
            "Peer De-configured"
        );
        let mut stream = connect_from(addr, a.addr).await;
        handshake(&mut stream, 65009).await;
        let up = eventually("the configured peer", || async {
            Some(established(&a.handle).await).filter(|up| !up.is_empty())
        })
        .await;
        assert_eq!(up, [PeerId(id)]);
        a.handle.remove_peer(PeerId(id)).await.unwrap();
        assert_eq!(notification(&mut stream).await, Some((6, 3)));
    }
    eventually("nothing is left", || async {
        is_empty(&a.handle).await.then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_is_disabled_or_lacks_its_key_refuses() {
    let a = start(65, 64512);
    for what in ["disabled", "waiting"] {
        let mut range = range(&a, 65, 65009, 100);
        range.template.enabled = what != "disabled";
        range.template.waiting_for = (what == "waiting").then(|| "the password file is missing".to_owned());
        a.handle.put_range(range).await.unwrap();
        let mut stream = connect_from([127, 65, 0, 1].into(), a.addr).await;
        let mut octets = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut octets)).await;
        let _ = read.expect("closed in time"); // a reset is fine too
        assert!(octets.is_empty(), "{what}: nothing is sent");
        assert!(is_empty(&a.handle).await, "{what}");
    }
}

/// Connections without an OPEN do not keep out one with an OPEN, and an established session stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_connection_without_an_open_is_replaced() {
    let a = start(66, 64512);
    a.handle.put_range(range(&a, 66, 65009, 5)).await.unwrap();
    let mut first = connect_from([127, 66, 0, 1].into(), a.addr).await;
    handshake(&mut first, 65009).await;
    eventually("the first", || async {
        (!established(&a.handle).await.is_empty()).then_some(())
    })
    .await;
    let mut silent = Vec::new();
    for n in 1..=20 {
        silent.push(connect_from([127, 66, 1, n].into(), a.addr).await);
    }
    let mut honest = connect_from([127, 66, 2, 1].into(), a.addr).await;
    handshake(&mut honest, 65009).await;
    eventually("both sessions", || async {
        (established(&a.handle).await.len() == 2).then_some(())
    })
    .await;
    assert!(a.handle.peers().await.unwrap().len() <= 5);
    assert_eq!(notification(&mut silent[0]).await, Some((6, 3)));
}
