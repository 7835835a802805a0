//! A node in namespaces of its own, for tests that need a kernel.
//!
//! `run` starts the calling test again inside new mount, PID and network namespaces, where /run is
//! empty; when that process ends, however it ends, the kernel removes all that it made. Where this is
//! not possible (not root, or a tool is missing) the test prints that it is left out, and why.

#![allow(dead_code, reason = "each test binary uses its own part of the lab")]

use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

pub(crate) const NODE_V4: &str = "192.0.2.11";
pub(crate) const NODE_V6: &str = "2001:db8:a::11";
pub(crate) const REFERENCE: &str = "/usr/lib/cni";

const INSIDE: &str = "PODROUTE_LAB";

/// Runs `body` inside the lab; `test` is the name of the calling test, `needs` are files that must exist.
pub(crate) fn run(test: &str, needs: &[&str], body: fn(&Lab)) {
    if std::env::var_os(INSIDE).is_some() {
        return body(&Lab::build());
    }
    if let Some(why) = obstacle(needs) {
        println!("LEFT OUT: {test}: {why}");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["-mnpf", "--kill-child", "--mount-proc", "--"])
        .arg(exe)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(
        status.success(),
        "{test} failed inside its namespaces (output above)"
    );
}

fn obstacle(needs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("it needs root".into());
    }
    for tool in ["unshare", "ip", "ping"] {
        let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|d| Path::new(d).join(tool).exists());
        if !found {
            return Some(format!("the program {tool} is not installed"));
        }
    }
    let missing = needs.iter().find(|path| !Path::new(path).exists())?;
    Some(format!("{missing} is not installed"))
}

/// One node with an uplink and an empty state.
pub(crate) struct Lab {
    pub(crate) run_dir: PathBuf,
}

/// What a plugin answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) json: Value,
    pub(crate) stderr: String,
}

impl Answer {
    pub(crate) fn code(&self) -> u64 {
        assert!(!self.ok, "should have failed: {self:?}");
        self.json["code"]
            .as_u64()
            .unwrap_or_else(|| panic!("an error has a code: {self:?}"))
    }

    pub(crate) fn unwrap(self) -> Value {
        assert!(self.ok, "should have succeeded: {self:?}");
        self.json
    }
}

/// Addresses in a result, without their prefix lengths.
pub(crate) fn addresses(result: &Value) -> Vec<IpAddr> {
    let ips = result["ips"].as_array().cloned().unwrap_or_default();
    ips.iter()
        .map(|ip| {
            ip["address"]
                .as_str()
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .parse()
                .unwrap()
        })
        .collect()
}

