//! What an operator reads.

use super::*;
use crate::status::{HopStatus, RejectedStatus, WatchStatus};
use crate::testing::peer_status;

fn up() -> PeerStatus {
    PeerStatus {
        state: "Established".to_owned(),
        uptime_seconds: Some(3661),
        received: [("ipv4".to_owned(), 12), ("ipv6".to_owned(), 3)].into(),
        ..peer_status()
    }
}

/// The words of the table's only row.
fn row(peer: PeerStatus) -> Vec<String> {
    let table = peer_table(&[peer]);
    let line = table.lines().nth(1).unwrap();
    line.split("  ")
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_peer_is_a_row_with_all_marks() {
    let plain = row(up());
    assert_eq!(
        plain,
        [
            "tor-a",
            "192.0.2.1",
            "65001",
            "Established",
            "1h01m",
            "12 / 3",
            "0 / 0",
            "-"
        ]
    );
    let mut marked = up();
    marked.signed = true;
    marked.interface = Some("eth1".to_owned());
    marked.address = "fe80::1".parse().unwrap();
    (marked.memory_bytes, marked.max_memory_bytes) = (81, Some(100));
    marked.range = Some("racks".to_owned());
    let row = row(marked);
    assert_eq!(row[1], "fe80::1%eth1");
    assert_eq!(row[3], "Established (signed, near maxMemory, range racks)");
    assert_eq!(peer_table(&[]), "no peers are configured for this node");
}

#[test]
fn routes_of_a_peer_that_is_away_are_stale() {
    let mut away = up();
    (away.state, away.uptime_seconds) = ("Connect".to_owned(), None);
    assert_eq!(state(&away), "Connect (stale routes)");
    away.received.clear();
    away.enabled = false;
    assert_eq!(state(&away), "Connect (disabled)");
}

/// What ended the session is what an operator must see, not the refused connection after it.
#[test]
fn later_errors_do_not_hide_why_a_session_ended() {
    let mut peer = peer_status();
    assert_eq!(trouble(&peer), None);
    peer.hint = Some("hint".to_owned());
    assert_eq!(trouble(&peer).unwrap(), "hint");
    peer.last_error = Some("Connection refused".to_owned());
    assert_eq!(
        trouble(&peer).unwrap(),
        "Connection refused",
        "the error goes before the hint"
    );
    (peer.last_end, peer.last_end_seconds) = (Some("Cease: Too Many Prefixes".to_owned()), Some(125));
    assert_eq!(
        trouble(&peer).unwrap(),
        "Cease: Too Many Prefixes (2m05s ago); now: Connection refused"
    );
    peer.last_error.clone_from(&peer.last_end);
    assert_eq!(trouble(&peer).unwrap(), "Cease: Too Many Prefixes (2m05s ago)");
    peer.uptime_seconds = Some(1);
    assert_eq!(trouble(&peer), None, "it is up again");
}

#[test]
fn durations_as_people_say_them() {
    let texts = [59, 60, 3599, 3600, 86_399, 86_400, 1_000_000].map(duration);
    assert_eq!(
        texts,
        ["59s", "1m00s", "59m59s", "1h00m", "23h59m", "1d00h", "11d13h"]
    );
}

#[test]
fn a_peer_in_full_has_every_line() {
    let mut peer = up();
    (peer.signed, peer.next_key) = (true, true);
    (peer.memory_bytes, peer.max_memory_bytes) = (2049, Some(64 << 20));
    let text = peers_in_full(&Reply::Peers(vec![peer]));
    for line in [
        "peer  tor-a",
        "AS  65001 (local 64512)",
        "signed  TCP MD5, the peer has the second key",
        "memory  3 KiB of at most 65536 (maxMemory)",
        "received  12 / 3 prefixes (v4 / v6), 0 messages",
        "session ended  -",
    ] {
        assert!(
            text.lines().any(|found| found.trim_start().starts_with(line)),
            "no {line} in {text}"
        );
    }
}

fn path(best: bool, eligible: bool, used: bool, stale: bool) -> PathStatus {
    serde_json::from_value(serde_json::json!({
        "best": best, "eligible": eligible, "used": used, "stale": stale, "nextHop": "192.0.2.1", "from": "tor-a",
        "asPath": "", "localPref": 100, "med": null, "communities": ["64512:1"], "largeCommunities": ["1:2:3"],
        "extCommunities": [], "pathId": 0, "originatorId": null, "clusterList": [],
        "reason": if eligible { None } else { Some("AS loop") },
    }))
    .unwrap()
}

#[test]
fn paths_have_the_marks_that_routers_have() {
    let cases = [
        ((true, true, true, false), ">"),
        ((false, true, true, false), "="),
        ((false, true, false, false), ""),
        ((false, false, false, false), "x"),
        ((true, true, true, true), ">S"),
        ((false, false, false, true), "xS"),
    ];
    for ((best, eligible, used, stale), expected) in cases {
        assert_eq!(marks(&path(best, eligible, used, stale)), expected);
    }
    let row = path_row("10.244.1.0/24", &path(false, false, false, false));
    assert_eq!(
        row,
        [
            "x",
            "10.244.1.0/24",
            "192.0.2.1",
            "tor-a",
            "-",
            "100",
            "-",
            "64512:1 1:2:3",
            "AS loop"
        ]
    );
}

#[test]
fn kernel_routes_and_blocks() {
    let hop = |gateway: Option<&str>, weight| HopStatus {
        gateway: gateway.map(|text| text.parse().unwrap()),
        interface: "eth0".to_owned(),
        weight,
    };
    let route = |next_hops, state: &str, error: Option<&str>| FibStatus {
        prefix: "10.244.2.0/24".to_owned(),
        kind: "unreachable".to_owned(),
        metric: 20,
        next_hops,
        nexthop_object: None,
        state: state.to_owned(),
        error: error.map(str::to_owned),
    };
    let text = fib_table(&[
        route(vec![hop(Some("192.0.2.1"), 1), hop(None, 3)], "installed", None),
        route(Vec::new(), "failed", Some("File exists")),
    ]);
    assert!(text.contains("192.0.2.1 dev eth0, dev eth0 weight 3"), "{text}");
    assert!(
        text.contains("unreachable") && text.contains("File exists"),
        "{text}"
    );
    let block = |prefix: &str| BlockStatus {
        prefix: prefix.to_owned(),
        state: "advertised".to_owned(),
        troubles: vec!["rp_filter is strict".to_owned()],
    };
    let text = block_table(&[block("10.244.1.0/24"), block("fd00::/64")]);
    assert_eq!(
        text.matches("warning: rp_filter is strict").count(),
        1,
        "each trouble once: {text}"
    );
}

#[test]
fn the_cluster_in_full() {
    let mut cluster = ClusterStatus {
        node: "node-1".to_owned(),
        drained: "no".to_owned(),
        ..ClusterStatus::default()
    };
    let text = cluster_in_full(&cluster);
    assert!(
        text.contains("ready          yes") && text.contains("not used"),
        "{text}"
    );
    cluster.followed = true;
    cluster.drained = "withdrawn".to_owned();
    cluster.not_ready = vec!["a".to_owned(), "b".to_owned()];
    cluster.next_start = vec!["fib.table".to_owned()];
    cluster.watches = vec![WatchStatus {
        resource: "nodes".to_owned(),
        answers: false,
        since_seconds: Some(70),
        failures: 3,
        last_error: Some("forbidden".to_owned()),
    }];
    cluster.rejected = vec![RejectedStatus {
        subject: "listen".to_owned(),
        reason: "taken".to_owned(),
    }];
    let text = cluster_in_full(&cluster);
    for words in [
        "no: a; b",
        "this node's routes are withdrawn",
        "at next start  fib.table",
        "no answer  1m10s  3",
        "forbidden",
        "rejected: listen: taken",
    ] {
        assert!(text.contains(words), "no '{words}' in {text}");
    }
}

#[test]
fn a_path_of_bfd_says_what_holds_it_back() {
    let mut path = BfdStatus {
        peer: "tor-a".to_owned(),
        address: "192.0.2.1".parse().unwrap(),
        state: "Down".to_owned(),
        since_seconds: 5,
        downs: 2,
        last_down: None,
        detection_ms: None,
        held_seconds: None,
        refused: 0,
        last_refused: None,
    };
    assert_eq!(bfd_remark(&path), "-");
    path.last_down = Some("silence".to_owned());
    path.held_seconds = Some(61);
    (path.refused, path.last_refused) = (4, Some("wrong key".to_owned()));
    assert_eq!(
        bfd_remark(&path),
        "silence; held back for 1m01s; 4 packets refused: wrong key"
    );
    path.state = "Up".to_owned();
    assert_eq!(
        bfd_remark(&path),
        "silence; held back for 1m01s",
        "refused packets of strangers do no harm"
    );
}
