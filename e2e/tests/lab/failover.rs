//! What faults may cost at most, in a fabric of two racks; `make bench-failover` compares.

use e2e::daemon::Kind;
use e2e::ensure;
use e2e::failover::{Cost, Fault, run};
use e2e::failure::Result;

use crate::{Scenario, scenario};

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

fn all(faults: &[Fault], seed: u64) -> Result<()> {
    let costs = run(Kind::Podroute, faults, seed)?;
    ensure!(costs.len() == faults.len(), "{costs:?}");
    costs.iter().try_for_each(bounded)
}

/// How long a stream may be silent, in seconds, while the fault lasts and when it is mended. The machine is busy with
/// other tests; figures are for the bench.
fn bounds(fault: Fault) -> (f64, f64) {
    match fault {
        // The kernel and we see the carrier go.
        Fault::Cut | Fault::DeadTor => (0.25, 0.25),
        // 150 ms of silence first.
        Fault::Silent | Fault::SilentSpine => (0.6, 0.25),
        Fault::DeadNode => (0.0, 0.0),
        // It lasts 2 s; then sessions come back.
        Fault::Partition => (2.5, 2.0),
        Fault::Rolling => (0.0, 0.0),
    }
}

fn bounded(cost: &Cost) -> Result<()> {
    println!("{cost:?}");
    let (during, mended) = bounds(cost.fault);
    ensure!(
        cost.fault_loss.longest <= during,
        "at most {during} s of silence: {cost:?}"
    );
    ensure!(
        cost.mend_loss.longest <= mended,
        "at most {mended} s when mended: {cost:?}"
    );
    if cost.fault == Fault::DeadNode {
        ensure!(
            cost.gone.is_some_and(|gone| gone < 1.0),
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
