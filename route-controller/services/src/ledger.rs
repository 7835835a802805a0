//! What the allocator has seen of the API server, and what it has sent there.
//!
//! Every write carries the resourceVersion that it was decided upon, and the address of a write is reserved until another version
//! of the Service is seen, whatever became of the write: then it was applied, or can never be.
//!
//! A former allocator may have a write on its way. So a new one that took the Lease from a holder that did not release it first
//! changes the version of each Service that lacks something (a fence), and allocates when it has seen all of these changes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::allocator::{Plan, Settings, plan};
use crate::pool::Labels;
use crate::service::{Key, Service};

/// What to do with the status of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The Service.
    pub key: Key,
    /// Only if this is its resourceVersion.
    pub version: String,
    /// What to write.
    pub what: Change,
}

/// A change of a Service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// These addresses.
    Addresses(Vec<IpAddr>),
    /// Anything that changes the resourceVersion.
    Fence,
}

#[derive(Debug)]
struct Flight {
    version: String,
    what: Change,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Not sent: the next decision may be another one.
    Queued,
    /// Its outcome is not known yet, or the change will be seen.
    Sent,
    /// It failed, and may have been applied nevertheless: [`Ledger::retry`] sends it again as it is.
    Unknown,
    /// It failed, and is sent again.
    Retried,
}

#[derive(Debug)]
enum Fence {
    /// It is not known yet who needs one.
    Due,
    /// These versions must be gone.
    Waits(BTreeMap<Key, String>),
    Done,
}

/// All Services, and the writes under way.
#[derive(Debug)]
pub struct Ledger {
    services: BTreeMap<Key, Service>,
    versions: BTreeMap<Key, String>,
    flights: BTreeMap<Key, Flight>,
    /// A list that is under way.
    listing: Option<BTreeSet<Key>>,
    is_complete: bool,
    fence: Fence,
}

impl Ledger {
    /// Of an allocator that begins. With `fenced` nothing is allocated before writes of a former one cannot succeed any more.
    #[must_use]
    pub fn new(fenced: bool) -> Self {
        Self {
            services: BTreeMap::new(),
            versions: BTreeMap::new(),
            flights: BTreeMap::new(),
            listing: None,
            is_complete: false,
            fence: if fenced { Fence::Due } else { Fence::Done },
        }
    }

