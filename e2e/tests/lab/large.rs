//! A million routes beside everything else: answers and keepalives do not wait for work that touches them all.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use lab::bgp_load::{Load, Rules, Spec, Table, address};
use lab::daemon::{Kind, podroute};
use lab::failure::Result;
use lab::machine::Host;
use lab::process::Daemon;
use lab::{bins, ensure};

use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![scenario(
        "large::a_reload_beside_a_million_routes_delays_nobody",
        [Kind::Podroute],
        reload,
    )]
}

const HERE: Ipv4Addr = Ipv4Addr::new(10, 100, 255, 254);
const ROUTES: u32 = 1_000_000;
const PER_SET: u32 = 5;
const LIMIT: Duration = Duration::from_secs(60);
/// What an operator calls at once. Work that holds an answer up lasts no longer than the answer takes, and no longer
/// than the agent's CPU time meanwhile: the shorter one counts, so that neither other programs nor the agent's other
/// threads do.
const AT_ONCE: Duration = Duration::from_millis(100);

fn yaml(med: u32) -> String {
    format!(
        "apiVersion: podroute/v1\ncluster: {{asn: 64512}}\nnode: {{name: dut, routerId: {HERE}}}\nfib: off\npeers:\n\
         - {{name: senders, listenRange: 10.101.0.0/16, asn: 65001, maxPrefixes: 2000000, maxMemory: 2Gi, import: all, export: none}}\n\
         - {{name: receivers, listenRange: 10.102.0.0/16, asn: 65002, import: none, export: all}}\npolicies:\n  none: reject\n  \
         all:\n  - {{set: {{med: {med}}}, action: accept}}\n"
    )
}

/// Asks `podroute show peers` over and over while something happens; how long the agent worked until the worst answer.
fn ask_until(
    (host, agent): (&Host, &Daemon),
    load: &mut Load,
    mut is_done: impl FnMut(&Load) -> bool,
) -> Result<Duration> {
    let program = bins::find("podroute")?.to_string_lossy().into_owned();
    let (begun, mut times) = (Instant::now(), Vec::new());
    while !is_done(load) {
        ensure!(begun.elapsed() < LIMIT, "not done after {LIMIT:?}");
        let (asked, start) = (Instant::now(), agent.cpu_time()?);
        host.run(&program, &["show", "peers"])?;
        times.push(asked.elapsed().min(agent.cpu_time()? - start));
        load.settle(Duration::from_millis(1))?;
    }
    times.sort();
    let (middle, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{} answers, the agent's work until one: median {middle:?}, worst {worst:?}; done after {:?}",
        times.len(),
        begun.elapsed()
    );
    Ok(worst)
}

/// A changed policy is applied to a million routes and advertised to a peer; then they all go with their session.
fn reload() -> Result<()> {
    let host = Host::create("dut")?;
    host.ip("link set lo up")?;
    host.ip(&format!("addr add {HERE}/14 dev lo"))?;
    let agent = podroute::start_with(&host, &yaml(7))?;
    let spec = |network, asn, sends, receives| Spec {
        local: address([10, network], 0),
        asn,
        sends,
        receives,
    };
    let specs = [spec(102, 65002, 0..0, true), spec(101, 65001, 0..ROUTES, false)];
    let rules = Rules {
        reflected: false,
        own_may_return: false,
        first_as: Some(64512),
    };
    let mut load = host.within(|| {
        let (mut load, _) = Load::connect(HERE, &specs, Table::new(ROUTES, PER_SET, false), rules, LIMIT)?;
        load.announce(LIMIT)?;
        Ok(load)
    })?;
    host.write_config("podroute.yaml", &yaml(8))?;
    let before = load.updates();
    let reload = std::thread::spawn({
        let (host, program) = (
            host.clone(),
            bins::find("podroute")?.to_string_lossy().into_owned(),
        );
        move || host.run(&program, &["reload"])
    });
    // All is sent again, with the other MED: at least one message for each attribute set.
    let sets = u64::from(ROUTES / PER_SET);
    let worst = ask_until((&host, &agent), &mut load, |load| load.updates() >= before + sets)?;
    ensure!(
        worst < AT_ONCE,
        "while a policy changed, the agent worked {worst:?} until an answer"
    );
    reload.join().expect("it does not panic")?;
    let peers = podroute::show(&host, "peers")?;
    let all = peers["peers"].as_array().cloned().unwrap_or_default();
    let once = |peer: &&serde_json::Value| peer["timesEstablished"] == 1 && peer["state"] == "Established";
    ensure!(
        all.iter().filter(once).count() == 2,
        "a session was reset: {peers}"
    );
    load.reset(1)?;
    let worst = ask_until((&host, &agent), &mut load, |load| load.count(0) == 0)?;
    ensure!(
        worst < AT_ONCE,
        "while a session ended, the agent worked {worst:?} until an answer"
    );
    Ok(())
}
