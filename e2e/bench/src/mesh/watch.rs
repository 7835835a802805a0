//! What the kernels of many namespaces hold, and whether that is what they should.
//!
//! One thread reads the notifications of all namespaces at a modest rate, so that the machine's cores stay with the
//! daemons. The kernel does not announce every loss of a route (a flushed nexthop object takes its routes along), so a
//! namespace that is not right is dumped now and then, and nothing counts as reached before a dump agrees.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::routes::{self, Change, Route};
use lab::failure::{Failure, Result};
use lab::netns;
use lab::topology::Family;
use linux::netlink::Socket;

/// Between two looks at the notifications.
const TICK: Duration = Duration::from_millis(10);
/// Between two dumps of a namespace that is not right.
const DUMP_INTERVAL: Duration = Duration::from_secs(2);
const BUFFER: usize = 1 << 16;

/// Gateways by prefix.
pub(super) type ExpectedRoutes = HashMap<IpNet, IpAddr>;

/// When it was reached, counted from the start that was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reached {
    /// Every kernel had every route.
    pub(super) there: Duration,
    /// And nothing else.
    pub(super) equal: Duration,
}

/// One namespace.
#[derive(Debug)]
struct NodeTable {
    name: String,
    events: Socket,
    requests: Socket,
    /// Gateways of the routes of the daemon's protocol.
    routes: HashMap<IpNet, Option<IpAddr>>,
    /// Those that a dump showed first: their notification is still to be read.
    unread: HashSet<IpNet>,
    expected: ExpectedRoutes,
    /// Whether it counts at all.
    counts: bool,
    missing: usize,
    extra: usize,
    /// Prefixes that must stay, and those of them that were gone at some time.
    keep: HashSet<IpNet>,
    removed: HashSet<IpNet>,
    dumped: Instant,
}

/// Whether a prefix in this state counts as missing, or as one too many.
fn fault(expected: &ExpectedRoutes, prefix: &IpNet, state: Option<Option<IpAddr>>) -> (usize, usize) {
    match (expected.get(prefix), state) {
        (Some(gateway), Some(Some(via))) if via == *gateway => (0, 0),
        (Some(_), _) => (1, 0),
        (None, Some(_)) => (0, 1),
        (None, None) => (0, 0),
    }
}

impl NodeTable {
    fn open(name: &str) -> Result<Self> {
        let (events, requests) = netns::within(name, || Ok((routes::notifications()?, routes::requests()?)))?;
        Ok(Self {
            name: name.to_owned(),
            events,
            requests,
            routes: HashMap::new(),
            unread: HashSet::new(),
            expected: ExpectedRoutes::new(),
            counts: true,
            missing: 0,
            extra: 0,
            keep: HashSet::new(),
            removed: HashSet::new(),
            dumped: Instant::now(),
        })
    }

    fn put(&mut self, prefix: IpNet, state: Option<Option<IpAddr>>) {
        let old = match state {
            Some(gateway) => self.routes.insert(prefix, gateway),
            None => self.routes.remove(&prefix),
        };
        let (missing, extra) = fault(&self.expected, &prefix, old);
        let (now_missing, now_extra) = fault(&self.expected, &prefix, state);
        self.missing = self.missing + now_missing - missing;
        self.extra = self.extra + now_extra - extra;
        if state.is_none() && old.is_some() && self.keep.contains(&prefix) {
            self.removed.insert(prefix);
        }
    }

    fn expect(&mut self, expected: ExpectedRoutes) {
        let present = expected
            .keys()
            .map(|prefix| fault(&expected, prefix, self.routes.get(prefix).copied()).0);
        self.missing = present.sum();
        self.extra = self
            .routes
            .keys()
            .filter(|prefix| !expected.contains_key(prefix))
            .count();
        self.expected = expected;
    }

