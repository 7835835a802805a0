//! How long the plugin's requests took, and how many failed: counted in a small file of the run directory, for the agent's metrics.
//!
//! The file is an array of little-endian 64-bit numbers, under a lock while it changes. What cannot be counted is not: it never fails a
//! request.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};

use crate::request::Verb;

/// The file in the run directory.
const FILE: &str = "cni-counts";

/// Upper bounds of the buckets, in milliseconds; the last bucket has none.
const BOUNDS: [u64; BUCKETS - 1] = [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000];
const BUCKETS: usize = 13;
/// Buckets, microseconds in sum, failures.
const WIDTH: usize = BUCKETS + 2;

/// Requests that are counted, in the order of the file.
const VERBS: [Verb; 5] = [Verb::Add, Verb::Del, Verb::Check, Verb::Gc, Verb::Status];

/// The requests of one kind since the file is there.
#[derive(Clone, Debug, PartialEq)]
pub struct VerbTally {
    /// `ADD`, `DEL`, `CHECK`, `GC`, `STATUS`.
    pub verb: &'static str,
    /// Seconds of all requests together.
    pub seconds: f64,
    /// Requests by duration: the upper bound in seconds, and how many were not longer, but longer than the bound before.
    pub buckets: Vec<(f64, u64)>,
    /// Requests that failed.
    pub failures: u64,
}

/// Counts a request.
pub(crate) fn note(run_dir: &Path, verb: Verb, took: Duration, failed: bool) {
    let Some(row) = VERBS.iter().position(|known| *known == verb) else {
        return;
    };
    let _ = add(run_dir, row, took, failed); // counting fails no request
}

fn add(run_dir: &Path, row: usize, took: Duration, failed: bool) -> io::Result<()> {
    let path = run_dir.join(FILE);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    let file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io::Error::from(errno))?;
    let mut numbers = read_row(&file, row)?;
    let bucket = BOUNDS
        .iter()
        .position(|bound| took <= Duration::from_millis(*bound));
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    for (place, value) in [
        (bucket.unwrap_or(BUCKETS - 1), 1),
        (BUCKETS, micros),
        (BUCKETS + 1, u64::from(failed)),
    ] {
        if let Some(number) = numbers.get_mut(place) {
            *number = number.saturating_add(value);
        }
    }
    let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    file.write_all_at(&bytes, offset(row))
}

fn offset(row: usize) -> u64 {
    (row * WIDTH * 8) as u64
}

/// A row that was never written is zero.
fn read_row(file: &File, row: usize) -> io::Result<[u64; WIDTH]> {
    let mut bytes = [0; WIDTH * 8];
    match file.read_exact_at(&mut bytes, offset(row)) {
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
        _ => {}
    }
    let mut numbers = [0; WIDTH];
    for (number, bytes) in numbers.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *number = u64::from_le_bytes(*bytes);
    }
    Ok(numbers)
}

/// What was counted in a run directory, normally `/run/podroute`. Nothing, where no plugin has run.
pub fn tallies(run_dir: &Path) -> io::Result<Vec<VerbTally>> {
    let file = match File::open(run_dir.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let file = Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| io::Error::from(errno))?;
    let tally = |(row, verb): (usize, &Verb)| {
        let numbers = read_row(&file, row)?;
        let (buckets, rest) = numbers.split_at(BUCKETS);
        let bounds = BOUNDS
            .iter()
            .map(|bound| *bound as f64 / 1000.0)
            .chain([f64::MAX]);
        Ok(VerbTally {
            verb: verb.as_str(),
            seconds: rest.first().copied().unwrap_or_default() as f64 / 1e6,
            buckets: bounds.zip(buckets.iter().copied()).collect(),
            failures: rest.get(1).copied().unwrap_or_default(),
        })
    };
    VERBS.iter().enumerate().map(tally).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_many_processes_are_all_counted() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(tallies(dir.path()).unwrap(), []);
        let path = dir.path();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                scope.spawn(move || {
                    for _ in 0..50 {
                        note(path, Verb::Add, Duration::from_millis(15), thread == 0);
                    }
                });
            }
        });
        note(path, Verb::Del, Duration::from_secs(90), false);
        note(path, Verb::Version, Duration::from_secs(90), true);
        let found = tallies(path).unwrap();
        let (add, del) = (&found[0], &found[1]);
        assert_eq!((add.verb, add.failures), ("ADD", 50));
        assert_eq!(add.buckets[2], (0.02, 200));
        assert!((add.seconds - 3.0).abs() < 1e-6, "{add:?}");
        assert_eq!(del.buckets.last(), Some(&(f64::MAX, 1)));
        assert_eq!(found[2].buckets.iter().map(|(_, count)| count).sum::<u64>(), 0);
    }

    /// A run directory that cannot be written fails nothing.
    #[test]
    fn what_cannot_be_counted_is_not() {
        note(Path::new("/proc/none"), Verb::Add, Duration::ZERO, false);
        assert_eq!(tallies(Path::new("/proc/none")).unwrap(), []);
    }
}
