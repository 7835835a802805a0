//! podroute-cni beside the floor and Debian's ptp and bridge with host-local; see docs/cni.md.
//!
//! Run as root: `cargo build --release -p cni-ipam --bins --examples`, then `bench [rounds]`. It enters
//! namespaces of its own, so nothing is left on the host. Contenders take turns within each round, so
//! that a noisy machine is noisy for all. Prints medians, 99th percentiles and ratios to the floor.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark that cannot run says so by panicking"
)]

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

const PARALLEL: [usize; 2] = [10, 40];
/// Before each verb: what the one before left for the kernel to do later must not be waited for here.
const REST: Duration = Duration::from_millis(20);

fn main() {
    if std::env::var_os("PODROUTE_BENCH_INSIDE").is_none() {
        let status = Command::new("unshare")
            .args(["-mnpf", "--kill-child", "--mount-proc", "--"])
            .args(std::env::args())
            .env("PODROUTE_BENCH_INSIDE", "1")
            .status()
            .unwrap();
        std::process::exit(status.code().unwrap_or(1));
    }
    let rounds = std::env::args()
        .nth(1)
        .and_then(|r| r.parse().ok())
        .unwrap_or(200);
    build_node();
    let contenders = contenders();
    sequential(&contenders, rounds);
    for pods in PARALLEL {
        parallel(&contenders, pods, rounds);
    }
    status(rounds);
    garbage(200);
    sizes(rounds);
    first_packets(1000);
}

fn sh(line: &str) {
    let status = Command::new("sh")
        .arg("-c")
        .arg(line)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "{line}");
}

fn node(blocks: &[&str]) {
    let node = json!({ "version": 1, "blocks": blocks, "mtu": 1500, "nodeAddresses": ["192.0.2.11", "2001:db8:a::11"] });
    std::fs::write("/run/podroute/node.json", node.to_string()).unwrap();
}

fn build_node() {
    sh("mount -t tmpfs none /run && mkdir -p /run/podroute /run/netns /run/lock && ip link set lo up");
    sh("ip link add up0 type veth peer name up1 && ip link set up0 up && ip link set up1 up");
    sh("ip addr add 192.0.2.11/24 dev up0 && ip addr add 2001:db8:a::11/64 dev up0 nodad");
    sh("echo 1 >/proc/sys/net/ipv4/ip_forward; echo 1 >/proc/sys/net/ipv6/conf/all/forwarding");
    sh(&format!(
        "for i in $(seq 0 {}); do ip netns add p$i; done",
        PARALLEL[1] - 1
    ));
    node(&["10.244.0.0/16", "fd00:10:244:1::/64"]);
}

fn binary(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let examples = here.parent().unwrap();
    [examples.join(name), examples.parent().unwrap().join(name)]
        .into_iter()
        .find(|p| p.is_file())
        .unwrap()
}

/// Something that can add and remove a pod.
struct Contender {
    name: &'static str,
    program: PathBuf,
    /// None: the floor, which takes arguments instead.
    conf: Option<Value>,
    addresses: &'static [&'static str],
}

impl Contender {
    fn command(&self, verb: &str, id: &str, pod: usize) -> (Command, String) {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        let netns = format!("/run/netns/p{pod}");
        let Some(conf) = &self.conf else {
            if verb == "ADD" {
                command.args(["add", &netns, id]);
                // Each parallel pod has addresses of its own.
                command.args(self.addresses.iter().map(|a| format!("{a}{}", pod + 10)));
            } else {
                command.args(["del", id]);
            }
            return (command, String::new());
        };
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_NETNS", netns)
            .env("CNI_PATH", "/usr/lib/cni")
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped());
        (command, conf.to_string())
    }

    fn run(&self, verb: &str, id: &str, pod: usize) -> Duration {
        let (command, input) = self.command(verb, id, pod);
        timed(command, &input)
    }
}

fn timed(mut command: Command, input: &str) -> Duration {
    let started = Instant::now();
    let mut child = command.spawn().unwrap();
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).unwrap();
    }
    let status = child.wait().unwrap();
    let took = started.elapsed();
    assert!(status.success(), "{command:?}");
    took
}

fn conf(extra: Value) -> Option<Value> {
    let mut conf = json!({ "cniVersion": "1.0.0", "name": "bench" });
    for (key, value) in extra.as_object().unwrap() {
        conf[key] = value.clone();
    }
    Some(conf)
}

