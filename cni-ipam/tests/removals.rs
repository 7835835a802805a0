//! The agent's hand with many DELs: what it removes, what it refuses, and that a DEL never needs it.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]

mod lab;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};

use lab::{Lab, conf, sh};
use serde_json::json;

/// Adds pods and returns the names of their host interfaces.
fn add(lab: &Lab, count: usize) -> Vec<String> {
    let host_interface = |pod: usize| {
        let netns = lab.netns(&format!("p{pod}"));
        let result = lab.add(&format!("c{pod}"), &netns, &conf(json!({})));
        result["interfaces"][0]["name"].as_str().unwrap().to_owned()
    };
    (0..count).map(host_interface).collect()
}

/// One question, as bytes; what came back.
fn question(lab: &Lab, line: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(lab.run_dir.join("links.sock")).unwrap();
    stream.write_all(line.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/net").unwrap().ino()
}

#[test]
fn concurrent_removals_go_together() {
    lab::run("concurrent_removals_go_together", &[], |lab| {
        let names = add(lab, 24);
        cni_ipam::serve_removals(&lab.run_dir).unwrap();
        assert_eq!(question(lab, &format!("{} {}\n", namespace(), names[0])), b"1");
        assert!(!std::path::Path::new(&format!("/sys/class/net/{}", names[0])).exists());
        std::thread::scope(|scope| {
            for pod in 0..24 {
                scope.spawn(move || lab.del(&format!("c{pod}"), "", &conf(json!({}))));
            }
        });
        lab.assert_clean();
    });
}

#[test]
fn only_our_own_interfaces_of_this_namespace_are_removed() {
    lab::run(
        "only_our_own_interfaces_of_this_namespace_are_removed",
        &[],
        |lab| {
            let names = add(lab, 1);
            cni_ipam::serve_removals(&lab.run_dir).unwrap();
            let elsewhere = format!("{} {}\n", namespace() + 1, names[0]);
            let foreign = format!("{} up0\n", namespace());
            let unfinished = format!("{} {}", namespace(), names[0]);
            for line in [elsewhere, foreign, unfinished, "\n".to_owned(), "x".repeat(4096)] {
                // Nothing, or a reset where bytes were left unread.
                let answer = std::panic::catch_unwind(|| question(lab, &line)).unwrap_or_default();
                assert!(answer.is_empty(), "{line}");
            }
            sh(&format!("ip link show up0 && ip link show {}", names[0]));
            lab.del("c0", "", &conf(json!({})));
            lab.assert_clean();
        },
    );
}

#[test]
fn a_del_needs_no_agent() {
    lab::run("a_del_needs_no_agent", &[], |lab| {
        add(lab, 3);
        let path = lab.run_dir.join("links.sock");
        // A killed agent's socket.
        drop(UnixListener::bind(&path).unwrap());
        lab.del("c0", "", &conf(json!({})));
        // An agent that hangs.
        std::fs::remove_file(&path).unwrap();
        let hanging = UnixListener::bind(&path).unwrap();
        lab.del("c1", "", &conf(json!({})));
        // An agent that dies before its answer.
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| hanging.incoming().take(2).for_each(drop));
            lab.del("c2", "", &conf(json!({})));
            asked.join().unwrap();
        });
        lab.assert_clean();
    });
}
