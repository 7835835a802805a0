//! Where the programs under test are.
//!
//! The Makefile says it in `PODROUTE_BIN_DIR`; otherwise they are in `target/release` of this
//! workspace. The CNI plugins are built static, for the host's triple, in a directory of their own.

use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// Directories that may hold the programs, in order.
fn dirs() -> Vec<PathBuf> {
    if let Some(dirs) = std::env::var_os("PODROUTE_BIN_DIR") {
        return std::env::split_paths(&dirs).collect();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"),
        PathBuf::from,
    );
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    vec![target.join(triple).join("release"), target.join("release")]
}

/// The path of a program under test.
pub fn find(program: &str) -> Result<PathBuf> {
    let dirs = dirs();
    let found = dirs
        .iter()
        .map(|dir| dir.join(program))
        .find(|file| file.is_file());
    found.and_then(|file| file.canonicalize().ok()).ok_or_else(|| {
        let dirs: Vec<_> = dirs.iter().map(|d| d.display().to_string()).collect();
        Failure::new(format!(
            "{program} is not built (looked in {}): run `make build`",
            dirs.join(", ")
        ))
    })
}

/// The directories that a shell in the lab gets in front of its `PATH`.
pub fn search_path() -> std::ffi::OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let all = dirs()
        .into_iter()
        .filter_map(|d| d.canonicalize().ok())
        .chain(std::env::split_paths(&old));
    std::env::join_paths(all).unwrap_or(old)
}
