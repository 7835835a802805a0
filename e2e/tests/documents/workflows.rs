//! The workflows call targets that the Makefile has, and actions by commit, which nobody can move.

use std::path::Path;

use serde_json::Value;

fn workflows() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/workflows");
    let mut found: Vec<(String, Value)> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, serde_yaml::from_str(&text).unwrap())
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Every job and step, with the workflow's name.
fn steps() -> Vec<(String, Value)> {
    let mut steps = Vec::new();
    for (name, workflow) in workflows() {
        for job in workflow["jobs"].as_object().unwrap().values() {
            steps.push((name.clone(), job.clone()));
            for step in job["steps"].as_array().into_iter().flatten() {
                steps.push((name.clone(), step.clone()));
            }
        }
    }
    steps
}

#[test]
fn actions_are_named_by_commit() {
    let mut count = 0;
    for (name, step) in steps() {
        let Some(uses) = step["uses"].as_str() else {
            continue;
        };
        if uses.starts_with("./") {
            continue;
        }
        let (_, commit) = uses.split_once('@').unwrap();
        let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
        assert!(is_commit, "{name}: {uses}");
        count += 1;
    }
    assert!(count >= 5, "{count}");
}

#[test]
fn workflows_call_targets_of_the_makefile() {
    let makefile =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Makefile")).unwrap();
    let mut called = Vec::new();
    for (name, step) in steps() {
        for line in step["run"].as_str().unwrap_or_default().lines() {
            let Some(target) = line.trim().strip_prefix("make ") else {
                continue;
            };
            let target = target.split(' ').next().unwrap();
            assert!(
                makefile
                    .lines()
                    .any(|line| line.starts_with(&format!("{target}:"))),
                "{name}: no target {target}"
            );
            called.push(target.to_owned());
        }
    }
    for target in [
        "build",
        "test",
        "lint",
        "audit",
        "dist",
        "dist-test",
        "dist-reproduce",
        "image",
    ] {
        assert!(
            called.iter().any(|called| called == target),
            "no workflow calls {target}"
        );
    }
}

#[test]
fn workflows_have_no_rights_but_those_of_their_jobs() {
    for (name, workflow) in workflows() {
        let contents = workflow["permissions"]["contents"].as_str();
        assert_eq!(contents, Some("read"), "{name}");
        assert_eq!(workflow["permissions"].as_object().unwrap().len(), 1, "{name}");
    }
}
