//! What enforcement of network policies costs: `make bench-policy` writes docs/bench/policy.md. Needs root; works in network
//! namespaces of its own.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::expect_used,
    dead_code,
    unreachable_pub
)]

#[path = "../tests/lab/mod.rs"]
mod lab;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lab::Lab;
use nix::sched::{CloneFlags, unshare};
use podroute_enforce::{Enforcer, TABLE};
use podroute_netfilter::{Data, Element, KeyField, Nftables, SetSpec, Transaction, Value};
use podroute_netpol::{LabelSelector, Operator, Peer, PodInput, Policy, PortRule, Ports, Requirement, Rule};

const NAMESPACES: u32 = 2000;
const PODS_EACH: u32 = 10;
const TEAMS: u32 = 100;
const LOCAL: u32 = 110;
const POLICIES: u32 = 1000;
const EVENTS: u32 = 2000;
const ROUNDS: usize = 7;

fn selector(pairs: &[(&str, String)]) -> LabelSelector {
    let requirements = pairs.iter().map(|(key, value)| Requirement {
        key: (*key).to_owned(),
        operator: Operator::In,
        values: vec![value.clone()],
    });
    LabelSelector {
        requirements: requirements.collect(),
    }
}

fn tcp(from: u16, to: u16) -> PortRule {
    PortRule::Range {
        protocol: 6,
        from,
        to,
    }
}

fn address(namespace: u32, number: u32) -> IpAddr {
    let index = namespace * PODS_EACH + number;
    Ipv4Addr::from_bits(0x0a00_0000 + ((index / 250) << 8) + index % 250 + 1).into()
}

/// The first pod of each of the first namespaces is here.
fn pod(namespace: u32, number: u32) -> PodInput {
    PodInput {
        namespace: format!("team-namespace-{namespace}"),
        name: format!("workload-{number}-6d4cf56db6-abcde"),
        labels: vec![
            ("app.kubernetes.io/name".to_owned(), format!("workload-{number}")),
            ("pod-template-hash".to_owned(), "6d4cf56db6".to_owned()),
            ("wide".to_owned(), namespace.is_multiple_of(20).to_string()),
        ],
        addresses: vec![address(namespace, number)],
        ports: Vec::new(),
        is_local: number == 0 && namespace < LOCAL,
        created: 0,
    }
}

/// Each lets in its own namespace and a team's 200 pods, at three ports (or every tenth at a range), and out to a block of addresses.
fn policy(number: u32, has_ranges: bool) -> Policy {
    let team = selector(&[("team", format!("team-{}", number * 7 % TEAMS))]);
    let peers = vec![
        Peer::Pods {
            namespaces: None,
            pods: Some(LabelSelector::default()),
        },
        Peer::Pods {
            namespaces: Some(team.clone()),
            pods: None,
        },
    ];
    let out = vec![
        Peer::Block {
            cidr: format!("192.{}.0.0/16", number % 200).parse().unwrap(),
            except: vec![format!("192.{}.7.0/24", number % 200).parse().unwrap()],
        },
        Peer::Pods {
            namespaces: Some(team),
            pods: None,
        },
    ];
    Policy {
        namespace: format!("team-namespace-{}", number % LOCAL),
        name: format!("policy-{number}"),
        selects: LabelSelector::default(),
        ingress: Some(vec![Rule {
            peers: Some(peers),
            ports: Ports::Some(if has_ranges && number.is_multiple_of(10) {
                vec![tcp(80, 80), tcp(443, 443), tcp(8000, 8100)]
            } else {
                vec![tcp(80, 80), tcp(443, 443), tcp(8080, 8080)]
            }),
        }]),
        egress: Some(vec![Rule {
            peers: Some(out),
            ports: Ports::All,
        }]),
    }
}

