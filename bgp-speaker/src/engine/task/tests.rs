//! The engine's task: inputs of sessions in any order, late outputs, streams that are not read.

use std::task::{Context, Waker};

use bgp_proto::engine::{EngineConfig, Originated};
use bgp_proto::policy::Source;
use bgp_proto::types::{Asn, Prefix, RouterId};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::queue::Queue;
use crate::tests::common::{DEADLINE, negotiated, spec, start};

const PEER: PeerId = PeerId(1);

struct Bench {
    task: EngineTask,
    control: mpsc::Sender<ToEngine>,
    inbox: mpsc::Sender<ToEngine>,
    datapath: mpsc::Receiver<DatapathEvent>,
    events: mpsc::Receiver<Event>,
}

fn bench(room: usize) -> Bench {
    let config = EngineConfig {
        asn: Asn(64512),
        router_id: RouterId::new(1).unwrap(),
        cluster_id: None,
        max_paths: 8,
        multipath_relax: true,
        link_bandwidth: true,
        assume_reachable: true,
    };
    let (control, control_inbox) = mpsc::channel(64);
    let (inbox, received) = mpsc::channel(20_000);
    let (routes, datapath) = mpsc::channel(room);
    let (lifecycle, events) = mpsc::channel(room);
    Bench {
        task: EngineTask::new(Engine::new(config), control_inbox, received, routes, lifecycle),
        control,
        inbox,
        datapath,
        events,
    }
}

async fn configured() -> Bench {
    let mut bench = bench(1024);
    let node = start(97, 64512);
    let spec = spec(&node, 1, "127.0.0.98:1".parse().unwrap(), Asn(65001));
    bench
        .task
        .handle(ToEngine::Input(Input::Configure(PEER, spec.routing)));
    bench
}

/// A session, and the peer's end of its connection.
async fn session(epoch: u32) -> (Arc<Outbox>, ToEngine, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (ours, theirs) = tokio::join!(TcpStream::connect(addr), listener.accept());
    let id = SessionId { peer: PEER, epoch };
    let outbox = Arc::new(Outbox::new(id, Arc::new(ours.unwrap())));
    let facts = SessionFacts {
        negotiated: Arc::new(negotiated()),
        remote_addr: [192, 0, 2, 2].into(),
        local_v4: Some([192, 0, 2, 1].into()),
        local_v6: None,
        link_local: None,
        shared_subnets: Vec::new(),
    };
    let up = ToEngine::Up(Box::new(facts), Arc::clone(&outbox));
    (outbox, up, theirs.unwrap().0)
}

fn originate(task: &mut EngineTask, count: u32) {
    let routes = (0..count).map(|n| Originated {
        prefix: Prefix::v4(0x0A00_0000 + (n << 8), 24),
        source: Source::Service,
        communities: Vec::new(),
    });
    task.handle(ToEngine::Input(Input::Originate(routes.collect())));
}

/// Dispatches all outputs of the work so far.
fn dispatch_outputs(task: &mut EngineTask) {
    while let Some(output) = task.engine.next_output() {
        task.dispatch(output);
    }
    task.write();
}

fn has_messages(outbox: &Outbox) -> bool {
    let waiting = outbox
        .poll(&mut Context::from_waker(Waker::noop()), true)
        .is_ready();
    waiting && outbox.take(&mut Queue::default(), 1).unwrap() > 0 || outbox.messages() > 0
}

/// Outputs are dispatched after their session ended and the next came up.
#[tokio::test]
async fn output_for_an_ended_session_goes_nowhere() {
    let mut bench = configured().await;
    let task = &mut bench.task;
    let (first, up, _theirs) = session(1).await;
    task.handle(up);
    originate(task, 3);
    while task.engine.work() {
        let is_advertised = |output: &Output| matches!(output, Output::Advertise(..));
        let outputs: Vec<Output> = std::iter::from_fn(|| task.engine.next_output()).collect();
        if !outputs.iter().any(is_advertised) {
            continue;
        }
        let (second, up, _theirs) = session(2).await;
        task.handle(ToEngine::Input(Input::Down(first.session())));
        task.handle(up);
        outputs.into_iter().for_each(|output| task.dispatch(output));
        task.write();
        assert!(
            !has_messages(&first) && !has_messages(&second),
            "it was for the first session"
        );
        while task.engine.work() {
            dispatch_outputs(task);
        }
        dispatch_outputs(task);
        assert!(has_messages(&second), "its own table");
        return;
    }
    panic!("nothing was advertised");
}

/// A late Up of a removed peer, a late Down of an earlier session: neither adds nor removes an outbox.
#[tokio::test]
async fn inputs_of_sessions_that_are_over_change_nothing() {
    let mut bench = configured().await;
    let task = &mut bench.task;
    let (first, first_up, _a) = session(1).await;
    let (second, second_up, _b) = session(2).await;
    task.handle(first_up);
    task.handle(second_up); // its Down was lost
    task.handle(ToEngine::Input(Input::Down(first.session())));
    assert!(task.engine.is_established(second.session()));
    assert!(task.outbox(second.session()).is_some() && task.outbox(first.session()).is_none());
    let (_, late, _c) = session(1).await;
    task.handle(late);
    assert!(task.outbox(second.session()).is_some(), "an Up from before");
    task.handle(ToEngine::Input(Input::Remove(PEER)));
    let (_, late, _d) = session(3).await;
    task.handle(late);
    assert!(task.outboxes.is_empty(), "the peer has left");
}

/// The backlog of the datapath is sent as soon as possible, although inputs arrive continuously.
#[tokio::test]
async fn retained_routes_expire_under_a_steady_stream_of_messages() {
    let Bench {
        mut task,
        control,
        inbox,
        mut datapath,
        events,
    } = bench(1);
    for last in 0..3 {
        let prefix = Prefix::v4(0x0A00_0000 + (last << 8), 24);
        let changes = vec![bgp_proto::engine::FibChange {
            prefix,
            next_hops: Arc::from([]),
            route: bgp_proto::engine::KernelRoute::default(),
        }];
        task.datapath.send(DatapathEvent::Routes { changes, more: false });
    }
    assert!(task.datapath.is_behind());
    // Small messages: the engine's task always finds some.
    let report = || ToEngine::Report(Event::PathLimitWarning(PEER, Prefix::v4(0, 0)));
    while inbox.try_send(report()).is_ok() {}
    tokio::spawn(task.run());
    let mut prefixes = 0;
    while prefixes < 3 {
        let event = tokio::time::timeout(DEADLINE, datapath.recv()).await;
        if let Some(DatapathEvent::Routes { changes, .. }) = event.expect("in time") {
            prefixes += changes.len();
        }
    }
    assert!(inbox.capacity() < inbox.max_capacity(), "messages are pending");
    assert_eq!(events.len(), 1, "the other channel is not read");
    drop(control);
}
