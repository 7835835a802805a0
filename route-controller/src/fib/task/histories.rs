//! Any history of the speaker, the host and other programs ends where its last state says: the whole task beside a real
//! kernel, in a network namespace of the test's own thread.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use bgp_proto::engine::{FibChange, FibNextHop, KernelRoute};
use bgp_proto::types::Prefix;
use bgp_speaker::DatapathEvent;
use tokio::sync::{mpsc, oneshot, watch};

use super::*;
use crate::fib::FibConfig;
use crate::fib::kernel_tests::{config, in_namespace, ip};
use crate::testing;

/// For what the kernel, and an early audit, do later.
const LIMIT: Duration = Duration::from_secs(60);
const STEPS: usize = 80;
const LINKS: [&str; 2] = ["e0", "e1"];

/// Numbers that follow from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % end
    }

    fn is(&mut self, one_in: usize) -> bool {
        self.below(one_in) == 0
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A link of the host: its state, and the addresses that the host has on it.
#[derive(Clone, Copy)]
struct LinkState {
    exists: bool,
    enabled: bool,
    carrier: bool,
    has: [bool; 2],
}

const WHOLE: LinkState = LinkState {
    exists: true,
    enabled: true,
    carrier: true,
    has: [true, true],
};

/// Routes with their gateways, as the kernel shows them.
type Routes = BTreeMap<String, BTreeSet<String>>;

/// What there should be.
struct World {
    random: Random,
    links: [LinkState; 2],
    learned: BTreeMap<Prefix, Vec<IpAddr>>,
    dead: BTreeSet<IpAddr>,
    blocks: BTreeSet<Prefix>,
    config: FibConfig,
    steps: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            random: Random(seed),
            links: [WHOLE; 2],
            learned: BTreeMap::new(),
            dead: BTreeSet::new(),
            blocks: BTreeSet::new(),
            config: config(),
            steps: Vec::new(),
        }
    }

    fn prefix(&mut self) -> Prefix {
        let number = self.random.below(6);
        let text = match self.random.below(3) {
            0 => format!("fd00:10:{number}::/64"),
            _ => format!("10.244.{number}.0/24"),
        };
        text.parse().unwrap()
    }

    /// Addresses of `e0` and `e1` and gateways on them.
    fn gateways(is_ipv4: bool) -> Vec<IpAddr> {
        let of = |link: usize, last: u8| match is_ipv4 {
            true => IpAddr::from([192, 0, u8::try_from(link).unwrap(), last]),
            false => format!("2001:db8:{link}::{last:x}").parse().unwrap(),
        };
        [(0, 11), (0, 12), (1, 11), (1, 12)]
            .map(|(link, last)| of(link, last))
            .into()
    }

    /// The link that a gateway is on.
    fn link_of(gateway: IpAddr) -> usize {
        match gateway {
            IpAddr::V4(gateway) => gateway.octets()[2].into(),
            IpAddr::V6(gateway) => gateway.segments()[2].into(),
        }
    }

    fn is_usable(&self, gateway: IpAddr) -> bool {
        let link = self.links[Self::link_of(gateway)];
        let has = link.has[usize::from(gateway.is_ipv6())];
        link.exists && link.enabled && link.carrier && has && !self.dead.contains(&gateway)
    }

    /// Routes of the kernel that follow.
    fn expected(&self) -> Routes {
        let mut routes = Routes::new();
        for (prefix, gateways) in &self.learned {
            let usable = gateways.iter().filter(|gateway| self.is_usable(**gateway));
            let usable: BTreeSet<String> = usable
                .map(|gateway| format!("{gateway} dev {}", LINKS[Self::link_of(*gateway)]))
                .collect();
            let is_own = self.blocks.iter().any(|block| block.contains(prefix));
            if !usable.is_empty() && !is_own {
                routes.insert(prefix.to_string(), usable);
            }
        }
        for block in &self.blocks {
            routes.insert(format!("unreachable {block}"), BTreeSet::new());
        }
        routes
    }
}

/// Own routes, by `ip`.
fn in_kernel() -> Routes {
    let mut routes = Routes::new();
    for family in ["-4", "-6"] {
        let text = output(&format!("-o {family} route show proto 245 table main"));
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().filter(|word| *word != "\\").collect();
            let name = match words[0] {
                "unreachable" | "blackhole" => format!("{} {}", words[0], words[1]),
                prefix => prefix.to_owned(),
            };
            let gateways = words
                .windows(4)
                .filter(|part| part[0] == "via" && part[2] == "dev");
            let gateways = gateways
                .map(|part| format!("{} dev {}", part[1], part[3]))
                .collect();
            let twice = routes.insert(name, gateways);
            assert_eq!(twice, None, "{text}");
        }
    }
    routes
}

