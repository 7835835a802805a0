//! Sessions over real sockets in network namespaces: which packets can disturb them.
//!
//! Each test starts itself again in new namespaces, which end with that process. Where that is not possible
//! it is skipped and prints why.
#![cfg(test)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::process::Command;
use std::time::{Duration, Instant};

use bfd::{Bfd, Diagnostic, Down, DropReason, Key, Packet, State, Status, Target};
use nix::sched::{CloneFlags, setns, unshare};

const INSIDE: &str = "PODROUTE_BFD_LAB";
/// Longer than anything here takes; reached only by a failure.
const LIMIT: Duration = Duration::from_secs(30);

/// The session's neighbor, and other senders in its namespace.
const NEIGHBOR: [&str; 2] = ["192.0.2.2", "2001:db8:a::2"];
const OURS: [&str; 2] = ["192.0.2.1", "2001:db8:a::1"];

fn in_lab(test: &str, body: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    if !nix::unistd::geteuid().is_root() {
        println!("LEFT OUT: {test}: it needs root");
        return;
    }
    let exe = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--net", "--"])
        .arg(exe)
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside its namespaces");
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {stderr}");
}

/// A namespace that ends with this process: the thread that created it stays there and runs jobs.
#[derive(Clone)]
struct Namespace(std::sync::Arc<std::fs::File>);

impl Namespace {
    fn new() -> Self {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
            std::fs::File::open("/proc/thread-self/ns/net").unwrap()
        });
        Self(std::sync::Arc::new(thread.join().unwrap()))
    }

    fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.0, CloneFlags::CLONE_NEWNET).unwrap();
                job()
            });
            thread.join().unwrap()
        })
    }

    /// A veth from the new namespace to the calling one.
    fn cable(&self, here: &str, there: &str) {
        let own = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
        self.within(|| {
            let fd = std::os::fd::AsRawFd::as_raw_fd(&own);
            let netns = format!("/proc/{}/fd/{fd}", std::process::id());
            ip(&format!(
                "link add {here} type veth peer name {there} netns {netns}"
            ));
            ip(&format!("link set {here} up"));
        });
        ip(&format!("link set {there} up"));
    }
}

/// This namespace is the node; the neighbor is behind eth0, a pod behind pod0.
struct Lab {
    neighbor: Namespace,
    pod: Namespace,
}

fn lab() -> Lab {
    ip("link set lo up");
    let lab = Lab {
        neighbor: Namespace::new(),
        pod: Namespace::new(),
    };
    lab.neighbor.cable("eth0", "eth0");
    lab.pod.cable("eth0", "pod0");
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    std::fs::write("/proc/sys/net/ipv4/conf/pod0/rp_filter", "0").unwrap();
    let addresses = |which: [&str; 2], dev: &str| {
        ip(&format!("addr add {}/24 dev {dev}", which[0]));
        ip(&format!("addr add {}/64 dev {dev} nodad", which[1]));
    };
    addresses(OURS, "eth0");
    lab.neighbor.within(|| addresses(NEIGHBOR, "eth0"));
    // The pod has the node's end as gateway, and takes the neighbor's address.
    ip("addr add 169.254.1.1/32 dev pod0");
    ip("addr add fe80::1/64 dev pod0 nodad");
    ip("route add 10.244.1.5/32 dev pod0");
    lab.pod.within(|| {
        ip("addr add 10.244.1.5/32 dev eth0");
        ip(&format!("addr add {}/32 dev eth0", NEIGHBOR[0]));
        ip(&format!("addr add {}/128 dev eth0 nodad", NEIGHBOR[1]));
        ip("addr add fe80::5/64 dev eth0 nodad");
        ip("route add 169.254.1.1 dev eth0");
        ip("route add default via 169.254.1.1 dev eth0");
        ip("route add default via fe80::1 dev eth0");
    });
    lab
}

fn target(remote: &str, local: &str) -> Target {
    Target {
        key: Key {
            remote: remote.parse().unwrap(),
            scope: 0,
        },
        local: Some(local.parse().unwrap()),
        multihop: false,
        min_ttl: 0,
        interval: Duration::from_millis(300),
        multiplier: 10,
        auth: None,
    }
}

