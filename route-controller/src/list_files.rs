//! Files of lists that policies name (`lists.NAME.….file`).
//!
//! They are checked regularly, as keys are. What was readable once stays in force while the file is not, or is empty: a shell that runs
//! `bgpq4 … > FILE` empties the file long before it is written. A changed file is read once two checks found it in the same state, so
//! that no part of a file is taken for the whole.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use podroute_config::UnreadableFile;

use crate::regular_file;

/// A file with a million prefixes has some 20 MB.
const LONGEST: u64 = 256 << 20;

/// Contents of files, as the configuration takes them.
pub(crate) type Contents = BTreeMap<PathBuf, Result<Arc<str>, UnreadableFile>>;

/// Distinguishes states of a file without reading it: inode, size, time of modification.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug, Default)]
struct Known {
    /// Of the content.
    stamp: Option<Stamp>,
    /// At the last check.
    seen: Option<Stamp>,
    content: Option<Arc<str>>,
    error: Option<String>,
}

/// What is known of the files.
#[derive(Debug, Default)]
pub(crate) struct ListFiles {
    known: BTreeMap<PathBuf, Known>,
}

impl ListFiles {
    /// Reads the files that this configuration names, as they are now, and forgets others. Whether a known file changed.
    pub(crate) fn look(&mut self, config: &str) -> bool {
        let mut before = std::mem::take(&mut self.known);
        let mut changed = false;
        for file in podroute_config::list_files(config) {
            let old = before.remove(&file);
            let was_known = old.is_some();
            let mut known = old.unwrap_or_default();
            let stamp = stamp(&file);
            changed |= known.update(&file, stamp) && was_known;
            self.known.insert(file, known);
        }
        changed
    }

    /// Checks the known files. Whether one changed.
    pub(crate) fn look_again(&mut self) -> bool {
        let changed = self.known.iter_mut().map(|(file, known)| known.check(file));
        changed.fold(false, |any, changed| any | changed)
    }

    /// What they hold; what was readable once counts although it is not now.
    pub(crate) fn contents(&self) -> Contents {
        let content = |known: &Known| match (&known.content, &known.error) {
            (Some(content), _) => Ok(Arc::clone(content)),
            (None, error) => Err(UnreadableFile(error.clone().unwrap_or_default())),
        };
        let all = self.known.iter();
        all.map(|(file, known)| (file.clone(), content(known))).collect()
    }
}

impl Known {
    /// As [`Known::update`], once the file has stopped changing.
    fn check(&mut self, file: &Path) -> bool {
        let stamp = stamp(file);
        let settled = std::mem::replace(&mut self.seen, stamp) == stamp;
        settled && self.update(file, stamp)
    }

    /// Reads the file if it is in another state. Whether the content differs, or why there is none.
    fn update(&mut self, file: &Path, stamp: Option<Stamp>) -> bool {
        self.seen = stamp;
        if stamp.is_some() && stamp == self.stamp {
            return false;
        }
        match read(file) {
            // It is being written.
            Ok(_) if self.content.is_some() && self::stamp(file) != stamp => false,
            Ok(content) => {
                if self.error.take().is_some() {
                    tracing::info!(event = "list_file_readable", file = %file.display(), "file of a list readable again");
                }
                let is_other = self.content.as_deref() != Some(&content);
                if is_other {
                    self.content = Some(content.into());
                }
                self.stamp = stamp;
                is_other
            }
            Err(error) => {
                let error = error.to_string();
                let is_other = self.error.as_ref() != Some(&error);
                if is_other {
                    let stays = if self.content.is_some() {
                        "its last content stays in force"
                    } else {
                        "the list is empty until then"
                    };
                    tracing::warn!(event = "list_file_unreadable", file = %file.display(), %error, "file of a list not readable; {stays}");
                }
                self.error = Some(error);
                self.stamp = None;
                is_other && self.content.is_none()
            }
        }
    }
}

fn stamp(file: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(file).ok()?;
    Some((
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

fn read(file: &Path) -> io::Result<String> {
    let content = regular_file::read(file, LONGEST)?;
    if content.is_empty() {
        return Err(regular_file::invalid(
            "empty; for a list without items write a comment",
        ));
    }
    String::from_utf8(content).map_err(|error| regular_file::invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once_and_a_file_that_goes_leaves_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cust-a");
        let config = format!("lists: {{a: {{prefixes: {{file: {}}}}}}}", file.display());
        let mut files = ListFiles::default();
        assert!(!files.look(&config), "nothing was known before");
        let content = |files: &ListFiles| files.contents()[&file].clone();
        assert!(content(&files).unwrap_err().0.contains("No such file"));
        std::fs::write(&file, "192.0.2.0/24\n").unwrap();
        assert!(!files.look_again(), "it may still be written");
        assert!(files.look_again() && !files.look_again());
        assert_eq!(content(&files).as_deref(), Ok("192.0.2.0/24\n"));
        std::fs::remove_file(&file).unwrap();
        assert!(!files.look_again() && !files.look_again());
        assert_eq!(content(&files).as_deref(), Ok("192.0.2.0/24\n"));
        // The same content in another file, as kubelets replace mounted ones.
        std::fs::write(&file, "192.0.2.0/24\n").unwrap();
        assert!(!files.look_again() && !files.look_again());
        std::fs::write(&file, "198.51.100.0/24\n").unwrap();
        assert!(!files.look_again() && files.look_again());
        assert!(!files.look("lists: {}") && files.contents().is_empty());
    }

    #[test]
    fn a_file_that_is_being_written_keeps_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cust-a");
        let config = format!("lists: {{a: {{prefixes: {{file: {}}}}}}}", file.display());
        std::fs::write(&file, "192.0.2.0/24\n").unwrap();
        let mut files = ListFiles::default();
        files.look(&config);
        let content = |files: &ListFiles| files.contents()[&file].clone().unwrap();
        // As `bgpq4 > FILE`: empty, for however long.
        std::fs::write(&file, "").unwrap();
        for _ in 0..3 {
            assert!(!files.look_again() && !files.look(&config));
        }
        assert_eq!(&*content(&files), "192.0.2.0/24\n");
        // Longer at each check.
        let mut text = String::new();
        for number in 0..3 {
            text += &format!("198.51.100.{number}/32\n");
            std::fs::write(&file, &text).unwrap();
            assert!(!files.look_again());
            assert_eq!(&*content(&files), "192.0.2.0/24\n");
        }
        assert!(files.look_again());
        assert_eq!(*content(&files), text);
        // Not text, too large, not a file.
        std::fs::write(&file, [0xff, b'\n']).unwrap();
        assert!(!files.look(&config));
        let large = std::fs::File::create(&file).unwrap();
        large.set_len(LONGEST + 1).unwrap();
        assert!(!files.look(&config));
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert!(!files.look(&config));
        assert_eq!(*content(&files), text);
        // A comment alone is a list without items.
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "# none\n").unwrap();
        assert!(files.look(&config));
        assert_eq!(&*content(&files), "# none\n");
    }
}
