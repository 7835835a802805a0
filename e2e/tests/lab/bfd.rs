//! BFD with BIRD and FRR and with ourselves: up, silent loss, strict mode, a neighbor that goes on purpose.

use std::time::{Duration, Instant};

use e2e::daemon::{Kind, bird, frr, podroute};
use e2e::failure::Result;
use e2e::machine::Host;
use e2e::process::Daemon;
use e2e::rack::CONVERGENCE;
use e2e::{ensure, kernel, wait};

use crate::sessions::{cable, established, yaml};
use crate::support::{peer, prefix, wait_route};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let of = |kind| [Kind::Podroute, kind];
    vec![
        scenario("bfd::podroute_sees_a_silent_loss", of(Kind::Podroute), || {
            silent_loss(&ours)
        }),
        scenario("bfd::bird_sees_a_silent_loss", of(Kind::Bird), || {
            silent_loss(&bird_at)
        }),
        scenario("bfd::frr_sees_a_silent_loss", of(Kind::Frr), || {
            silent_loss(&frr_at)
        }),
        scenario("bfd::a_strict_session_waits", of(Kind::Bird), strict),
        scenario("bfd::busy_cores_lose_nothing", of(Kind::Podroute), busy),
    ]
}

const BFD: &str = "bfd: {interval: 50ms, multiplier: 3}";
const POLICY: &str = "policies: {all: accept}\n";

fn peer_yaml(name: &str, address: &str, asn: u32, more: &str) -> String {
    format!(
        "- {{name: {name}, address: {address}, asn: {asn}, import: all, export: all, timers: {{connectRetry: 200ms}}, {more}}}\n"
    )
}

/// Starts the other end with BFD at 50 ms times 3, and 10.244.2.0/24 of its own.
type Other = dyn Fn(&Host) -> Result<Vec<Daemon>>;

fn ours(host: &Host) -> Result<Vec<Daemon>> {
    let peers = format!("peers:\n{}{POLICY}", peer_yaml("other", "192.0.2.1", 64601, BFD));
    podroute::start_with(host, &yaml("node-b", 65001, "10.244.2.0/24", &peers)).map(|agent| vec![agent])
}

fn bird_at(host: &Host) -> Result<Vec<Daemon>> {
    let config = "log stderr all;\nrouter id 10.0.0.9;\nprotocol device {}\n\
        protocol static { ipv4; route 10.244.2.0/24 unreachable; }\n\
        protocol bfd { interface \"eth0\" { interval 50 ms; multiplier 3; }; }\n\
        protocol bgp a { local 192.0.2.2 as 65001; neighbor 192.0.2.1 as 64601; bfd on; connect retry time 1; \
        error wait time 1, 2; ipv4 { import all; export all; }; }\n";
    bird::start_with(host, config)
}

fn frr_at(host: &Host) -> Result<Vec<Daemon>> {
    let config = "router bgp 65001\n bgp router-id 10.0.0.9\n no bgp ebgp-requires-policy\n no bgp network import-check\n \
        neighbor 192.0.2.1 remote-as 64601\n neighbor 192.0.2.1 timers connect 1\n neighbor 192.0.2.1 bfd 3 50 50\n \
        address-family ipv4 unicast\n  network 10.244.2.0/24\n exit-address-family\n";
    let mut daemons = frr::start_with(host, config, "")?;
    daemons.push(frr::start_daemon(host, "bfdd", "log stdout informational\n")?);
    Ok(daemons)
}

fn path(host: &Host) -> Result<serde_json::Value> {
    Ok(podroute::show(host, "bfd")?["bfd"][0].clone())
}

fn path_up(host: &Host) -> Result<()> {
    wait::until(CONVERGENCE, "BFD up", || {
        let path = path(host)?;
        if path["state"] == "Up" {
            Ok(())
        } else {
            wait::not_yet(path.to_string())
        }
    })
}

/// Nothing arrives and nothing leaves, and no link goes down.
fn swallow(host: &Host) -> Result<()> {
    let rules = "table inet swallow {\n chain in { type filter hook input priority 0; iifname eth0 drop; }\n \
                 chain out { type filter hook output priority 0; oifname eth0 drop; }\n}\n";
    host.run("nft", &[rules]).map(drop)
}

