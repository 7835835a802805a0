//! The journal: pure, bounded by kind, so that many entries of one kind remove none of another.

use std::collections::{BTreeMap, VecDeque};

use super::entry::{Change, Entry, Kind};

/// Entries of a kind that are kept.
const KEPT: usize = 512;
/// Lines of the file after which it is replaced by what is kept.
const LINES_MAX: usize = 2 * KEPT * Kind::ALL.len();

/// Which entries are wanted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Query {
    /// Not older, in milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// Only those with a higher number.
    pub(crate) after: Option<u64>,
    /// Only of these kinds; empty: all.
    pub(crate) kinds: Vec<Kind>,
}

/// The entries that are kept.
#[derive(Debug, Default)]
pub(super) struct Journal {
    by_kind: BTreeMap<Kind, VecDeque<Entry>>,
    last: u64,
}

impl Journal {
    /// Reads the lines of a file. Lines that are cut off or unreadable are left out.
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut journal = Self::default();
        for line in text.split(|octet| *octet == b'\n') {
            if let Ok(entry) = serde_json::from_slice::<Entry>(line) {
                journal.keep(entry);
            }
        }
        journal
    }

    /// Adds what happened; gives the entry.
    pub(super) fn add(&mut self, at_ms: u64, change: Change) -> Entry {
        let entry = Entry::new(self.last + 1, at_ms, change);
        self.keep(entry.clone());
        entry
    }

    /// The wanted entries, in order.
    pub(super) fn find(&self, query: &Query) -> Vec<Entry> {
        let is_wanted = |kind: &Kind| query.kinds.is_empty() || query.kinds.contains(kind);
        let after = query.after.unwrap_or(0);
        let mut found: Vec<Entry> = self
            .by_kind
            .iter()
            .filter(|(kind, _)| is_wanted(kind))
            .flat_map(|(_, entries)| entries)
            .filter(|entry| entry.at_ms >= query.since_ms && entry.number > after)
            .cloned()
            .collect();
        found.sort_unstable_by_key(|entry| entry.number);
        found
    }

    /// The number of the last entry.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Whether a file of this many lines is to be replaced.
    pub(super) fn is_long(lines: usize) -> bool {
        lines > LINES_MAX
    }

    /// A file with what is kept.
    pub(super) fn text(&self) -> Vec<u8> {
        self.find(&Query::default()).iter().flat_map(line).collect()
    }

    fn keep(&mut self, entry: Entry) {
        self.last = self.last.max(entry.number);
        let entries = self.by_kind.entry(entry.kind).or_default();
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back(entry);
    }
}

/// An entry as a line of the file.
pub(super) fn line(entry: &Entry) -> Vec<u8> {
    let mut line = serde_json::to_vec(entry).unwrap_or_default();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::super::entry::Severity;
    use super::*;

    fn change(kind: Kind, subject: &str) -> Change {
        Change {
            kind,
            severity: Severity::Info,
            event: "session_up".to_owned(),
            subject: Some(subject.to_owned()),
            message: "BGP session established".to_owned(),
            cause: None,
            count: 1,
            flaps: None,
        }
    }

    #[test]
    fn a_flood_of_one_kind_removes_none_of_another() {
        let mut journal = Journal::default();
        journal.add(1, change(Kind::Session, "tor-a"));
        for number in 0..5 * KEPT {
            journal.add(2, change(Kind::Route, &number.to_string()));
        }
        let all = journal.find(&Query::default());
        assert_eq!(all.len(), KEPT + 1);
        assert_eq!(all[0].subject.as_deref(), Some("tor-a"));
        assert_eq!(journal.last(), 5 * KEPT as u64 + 1);
        assert!(Journal::is_long(LINES_MAX + 1) && !Journal::is_long(all.len()));
    }

    #[test]
    fn entries_are_found_by_time_number_and_kind() {
        let mut journal = Journal::default();
        for (at, kind) in [(10, Kind::Session), (20, Kind::Pod), (30, Kind::Session)] {
            journal.add(at, change(kind, "a"));
        }
        let numbers = |query: &Query| -> Vec<u64> {
            let found = journal.find(query);
            found.iter().map(|entry| entry.number).collect()
        };
        let since = |since_ms| Query {
            since_ms,
            ..Query::default()
        };
        assert_eq!(numbers(&since(20)), [2, 3]);
        let after = Query {
            after: Some(2),
            ..Query::default()
        };
        assert_eq!(numbers(&after), [3]);
        let sessions = Query {
            kinds: vec![Kind::Session],
            ..Query::default()
        };
        assert_eq!(numbers(&sessions), [1, 3]);
    }

    #[test]
    fn a_file_that_is_cut_off_anywhere_is_read_up_to_there() {
        let mut journal = Journal::default();
        for subject in ["a", "b", "c"] {
            journal.add(7, change(Kind::Session, subject));
        }
        let text = journal.text();
        for end in 0..=text.len() {
            let read = Journal::parse(&text[..end]);
            // The last line is whole without its line break too.
            let whole = text[..end]
                .split(|octet| *octet == b'\n')
                .filter(|line| serde_json::from_slice::<Entry>(line).is_ok());
            assert_eq!(read.find(&Query::default()).len(), whole.count(), "{end} octets");
        }
        let again = Journal::parse(&text);
        assert_eq!(again.find(&Query::default()), journal.find(&Query::default()));
        let damaged = [b"\xff{}\n{\"number\":9}\n".as_slice(), &text].concat();
        let mut read = Journal::parse(&damaged);
        assert_eq!(read.find(&Query::default()), journal.find(&Query::default()));
        assert_eq!(read.add(8, change(Kind::Bfd, "d")).number, 4, "numbers go on");
    }

    #[test]
    fn long_texts_are_shortened() {
        let mut journal = Journal::default();
        let long = Change {
            message: "ä".repeat(5000),
            ..change(Kind::Node, "n")
        };
        let entry = journal.add(1, long);
        assert!(line(&entry).len() < 1000, "{}", line(&entry).len());
    }
}