    /// A list of all Services begins.
    pub fn list_begins(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// The list is complete; what was not in it is gone.
    pub fn list_ends(&mut self) {
        if let Some(listed) = self.listing.take() {
            let gone: Vec<Key> = self
                .services
                .keys()
                .filter(|key| !listed.contains(key))
                .cloned()
                .collect();
            gone.iter().for_each(|key| self.remove(key));
        }
        self.is_complete = true;
    }

    /// A Service as it is at this version.
    pub fn see(&mut self, key: Key, version: &str, mut service: Service) {
        if let Some(listed) = &mut self.listing {
            listed.insert(key.clone());
        }
        let is_over = self
            .flights
            .get(&key)
            .is_some_and(|flight| flight.version != version);
        if is_over {
            self.flights.remove(&key);
        }
        service.reserved = self.flights.get(&key).and_then(Flight::addresses);
        self.versions.insert(key.clone(), version.to_owned());
        self.services.insert(key, service);
    }

    /// A Service is gone.
    pub fn remove(&mut self, key: &Key) {
        self.services.remove(key);
        self.versions.remove(key);
        self.flights.remove(key);
    }

    /// Decides for all Services, once these are known. What is to be written is reserved, and given by [`Self::next_writes`].
    pub fn decide(&mut self, settings: &Settings, namespaces: &BTreeMap<String, Labels>) -> Option<Plan> {
        if !self.is_complete {
            return None;
        }
        self.drop_queued();
        let plan = plan(settings, &self.services, namespaces);
        let lacking = plan.services.iter().filter(|(key, decision)| {
            let service = self.services.get(key);
            service.is_some_and(|service| differ(&service.held, &decision.addresses))
        });
        let mut new: BTreeMap<Key, Change> = lacking
            .map(|(key, decision)| (key.clone(), Change::Addresses(decision.addresses.clone())))
            .collect();
        self.put_fences(&mut new);
        for (key, what) in new {
            let Some(version) = self.versions.get(&key).cloned() else {
                continue;
            };
            if self.flights.contains_key(&key) {
                continue;
            }
            let flight = Flight {
                version,
                what,
                state: State::Queued,
            };
            if let Some(service) = self.services.get_mut(&key) {
                service.reserved = flight.addresses();
            }
            self.flights.insert(key, flight);
        }
        Some(plan)
    }

    /// What to write now, at most `room`; each is to be answered by [`Self::settle`]. Writes that failed come last: those that the
    /// API server always refuses hold up no other.
    pub fn next_writes(&mut self, room: usize) -> Vec<Write> {
        let mut writes = Vec::new();
        for wanted in [State::Queued, State::Retried] {
            let unsent = self
                .flights
                .iter_mut()
                .filter(|(_, flight)| flight.state == wanted);
            let room = room.saturating_sub(writes.len());
            writes.extend(unsent.take(room).map(|(key, flight)| {
                flight.state = State::Sent;
                Write {
                    key: key.clone(),
                    version: flight.version.clone(),
                    what: flight.what.clone(),
                }
            }));
        }
        writes
    }

    /// Writes that failed are sent again. False: there are none.
    pub fn retry(&mut self) -> bool {
        let failed = self.flights.values_mut();
        let failed = failed.filter(|flight| flight.state == State::Unknown);
        failed.map(|flight| flight.state = State::Retried).count() > 0
    }

    fn drop_queued(&mut self) {
        let services = &mut self.services;
        self.flights.retain(|key, flight| {
            let is_queued = flight.state == State::Queued;
            if let Some(service) = services.get_mut(key).filter(|_| is_queued) {
                service.reserved = None;
            }
            !is_queued
        });
    }

    /// The outcome of a write. `is_applied`: the change will be seen. Else it is written again, unless another version of the Service
    /// is seen first.
    pub fn settle(&mut self, write: &Write, is_applied: bool) {
        let flight = self.flights.get_mut(&write.key);
        if let Some(flight) = flight.filter(|flight| flight.version == write.version) {
            flight.state = if is_applied { State::Sent } else { State::Unknown };
        }
    }

    /// Writes whose effect was not seen yet.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// All Services, as last seen.
    #[must_use]
    pub fn services(&self) -> &BTreeMap<Key, Service> {
        &self.services
    }

    /// While fences are needed they take the place of all other changes.
    fn put_fences(&mut self, new: &mut BTreeMap<Key, Change>) {
        if matches!(self.fence, Fence::Due) {
            let version = |key: &Key| Some((key.clone(), self.versions.get(key)?.clone()));
            self.fence = Fence::Waits(new.keys().filter_map(version).collect());
        }
        let Fence::Waits(old) = &mut self.fence else {
            return;
        };
        old.retain(|key, version| self.versions.get(key) == Some(version));
        if old.is_empty() {
            self.fence = Fence::Done;
            return;
        }
        *new = old.keys().map(|key| (key.clone(), Change::Fence)).collect();
    }
}

/// Another order is no difference.
fn differ(held: &[IpAddr], decided: &[IpAddr]) -> bool {
    held.len() != decided.len() || decided.iter().any(|addr| !held.contains(addr))
}

impl Flight {
    fn addresses(&self) -> Option<Vec<IpAddr>> {
        match &self.what {
            Change::Addresses(list) => Some(list.clone()),
            Change::Fence => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bgp_proto::types::Family;

    use super::*;
    use crate::pool::Pool;
    use crate::service::{Families, FamilyPolicy};

    fn key(name: &str) -> Key {
        Key {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        }
    }

    /// With Services of these names, all decided upon.
    fn ledger(names: &[&str]) -> Ledger {
        let settings = Settings {
            pools: vec![Pool {
                name: "a".to_owned(),
                ranges: vec!["192.0.2.0/24".parse().unwrap()],
                automatic: true,
                ..Pool::default()
            }],
            ..Settings::default()
        };
        let mut ledger = Ledger::new(false);
        ledger.list_begins();
        for name in names {
            let service = Service {
                families: Families {
                    list: vec![Family::Ipv4],
                    policy: FamilyPolicy::Single,
                },
                ..Service::default()
            };
            ledger.see(key(name), "1", service);
        }
        ledger.list_ends();
        ledger.decide(&settings, &BTreeMap::new()).unwrap();
        ledger
    }

    fn names(writes: &[Write]) -> Vec<&str> {
        writes.iter().map(|write| write.key.name.as_str()).collect()
    }

    #[test]
    fn writes_that_always_fail_hold_up_no_others() {
        let mut ledger = ledger(&["a", "b", "c", "d"]);
        let first = ledger.next_writes(2);
        assert_eq!(names(&first), ["a", "b"]);
        first.iter().for_each(|write| ledger.settle(write, false));
        assert!(ledger.retry());
        let second = ledger.next_writes(2);
        assert_eq!(names(&second), ["c", "d"]);
        second.iter().for_each(|write| ledger.settle(write, true));
        assert_eq!(ledger.next_writes(2), first, "as they were");
    }

    /// Also after a 409 whose other version is never seen.
    #[test]
    fn a_failed_write_is_repeated_when_that_is_asked_for() {
        let mut ledger = ledger(&["a", "b"]);
        let writes = ledger.next_writes(2);
        writes.iter().for_each(|write| ledger.settle(write, false));
        assert_eq!(ledger.next_writes(2), [], "not at once");
        ledger.see(key("b"), "2", Service::default());
        assert!(ledger.retry());
        assert_eq!(names(&ledger.next_writes(2)), ["a"], "b has another version");
        assert!(!ledger.retry(), "it is under way");
    }
}
