//! Password files as last looked at: has one changed?
//!
//! Keeps numbers made of the contents, never the contents. A file that cannot be read counts as one content more, so
//! that its coming back is a change too.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};

/// What is known of the files.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    key: RandomState,
    known: BTreeMap<PathBuf, u64>,
}

impl Secrets {
    /// Looks at these files, and forgets others. Whether one that was known before has another content now.
    pub(crate) fn changed(&mut self, files: impl Iterator<Item = PathBuf>) -> bool {
        let now: BTreeMap<PathBuf, u64> = files
            .map(|file| {
                let content = std::fs::read(&file).ok();
                let version = self.key.hash_one(content);
                (file, version)
            })
            .collect();
        let differs =
            |(file, version): (&PathBuf, &u64)| self.known.get(file).is_some_and(|old| old != version);
        let changed = now.iter().any(differs);
        self.known = now;
        changed
    }

    /// A number that stands for the content.
    pub(crate) fn version(&self, file: &Path) -> u64 {
        self.known.get(file).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_once() {
        let dir = std::env::temp_dir().join(format!("podroute-secrets-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (file, other) = (dir.join("a"), dir.join("b"));
        std::fs::write(&file, "one").unwrap();
        let mut secrets = Secrets::default();
        let both = || [file.clone(), other.clone()].into_iter();
        assert!(!secrets.changed(both()), "nothing was known before");
        let first = secrets.version(&file);
        assert!(!secrets.changed(both()));
        std::fs::write(&file, "two").unwrap();
        assert!(secrets.changed(both()));
        assert_ne!(secrets.version(&file), first);
        std::fs::write(&other, "").unwrap();
        assert!(secrets.changed(both()), "an empty file is not a missing one");
        assert!(!secrets.changed(both()));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
