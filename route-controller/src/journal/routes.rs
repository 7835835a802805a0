//! Changes of learned routes: gathered for a second, so that a full table is a few entries, and counted by prefix.

use std::fmt;
use std::time::{Duration, Instant};

use bgp_proto::types::Prefix;
use rustc_hash::FxHashMap;

use super::entry::{Change, Kind, Severity};

/// How long changes are gathered.
const WINDOW: Duration = Duration::from_secs(1);
/// Prefixes of a window that are named; of more the changes are counted.
const NAMED: usize = 32;
/// Prefixes whose flaps are counted.
const COUNTED: usize = 4096;

/// What became of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RouteChange {
    Learned,
    Moved,
    Lost,
}

impl RouteChange {
    fn event(self) -> &'static str {
        match self {
            Self::Learned => "route_learned",
            Self::Moved => "route_moved",
            Self::Lost => "route_lost",
        }
    }
}

impl fmt::Display for RouteChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Learned => "learned",
            Self::Moved => "another next hop",
            Self::Lost => "no path is left",
        })
    }
}

/// Changes of one window.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct RouteWindow {
    named: Vec<NamedChange>,
    /// Changes of other prefixes: learned, moved, lost.
    others: [u64; 3],
}

#[derive(Clone, PartialEq, Debug)]
struct NamedChange {
    prefix: Prefix,
    first: RouteChange,
    last: RouteChange,
    next_hops: String,
    changes: u64,
}

/// Gathers changes.
#[derive(Debug, Default)]
pub(crate) struct RouteChanges {
    window: RouteWindow,
    positions: FxHashMap<Prefix, usize>,
    ends_at: Option<Instant>,
}

impl RouteChanges {
    /// Whether the prefixes of this window are still named.
    pub(crate) fn has_room(&self) -> bool {
        self.window.named.len() < NAMED
    }

    /// When the window ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ends_at
    }

    /// A route changed.
    pub(crate) fn add(
        &mut self,
        now: Instant,
        prefix: Prefix,
        change: RouteChange,
        next_hops: impl FnOnce() -> String,
    ) {
        self.ends_at.get_or_insert(now + WINDOW);
        let position = self.positions.get(&prefix);
        if let Some(known) = position.and_then(|position| self.window.named.get_mut(*position)) {
            (known.last, known.next_hops) = (change, next_hops());
            known.changes += 1;
        } else if self.has_room() {
            self.positions.insert(prefix, self.window.named.len());
            self.window.named.push(NamedChange {
                prefix,
                first: change,
                last: change,
                next_hops: next_hops(),
                changes: 1,
            });
        } else if let Some(count) = self.window.others.get_mut(change as usize) {
            *count += 1;
        }
    }

    /// The window, once it has ended.
    pub(crate) fn take(&mut self, now: Instant) -> Option<RouteWindow> {
        self.ends_at.filter(|at| *at <= now)?;
        let taken = std::mem::take(self);
        Some(taken.window)
    }
}

/// How often routes changed again after they were learned, for a limited number of prefixes.
#[derive(Debug, Default)]
pub(super) struct Flaps {
    counts: FxHashMap<String, Flap>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Flap {
    count: u64,
    /// When it changed last, in windows.
    at: u64,
}

impl Flaps {
    /// What an entry of an earlier run says.
    pub(super) fn restore(&mut self, prefix: &str, count: u64) {
        self.add(prefix, 0).count = count;
    }

    /// The entries of a window.
    pub(super) fn entries(&mut self, window: RouteWindow) -> Vec<Change> {
        self.clock += 1;
        let mut entries: Vec<Change> = Vec::with_capacity(window.named.len() + 1);
        for named in window.named {
            let prefix = named.prefix.to_string();
            let is_first = !self.counts.contains_key(&prefix) && named.first == RouteChange::Learned;
            let changes = named.changes - u64::from(is_first && named.changes > 0);
            let flaps = self.add(&prefix, changes).count;
            let message = match named.last {
                RouteChange::Lost => named.last.to_string(),
                _ => format!("{} via {}", named.last, named.next_hops),
            };
            entries.push(Change {
                event: named.last.event().to_owned(),
                subject: Some(prefix),
                count: named.changes,
                flaps: Some(flaps),
                ..of_routes(message)
            });
        }
        let [learned, moved, lost] = window.others;
        let total = learned + moved + lost;
        if total > 0 {
            entries.push(Change {
                event: "routes_changed".to_owned(),
                count: total,
                ..of_routes(format!(
                    "{total} further changes of routes: {learned} learned, {moved} with another next hop, {lost} lost"
                ))
            });
        }
        entries
    }

