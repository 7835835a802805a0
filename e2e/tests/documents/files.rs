//! Every podroute.yaml of the pages passes `podroute check`; every shell block runs somewhere, or says why not.

use std::process::Command;

use crate::blocks::{Block, blocks};
use crate::pages::{self, Page};

/// What stands in front of an excerpt.
const HEAD: &str =
    "apiVersion: podroute/v1\ncluster: {asn: 64512, podCIDRs: [10.244.0.0/16, \"fd00:10:244::/48\"]}\n";

/// The whole file that a block stands for; `None` for objects of Kubernetes.
fn whole(block: &Block) -> Result<Option<String>, String> {
    let has = |key: &str| block.text.lines().any(|line| line.starts_with(key));
    if has("apiVersion: podroute/v1") {
        return Ok(Some(block.text.clone()));
    }
    if has("kind:") {
        return Ok(None);
    }
    if block.mark("excerpt").is_none() && block.mark("replaces").is_none() {
        return Err(
            "neither a whole podroute.yaml, nor an object of Kubernetes, nor marked `excerpt`".to_owned(),
        );
    }
    let head = HEAD.lines().filter(|line| {
        let key = line.split(':').next().unwrap();
        !has(&format!("{key}:"))
    });
    let head: String = head.map(|line| format!("{line}\n")).collect();
    Ok(Some(format!("{head}{}", block.text)))
}

fn check(text: &str) -> Result<(), String> {
    let dir = std::env::temp_dir().join(format!("podroute-documents-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let file = dir.join("podroute.yaml");
    std::fs::write(&file, text).unwrap();
    let podroute = lab::bins::find("podroute").unwrap();
    let out = Command::new(podroute).arg("check").arg(&file).output().unwrap();
    let _ = std::fs::remove_dir_all(&dir);
    if out.status.success() {
        return Ok(());
    }
    Err(format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    ))
}

#[test]
fn every_configuration_passes_check() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages::all() {
        for block in blocks(&page).iter().filter(|block| block.language == "yaml") {
            let text = whole(block);
            if text == Ok(None) {
                continue;
            }
            count += 1;
            let outcome = text.and_then(|text| check(&text.unwrap_or_default()));
            if let Err(error) = outcome {
                wrong.push(format!("{}:{}: {error}", page.name, block.line + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 20, "only {count} configurations");
}

/// Whether a shell block is run by one of these tests.
fn is_run(page: &Page, block: &Block) -> bool {
    let in_lab = !block.machines().is_empty() && crate::runs::has_lab(page);
    let on_two_machines = block.mark("two-machines").is_some() && page.name == crate::two_machines::PAGE;
    in_lab || on_two_machines
}

#[test]
fn every_shell_block_runs_or_says_why_not() {
    let shells = ["sh", "console", "bash", "shell"];
    let mut wrong = Vec::new();
    for page in pages::all() {
        for block in blocks(&page) {
            if !shells.contains(&block.language.as_str()) {
                continue;
            }
            let reason = block.mark("not-run").filter(|reason| !reason.is_empty());
            if reason.is_some() == is_run(&page, &block) {
                wrong.push(format!("{}:{}", page.name, block.line + 1));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "a shell block is run by a lab or has a mark not-run=\"reason\", one of both:\n{}",
        wrong.join("\n")
    );
}
