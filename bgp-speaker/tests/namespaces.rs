//! Speakers in their own network namespaces, for tests that change addresses, links and limits.
//!
//! Each test starts itself again in a new namespace, which ends with that process. Where that is not possible
//! it is skipped and prints why.
#![cfg(test)]

mod common;

use std::future::Future;
use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bgp_proto::engine::Originated;
use bgp_proto::policy::Source;
use bgp_proto::session::State;
use bgp_proto::types::{Asn, HoldTime, PeerId};
use bgp_speaker::{LinkSpec, Password, PeerSpec, RangeSpec, SpeakerHandle, Ttl};
use common::*;
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::runtime::Runtime;

const INSIDE: &str = "PODROUTE_SPEAKER_LAB";

fn in_lab<F: Future<Output = ()>>(test: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        return runtime.block_on(body());
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
    assert!(status.success(), "{test} failed inside its namespace");
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {stderr}");
}

fn sysctl(name: &str, value: &str) -> std::io::Result<()> {
    std::fs::write(format!("/proc/sys/{name}"), value)
}

/// Addresses are usable at once (no duplicate address detection). The namespace is the calling thread's.
fn without_dad() {
    for name in ["all", "default"] {
        sysctl(&format!("net/ipv6/conf/{name}/accept_dad"), "0").unwrap();
    }
}

/// The other end of a link `a0` — `b0`: a namespace, and a runtime whose threads are in it.
struct Far {
    namespace: Arc<std::fs::File>,
    runtime: Option<Runtime>,
}

impl Far {
    fn new() -> Self {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            without_dad();
            ip("link set lo up");
            std::fs::File::open("/proc/thread-self/ns/net").unwrap()
        });
        let namespace = Arc::new(thread.join().unwrap());
        without_dad();
        ip("link add a0 type veth peer name b0");
        let file = std::os::fd::AsRawFd::as_raw_fd(&*namespace);
        ip(&format!(
            "link set b0 netns /proc/{}/fd/{file}",
            std::process::id()
        ));
        let inside = Arc::clone(&namespace);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(move || setns(&*inside, CloneFlags::CLONE_NEWNET).unwrap())
            .enable_all()
            .build()
            .unwrap();
        let far = Self {
            namespace,
            runtime: Some(runtime),
        };
        far.within(|| ip("link set b0 up"));
        ip("link set a0 up");
        far
    }

    fn within<T: Send>(&self, job: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&*self.namespace, CloneFlags::CLONE_NEWNET).unwrap();
                job()
            });
            thread.join().unwrap()
        })
    }

    async fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.as_ref().unwrap().spawn(future).await.unwrap()
    }

    async fn put_peer(&self, node: &Node, spec: PeerSpec) {
        let handle = node.handle.clone();
        self.run(async move { handle.put_peer(spec).await.unwrap() })
            .await;
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn port(text: &str) -> SocketAddr {
    SocketAddr::new(addr(text), 179)
}

/// Speakers on port 179 of all addresses, both families.
async fn both(far: &Far) -> (Node, Node) {
    let a = start_on(&["0.0.0.0", "::"].map(port), 1, 64512);
    let b = far
        .run(async { start_on(&["0.0.0.0", "::"].map(port), 2, 65001) })
        .await;
    (a, b)
}

/// From an address chosen by the kernel.
fn anywhere(mut spec: PeerSpec) -> PeerSpec {
    spec.transport.local = None;
    spec.session.hold_time = HoldTime::new(240).unwrap();
    spec
}

fn originated(prefix: &str) -> Originated {
    Originated {
        prefix: prefix.parse().unwrap(),
        source: Source::PodBlock,
        communities: Vec::new(),
    }
}

/// RFC 5082: the handshake of the listener has TTL 255 too.
#[test]
fn gtsm_between_two_speakers() {
    in_lab("gtsm_between_two_speakers", || async {
        let far = Far::new();
        ip("addr add 192.0.2.1/24 dev a0");
        ip("addr add 2001:db8:a::1/64 dev a0 nodad");
        far.within(|| {
            ip("addr add 192.0.2.2/24 dev b0");
            ip("addr add 2001:db8:a::2/64 dev b0 nodad");
        });
        let (a, b) = both(&far).await;
        for (id, ours, theirs) in [
            (1, "192.0.2.1", "192.0.2.2"),
            (2, "2001:db8:a::1", "2001:db8:a::2"),
        ] {
            let gtsm = |node: &Node, remote, asn, passive| {
                let mut spec = anywhere(spec(node, id, port(remote), asn));
                spec.transport.ttl = Ttl::Gtsm(1);
                spec.session.passive = passive;
                spec
            };
            // In both directions, so that each listener has to answer.
            for a_listens in [true, false] {
                a.handle
                    .put_peer(gtsm(&a, theirs, b.asn, a_listens))
                    .await
                    .unwrap();
                far.put_peer(&b, gtsm(&b, ours, a.asn, !a_listens)).await;
                let up = in_state(&a.handle, id, State::Established).await;
                let port = up.session.ends.unwrap().0.port();
                assert_eq!(port == 179, a_listens);
                a.handle.remove_peer(PeerId(id)).await.unwrap();
                b.handle.remove_peer(PeerId(id)).await.unwrap();
            }
        }
    });
}

fn range(node: &Node, prefix: &str, asn: u32) -> RangeSpec {
    let mut template = anywhere(spec(node, 0, port("0.0.0.0"), Asn(asn)));
    template.session.passive = true;
    RangeSpec {
        name: "rack".to_owned(),
        prefix: prefix.parse().unwrap(),
        limit: 10,
        template,
    }
}

/// Far below the hold time: the kernel reports that the address is removed.
#[test]
fn a_session_whose_address_goes_comes_back_from_another() {
    in_lab("a_session_whose_address_goes_comes_back_from_another", || async {
        let far = Far::new();
        sysctl("net/ipv4/conf/all/promote_secondaries", "1").unwrap();
        ip("addr add 192.0.2.1/24 dev a0");
        ip("addr add 192.0.2.3/24 dev a0");
        far.within(|| ip("addr add 192.0.2.2/24 dev b0"));
        let (a, b) = both(&far).await;
        let rack = range(&b, "192.0.2.0/24", 64512);
        let handle = b.handle.clone();
        far.run(async move { handle.put_range(rack).await.unwrap() })
            .await;
        a.handle
            .put_peer(anywhere(spec(&a, 1, port("192.0.2.2"), b.asn)))
            .await
            .unwrap();
        let from = |text: &'static str| {
            let handle = a.handle.clone();
            eventually(text, move || {
                let handle = handle.clone();
                async move {
                    let session = peer(&handle, 1).await.session;
                    let ours = session.ends.map(|(ours, _)| ours.ip());
                    (session.state == State::Established && ours == Some(addr(text))).then_some(())
                }
            })
        };
        from("192.0.2.1").await;
        ip("addr del 192.0.2.1/24 dev a0");
        from("192.0.2.3").await;
        // The address moves to a bridge, as some systems do at boot: the session stays.
        let before = peer(&a.handle, 1).await.session.stats.established;
        ip("link add br0 type bridge");
        ip("link set br0 up");
        ip("addr add 192.0.2.3/32 dev br0");
        ip("addr del 192.0.2.3/24 dev a0");
        ip("route add 192.0.2.0/24 dev a0 src 192.0.2.3");
        a.handle
            .originate(vec![originated("10.244.1.0/24")])
            .await
            .unwrap();
        has_route(&b.handle, "10.244.1.0/24", true).await;
        let session = peer(&a.handle, 1).await.session;
        assert_eq!(
            (session.state, session.stats.established),
            (State::Established, before)
        );
        // From there it is removed.
        ip("addr add 192.0.2.4/24 dev a0");
        ip("addr del 192.0.2.3/32 dev br0");
        from("192.0.2.4").await;
    });
}

