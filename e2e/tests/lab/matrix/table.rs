//! docs/interop.md, from the run.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::PathBuf;

use lab::daemon::Kind;
use lab::machine::command;

use super::Other;
use super::rows::{ALL, Row};

const BEGIN: &str = "<!-- the table, written by `make interop` -->\n";
const END: &str = "<!-- end of the table -->\n";

/// The scenario's name of a cell.
pub(super) fn name(row: &Row, other: Other) -> String {
    format!("matrix::{}::{}", row.key, other.name())
}

/// Whether every cell of the matrix was run and passed.
fn whole(passed: &BTreeSet<String>) -> bool {
    ALL.iter().all(|row| {
        Other::ALL
            .iter()
            .all(|other| row.without(*other).is_some() || passed.contains(&name(row, *other)))
    })
}

fn version(other: Other) -> String {
    let Some(kind) = other.kind() else {
        let output = command("exabgp").arg("--version").output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let first = text.lines().next().unwrap_or_default();
        return first.rsplit(' ').next().unwrap_or_default().to_owned();
    };
    Kind::version(kind)
}

fn title(other: Other) -> &'static str {
    match other {
        Other::Bird => "BIRD",
        Other::Frr => "FRR",
        Other::Gobgp => "GoBGP",
        Other::Openbgpd => "OpenBGPD",
        Other::Exabgp => "ExaBGP",
    }
}

/// The rows; a cell that did not pass says so.
fn rows(passed: &BTreeSet<String>) -> String {
    let mut out = String::new();
    let mut notes: Vec<&str> = Vec::new();
    for row in ALL {
        let _ = write!(out, "| {} |", row.title);
        for other in Other::ALL {
            let cell = match row.without(other) {
                Some(why) => {
                    let place = notes.iter().position(|note| *note == why).unwrap_or_else(|| {
                        notes.push(why);
                        notes.len() - 1
                    });
                    format!("– ({})", place + 1)
                }
                None if passed.contains(&name(row, other)) => "✓".to_owned(),
                None => "failed".to_owned(),
            };
            let _ = write!(out, " {cell} |");
        }
        out.push('\n');
    }
    out.push('\n');
    for (index, note) in notes.iter().enumerate() {
        let _ = writeln!(out, "({}) {note}.", index + 1);
    }
    out
}

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/interop.md")
}

/// Writes the table of a run into its place.
pub(crate) fn write(passed: &BTreeSet<String>) -> Result<(), String> {
    let file = file();
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        return Err(format!("{}: the marks of the table are missing", file.display()));
    };
    let mut out = text[..begin + BEGIN.len()].to_owned();
    out.push_str("\n| |");
    for other in Other::ALL {
        let _ = write!(out, " {} {} |", title(other), version(other));
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(Other::ALL.len()));
    let _ = write!(out, "\n{}\n{}", rows(passed), &text[end..]);
    std::fs::write(&file, out).map_err(|error| format!("{}: {error}", file.display()))
}

/// Compares the table with a run that passed every cell. Versions are those of whoever ran `make interop`.
pub(crate) fn compare(passed: &BTreeSet<String>) -> Result<(), String> {
    if !whole(passed) {
        return Ok(());
    }
    let text = std::fs::read_to_string(file()).map_err(|error| error.to_string())?;
    if text.contains(&rows(passed)) {
        Ok(())
    } else {
        Err("docs/interop.md is not what the run showed: make interop writes it".to_owned())
    }
}
