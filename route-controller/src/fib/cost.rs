//! What the difference between wanted and present costs, in instructions: counted by valgrind, so that a busy machine
//! changes nothing. The guard is on growth: a change must not cost more because more routes are there.

#[path = "../../../bgp-speaker/proto/tests/common/count.rs"]
mod count;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bgp_proto::types::Prefix;

use self::count::{can_count, compare, instructions};
use super::delta::Delta;
use super::route::{NextHop, RouteKey, RouteSpec, Target, WeightedNextHop};

/// What may be added to a cost that should not grow: trees and hash tables are a little deeper.
const TOLERANCE: f64 = 1.15;
/// Routes that are changed in the larger run and not in the smaller one.
const CHANGES: u32 = 2000;
const BATCH: usize = 512;

fn spec(n: u8) -> Arc<RouteSpec> {
    let hop = NextHop {
        gateway: Some([192, 0, 2, n].into()),
        ifindex: 1,
    };
    Arc::new(RouteSpec {
        target: Target::NextHops(vec![WeightedNextHop { hop, weight: 1 }]),
        source: None,
    })
}

fn key(n: u32) -> RouteKey {
    RouteKey {
        prefix: Prefix::v4(0x1400_0000 + (n << 8), 24),
        metric: 20,
        table: 254,
    }
}

/// Takes all that is to be written, and says that it was.
fn write(delta: &mut Delta, now: Instant) {
    loop {
        let ops = delta.take(now, BATCH);
        if ops.is_empty() {
            return;
        }
        ops.into_iter().for_each(|op| delta.done(now, op, Ok(())));
    }
}

/// Runs in the child, under valgrind: the given number of routes, of which some move.
#[test]
fn work() {
    let Ok(text) = std::env::var("COST_OF") else {
        return;
    };
    let (there, moved) = text.split_once(' ').unwrap();
    let (there, moved): (u32, u32) = (there.parse().unwrap(), moved.parse().unwrap());
    let (now, old, new) = (Instant::now(), spec(1), spec(2));
    let mut delta = Delta::default();
    (0..there).for_each(|n| delta.want(key(n), Some(Arc::clone(&old))));
    write(&mut delta, now);
    // All over the table.
    (0..moved).for_each(|n| delta.want(key(n * (there / CHANGES)), Some(Arc::clone(&new))));
    write(&mut delta, now);
    assert!(!delta.is_dirty() && delta.is_installed(&key(0)));
}

/// Instructions of a change among this number of routes.
fn per_change(there: u32) -> f64 {
    let count = |moved: u32| instructions("fib::cost::work", &format!("{there} {moved}"));
    (count(CHANGES) - count(0)) / f64::from(CHANGES)
}

#[test]
fn a_change_costs_the_same_among_many_routes() {
    if !can_count() {
        return;
    }
    let (few, many) = (per_change(4000), per_change(40_000));
    println!("{few:.0} instructions a change among 4,000 routes, {many:.0} among 40,000");
    assert!(
        many <= few * TOLERANCE,
        "{few:.0} instructions a change, but {many:.0} where there are more routes"
    );
    let record = concat!(env!("CARGO_MANIFEST_DIR"), "/src/fib/cost.txt");
    compare(
        Path::new(record),
        &BTreeMap::from([("a change among many", many)]),
    );
}
