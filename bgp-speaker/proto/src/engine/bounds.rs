//! The cost of a single call is bounded, whatever the number of routes. Visits of paths are counted, not
//! time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::*;
use crate::policy::{Actions, Matcher, NumberAction, Policy, Rule, Verdict};
use crate::rib::visits;
use crate::test_support;
use crate::types::{FamilySet, PathId, RouterId};
use crate::wire::{
    Capability, GracefulRestart, KernelRoute, NextHop, Nlri, PathAttrs, Refresh, RefreshKind, RouteBatch,
    RouteOp,
};

/// More than one slice of each kind of work.
const ROUTES: u32 = 400_000;
/// Most paths and references that a call may visit: a few times a slice of destinations, and fewer than all
/// routes.
const MAX_VISITS: usize = 10 * work::SLICE;
const A: PeerId = PeerId(1);
const B: PeerId = PeerId(2);

struct Bench {
    engine: Engine,
    epochs: [u32; 3],
    /// Visits of the most expensive call.
    worst: usize,
    /// Visits of all calls.
    all: usize,
    kernel: usize,
}

fn addr(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn facts(peer: PeerId, local_v4: u8) -> SessionFacts {
    let restart = GracefulRestart {
        restarting: false,
        notification: false,
        restart_time: 120,
        families: Family::ALL.map(|family| (family, true)).into(),
    };
    let mut facts = test_support::facts(peer, PeerKind::External);
    let negotiated = Arc::make_mut(&mut facts.negotiated);
    for open in [&mut negotiated.local, &mut negotiated.remote] {
        open.capabilities
            .push(Capability::GracefulRestart(restart.clone()));
    }
    negotiated.long_lived = FamilySet::ALL;
    facts.local_v4 = Some([192, 0, 2, local_v4].into());
    facts
}

fn routing(peer: PeerId, import: Policy) -> Arc<PeerRouting> {
    Arc::new(PeerRouting {
        import: Arc::new(import),
        ..test_support::routing(peer, PeerKind::External)
    })
}

fn batches(attrs: Option<&PathAttrs>, routes: std::ops::Range<u32>) -> impl Iterator<Item = RouteBatch> {
    let all: Vec<u32> = routes.collect();
    let chunks: Vec<Vec<u32>> = all.chunks(500).map(<[u32]>::to_vec).collect();
    let attrs = attrs.cloned();
    chunks.into_iter().map(move |numbers| {
        let nlri = |n: &u32| Nlri {
            path_id: PathId(0),
            prefix: Prefix::v4(0x0B00_0000 + n, 32),
        };
        let nlri: Vec<Nlri> = numbers.iter().map(nlri).collect();
        let range = 0..nlri.len();
        let op = match attrs.clone() {
            Some(attrs) => RouteOp::Announce { attrs, nlri: range },
            None => RouteOp::Withdraw { nlri: range },
        };
        RouteBatch {
            ops: vec![op],
            nlri,
            ..RouteBatch::default()
        }
    })
}

fn attrs() -> PathAttrs {
    PathAttrs::originated(NextHop::from(addr(77)))
}

impl Bench {
    /// Peer A announced all routes; they were advertised to B.
    fn new() -> Self {
        let engine = Engine::new(EngineConfig {
            max_paths: 1,
            ..test_support::config()
        });
        let mut bench = Self {
            engine,
            epochs: [0; 3],
            worst: 0,
            all: 0,
            kernel: 0,
        };
        for peer in [A, B] {
            bench.apply(Input::Configure(peer, routing(peer, Policy::accept_all())));
            bench.up(peer);
        }
        for batch in batches(Some(&attrs()), 0..ROUTES) {
            bench.apply(Input::Routes(bench.session(A), batch));
        }
        bench.check("the table");
        assert_eq!(bench.kernel, ROUTES as usize);
        bench
    }

    fn session(&self, peer: PeerId) -> SessionId {
        let epoch = self.epochs[peer.0 as usize];
        SessionId { peer, epoch }
    }

    fn up(&mut self, peer: PeerId) {
        self.epochs[peer.0 as usize] += 1;
        self.apply(Input::Up(self.session(peer), facts(peer, 1).into()));
    }

    fn counted<T>(&mut self, call: impl FnOnce(&mut Engine) -> T) -> T {
        visits::take();
        let result = call(&mut self.engine);
        let visits = visits::take();
        self.worst = self.worst.max(visits);
        self.all += visits;
        result
    }

    /// Queues an input; no work is done yet.
    fn handle(&mut self, input: Input) {
        self.counted(|engine| engine.handle(Instant::now(), input));
    }

    /// Does all pending work.
    fn pump(&mut self) {
        loop {
            while let Some(output) = self.engine.next_output() {
                match output {
                    Output::Advertise(session, chunk) => {
                        self.handle(Input::Written(session, chunk.cost_for(session.peer)));
                    }
                    Output::Watch(addrs) => {
                        let reach = Reach::Reachable { metric: 0 };
                        self.handle(Input::NextHops(
                            addrs.into_iter().map(|addr| (addr, reach)).collect(),
                        ));
                    }
                    Output::Fib { changes, .. } => {
                        for change in changes {
                            self.kernel += 1;
                            self.kernel -= usize::from(change.next_hops.is_empty()) * 2;
                        }
                    }
                    _ => {}
                }
            }
            if !self.counted(Engine::work) && !self.counted(Engine::free_unused) && self.engine.out.is_empty()
            {
                return;
            }
        }
    }

    fn apply(&mut self, input: Input) {
        self.handle(input);
        self.pump();
    }

    /// Asserts that the most expensive call since the last check cost no more than a slice.
    fn check(&mut self, what: &str) {
        let worst = std::mem::take(&mut self.worst);
        println!("{what}: {worst} visits at most");
        assert!(worst <= MAX_VISITS, "{what}: {worst} visits in one call");
    }

    fn refresh(&mut self, peer: PeerId, kind: RefreshKind) {
        let family = Family::Ipv4;
        self.handle(Input::Refresh(self.session(peer), Refresh { family, kind }));
    }

    fn received(&self) -> usize {
        self.engine.counts(A).received[0]
    }
}

#[test]
fn exclusive_prefixes_are_counted_in_pages() {
    let bench = Bench::new();
    visits::take();
    let mut found = 0;
    let worst = pages(|cursor| {
        let (counts, next) = bench.engine.count_exclusive_prefixes(&[A].into(), cursor);
        found += counts.get(&A).copied().unwrap_or(0);
        next
    });
    assert_eq!(found, ROUTES as usize);
    println!("exclusive prefixes: {worst} visits at most");
    assert!(worst <= MAX_VISITS);
}

/// Visits of the most expensive page; all pages together visit the whole table.
fn pages(mut page: impl FnMut(u32) -> Option<u32>) -> usize {
    let (mut worst, mut all, mut cursor) = (0, 0, Some(0));
    visits::take();
    while let Some(from) = cursor {
        cursor = page(from);
        let visited = visits::take();
        worst = worst.max(visited);
        all += visited;
    }
    assert!(all > MAX_VISITS, "{all} visits");
    worst
}

#[test]
fn views() {
    let bench = Bench::new();
    let engine = &bench.engine;
    let of = |prefixes| RouteFilter {
        prefixes,
        advertised_to: Some(B),
        ..RouteFilter::default()
    };
    let mut shown = 0;
    let worst = pages(|cursor| {
        let (page, next) = engine.routes(&of(Prefixes::All), cursor, 1000);
        shown += page.len();
        next
    });
    assert_eq!(shown, ROUTES as usize);
    println!("a page of 1000: {worst} visits at most");
    assert!(worst <= 10_000);
    // Nothing matches: a page ends after one slice.
    let nowhere = of(Prefixes::Within(Prefix::v4(0x0A00_0000, 8)));
    let worst = pages(|cursor| {
        let (page, next) = engine.routes(&nowhere, cursor, 1000);
        assert!(page.is_empty());
        next
    });
    println!("a page where nothing fits: {worst} visits at most");
    assert!(worst <= MAX_VISITS);
    // A lookup costs the same in a table of any size.
    let host = Prefix::v4(0x0B00_1234, 32);
    for (prefixes, found) in [
        (Prefixes::Exactly(host), true),
        (Prefixes::Within(host), true),
        (Prefixes::Covering(host), true),
        (Prefixes::Covering(Prefix::v4(0x0C00_0000, 32)), false),
        (Prefixes::Exactly(Prefix::v4(0x0B00_0000, 8)), false),
    ] {
        visits::take();
        let (page, next) = engine.routes(&of(prefixes), 0, 1000);
        assert_eq!((page.len(), next), (usize::from(found), None), "{prefixes:?}");
        let visited = visits::take();
        assert!(visited < 100, "{prefixes:?}: {visited} visits");
    }
}

#[test]
fn previews() {
    let mut bench = Bench::new();
    let preview_of = |bench: &mut Bench, inputs: Vec<Input>| {
        let mut run = bench.counted(|engine| engine.begin_preview(Instant::now(), inputs));
        let worst = pages(|cursor| {
            let page = bench.engine.table_page(cursor);
            let visited = visits::take();
            let last = run.add_page(&page);
            visits::take();
            (0..visited).for_each(|_| visits::record());
            (!last).then(|| run.cursor())
        });
        bench.worst = bench.worst.max(worst);
        bench.check("an excerpt");
        run.finish()
    };
    assert_eq!(
        preview_of(&mut bench, vec![]),
        Preview::default(),
        "no change is previewed"
    );
    let preview = preview_of(
        &mut bench,
        vec![Input::Configure(A, routing(A, Policy::reject_all()))],
    );
    assert_eq!(
        (preview.removed.len(), preview.peers[&B].withdrawn.len()),
        (ROUTES as usize, ROUTES as usize)
    );
    assert_eq!(bench.received(), ROUTES as usize);
}

#[test]
fn refreshes() {
    let mut bench = Bench::new();
    for _ in 0..40 {
        bench.refresh(A, RefreshKind::Begin);
        bench.handle(Input::Routes(
            bench.session(A),
            batches(Some(&attrs()), 0..1).next().unwrap(),
        ));
    }
    bench.check("BoRR after BoRR");
    bench.pump();
    bench.check("what follows from it");
    for _ in 0..40 {
        bench.refresh(A, RefreshKind::Begin);
        bench.refresh(A, RefreshKind::End);
    }
    bench.check("refresh after refresh");
    bench.pump();
    bench.check("their ends");
    assert_eq!(bench.received(), 0);
    bench.refresh(B, RefreshKind::Request);
    bench.pump();
    bench.check("a request");
}

#[test]
fn restarts() {
    let mut bench = Bench::new();
    bench.handle(Input::Restarting(bench.session(A), FamilySet::ALL));
    bench.check("Restarting");
    bench.pump();
    bench.handle(Input::LongLived(bench.session(A), FamilySet::ALL));
    bench.check("LongLived");
    bench.pump();
    bench.check("what follows from it");
    bench.handle(Input::NextHops(vec![(addr(77), Reach::Unreachable)]));
    bench.check("a lost next hop");
    bench.handle(Input::NextHops(vec![(addr(77), Reach::Reachable { metric: 1 })]));
    bench.up(A);
    bench.check("what follows from it");
    assert_eq!(bench.received(), 0);
}

#[test]
fn a_restart_that_is_not_ended() {
    let mut bench = Bench::new();
    bench.handle(Input::Restarting(bench.session(A), FamilySet::ALL));
    bench.up(A);
    bench.check("Restarting and Up");
    bench.handle(Input::StaleExpired(bench.session(A)));
    bench.check("Swept");
    bench.pump();
    bench.check("what follows from it");
    assert_eq!(bench.received(), 0);
}

#[test]
fn the_ends_of_sessions() {
    let mut bench = Bench::new();
    bench.handle(Input::Down(bench.session(B)));
    bench.check("Down of a receiver, alone in its group");
    bench.pump();
    bench.up(B);
    bench.check("Up of a receiver");
    bench.handle(Input::Down(bench.session(A)));
    bench.check("Down of the sender");
    bench.up(A);
    bench.check("Up of the sender");
    assert_eq!((bench.received(), bench.kernel), (0, 0));
    for batch in batches(Some(&attrs()), 0..ROUTES) {
        bench.apply(Input::Routes(bench.session(A), batch));
    }
    bench.handle(Input::Remove(A));
    bench.check("Remove");
    bench.pump();
    bench.check("what follows from it");
    assert_eq!(bench.engine.sizes(), (0, 0, 0));
}

#[test]
fn withdrawals_one_message_at_a_time() {
    let mut bench = Bench::new();
    for batch in batches(None, 0..ROUTES) {
        bench.apply(Input::Routes(bench.session(A), batch));
    }
    bench.check("withdrawals");
    assert_eq!(bench.engine.sizes(), (0, 0, 0));
}

#[test]
fn what_changes_many_routes() {
    let mut bench = Bench::new();
    let set_med = Policy {
        rules: vec![Rule {
            matcher: Matcher::default(),
            actions: Actions {
                med: Some(NumberAction::Set(7)),
                ..Actions::default()
            },
            verdict: Some(Verdict::Accept),
            ..Rule::default()
        }],
        ..Policy::accept_all()
    };
    bench.handle(Input::Configure(A, routing(A, set_med)));
    bench.check("a policy");
    bench.pump();
    bench.check("what follows from it");
    for reach in [Reach::Unreachable, Reach::Reachable { metric: 3 }] {
        bench.handle(Input::NextHops(vec![(addr(77), reach)]));
        bench.check("a next hop");
        bench.pump();
        bench.check("what follows from it");
    }
    let block = Originated {
        prefix: Prefix::v4(0x0B00_0000, 8),
        source: crate::policy::Source::PodBlock,
        communities: vec![],
    };
    for blocks in [vec![block], vec![]] {
        bench.handle(Input::Originate(blocks));
        bench.check("a block");
        bench.pump();
        bench.check("what follows from it");
    }
    bench.handle(Input::Facts(bench.session(B), facts(B, 2).into()));
    bench.check("a changed local address");
    bench.pump();
    bench.check("what follows from it");
    bench.handle(Input::Drain(true));
    bench.check("a drain");
    bench.pump();
    bench.check("what follows from it");
    // The sender comes back with another identifier and address.
    bench.handle(Input::Restarting(bench.session(A), FamilySet::ALL));
    bench.epochs[1] += 1;
    let mut other = facts(A, 1);
    Arc::make_mut(&mut other.negotiated).remote.router_id = RouterId::new(99).unwrap();
    other.remote_addr = addr(99);
    bench.engine.begin_feed(FeedId(1));
    bench.handle(Input::Up(bench.session(A), other.into()));
    bench.check("another identifier");
    bench.pump();
    bench.check("what follows from it");
    assert_eq!(
        (bench.received(), bench.kernel),
        (ROUTES as usize, ROUTES as usize)
    );
}

/// A neighbor that withdraws and announces the only route inside an aggregate: the table is not walked each time.
#[test]
fn a_contributor_that_flaps() {
    let mut bench = Bench::new();
    let aggregate = OriginateRule {
        prefix: Prefix::v4(0x0A00_0000, 8),
        source: crate::policy::Source::Static,
        aggregate: Some(Aggregate::InPlace),
        kernel: KernelRoute::default(),
        when: None,
        communities: vec![],
    };
    bench.apply(Input::OriginateByRules(vec![aggregate]));
    let inside = Nlri {
        path_id: PathId(0),
        prefix: Prefix::v4(0x0A01_0000, 24),
    };
    for announced in [true, false, true, false] {
        let op = if announced {
            RouteOp::Announce {
                attrs: attrs(),
                nlri: 0..1,
            }
        } else {
            RouteOp::Withdraw { nlri: 0..1 }
        };
        let batch = RouteBatch {
            ops: vec![op],
            nlri: vec![inside],
            ..RouteBatch::default()
        };
        bench.all = 0;
        bench.apply(Input::Routes(bench.session(A), batch));
        assert!(bench.all < 100, "{} visits for one route", bench.all);
    }
}