fn fill(enforcer: &mut Enforcer, has_ranges: bool) {
    let model = &mut enforcer.model;
    for namespace in 0..NAMESPACES {
        let labels = [("team".to_owned(), format!("team-{}", namespace % TEAMS))];
        model.put_namespace(&format!("team-namespace-{namespace}"), &labels);
        for number in 0..PODS_EACH {
            let pod = pod(namespace, number);
            model.put_pod(&pod);
            if pod.is_local {
                model.attach(&format!("pod{namespace}"), &pod.namespace, &pod.name);
            }
        }
    }
    (0..POLICIES).for_each(|number| model.put_policy(policy(number, has_ranges)));
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn memory() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Time of the processor that this thread used: on a busy machine the wall clock measures others.
fn processor() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    time.into()
}

fn quantiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    (
        millis(times[times.len() / 2]),
        millis(times[times.len() * 99 / 100]),
    )
}

fn row(out: &mut String, what: &str, value: &str, goal: &str) {
    println!("{what}: {value} ({goal})");
    writeln!(out, "| {what} | {value} | {goal} |").unwrap();
}

/// Updates that are no policies: one element, changed in one transaction.
fn bare(nftables: &mut Nftables) -> (f64, f64) {
    let element = |n: u32, value| Element {
        key: n.to_be_bytes().to_vec(),
        key_end: Vec::new(),
        data: Data::Number(value),
    };
    let mut t = Transaction::new("bare");
    t.add_table();
    t.add_set(&SetSpec {
        name: "map".into(),
        key: vec![KeyField::Ipv4],
        is_interval: false,
        value: Value::Number,
    });
    let all: Vec<Element> = (0..20_000).map(|n| element(n, 1)).collect();
    t.add_elements("map", &all);
    t.run(nftables).unwrap();
    let mut times = Vec::new();
    for n in 0..EVENTS {
        let began = Instant::now();
        let mut t = Transaction::new("bare");
        t.delete_elements("map", [&element(n, 1)]);
        t.add_elements("map", [&element(n, 2)]);
        t.run(nftables).unwrap();
        times.push(began.elapsed());
    }
    nftables.remove_table("bare").unwrap();
    quantiles(times)
}

fn control(out: &mut String) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let before = memory();
    let mut enforcer = Enforcer::open().unwrap();
    let (began, cpu) = (Instant::now(), processor());
    fill(&mut enforcer, false);
    let compiled = processor() - cpu;
    enforcer.sync().unwrap();
    let (start, cpu) = (began.elapsed(), processor() - cpu);
    let sizes: Vec<String> = enforcer
        .model
        .sizes()
        .iter()
        .map(|(name, size)| format!("{size} {name}"))
        .collect();
    println!("{}", sizes.join(", "));
    let what = "start: 20,000 pods, 2,000 namespaces, 1,000 policies that select 110 pods here, until all is in the kernel";
    let value = format!(
        "{:.0} ms ({:.0} ms of processor, {:.0} of them compiling)",
        millis(start),
        millis(cpu),
        millis(compiled)
    );
    row(out, what, &value, "≤ 500 ms");
    row(
        out,
        "the process's peak memory for it",
        &format!("{:.1} MiB, {before:.1} MiB of it before", memory()),
        "≤ 80 MiB",
    );
    let began = Instant::now();
    enforcer.audit();
    let octets = enforcer.sync().unwrap().octets;
    row(
        out,
        "audit: all of it listed and compared",
        &format!("{:.0} ms, {octets} octets written", millis(began.elapsed())),
        "",
    );
    let mut nftables = Nftables::open().unwrap();
    let (bare, bare_worst) = bare(&mut nftables);
    row(
        out,
        "bare transaction: one element of 20,000 changed, p50 / p99",
        &format!("{bare:.3} / {bare_worst:.3} ms"),
        "",
    );
    events(out, &mut enforcer, bare, bare_worst);
    thousand_peers(out, &mut enforcer, "");
    beside_nft(out, start);
}

