//! Files of lists that policies name (`lists.NAME.….file`).
//!
//! They are looked at again and again, as keys are: what was readable once stays in force while the file is not.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file with a million prefixes has some 20 MB.
const LONGEST: u64 = 256 << 20;

/// What files hold, as the configuration wants it.
pub(crate) type Contents = BTreeMap<PathBuf, Result<Arc<str>, String>>;

/// What distinguishes states of a file without reading it.
type Stamp = (u64, u64, i64, i64);

#[derive(Debug, Default)]
struct Known {
    stamp: Option<Stamp>,
    content: Option<Arc<str>>,
    error: Option<String>,
}

/// What is known of the files.
#[derive(Debug, Default)]
pub(crate) struct ListFiles {
    known: BTreeMap<PathBuf, Known>,
}

impl ListFiles {
    /// Looks at the files that this configuration names, and forgets others. Whether a file that was known before changed.
    pub(crate) fn look(&mut self, config: &str) -> bool {
        self.look_at(podroute_config::list_files(config))
    }

    /// Looks again at the files that are known.
    pub(crate) fn look_again(&mut self) -> bool {
        let known: Vec<PathBuf> = self.known.keys().cloned().collect();
        !known.is_empty() && self.look_at(known)
    }

    fn look_at(&mut self, files: impl IntoIterator<Item = PathBuf>) -> bool {
        let mut before = std::mem::take(&mut self.known);
        let mut changed = false;
        for file in files {
            let old = before.remove(&file);
            let was_known = old.is_some();
            let mut known = old.unwrap_or_default();
            changed |= known.look(&file) && was_known;
            self.known.insert(file, known);
        }
        changed
    }

    /// What they hold; what was readable once counts although it is not now.
    pub(crate) fn contents(&self) -> Contents {
        let content = |known: &Known| match (&known.content, &known.error) {
            (Some(content), _) => Ok(Arc::clone(content)),
            (None, error) => Err(error.clone().unwrap_or_default()),
        };
        let all = self.known.iter();
        all.map(|(file, known)| (file.clone(), content(known))).collect()
    }
}

impl Known {
    /// Whether the content is another now, or cannot be read for another reason.
    fn look(&mut self, file: &Path) -> bool {
        let stamp = stamp(file).ok();
        if stamp.is_some() && stamp == self.stamp {
            return false;
        }
        match read(file) {
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

fn stamp(file: &Path) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(file)?;
    Ok((
        metadata.ino(),
        metadata.len(),
        metadata.mtime(),
        metadata.mtime_nsec(),
    ))
}

/// Reads a regular file; never waits for a FIFO's writer.
fn read(file: &Path) -> io::Result<String> {
    let open = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(file)?;
    let invalid = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
    if !open.metadata()?.is_file() {
        return Err(invalid("not a regular file".to_owned()));
    }
    let mut content = String::new();
    open.take(LONGEST + 1).read_to_string(&mut content)?;
    if content.len() as u64 > LONGEST {
        return Err(invalid(format!("more than {LONGEST} octets")));
    }
    Ok(content)
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
        assert!(content(&files).unwrap_err().contains("No such file"));
        std::fs::write(&file, "192.0.2.0/24\n").unwrap();
        assert!(files.look_again() && !files.look_again());
        assert_eq!(content(&files).as_deref(), Ok("192.0.2.0/24\n"));
        std::fs::remove_file(&file).unwrap();
        assert!(!files.look_again());
        assert_eq!(content(&files).as_deref(), Ok("192.0.2.0/24\n"));
        // The same content in another file, as kubelets replace mounted ones.
        std::fs::write(&file, "192.0.2.0/24\n").unwrap();
        assert!(!files.look_again());
        std::fs::write(&file, "198.51.100.0/24\n").unwrap();
        assert!(files.look_again());
        assert!(!files.look("lists: {}") && files.contents().is_empty());
    }
}
