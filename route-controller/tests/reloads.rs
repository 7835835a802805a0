//! A reload ends where a start would: one agent goes from configuration to configuration, another starts with each of them, and
//! both have the same sessions, routes, kernel routes and sockets then, as their routers see it too. In network namespaces; left
//! out without the right to make them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(50);
const STEPS: usize = 8;
/// What differs from one session, or moment, to the next.
const PASSING: [&str; 17] = [
    "uptimeSeconds",
    "timesEstablished",
    "messagesReceived",
    "messagesSent",
    "updatesReceived",
    "lastSent",
    "lastReceived",
    "lastError",
    "lastEnd",
    "lastEndSeconds",
    "hint",
    "unwrittenBytes",
    "memoryBytes",
    "holdSeconds",
    "pathId",
    "nexthopObject",
    "sinceSeconds",
];

/// A network namespace; it ends with its process.
struct Namespace(Child);

impl Namespace {
    fn new() -> Option<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut up = [0; 3];
        let out = child.stdout.as_mut().unwrap();
        match std::io::Read::read_exact(out, &mut up) {
            Ok(()) => Some(Self(child)),
            Err(_) => {
                let _ = child.wait();
                None
            }
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.0.id()));
        command.arg(program).env_remove("NODE_NAME");
        command
    }

    fn run(&self, program: &str, arguments: &str) -> String {
        let mut command = self.command(program);
        let output = command.args(arguments.split_whitespace()).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An agent, and what belongs to it.
struct Agent {
    namespace: Namespace,
    dir: tempfile::TempDir,
    child: Option<Child>,
}

impl Agent {
    fn new(namespace: Namespace) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self {
            namespace,
            dir,
            child: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, yaml: &str) {
        std::fs::write(self.path("podroute.yaml"), yaml).unwrap();
    }

    fn start(&mut self, yaml: &str) {
        self.write(yaml);
        let log = std::fs::File::create(self.path("log")).unwrap();
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_podroute"));
        command.args(["run", "--config"]).arg(self.path("podroute.yaml"));
        command.arg("--run-dir").arg(self.path("run"));
        self.child = Some(command.stderr(log).stdout(Stdio::null()).spawn().unwrap());
        until("the agent answers", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "the agent ended: {}\n{yaml}", self.log());
            self.ask("show peers").map(drop)
        });
    }

    /// It ends, and nothing of it stays.
    fn end(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        let _ = child.kill();
        let _ = child.wait();
        self.podroute("cleanup").unwrap();
        std::fs::remove_dir_all(self.path("run")).unwrap();
    }

    fn podroute(&self, arguments: &str) -> Result<String, String> {
        let mut command = self.namespace.command(env!("CARGO_BIN_EXE_podroute"));
        command
            .args(arguments.split_whitespace())
            .arg("--run-dir")
            .arg(self.path("run"));
        let output = command.output().unwrap();
        let text = |octets| String::from_utf8_lossy(octets).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(format!("podroute {arguments}: {}", text(&output.stderr))),
        }
    }

    fn ask(&self, question: &str) -> Result<Value, String> {
        let text = self.podroute(&format!("{question} --output json"))?;
        serde_json::from_str(&text).map_err(|error| format!("{question}: {error}: {text}"))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) => assert!(start.elapsed() < LIMIT, "{what}: {why}"),
        }
        std::thread::sleep(INTERVAL);
    }
}

/// A node and its router.
struct Pair {
    node: Agent,
    router: Agent,
}

