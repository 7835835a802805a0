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

/// Names in the tables of docs/reference/events.md, before its section on the journal; and those in the code.
#[test]
fn every_log_event_is_documented() {
    let root = Path::new(ROOT);
    let page =
        std::fs::read_to_string(root.join("docs/reference/events.md")).expect("docs/reference/events.md");
    let (agent, _) = page.split_once("\n## Journal").expect("the section");
    let documented: BTreeSet<&str> = agent
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .map(|(name, _)| name)
        .collect();
    let mut sources = Vec::new();
    collect_sources(&root.join("route-controller/src"), &mut sources);
    collect_sources(&root.join("bgp-speaker/src"), &mut sources);
    let (mut logged, mut unnamed) = (BTreeSet::new(), Vec::new());
    for text in &sources {
        for call in ["info", "warn", "error", "debug", "trace"] {
            for (_, after) in text
                .match_indices(&format!("tracing::{call}!("))
                .map(|(at, m)| (at, &text[at + m.len()..]))
            {
                match after
                    .trim_start()
                    .strip_prefix("event = \"")
                    .and_then(|rest| rest.split_once('"'))
                {
                    Some((name, _)) => drop(logged.insert(name)),
                    None => unnamed.push(after.lines().take(3).collect::<String>()),
                }
            }
        }
    }
    assert!(unnamed.is_empty(), "log lines without a name: {unnamed:#?}");
    assert!(logged.len() > 50, "{logged:?}");
    let missing: Vec<_> = logged.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/reference/events.md: {missing:?}");
    let is_in_code = |name: &&&str| {
        let field = format!("event = \"{name}\"");
        sources.iter().any(|text| text.contains(&field))
    };
    let removed: Vec<_> = documented.iter().filter(|name| !is_in_code(name)).collect();
    assert!(
        removed.is_empty(),
        "in docs/reference/events.md only: {removed:?}"
    );
}

fn collect_sources(dir: &Path, sources: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).expect("sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            sources.push(std::fs::read_to_string(&path).expect("a source"));
        }
    }
}
