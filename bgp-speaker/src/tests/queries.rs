//! Number of queries to the engine and to the peers' tasks: counted, not timed.

use std::net::SocketAddr;

use bgp_proto::types::Asn;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use super::*;
use crate::api::BmpSpec;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_five_thousand_peers_asks_the_engine_once() {
    let a = start(91, 64512);
    for n in 0..5000u32 {
        let addr = std::net::Ipv4Addr::from_bits(0x7F5B_0000 + n);
        let mut spec = spec(&a, n + 1, SocketAddr::new(addr.into(), 1), Asn(65009));
        spec.enabled = false;
        a.handle.put_peer(spec).await.unwrap();
    }
    let call_counts = &a.handle.peers_of_tests().call_counts;
    let before = call_counts.queries();
    assert_eq!(a.handle.peers().await.unwrap().len(), 5000);
    assert_eq!(call_counts.queries() - before, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_station_queries_peers_only_after_a_change() {
    let (a, b) = (start(92, 64512), start(93, 65001));
    let listener = TcpListener::bind("127.0.0.94:0").await.unwrap();
    a.handle.put_stations(vec![BmpSpec {
        station: listener.local_addr().unwrap(),
        pre_policy: true,
        post_policy: true,
        statistics: std::time::Duration::ZERO,
        name: "a".to_owned(),
    }]);
    let (mut station, _) = listener.accept().await.unwrap();
    let reader = tokio::spawn(async move {
        let mut octets = [0; 4096];
        while station.read(&mut octets).await.is_ok_and(|read| read > 0) {}
    });
    let call_counts = std::sync::Arc::clone(&a.handle.peers_of_tests().call_counts);
    // Five polls of the feed.
    let five_looks = || async {
        let before = call_counts.queries();
        eventually("five looks", || async {
            (call_counts.queries() > before + 5).then_some(())
        })
        .await;
    };
    five_looks().await;
    let before = call_counts.snapshots();
    five_looks().await;
    five_looks().await;
    assert_eq!(call_counts.snapshots(), before, "nothing changed");
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    eventually("a look at the peers", || async {
        (call_counts.snapshots() > before).then_some(())
    })
    .await;
    reader.abort();
}