pub(crate) fn sh(line: &str) -> String {
    let out = try_sh(line);
    assert!(
        out.status.success(),
        "{line}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub(crate) fn try_sh(line: &str) -> Output {
    Command::new("sh")
        .arg("-c")
        .arg(line)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn conf(extra: Value) -> Value {
    let mut conf = json!({ "cniVersion": "1.1.0", "name": "pods", "type": "podroute-cni" });
    for (key, value) in extra.as_object().unwrap() {
        conf[key] = value.clone();
    }
    conf
}

impl Lab {
    fn build() -> Self {
        sh("mount -t tmpfs none /run && mkdir -p /run/podroute /run/netns /run/lock && ip link set lo up");
        sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
        sh(&format!(
            "ip addr add {NODE_V4}/24 dev up0 && ip addr add {NODE_V6}/64 dev up0 nodad"
        ));
        sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
        let lab = Self {
            run_dir: "/run/podroute".into(),
        };
        lab.node(&["10.244.1.0/24", "fd00:10:244:1::/64"]);
        lab
    }

    /// Writes node.json as the agent does.
    pub(crate) fn node(&self, blocks: &[&str]) {
        let node = json!({
            "version": 1, "node": "node-1", "blocks": blocks,
            "podCIDRs": ["10.244.0.0/16", "fd00:10:244::/48"], "mtu": 1500,
            "nodeAddresses": [NODE_V4, NODE_V6],
        });
        let (temporary, path) = (self.run_dir.join("node.json.new"), self.run_dir.join("node.json"));
        std::fs::write(&temporary, node.to_string()).unwrap();
        std::fs::rename(temporary, path).unwrap();
    }

    /// Makes a pod's network namespace.
    pub(crate) fn netns(&self, name: &str) -> String {
        sh(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        format!("/run/netns/{name}")
    }

    pub(crate) fn command(&self, verb: &str, container: &str, netns: &str, plugin: &str) -> Command {
        let path = match plugin {
            "podroute-cni" => env!("CARGO_BIN_EXE_podroute-cni").into(),
            "podroute-ipam" => env!("CARGO_BIN_EXE_podroute-ipam").into(),
            other => format!("{REFERENCE}/{other}"),
        };
        let ours = Path::new(env!("CARGO_BIN_EXE_podroute-ipam")).parent().unwrap();
        let mut command = Command::new(path);
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns)
            .env("CNI_PATH", format!("{}:{REFERENCE}", ours.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// One plugin, one verb.
    pub(crate) fn cni(&self, verb: &str, container: &str, netns: &str, conf: &Value) -> Answer {
        let plugin = conf["type"].as_str().unwrap_or("podroute-cni").to_owned();
        ask(self.command(verb, container, netns, &plugin), &conf.to_string())
    }

    /// ADD that must succeed.
    pub(crate) fn add(&self, container: &str, netns: &str, conf: &Value) -> Value {
        self.cni("ADD", container, netns, conf).unwrap()
    }

    /// DEL that must succeed.
    pub(crate) fn del(&self, container: &str, netns: &str, conf: &Value) {
        self.cni("DEL", container, netns, conf).unwrap();
    }

    /// A list of plugins, executed as libcni does: in order for ADD and CHECK, backwards for DEL, each
    /// given the result of the one before (or, for DEL and CHECK, the whole ADD's result).
    pub(crate) fn list(
        &self,
        verb: &str,
        container: &str,
        netns: &str,
        list: &Value,
        previous: Option<&Value>,
    ) -> Answer {
        let mut plugins = list["plugins"].as_array().unwrap().clone();
        if verb == "DEL" {
            plugins.reverse();
        }
        let mut last = Answer {
            ok: true,
            json: Value::Null,
            stderr: String::new(),
        };
        let mut handed = previous.cloned();
        for mut plugin in plugins {
            plugin["cniVersion"] = list["cniVersion"].clone();
            plugin["name"] = list["name"].clone();
            if let Some(result) = &handed {
                plugin["prevResult"] = result.clone();
            }
            last = self.cni(verb, container, netns, &plugin);
            if !last.ok {
                return last;
            }
            if verb == "ADD" {
                handed = Some(last.json.clone());
            }
        }
        last
    }

    /// Claims in the state, sorted.
    pub(crate) fn claims(&self) -> Vec<String> {
        let out = try_sh(&format!("ls {}/ipam/*/addr 2>/dev/null", self.run_dir.display()));
        let mut claims: Vec<String> = String::from_utf8_lossy(&out.stdout)
            .lines()
            .map(str::to_owned)
            .collect();
        claims.sort();
        claims
    }

    /// Asserts that nothing of podroute is left: no claim, record, interface or route.
    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.claims(), Vec::<String>::new(), "claims");
        let records = try_sh(&format!("ls {}/ipam/*/pod 2>/dev/null", self.run_dir.display()));
        assert_eq!(String::from_utf8_lossy(&records.stdout), "", "records");
        let links = sh("ip -o link | cut -d: -f2 | grep ' pod' || true");
        assert_eq!(links, "", "interfaces");
        assert_eq!(
            sh("ip route show proto 246; ip -6 route show proto 246"),
            "",
            "routes"
        );
    }
}

/// Feeds a plugin its configuration and reads its answer.
pub(crate) fn ask(mut command: Command, input: &str) -> Answer {
    let mut child = command.spawn().unwrap();
    // A plugin may end without reading; that is its own affair.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let out = child.wait_with_output().unwrap();
    let json = if out.stdout.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&out.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&out.stdout)))
    };
    Answer {
        ok: out.status.success(),
        json,
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}
