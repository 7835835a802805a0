//! Libraries have an example for every public module, which `cargo test` runs, and say what may panic.

use crate::pages;

/// Sources of the libraries that other programs may use.
const LIBRARIES: [&str; 3] = ["bgp-speaker/proto/src", "bgp-speaker/bfd/src", "config/src"];

/// Files of modules that a file declares as public, with those inside them.
fn public_modules(file: &str) -> Vec<String> {
    let text = pages::source(file);
    let dir = match file.rsplit_once('/') {
        Some((dir, "lib.rs" | "mod.rs")) => dir.to_owned(),
        _ => file.trim_end_matches(".rs").to_owned(),
    };
    let declared = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    let found = declared.map(|name| {
        let flat = format!("{dir}/{name}.rs");
        if pages::repository().join(&flat).exists() {
            flat
        } else {
            format!("{dir}/{name}/mod.rs")
        }
    });
    found
        .flat_map(|file| {
            let inner = public_modules(&file);
            std::iter::once(file).chain(inner)
        })
        .collect()
}

#[test]
fn every_public_module_has_an_example() {
    let mut modules = Vec::new();
    for library in LIBRARIES {
        let root = format!("{library}/lib.rs");
        modules.extend(public_modules(&root));
        // The crate's own page shows one where all is public at the top.
        if public_modules(&root).is_empty() {
            modules.push(root);
        }
    }
    assert!(modules.len() > 25, "{modules:?}");
    let has_example = |file: &&String| pages::page(file).text.lines().any(|line| line == "//! ```");
    let missing: Vec<&String> = modules.iter().filter(|file| !has_example(file)).collect();
    assert!(missing.is_empty(), "no example: {missing:#?}");
}

#[test]
fn every_library_says_what_may_panic() {
    for library in LIBRARIES {
        let text = pages::source(&format!("{library}/lib.rs"));
        let says = text
            .lines()
            .any(|line| line.starts_with("//!") && line.to_lowercase().contains("panic"));
        assert!(says, "{library}/lib.rs");
    }
}
