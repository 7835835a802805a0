//! The two output streams of the engine's task, which do not wait for each other: to the kernel's routes
//! ([`DatapathEvent`]) and to the agent ([`Event`]).
//!
//! The engine waits for neither. What a receiver's channel does not accept is kept in a backlog and merged,
//! so that it stays bounded: kernel changes by prefix, next hops by address, events by peer. A receiver that
//! falls behind thus learns the present state, not every intermediate one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Instant;

use bgp_proto::engine::FibChange;
use bgp_proto::types::{Family, PeerId, Prefix};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::api::{DatapathEvent, Event};

/// Capacity of each stream's channel.
pub(crate) const CAPACITY: usize = 1024;

/// The stream to the kernel's routes. Order: next hops to watch, routes, End-of-RIBs after their routes, next
/// hops to unwatch.
pub(crate) struct DatapathStream {
    events: mpsc::Sender<DatapathEvent>,
    backlog: Backlog,
}

#[derive(Default)]
struct Backlog {
    /// True: watch, false: unwatch.
    next_hops: BTreeMap<IpAddr, bool>,
    routes: HashMap<Prefix, FibChange>,
    /// When the first UPDATE that caused these routes was received.
    received: Option<Instant>,
    ends: BTreeSet<(PeerId, Family)>,
}

impl Backlog {
    fn is_empty(&self) -> bool {
        self.next_hops.is_empty() && self.routes.is_empty() && self.ends.is_empty()
    }

    fn merge(&mut self, event: DatapathEvent) {
        match event {
            DatapathEvent::Received(at) => self.received = self.received.or(Some(at)),
            DatapathEvent::Routes { changes, .. } => self
                .routes
                .extend(changes.into_iter().map(|change| (change.prefix, change))),
            DatapathEvent::Watch(list) => self.next_hops.extend(list.into_iter().map(|addr| (addr, true))),
            DatapathEvent::Unwatch(list) => self.next_hops.extend(list.into_iter().map(|addr| (addr, false))),
            DatapathEvent::EndOfRib(peer, family) => {
                self.ends.insert((peer, family));
            }
        }
    }

    /// Takes the next event of the backlog.
    fn next(&mut self) -> Option<DatapathEvent> {
        let of = |next_hops: &BTreeMap<IpAddr, bool>, wanted| {
            let list = next_hops.iter().filter(|(_, watch)| **watch == wanted);
            list.map(|(addr, _)| *addr).collect::<Vec<_>>()
        };
        let watch = of(&self.next_hops, true);
        if !watch.is_empty() {
            self.next_hops.retain(|_, watch| !*watch);
            return Some(DatapathEvent::Watch(watch));
        }
        if let Some(at) = self.received.take_if(|_| !self.routes.is_empty()) {
            return Some(DatapathEvent::Received(at));
        }
        if !self.routes.is_empty() {
            let mut changes: Vec<FibChange> = std::mem::take(&mut self.routes).into_values().collect();
            changes.sort_unstable_by_key(|change| change.prefix);
            return Some(DatapathEvent::Routes { changes, more: false });
        }
        if let Some((peer, family)) = self.ends.pop_first() {
            return Some(DatapathEvent::EndOfRib(peer, family));
        }
        let unwatch = of(&self.next_hops, false);
        self.next_hops.clear();
        self.received = None;
        (!unwatch.is_empty()).then_some(DatapathEvent::Unwatch(unwatch))
    }
}

impl DatapathStream {
    pub(crate) fn new(events: mpsc::Sender<DatapathEvent>) -> Self {
        Self {
            events,
            backlog: Backlog::default(),
        }
    }

    pub(crate) fn send(&mut self, event: DatapathEvent) {
        if !self.backlog.is_empty() {
            self.backlog.merge(event);
        } else if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            self.backlog.merge(event);
        }
    }

    pub(crate) fn is_behind(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Sends the backlog as far as the channel accepts it; drops it when the receiver is gone.
    pub(crate) fn flush_backlog(&mut self) {
        while (self.events.capacity() > 0 || self.events.is_closed())
            && let Some(event) = self.backlog.next()
        {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.backlog.merge(event);
                return;
            }
        }
    }

    /// Waits until the channel accepts an event, or the receiver is gone.
    pub(crate) async fn has_room(&self) {
        drop(self.events.reserve().await);
    }
}

/// The stream to the agent.
pub(crate) struct LifecycleStream {
    events: mpsc::Sender<Event>,
    /// The last event of each kind and peer.
    backlog: BTreeMap<(PeerId, u8), Event>,
}

impl LifecycleStream {
    pub(crate) fn new(events: mpsc::Sender<Event>) -> Self {
        let backlog = BTreeMap::new();
        Self { events, backlog }
    }

