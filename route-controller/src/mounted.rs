//! A configuration file that Kubernetes mounts from a ConfigMap: a change is noticed, and reloaded.
//!
//! The kubelet swaps a symbolic link `..data` beside the files, so that a directory with such a link is a mount, and
//! what is read there is always whole. Files elsewhere are an operator's who says `podroute reload` himself.

use std::path::{Path, PathBuf};

/// What was last looked at.
#[derive(Debug)]
pub(crate) struct Mounted {
    path: PathBuf,
    /// The text that was taken or refused last.
    seen: String,
}

impl Mounted {
    /// The file runs with this text.
    pub(crate) fn new(path: &Path, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            seen: text.to_owned(),
        }
    }

    /// The file has been read, by whatever cause.
    pub(crate) fn saw(&mut self, text: &str) {
        text.clone_into(&mut self.seen);
    }

    /// Whether there is another text to try.
    pub(crate) fn has_changed(&self) -> bool {
        let is_mount = self
            .path
            .parent()
            .is_some_and(|dir| dir.join("..data").is_symlink());
        is_mount && std::fs::read_to_string(&self.path).is_ok_and(|text| text != self.seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_seen_once_and_only_in_a_mount() {
        let dir = std::env::temp_dir().join(format!("podroute-mounted-{}", std::process::id()));
        let file = dir.join("podroute.yaml");
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            std::fs::create_dir_all(dir.join(version)).unwrap();
            std::fs::write(dir.join(version).join("podroute.yaml"), text).unwrap();
        }
        std::fs::write(&file, "zero").unwrap();
        let mut mounted = Mounted::new(&file, "one");
        assert!(!mounted.has_changed(), "an ordinary file");
        std::fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink("..data/podroute.yaml", &file).unwrap();
        std::os::unix::fs::symlink("..1", dir.join("..data")).unwrap();
        assert!(!mounted.has_changed());
        std::os::unix::fs::symlink("..2", dir.join("..new")).unwrap();
        std::fs::rename(dir.join("..new"), dir.join("..data")).unwrap();
        assert!(mounted.has_changed());
        mounted.saw("two");
        assert!(!mounted.has_changed());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
