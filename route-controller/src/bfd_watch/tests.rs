//! Routes, End-of-RIB and lost paths reach the kernel without an agent: nobody reads the lifecycle stream here, and it is full. In a
//! network namespace of the test's own thread; left out without the right to make one.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use bfd::{Bfd, Key, Target};
use bgp_proto::engine::EngineConfig;
use bgp_proto::session::State;
use bgp_proto::types::{Asn, Family, RouterId};
use bgp_speaker::{RangeSpec, Speaker, SpeakerConfig, Started};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::*;
use crate::fib::FibConfig;
use crate::fib::task::{CAPACITY as FIB_CAPACITY, FibTask};

#[path = "../../../bgp-speaker/tests/common/mod.rs"]
mod common;
use common::{DEADLINE, Node, announcement_via, connect_from, eventually, handshake, in_state, spec};

const PEER: PeerId = PeerId(1);
/// Events that the lifecycle stream has room for.
const FULL: usize = 1024;

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Does this in another namespace.
fn within<T: Send>(namespace: &File, job: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            job()
        });
        thread.join().unwrap()
    })
}

/// Here `e0` with 192.0.2.1, there `e0` with 192.0.2.2.
fn link_to_neighbor() -> File {
    let here = File::open("/proc/thread-self/ns/net").unwrap();
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        File::open("/proc/thread-self/ns/net").unwrap()
    });
    let neighbor = thread.join().unwrap();
    within(&neighbor, || {
        let here = std::os::fd::AsRawFd::as_raw_fd(&here);
        let here = format!("/proc/{}/fd/{here}", std::process::id());
        ip(&format!("link add e0 type veth peer name e0 netns {here}"));
        ip("addr add 192.0.2.2/24 dev e0");
        ip("link set e0 up");
    });
    ip("link set lo up");
    ip("addr add 192.0.2.1/24 dev e0");
    ip("link set e0 up");
    neighbor
}

fn target(remote: &str, local: &str) -> Target {
    Target {
        key: Key {
            remote: remote.parse().unwrap(),
            scope: 0,
        },
        local: Some(local.parse().unwrap()),
        multihop: false,
        min_ttl: 0,
        interval: Duration::from_millis(100),
        multiplier: 10,
        auth: None,
    }
}

/// Speaker and kernel routes.
struct NodeUnderTest {
    speaker: Node,
    fib: mpsc::Sender<ToFib>,
    swept: watch::Receiver<bool>,
}

async fn start() -> NodeUnderTest {
    let id = RouterId::new(0xC000_0201).unwrap();
    let engine = EngineConfig {
        asn: Asn(64512),
        router_id: id,
        cluster_id: None,
        max_paths: 8,
        multipath_relax: true,
        link_bandwidth: false,
        assume_reachable: false,
    };
    let listen = vec!["0.0.0.0:179".parse().unwrap()];
    let Started {
        handle,
        datapath,
        events,
    } = Speaker::start(SpeakerConfig {
        engine,
        listen,
        seed: 1,
    })
    .unwrap();
    let (fib, inbox) = mpsc::channel(FIB_CAPACITY);
    let (swept_tx, swept) = watch::channel(false);
    let config = FibConfig {
        metric: 20,
        table: 254,
        rule_priority: None,
        via_default: false,
        services: Vec::new(),
        pod_cidrs: vec!["10.99.0.0/16".parse().unwrap()],
        sources: Vec::new(),
        objects: true,
        resilience: None,
        install: true,
    };
    let (host_tx, _) = watch::channel(());
    let task = FibTask::new(config, inbox, datapath, handle.clone(), swept_tx, host_tx)
        .await
        .unwrap();
    tokio::spawn(task.run());
    let speaker = Node {
        addr: handle.listening()[0],
        handle,
        datapath: mpsc::channel(1).1, // the kernel routes have it
        events,
        asn: Asn(64512),
        id,
    };
    NodeUnderTest { speaker, fib, swept }
}