/// Both ends, with these changes to their targets.
fn sessions(lab: &Lab, change: fn(&mut Target)) -> [Bfd; 2] {
    let start = |ours: [&str; 2], theirs: [&str; 2]| {
        let bfd = Bfd::start(|| ()).unwrap();
        let mut targets = vec![target(theirs[0], ours[0]), target(theirs[1], ours[1])];
        targets.iter_mut().for_each(change);
        bfd.put(targets);
        bfd
    };
    let ends = [
        start(OURS, NEIGHBOR),
        lab.neighbor.within(|| start(NEIGHBOR, OURS)),
    ];
    wait("both sessions up", || {
        let all = ends.iter().flat_map(|end| end.status().into_values());
        all.filter(|status| status.state == State::Up).count() == 4
    });
    ends
}

fn wait(what: &str, done: impl Fn() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < limit, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status(bfd: &Bfd, remote: &str) -> Status {
    let remote: IpAddr = remote.parse().unwrap();
    let all = bfd.status();
    *all.iter().find(|(key, _)| key.remote == remote).unwrap().1
}

/// A forged packet that reports the neighbor's session as down.
fn forged(your_discriminator: u32) -> [u8; 24] {
    let packet = Packet {
        state: State::Down,
        diagnostic: Diagnostic::NeighborDown,
        poll: false,
        is_final: false,
        multiplier: 3,
        my_discriminator: NonZeroU32::new(0xBAD).unwrap(),
        your_discriminator,
        desired_tx: Duration::from_secs(1),
        required_rx: Duration::from_secs(1),
    };
    packet.encode()
}

/// Sends a forged packet from the neighbor's address.
fn forge(which: usize, port: u16, ttl: u32) {
    let socket = socket2::Socket::from(UdpSocket::bind((NEIGHBOR[which], 0)).unwrap());
    if which == 0 {
        socket.set_ttl_v4(ttl).unwrap();
    } else {
        socket.set_unicast_hops_v6(ttl).unwrap();
    }
    let to: SocketAddr = SocketAddr::new(OURS[which].parse().unwrap(), port);
    socket.send_to(&forged(0), &to.into()).unwrap();
}

/// Sends until a packet was dropped for this reason: the first ones on a new link may be lost.
fn dropped(bfd: &Bfd, which: usize, expected: DropReason, send: impl Fn()) {
    let before = status(bfd, NEIGHBOR[which]).dropped.0;
    wait(&format!("refused: {expected}"), || {
        send();
        let (count, why) = status(bfd, NEIGHBOR[which]).dropped;
        count > before && why == Some(expected)
    });
}

/// Starts after the previous one has closed its sockets.
fn start_again() -> Bfd {
    let limit = Instant::now() + LIMIT;
    loop {
        match Bfd::start(|| ()) {
            Ok(bfd) => return bfd,
            Err(error) => assert!(Instant::now() < limit, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn packets_from_elsewhere_do_not_disturb() {
    in_lab("packets_from_elsewhere_do_not_disturb", || {
        let lab = lab();
        let ends = sessions(&lab, |_| ());
        let pod0 = nix::net::if_::if_nametoindex("pod0").unwrap();
        for which in [0, 1] {
            // Through a router.
            for ttl in [1, 64, 254] {
                let expected = DropReason::Ttl(u8::try_from(ttl).unwrap(), 255);
                dropped(&ends[0], which, expected, || {
                    lab.neighbor.within(|| forge(which, 3784, ttl))
                });
            }
            // From a pod of the node, which can send TTL 255. More than once, with pauses in which the cached
            // lookup expires.
            for _ in 0..20 {
                dropped(&ends[0], which, DropReason::Interface(pod0), || {
                    lab.pod.within(|| forge(which, 3784, 255))
                });
            }
            // On the link, but without our discriminator.
            lab.neighbor.within(|| forge(which, 3784, 255));
        }
        // Earlier packets have been received when a later one is dropped.
        for which in [0, 1] {
            dropped(&ends[0], which, DropReason::Ttl(1, 255), || {
                lab.neighbor.within(|| forge(which, 3784, 1))
            });
            let status = status(&ends[0], NEIGHBOR[which]);
            assert_eq!((status.state, status.downs), (State::Up, 0), "{status:?}");
        }
    });
}

#[test]
fn a_neighbor_that_starts_again_is_believed_after_the_silence_of_the_old_session() {
    in_lab(
        "a_neighbor_that_starts_again_is_believed_after_the_silence_of_the_old_session",
        || {
            let lab = lab();
            let [here, there] = sessions(&lab, |_| ());
            // The neighbor disappears silently: its last packets do not arrive.
            lab.neighbor.within(|| ip("link set eth0 down"));
            drop(there);
            lab.neighbor.within(|| {
                ip("link set eth0 up");
                ip(&format!("addr replace {}/64 dev eth0 nodad", NEIGHBOR[1]));
            });
            let again = lab.neighbor.within(|| {
                let bfd = start_again();
                bfd.put(vec![target(OURS[0], NEIGHBOR[0])]);
                bfd
            });
            wait("the session down and up again", || {
                let status = status(&here, NEIGHBOR[0]);
                status.downs == 1 && status.state == State::Up
            });
            assert_eq!(status(&here, NEIGHBOR[0]).last_down, Some(Down::Expired));
            assert_eq!(status(&again, OURS[0]).state, State::Up);
        },
    );
}

#[test]
fn a_neighbor_that_no_longer_receives_ends_the_session_at_once() {
    in_lab(
        "a_neighbor_that_no_longer_receives_ends_the_session_at_once",
        || {
            let lab = lab();
            let [here, there] = sessions(&lab, |_| ());
            // Its packets go to an unused address; ours still arrive there.
            lab.neighbor.within(|| {
                ip(&format!(
                    "neigh replace {} lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
                    OURS[0]
                ));
            });
            wait("both ends down", || {
                status(&here, NEIGHBOR[0]).downs == 1 && status(&there, OURS[0]).downs == 1
            });
            assert_eq!(status(&here, NEIGHBOR[0]).last_down, Some(Down::Expired));
            // RFC 5880 §6.8.1: we have forgotten its discriminator, and it knows ours.
            let reported = Some(Down::Neighbor(Diagnostic::TimeExpired));
            assert_eq!(status(&there, OURS[0]).last_down, reported);
        },
    );
}

#[test]
fn the_least_ttl_of_a_neighbor_some_hops_away() {
    in_lab("the_least_ttl_of_a_neighbor_some_hops_away", || {
        let lab = lab();
        let ends = sessions(&lab, |target| {
            target.multihop = true;
            target.min_ttl = 250;
        });
        for which in [0, 1] {
            dropped(&ends[0], which, DropReason::Ttl(249, 250), || {
                lab.neighbor.within(|| forge(which, 4784, 249))
            });
            assert_eq!(status(&ends[0], NEIGHBOR[which]).downs, 0);
        }
    });
}

#[test]
fn a_neighbor_that_moves_to_another_interface_is_believed_there() {
    in_lab(
        "a_neighbor_that_moves_to_another_interface_is_believed_there",
        || {
            let lab = lab();
            let [here, _there] = sessions(&lab, |_| ());
            // The address moves to a bridge over the interface: first added, then deleted.
            ip("link add br0 type bridge");
            ip("link set br0 up");
            let mac = std::fs::read_to_string("/sys/class/net/eth0/address").unwrap();
            ip(&format!("link set br0 address {}", mac.trim()));
            ip(&format!("addr add {}/24 dev br0", OURS[0]));
            ip("link set eth0 master br0");
            ip(&format!("addr del {}/24 dev eth0", OURS[0]));
            let pod0 = nix::net::if_::if_nametoindex("pod0").unwrap();
            dropped(&here, 0, DropReason::Interface(pod0), || {
                lab.pod.within(|| forge(0, 3784, 255))
            });
            // A separate session, so that the state of the old one does not count.
            here.put(Vec::new());
            wait("no session", || here.status().is_empty());
            here.put(vec![target(NEIGHBOR[0], OURS[0])]);
            wait("the session up", || {
                here.status().values().any(|status| status.state == State::Up)
            });
        },
    );
}

#[test]
fn discriminators_are_random() {
    in_lab("discriminators_are_random", || {
        ip("link set lo up");
        let neighbor = UdpSocket::bind("127.0.0.2:3784").unwrap();
        neighbor.set_read_timeout(Some(LIMIT)).unwrap();
        let node = Namespace::new();
        node.cable("eth0", "eth0");
        ip("addr add 192.0.2.2/24 dev eth0");
        drop(neighbor);
        let neighbor = UdpSocket::bind("192.0.2.2:3784").unwrap();
        neighbor.set_read_timeout(Some(LIMIT)).unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..8 {
            let bfd = node.within(|| {
                let _ = Command::new("ip")
                    .args("addr add 192.0.2.1/24 dev eth0".split(' '))
                    .output();
                let bfd = start_again();
                bfd.put(vec![target("192.0.2.2", "192.0.2.1")]);
                bfd
            });
            let mut bytes = [0; 64];
            let length = neighbor.recv(&mut bytes).unwrap();
            seen.insert(Packet::decode(&bytes[..length]).unwrap().my_discriminator.get());
            drop(bfd);
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
        assert!(seen.iter().all(|number| *number > 1000), "{seen:?}");
    });
}
