//! ADD and DEL killed before every system call that changes something, one after another, and mended in
//! each of the ways that a runtime has: DEL, GC, or the same ADD again.
//!
//! strace delivers the SIGKILL, so the moment is exact. The list of calls is the plugins' own; a call
//! that is not made any more ends its loop at once, and the test counts that enough were made.

#![cfg(test)]

mod lab;

use std::io::Write;
use std::process::{Command, Stdio};

use lab::{Lab, addresses, conf, sh, try_sh};
use serde_json::{Value, json};

const STRACE: &str = "/usr/bin/strace";

/// Runs a verb that is killed as it enters the `n`-th call of a kind. False: there is no such call.
fn killed_at(lab: &Lab, verb: &str, conf: &Value, call: &str, n: usize) -> bool {
    let plain = lab.command(verb, "c1", "/run/netns/p1", "podroute-cni");
    let mut command = Command::new(STRACE);
    command
        .args(["-o", "/dev/null", "-e", &format!("trace={call}")])
        .args(["-e", &format!("inject={call}:signal=SIGKILL:when={n}")])
        .arg(plain.get_program())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let written = child.stdin.take().unwrap().write_all(conf.to_string().as_bytes());
    // One that is killed at its first calls never reads.
    assert!(
        written
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() == std::io::ErrorKind::BrokenPipe),
        "{written:?}"
    );
    let out = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() || out.status.code().is_none(),
        "{verb} at {call} {n}: {said}"
    );
    !out.status.success()
}

fn mend(lab: &Lab, way: &str, conf: &Value) {
    match way {
        "DEL" => lab.del("c1", "/run/netns/p1", conf),
        "GC" => {
            let mut gc = conf.clone();
            gc["cni.dev/valid-attachments"] = json!([]);
            lab.cni("GC", "", "", &gc).unwrap();
        }
        _ => {
            let again = lab.cni("ADD", "c1", "/run/netns/p1", conf);
            if again.ok {
                let pod = addresses(&again.json)[0];
                assert!(
                    try_sh(&format!("ping -q -c1 -W2 {pod}")).status.success(),
                    "{pod}"
                );
            } else {
                assert_eq!(again.code(), 100, "the killed ADD had been done: {again:?}");
            }
            lab.del("c1", "/run/netns/p1", conf);
        }
    }
    lab.assert_clean();
    assert!(
        !sh("nft list ruleset 2>/dev/null").contains("10.244.1."),
        "the table has no pod"
    );
}

/// All addresses of the block can still be allocated: none leaked, none is given twice.
fn assert_whole(lab: &Lab, conf: &Value) {
    let mut ipam = conf.clone();
    ipam["type"] = json!("podroute-ipam");
    let ids: Vec<String> = (0..5).map(|i| format!("whole{i}")).collect();
    let mut allocated: Vec<_> = ids
        .iter()
        .flat_map(|id| addresses(&lab.add(id, "/run/netns/p1", &ipam)))
        .collect();
    allocated.sort();
    allocated.dedup();
    assert_eq!(allocated.len(), 10, "five of each family");
    assert_eq!(lab.cni("ADD", "more", "/run/netns/p1", &ipam).code(), 11);
    ids.iter().for_each(|id| lab.del(id, "", &ipam));
}

fn every_call(lab: &Lab, conf: &Value, after_add: &[&str], after_del: &[&str]) {
    let adding = [
        "mkdir",
        "openat",
        "flock",
        "symlink",
        "truncate",
        "write",
        "sendto",
        "setns",
        "ioctl",
        "exit_group",
    ];
    let removing = [
        "openat",
        "flock",
        "sendto",
        "renameat2",
        "truncate",
        "unlink",
        "exit_group",
    ];
    let mut kills = 0;
    for way in after_add {
        for call in adding {
            // The first ADD of a boot makes directories too.
            sh("rm -rf /run/podroute/ipam");
            for n in (1..).take_while(|n| killed_at(lab, "ADD", conf, call, *n)) {
                kills += 1;
                mend(lab, way, conf);
                if call == "mkdir" {
                    sh("rm -rf /run/podroute/ipam");
                } else if n % 4 == 0 {
                    assert_whole(lab, conf);
                }
            }
            lab.del("c1", "", conf);
            assert_whole(lab, conf);
        }
    }
    for way in after_del {
        for call in removing {
            let killed = |n: &usize| {
                lab.add("c1", "/run/netns/p1", conf);
                killed_at(lab, "DEL", conf, call, *n)
            };
            for _ in (1..).take_while(killed) {
                kills += 1;
                mend(lab, way, conf);
            }
            lab.assert_clean();
        }
        assert_whole(lab, conf);
    }
    println!("{kills} kills");
    assert!(kills > 50, "only {kills} kills");
}

#[test]
fn killed_before_every_call_that_changes_something() {
    lab::run(
        "killed_before_every_call_that_changes_something",
        &[STRACE],
        |lab| {
            lab.node(&["10.244.1.0/29", "fd00:10:244:1::/125"]);
            lab.netns("p1");
            let reserved = json!(["fd00:10:244:1::7"]);
            let conf = conf(json!({ "ipam": { "reserved": reserved } }));
            every_call(lab, &conf, &["DEL", "GC", "ADD"], &["DEL", "GC"]);
        },
    );
}

#[test]
fn the_same_with_the_egress_table() {
    lab::run(
        "the_same_with_the_egress_table",
        &[STRACE, "/usr/sbin/nft"],
        |lab| {
            lab.node(&["10.244.1.0/29", "fd00:10:244:1::/125"]);
            lab.netns("p1");
            let reserved = json!(["fd00:10:244:1::7"]);
            let masquerade = json!({ "enabled": true, "exempt": [] });
            let conf = conf(json!({ "mark": 7, "masquerade": masquerade, "ipam": { "reserved": reserved } }));
            every_call(lab, &conf, &["GC"], &["DEL"]);
        },
    );
}