/// More peers come up than the stream has room for events.
async fn fill_lifecycle_stream(node: &Node) -> Vec<TcpStream> {
    let mut template = spec(node, 0, "0.0.0.0:0".parse().unwrap(), Asn(65010));
    template.session.passive = true;
    template.transport.local = None;
    let range = RangeSpec {
        name: "many".to_owned(),
        prefix: "127.200.0.0/16".parse().unwrap(),
        limit: 2 * FULL,
        template,
    };
    node.handle.put_range(range).await.unwrap();
    let mut streams = Vec::new();
    for n in 0..u16::try_from(FULL).unwrap() + 100 {
        let [high, low] = n.to_be_bytes();
        let to = "127.0.0.1:179".parse().unwrap();
        let mut stream = connect_from([127, 200, high, low].into(), to).await;
        handshake(&mut stream, 65010).await;
        streams.push(stream);
    }
    eventually("a full stream", || async {
        (node.events.len() == FULL).then_some(())
    })
    .await;
    streams
}

async fn route(present: bool) {
    eventually(&format!("the kernel's route, present: {present}"), || async {
        let routes = ip("-4 route show 10.99.0.0/24");
        (routes.contains("via 192.0.2.2") == present).then_some(())
    })
    .await;
}

#[test]
fn routes_ends_and_lost_paths_reach_the_kernel_without_the_agent() {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("left out: no network namespace: {error}");
        return;
    }
    let neighbor = link_to_neighbor();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(without_agent(&neighbor));
}

async fn without_agent(neighbor: &File) {
    let NodeUnderTest {
        speaker: node,
        fib,
        mut swept,
    } = start().await;
    let mut passive = spec(&node, PEER.0, "192.0.2.2:179".parse().unwrap(), Asn(65009));
    passive.session.passive = true;
    passive.session.hold_time = bgp_proto::types::HoldTime::new(240).unwrap();
    passive.transport.local = None;
    node.handle.put_peer(passive).await.unwrap();
    node.handle.accept();
    let bfd_watch = BfdWatch::start(node.handle.clone(), fib.clone());
    let _others = fill_lifecycle_stream(&node).await;

    let stream = within(neighbor, || {
        std::net::TcpStream::connect("192.0.2.1:179").unwrap()
    });
    stream.set_nonblocking(true).unwrap();
    let mut stream = TcpStream::from_std(stream).unwrap();
    handshake(&mut stream, 65009).await;
    let update = announcement_via(65009, [10, 99, 0], [192, 0, 2, 2]);
    stream.write_all(&update).await.unwrap();
    route(true).await;

    let ends = Family::ALL.map(|family| (PEER, family));
    fib.send(ToFib::SweepAfter(ends.into())).await.unwrap();
    assert!(!*swept.borrow(), "the end of the initial routes is still to come");
    let end_of_rib = [&[0xFF; 16][..], &[0, 23, 2, 0, 0, 0, 0]].concat();
    stream.write_all(&end_of_rib).await.unwrap();
    let done = swept.wait_for(|done| *done);
    tokio::time::timeout(DEADLINE, done)
        .await
        .expect("in time")
        .unwrap();

    let far = within(neighbor, || Bfd::start(|| ()).unwrap());
    far.put(vec![target("192.0.2.1", "192.0.2.2")]);
    bfd_watch
        .put(vec![Watch {
            owner: WatchOwner::NextHop,
            target: target("192.0.2.2", "192.0.2.1"),
            dampening: None,
        }])
        .await;
    // Both ends: only what was up can be lost.
    eventually("BFD is up", || async {
        let (answer, shown) = oneshot::channel();
        bfd_watch.show(answer).await;
        let near = shown.await.unwrap().iter().any(|path| path.state == "Up");
        let far = far
            .status()
            .into_values()
            .any(|status| status.state == bfd::State::Up);
        (near && far).then_some(())
    })
    .await;
    // Nothing of the neighbor arrives any more; the link and the session's connection stay.
    within(neighbor, || ip("route add blackhole 192.0.2.1/32"));
    route(false).await;
    in_state(&node.handle, PEER.0, State::Established).await;
    within(neighbor, || ip("route del blackhole 192.0.2.1/32"));
    route(true).await;
    assert_eq!(node.events.len(), FULL, "nobody has read the lifecycle stream");
}
