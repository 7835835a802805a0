//! A busy engine, host or peer task at an unfavorable moment.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bgp_proto::engine::{MaxPrefixes, Originated, OverLimit};
use bgp_proto::session::State;
use bgp_proto::types::{Asn, HoldTime, Prefix};
use bgp_proto::wire::cease;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::*;
use crate::engine::mailbox::ToEngine;
use crate::peer::task::PeerTask;
use crate::registry::messages::ToPeer;

fn passive(node: &Node, id: u32, addr: IpAddr) -> PeerSpec {
    let mut spec = spec(node, id, SocketAddr::new(addr, 1), Asn(65009));
    spec.session.passive = true;
    spec.session.hold_time = HoldTime::new(240).unwrap();
    spec
}

/// A turn of the engine ends with output for a session that has ended, and whose successor is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn output_for_an_ended_session_is_not_written_into_the_next() {
    let (a, b) = (start(80, 64512), start(81, 65001));
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    for round in 0..10u32 {
        let kept = block("10.80.0.0/24");
        let gone = Originated {
            prefix: Prefix::v4(0x0A51_0000 + (round << 8), 24),
            ..kept.clone()
        };
        in_state(&a.handle, 1, State::Established).await;
        a.handle
            .originate(vec![kept.clone(), gone.clone()])
            .await
            .unwrap();
        has_route(&b.handle, &gone.prefix.to_string(), true).await;
        let before = peer(&b.handle, 1).await.session.stats.established;
        let pause = pause(&a.handle).await;
        a.handle.originate(vec![kept]).await.unwrap(); // a withdrawal is due
        b.handle.clear(PeerId(1), "").await;
        eventually("the next session", || async {
            let session = peer(&b.handle, 1).await.session;
            (session.stats.established > before && session.state == State::Established).then_some(())
        })
        .await;
        drop(pause);
        has_route(&b.handle, "10.80.0.0/24", true).await;
        has_route(&b.handle, &gone.prefix.to_string(), false).await;
        // The session's counters contain only what was sent to itself.
        eventually("the same count on both sides", || async {
            let (a, b) = (peer(&a.handle, 1).await.counts, peer(&b.handle, 1).await.counts);
            (a.advertised == [1, 0] && b.received == [1, 0]).then_some(())
        })
        .await;
    }
}

/// Many more tasks wait for the engine than its channel has capacity for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_thousand_sessions_get_through_a_paused_engine() {
    const SESSIONS: u16 = 3000;
    const EACH: u8 = 3;
    let a = start(82, 64512);
    let mut range = range(&a, 82, 65009, SESSIONS.into());
    range.template = quiet(range.template);
    a.handle.put_range(range).await.unwrap();
    let mut streams = Vec::new();
    for n in 0..SESSIONS {
        let [high, low] = n.to_be_bytes();
        let mut stream = connect_from([127, 82, high, low].into(), a.addr).await;
        handshake(&mut stream, 65009).await;
        streams.push(stream);
    }
    eventually("all sessions", || async {
        (established(&a.handle).await.len() == usize::from(SESSIONS)).then_some(())
    })
    .await;
    let pause = pause(&a.handle).await;
    for round in 0..EACH {
        for (n, stream) in (0..SESSIONS).zip(&mut streams) {
            let [high, low] = n.to_be_bytes();
            let message = announcement(65009, [100 + round, high, low]);
            stream.write_all(&message).await.unwrap();
        }
    }
    eventually("a full channel", || async {
        a.handle.peers_of_tests().is_full_of_tests().then_some(())
    })
    .await;
    drop(pause);
    let all = usize::from(SESSIONS) * usize::from(EACH);
    eventually("every message", || async {
        let (prefixes, ..) = a
            .handle
            .peers_of_tests()
            .query(|engine| engine.sizes())
            .await
            .unwrap();
        (prefixes == all).then_some(())
    })
    .await;
}

/// The prefix limit ends the session without a command, even if commands wait and the peer reads nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_notification_of_the_engine_needs_no_command() {
    let a = start(83, 64512);
    let addr: IpAddr = [127, 0, 0, 84].into();
    let mut limited = passive(&a, 1, addr);
    let mut routing = (*limited.routing).clone();
    routing.max_prefixes = Some(MaxPrefixes {
        limit: 1,
        warn_at: None,
        action: OverLimit::Cease {
            restart_after: Duration::from_secs(60),
        },
    });
    limited.routing = Arc::new(routing);
    a.handle.put_peer(limited).await.unwrap();
    let mut stream = connect_from(addr, a.addr).await;
    handshake(&mut stream, 65009).await;
    in_state(&a.handle, 1, State::Established).await;
    let flood = Flood::of_commands(&a.handle, 1);
    for n in 0..2 {
        stream.write_all(&announcement(65009, [10, 84, n])).await.unwrap();
    }
    assert_eq!(notification(&mut stream).await, Some((6, cease::MAX_PREFIXES)));
    drop(flood);
}

/// A thread that keeps the command queue of a peer full.
struct Flood {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    fn of_commands(handle: &SpeakerHandle, peer: u32) -> Self {
        let commands = handle
            .peers_of_tests()
            .registry
            .get(PeerId(peer))
            .unwrap()
            .commands;
        let ends = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let _ = commands.try_send(ToPeer::Start); // a full queue is intended
            }
        });
        Self {
            ends,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(std::thread::JoinHandle::join);
    }
}