fn events(out: &mut String, enforcer: &mut Enforcer, bare: f64, bare_worst: f64) {
    let timed = |enforcer: &mut Enforcer, change: &mut dyn FnMut(&mut Enforcer)| {
        let began = Instant::now();
        change(enforcer);
        enforcer.sync().unwrap();
        began.elapsed()
    };
    let (mut added, mut relabelled, mut removed) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..EVENTS {
        let mut new = pod(n % NAMESPACES, 1);
        new.name = "another".to_owned();
        new.addresses = vec![Ipv4Addr::from_bits(0x0aff_0000 + n).into()];
        added.push(timed(enforcer, &mut |e| e.model.put_pod(&new)));
        new.labels.push(("version".to_owned(), "2".to_owned()));
        relabelled.push(timed(enforcer, &mut |e| e.model.put_pod(&new)));
        removed.push(timed(enforcer, &mut |e| {
            e.model.remove_pod(&new.namespace, &new.name)
        }));
    }
    for (what, times) in [("added", added), ("relabelled", relabelled), ("removed", removed)] {
        let (half, worst) = quantiles(times);
        let value = format!(
            "{half:.3} / {worst:.3} ms, {:.1}× / {:.1}× the bare transaction",
            half / bare,
            worst / bare_worst
        );
        row(
            out,
            &format!("a pod elsewhere {what}: from the event to the kernel's answer, p50 / p99"),
            &value,
            "p99 ≤ 5 ms, ≤ 3×",
        );
    }
    let mut local = Vec::new();
    for n in 0..200 {
        let mut new = pod(n % LOCAL, 0);
        new.name = format!("local-{n}");
        new.addresses = vec![Ipv4Addr::from_bits(0x0afe_0000 + n).into()];
        local.push(timed(enforcer, &mut |e| {
            e.model.put_pod(&new);
            e.model.attach(&format!("new{n}"), &new.namespace, &new.name);
        }));
        e_remove(enforcer, &new, n);
    }
    let (half, worst) = quantiles(local);
    row(
        out,
        "a pod here added, with its interface, p50 / p99",
        &format!("{half:.3} / {worst:.3} ms"),
        "p99 ≤ 5 ms",
    );
}

fn e_remove(enforcer: &mut Enforcer, pod: &PodInput, n: u32) {
    enforcer.model.remove_pod(&pod.namespace, &pod.name);
    enforcer.model.detach(&format!("new{n}"));
    enforcer.sync().unwrap();
}

fn thousand_peers(out: &mut String, enforcer: &mut Enforcer, suffix: &str) {
    let (mut times, mut used) = (Vec::new(), Vec::new());
    for n in 0..50 {
        let new = Policy {
            namespace: format!("team-namespace-{n}"),
            name: "thousand".to_owned(),
            selects: LabelSelector::default(),
            ingress: Some(vec![Rule {
                peers: Some(vec![Peer::Pods {
                    namespaces: Some(LabelSelector::default()),
                    pods: Some(selector(&[("wide", "true".to_owned())])),
                }]),
                ports: Ports::Some(vec![tcp(5432, 5432)]),
            }]),
            egress: None,
        };
        let key = (new.namespace.clone(), new.name.clone());
        let (began, cpu) = (Instant::now(), processor());
        enforcer.model.put_policy(new);
        enforcer.sync().unwrap();
        times.push(began.elapsed());
        used.push(processor() - cpu);
        enforcer.model.remove_policy(&key.0, &key.1);
        enforcer.sync().unwrap();
    }
    let (half, worst) = quantiles(times);
    row(
        out,
        &format!("a new policy with 1,000 peers{suffix}, p50 / p99"),
        &format!(
            "{half:.1} / {worst:.1} ms ({:.1} ms of processor, p50)",
            quantiles(used).0
        ),
        "≤ 20 ms",
    );
}