fn silent_loss(other: &Other) -> Result<()> {
    let [a, b] = cable("node-a", "node-b", true)?;
    let _other = other(&b)?;
    let peers = format!("peers:\n{}{POLICY}", peer_yaml("other", "192.0.2.2", 65001, BFD));
    let _agent = podroute::start_with(&a, &yaml("node-a", 64601, "10.244.1.0/24", &peers))?;
    established(&a, "other")?;
    path_up(&a)?;
    let block = prefix("10.244.2.0/24");
    wait_route(&a, block, CONVERGENCE, |_| true)?;
    let detection = path(&a)?["detectionMs"].as_u64();
    ensure!(
        detection.is_some_and(|time| time <= 200),
        "detects in {detection:?} ms"
    );
    swallow(&b)?;
    let begun = Instant::now();
    wait::until(
        Duration::from_secs(5),
        "the route gone",
        || match kernel::route(&a, block)? {
            None => Ok(()),
            Some(route) => wait::not_yet(format!("{route:?}")),
        },
    )?;
    let took = begun.elapsed();
    println!("a silent loss: the route was gone after {took:?}");
    // 150 ms of silence, and what looking at the kernel costs here; the hold time is 90 s.
    ensure!(took < Duration::from_millis(600), "it took {took:?}");
    let why = peer(&a, "other")?["lastError"].to_string();
    ensure!(why.contains("BFD"), "last error: {why}");
    // The way back.
    b.run("nft", &["delete table inet swallow"])?;
    established(&a, "other")?;
    wait_route(&a, block, CONVERGENCE, |_| true)?;
    ensure!(path(&a)?["downs"] == 1, "{}", path(&a)?);
    Ok(())
}

fn strict() -> Result<()> {
    let [a, b] = cable("node-a", "node-b", true)?;
    let without = "log stderr all;\nrouter id 10.0.0.9;\nprotocol device {}\n\
        protocol bgp a { local 192.0.2.2 as 65001; neighbor 192.0.2.1 as 64601; connect retry time 1; \
        error wait time 1, 2; ipv4 { import all; export all; }; }\n";
    let mut other = bird::start_with(&b, without)?;
    let more = "bfd: {interval: 50ms, strict: true}";
    let peers = format!("peers:\n{}{POLICY}", peer_yaml("other", "192.0.2.2", 65001, more));
    let _agent = podroute::start_with(&a, &yaml("node-a", 64601, "10.244.1.0/24", &peers))?;
    wait::throughout(Duration::from_secs(2), "no session without BFD", || {
        let peer = peer(&a, "other")?;
        ensure!(peer["state"] == "Idle", "{peer}");
        ensure!(peer["hint"].to_string().contains("BFD"), "{peer}");
        Ok(())
    })?;
    other
        .iter_mut()
        .try_for_each(|daemon| daemon.terminate(Duration::from_secs(5)))?;
    drop(other);
    let mut other = bird_at(&b)?;
    established(&a, "other")?;
    // A neighbor that goes on purpose is no loss of the path.
    other
        .iter_mut()
        .try_for_each(|daemon| daemon.terminate(Duration::from_secs(5)))?;
    wait::until(CONVERGENCE, "the end of the path", || {
        let path = path(&a)?;
        if path["state"] == "Up" {
            wait::not_yet(path.to_string())
        } else {
            Ok(())
        }
    })
}

/// 10 ms times 3, with more to do than there are cores.
fn busy() -> Result<()> {
    let [a, b] = cable("node-a", "node-b", true)?;
    let fast = "bfd: {interval: 10ms, multiplier: 3}";
    let of = |node, asn, address, other, block| {
        yaml(
            node,
            asn,
            block,
            &format!("peers:\n{}{POLICY}", peer_yaml("other", address, other, fast)),
        )
    };
    let _a = podroute::start_with(&a, &of("node-a", 64601, "192.0.2.2", 64602, "10.244.1.0/24"))?;
    let _b = podroute::start_with(&b, &of("node-b", 64602, "192.0.2.1", 64601, "10.244.2.0/24"))?;
    established(&a, "other")?;
    path_up(&a)?;
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::black_box((0..10_000u64).sum::<u64>());
                }
            });
        }
        let outcome = wait::throughout(Duration::from_secs(5), "no false loss", || {
            for host in [&a, &b] {
                let path = path(host)?;
                ensure!(path["downs"] == 0, "{}: {path}", host.name());
            }
            Ok(())
        });
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        outcome
    })
}