/// New connections from a peer's address, as fast as possible, do not starve its established session: the
/// peer's messages are read between commands.
#[tokio::test]
async fn a_full_command_queue_starves_no_session() {
    // Tokio polls sockets and this test once per 61 turns of the task; a turn processes up to 128 commands.
    const COMMANDS: usize = 200_000;
    let a = start(85, 64512);
    let (commands, inbox) = mpsc::channel(COMMANDS);
    let (engine, mut to_engine) = mpsc::channel(16);
    let host = crate::host::Host::start();
    let spec = passive(&a, 1, [127, 0, 0, 86].into());
    let task = PeerTask::new(
        spec,
        1,
        inbox,
        engine,
        &host,
        (std::sync::Weak::new(), Arc::default()),
    );
    tokio::spawn(task.run());
    let listener = tokio::net::TcpListener::bind("127.0.0.85:0").await.unwrap();
    let mut stream = connect_from([127, 0, 0, 86].into(), listener.local_addr().unwrap()).await;
    let incoming = ToPeer::Incoming {
        stream: listener.accept().await.unwrap().0,
        signed: false,
    };
    assert!(commands.send(incoming).await.is_ok());
    handshake(&mut stream, 65009).await;
    let mut next = async || {
        let received = tokio::time::timeout(DEADLINE, to_engine.recv()).await;
        received.expect("in time").unwrap()
    };
    while !matches!(next().await, ToEngine::Up(..)) {}
    stream.write_all(&announcement(65009, [10, 85, 0])).await.unwrap();
    while commands.try_send(ToPeer::Start).is_ok() {}
    while !matches!(next().await, ToEngine::Routes(..)) {}
    assert!(commands.capacity() < COMMANDS, "commands are still to be done");
}

/// The process was stopped for longer than the hold time (SIGSTOP, or a busy host). The peer's messages are
/// unread in the socket: the session stays.
#[tokio::test]
async fn a_peer_that_sent_in_time_outlives_a_stop_of_the_process() {
    const HOLD: u16 = 3;
    let a = start(87, 64512);
    let addr: IpAddr = [127, 0, 0, 88].into();
    let mut short = passive(&a, 1, addr);
    short.session.hold_time = HoldTime::new(HOLD).unwrap();
    a.handle.put_peer(short).await.unwrap();
    let mut stream = connect_from(addr, a.addr).await;
    handshake(&mut stream, 65009).await;
    in_state(&a.handle, 1, State::Established).await;
    let mut stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let mut reader = stream.try_clone().unwrap();
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::sink()));
    let ended = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&ended);
    let sender = std::thread::spawn(move || {
        let mut keepalive = vec![0xFF; 16];
        keepalive.extend([0, 19, 4]);
        while !until.load(Ordering::Relaxed) && stream.write_all(&keepalive).is_ok() {
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    for _ in 0..3 {
        std::thread::sleep(Duration::from_secs(u64::from(HOLD) + 1)); // the fault: no task runs
        let received = |peer: &crate::api::PeerSnapshot| peer.session.stats.messages_in.total();
        let before = received(&peer(&a.handle, 1).await);
        eventually("the session goes on", || async {
            let peer = peer(&a.handle, 1).await;
            assert_eq!(
                (peer.session.state, peer.session.stats.established),
                (State::Established, 1)
            );
            (received(&peer) > before + 3).then_some(())
        })
        .await;
    }
    ended.store(true, Ordering::Relaxed);
    sender.join().unwrap();
}

/// When the last handle is dropped everything ends: sessions, listeners, links, stations, both output
/// channels.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_speaker_ends_with_its_last_handle() {
    let (mut a, b) = (start(89, 64512), start(90, 65001));
    a.handle.put_peer(spec(&a, 1, b.addr, b.asn)).await.unwrap();
    b.handle.put_peer(spec(&b, 1, a.addr, a.asn)).await.unwrap();
    a.handle.put_range(range(&a, 89, 65009, 10)).await.unwrap();
    let mut dynamic = connect_from([127, 89, 0, 1].into(), a.addr).await;
    handshake(&mut dynamic, 65009).await;
    let mut template = spec(&a, 7, "[::]:179".parse().unwrap(), Asn(65010));
    template.session.passive = true;
    let link = crate::api::LinkSpec {
        interface: "no-such-link".to_owned(),
        template,
    };
    a.handle.put_link(link).await.unwrap();
    in_state(&a.handle, 1, State::Established).await;
    let mut queued = vec![Originated {
        prefix: Prefix::v4(0x0A59_0000, 24),
        ..block("10.89.0.0/24")
    }];
    queued.push(block("10.90.0.0/24"));
    a.handle.originate(queued).await.unwrap();
    let addr = a.addr;
    drop(a.handle);
    assert_eq!(notification(&mut dynamic).await, Some((6, 3)));
    let ended = async {
        while a.datapath.recv().await.is_some() {}
        while a.events.recv().await.is_some() {}
    };
    tokio::time::timeout(DEADLINE, ended)
        .await
        .expect("both streams end");
    in_state(&b.handle, 1, State::Active).await;
    eventually("the listener is closed", || async {
        TcpStream::connect(addr).await.is_err().then_some(())
    })
    .await;
}