/// The same with ranges of ports, whose set is slow to change.
fn with_ranges(out: &mut String) {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let mut enforcer = Enforcer::open().unwrap();
    let (began, cpu) = (Instant::now(), processor());
    fill(&mut enforcer, true);
    enforcer.sync().unwrap();
    let value = format!(
        "{:.0} ms ({:.0} ms of processor)",
        millis(began.elapsed()),
        millis(processor() - cpu)
    );
    let suffix = ", where every tenth policy has a range of ports";
    row(out, &format!("start{suffix}"), &value, "");
    thousand_peers(out, &mut enforcer, suffix);
}

/// The same rules by the program `nft`: its own listing of them, read in another namespace.
fn beside_nft(out: &mut String, start: Duration) {
    let listed = Command::new("nft")
        .args(["list", "table", "inet", TABLE])
        .output()
        .unwrap();
    assert!(listed.status.success());
    let mut text = listed.stdout;
    // nft lists the elements of a set before the chains to which they refer.
    let chains: Vec<String> = String::from_utf8_lossy(&text)
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("chain ")
                .map(|rest| rest.trim_end_matches(" {").to_owned())
        })
        .collect();
    let mut file = format!("add table inet {TABLE}\n").into_bytes();
    // Base chains come whole with the listing.
    for chain in chains
        .into_iter()
        .filter(|chain| !matches!(chain.as_str(), "egress" | "ingress"))
    {
        writeln!(file, "add chain inet {TABLE} {chain}").unwrap();
    }
    file.append(&mut text);
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let nft = |text: &[u8]| {
        let began = Instant::now();
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text).unwrap();
        assert!(child.wait().unwrap().success());
        began.elapsed()
    };
    let whole = nft(&file);
    let value = format!(
        "{:.0} ms; podroute's start takes {:.2}× of that",
        millis(whole),
        start.as_secs_f64() / whole.as_secs_f64()
    );
    row(
        out,
        "the same table by `nft -f`, once, without compiling",
        &value,
        "≤ 0.2×",
    );
    let mut times = Vec::new();
    for n in 0..50 {
        times.push(nft(format!("add chain inet {TABLE} more-{n}\n").as_bytes()));
    }
    let (half, _) = quantiles(times);
    let all = half * f64::from(POLICIES);
    let value = format!(
        "{all:.0} ms for 1,000 (one takes {half:.1} ms); podroute's start takes {:.3}× of that",
        millis(start) / all
    );
    row(
        out,
        "one `nft` process for each policy, each adding one chain",
        &value,
        "≤ 0.01×",
    );
}

/// Two pods here and their traffic.
struct Pair {
    lab: Lab,
    enforcer: Enforcer,
}

const CLIENT: &str = "pod0";
const SERVER: &str = "pod1";

impl Pair {
    fn new() -> Self {
        let mut lab = Lab::new().unwrap();
        lab.add(CLIENT, &[address(0, 0)]);
        lab.add(SERVER, &[address(1, 0)]);
        let mut pair = Self {
            lab,
            enforcer: Enforcer::open().unwrap(),
        };
        pair.enforcer.model = podroute_netpol::Model::new();
        pair
    }

    /// One policy, or all, that let the client reach the server; or no table.
    fn set(&mut self, policies: u32) {
        Enforcer::remove().unwrap();
        self.enforcer = Enforcer::open().unwrap();
        if policies == 0 {
            return;
        }
        fill(&mut self.enforcer, false);
        let model = &mut self.enforcer.model;
        (policies..POLICIES).for_each(|n| {
            model.remove_policy(&format!("team-namespace-{}", n % LOCAL), &format!("policy-{n}"))
        });
        for (from, to) in [(0, 1), (1, 0)] {
            let own = |n: u32| format!("team-namespace-{n}");
            let peer = || Peer::Pods {
                namespaces: Some(selector(&[("team", format!("team-{to}"))])),
                pods: None,
            };
            let rule = Rule {
                peers: Some(vec![peer()]),
                ports: Ports::All,
            };
            model.put_policy(Policy {
                namespace: own(from),
                name: "pair".to_owned(),
                selects: LabelSelector::default(),
                ingress: Some(vec![rule.clone()]),
                egress: Some(vec![rule]),
            });
        }
        self.enforcer.sync().unwrap();
    }

