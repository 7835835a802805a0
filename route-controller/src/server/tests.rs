//! The socket as a client sees it: a real speaker without peers, and an agent and a fib task that the test plays.

use tokio::net::UnixStream;

use super::*;
use crate::fib::tests::fib;
use crate::testing;

struct Bench {
    dir: tempfile::TempDir,
    orders: mpsc::Receiver<ToAgent>,
}

/// Answers questions about the kernel's routes until nobody asks any more.
fn fib_task() -> mpsc::Sender<ToFib> {
    let (to_fib, mut inbox) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(command) = inbox.recv().await {
            if let ToFib::Query(query) = command {
                query(&fib());
            }
        }
    });
    to_fib
}

fn start() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let (agent, orders) = mpsc::channel(4);
    let server = Server {
        speaker: testing::speaker(),
        fib: fib_task(),
        agent,
        network_policies: crate::network_policy::NetworkPolicies::default(),
        identity: (Asn(64512), RouterId::new(1).unwrap()),
    };
    let listener = listen(dir.path()).unwrap();
    tokio::spawn(server.run(listener));
    Bench { dir, orders }
}

impl Bench {
    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.dir.path().join("podroute.sock"))
            .await
            .unwrap()
    }

    async fn ask(&self, question: &str) -> Reply {
        let mut stream = self.connect().await;
        stream
            .write_all(format!("{question}\n").as_bytes())
            .await
            .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

fn error(reply: Reply) -> String {
    match reply {
        Reply::Error(text) => text,
        other => panic!("{other:?}"),
    }
}

/// More of them than are answered at a time.
#[tokio::test]
async fn whoever_asks_nothing_keeps_nobody_from_asking() {
    let bench = start();
    let mut idle = Vec::new();
    for _ in 0..4 * ANSWER_LIMIT {
        idle.push(bench.connect().await);
    }
    assert_eq!(bench.ask(r#"{"ask":"peers"}"#).await, Reply::Peers(Vec::new()));
    // Half a question is none either.
    for stream in &mut idle {
        stream.write_all(br#"{"ask":"#).await.unwrap();
    }
    assert_eq!(bench.ask(r#"{"ask":"peers"}"#).await, Reply::Peers(Vec::new()));
}

#[tokio::test]
async fn connections_without_a_question_have_a_limit() {
    let bench = start();
    let mut idle = Vec::new();
    for _ in 0..CONNECTION_LIMIT {
        idle.push(bench.connect().await);
    }
    let mut more = bench.connect().await;
    assert_eq!(more.read(&mut [0; 8]).await.unwrap(), 0, "closed at once");
    idle.truncate(CONNECTION_LIMIT - 8);
    // Those that are gone leave room.
    loop {
        let mut stream = bench.connect().await;
        let sent = stream.write_all(b"{\"ask\":\"peers\"}\n").await;
        let mut text = String::new();
        if sent.is_ok() && stream.read_to_string(&mut text).await.is_ok() && !text.is_empty() {
            return assert!(text.contains("peers"), "{text}");
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn questions_that_cannot_be_answered_say_why() {
    let bench = start();
    for nonsense in ["", "hello", r#"{"ask":"weather"}"#] {
        let why = error(bench.ask(nonsense).await);
        assert!(
            why.starts_with("not a request of this version"),
            "{nonsense}: {why}"
        );
    }
    let why = error(
        bench
            .ask(r#"{"ask":"disable","peer":"tor-z","message":""}"#)
            .await,
    );
    assert!(why.contains("tor-z"), "{why}");
    let why = error(bench.ask(r#"{"ask":"routes","within":"10.0.0.0/99"}"#).await);
    assert!(why.contains("10.0.0.0/99"), "{why}");
}

#[tokio::test]
async fn an_agent_that_stops_meanwhile_is_no_answer() {
    let mut bench = start();
    let refuse = async {
        match bench.orders.recv().await {
            Some(ToAgent::Drain {
                on: true,
                withdraw: true,
                answer,
            }) => {
                let full = CommandError::SaveDrain {
                    path: "/run/podroute".into(),
                    source: std::io::ErrorKind::StorageFull.into(),
                };
                assert!(answer.send(Err(full)).is_ok());
            }
            _ => panic!("another order"),
        }
        match bench.orders.recv().await {
            Some(ToAgent::Reload(answer)) => drop(answer),
            _ => panic!("another order"),
        }
    };
    let dir = bench.dir.path().join("podroute.sock");
    let ask = |question: &'static str| {
        let dir = dir.clone();
        async move {
            let mut stream = UnixStream::connect(dir).await.unwrap();
            stream.write_all(question.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            serde_json::from_str::<Reply>(&text).unwrap()
        }
    };
    let questions = async {
        let refused = ask("{\"ask\":\"drain\",\"on\":true,\"withdraw\":true}\n").await;
        (refused, ask("{\"ask\":\"reload\"}\n").await)
    };
    let ((), (refused, stopped)) = tokio::join!(refuse, questions);
    let why = error(refused);
    assert_eq!(
        why,
        "cannot save the drain state in /run/podroute: no storage space"
    );
    assert_eq!(error(stopped), "the agent is stopping");
}

/// The socket is root's alone, and one that a killed agent left is replaced.
#[tokio::test]
async fn the_socket_is_roots() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let left = listen(dir.path()).unwrap();
    drop(left);
    let _again = listen(dir.path()).unwrap();
    let mode = std::fs::metadata(dir.path().join("podroute.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}
