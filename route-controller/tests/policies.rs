//! Every example of docs/policies.md does what the cases below it say: run as an operator runs them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;
use std::process::Command;

fn podroute(arguments: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_podroute"))
        .args(arguments)
        .output()
        .unwrap()
}

/// The blocks of the page in order, each with the heading before it.
fn blocks(page: &str) -> Vec<(String, String)> {
    let (mut heading, mut open, mut out) = (String::new(), None::<String>, Vec::new());
    for line in page.lines() {
        match &mut open {
            Some(_) if line == "```" => out.push((heading.clone(), open.take().unwrap())),
            Some(block) => {
                block.push_str(line);
                block.push('\n');
            }
            None if line == "```yml" => open = Some(String::new()),
            None if line.starts_with('#') => heading = line.trim_start_matches('#').trim().to_owned(),
            None => {}
        }
    }
    out
}

/// The example with the common peers; policies that it does not define accept everything.
fn config(peers: &str, example: &str) -> String {
    let missing: String = ["from-tor", "to-tor", "from-rr", "to-rr"]
        .into_iter()
        .filter(|name| !example.contains(&format!("\n  {name}:")))
        .map(|name| format!("  {name}: accept\n"))
        .collect();
    format!(
        "{peers}{}",
        example.replacen("policies:\n", &format!("policies:\n{missing}"), 1)
    )
}

#[test]
fn every_example_does_what_its_cases_say() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies.md");
    let blocks = blocks(&std::fs::read_to_string(page).unwrap());
    let ((_, peers), examples) = blocks.split_first().unwrap();
    assert!(
        examples.len() >= 40 && examples.len() % 2 == 0,
        "each example has its cases"
    );
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (file, cases_file) = (path("podroute.yaml"), path("cases.yaml"));
    let mut failed = Vec::new();
    for pair in examples.chunks(2) {
        let ((heading, example), (_, cases)) = (&pair[0], &pair[1]);
        assert!(cases.starts_with("cases:"), "{heading}: cases follow the example");
        std::fs::write(&file, config(peers, example)).unwrap();
        std::fs::write(&cases_file, cases).unwrap();
        let tested = podroute(&["policy", "test", &file, "--cases", &cases_file]);
        if !tested.status.success() {
            failed.push(format!("{heading}:\n{}", String::from_utf8_lossy(&tested.stderr)));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

const CONFIG: &str = "apiVersion: podroute/v1\ncluster: {asn: 64512}\nnode: {name: n}\npeers:\n\
    - {name: tor-a, address: 192.0.2.1, asn: 65001, import: in, export: in}\npolicies:\n  in:\n\
    - {name: mark, set: {med: 5}, action: continue}\n  - {match: {prefixes: [{in: 10.0.0.0/8}]}, action: accept}\n";

#[test]
fn a_route_is_followed_rule_by_rule() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("podroute.yaml");
    std::fs::write(&file, CONFIG.replace("\n- {name: mark", "\n  - {name: mark")).unwrap();
    let file = file.to_str().unwrap();
    let said = |route: &str| {
        let output = podroute(&["policy", "test", file, "--peer", "tor-a", "--import", route]);
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    assert_eq!(
        said("10.1.0.0/16 asPath=65001,7"),
        (
            true,
            "10.1.0.0/16 from tor-a: policy in\n  in[mark] (line 8): matches: continue\n  in[2] (line 9): matches: accept\n  \
             accepted (in[2])\n    med: none -> 5\n"
                .to_owned()
        )
    );
    assert_eq!(
        said("192.0.2.0/24"),
        (
            true,
            "192.0.2.0/24 from tor-a: policy in\n  in[mark] (line 8): matches: continue\n  in[2] (line 9): no match: prefixes\n  \
             rejected (no rule decides: policy in)\n"
                .to_owned()
        )
    );
    let refused = |arguments: &[&str], text: &str| {
        let output = podroute(&[&["policy", "test", file], arguments].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(text), "{error}");
    };
    refused(
        &["--peer", "tor-b", "--import", "10.0.0.0/8"],
        "no peer is named 'tor-b'; there are: tor-a",
    );
    refused(
        &["--peer", "tor-a", "--import", "10.0.0.0/8 colour=1"],
        "a route has no 'colour'",
    );
    let cases = dir.path().join("cases.yaml");
    let text = "cases:\n- {name: wrong, peer: tor-a, direction: import, route: {prefix: 10.0.0.0/8}, expect: reject}\n";
    std::fs::write(&cases, text).unwrap();
    refused(
        &["--cases", cases.to_str().unwrap()],
        "FAIL  wrong: expected reject",
    );
}
