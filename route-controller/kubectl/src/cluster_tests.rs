//! Against an API server: every byte of the exec protocol, a thousand nodes, and who does not answer.

use std::net::SocketAddr;

use clap::Parser;

use super::*;
use crate::args::ClusterArgs;
use crate::fake_api;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: ClusterArgs,
}

async fn connect(address: SocketAddr, more: &[&str]) -> Cluster {
    let file = fake_api::kubeconfig(address);
    let path = file.path().to_str().unwrap();
    let fixed = ["podroute", "peers", "--kubeconfig", path];
    let line = Line::parse_from(fixed.iter().chain(more));
    Cluster::connect(&line.args.options).await.unwrap()
}

fn output(exit_code: i32, stdout: impl Into<String>, stderr: &str) -> Output {
    Output {
        stdout: stdout.into(),
        stderr: stderr.to_owned(),
        exit_code,
    }
}

fn pods(count: usize) -> Vec<(String, String)> {
    (0..count)
        .map(|n| (format!("node-{n:04}"), format!("pod-{n}")))
        .collect()
}

#[tokio::test]
async fn a_thousand_nodes_answer() {
    let program = |pod: &str, args: &[String], _: &str| {
        assert_eq!(args, ["/podroute", "show", "peers"]);
        output(0, format!("{pod} {}", "x".repeat(5000)), "")
    };
    let address = fake_api::start(&pods(1000), &[], program).await;
    let answers = connect(address, &[]).await.ask(&["show", "peers"]).await;
    assert_eq!(answers.unanswered, []);
    assert_eq!(answers.answered.len(), 1000);
    for (number, (node, answer)) in answers.answered.iter().enumerate() {
        assert_eq!(*node, format!("node-{number:04}"));
        assert!(answer.starts_with(&format!("pod-{number} ")) && answer.ends_with(&"x".repeat(5000)));
    }
}

#[tokio::test]
async fn who_does_not_answer_is_named_with_the_reason() {
    let program = |pod: &str, _: &[String], _: &str| match pod {
        "pod-1" => output(1, "", "podroute: no answer from the agent\n"),
        _ => output(0, "good", ""),
    };
    let address = fake_api::start(&pods(3), &["node-9999"], program).await;
    let answers = connect(address, &["--concurrency", "2"])
        .await
        .ask(&["show", "peers"])
        .await;
    assert_eq!((answers.asked, answers.answered.len()), (4, 2));
    let reasons: Vec<_> = answers
        .unanswered
        .iter()
        .map(|one| (one.node.as_str(), one.reason.as_str()))
        .collect();
    assert_eq!(
        reasons,
        [
            ("node-0001", "exit status 1: no answer from the agent"),
            ("node-9999", "no pod of the agent is on this node")
        ]
    );
}

#[tokio::test]
async fn a_file_reaches_every_node_whole() {
    let program = |_: &str, _: &[String], input: &str| output(0, input.to_owned(), "");
    let address = fake_api::start(&pods(3), &[], program).await;
    let file = "peers:\n".repeat(20_000);
    let cluster = connect(address, &["--node", "node-0002"]).await;
    let answers = cluster.run(&["check", "-"], Some(&file)).await;
    assert_eq!(answers.answered.len(), 1);
    assert_eq!(answers.answered[0].1.stdout, format!("{file}\n...\n"));
}
