//! When the node is ready, and what it says where it is not: the handlers themselves, with a fib task that the test plays.

use axum::http::HeaderMap;
use axum::response::IntoResponse;
use bgp_proto::types::Family;

use super::page::metrics;
use super::*;
use crate::fib::tests::{fib, learned};

struct Bench {
    source: Source,
    agent: Option<mpsc::Receiver<ToAgent>>,
}

fn bench(fib: impl Fn() -> Fib + Send + 'static) -> Bench {
    let (to_fib, mut inbox) = mpsc::channel(4);
    tokio::spawn(async move {
        while let Some(ToFib::Query(query)) = inbox.recv().await {
            query(&fib());
        }
    });
    let (to_agent, agent) = mpsc::channel(4);
    let source = Source {
        speaker: crate::testing::speaker(),
        fib: to_fib,
        health: Arc::default(),
        agent: to_agent,
        watches: Watches::default(),
        network_policies: crate::network_policy::NetworkPolicies::default(),
        run_dir: std::path::PathBuf::from("/nonexistent"),
    };
    Bench {
        source,
        agent: Some(agent),
    }
}

impl Bench {
    async fn ready(&self) -> (u16, String) {
        let (code, text) = ready(Shared(self.source.clone())).await;
        (code.as_u16(), text)
    }

    async fn value(&self, line: &str) -> bool {
        let answer = metrics(Shared(self.source.clone()), HeaderMap::new()).await;
        let body = answer.ok().unwrap().into_response().into_body();
        let text = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let text = String::from_utf8(text.to_vec()).unwrap();
        text.lines().any(|found| found == line)
    }
}

#[tokio::test]
async fn each_obstacle_has_a_line_and_the_last_one_gone_is_ready() {
    let bench = bench(fib);
    let health = &bench.source.health;
    health.waits_for_cluster.store(true, Ordering::Relaxed);
    *health.obstacles.lock().unwrap() = vec!["not known yet".to_owned()];
    *health.host.lock().unwrap() = Some("ip_forward is 0".to_owned());
    let (code, text) = bench.ready().await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        (code, lines),
        (
            503,
            vec![
                "Kubernetes has not answered yet; 'podroute show cluster' says why",
                INITIAL_ROUTES,
                "ip_forward is 0",
            ]
        ),
        "what the agent waits for is not known before Kubernetes has answered"
    );
    health.waits_for_cluster.store(false, Ordering::Relaxed);
    *health.obstacles.lock().unwrap() = vec!["no session is up: tor-a".to_owned()];
    *health.host.lock().unwrap() = None;
    let (_, text) = bench.ready().await;
    assert_eq!(text, format!("no session is up: tor-a\n{INITIAL_ROUTES}\n"));
    assert!(bench.value("podroute_ready 0").await);
    health.obstacles.lock().unwrap().clear();
    health.settled.store(true, Ordering::Relaxed);
    assert_eq!(bench.ready().await, (200, "ready\n".to_owned()));
    assert!(bench.value("podroute_ready 1").await);
}

#[tokio::test]
async fn a_warning_does_not_take_the_node_out() {
    let bench = bench(fib);
    let health = &bench.source.health;
    health.settled.store(true, Ordering::Relaxed);
    health.drained.store(1, Ordering::Relaxed);
    *health.unsent.lock().unwrap() = [Family::Ipv6].into_iter().collect();
    let (code, text) = bench.ready().await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        (code, lines[0]),
        (200, "ready, but drained: peers prefer other paths")
    );
    assert!(
        lines[1].starts_with("warning: no peer was sent the node's ipv6 blocks"),
        "{text}"
    );
    for line in [
        "podroute_blocks_unsent{family=\"ipv6\"} 1",
        "podroute_blocks_unsent{family=\"ipv4\"} 0",
        "podroute_drained 1",
        "podroute_ready 1",
    ] {
        assert!(bench.value(line).await, "no {line}");
    }
}

/// A route that is wanted and not in the kernel keeps the node from being ready; one that is kept out does not.
#[tokio::test]
async fn kernel_routes_count() {
    let bench = bench(|| {
        let mut fib = fib();
        let next_hop = "192.0.2.1".parse().unwrap();
        let _ = fib.watch(vec![next_hop]);
        let prefixes = ["10.244.2.0/24", "198.51.100.0/24"];
        fib.routes(
            prefixes
                .iter()
                .map(|text| learned(text, &["192.0.2.1"]))
                .collect(),
            false,
        );
        fib
    });
    bench.source.health.settled.store(true, Ordering::Relaxed);
    assert_eq!(
        bench.ready().await,
        (503, "kernel routes are pending\n".to_owned())
    );
    assert!(bench.value("podroute_fib_routes{state=\"pending\"} 1").await);
    assert!(bench.value("podroute_fib_routes{state=\"refused\"} 1").await);
}

#[tokio::test]
async fn a_task_that_stopped_is_an_obstacle() {
    let mut bench = bench(fib);
    bench.source.fib = mpsc::channel(1).0;
    bench.source.health.settled.store(true, Ordering::Relaxed);
    let (code, text) = bench.ready().await;
    assert_eq!(
        (code, text.as_str()),
        (503, "the kernel route task has stopped\n")
    );
    // Alive is who answers: not the agent's task here.
    drop(bench.agent.take());
    assert_eq!(
        healthy(Shared(bench.source.clone())).await,
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn an_agent_that_answers_is_alive() {
    let mut bench = bench(fib);
    let mut orders = bench.agent.take().unwrap();
    tokio::spawn(async move {
        while let Some(ToAgent::Ping(answer)) = orders.recv().await {
            answer.send(()).unwrap();
        }
    });
    assert_eq!(healthy(Shared(bench.source.clone())).await, StatusCode::OK);
}

/// The page as a strict reader of OpenMetrics takes it, with histograms that have counted.
#[tokio::test]
async fn the_page_is_open_metrics() {
    let mut bench = bench(fib);
    let dir = tempfile::tempdir().unwrap();
    bench.source.run_dir = dir.path().to_owned();
    let measured = &bench.source.health.measured;
    measured.update_to_kernel.observe(Duration::from_millis(7));
    measured.config.note(true);
    let block = "10.244.1.0/24".parse().unwrap();
    bench.source.health.configure(Series::default(), &[block]);
    let mut headers = HeaderMap::new();
    headers.insert(
        "accept",
        "application/openmetrics-text; version=1.0.0".parse().unwrap(),
    );
    let answer = metrics(Shared(bench.source.clone()), headers)
        .await
        .ok()
        .unwrap()
        .into_response();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let families = openmetrics::read(&text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    for family in [
        "podroute_update_to_kernel_seconds",
        "podroute_config_generation",
        "podroute_cni_seconds",
        "podroute_sessions",
        "process_cpu_seconds",
    ] {
        assert!(families.contains(family), "no {family} in {families:?}");
    }
    for line in [
        "podroute_update_to_kernel_seconds_bucket{le=\"0.01\"} 1",
        "podroute_config_generation 1",
        "podroute_block_addresses{block=\"10.244.1.0/24\",state=\"size\"} 256.0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
}
