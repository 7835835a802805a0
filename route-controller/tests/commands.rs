//! The commands as a shell runs them.

#![expect(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn podroute(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_podroute"));
    command.args(arguments).env_remove("NODE_NAME");
    command
}

fn run(arguments: &[&str]) -> (bool, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = podroute(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.success(), text(stdout), text(stderr))
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> String {
    let path: PathBuf = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

const TWO_RACKS: &str = "apiVersion: podroute/v1
cluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}
peers:
- {name: tor-a, address: 192.0.2.1, asn: 65001, nodeSelector: {rack: a}, import: accept-all, export: accept-all}
- {name: tor-b, address: 192.0.2.2, asn: 65001, nodeSelector: {rack: b}, import: accept-all, export: accept-all}
- {name: n1, address: 192.0.2.3, asn: 64512, password: {file: /nowhere/key}}
";

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(&dir, "podroute.yaml", TWO_RACKS);
    let (reader, writer) = std::io::pipe().unwrap();
    // `| head -0`: nobody reads from the beginning.
    drop(reader);
    let mut command = podroute(&["check", "--explain", &config]);
    let out = command
        .stdout(Stdio::from(writer))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let out = out.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&out.stderr), "");
    assert_eq!(out.status.signal(), Some(libc::SIGPIPE), "as other commands");
}

#[test]
fn check_for_a_node_and_its_labels() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(&dir, "podroute.yaml", TWO_RACKS);
    let explained = |more: &[&str]| {
        let mut arguments = vec!["check", "--explain", &config];
        arguments.extend(more);
        run(&arguments).1
    };
    let here = explained(&["--labels", "rack=b"]);
    assert!(
        here.contains("the node has rack=b") && here.contains("tor-a: nodeSelector"),
        "{here}"
    );
    let there = explained(&["--labels", "rack=a", "--node", "n1"]);
    assert!(there.contains("it is this node itself, by name"), "{there}");
    assert!(!run(&["check", &config, "--labels", "rack"]).0);
}

#[test]
fn check_strictly_and_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let config = file(&dir, "podroute.yaml", TWO_RACKS);
    let (good, out, _) = run(&["check", &config]);
    assert!(
        good && out.contains("warning") && out.contains("/nowhere/key"),
        "{out}"
    );
    assert!(!run(&["check", "--strict", &config]).0);
    let (good, out, _) = run(&["check", "-o", "json", &config]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(
        good && value["good"] == true && value["problems"][0]["severity"] == "warning",
        "{out}"
    );
    let bad = file(&dir, "bad.yaml", "apiVersion: podroute/v1\ncluster: {asn: x}\n");
    let (good, out, _) = run(&["check", "-o", "json", &bad]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(
        !good && value["good"] == false && value["problems"][0]["line"] == 2,
        "{out}"
    );
}

#[test]
fn check_looks_into_a_config_map_and_shows_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let inner: String = TWO_RACKS.lines().map(|line| format!("    {line}\n")).collect();
    let head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: podroute}\ndata:\n  podroute.yaml: |\n";
    let (good, out, error) = run(&["check", &file(&dir, "map.yaml", &format!("{head}{inner}"))]);
    assert!(good && out.contains("data[podroute.yaml]: good"), "{out}{error}");
    let secret = TWO_RACKS.replace("{file: /nowhere/key}", "s3cr3t");
    for text in [&secret, &secret.replace("password", "pasword")] {
        let (good, out, error) = run(&["check", &file(&dir, "secret.yaml", text)]);
        assert!(
            !good && !out.contains("s3cr3t") && !error.contains("s3cr3t"),
            "{out}{error}"
        );
    }
}

fn run_with_input(arguments: &[&str], input: &str) -> (bool, String, String) {
    let mut command = podroute(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.success(), text(out.stdout), text(out.stderr))
}

#[test]
fn check_reads_standard_input() {
    let (good, out, error) = run_with_input(&["check", "-"], TWO_RACKS);
    assert!(good && out.contains("standard input: good"), "{out}{error}");
    let (good, _, error) = run_with_input(&["check", "-"], "cluster: {asn: x}\n");
    assert!(!good && error.contains("standard input:1:"), "{error}");
    // Without an agent it is read all the same.
    let (good, _, error) = run_with_input(&["diff", "-", "--run-dir", "/nowhere"], TWO_RACKS);
    assert!(
        !good && !error.contains("No such file or directory (os error 2): -"),
        "{error}"
    );
    assert!(error.contains("/nowhere"), "{error}");
}

/// As in the agent's container: NODE_NAME says which node it is, and the agent's file which labels that has.
#[test]
fn check_beside_an_agent_knows_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let racks: String = TWO_RACKS
        .lines()
        .filter(|line| !line.contains("n1"))
        .map(|line| format!("{line}\n"))
        .collect();
    let config = file(&dir, "podroute.yaml", &racks);
    let node = |rack: &str| serde_json::json!({ "uid": "1", "labels": {"rack": rack}, "blocks": [], "addresses": ["192.0.2.11"] });
    let known = serde_json::json!({
        "version": 2, "nodes": {"worker-1": node("b"), "worker-2": node("c")}, "services": {},
    });
    file(&dir, "cluster.json", &known.to_string());
    let run_dir = dir.path().to_str().unwrap();
    let check = |name: &str| {
        let out = podroute(&["check", &config, "--run-dir", run_dir])
            .env("NODE_NAME", name)
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    let here = check("worker-1");
    assert!(
        here.contains("good: 1 peer") && !here.contains("no peer is for this node"),
        "{here}"
    );
    let elsewhere = check("worker-2");
    assert!(elsewhere.contains("no peer is for this node"), "{elsewhere}");
}