fn contenders() -> Vec<Contender> {
    let ours = binary("podroute-cni");
    let local = |dir: &str| json!({ "type": "host-local", "dataDir": dir, "subnet": "10.9.0.0/16", "routes": [{ "dst": "0.0.0.0/0" }] });
    let mut all = vec![
        Contender {
            name: "floor",
            program: binary("floor"),
            conf: None,
            addresses: &["10.8.0."],
        },
        Contender {
            name: "podroute-cni IPv4",
            program: ours.clone(),
            conf: conf(json!({ "type": "podroute-cni", "families": ["ipv4"] })),
            addresses: &[],
        },
        Contender {
            name: "the same with masquerade",
            program: ours.clone(),
            conf: conf(
                json!({ "type": "podroute-cni", "name": "masked", "families": ["ipv4"], "masquerade": { "enabled": true } }),
            ),
            addresses: &[],
        },
        Contender {
            name: "floor, both",
            program: binary("floor"),
            conf: None,
            addresses: &["10.8.1.", "fd00:8::"],
        },
        Contender {
            name: "podroute-cni both",
            program: ours,
            conf: conf(json!({ "type": "podroute-cni" })),
            addresses: &[],
        },
    ];
    for (name, conf) in [
        (
            "ptp + host-local",
            conf(json!({ "type": "ptp", "ipam": local("/run/ptp") })),
        ),
        (
            "bridge + host-local",
            conf(json!({ "type": "bridge", "isGateway": true, "ipam": local("/run/bridge") })),
        ),
    ] {
        let program = PathBuf::from("/usr/lib/cni").join(name.split(' ').next().unwrap());
        if program.is_file() {
            all.push(Contender {
                name,
                program,
                conf,
                addresses: &[],
            });
        } else {
            println!("LEFT OUT: {name}: {} is not installed", program.display());
        }
    }
    all
}

fn cpu() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let micros = |t: nix::sys::time::TimeVal| u64::try_from(t.tv_sec() * 1_000_000 + t.tv_usec()).unwrap();
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

#[derive(Default, Clone)]
struct Samples {
    times: Vec<Duration>,
    cpu: Duration,
}

