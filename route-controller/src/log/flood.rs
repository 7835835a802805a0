//! Limits equal lines of the log: pure, time comes in.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

/// Equal lines that are written in each [`WINDOW`].
const LINES: u64 = 10;
/// For so long lines are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// Different lines that are remembered; beyond that all are written.
const REMEMBERED: usize = 1024;
/// Octets of a line that a summary quotes.
const QUOTED: usize = 200;

/// What was written lately.
#[derive(Debug, Default)]
pub(super) struct Flood {
    lines: HashMap<u64, Entry>,
    random: RandomState,
    /// Lines that were not written, since the start.
    pub(super) suppressed: u64,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    count: u64,
    /// The line, from the first one on that is not written.
    line: Option<String>,
}

/// Equal lines that were not written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Suppressed {
    pub(crate) count: u64,
    pub(crate) line: String,
}

impl Flood {
    /// Whether a line may be written. The time that it begins with does not distinguish lines.
    pub(super) fn may_write(&mut self, now: Instant, line: &[u8]) -> bool {
        let content = without_time(line);
        let key = self.random.hash_one(content);
        if let Some(entry) = self.lines.get_mut(&key) {
            // Those of an older window are reported by `ended`; until then they go on counting.
            if now.saturating_duration_since(entry.since) < WINDOW || entry.line.is_some() {
                entry.count += 1;
                if entry.count <= LINES {
                    return true;
                }
                let quote = || {
                    let text = content.get(..QUOTED).unwrap_or(content);
                    String::from_utf8_lossy(text).trim().to_owned()
                };
                entry.line.get_or_insert_with(quote);
                self.suppressed += 1;
                return false;
            }
            (entry.since, entry.count) = (now, 1);
            return true;
        }
        if self.lines.len() >= REMEMBERED {
            self.lines.retain(|_, entry| {
                entry.line.is_some() || now.saturating_duration_since(entry.since) < WINDOW
            });
        }
        if self.lines.len() < REMEMBERED {
            let entry = Entry {
                since: now,
                count: 1,
                line: None,
            };
            self.lines.insert(key, entry);
        }
        true
    }

    /// Lines of which some were not written, and whose window is over.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Suppressed> {
        let is_over = |entry: &Entry| now.saturating_duration_since(entry.since) >= WINDOW;
        let over = self.lines.extract_if(|_, entry| is_over(entry));
        over.filter_map(|(_, entry)| {
            Some(Suppressed {
                count: entry.count - LINES.min(entry.count),
                line: entry.line?,
            })
        })
        .collect()
    }
}

/// A line in either form behind its time: `2026-… WARN …`, or `{"timestamp":"2026-…","level":…`.
fn without_time(line: &[u8]) -> &[u8] {
    let end: &[u8] = if line.starts_with(b"{\"timestamp\":\"") {
        b"\","
    } else {
        b"Z "
    };
    let at = line.windows(end.len()).take(64).position(|window| window == end);
    at.and_then(|at| line.get(at + end.len()..)).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_are_limited_and_counted_others_are_not() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut flood = Flood::default();
        let mut written = 0;
        for n in 0..100u64 {
            let line = format!("2026-11-29T15:00:{n:02}.000000Z  WARN event=\"x\" the same\n");
            written += u64::from(flood.may_write(at(n), line.as_bytes()));
            let other = format!("2026-11-29T15:00:00.000000Z  WARN event=\"x\" number {n}\n");
            assert!(flood.may_write(at(n), other.as_bytes()));
        }
        assert_eq!((written, flood.suppressed), (LINES, 90));
        assert_eq!(flood.ended(at(9000)), []);
        let ended = flood.ended(at(10_100));
        assert_eq!(ended.len(), 1, "{ended:?}");
        assert_eq!(ended[0].count, 90);
        assert!(ended[0].line.ends_with("the same"), "{ended:?}");
        assert!(flood.may_write(
            at(10_200),
            b"2026-11-29T15:00:00.000000Z  WARN event=\"x\" the same\n"
        ));
        assert_eq!(flood.ended(at(30_000)), []);
    }

    #[test]
    fn json_lines_are_compared_without_their_time() {
        let start = Instant::now();
        let mut flood = Flood::default();
        let line = |n| {
            format!("{{\"timestamp\":\"2026-11-29T15:00:{n:02}Z\",\"level\":\"WARN\",\"fields\":{{}}}}\n")
        };
        let written = (0..50)
            .filter(|n| flood.may_write(start, line(*n).as_bytes()))
            .count();
        assert_eq!(written as u64, LINES);
    }

    /// Memory stays bounded, and no line is lost for it.
    #[test]
    fn many_different_lines_are_all_written() {
        let start = Instant::now();
        let mut flood = Flood::default();
        for n in 0..10 * REMEMBERED {
            assert!(flood.may_write(start, format!("line {n}").as_bytes()));
        }
        assert!(flood.lines.len() <= REMEMBERED);
        let later = start + 2 * WINDOW;
        assert!(flood.may_write(later, b"another"));
        assert_eq!(flood.lines.len(), 1);
    }
}
