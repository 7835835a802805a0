//! Who allocates: the holder of a Lease among the agents. Pure: time comes in as an argument.
//!
//! Clocks of nodes may differ: another holder counts as gone when its Lease did not change for its whole duration on this node's
//! own clock. A holder stops writing [`WRITES_UNTIL`] after it asked for the last renewal that succeeded.

use std::time::Duration;

/// How long a holder that does not renew keeps the Lease.
pub const LEASE: Duration = Duration::from_secs(15);
/// How long after asking for a renewal a holder starts writes. The rest of the Lease is longer than a write may take.
pub const WRITES_UNTIL: Duration = Duration::from_secs(9);

/// A Lease as read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// Its holder; empty: it was released.
    pub holder: String,
    /// Its resourceVersion.
    pub version: String,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There is none: create it.
    Create,
    /// It is this agent's own: renew it.
    Renew,
    /// Take it. `is_released`: the former holder does not write any more.
    Take {
        /// The former holder gave it up.
        is_released: bool,
    },
    /// Another one holds it.
    Wait,
}

/// One candidate.
#[derive(Debug)]
pub struct Election {
    name: String,
    /// The Lease of another one, and since when it is as it is, on this node's clock.
    seen: Option<(Record, Duration)>,
}

impl Election {
    /// A candidate with this unique name.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { name, seen: None }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Lease as it was read at `now`, a time of this node's monotonic clock.
    pub fn read(&mut self, now: Duration, found: Option<&Record>) -> Step {
        let Some(record) = found else {
            self.seen = None;
            return Step::Create;
        };
        if record.holder == self.name {
            self.seen = None;
            return Step::Renew;
        }
        if record.holder.is_empty() {
            return Step::Take { is_released: true };
        }
        let since = match &self.seen {
            Some((seen, since)) if seen == record => *since,
            _ => {
                self.seen = Some((record.clone(), now));
                now
            }
        };
        if now.saturating_sub(since) >= LEASE {
            Step::Take { is_released: false }
        } else {
            Step::Wait
        }
    }

    /// How long to wait before the next look: candidates are in an order, and the further back one is the more seldom it looks. All
    /// candidates of a large cluster together look a few times a second.
    #[must_use]
    pub fn pause(rank: usize) -> Duration {
        let rank = u32::try_from(rank).unwrap_or(u32::MAX).min(300);
        Duration::from_secs(3) * (rank + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn record(holder: &str, version: &str) -> Record {
        Record {
            holder: holder.to_owned(),
            version: version.to_owned(),
        }
    }

    #[test]
    fn a_lease_is_taken_when_it_did_not_change_for_its_duration() {
        let mut election = Election::new("node-1".to_owned());
        assert_eq!(election.read(at(0), None), Step::Create);
        assert_eq!(election.read(at(1), Some(&record("node-2", "1"))), Step::Wait);
        assert_eq!(election.read(at(15), Some(&record("node-2", "1"))), Step::Wait);
        assert_eq!(election.read(at(15), Some(&record("node-2", "2"))), Step::Wait);
        assert_eq!(election.read(at(29), Some(&record("node-2", "2"))), Step::Wait);
        assert_eq!(
            election.read(at(30), Some(&record("node-2", "2"))),
            Step::Take { is_released: false }
        );
        assert_eq!(
            election.read(at(30), Some(&record("", "3"))),
            Step::Take { is_released: true }
        );
        assert_eq!(election.read(at(31), Some(&record("node-1", "4"))), Step::Renew);
        // Somebody took it in between: a whole duration again.
        assert_eq!(election.read(at(90), Some(&record("node-2", "2"))), Step::Wait);
        assert_eq!(
            election.read(at(105), Some(&record("node-2", "2"))),
            Step::Take { is_released: false }
        );
    }

    #[test]
    fn thousands_of_candidates_look_a_few_times_a_second() {
        let per_second: f64 = (0..5000)
            .map(|rank| 1.0 / Election::pause(rank).as_secs_f64())
            .sum();
        assert!(per_second < 10.0, "{per_second}");
        assert!(Election::pause(0) < WRITES_UNTIL / 2);
    }
}
