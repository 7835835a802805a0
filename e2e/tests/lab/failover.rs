//! What faults may cost at most, in a fabric of two racks; `make bench-failover` compares.
//!
//! Nobody's hold timer (9 s) may be what moves the streams, and a machine with nothing else to do moves them in a fraction of
//! a second. On a busy one everything takes longer: what is allowed grows with how late the machine let threads run
//! meanwhile.

use std::time::Duration;

use lab::daemon::Kind;
use lab::ensure;
use lab::failover::{Cost, Fault, RepairWhen, run};
use lab::failure::Result;

use crate::{Scenario, scenario};

/// While a fault lasts, all streams go another way within this: long before the hold timer.
const REROUTE_LIMIT: Duration = Duration::from_secs(6);
/// What is allowed in addition for each second that a thread was late: the threads and processes that a change goes
/// through, one after the other.
const HOPS: f64 = 100.0;
/// A real-time thread that was later than this may be BFD's: then it is not BFD's fault if it lost a path, in seconds.
const NO_EXCUSE: f64 = 0.05;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("failover::cables_and_routers", [Kind::Podroute], || {
            all(
                &[Fault::Cut, Fault::Silent, Fault::SilentSpine, Fault::DeadTor],
                7,
            )
        }),
        scenario("failover::nodes_racks_and_restarts", [Kind::Podroute], || {
            all(&[Fault::DeadNode, Fault::Partition, Fault::Rolling], 7)
        }),
    ]
}

/// Does the faults, and those again during which the machine kept real-time threads waiting.
fn all(faults: &[Fault], seed: u64) -> Result<()> {
    let mut left = faults.to_vec();
    for _ in 0..3 {
        let costs = run(Kind::Podroute, &left, seed, RepairWhen::Rerouted(REROUTE_LIMIT))?;
        ensure!(costs.len() == left.len(), "{costs:?}");
        left.clear();
        for cost in &costs {
            println!("{cost:?}");
            match bounded(cost) {
                Err(_) if cost.latency.realtime > NO_EXCUSE => left.push(cost.fault),
                outcome => outcome?,
            }
        }
        if left.is_empty() {
            return Ok(());
        }
    }
    ensure!(
        left.is_empty(),
        "the machine kept real-time threads waiting, three times: {left:?}"
    );
    Ok(())
}

/// How long a stream may be silent, in seconds, while the fault lasts and when it is repaired.
fn bounds(fault: Fault) -> (f64, f64) {
    match fault {
        // The kernel and we see the carrier go.
        Fault::Cut | Fault::DeadTor => (0.25, 0.25),
        // 150 ms of silence first.
        Fault::Silent | Fault::SilentSpine => (0.6, 0.25),
        // There is no other way until it is repaired; then sessions come back.
        Fault::Partition => (f64::INFINITY, 2.0),
        Fault::DeadNode | Fault::Rolling => (0.0, 0.0),
    }
}

fn bounded(cost: &Cost) -> Result<()> {
    // Where nothing may be lost, nothing may be lost however busy the machine is.
    let allowed = |bound: f64| {
        let more = if bound > 0.0 {
            HOPS * cost.latency.ordinary
        } else {
            0.0
        };
        (bound + more).min(bound.max(REROUTE_LIMIT.as_secs_f64()))
    };
    ensure!(cost.not_rerouted.is_none(), "{cost:?}");
    let (during, repaired) = bounds(cost.fault);
    ensure!(
        cost.fault_loss.longest <= allowed(during),
        "at most {} s of silence: {cost:?}",
        allowed(during)
    );
    ensure!(
        cost.mend_loss.longest <= allowed(repaired),
        "at most {} s when repaired: {cost:?}",
        allowed(repaired)
    );
    if cost.fault == Fault::DeadNode {
        ensure!(
            cost.gone.is_some_and(|gone| gone < allowed(1.0)),
            "its routes stay too long: {cost:?}"
        );
    }
    if cost.fault == Fault::Partition {
        ensure!(
            cost.fault_loss.packets > 0,
            "the racks were not cut off: {cost:?}"
        );
    }
    Ok(())
}
