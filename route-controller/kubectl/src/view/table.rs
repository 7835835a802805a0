//! Tables for people.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table, presets};

/// More names than these are counted.
const NAMED: usize = 3;

pub(crate) fn new(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

pub(crate) fn text(table: &Table, empty: &str) -> String {
    if table.is_empty() {
        empty.to_owned()
    } else {
        table.trim_fmt()
    }
}

/// `a, b, c and 5 more`.
pub(crate) fn names<S: AsRef<str>>(all: &[S]) -> String {
    let shown: Vec<&str> = all.iter().take(NAMED).map(AsRef::as_ref).collect();
    match all.len().saturating_sub(NAMED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// Names by what they have in common, in the order of that.
pub(crate) fn grouped<K: Ord, N>(pairs: impl IntoIterator<Item = (K, N)>) -> BTreeMap<K, Vec<N>> {
    let mut groups: BTreeMap<K, Vec<N>> = BTreeMap::new();
    for (key, name) in pairs {
        groups.entry(key).or_default().push(name);
    }
    groups
}

/// A cell; what is empty is a dash.
pub(crate) fn or_dash(text: impl Into<String>) -> String {
    let text = text.into();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// Seconds for people.
pub(crate) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m{:02}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h{minutes:02}m"),
        (days, hours, _) => format!("{days}d{hours:02}h"),
    }
}

/// Text of a peer or of the network: a control character could change the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_counted() {
        assert_eq!(names(&["a", "b"]), "a, b");
        assert_eq!(names(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
    }

    #[test]
    fn no_peer_controls_the_terminal() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\u{fffd}c");
    }

    #[test]
    fn times() {
        let said = [5, 65, 3700, 90_000].map(duration);
        assert_eq!(said, ["5s", "1m05s", "1h01m", "1d01h"]);
    }
}