const ROUTER: &str = "apiVersion: podroute/v1
cluster: {asn: 65001}
node: {name: router, routerId: 192.0.2.1}
fib: off
peers:
- {name: nodes, listenRange: 192.0.2.0/24, asn: 64512, import: accept-all, export: marked, gracefulRestart: {restartTime: 0}}
- {name: nodes-6, listenRange: \"2001:db8::/64\", asn: 64512, import: accept-all, export: accept-all, gracefulRestart: {restartTime: 0}}
originate:
- {prefix: 10.244.10.0/24, communities: [\"65001:1\"]}
- {prefix: 10.244.11.0/24, communities: [\"65001:2\"]}
- {prefix: 10.244.12.0/24}
- {prefix: 198.51.100.0/24}
- {prefix: \"fd00:10:10::/64\"}
policies:
  marked:
  - {match: {prefixes: [10.244.12.0/24]}, set: {med: 7}, action: accept}
  - {action: accept}
";

impl Pair {
    fn new() -> Option<Self> {
        let (node, router) = (Namespace::new()?, Namespace::new()?);
        let there = router.0.id();
        node.run(
            "ip",
            &format!("link add eth0 type veth peer name eth0 netns {there}"),
        );
        for (end, last) in [(&node, 11), (&router, 1)] {
            end.run("ip", &format!("addr add 192.0.2.{last}/24 dev eth0"));
            end.run("ip", &format!("addr add 2001:db8::{last}/64 dev eth0 nodad"));
            end.run("ip", "link set eth0 up");
        }
        let (node, mut router) = (Agent::new(node), Agent::new(router));
        router.start(ROUTER);
        Some(Self { node, router })
    }

    /// Whether sessions are up that should be, and all routes have come.
    fn settled(&self) -> Result<(), String> {
        let peers = self.node.ask("show peers")?;
        for peer in peers["peers"].as_array().unwrap() {
            let is_there = peer["name"].as_str().is_some_and(|name| name.starts_with("tor"));
            let should_be_up = is_there && peer["enabled"] == true;
            if should_be_up != (peer["state"] == "Established") {
                return Err(format!("{peer}"));
            }
        }
        Ok(())
    }

    /// What there is, in a form that can be compared.
    fn state(&self) -> Result<String, String> {
        self.settled()?;
        let mut text = String::new();
        let mut add = |what: &str, found: &str| writeln!(text, "== {what}\n{found}").unwrap();
        for question in ["peers", "routes", "fib", "blocks", "policies", "bfd"] {
            let mut answer = self.node.ask(&format!("show {question}"))?;
            forget_passing(&mut answer);
            add(question, &serde_json::to_string_pretty(&answer).unwrap());
        }
        let mut received = self.router.ask("show routes")?;
        forget_passing(&mut received);
        add(
            "routes of the router",
            &serde_json::to_string_pretty(&received).unwrap(),
        );
        for question in [
            "-o -4 route show proto 245",
            "-o -6 route show proto 245",
            "rule",
            "-6 rule",
        ] {
            let found = self.node.namespace.run("ip", question);
            add(question, &lines_without_ids(&found));
        }
        let objects = self.node.namespace.run("ip", "nexthop show proto 245");
        add("nexthop objects", &objects.lines().count().to_string());
        let sockets = self.node.namespace.run("ss", "-Hltn");
        let listening: BTreeSet<&str> = sockets
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3))
            .collect();
        add("sockets", &format!("{listening:?}"));
        let file = std::fs::read_to_string(self.node.path("run/node.json"));
        add("node.json", &file.unwrap_or_default());
        Ok(text)
    }
}

/// Sorted, without the ids of nexthop objects; next hops are sorted too.
fn lines_without_ids(text: &str) -> String {
    let of = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ids = words.iter().position(|word| *word == "nhid");
        let kept = words
            .iter()
            .enumerate()
            .filter(|(at, _)| ids.is_none_or(|id| *at != id && *at != id + 1));
        let line = kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ");
        let mut parts: Vec<&str> = line.split(" \\ ").collect();
        parts[1..].sort_unstable();
        parts.join(" ")
    };
    let lines: BTreeSet<String> = text.lines().map(of).collect();
    lines.into_iter().collect::<Vec<_>>().join("\n")
}

fn forget_passing(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !PASSING.contains(&name.as_str()));
            // Between two attempts a session is in one of several.
            if ["Idle", "Active", "OpenSent", "OpenConfirm"]
                .contains(&fields.get("state").and_then(Value::as_str).unwrap_or_default())
            {
                fields.insert("state".to_owned(), "Connect".into());
            }
            fields.values_mut().for_each(forget_passing);
        }
        // Equal paths and next hops are in the order in which they came.
        Value::Array(items) => {
            items.iter_mut().for_each(forget_passing);
            items.sort_by_cached_key(Value::to_string);
        }
        _ => {}
    }
}

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn one_of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        all[usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % all.len()]
    }
}