impl Samples {
    fn percentile(&mut self, percent: usize) -> f64 {
        self.times.sort_unstable();
        ms(self.times[(self.times.len() - 1) * percent / 100])
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn sequential(contenders: &[Contender], rounds: usize) {
    let mut samples = vec![[Samples::default(), Samples::default()]; contenders.len()];
    for round in 0..rounds {
        for (contender, both) in contenders.iter().zip(&mut samples) {
            for (verb, of_verb) in ["ADD", "DEL"].iter().zip(both.iter_mut()) {
                std::thread::sleep(REST);
                let before = cpu();
                of_verb.times.push(contender.run(verb, &format!("s{round}"), 0));
                of_verb.cpu += cpu() - before;
            }
        }
    }
    for (index, verb) in ["ADD", "DEL"].iter().enumerate() {
        println!(
            "\nsequential {verb}, {rounds} rounds: p50 ms, p99 ms, CPU ms; ratios to the floor of p50 and CPU"
        );
        let mut floor = [1.0; 2];
        for (contender, both) in contenders.iter().zip(&mut samples) {
            let s = &mut both[index];
            let (p50, p99) = (s.percentile(50), s.percentile(99));
            let cpu = ms(s.cpu) / rounds as f64;
            if contender.name.starts_with("floor") {
                floor = [p50, cpu];
            }
            let ratios = format!("{:5.2}x {:5.2}x", p50 / floor[0], cpu / floor[1]);
            println!("{:24} {p50:8.2} {p99:8.2} {cpu:8.2}   {ratios}", contender.name);
        }
    }
}

fn parallel(contenders: &[Contender], pods: usize, rounds: usize) {
    let each = (rounds / 10).max(5);
    println!(
        "\n{pods} in parallel, {each} rounds: ADD per second, DEL per second (medians); ratios to the floor"
    );
    let mut samples = vec![[Samples::default(), Samples::default()]; contenders.len()];
    for round in 0..each {
        for (contender, both) in contenders.iter().zip(&mut samples) {
            for (verb, of_verb) in ["ADD", "DEL"].iter().zip(both.iter_mut()) {
                std::thread::sleep(REST);
                let started = Instant::now();
                std::thread::scope(|scope| {
                    for pod in 0..pods {
                        scope.spawn(move || contender.run(verb, &format!("r{round}-{pod}"), pod));
                    }
                });
                of_verb.times.push(started.elapsed());
            }
        }
    }
    let mut floor = [1.0; 2];
    for (contender, both) in contenders.iter().zip(&mut samples) {
        let rate = [0, 1].map(|verb| pods as f64 * 1e3 / both[verb].percentile(50));
        if contender.name.starts_with("floor") {
            floor = rate;
        }
        let ratios = format!("{:5.2}x {:5.2}x", rate[0] / floor[0], rate[1] / floor[1]);
        println!("{:24} {:8.0} {:8.0}   {ratios}", contender.name, rate[0], rate[1]);
    }
}

fn status(rounds: usize) {
    let mut noop = Samples::default();
    let mut ours = Samples::default();
    let input = json!({ "cniVersion": "1.1.0", "name": "bench", "type": "podroute-cni" }).to_string();
    for _ in 0..rounds {
        let mut command = Command::new(binary("floor"));
        command
            .arg("noop")
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        noop.times.push(timed(command, ""));
        let mut command = Command::new(binary("podroute-cni"));
        command
            .env_clear()
            .env("CNI_COMMAND", "STATUS")
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        ours.times.push(timed(command, &input));
    }
    let (a, b) = (noop.percentile(50), ours.percentile(50));
    println!(
        "\nSTATUS: {b:.2} ms, a process that does nothing {a:.2} ms: {:.2}x",
        b / a
    );
}

/// How long a GC of many stale pods takes.
fn garbage(pods: usize) {
    let ours = Contender {
        name: "gc",
        program: binary("podroute-cni"),
        conf: conf(json!({ "type": "podroute-cni", "cniVersion": "1.1.0", "cni.dev/valid-attachments": [] })),
        addresses: &[],
    };
    sh(&format!(
        "for i in $(seq 100 {}); do ip netns add p$i; done",
        99 + pods
    ));
    for pod in 100..100 + pods {
        ours.run("ADD", &format!("g{pod}"), pod);
    }
    println!(
        "\nGC of {pods} stale pods, both families: {:.0} ms",
        ms(ours.run("GC", "", 0))
    );
}

/// ADD with a small and with a large block, each in the middle of its life.
fn sizes(rounds: usize) {
    let ours = |name: &'static str, dir: &str| Contender {
        name,
        program: binary("podroute-ipam"),
        conf: conf(json!({ "type": "podroute-ipam", "ipam": { "type": "podroute-ipam", "stateDir": dir } })),
        addresses: &[],
    };
    let mut rows = Vec::new();
    for (name, block, dir) in [
        ("/26", "10.7.0.0/26", "/run/small"),
        ("/16", "10.6.0.0/16", "/run/large"),
    ] {
        node(&[block]);
        let ipam = ours(name, dir);
        let mut samples = Samples::default();
        for round in 0..rounds {
            samples.times.push(ipam.run("ADD", &format!("z{round}"), 0));
            ipam.run("DEL", &format!("z{round}"), 0);
        }
        rows.push((name, samples.percentile(50)));
    }
    println!("\npodroute-ipam ADD by block size: {rows:?} ms");
}

/// The first packet after ADD, one try, both ways and families in turn.
fn first_packets(rounds: usize) {
    node(&["10.244.0.0/16", "fd00:10:244:1::/64"]);
    let mut lost = 0;
    for round in 0..rounds {
        let mut command = Command::new(binary("podroute-cni"));
        let id = format!("f{round}");
        command
            .env_clear()
            .envs([
                ("CNI_COMMAND", "ADD"),
                ("CNI_IFNAME", "eth0"),
                ("CNI_NETNS", "/run/netns/p0"),
            ])
            .env("CNI_CONTAINERID", &id)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let input = conf(json!({ "type": "podroute-cni" })).unwrap().to_string();
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let result: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
        let pod = |i: usize| {
            result["ips"][i]["address"]
                .as_str()
                .unwrap()
                .split('/')
                .next()
                .unwrap()
                .to_owned()
        };
        let ping = match round % 4 {
            0 => format!("ping -q -c1 -W1 {}", pod(0)),
            1 => format!("ping -q -c1 -W1 {}", pod(1)),
            2 => "ip netns exec p0 ping -q -c1 -W1 192.0.2.11".to_owned(),
            _ => "ip netns exec p0 ping -q -c1 -W1 2001:db8:a::11".to_owned(),
        };
        let ok = Command::new("sh")
            .arg("-c")
            .arg(ping)
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success();
        lost += usize::from(!ok);
        let mut del = Command::new(binary("podroute-cni"));
        del.env_clear()
            .envs([("CNI_COMMAND", "DEL"), ("CNI_IFNAME", "eth0")])
            .env("CNI_CONTAINERID", &id)
            .stdin(Stdio::piped())
            .stdout(Stdio::null());
        timed(del, &input);
    }
    println!("\nfirst packets lost: {lost} of {rounds}");
}
