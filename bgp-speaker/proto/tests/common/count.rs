//! Counts instructions in a child process under valgrind: independent of the load of the machine.
//!
//! Used for two guards: costs must not grow where they should be constant, with any compiler; and they must
//! match the counts recorded beside the test, for the compiler and profile of the record. `UPDATE_GOLDEN=1`
//! records new counts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Allowed deviation from the record: the C library differs a little between processors.
const LEEWAY: f64 = 0.10;

/// Whether valgrind is installed; prints a message if not (`make test` installs it where possible).
pub(crate) fn can_count() -> bool {
    let found = Command::new("valgrind").arg("--version").output().is_ok();
    if !found {
        println!("LEFT OUT: valgrind is not installed");
    }
    found
}

/// Instructions of this executable's test with this name, with `COST_OF` set, including process start.
pub(crate) fn instructions(test: &str, work: &str) -> f64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1"])
        .env("COST_OF", work)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, count) = line.unwrap_or_else(|| panic!("cannot parse the output of valgrind: {text}"));
    count.trim().parse().unwrap()
}

/// What counts depend on besides the code.
fn compiler() -> String {
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    let rustc = Command::new("rustc").arg("-V").output().unwrap();
    format!("{}, {profile}", String::from_utf8_lossy(&rustc.stdout).trim())
}

/// Compares with the record: a first line with the compiler, then one line per name with its count.
pub(crate) fn compare(record: &Path, counts: &BTreeMap<&str, f64>) {
    let compiler = compiler();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let mut text = format!("{compiler}\n");
        for (name, count) in counts {
            writeln!(text, "{count:.0} {name}").unwrap();
        }
        return std::fs::write(record, text).unwrap();
    }
    let text = std::fs::read_to_string(record).unwrap();
    let mut lines = text.lines();
    let recorded_with = lines.next().unwrap();
    if recorded_with != compiler {
        return println!("LEFT OUT: recorded with {recorded_with}, this is {compiler}");
    }
    let recorded: BTreeMap<&str, f64> = lines
        .filter_map(|line| line.split_once(' '))
        .map(|(count, name)| (name, count.parse().unwrap()))
        .collect();
    for (name, count) in counts {
        let before = recorded[name];
        let change = count / before - 1.0;
        println!("{name}: {count:.0} instructions, recorded {before:.0}");
        assert!(
            change.abs() <= LEEWAY,
            "{name}: {count:.0} instructions instead of {before:.0} ({:+.0} %); if that is right, UPDATE_GOLDEN=1 records it",
            change * 100.0
        );
    }
}
