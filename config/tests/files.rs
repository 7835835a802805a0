//! The files beside this test: each in `ok/` loads and is explained as its `.txt` says; each in `bad/`
//! is rejected with exactly the text of its `.txt`. `UPDATE_GOLDEN=1` rewrites the texts.
#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

fn yaml_files(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no YAML in {}", dir.display());
    files
}

fn check_golden(path: &Path, actual: &str) -> bool {
    let golden = path.with_extension("txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, actual).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap_or_default();
    if expected != actual {
        eprintln!(
            "--- {} expects\n{expected}--- but got\n{actual}",
            golden.display()
        );
    }
    expected == actual
}

fn explained(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let config =
        podroute_config::load(&text).unwrap_or_else(|errors| panic!("{}:\n{errors}", path.display()));
    let warnings: String = config
        .warnings
        .iter()
        .map(|warning| format!("warning: {warning}\n"))
        .collect();
    format!(
        "{}{}{warnings}",
        config.explain(),
        if warnings.is_empty() { "" } else { "\n" }
    )
}

#[test]
fn good_files_load_and_are_explained() {
    let wrong: Vec<_> = yaml_files("tests/ok")
        .into_iter()
        .filter(|path| !check_golden(path, &explained(path)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn bad_files_are_refused_with_all_errors() {
    let refused = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        match podroute_config::load(&text) {
            Ok(_) => panic!("{} loads", path.display()),
            Err(errors) => check_golden(path, &errors.in_file(path.file_name().unwrap().to_str().unwrap())),
        }
    };
    let wrong: Vec<_> = yaml_files("tests/bad")
        .into_iter()
        .filter(|path| !refused(path))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn examples_load() {
    for path in yaml_files("../examples") {
        let text = fs::read_to_string(&path).unwrap();
        let config =
            podroute_config::load(&text).unwrap_or_else(|errors| panic!("{}:\n{errors}", path.display()));
        assert_eq!(config.warnings, [], "{}", path.display());
    }
}