    fn read(&mut self, protocol: u8, buffer: &mut [u8]) -> Result<()> {
        loop {
            let changes = routes::changes(&self.events, buffer)?;
            if changes.is_empty() {
                return Ok(());
            }
            for change in changes {
                match change {
                    Change::Put { route, replaced } if route.protocol == protocol => {
                        // It was lost without a notification, and is back.
                        let known = self.routes.contains_key(&route.prefix);
                        let again = known && !replaced && !self.unread.remove(&route.prefix);
                        if again && self.keep.contains(&route.prefix) {
                            self.removed.insert(route.prefix);
                        }
                        self.put(route.prefix, Some(route.gateway));
                    }
                    Change::Deleted(route) if route.protocol == protocol => self.put(route.prefix, None),
                    Change::Lost => self.dump(protocol)?,
                    Change::Put { .. } | Change::Deleted(_) => {}
                }
            }
        }
    }

    fn list(&self, protocol: u8) -> Result<Vec<Route>> {
        let mut routes = routes::list(&self.requests, Family::V4)?;
        routes.extend(routes::list(&self.requests, Family::V6)?);
        routes.retain(|route| route.protocol == protocol);
        Ok(routes)
    }

    fn dump(&mut self, protocol: u8) -> Result<()> {
        self.dumped = Instant::now();
        let listed = self.list(protocol)?;
        let present: HashSet<IpNet> = listed.iter().map(|route| route.prefix).collect();
        let gone: Vec<IpNet> = self
            .routes
            .keys()
            .filter(|prefix| !present.contains(prefix))
            .copied()
            .collect();
        gone.into_iter().for_each(|prefix| self.put(prefix, None));
        for route in listed {
            if !self.routes.contains_key(&route.prefix) {
                self.unread.insert(route.prefix);
            }
            self.put(route.prefix, Some(route.gateway));
        }
        Ok(())
    }

    fn matches_expected(&self) -> bool {
        !self.counts || self.missing + self.extra == 0
    }

    /// What is wrong, a line for each prefix.
    fn deviations(&self) -> Vec<String> {
        if !self.counts {
            return Vec::new();
        }
        let wanted = self
            .expected
            .iter()
            .filter_map(|(prefix, gateway)| match self.routes.get(prefix) {
                Some(Some(via)) if via == gateway => None,
                Some(Some(via)) => Some(format!("{}: {prefix} via {via} in place of {gateway}", self.name)),
                Some(None) => Some(format!(
                    "{}: {prefix} without one gateway in place of {gateway}",
                    self.name
                )),
                None => Some(format!("{}: no route to {prefix}", self.name)),
            });
        let others = self
            .routes
            .keys()
            .filter(|prefix| !self.expected.contains_key(prefix));
        let others = others.map(|prefix| format!("{}: a route to {prefix} that should be gone", self.name));
        wanted.chain(others).collect()
    }
}

/// All namespaces.
#[derive(Debug)]
pub(super) struct Watch {
    protocol: u8,
    nodes: Vec<NodeTable>,
    buffer: Vec<u8>,
}

