//! ARCHITECTURE.md agrees with the code: its drawing of crates with Cargo's dependency graph, its paths with the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

const PAGE: &str = include_str!("../../ARCHITECTURE.md");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

type Graph = BTreeMap<String, BTreeSet<String>>;

/// The lines `crate ──► crate, crate` of the first code block under "Crates".
fn drawn() -> Graph {
    let (_, section) = PAGE.split_once("\n## Crates\n").expect("a section Crates");
    let block = section.split("\n```\n").nth(1).expect("a code block");
    block
        .lines()
        .map(|line| {
            let (name, targets) = line.split_once("──►").unwrap_or((line, ""));
            let targets = targets.split(',').map(|t| t.trim().to_owned());
            (
                name.trim().to_owned(),
                targets.filter(|t| !t.is_empty()).collect(),
            )
        })
        .collect()
}

/// Dependencies among the workspace's crates. Those for tests count only where a crate consists of tests.
fn built() -> Graph {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(ROOT)
        .output()
        .expect("cargo metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let members: BTreeSet<String> = packages.iter().map(|package| text(&package["name"])).collect();
    let targets = |package: &serde_json::Value| {
        let is_test = |target: &serde_json::Value| target["kind"][0] == "test";
        let consists_of_tests = package["targets"]
            .as_array()
            .is_some_and(|all| all.iter().all(is_test));
        let dependencies = package["dependencies"].as_array().into_iter().flatten();
        dependencies
            .filter(|dependency| dependency["kind"].is_null() || consists_of_tests)
            .map(|dependency| text(&dependency["name"]))
            .filter(|name| members.contains(name))
            .collect()
    };
    packages
        .iter()
        .map(|package| (text(&package["name"]), targets(package)))
        .collect()
}

#[test]
fn the_drawing_of_crates_is_cargos_graph() {
    assert_eq!(drawn(), built());
}

#[test]
fn every_path_exists() {
    let tops = [
        "bgp-speaker/",
        "route-controller/",
        "config/",
        "cni-ipam/",
        "e2e/",
        "docs/",
    ];
    let quoted = PAGE.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = quoted
        .filter(|text| tops.iter().any(|top| text.starts_with(top)) && !text.contains([' ', '*']))
        .collect();
    assert!(paths.len() > 20, "{paths:?}");
    let missing: Vec<&&str> = paths
        .iter()
        .filter(|path| !Path::new(ROOT).join(path).exists())
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
