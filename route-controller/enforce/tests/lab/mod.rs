//! A node with pods: network namespaces, wired as podroute-cni does, with servers in each.

use std::collections::HashMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns, unshare};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use nix::unistd::Pid;

pub const TCP_PORTS: [u16; 3] = [80, 81, 8080];
pub const UDP_PORTS: [u16; 2] = [53, 80];
const PATIENCE: Duration = Duration::from_secs(60);

/// One end: a namespace with its servers.
pub struct Host {
    netns: File,
    pub addresses: Vec<IpAddr>,
    tcp: Vec<TcpListener>,
    udp: HashMap<u16, UdpSocket>,
}

pub struct Lab {
    node: File,
    pub hosts: HashMap<String, Host>,
}

fn current() -> File {
    File::open("/proc/thread-self/ns/net").unwrap()
}

fn run(command: &str) {
    let words: Vec<&str> = command.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Lab {
    /// None without the right to it. The thread is the node's from here on.
    pub fn new() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("left out: needs root");
            return None;
        }
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        // One CPU: packets are delivered in the order in which they were sent.
        let mut cpu = CpuSet::new();
        cpu.set(0).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpu).unwrap();
        run("ip link set lo up");
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        Some(Self {
            node: current(),
            hosts: HashMap::new(),
        })
    }

    /// A pod, or another host, behind an interface.
    pub fn add(&mut self, interface: &str, addresses: &[IpAddr]) {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let netns = current();
        setns(&self.node, CloneFlags::CLONE_NEWNET).unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd());
        run(&format!(
            "ip link add {interface} type veth peer name eth0 netns {path}"
        ));
        run(&format!("ip addr add 169.254.1.1/32 dev {interface}"));
        run(&format!("ip addr add fe80::1/128 dev {interface} nodad"));
        run(&format!("ip link set {interface} up"));
        setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
        run("ip link set lo up");
        for address in addresses {
            let nodad = if address.is_ipv6() { " nodad" } else { "" };
            run(&format!("ip addr add {address} dev eth0{nodad}"));
        }
        run("ip link set eth0 up");
        run("ip route add 169.254.1.1 dev eth0");
        run("ip route add default via 169.254.1.1");
        run("ip -6 route add default via fe80::1 dev eth0");
        let any = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let tcp = TCP_PORTS.map(|port| {
            let listener = TcpListener::bind(any(port)).unwrap();
            listener.set_nonblocking(true).unwrap();
            listener
        });
        let udp = UDP_PORTS.map(|port| {
            let socket = UdpSocket::bind(any(port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            (port, socket)
        });
        setns(&self.node, CloneFlags::CLONE_NEWNET).unwrap();
        for address in addresses {
            run(&format!("ip route add {address} dev {interface}"));
        }
        let host = Host {
            netns,
            addresses: addresses.to_vec(),
            tcp: tcp.into(),
            udp: udp.into(),
        };
        self.hosts.insert(interface.to_owned(), host);
    }

    pub fn inside<T>(&self, host: &str, work: impl FnOnce() -> T) -> T {
        setns(&self.hosts[host].netns, CloneFlags::CLONE_NEWNET).unwrap();
        let result = work();
        setns(&self.node, CloneFlags::CLONE_NEWNET).unwrap();
        result
    }

    /// Sends all probes, those that are not expected first, and compares what arrived. The node's queues keep the order: when
    /// the last has arrived, none of the first will.
    pub fn compare(&self, probes: &[Probe]) {
        let (expected, forbidden): (Vec<&Probe>, Vec<&Probe>) =
            probes.iter().partition(|probe| probe.expected);
        let mut sent: Vec<(&Probe, Sent)> = Vec::new();
        for probe in forbidden.into_iter().chain(expected) {
            let socket = self.inside(&probe.from, || send(probe));
            sent.push((probe, socket));
        }
        let deadline = Instant::now() + PATIENCE;
        let mut arrived = self.received();
        loop {
            let missing: Vec<&Probe> = sent
                .iter()
                .filter(|(probe, socket)| probe.expected && !socket.has_arrived(probe, &arrived))
                .map(|(probe, _)| *probe)
                .collect();
            if missing.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "did not arrive: {missing:?}");
            std::thread::yield_now();
            arrived.extend(self.received());
        }
        arrived.extend(self.received());
        let wrong = sent
            .iter()
            .filter(|(probe, socket)| !probe.expected && socket.has_arrived(probe, &arrived));
        let wrong: Vec<&Probe> = wrong.map(|(probe, _)| *probe).collect();
        assert!(wrong.is_empty(), "arrived and should not: {wrong:?}");
        for host in self.hosts.values() {
            host.tcp
                .iter()
                .for_each(|listener| while listener.accept().is_ok() {});
        }
    }

    /// Datagrams: receiver, its port and what it got.
    fn received(&self) -> Vec<String> {
        let mut all = Vec::new();
        for (name, host) in &self.hosts {
            for (port, socket) in &host.udp {
                let mut buffer = [0; 256];
                loop {
                    match socket.recv_from(&mut buffer) {
                        Ok((length, _)) => {
                            let text = String::from_utf8_lossy(&buffer[..length]);
                            all.push(format!("{name} {port} {text}"));
                        }
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => panic!("{error}"),
                    }
                }
            }
        }
        all
    }
}

/// A new connection or a datagram.
#[derive(Debug, Clone)]
pub struct Probe {
    pub from: String,
    pub to: String,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: u8,
    pub port: u16,
    pub expected: bool,
}

impl Probe {
    fn text(&self) -> String {
        format!("{} {}", self.source, self.destination)
    }
}

enum Sent {
    Tcp(TcpStream),
    Udp,
}

impl Sent {
    fn has_arrived(&self, probe: &Probe, datagrams: &[String]) -> bool {
        match self {
            Self::Tcp(stream) => stream.peer_addr().is_ok(),
            Self::Udp => datagrams.contains(&format!("{} {} {}", probe.to, probe.port, probe.text())),
        }
    }
}

fn send(probe: &Probe) -> Sent {
    let (source, target) = (
        SocketAddr::new(probe.source, 0),
        SocketAddr::new(probe.destination, probe.port),
    );
    if probe.protocol == 17 {
        let socket = UdpSocket::bind(source).unwrap();
        socket.send_to(probe.text().as_bytes(), target).unwrap();
        return Sent::Udp;
    }
    let family = if source.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_NONBLOCK, None).unwrap();
    nix::sys::socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(source)).unwrap();
    let _ = connect(fd.as_raw_fd(), &SockaddrStorage::from(target)); // in progress
    Sent::Tcp(TcpStream::from(fd))
}
