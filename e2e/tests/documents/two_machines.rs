//! The shell blocks of docs/get-started.md's 'Two machines', run as they stand, on two machines in namespaces.
//!
//! `sudo` is a program that runs what it is given, `make build` has been done: `target/x/release` has the programs. All else,
//! paths included, is as on a new machine: /run, /etc/podroute, /usr/local/bin and /opt/cni are empty.

use std::fs;
use std::path::Path;

use crate::blocks::blocks;
use crate::page_lab::in_namespaces;
use crate::pages;

pub(crate) const PAGE: &str = "docs/get-started.md";

/// The blocks of this walk, by the name that each is marked with.
fn step(name: &str) -> String {
    let all = blocks(&pages::page(PAGE));
    let mut found = all
        .into_iter()
        .filter(|block| block.mark("two-machines") == Some(name));
    let block = found
        .next()
        .unwrap_or_else(|| panic!("{PAGE}: no block two-machines={name}"));
    assert!(found.next().is_none(), "{PAGE}: two blocks two-machines={name}");
    block.text
}

/// "on the second exchange 11 and 12, and .1. and .2."
fn exchanged(text: &str) -> String {
    let swap = |text: &str, a: &str, b: &str| text.replace(a, "\0").replace(b, a).replace('\0', b);
    let text = swap(text, "192.0.2.11", "192.0.2.12");
    let text = swap(&text, "node-1", "node-2");
    swap(&text, "10.244.1.", "10.244.2.")
}

/// One machine: what it runs, in the order of the page. The agent runs beside what comes after it, as on another terminal.
fn machine(number: u8) -> String {
    let [install, yaml, run, pod] = ["install", "file", "run", "pod"].map(step);
    let (yaml, ping) = if number == 1 {
        (yaml, "")
    } else {
        (exchanged(&yaml), "grep -v ping |")
    };
    let other = 3 - number;
    // `show` waits for what the page says it shows; the ping waits for the other machine's route and pod.
    let lines = |text: &str, word: &str| -> String {
        let found = text.lines().filter(|line| line.contains(word));
        found.map(|line| format!("{line}\n")).collect()
    };
    let (check, agent, show) = (
        lines(&run, "podroute check"),
        lines(&run, "podroute run"),
        lines(&run, "podroute show"),
    );
    assert!(
        !check.is_empty() && !agent.is_empty() && !show.is_empty(),
        "{run}"
    );
    format!(
        r#"set -e
mount -t tmpfs none /run && mkdir /run/netns
mkdir /run/etc && cp -a /etc/. /run/etc && rm -rf /run/etc/podroute && mount --bind /run/etc /etc
mount -t tmpfs none /usr/local/bin && mount -t tmpfs none /opt
export PATH=/usr/local/bin:$WORK/shims:/usr/sbin:/usr/bin:/sbin:/bin
cd $WORK
{install}
cat >/etc/podroute/podroute.yaml <<'YAML'
{yaml}
YAML
{check}
( {agent} ) >$WORK/agent-{number}.log 2>&1 &
until ( {show} ) 2>/dev/null | grep -q Established; do sleep 0.1; done
until ip route show 10.244.{other}.0/24 proto 245 | grep -q via; do sleep 0.1; done
cat >pod-{number}.sh <<'POD'
{pod}
POD
if [ {number} = 1 ]; then
  until [ -e pod-2.done ]; do sleep 0.1; done
  sh -e pod-1.sh
  touch pod-1.done
else
  cat pod-2.sh | {ping} sh -e
  touch pod-2.done
  until [ -e pod-1.done ]; do sleep 0.1; done
fi
"#
    )
}

#[test]
fn two_machines() {
    if !nix::unistd::geteuid().is_root() {
        println!("LEFT OUT: it needs root");
        return;
    }
    let work = std::env::temp_dir().join(format!("podroute-two-machines-{}", std::process::id()));
    let (release, shims) = (work.join("target/x/release"), work.join("shims"));
    fs::create_dir_all(&release).unwrap();
    fs::create_dir_all(&shims).unwrap();
    for name in ["podroute", "podroute-cni", "podroute-ipam"] {
        let program = lab::bins::find(name).unwrap();
        fs::copy(program, release.join(name)).unwrap();
    }
    let shim = |name: &str, text: &str| {
        let path = shims.join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    shim("sudo", r#"exec env "$@""#);
    shim("make", "exit 0");
    for number in [1, 2] {
        fs::write(work.join(format!("machine-{number}.sh")), machine(number)).unwrap();
    }
    let script = r#"set -e
mount --make-rprivate / && mount -t tmpfs none /run
ip netns add m1 && ip netns add m2
ip link add name eth0 netns m1 type veth peer name eth0 netns m2
ip -n m1 addr add 192.0.2.11/24 dev eth0 && ip -n m2 addr add 192.0.2.12/24 dev eth0
for m in m1 m2; do ip -n $m link set eth0 up; ip -n $m link set lo up; done
ip netns exec m2 unshare --mount sh -e $WORK/machine-2.sh &
second=$!
ip netns exec m1 unshare --mount sh -e $WORK/machine-1.sh
wait $second
"#;
    let out = in_namespaces("timeout")
        .args(["60", "sh", "-c", script])
        .env("WORK", &work)
        .output()
        .unwrap();
    let log = |number: u8| fs::read_to_string(work.join(format!("agent-{number}.log"))).unwrap_or_default();
    let said = format!(
        "{}{}\n{}\n{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
        log(1),
        log(2)
    );
    let _ = fs::remove_dir_all(Path::new(&work));
    assert!(out.status.success(), "{said}");
    assert!(said.contains("1 received"), "{said}");
}
