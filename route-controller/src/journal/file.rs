//! The journal's file: appended to, and replaced when it is long. Where nothing can be written the journal stays in memory, and is
//! written whole as soon as there is room.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::entry::Entry;
use super::store::{Journal, line};
use crate::whole_file;

/// Files that are longer were not written by the agent: their end is read.
const OCTETS_MAX: u64 = 16 << 20;
/// Between two attempts to replace the file.
const RETRY: Duration = Duration::from_secs(5);

pub(super) struct JournalFile {
    path: PathBuf,
    /// To append; `None` until the file is replaced.
    handle: Option<File>,
    lines: usize,
    /// When replacing it failed.
    failed_at: Option<Instant>,
}

impl JournalFile {
    /// The file, and what it has.
    pub(super) fn open(path: PathBuf) -> (Self, Journal) {
        let journal = Journal::parse(&read(&path).unwrap_or_default());
        let file = Self {
            path,
            handle: None,
            lines: 0,
            failed_at: None,
        };
        (file, journal)
    }

    /// Appends an entry of the journal.
    pub(super) fn append(&mut self, now: Instant, journal: &Journal, entry: &Entry) {
        let is_there = self.path.exists();
        let appended = is_there
            && self
                .handle
                .as_mut()
                .is_some_and(|handle| handle.write_all(&line(entry)).is_ok());
        if appended {
            self.lines += 1;
        } else {
            // An incomplete line may be at the end.
            self.handle = None;
        }
        self.repair(now, journal);
    }

    /// Replaces the file if it is incomplete or long.
    pub(super) fn repair(&mut self, now: Instant, journal: &Journal) {
        if self.handle.is_some() && !Journal::is_long(self.lines) {
            return;
        }
        if self.failed_at.is_some_and(|at| now.duration_since(at) < RETRY) {
            return;
        }
        match self.replace(journal) {
            Ok(handle) => {
                (self.handle, self.failed_at) = (Some(handle), None);
            }
            Err(error) => {
                self.handle = None;
                // Only the first failure is logged.
                if self.failed_at.replace(now).is_none() {
                    tracing::warn!(event = "state_not_saved", state = "journal", file = %self.path.display(), %error, "cannot save the journal for a restart; trying again");
                }
            }
        }
    }

    fn replace(&mut self, journal: &Journal) -> io::Result<File> {
        let text = journal.text();
        whole_file::replace(&self.path, &text)?;
        self.lines = text.iter().filter(|octet| **octet == b'\n').count();
        File::options()
            .append(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path)
    }
}

fn read(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    let length = file.metadata()?.len();
    io::Seek::seek(&mut file, io::SeekFrom::Start(length.saturating_sub(OCTETS_MAX)))?;
    let mut text = Vec::new();
    file.take(OCTETS_MAX).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Change, Kind, Severity};
    use super::super::store::Query;
    use super::*;

    fn add(journal: &mut Journal) -> Entry {
        let change = Change {
            kind: Kind::Session,
            severity: Severity::Warn,
            event: "session_down".to_owned(),
            subject: Some("tor-a".to_owned()),
            message: "BGP session down".to_owned(),
            cause: Some("hold timer expired".to_owned()),
            count: 1,
            flaps: None,
        };
        journal.add(1, change)
    }

    fn count(path: &std::path::Path) -> usize {
        let (_, journal) = JournalFile::open(path.to_owned());
        journal.find(&Query::default()).len()
    }

    #[test]
    fn what_is_appended_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let now = Instant::now();
        let (mut file, mut journal) = JournalFile::open(path.clone());
        for _ in 0..3 {
            let entry = add(&mut journal);
            file.append(now, &journal, &entry);
        }
        assert_eq!(count(&path), 3);
        // A kill in the middle of a write.
        let text = std::fs::read(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 20]).unwrap();
        let (mut file, mut journal) = JournalFile::open(path.clone());
        assert_eq!(journal.last(), 2);
        let entry = add(&mut journal);
        file.append(now, &journal, &entry);
        assert_eq!(count(&path), 3);
        // The run directory is removed under the agent.
        std::fs::remove_file(&path).unwrap();
        let entry = add(&mut journal);
        file.append(now, &journal, &entry);
        assert_eq!(count(&path), 4);
    }

    #[test]
    fn without_room_the_journal_goes_on_and_is_written_later() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("run");
        let path = place.join("journal");
        let start = Instant::now();
        let (mut file, mut journal) = JournalFile::open(path.clone());
        // No directory: as a full disk, nothing can be written.
        for _ in 0..2 {
            let entry = add(&mut journal);
            file.append(start, &journal, &entry);
        }
        std::fs::create_dir(&place).unwrap();
        file.repair(start + Duration::from_secs(1), &journal);
        assert!(!path.exists(), "not tried again at once");
        file.repair(start + RETRY, &journal);
        assert_eq!(count(&path), 2);
        // Every write fails with ENOSPC: what is on the disk stays.
        file.handle = Some(File::options().append(true).open("/dev/full").unwrap());
        let entry = add(&mut journal);
        file.append(start + RETRY, &journal, &entry);
        assert_eq!(count(&path), 3, "replaced whole");
    }

    #[test]
    fn a_long_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (mut file, mut journal) = JournalFile::open(path.clone());
        let mut lines = 0;
        while lines <= file.lines {
            lines = file.lines;
            let entry = add(&mut journal);
            file.append(Instant::now(), &journal, &entry);
        }
        assert_eq!(file.lines, 512);
        assert_eq!(count(&path), 512);
    }
}