/// The session comes up while the node has no address of the other family: those routes follow once it has
/// one.
#[test]
fn the_other_family_is_announced_when_its_address_comes() {
    in_lab("the_other_family_is_announced_when_its_address_comes", || async {
        let far = Far::new();
        ip("addr add 192.0.2.1/24 dev a0");
        far.within(|| {
            ip("addr add 192.0.2.2/24 dev b0");
            ip("addr add 2001:db8:a::2/64 dev b0 nodad");
        });
        let (a, b) = both(&far).await;
        let routes = ["10.244.1.0/24", "2001:db8:1::/64"].map(originated);
        a.handle.originate(routes.to_vec()).await.unwrap();
        a.handle
            .put_peer(anywhere(spec(&a, 1, port("192.0.2.2"), b.asn)))
            .await
            .unwrap();
        far.put_peer(&b, anywhere(spec(&b, 1, port("192.0.2.1"), a.asn)))
            .await;
        has_route(&b.handle, "10.244.1.0/24", true).await;
        has_route(&b.handle, "2001:db8:1::/64", false).await;
        ip("addr add 2001:db8:a::1/64 dev a0 nodad");
        has_route(&b.handle, "2001:db8:1::/64", true).await;
        ip("addr del 2001:db8:a::1/64 dev a0");
        has_route(&b.handle, "2001:db8:1::/64", false).await;
        assert_eq!(peer(&a.handle, 1).await.session.stats.established, 1);
    });
}

