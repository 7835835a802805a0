//! Keys in files: passwords of TCP sessions, keys of BFD.
//!
//! Kubernetes replaces mounted secrets without a notification, so files are checked regularly. What was readable once stays
//! in force while the file is not: a session never loses its key because of a file, and never runs without one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::regular_file;

/// How long the content that a file had before is good as well: kubelets replace mounted secrets at different times, within
/// two minutes or so.
const STAYS_GOOD: Duration = Duration::from_secs(180);

/// No key is longer; a larger file is not one.
const LONGEST: u64 = 4096;

/// A key file that was never readable.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}: {cause}", file.display())]
pub(crate) struct UnreadableKey {
    file: PathBuf,
    cause: String,
}

#[derive(Debug, Default)]
struct Secret {
    /// As last read.
    content: Option<Vec<u8>>,
    /// What it was before, and until when that is good.
    before: Option<(Vec<u8>, Instant)>,
    /// Why it cannot be read now.
    error: Option<String>,
}

/// What is known of the files.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    known: BTreeMap<PathBuf, Secret>,
}

impl Secrets {
    /// Looks at these files, and forgets others. Whether the keys of one that was known before are others now.
    pub(crate) fn changed(&mut self, files: impl Iterator<Item = PathBuf>, now: Instant) -> bool {
        let mut before = std::mem::take(&mut self.known);
        let mut changed = false;
        for file in files {
            if self.known.contains_key(&file) {
                continue;
            }
            let old = before.remove(&file);
            let was_known = old.is_some();
            let mut secret = old.unwrap_or_default();
            match read(&file) {
                Ok(content) => {
                    if secret.error.take().is_some() {
                        tracing::info!(event = "key_file_readable", file = %file.display(), "key file readable again");
                    }
                    if secret.content.as_ref() != Some(&content) {
                        changed |= was_known;
                        let before = secret.content.replace(content);
                        secret.before = before.map(|before| (before, now + STAYS_GOOD));
                    }
                }
                Err(error) => secret.failed(&file, error.to_string()),
            }
            changed |= secret.before.take_if(|(_, until)| *until <= now).is_some();
            self.known.insert(file, secret);
        }
        changed
    }

    /// The key in a file, without the line end at its end.
    ///
    /// # Errors
    /// The file was never readable.
    pub(crate) fn key(&self, file: &Path) -> Result<&[u8], UnreadableKey> {
        let secret = self.known.get(file);
        let content = secret.and_then(|secret| secret.content.as_deref());
        content.map(without_line_end).ok_or_else(|| {
            let cause = secret.and_then(|secret| secret.error.clone());
            UnreadableKey {
                file: file.to_owned(),
                cause: cause.unwrap_or_else(|| "not read yet".to_owned()),
            }
        })
    }

    /// The key that was in a file before, while it is good.
    pub(crate) fn key_before(&self, file: &Path) -> Option<&[u8]> {
        let (content, _) = self.known.get(file)?.before.as_ref()?;
        Some(without_line_end(content))
    }

    /// Files that cannot be read now.
    pub(crate) fn unreadable(&self) -> usize {
        self.known
            .values()
            .filter(|secret| secret.error.is_some())
            .count()
    }
}

impl Secret {
    fn failed(&mut self, file: &Path, error: String) {
        if self.error.as_ref() != Some(&error) {
            let stays = if self.content.is_some() {
                "its last content stays in force"
            } else {
                "sessions that need it stay down"
            };
            tracing::warn!(event = "key_file_unreadable", file = %file.display(), %error, "key file not readable; {stays}");
        }
        self.error = Some(error);
    }
}

fn without_line_end(mut content: &[u8]) -> &[u8] {
    while let Some(rest) = content
        .strip_suffix(b"\n")
        .or_else(|| content.strip_suffix(b"\r"))
    {
        content = rest;
    }
    content
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let content = regular_file::read(file, LONGEST)?;
    if without_line_end(&content).is_empty() {
        return Err(regular_file::invalid("empty"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_a_missing_file_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let (file, other) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&file, "one\n").unwrap();
        let mut secrets = Secrets::default();
        let both = || [file.clone(), other.clone(), file.clone()].into_iter();
        let mut now = Instant::now();
        assert!(!secrets.changed(both(), now), "nothing was known before");
        assert_eq!(secrets.key(&file), Ok(b"one".as_slice()));
        assert!(
            secrets
                .key(&other)
                .unwrap_err()
                .to_string()
                .contains("No such file")
        );
        assert_eq!(secrets.unreadable(), 1);
        assert!(!secrets.changed(both(), now));
        std::fs::write(&file, "two\r\n").unwrap();
        assert_eq!(secrets.key_before(&file), None);
        assert!(secrets.changed(both(), now));
        assert_eq!(secrets.key(&file), Ok(b"two".as_slice()));
        // The one before is good for a while.
        assert_eq!(secrets.key_before(&file), Some(b"one".as_slice()));
        now += STAYS_GOOD;
        assert!(secrets.changed(both(), now));
        assert_eq!(secrets.key_before(&file), None);
        // Gone, empty, too large, not a file: the last key stays.
        std::fs::remove_file(&file).unwrap();
        assert!(!secrets.changed(both(), now));
        std::fs::write(&file, "\n").unwrap();
        assert!(!secrets.changed(both(), now));
        std::fs::write(&file, vec![b'x'; 5000]).unwrap();
        assert!(!secrets.changed(both(), now));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(!secrets.changed(both(), now));
        assert_eq!(
            (secrets.key(&file), secrets.unreadable()),
            (Ok(b"two".as_slice()), 2)
        );
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "two").unwrap();
        assert!(secrets.changed(both(), now), "the content of the file differs");
        std::fs::write(&other, "late").unwrap();
        assert!(secrets.changed(both(), now));
        assert_eq!(
            (secrets.key(&other), secrets.unreadable()),
            (Ok(b"late".as_slice()), 0)
        );
    }

    #[test]
    fn a_fifo_and_a_device_are_no_keys() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut secrets = Secrets::default();
        secrets.changed([fifo.clone(), "/dev/zero".into()].into_iter(), Instant::now());
        for file in [fifo.as_path(), Path::new("/dev/zero")] {
            assert!(
                secrets
                    .key(file)
                    .unwrap_err()
                    .to_string()
                    .contains("not a regular file")
            );
        }
    }
}
