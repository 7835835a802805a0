//! Reads files that others write: regular files up to a size. Never waits for the writer of a FIFO.

use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The content of a file of at most `limit` octets.
pub(crate) fn read(file: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let open = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(file)?;
    if !open.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut content = Vec::new();
    open.take(limit + 1).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(invalid(format!("more than {limit} octets")));
    }
    Ok(content)
}

/// The content cannot be used.
pub(crate) fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let (file, fifo) = (dir.path().join("file"), dir.path().join("fifo"));
        std::fs::write(&file, "12345").unwrap();
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read(&file, 5).unwrap(), b"12345");
        assert_eq!(read(&file, 4).unwrap_err().to_string(), "more than 4 octets");
        for other in [fifo.as_path(), dir.path(), Path::new("/dev/zero")] {
            assert_eq!(read(other, 5).unwrap_err().to_string(), "not a regular file");
        }
        assert_eq!(
            read(&dir.path().join("none"), 5).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }
}
