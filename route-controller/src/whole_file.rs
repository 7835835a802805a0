//! Files of the run directory that are replaced whole: a reader, or a start after a crash, sees the old one or the new one.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

/// Writes beside the place, as `.NAME.new`, and renames.
pub(crate) fn replace(place: &Path, content: &[u8]) -> io::Result<()> {
    let name = place.file_name().unwrap_or_default().to_string_lossy();
    let beside = place.with_file_name(format!(".{name}.new"));
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, place)
}