/// Any configuration of a node whose fields all apply with a reload, or a new session.
fn configuration(random: &mut Random) -> String {
    let mut pick = |all: &[&'static str]| random.one_of(all);
    let imports = ["accept-all", "reject-all", "chosen", "[chosen, accept-all]"];
    let exports = ["accept-all", "reject-all", "to-tor"];
    let listen = pick(&[
        "{}",
        "{port: 1790}",
        "{enabled: false}",
        "{addresses: [127.0.0.1]}",
    ]);
    // A range needs a listening socket.
    let ranges: &[&str] = match listen {
        "{enabled: false}" => &[""],
        _ => &["", "- {name: others, listenRange: 198.51.100.0/24, asn: 65010}\n"],
    };
    format!(
        "apiVersion: podroute/v1
cluster: {{asn: 64512, podCIDRs: [10.244.0.0/16, \"fd00:10::/32\"]}}
node: {{name: node, routerId: 192.0.2.11, blocks: {blocks}, mtu: {mtu}}}
listen: {listen}
fib: {{metric: {metric}, maxPaths: {max_paths}, nexthopObjects: {objects}}}
{metrics}{bmp}{originate}peers:
- {{name: tor, address: 192.0.2.1, asn: 65001, families: {families}, import: {import}, export: {export}, shutdown: {shutdown},
   timers: {{hold: {hold}, connectRetry: 100ms}}, maxPrefixes: {most}, removePrivateAs: {private}, addPath: {{receive: {several}}}, gracefulRestart: {{restartTime: {restart}}}}}
{tor_6}{ghost}{range}lists:
  chosen: {{prefixes: [10.244.10.0/24, {more}]}}
policies:
  chosen:
  - {{match: {{prefixes: $chosen}}, set: {{localPreference: {preference}}}, action: accept}}
  - {{match: {{communities: [\"65001:2\"]}}, set: {{communities: {{add: [\"64512:7\"]}}}}, action: {action}}}
  to-tor:
  - {{match: {{source: [podBlock]}}, set: {{med: {med}}}, action: accept}}
  - {{match: {{source: [static]}}, action: {static_action}}}
",
        blocks = pick(&["[]", "[10.244.1.0/24]", "[10.244.1.0/24, \"fd00:10:1::/64\"]", "[10.244.11.0/24]"]),
        mtu = pick(&["auto", "1400"]),
        metric = pick(&["20", "30"]),
        max_paths = pick(&["1", "8"]),
        objects = pick(&["true", "false"]),
        metrics = pick(&["", "metrics: {port: 9179}\n", "metrics: {port: 9180}\n"]),
        bmp = pick(&["", "bmp: [{address: 127.0.0.1}]\n"]),
        originate = pick(&[
            "",
            "originate: [{prefix: 203.0.113.5/32, communities: [\"64512:50\"]}]\n",
            "originate: [{prefix: 0.0.0.0/0, when: {present: 198.51.100.0/24}}, {aggregate: 10.244.0.0/16}]\n",
        ]),
        families = pick(&["[ipv4]", "[ipv4, ipv6]"]),
        import = pick(&imports),
        export = pick(&exports),
        shutdown = pick(&["false", "false", "false", "true"]),
        hold = pick(&["9s", "90s"]),
        most = pick(&["100", "{limit: 50, action: warn}"]),
        private = pick(&["keep", "remove"]),
        several = pick(&["true", "false"]),
        restart = pick(&["0", "60s"]),
        tor_6 = pick(&[
            "",
            "- {name: tor-6, address: \"2001:db8::1\", asn: 65001, import: accept-all, export: accept-all, timers: {connectRetry: 100ms}}\n",
            "- {name: tor-6, address: \"2001:db8::1\", asn: 65001, import: chosen, export: to-tor, timers: {connectRetry: 100ms}}\n",
        ]),
        ghost = pick(&["", "- {name: ghost, address: 192.0.2.99, asn: 65009, bfd: {interval: 100ms}}\n"]),
        range = pick(ranges),
        more = pick(&["10.244.12.0/24", "\"fd00:10:10::/64\"", "198.51.100.0/24"]),
        preference = pick(&["100", "200"]),
        action = pick(&["accept", "reject"]),
        med = pick(&["1", "2"]),
        static_action = pick(&["accept", "reject"]),
    )
}

/// Lines of one that the other lacks.
fn difference(one: &str, other: &str) -> String {
    let mut text = String::new();
    let mut part = "";
    for line in one.lines() {
        if line.starts_with("== ") {
            part = line;
        } else if !other.lines().any(|it| it == line) {
            writeln!(text, "{part}: {}", line.trim()).unwrap();
        }
    }
    text
}

fn history(seed: u64) {
    let (Some(mut reloaded), Some(mut started)) = (Pair::new(), Pair::new()) else {
        println!("left out: no network namespace");
        return;
    };
    let mut random = Random(seed);
    reloaded.node.start(&configuration(&mut random));
    for step in 0..STEPS {
        let yaml = configuration(&mut random);
        reloaded.node.write(&yaml);
        reloaded
            .node
            .podroute("reload")
            .unwrap_or_else(|why| panic!("{why}\n{yaml}"));
        started.node.end();
        started.node.start(&yaml);
        let start = Instant::now();
        loop {
            let states = reloaded
                .state()
                .and_then(|one| started.state().map(|other| (one, other)));
            let why = match states {
                Ok((one, other)) if one == other => break,
                Ok((one, other)) => format!(
                    "after the reload:\n{}after a start:\n{}",
                    difference(&one, &other),
                    difference(&other, &one)
                ),
                Err(why) => why,
            };
            assert!(
                start.elapsed() < LIMIT,
                "seed {seed}, step {step}: {why}\n{yaml}\n{}",
                reloaded.node.log()
            );
            std::thread::sleep(INTERVAL);
        }
    }
}

#[test]
fn a_reload_ends_where_a_start_would() {
    let first = std::env::var("FIRST_SEED").map_or(0, |first| first.parse().unwrap());
    let count = std::env::var("SEEDS").map_or(3, |count| count.parse().unwrap());
    (first..first + count).for_each(history);
}
