//! Batches, dumps, filters and namespaces beside a real kernel, in network namespaces of the tests' own threads; left out without
//! the right to make one.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test says what is wrong by panicking"
)]

use linux::netlink::{
    Batch, CREATE, DUMP, EXCL, Message, Protocol, REQUEST, Reply, Socket, frame, messages, u32_at,
};
use linux::netns;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_LINK: u16 = 16;
const LINKS: u32 = 1;
const IPV4_ROUTES: u32 = 7;

/// Whether the thread has a namespace of its own now.
fn in_namespace() -> bool {
    let outcome = unshare(CloneFlags::CLONE_NEWNET);
    if let Err(error) = outcome {
        println!("left out: no network namespace: {error}");
    }
    outcome.is_ok()
}

/// A route that drops packets to 10.N.N.N/32.
fn route(batch: &mut Batch, kind: u16, number: u32, protocol: u8) {
    const BLACKHOLE: u8 = 6;
    const MAIN: u8 = 254;
    let flags = if kind == NEW_ROUTE { CREATE | EXCL } else { 0 };
    let header = [2, 32, 0, 0, MAIN, protocol, 0, BLACKHOLE, 0, 0, 0, 0];
    batch.begin(kind, flags, &header, format!("change route {number}"));
    batch.attr(1, &(0x0a00_0000 + number).to_be_bytes());
}

fn add(socket: &Socket, numbers: impl IntoIterator<Item = u32>, protocol: u8) {
    let mut batch = Batch::default();
    for number in numbers {
        route(&mut batch, NEW_ROUTE, number, protocol);
    }
    let replies: Vec<Reply> = socket.run(batch).unwrap();
    assert!(replies.is_empty());
}