    pub(crate) fn send(&mut self, event: Event) {
        if self.backlog.is_empty() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.push_backlog(event);
            }
        } else {
            self.push_backlog(event);
        }
    }

    fn push_backlog(&mut self, event: Event) {
        self.backlog.insert(event.merge_key(), event);
    }

    pub(crate) fn is_behind(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// A peer was removed from the configuration.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        self.backlog.retain(|(of, _), _| *of != peer);
    }

    /// Sends the backlog as far as the channel accepts it; drops it when the receiver is gone.
    pub(crate) fn flush_backlog(&mut self) {
        while (self.events.capacity() > 0 || self.events.is_closed())
            && let Some((_, event)) = self.backlog.pop_first()
        {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.push_backlog(event);
                return;
            }
        }
    }

    /// Waits until the channel accepts an event, or the receiver is gone.
    pub(crate) async fn has_room(&self) {
        drop(self.events.reserve().await);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn change(last: u8, hops: u8) -> FibChange {
        let hop = |n| bgp_proto::engine::FibNextHop {
            addr: [192, 0, 2, n].into(),
            weight: 1,
        };
        FibChange {
            prefix: Prefix::v4(0x0A00_0000 + (u32::from(last) << 8), 24),
            next_hops: Arc::from((0..hops).map(hop).collect::<Vec<_>>()),
            route: bgp_proto::engine::KernelRoute::default(),
        }
    }

    #[tokio::test]
    async fn the_backlog_is_merged_and_stays_in_order() {
        let (events, mut datapath) = mpsc::channel(1);
        let mut stream = DatapathStream::new(events);
        let routes = |changes| DatapathEvent::Routes { changes, more: true };
        let one: IpAddr = [192, 0, 2, 1].into();
        let two: IpAddr = [192, 0, 2, 2].into();
        stream.send(routes(vec![change(0, 1)]));
        assert!(!stream.is_behind());
        for event in [
            DatapathEvent::Watch(vec![one, two]),
            routes(vec![change(1, 1), change(2, 1)]),
            DatapathEvent::EndOfRib(PeerId(1), Family::Ipv4),
            DatapathEvent::Unwatch(vec![one]),
            routes(vec![change(1, 2)]),
            DatapathEvent::EndOfRib(PeerId(1), Family::Ipv4),
        ] {
            stream.send(event);
        }
        let mut seen = Vec::new();
        loop {
            stream.flush_backlog();
            let Ok(event) = datapath.try_recv() else { break };
            seen.push(event);
        }
        assert!(!stream.is_behind());
        assert_eq!(
            seen,
            [
                routes(vec![change(0, 1)]),
                DatapathEvent::Watch(vec![two]),
                DatapathEvent::Routes {
                    changes: vec![change(1, 2), change(2, 1)],
                    more: false
                },
                DatapathEvent::EndOfRib(PeerId(1), Family::Ipv4),
                DatapathEvent::Unwatch(vec![one]),
            ]
        );
    }

    /// The receiver was dropped: there is no backlog and no waiting.
    #[tokio::test]
    async fn a_closed_receiver_delays_nothing() {
        let (events, agent) = mpsc::channel(1);
        let mut lifecycle = LifecycleStream::new(events);
        let (events, kernel) = mpsc::channel(1);
        let mut datapath = DatapathStream::new(events);
        for last in 0..3 {
            let routes = vec![change(last, 1)];
            datapath.send(DatapathEvent::Routes {
                changes: routes,
                more: false,
            });
            lifecycle.send(Event::PathLimitWarning(PeerId(last.into()), Prefix::v4(0, 0)));
        }
        assert!(lifecycle.is_behind() && datapath.is_behind());
        drop((agent, kernel));
        lifecycle.has_room().await;
        datapath.has_room().await;
        lifecycle.flush_backlog();
        datapath.flush_backlog();
        assert!(!lifecycle.is_behind() && !datapath.is_behind());
    }

    #[tokio::test]
    async fn a_slow_agent_gets_the_latest_state() {
        let (events, mut agent) = mpsc::channel(1);
        let mut stream = LifecycleStream::new(events);
        let down = |peer, why: &str| Event::PeerDown {
            peer: PeerId(peer),
            name: String::new(),
            why: why.to_owned(),
        };
        for flap in 0..1000 {
            for peer in 1..=3 {
                stream.send(down(peer, &flap.to_string()));
            }
        }
        assert!(stream.backlog.len() <= 3);
        stream.forget(PeerId(3));
        let mut seen = Vec::new();
        loop {
            stream.flush_backlog();
            let Ok(event) = agent.try_recv() else { break };
            seen.push(event);
        }
        assert_eq!(seen, [down(1, "0"), down(1, "999"), down(2, "999")]);
    }
}