impl Watch {
    /// Watches the routes of one protocol in these namespaces.
    pub(super) fn open<'a>(names: impl Iterator<Item = &'a str>, protocol: u8) -> Result<Self> {
        let mut watch = Self {
            protocol,
            nodes: names.map(NodeTable::open).collect::<Result<_>>()?,
            buffer: vec![0; BUFFER],
        };
        watch.dump()?;
        Ok(watch)
    }

    /// Sets what each should hold; `None`: it does not count.
    pub(super) fn expect(&mut self, expected: impl Iterator<Item = Option<ExpectedRoutes>>) {
        for (node, expected) in self.nodes.iter_mut().zip(expected) {
            node.counts = expected.is_some();
            node.expect(expected.unwrap_or_default());
        }
    }

    /// From now on it is counted which of these are gone at some time.
    pub(super) fn watch_permanent(&mut self, prefixes: impl Iterator<Item = HashSet<IpNet>>) -> Result<()> {
        self.read()?;
        for (node, keep) in self.nodes.iter_mut().zip(prefixes) {
            node.keep = keep;
            node.removed.clear();
        }
        Ok(())
    }

    /// How many of those that should stay were gone at some time, in all namespaces.
    pub(super) fn removed(&self) -> usize {
        self.nodes.iter().map(|node| node.removed.len()).sum()
    }

    /// Deletes routes that `which` chooses in one namespace.
    pub(super) fn delete(&mut self, at: usize, which: impl Fn(&IpNet) -> bool) -> Result<()> {
        let node = &self.nodes[at];
        for route in node.list(self.protocol)? {
            if which(&route.prefix) {
                routes::delete(&node.requests, &route)?;
            }
        }
        Ok(())
    }

    /// How many routes all of them hold.
    pub(super) fn count(&self) -> usize {
        self.nodes.iter().map(|node| node.routes.len()).sum()
    }

    /// Reads what the kernels announced.
    pub(super) fn read(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.read(self.protocol, &mut self.buffer)?;
        }
        Ok(())
    }

    /// Lists all routes again.
    pub(super) fn dump(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.dump(self.protocol)?;
        }
        Ok(())
    }

    fn dump_overdue(&mut self) -> Result<()> {
        let late = |node: &&mut NodeTable| !node.matches_expected() && node.dumped.elapsed() > DUMP_INTERVAL;
        for node in self.nodes.iter_mut().filter(late) {
            node.dump(self.protocol)?;
        }
        Ok(())
    }

    fn has_all_expected(&self) -> bool {
        self.nodes.iter().all(|node| !node.counts || node.missing == 0)
    }

    fn matches_expected(&self) -> bool {
        self.nodes.iter().all(NodeTable::matches_expected)
    }

    /// Waits until every kernel holds what it should. `None`: not within the limit.
    pub(super) fn wait_until_expected(&mut self, start: Instant, limit: Duration) -> Result<Option<Reached>> {
        let mut there = None;
        loop {
            self.read()?;
            let now = start.elapsed();
            if self.has_all_expected() {
                there.get_or_insert(now);
            } else {
                there = None;
            }
            if self.matches_expected() {
                self.dump()?;
                if self.matches_expected() {
                    let there = there.unwrap_or(now);
                    return Ok(Some(Reached { there, equal: now }));
                }
            }
            if now > limit {
                return Ok(None);
            }
            self.dump_overdue()?;
            std::thread::sleep(TICK);
        }
    }

    /// Reads on for a while, and says what is wrong at its end or was in between.
    pub(super) fn stays_as_expected(&mut self, span: Duration) -> Result<Vec<String>> {
        let end = Instant::now() + span;
        let mut wrong = BTreeSet::new();
        while Instant::now() < end {
            self.read()?;
            if !self.matches_expected() {
                wrong.extend(self.deviations());
            }
            std::thread::sleep(TICK);
        }
        self.dump()?;
        wrong.extend(self.deviations());
        Ok(wrong.into_iter().collect())
    }

    /// What is wrong now.
    pub(super) fn deviations(&self) -> Vec<String> {
        let mut all: Vec<String> = self.nodes.iter().flat_map(NodeTable::deviations).collect();
        all.sort();
        all
    }

    /// The first deviations and the number of all, as a failure.
    pub(super) fn failure(&self, what: &str) -> Failure {
        let mut all = self.deviations();
        let count = all.len();
        all.truncate(12);
        Failure::new(format!("{what}: {count} routes are not as they should be"))
            .evidence("the first", all.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_missing_or_one_too_many() {
        let prefix: IpNet = "10.0.1.0/24".parse().expect("literal");
        let (right, wrong): (IpAddr, IpAddr) = ([172, 16, 0, 1].into(), [172, 16, 0, 2].into());
        let expected = ExpectedRoutes::from([(prefix, right)]);
        let none = ExpectedRoutes::new();
        assert_eq!(fault(&expected, &prefix, Some(Some(right))), (0, 0));
        assert_eq!(fault(&expected, &prefix, Some(Some(wrong))), (1, 0));
        assert_eq!(fault(&expected, &prefix, Some(None)), (1, 0));
        assert_eq!(fault(&expected, &prefix, None), (1, 0));
        assert_eq!(fault(&none, &prefix, Some(Some(right))), (0, 1));
        assert_eq!(fault(&none, &prefix, None), (0, 0));
    }
}