/// Destinations of the routes with a protocol number, less 10.0.0.0.
fn listed(socket: &Socket, protocol: u8) -> Vec<u32> {
    let mut request = Vec::new();
    frame::message(&mut request, GET_ROUTE, REQUEST | DUMP, 1, |out| {
        out.extend([2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    });
    let mut found = Vec::new();
    let is_consistent = socket.dump(&request, |message| found.extend(number_of(message, protocol)));
    assert!(is_consistent.unwrap());
    found.sort_unstable();
    found
}

fn number_of(message: &Message<'_>, protocol: u8) -> Option<u32> {
    let body = message.body();
    let attributes = linux::netlink::Attributes(body.get(12..)?);
    let address: [u8; 4] = attributes.get(1)?.try_into().ok()?;
    (body[5] == protocol).then(|| u32::from_be_bytes(address) - 0x0a00_0000)
}

/// The protocol numbers of the routes that a socket is notified of, in order; the last is awaited.
fn notified(socket: &Socket, last: u8) -> Vec<u8> {
    let mut found = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    while found.last() != Some(&last) {
        for message in messages(socket.receive(&mut buffer).unwrap()) {
            if [NEW_ROUTE, DELETE_ROUTE].contains(&message.kind) {
                found.push(message.body()[5]);
            }
        }
    }
    found
}

#[test]
fn each_failure_has_the_number_of_its_message() {
    if !in_namespace() {
        return;
    }
    let socket = Socket::route().unwrap();
    add(&socket, (0..100).step_by(10), 99);
    let mut batch = Batch::default();
    (0..100).for_each(|number| route(&mut batch, NEW_ROUTE, number, 99));
    let outcome = socket.try_run(&mut batch).unwrap();
    let failed: Vec<usize> = outcome.failures.iter().map(|failure| failure.index).collect();
    assert_eq!(failed, (0..100).step_by(10).collect::<Vec<_>>());
    assert!(
        outcome
            .failures
            .iter()
            .all(|failure| failure.errno == Errno::EEXIST)
    );
    let error = batch.error(&outcome.failures[1]);
    assert!(
        error
            .to_string()
            .starts_with("cannot change route 10: File exists"),
        "{error}"
    );
    // What is in between went in.
    assert_eq!(listed(&socket, 99), (0..100).collect::<Vec<_>>());
    let mut batch = Batch::default();
    route(&mut batch, DELETE_ROUTE, 1000, 99);
    let outcome = socket.try_run(&mut batch).unwrap();
    assert_eq!(
        (outcome.failures.len(), outcome.failures[0].errno),
        (1, Errno::ESRCH)
    );
}

#[test]
fn a_list_of_many_datagrams_is_whole() {
    const COUNT: u32 = 20_000;
    if !in_namespace() {
        return;
    }
    let socket = Socket::open(Protocol::Route).unwrap();
    socket.set_send_buffer(8 << 20);
    for part in 0..COUNT / 1000 {
        add(&socket, part * 1000..(part + 1) * 1000, 98);
    }
    assert_eq!(listed(&socket, 98), (0..COUNT).collect::<Vec<_>>());
    assert_eq!(listed(&socket, 97), Vec::<u32>::new());
}

/// Each filter drops what it names, and neither other routes nor other kinds of notification.
#[test]
fn notifications_are_filtered_in_the_kernel() {
    if !in_namespace() {
        return;
    }
    let writer = Socket::route().unwrap();
    let port = writer.bind().unwrap();
    let open = || {
        let socket = Socket::route().unwrap();
        socket.join(&[LINKS, IPV4_ROUTES]).unwrap();
        socket
    };
    let (all, without_protocol, without_writer) = (open(), open(), open());
    without_protocol.ignore_routes_of(245).unwrap();
    without_writer.ignore_changes_by(port).unwrap();
    add(&writer, [1, 2], 245);
    add(&writer, [3], 99);
    let mut batch = Batch::default();
    route(&mut batch, DELETE_ROUTE, 1, 245);
    route(&mut batch, DELETE_ROUTE, 3, 99);
    writer.run(batch).unwrap();
    let other = Socket::route().unwrap();
    assert_ne!(other.bind().unwrap(), port);
    add(&other, [4], 245);
    add(&other, [5], 7);
    assert_eq!(notified(&all, 7), [245, 245, 99, 245, 99, 245, 7]);
    assert_eq!(notified(&without_protocol, 7), [99, 99, 7]);
    assert_eq!(notified(&without_writer, 7), [245, 7]);
    // A link that comes up: the filters look at routes only.
    let mut batch = Batch::default();
    let up = 1_u32.to_ne_bytes();
    batch.begin(
        NEW_LINK,
        0,
        &[[0; 4], 1_u32.to_ne_bytes(), up, up].concat(),
        "set lo up",
    );
    other.run(batch).unwrap();
    for socket in [&all, &without_protocol, &without_writer] {
        let is_link =
            |message: &Message<'_>| message.kind == NEW_LINK && u32_at(message.body(), 4) == Some(1);
        assert!(socket.notifications(is_link).unwrap());
    }
}

#[test]
fn lost_notifications_are_reported() {
    if !in_namespace() {
        return;
    }
    let monitor = Socket::route().unwrap();
    monitor.join(&[IPV4_ROUTES]).unwrap();
    monitor.set_receive_buffer(4096);
    let writer = Socket::route().unwrap();
    add(&writer, 0..1000, 99);
    assert!(
        monitor.notifications(|_| false).unwrap(),
        "more than the socket holds"
    );
    assert!(!monitor.notifications(|_| true).unwrap());
}

#[test]
fn a_socket_stays_in_its_namespace() {
    if !in_namespace() {
        return;
    }
    let first = netns::own().unwrap();
    let socket = Socket::route().unwrap();
    add(&socket, [1], 99);
    assert!(in_namespace());
    let (second, other) = (netns::own().unwrap(), Socket::route().unwrap());
    assert_eq!((listed(&socket, 99), listed(&other, 99)), (vec![1], vec![]));
    netns::enter(&first).unwrap();
    assert_eq!(listed(&Socket::route().unwrap(), 99), [1]);
    netns::enter(&second).unwrap();
    assert_eq!(listed(&Socket::route().unwrap(), 99), Vec::<u32>::new());
    // Another thread is where it was started.
    let there = std::thread::spawn(|| listed(&Socket::route().unwrap(), 99));
    assert_eq!(there.join().unwrap(), Vec::<u32>::new());
}