/// Own nexthop objects that nothing refers to.
fn idle_objects() -> BTreeSet<String> {
    let text = output("-o nexthop show proto 245");
    let id = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let mut idle: BTreeSet<String> = text.lines().map(id).collect();
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once(" group ") {
            let members = rest.split_whitespace().next().unwrap_or_default();
            for member in members.split('/') {
                idle.remove(member.split(',').next().unwrap_or_default());
            }
        }
    }
    for family in ["-4", "-6"] {
        let routes = output(&format!("-o {family} route show proto 245 table main"));
        let words: Vec<&str> = routes.split_whitespace().collect();
        for pair in words.windows(2).filter(|pair| pair[0] == "nhid") {
            idle.remove(pair[1]);
        }
    }
    idle
}

fn output(args: &str) -> String {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// `ip` with these arguments, whatever comes of it: what another program does may fail.
fn try_ip(args: &str) {
    drop(output(args));
}

struct Task {
    commands: mpsc::Sender<ToFib>,
    datapath: mpsc::Sender<DatapathEvent>,
}

impl Task {
    async fn start(config: FibConfig) -> Self {
        let (commands, inbox) = mpsc::channel(CAPACITY);
        let (datapath, events) = mpsc::channel(CAPACITY);
        let (swept, host) = (watch::channel(false).0, watch::channel(()).0);
        let task = FibTask::new(config, inbox, events, testing::speaker(), swept, host);
        tokio::spawn(task.await.unwrap().run());
        let task = Self { commands, datapath };
        task.tell(ToFib::Sweep).await;
        let watched = [true, false].map(World::gateways).concat();
        task.datapath.send(DatapathEvent::Watch(watched)).await.unwrap();
        task
    }

    async fn tell(&self, command: ToFib) {
        assert!(self.commands.send(command).await.is_ok());
    }

    /// What the task knows of routes and objects.
    async fn knows(&self) -> String {
        let (known, answer) = oneshot::channel();
        let query = |fib: &Fib| drop(known.send(format!("{:?}\n{:?}", fib.delta.routes(), fib.objects)));
        self.tell(ToFib::Query(Box::new(query))).await;
        answer.await.unwrap()
    }
}

impl World {
    /// Something of the speaker, the operator, the host or another program.
    async fn step(&mut self, task: &Task) {
        match self.random.below(16) {
            0..4 => self.learn(task).await,
            4 => self.lose_or_find(task).await,
            5 => self.own_blocks(task).await,
            6 => self.reconfigure(task).await,
            7 | 8 => self.link_up_or_down(),
            9 => self.carrier(),
            10 | 11 => self.address(),
            12 => self.whole_link(),
            _ => self.other_program(),
        }
        if self.random.is(4) {
            self.steps.push("pause".to_owned());
            tokio::time::sleep(Duration::from_millis(20)).await; // not a condition: histories differ in what happens together
        } else {
            tokio::task::yield_now().await;
        }
    }

    async fn learn(&mut self, task: &Task) {
        let mut changes = BTreeMap::new();
        for _ in 0..=self.random.below(6) {
            let prefix = self.prefix();
            let all = Self::gateways(prefix.to_string().contains('.'));
            let gateways: Vec<IpAddr> = all.into_iter().filter(|_| self.random.is(2)).collect();
            changes.insert(prefix, gateways);
        }
        let more = self.random.is(2);
        self.steps.push(format!("learn {changes:?}, more {more}"));
        let changes = changes.into_iter().map(|(prefix, gateways)| {
            match gateways.is_empty() {
                true => self.learned.remove(&prefix),
                false => self.learned.insert(prefix, gateways.clone()),
            };
            let next_hops = gateways.into_iter().map(|addr| FibNextHop { addr, weight: 1 });
            FibChange {
                prefix,
                next_hops: next_hops.collect(),
                route: KernelRoute::default(),
            }
        });
        let changes = changes.collect();
        let event = DatapathEvent::Routes { changes, more };
        task.datapath.send(event).await.unwrap();
    }

    async fn lose_or_find(&mut self, task: &Task) {
        let all = [true, false].map(Self::gateways).concat();
        self.dead = all.into_iter().filter(|_| self.random.is(4)).collect();
        self.steps.push(format!("dead {:?}", self.dead));
        task.tell(ToFib::Dead {
            dead: self.dead.clone(),
            since: now(),
        })
        .await;
    }

    async fn own_blocks(&mut self, task: &Task) {
        let all = ["10.244.5.0/24", "10.244.128.0/24", "fd00:10:5::/64"];
        let wanted = all.iter().filter(|_| self.random.is(2));
        self.blocks = wanted.map(|text| text.parse().unwrap()).collect();
        self.steps.push(format!("blocks {:?}", self.blocks));
        let own = self.blocks.iter().copied().collect();
        let aggregates = Vec::new();
        let answer = oneshot::channel().0;
        task.tell(ToFib::Blocks(Blocks { own, aggregates }, answer)).await;
    }

    async fn reconfigure(&mut self, task: &Task) {
        self.config.objects = self.random.is(2);
        self.steps.push(format!("objects {}", self.config.objects));
        task.tell(ToFib::Reconfigure(self.config.clone())).await;
    }

    fn link_up_or_down(&mut self) {
        let number = self.random.below(2);
        let link = &mut self.links[number];
        if !link.exists {
            return;
        }
        link.enabled = !link.enabled;
        let how = if link.enabled { "up" } else { "down" };
        if !link.enabled {
            link.has[1] = false; // the kernel removes IPv6 addresses
        }
        self.ip(&format!("link set e{number} {how}"));
    }

    fn carrier(&mut self) {
        let number = self.random.below(2);
        let link = &mut self.links[number];
        if !link.exists {
            return;
        }
        link.carrier = !link.carrier;
        let how = if link.carrier { "up" } else { "down" };
        self.ip(&format!("link set peer-e{number} {how}"));
    }

    fn address(&mut self) {
        let (number, family) = (self.random.below(2), self.random.below(2));
        let link = &mut self.links[number];
        if !link.exists || (family == 1 && !link.enabled) {
            return;
        }
        link.has[family] = !link.has[family];
        let how = if link.has[family] { "add" } else { "del" };
        let nodad = if link.has[family] { "nodad" } else { "" };
        self.ip(&match family {
            0 => format!("addr {how} 192.0.{number}.1/24 dev e{number}"),
            _ => format!("addr {how} 2001:db8:{number}::1/64 dev e{number} {nodad}"),
        });
    }

    fn whole_link(&mut self) {
        let number = self.random.below(2);
        if self.links[number].exists {
            self.links[number].exists = false;
            return self.ip(&format!("link del e{number}"));
        }
        self.links[number] = WHOLE;
        for command in [
            format!("link add e{number} type veth peer name peer-e{number}"),
            format!("link set peer-e{number} up"),
            format!("link set e{number} up"),
            format!("addr add 192.0.{number}.1/24 dev e{number}"),
            format!("addr add 2001:db8:{number}::1/64 dev e{number} nodad"),
        ] {
            self.ip(&command);
        }
    }

    /// Routes and objects that another program deletes, changes, or puts in the place of own ones.
    fn other_program(&mut self) {
        let prefix = self.prefix();
        let via = *self
            .random
            .one_of(&Self::gateways(prefix.to_string().contains('.')));
        let command = match self.random.below(6) {
            0 => format!("route del {prefix} metric 20 proto 245"),
            1 => "nexthop flush proto 245".to_owned(),
            2 => format!("route replace {prefix} via {via} metric 20 proto 99"),
            3 => format!("route change {prefix} via {via} metric 20 proto 245"),
            4 => format!("route del {prefix} metric 20 proto 99"),
            _ => "route flush proto 245".to_owned(),
        };
        self.steps.push(command.clone());
        try_ip(&command);
    }

    fn ip(&mut self, command: &str) {
        self.steps.push(command.to_owned());
        ip(command);
    }

    /// Waits until the kernel has what follows from the last state, and nothing of others is in its place.
    async fn agrees(&self, task: &Task, seed: u64) {
        try_ip("-4 route flush proto 99");
        try_ip("-6 route flush proto 99");
        let start = Instant::now();
        loop {
            let (expected, found, idle) = (self.expected(), in_kernel(), idle_objects());
            if expected == found && idle.is_empty() {
                return;
            }
            if start.elapsed() > LIMIT {
                let mut history = String::new();
                self.steps
                    .iter()
                    .for_each(|step| writeln!(history, "  {step}").unwrap());
                panic!(
                    "seed {seed}:\n{history}expected {expected:#?}\nthe kernel has {found:#?}, idle objects {idle:?}\n{}\n{}",
                    task.knows().await,
                    output("-d nexthop")
                        + &output("-d route show table main")
                        + &output("-6 -d route show table main")
                        + &output("addr")
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn history(seed: u64) {
    in_namespace(async {
        let mut world = World::new(seed);
        let task = Task::start(world.config.clone()).await;
        for step in 0..STEPS {
            world.step(&task).await;
            if step % 20 == 19 {
                world.agrees(&task, seed).await;
            }
        }
    });
}

#[test]
fn any_history_ends_where_its_last_state_says() {
    let seeds = std::env::var("SEEDS").map_or(8, |count| count.parse().unwrap());
    let first = std::env::var("FIRST_SEED").map_or(0, |first| first.parse().unwrap());
    for seed in first..first + seeds {
        std::thread::spawn(move || history(seed)).join().unwrap();
    }
}