    /// Round trips of one datagram.
    fn round_trips(&self) -> f64 {
        let bind = |host: &str, address: IpAddr| {
            self.lab
                .inside(host, || UdpSocket::bind(SocketAddr::new(address, 7000)).unwrap())
        };
        let (client, server) = (bind(CLIENT, address(0, 0)), bind(SERVER, address(1, 0)));
        client.connect((address(1, 0), 7000)).unwrap();
        server.connect((address(0, 0), 7000)).unwrap();
        let mut buffer = [0; 64];
        let mut trip = || {
            client.send(&[0; 64]).unwrap();
            server.recv(&mut buffer).unwrap();
            server.send(&[0; 64]).unwrap();
            client.recv(&mut buffer).unwrap();
        };
        (0..2000).for_each(|_| trip());
        let began = Instant::now();
        (0..30_000).for_each(|_| trip());
        30_000.0 / began.elapsed().as_secs_f64()
    }

    fn connections(&self) -> f64 {
        let listener = self
            .lab
            .inside(SERVER, || TcpListener::bind((address(1, 0), 9000)).unwrap());
        let count = 8000;
        let work = || {
            let began = Instant::now();
            for _ in 0..count {
                let client = TcpStream::connect((address(1, 0), 9000)).unwrap();
                let server = listener.accept().unwrap().0;
                for stream in [&client, &server] {
                    let linger = nix::libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).unwrap();
                }
            }
            f64::from(count) / began.elapsed().as_secs_f64()
        };
        self.lab.inside(CLIENT, work)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn traffic(out: &mut String) {
    let mut pair = Pair::new();
    let kinds = [0, 1, POLICIES];
    let mut trips = [(); 3].map(|()| Vec::new());
    let mut connections = [(); 3].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for (index, policies) in kinds.into_iter().enumerate() {
            pair.set(policies);
            trips[index].push(pair.round_trips());
            connections[index].push(pair.connections());
        }
    }
    let [none, one, all] = trips.map(median);
    let value = format!(
        "{none:.0} / {one:.0} / {all:.0} a second; 1,000 policies {:.3}× of no table, {:.3}× of one",
        all / none,
        all / one
    );
    row(
        out,
        "established UDP, round trips with no table (no tracking) / 1 policy / 1,000",
        &value,
        "≥ 0.98× of no table",
    );
    let [none, one, all] = connections.map(median);
    let value = format!(
        "{none:.0} / {one:.0} / {all:.0} a second; 1,000 policies {:.3}× of one",
        all / one
    );
    row(
        out,
        "new TCP connections with no table / 1 policy / 1,000",
        &value,
        "≥ 0.95× of one",
    );
}

fn main() {
    let path = std::env::args().nth(1);
    let mut table = String::new();
    std::thread::scope(|scope| {
        scope.spawn(|| control(&mut table)).join().unwrap();
    });
    std::thread::scope(|scope| {
        scope.spawn(|| with_ranges(&mut table)).join().unwrap();
    });
    std::thread::scope(|scope| {
        scope.spawn(|| traffic(&mut table)).join().unwrap();
    });
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let page = format!(
        "# Network policies\n\nWritten by `make bench-policy` on Linux {}. The kernel part works in one network namespace; the \
         traffic is between two pods of one node, in one thread, medians of {ROUNDS} rounds in which all took turns. Time of the \
         processor is that of podroute's thread, the kernel's part included.\n\n\
         | | measured | goal |\n|---|---|---|\n{table}",
        kernel.trim()
    );
    match path {
        Some(path) => std::fs::write(path, page).unwrap(),
        None => println!("{page}"),
    }
}
