//! The mirror, the monitor and the audit beside a real kernel, in a network namespace of the test's own thread. Left out
//! without the right to make one.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tokio::time::timeout;

use super::message::ReadRoute;
use super::netlink::{KernelEvent, Monitor, read_all};
use super::writer::{Batch, Writer};
use super::*;

/// For what the kernel does later.
const LIMIT: Duration = Duration::from_secs(60);
/// What `ip` did is in the socket when `ip` has ended.
const SILENCE: Duration = Duration::from_millis(20);

/// `ip` with these arguments.
fn ip(args: &str) {
    let output = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {error}");
}

/// Runs this in a namespace with two links, which have an address of each family.
fn in_namespace(test: impl Future<Output = ()>) {
    if let Err(error) = unshare(CloneFlags::CLONE_NEWNET) {
        println!("left out: no network namespace: {error}");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    ip("link set lo up");
    for (link, network) in [("e0", 0), ("e1", 1)] {
        ip(&format!("link add {link} type veth peer name peer-{link}"));
        ip(&format!("link set peer-{link} up"));
        ip(&format!("link set {link} up"));
        ip(&format!("addr add 192.0.{network}.1/24 dev {link}"));
        ip(&format!("addr add 2001:db8:{network}::1/64 dev {link} nodad"));
    }
    runtime.block_on(test);
}

fn config() -> FibConfig {
    FibConfig {
        metric: 20,
        table: MAIN,
        rule_priority: None,
        via_default: false,
        services: Vec::new(),
        pod_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00:10::/32".parse().unwrap()],
        sources: Vec::new(),
        objects: true,
        resilience: None,
        install: true,
    }
}

struct Node {
    fib: Fib,
    writer: Writer,
    monitor: Monitor,
}

impl Node {
    async fn start() -> Self {
        let writer = Writer::start().unwrap();
        let monitor = Monitor::new(writer.port()).unwrap();
        let mut fib = Fib::new(config());
        fib.objects.configure(true, None);
        assert!(fib.mirror.fill(read_all(MAIN).await.unwrap()).is_empty());
        Self { fib, writer, monitor }
    }

    /// Takes in all notifications that are there; returns the own routes that they changed.
    async fn receive(&mut self) -> Vec<RouteKey> {
        let mut taken = Vec::new();
        while let Ok(news) = timeout(SILENCE, self.monitor.next(self.writer.port(), MAIN)).await {
            for one in news.unwrap() {
                match one {
                    KernelEvent::Link(index, Some(link)) => {
                        let _ = self.fib.link_new(index, link);
                    }
                    KernelEvent::Link(index, None) => self.fib.link_gone(index),
                    KernelEvent::AddressNew(address, state) => self.fib.address_new(address, state),
                    KernelEvent::AddressGone(address) => self.fib.address_gone(address),
                    KernelEvent::RouteNew(ReadRoute::Foreign(prefix, route), arrival) => {
                        let key = route.key(prefix);
                        if self.fib.foreign_new(prefix, route, arrival).took_own {
                            self.fib.delta.observe(key, None);
                            taken.push(key);
                        }
                    }
                    KernelEvent::RouteGone(ReadRoute::Foreign(prefix, route), _) => {
                        let _ = self.fib.foreign_gone(prefix, &route);
                    }
                    KernelEvent::RouteNew(ReadRoute::Own(key, spec), _) => {
                        let _ = self.fib.delta.observe(key, Some(spec.into()));
                    }
                    KernelEvent::RouteGone(ReadRoute::Own(key, _), _) => {
                        let _ = self.fib.delta.observe(key, None);
                    }
                    KernelEvent::ObjectGone(_) | KernelEvent::Objects | KernelEvent::Rules => {}
                    KernelEvent::Overrun => panic!("notifications were lost"),
                }
            }
        }
        taken
    }

    /// Writes all that is due, and waits for the answers.
    async fn write(&mut self) {
        let now = Instant::now();
        let objects = self.fib.objects.changes(now);
        if !objects.is_empty() {
            self.writer.submit(Batch::Objects(objects));
            self.answer().await;
        }
        let ops = self.fib.take_routes(now, 99);
        if !ops.is_empty() {
            self.writer.submit(Batch::Routes(ops));
            self.answer().await;
        }
    }

    async fn answer(&mut self) {
        let now = Instant::now();
        let (batch, outcomes) = self.writer.next().await.unwrap();
        let outcomes = outcomes.unwrap();
        match batch {
            Batch::Routes(ops) => {
                for (op, outcome) in ops.into_iter().zip(outcomes) {
                    self.fib.delta.done(now, op, outcome);
                }
            }
            Batch::Objects(ops) => {
                for (op, outcome) in ops.iter().zip(outcomes) {
                    self.fib.objects.done(now, op, outcome.is_ok());
                }
            }
            Batch::ReadObjects(reading) => {
                let _ = self.fib.objects_read(reading);
            }
        }
    }

    /// The prefixes of podroute's routes in the kernel.
    async fn own(&self) -> BTreeSet<String> {
        let reading = read_all(MAIN).await.unwrap();
        reading
            .own
            .iter()
            .map(|(key, _)| key.prefix.to_string())
            .collect()
    }

    /// Waits until notifications have made the mirror what a reading says.
    async fn agrees(&mut self, after: &str) {
        let start = Instant::now();
        loop {
            self.receive().await;
            let reading = read_all(MAIN).await.unwrap();
            let differ = self.fib.mirror.foreign.differences(&reading.foreign);
            let addresses: BTreeMap<Address, AddressState> = reading.addresses.into_iter().collect();
            if differ.is_empty() && addresses == self.fib.mirror.addresses {
                return;
            }
            let there = |routes: &foreign::ForeignRoutes| -> Vec<ForeignRoute> {
                differ
                    .iter()
                    .flat_map(|key| routes.at(key.prefix))
                    .cloned()
                    .collect()
            };
            assert!(
                start.elapsed() < LIMIT,
                "after ip {after}: {differ:?}: known {:#?}, in the kernel {:#?}",
                there(&self.fib.mirror.foreign),
                there(&reading.foreign)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn learn(fib: &mut Fib, prefixes: &[&str]) {
    let change = |text: &&str| {
        let prefix: Prefix = text.parse().unwrap();
        let addr = match prefix.family() {
            Family::Ipv4 => "192.0.0.9",
            Family::Ipv6 => "2001:db8::9",
        };
        FibChange {
            prefix,
            next_hops: [FibNextHop {
                addr: addr.parse().unwrap(),
                weight: 1,
            }]
            .into(),
            route: bgp_proto::engine::KernelRoute::default(),
        }
    };
    fib.routes(prefixes.iter().map(change).collect(), false);
}

/// After each command the mirror is what a reading says, by notifications and what is known of what they leave out.
#[test]
fn the_mirror_is_as_the_kernel() {
    in_namespace(async {
        let mut node = Node::start().await;
        let commands = [
            // IPv4: several of one key, their order, replacements.
            "addr add 192.0.0.1/24 dev e1",
            "addr del 192.0.0.1/24 dev e0",
            "addr add 192.0.0.1/24 dev e0",
            "addr del 192.0.0.1/24 dev e1",
            "route add 10.1.0.0/24 via 192.0.1.2",
            "route append 10.1.0.0/24 via 192.0.1.3",
            "route append 10.1.0.0/24 via 192.0.1.3 proto 99",
            "route prepend 10.1.0.0/24 via 192.0.1.4",
            "route replace 10.1.0.0/24 via 192.0.1.5 proto 99",
            "route change 10.1.0.0/24 via 192.0.1.6 proto 98",
            "route add 10.1.0.0/24 tos 0x10 via 192.0.1.6",
            "route replace 10.1.0.0/24 tos 0x10 via 192.0.1.7",
            "route add 10.1.0.0/24 via 192.0.1.6 metric 7",
            "route del 10.1.0.0/24 tos 0x10",
            "route del 10.1.0.0/24 via 192.0.1.3 proto 3",
            "route del 10.1.0.0/24",
            "route add blackhole 10.2.0.0/24",
            "route replace unreachable 10.2.0.0/24",
            // IPv6: joined, replaced by kind.
            "route add fd00:1::/64 via 2001:db8:1::2",
            "route append fd00:1::/64 via 2001:db8:1::3",
            "route append fd00:1::/64 via 2001:db8:1::4 proto 99",
            "route prepend fd00:1::/64 via 2001:db8:1::5",
            "route del fd00:1::/64 via 2001:db8:1::4",
            "route append fd00:1::/64 dev e1 proto 99",
            "route append fd00:1::/64 dev e0 proto 99",
            "route replace fd00:1::/64 via 2001:db8:1::7 proto 98",
            "route replace fd00:1::/64 dev e0 proto 97",
            "route del fd00:1::/64 dev e0",
            "route replace unreachable fd00:1::/64",
            "route add fd00:2::/64 from fd00:99::/64 dev e1",
            "-6 route flush fd00:1::/64",
            "route add fd00:3::/64 nexthop via 2001:db8:0::2 nexthop via 2001:db8:1::2",
            "route change fd00:3::/64 nexthop via 2001:db8:0::3 nexthop via 2001:db8:1::3",
            "-6 route del fd00:3::/64",
            // Objects.
            "nexthop add id 10 via 192.0.1.9 dev e1",
            "nexthop add id 11 via 192.0.0.9 dev e0",
            "nexthop add id 20 group 10/11",
            "route add 10.3.0.0/24 nhid 20 proto 99",
            "route add 10.4.0.0/24 nhid 10 proto 99",
            "nexthop replace id 10 via 192.0.1.10 dev e1",
            "route add 10.5.0.0/24 via 192.0.1.9 dev e1 src 192.0.0.1",
            "route add 10.6.0.0/24 nexthop via 192.0.1.9 nexthop via 192.0.0.9",
            // What goes without a notification.
            "link set peer-e1 down",
            "link set peer-e1 up",
            "addr del 192.0.0.1/24 dev e0",
            "addr add 192.0.0.1/24 dev e0",
            "route add 10.7.0.0/24 via 192.0.0.9 dev e0",
            "route add 10.8.0.0/24 nexthop via 192.0.1.9 nexthop via 192.0.0.9",
            "link set e0 down",
            "link set e0 up",
            "link set e1 down",
            "link set e1 up",
            "route replace 10.8.0.0/24 nexthop via 192.0.1.9 nexthop via 192.0.0.9",
            "addr flush dev e1",
            "link del e0",
            "link del e1",
        ];
        for command in commands {
            ip(command);
            // The kernel looks at carriers later; a loss and a return before that are no change for it.
            match command {
                "link set peer-e1 down" => operational("e1", false).await,
                "link set peer-e1 up" => operational("e1", true).await,
                _ => {}
            }
            node.agrees(command).await;
        }
    });
}

/// Waits until the kernel has noticed that a link has a carrier, or none.
async fn operational(link: &str, up: bool) {
    let start = Instant::now();
    loop {
        let output = Command::new("ip")
            .args(["-o", "link", "show", link])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        if text.contains(" state UP ") == up {
            return;
        }
        assert!(start.elapsed() < LIMIT, "{text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// However another program replaces a route, that is seen; and the own route is back when the other has gone.
#[test]
fn an_own_route_comes_back_after_a_foreign_one() {
    in_namespace(async {
        let mut node = Node::start().await;
        let prefixes = ["10.244.2.0/24", "fd00:10:2::/64"];
        learn(&mut node.fib, &prefixes);
        node.write().await;
        let all: BTreeSet<String> = prefixes.map(str::to_owned).into();
        assert_eq!(node.own().await, all);
        for (prefix, gateway) in prefixes.iter().zip(["192.0.0.7", "2001:db8::7"]) {
            for how in ["replace", "change"] {
                ip(&format!("route {how} {prefix} via {gateway} metric 20 proto 99"));
                assert_eq!(node.receive().await.len(), 1, "{how} {prefix}");
                node.write().await;
                assert_eq!(node.own().await.len(), 1);
                ip(&format!("route del {prefix} metric 20 proto 99"));
                assert_eq!(node.receive().await.len(), 0);
                node.write().await;
                assert_eq!(node.own().await, all, "{how} {prefix}");
            }
            // Beside the own route it removes nothing; in its place it does.
            ip(&format!("route append {prefix} via {gateway} metric 20 proto 99"));
            assert_eq!(node.receive().await, []);
            assert_eq!(node.own().await, all);
            // But the own route cannot be changed beside it: it is removed, which is better than a stale one.
            node.fib.delta.doubt(|_| true);
            node.write().await;
            assert!(!node.own().await.contains(*prefix));
            ip(&format!("route del {prefix} metric 20 proto 99"));
            node.receive().await;
            node.write().await;
            assert_eq!(node.own().await, all);
        }
    });
}

#[test]
fn any_number_of_notifications_is_one_reading_of_objects() {
    in_namespace(async {
        const OBJECTS: usize = 300;
        let mut monitor = Monitor::new(0).unwrap();
        let file = std::env::temp_dir().join(format!("nexthops-{}", std::process::id()));
        let lines = |verb: &str, rest: &str| -> String {
            (1..=OBJECTS)
                .map(|id| format!("nexthop {verb} id {id}{rest}\n"))
                .collect()
        };
        std::fs::write(&file, lines("add", " via 192.0.0.9 dev e0") + &lines("del", "")).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        let mut news = Vec::new();
        let mut pieces = 0;
        while let Ok(more) = timeout(SILENCE, monitor.next(1, MAIN)).await {
            news.extend(more.unwrap());
            pieces += 1;
        }
        let gone = news
            .iter()
            .filter(|one| matches!(one, KernelEvent::ObjectGone(_)))
            .count();
        let readings = news
            .iter()
            .filter(|one| matches!(one, KernelEvent::Objects))
            .count();
        assert_eq!((gone, readings, pieces), (OBJECTS, 1, 1));
    });
}

#[test]
fn an_audit_repairs_what_no_notification_reported() {
    in_namespace(async {
        let mut node = Node::start().await;
        let prefixes = ["10.244.2.0/24", "10.244.3.0/24", "fd00:10:2::/64"];
        learn(&mut node.fib, &prefixes);
        node.write().await;
        // The monitor is not listened to any more.
        ip("route del 10.244.2.0/24 metric 20");
        ip("route add 10.244.9.0/24 via 192.0.0.7 metric 20 proto 245");
        ip("nexthop flush proto 245");
        ip("route add 198.51.100.0/24 via 192.0.0.7 proto 99");
        node.fib.begin_audit();
        node.writer
            .submit(Batch::ReadObjects(dump::ObjectReading::default()));
        node.answer().await;
        let theirs: Prefix = "198.51.100.0/24".parse().unwrap();
        assert_eq!(node.fib.mirror.foreign.at(theirs).count(), 0);
        let (corrected, own) = node.fib.correct_mirror(read_all(MAIN).await.unwrap());
        // With what the kernel does to the links by itself in their first moments.
        assert!(corrected.count > 0);
        assert_eq!(node.fib.mirror.foreign.at(theirs).count(), 1);
        assert_eq!(node.fib.delta.audit(own), 1, "the unknown route");
        node.fib.delta.end_audit();
        node.write().await;
        assert_eq!(node.own().await, prefixes.map(str::to_owned).into());
        node.fib.begin_audit();
        let (_, own) = node.fib.correct_mirror(read_all(MAIN).await.unwrap());
        assert_eq!(node.fib.delta.audit(own) + node.fib.delta.end_audit(), 0);
    });
}

/// The kernel drops notifications until the socket is empty and says so once: a reading that begins before is too early.
#[test]
fn an_overrun_is_reported_when_the_socket_is_empty() {
    in_namespace(async {
        let mut monitor = Monitor::new(0).unwrap();
        let file = std::env::temp_dir().join(format!("routes-{}", std::process::id()));
        let lines = |verb: &str| -> String {
            let lines =
                (0..20_000).map(|n| format!("route {verb} blackhole 10.{}.{}.0/24\n", n / 250, n % 250));
            lines.collect()
        };
        std::fs::write(&file, lines("add") + &lines("del")).unwrap();
        ip(&format!("-batch {}", file.display()));
        std::fs::remove_file(&file).unwrap();
        let mut after = None;
        while let Ok(news) = timeout(SILENCE, monitor.next(1, MAIN)).await {
            let overrun = news
                .unwrap()
                .iter()
                .any(|one| matches!(one, KernelEvent::Overrun));
            after = after.map(|pieces: usize| pieces + 1).or(overrun.then_some(0));
        }
        assert_eq!(
            after,
            Some(0),
            "pieces of news after the overrun, if there was one"
        );
        ip("route add blackhole 10.1.0.0/24");
        let news = timeout(LIMIT, monitor.next(1, MAIN)).await.unwrap().unwrap();
        assert!(
            matches!(&news[..], [KernelEvent::RouteNew(ReadRoute::Foreign(..), _)]),
            "{news:?}"
        );
    });
}

/// What a bridge says of its ports (AF_BRIDGE) is no news of the links themselves, least of all that they are gone.
#[test]
fn a_port_that_leaves_its_bridge_is_still_a_link() {
    in_namespace(async {
        let mut node = Node::start().await;
        ip("link add br0 type bridge");
        ip("link set br0 up");
        node.agrees("link set br0 up").await;
        ip("link set e0 master br0");
        ip("link set e0 nomaster");
        let mut pieces = 0;
        while let Ok(news) = timeout(SILENCE, node.monitor.next(node.writer.port(), MAIN)).await {
            for one in news.unwrap() {
                if let KernelEvent::Link(index, link) = one {
                    pieces += 1;
                    let link = link.expect("nothing is gone");
                    let lost = node.fib.link_new(index, link.clone());
                    assert!(!lost || link.name == "br0", "{link:?}");
                }
            }
        }
        assert!(pieces > 0);
    });
}

/// `ip -6 -batch` with these lines.
fn ip_batch(lines: impl Iterator<Item = String>) {
    let mut ip = Command::new("ip");
    ip.args(["-6", "-batch", "-"]).stdin(std::process::Stdio::piped());
    let mut ip = ip.spawn().unwrap();
    let text = lines.collect::<Vec<_>>().join("\n");
    std::io::Write::write_all(&mut ip.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
}

/// Routes in front of those that are read go and come: the kernel leaves out routes that stay.
#[test]
fn a_reading_of_a_table_that_changes_is_whole_or_doubtful() {
    const OWN: usize = 5000;
    in_namespace(async {
        let own = |n| format!("route add fd00:10:0:{n:x}::/64 dev e0 proto 245 metric 20");
        ip_batch((0..OWN).map(own));
        let other = |verb, n| format!("route {verb} 2001:db7:0:{n:x}::/64 dev e1");
        let churn = std::thread::spawn(move || {
            for _ in 0..30 {
                ip_batch((0..1000).map(|n| other("add", n)));
                let all = (0..1000).map(|n| other("del", n));
                ip_batch(all.chain([other("add", 0), other("del", 0)]));
            }
        });
        while !churn.is_finished() {
            let reading = read_all(MAIN).await.unwrap();
            assert!(
                reading.is_doubtful || reading.own.len() == OWN,
                "{}",
                reading.own.len()
            );
        }
        churn.join().unwrap();
        let reading = read_all(MAIN).await.unwrap();
        assert!(!reading.is_doubtful);
        assert_eq!(reading.own.len(), OWN);
        // Whatever one listing leaves out, the next one has.
        assert_eq!(cleanup::cleanup().await.unwrap(), OWN);
        assert!(read_all(MAIN).await.unwrap().own.is_empty());
    });
}
