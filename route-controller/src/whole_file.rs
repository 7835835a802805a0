//! Files of the run directory that are replaced whole: a reader, or a start after a crash, sees the old one or the new one.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Writes beside the place, as `.NAME.new`, and renames. After an error, most often a full disk, the old file is there and nothing else.
pub(crate) fn replace(place: &Path, content: &[u8]) -> io::Result<()> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let beside = place.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write(&beside, content)
        .and_then(|()| std::fs::rename(&beside, place))
        .inspect_err(|_| drop(std::fs::remove_file(&beside)))
}

fn write(beside: &Path, content: &[u8]) -> io::Result<()> {
    // Root's alone; and nobody's link in the place leads elsewhere.
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(beside)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_roots_alone_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (place, victim) = (dir.path().join("state"), dir.path().join("victim"));
        replace(&place, b"one").unwrap();
        let mode = std::fs::metadata(&place).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&victim, "untouched").unwrap();
        std::os::unix::fs::symlink(&victim, dir.path().join(".state.new")).unwrap();
        replace(&place, b"two").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "untouched");
        assert_eq!(std::fs::read_to_string(&place).unwrap(), "two");
    }
}