/// Keys beyond net.core.optmem_max: connections of those peers are refused, not accepted unsigned.
#[test]
fn a_listener_without_memory_for_a_key_refuses_the_peer() {
    in_lab("a_listener_without_memory_for_a_key_refuses_the_peer", || async {
        let limit = "net/core/optmem_max";
        let usual = std::fs::read_to_string(format!("/proc/sys/{limit}"));
        let Ok(usual) = usual.and_then(|usual| sysctl(limit, "1024").map(|()| usual)) else {
            println!("LEFT OUT: this kernel has no {limit} of a namespace");
            return;
        };
        let a = start_on(&[port("127.0.0.1")], 1, 64512);
        let keyed = |last: u8| {
            let remote = SocketAddr::from(([127, 0, 1, last], 179));
            let mut spec = spec(&a, last.into(), remote, Asn(65009));
            spec.session.passive = true;
            spec.transport.password = Some(Password::new(b"secret").unwrap());
            spec
        };
        for last in 1..=40 {
            a.handle.put_peer(keyed(last)).await.unwrap();
        }
        // Unsigned: the listener has no key and drops nothing.
        let mut stream = connect_from([127, 0, 1, 40].into(), a.addr).await;
        let mut octets = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut octets)).await;
        let _ = read.expect("closed in time"); // a reset is fine too
        assert!(octets.is_empty(), "nothing is sent");
        let session = peer(&a.handle, 40).await.session;
        assert_eq!((session.stats.accepted, session.signed), (0, false));
        // With memory available, the key is set when the peer is changed next.
        sysctl(limit, usual.trim()).unwrap();
        a.handle.put_peer(keyed(40)).await.unwrap();
        let b = start_on(&[port("127.0.1.40")], 2, 65009);
        let mut dialing = spec(&b, 1, a.addr, a.asn);
        dialing.transport.password = Some(Password::new(b"secret").unwrap());
        b.handle.put_peer(dialing).await.unwrap();
        assert!(in_state(&a.handle, 40, State::Established).await.session.signed);
    });
}

/// The log output.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        subscriber.init();
        log
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Sends router advertisements from an address of `b0`.
struct Router(Socket, SocketAddrV6);

impl Router {
    fn new(from: &str, hop_limit: u32) -> Self {
        ip(&format!("addr add {from}/64 dev b0 nodad"));
        let index = nix::net::if_::if_nametoindex("b0").unwrap();
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        let from: Ipv6Addr = from.parse().unwrap();
        socket
            .bind(&SocketAddr::V6(SocketAddrV6::new(from, 0, 0, index)).into())
            .unwrap();
        socket.set_multicast_hops_v6(hop_limit).unwrap();
        socket.set_multicast_if_v6(index).unwrap();
        Self(socket, SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, index))
    }

    fn send(&self) {
        let mut message = [0; 16];
        message[0] = 134;
        self.0.send_to(&message, &SocketAddr::V6(self.1).into()).unwrap();
    }
}

fn link(node: &Node, interface: &str, asn: Asn) -> LinkSpec {
    LinkSpec {
        interface: interface.to_owned(),
        template: anywhere(spec(node, 1, port("::"), asn)),
    }
}

fn neighbor(handle: &SpeakerHandle) -> Option<IpAddr> {
    handle.addresses().get(&PeerId(1)).map(SocketAddr::ip)
}

#[test]
fn a_second_router_on_the_link_disturbs_no_session() {
    in_lab("a_second_router_on_the_link_disturbs_no_session", || async {
        let log = Log::start();
        let far = Far::new();
        let (a, b) = both(&far).await;
        a.handle.put_link(link(&a, "a0", b.asn)).await.unwrap();
        let (handle, theirs) = (b.handle.clone(), link(&b, "b0", a.asn));
        far.run(async move { handle.put_link(theirs).await.unwrap() })
            .await;
        in_state(&a.handle, 1, State::Established).await;
        let known = neighbor(&a.handle);
        // A router on the path decrements the hop limit; one on the link does not.
        let (distant, second) = far.within(|| (Router::new("fe80::64", 64), Router::new("fe80::bad", 255)));
        eventually("the report of the second router", || async {
            distant.send();
            second.send();
            log.text().contains("second=fe80::bad").then_some(())
        })
        .await;
        // Complete addresses: those of the links are random and may begin like this one.
        let text = log.text();
        let named = text
            .split(|c: char| c != ':' && !c.is_ascii_hexdigit())
            .any(|word| word.trim_end_matches(':') == "fe80::64");
        assert!(!named, "a message from another link is no router: {text}");
        assert_eq!(neighbor(&a.handle), known);
        let session = peer(&a.handle, 1).await.session;
        assert_eq!(
            (session.state, session.stats.established),
            (State::Established, 1)
        );
    });
}

#[test]
fn without_a_session_the_next_router_is_tried() {
    in_lab("without_a_session_the_next_router_is_tried", || async {
        let far = Far::new();
        let a = start_on(&[port("::")], 1, 64512);
        a.handle.put_link(link(&a, "a0", Asn(65001))).await.unwrap();
        let (first, second) = far.within(|| (Router::new("fe80::1", 255), Router::new("fe80::2", 255)));
        let becomes = |router: &'static str| {
            let (a, first, second) = (&a, &first, &second);
            async move {
                let reached = async {
                    while neighbor(&a.handle) != Some(addr(router)) {
                        first.send();
                        if router == "fe80::2" {
                            second.send();
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                };
                tokio::time::timeout(6 * DEADLINE, reached).await.expect(router);
            }
        };
        becomes("fe80::1").await;
        let found = std::time::Instant::now();
        becomes("fe80::2").await;
        assert!(
            found.elapsed() >= Duration::from_secs(9),
            "the first one had its turn"
        );
    });
}