    fn add(&mut self, prefix: &str, changes: u64) -> &mut Flap {
        if self.counts.len() >= COUNTED && !self.counts.contains_key(prefix) {
            self.forget();
        }
        let flap = self.counts.entry(prefix.to_owned()).or_default();
        flap.count += changes;
        flap.at = self.clock;
        flap
    }

    /// Half of the prefixes, those that changed longest ago, make room.
    fn forget(&mut self) {
        let mut times: Vec<u64> = self.counts.values().map(|flap| flap.at).collect();
        times.sort_unstable();
        let median = times.get(times.len() / 2).copied().unwrap_or_default();
        let mut left = COUNTED / 2;
        self.counts.retain(|_, flap| {
            let stays = flap.at >= median && left > 0;
            left -= usize::from(stays);
            stays
        });
    }
}

fn of_routes(message: String) -> Change {
    Change {
        kind: Kind::Route,
        severity: Severity::Info,
        event: String::new(),
        subject: None,
        message,
        cause: None,
        count: 1,
        flaps: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(number: usize) -> Prefix {
        format!("10.{}.{}.0/24", number / 256, number % 256)
            .parse()
            .unwrap()
    }

    fn window(changes: &[(usize, RouteChange)]) -> RouteWindow {
        let mut gathered = RouteChanges::default();
        let now = Instant::now();
        for (number, change) in changes {
            gathered.add(now, prefix(*number), *change, || "192.0.2.1".to_owned());
        }
        assert_eq!(gathered.take(now), None, "the window has not ended");
        let window = gathered.take(now + WINDOW).unwrap();
        assert_eq!(gathered.deadline(), None);
        window
    }

    #[test]
    fn a_flapping_route_is_one_entry_with_its_count() {
        use RouteChange::{Learned, Lost, Moved};
        let mut flaps = Flaps::default();
        let first = flaps.entries(window(&[(1, Learned)]));
        assert_eq!(first[0].flaps, Some(0), "learned for the first time");
        assert_eq!(first[0].message, "learned via 192.0.2.1");
        let second = flaps.entries(window(&[(1, Lost), (1, Learned), (1, Lost)]));
        assert_eq!((second.len(), second[0].count, second[0].flaps), (1, 3, Some(3)));
        assert_eq!(second[0].event, "route_lost");
        let third = flaps.entries(window(&[(1, Learned), (2, Moved)]));
        assert_eq!((third[0].flaps, third[1].flaps), (Some(4), Some(1)));
        let mut restarted = Flaps::default();
        restarted.restore(&prefix(1).to_string(), 4);
        assert_eq!(restarted.entries(window(&[(1, Lost)]))[0].flaps, Some(5));
    }

    #[test]
    fn a_full_table_is_a_few_entries() {
        let all: Vec<_> = (0..5000).map(|number| (number, RouteChange::Learned)).collect();
        let entries = Flaps::default().entries(window(&all));
        assert_eq!(entries.len(), NAMED + 1);
        assert_eq!(entries[NAMED].count, 5000 - NAMED as u64);
        assert!(
            entries[NAMED].message.contains("4968 learned"),
            "{}",
            entries[NAMED].message
        );
    }

    #[test]
    fn the_number_of_counted_prefixes_is_bounded() {
        let mut flaps = Flaps::default();
        for number in 0..3 * COUNTED {
            flaps.entries(window(&[(number, RouteChange::Learned)]));
            assert!(flaps.counts.len() <= COUNTED);
        }
        let last = prefix(3 * COUNTED - 1).to_string();
        assert!(
            flaps.counts.contains_key(&last),
            "those that changed last are kept"
        );
        let mut at_once = Flaps::default();
        for number in 0..3 * COUNTED {
            at_once.restore(&prefix(number).to_string(), 1);
            assert!(at_once.counts.len() <= COUNTED);
        }
    }
}
