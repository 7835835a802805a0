//! Many schedules of threads that share a lock or a channel, with a model checker (shuttle, probabilistic
//! concurrency testing): the engine's and a peer's task at an outbox, threads that change the registry, and
//! the channel between the peers' tasks and the engine's.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use bgp_proto::engine::{Chunk, Input, PeerKind, PeerRouting, SessionId};
use bgp_proto::session::SessionConfig;
use bgp_proto::types::{Asn, PeerId, RouterId};
use bgp_proto::wire::{Notification, cease};
use bytes::Bytes;
use shuttle::{rand::Rng, thread};
use tokio::sync::mpsc;

use crate::api::{PeerSpec, RangeSpec, Transport};
use crate::engine::mailbox::{Mailbox, Ready, ToEngine};
use crate::engine::outbox::{Outbox, PutOutcome};
use crate::queue::{Queue, Sink};
use crate::registry::messages::ToPeer;
use crate::registry::{Entry, Registry};
use crate::sync::checked::model;

const PEER: PeerId = PeerId(7);
const SESSION: SessionId = SessionId { peer: PEER, epoch: 1 };
const SCHEDULES: usize = 2000;

/// A socket that accepts a few octets at a time, and sometimes none; it may fail.
#[derive(Default)]
struct Socket {
    taken: std::sync::Mutex<Vec<u8>>,
    is_broken: AtomicBool,
    is_closed: AtomicBool,
}

impl Sink for Socket {
    fn write(&self, octets: &[u8]) -> io::Result<usize> {
        assert!(
            !self.is_closed.load(Ordering::SeqCst),
            "nothing is written after the close"
        );
        thread::yield_now(); // a system call takes time: no other thread writes meanwhile
        if self.is_broken.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let room = shuttle::rand::thread_rng().gen_range(0..=60) * octets.len().div_ceil(60);
        let room = room.min(octets.len());
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.taken.lock().unwrap().extend(&octets[..room]);
        Ok(room)
    }

    fn write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let buffers: Vec<&[u8]> = buffers.iter().map(|buffer| &**buffer).collect();
        self.write(&buffers.concat())
    }
}

/// A message that contains its number.
fn message(kind: u8, number: u8, length: u16) -> Bytes {
    let mut message = vec![0xFF; 16];
    message.extend(length.to_be_bytes());
    message.push(kind);
    message.resize(length.into(), number);
    message.into()
}

const SMALL: u16 = 23;
/// The engine's task hands the writing to the peer's task.
const LARGE: u16 = 5000;

const ROUTES: u8 = 2;
const CONTROL: u8 = 4;

fn chunk(number: u8, length: u16) -> Arc<Chunk> {
    Arc::new(Chunk::only_for(PEER, message(ROUTES, number, length)))
}

/// Wakes a thread that waits for this.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Waits as the peer's task does: a lost wake-up leaves the thread waiting for ever.
fn wait(outbox: &Outbox<Socket>, woken: &Arc<Woken>) {
    let waker = Waker::from(Arc::clone(woken));
    while outbox.poll(&mut Context::from_waker(&waker), true).is_pending() {
        while !woken.0.swap(false, Ordering::SeqCst) {
            thread::yield_now();
        }
    }
}

const CHUNKS: u8 = 5;

/// The part of the engine's task; returns the credit of what it wrote. The last chunk is large, so that only
/// the peer's task can finish.
fn engine(outbox: &Outbox<Socket>) -> usize {
    let mut credit = 0;
    for number in 0..CHUNKS {
        let length = if number == CHUNKS - 1 { LARGE } else { SMALL };
        if outbox.put(chunk(number, length)) == PutOutcome::EngineWrites {
            match shuttle::rand::thread_rng().gen_range(0..3) {
                0 => outbox.hand_to_task(),
                _ => credit += outbox.write(Instant::now()),
            }
        }
    }
    credit
}

/// Takes, writes and releases as the peer's task does; returns `true` when everything is written.
fn turn(outbox: &Outbox<Socket>, socket: &Socket, queue: &mut Queue, credit: &mut usize) -> bool {
    *credit += queue.write(socket).unwrap();
    let is_done = queue.is_empty();
    if is_done {
        outbox.release();
    }
    is_done
}

/// Complete messages, each as it was sent.
fn kinds_and_numbers(mut octets: &[u8]) -> Vec<(u8, u8)> {
    let mut messages = Vec::new();
    while !octets.is_empty() {
        assert_eq!(octets[..16], [0xFF; 16], "a message begins here");
        let length = usize::from(u16::from_be_bytes([octets[16], octets[17]]));
        let message;
        (message, octets) = octets.split_at(length);
        assert!(
            message[19..].iter().all(|octet| *octet == message[19]),
            "of one message"
        );
        messages.push((message[18], message[19]));
    }
    messages
}

#[test]
fn two_writers_write_everything_once_and_in_order() {
    model(SCHEDULES, || {
        let socket = Arc::new(Socket::default());
        let outbox = Arc::new(Outbox::new(SESSION, Arc::clone(&socket)));
        let engine_thread = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || engine(&outbox))
        };
        let woken = Arc::new(Woken::default());
        let (mut queue, mut credit, mut messages, mut control) = (Queue::default(), 0, 0, 0);
        while messages + outbox.messages() < u64::from(CHUNKS) || control < 2 || !queue.is_empty() {
            if control < 2 && shuttle::rand::thread_rng().gen_range(0..2) == 0 {
                outbox.claim(&mut queue);
                queue.push_control(message(CONTROL, control, SMALL));
                control += 1;
            } else if messages + outbox.messages() < u64::from(CHUNKS) {
                wait(&outbox, &woken);
                messages += outbox.take(&mut queue, 1000).unwrap();
            }
            while !turn(&outbox, &socket, &mut queue, &mut credit) {}
        }
        credit += engine_thread.join().unwrap();
        let all = kinds_and_numbers(&socket.taken.lock().unwrap());
        for (kind, count) in [(ROUTES, CHUNKS), (CONTROL, 2)] {
            let numbers: Vec<u8> = all
                .iter()
                .filter(|(of, _)| *of == kind)
                .map(|(_, n)| *n)
                .collect();
            assert_eq!(numbers, (0..count).collect::<Vec<_>>());
        }
        assert_eq!(
            credit,
            usize::from(CHUNKS - 1) * Chunk::MIN_COST + usize::from(LARGE),
            "all credit comes back, once"
        );
    });
}

#[test]
fn a_failure_and_an_error_reach_the_task_whoever_writes() {
    model(SCHEDULES, || {
        let socket = Arc::new(Socket::default());
        let outbox = Arc::new(Outbox::new(SESSION, Arc::clone(&socket)));
        let breaks = shuttle::rand::thread_rng().gen_range(0..2) == 0;
        let engine_thread = {
            let (outbox, socket) = (Arc::clone(&outbox), Arc::clone(&socket));
            thread::spawn(move || {
                engine(&outbox);
                if breaks {
                    socket.is_broken.store(true, Ordering::SeqCst);
                    engine(&outbox);
                    engine(&outbox);
                }
                outbox.fail(Notification::cease(cease::MAX_PREFIXES), Duration::ZERO);
                outbox.fail(Notification::cease(cease::OUT_OF_RESOURCES), Duration::ZERO);
            })
        };
        let woken = Arc::new(Woken::default());
        let mut queue = Queue::default();
        loop {
            wait(&outbox, &woken); // a lost wake-up would be a deadlock
            if let Some((notification, _)) = outbox.take_failure() {
                assert_eq!(
                    notification.subcode,
                    cease::MAX_PREFIXES,
                    "the first reason stands"
                );
                break;
            }
            if outbox.take(&mut queue, 1000).is_err() || queue.write(&*socket).is_err() {
                assert!(breaks);
                break;
            }
            if queue.is_empty() {
                outbox.release();
            }
        }
        engine_thread.join().unwrap();
    });
}

#[test]
fn nothing_follows_a_close_but_the_message_that_was_begun() {
    model(SCHEDULES, || {
        let socket = Arc::new(Socket::default());
        let outbox = Arc::new(Outbox::new(SESSION, Arc::clone(&socket)));
        let engine_thread = {
            let outbox = Arc::clone(&outbox);
            thread::spawn(move || engine(&outbox))
        };
        let mut queue = Queue::default();
        if shuttle::rand::thread_rng().gen_range(0..2) == 0 {
            outbox.take(&mut queue, 30).unwrap();
            queue.write(&*socket).unwrap();
        }
        assert!(outbox.close(&mut queue).is_none());
        queue.push_control(message(CONTROL, 0, SMALL));
        let last = queue.take_for_close();
        socket.is_closed.store(true, Ordering::SeqCst); // the closing side writes from now on
        engine_thread.join().unwrap();
        let mut all = socket.taken.lock().unwrap().clone();
        last.iter().for_each(|bytes| all.extend(bytes));
        let all = kinds_and_numbers(&all);
        let (last, before) = all.split_last().unwrap();
        assert_eq!(*last, (CONTROL, 0));
        let numbers: Vec<u8> = before.iter().map(|(_, number)| *number).collect();
        assert_eq!(
            numbers,
            (0..u8::try_from(before.len()).unwrap()).collect::<Vec<_>>()
        );
        assert!(
            Arc::into_inner(socket).is_some(),
            "the outbox has released the socket"
        );
        drop(outbox);
    });
}

fn spec(id: u32, last: u8) -> PeerSpec {
    let (local_asn, remote_asn) = (Asn(64512), Asn(65001));
    let (name, remote) = (format!("peer-{id}"), SocketAddr::from(([192, 0, 2, last], 179)));
    PeerSpec {
        id: PeerId(id),
        name: name.clone(),
        session: SessionConfig {
            passive: true,
            ..SessionConfig::new(local_asn, remote_asn, RouterId::new(1).unwrap())
        },
        routing: Arc::new(PeerRouting::new(name, PeerKind::External, local_asn, remote_asn)),
        transport: Transport::new(remote),
        enabled: true,
        connect_after: std::time::Duration::ZERO,
        waiting_for: None,
    }
}

fn range() -> RangeSpec {
    RangeSpec {
        name: "racks".to_owned(),
        prefix: "192.0.2.0/24".parse().unwrap(),
        limit: 2,
        template: spec(0, 0),
    }
}

fn remote(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 4000))
}

/// Two listeners, an agent that removes the range or configures a peer with the same address, and a peer that
/// ends.
#[test]
fn the_registry_has_one_peer_for_an_address_and_none_of_a_range_that_is_gone() {
    model(SCHEDULES, || {
        let registry = Arc::new(Registry::new());
        registry.insert_range(range());
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut threads = Vec::new();
        for _ in 0..2 {
            let (registry, accepted) = (Arc::clone(&registry), Arc::clone(&accepted));
            threads.push(thread::spawn(move || {
                for last in 1..=3 {
                    let (commands, inbox) = mpsc::channel(4);
                    let Ok(admitted) = registry.insert_dynamic_of_tests(remote(last), commands) else {
                        continue;
                    };
                    accepted.fetch_add(1, Ordering::SeqCst);
                    let id = admitted.spec.id;
                    assert!(id.0 >= 1 << 31);
                    drop(admitted);
                    if shuttle::rand::thread_rng().gen_range(0..2) == 0 {
                        drop(registry.remove(id)); // the peer ends
                    }
                    drop(inbox);
                }
            }));
        }
        let gone = shuttle::rand::thread_rng().gen_range(0..2) == 0;
        let (commands, _inbox) = mpsc::channel(4);
        registry.insert(Entry::new(spec(1, 1), commands, None));
        for dynamic in registry.dynamic_at(spec(1, 1).transport.remote) {
            drop(registry.remove(dynamic));
        }
        let left = match gone {
            true => registry.remove_range("racks"),
            false => registry.insert_range(range()),
        };
        for entry in left {
            match gone {
                true => drop(registry.remove(entry.spec.id)),
                false => drop(registry.change(entry.spec)),
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let table_sizes = registry.table_sizes();
        assert_eq!(
            table_sizes.peers, table_sizes.addresses,
            "one peer for an address"
        );
        let mut addresses: Vec<_> = registry
            .addresses()
            .into_values()
            .map(|remote| remote.ip())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), table_sizes.peers, "one peer for an address");
        assert!(
            table_sizes.peers <= 3,
            "the range's limit and the configured peer"
        );
        if gone {
            assert_eq!(table_sizes.peers, 1, "no peer of a range that is gone");
        }
        assert!(registry.get(PeerId(1)).is_some());
    });
}

/// A peer that is changed while it is removed is either removed or changed; the index has its current
/// address.
#[test]
fn a_change_beside_a_removal_brings_no_peer_back() {
    model(SCHEDULES, || {
        let registry = Arc::new(Registry::new());
        let (commands, inbox) = mpsc::channel::<ToPeer>(4);
        drop(registry.insert(Entry::new(spec(1, 1), commands, None)));
        let changer = {
            let registry = Arc::clone(&registry);
            thread::spawn(move || {
                for last in [2, 3] {
                    drop(registry.change(spec(1, last)));
                }
            })
        };
        drop(registry.remove(PeerId(1)));
        let (commands, _new) = mpsc::channel::<ToPeer>(4);
        drop(registry.insert(Entry::new(spec(1, 4), commands, None)));
        changer.join().unwrap();
        let table_sizes = registry.table_sizes();
        assert_eq!((table_sizes.peers, table_sizes.addresses), (1, 1));
        assert!(inbox.is_closed_of_tests(), "no sender to the old task is left");
    });
}

trait IsClosed {
    fn is_closed_of_tests(&self) -> bool;
}

impl IsClosed for mpsc::Receiver<ToPeer> {
    fn is_closed_of_tests(&self) -> bool {
        self.sender_strong_count() == 0
    }
}

/// More mailboxes than the channel has capacity; each has other work, and some end with a last message.
#[test]
fn every_message_reaches_the_engine_in_order() {
    const BOXES: u32 = 5;
    const EACH: u32 = 3;
    model(SCHEDULES, || {
        let (engine, mut inbox) = mpsc::channel(2);
        for peer in 0..BOXES {
            let mailbox = Mailbox::new(engine.clone());
            shuttle::future::spawn(run_mailbox(mailbox, peer, EACH));
        }
        drop(engine);
        shuttle::future::block_on(async {
            let mut next = [0; BOXES as usize];
            while let Some(message) = inbox.recv().await {
                let ToEngine::Input(Input::Written(session, number)) = message else {
                    panic!("a message that was not sent");
                };
                let next = &mut next[session.peer.0 as usize];
                assert_eq!(number, *next, "in order");
                *next += 1;
                shuttle::future::yield_now().await;
            }
            assert_eq!(next, [EACH as usize + 1; BOXES as usize], "none is lost");
        });
    });
}

async fn run_mailbox(mut mailbox: Mailbox, peer: u32, each: u32) {
    let message = |number: u32| {
        let session = SessionId {
            peer: PeerId(peer),
            epoch: 1,
        };
        ToEngine::Input(Input::Written(session, number as usize))
    };
    for number in 0..each {
        mailbox.push(message(number));
        mailbox.flush_to_engine();
        // Other work while it waits; it stops waiting for the permit and starts again.
        for wants in [true, false, true] {
            let wants = wants && shuttle::rand::thread_rng().gen_range(0..2) == 0;
            let ready = once(std::pin::pin!(mailbox.ready(wants))).await;
            if let std::task::Poll::Ready(Ready::Permit(permit)) = ready {
                mailbox.send_with_permit(permit, || None);
            }
            shuttle::future::yield_now().await;
        }
    }
    mailbox.finish(message(each)).await;
}

/// Polls a future once.
async fn once<T>(mut future: std::pin::Pin<&mut impl Future<Output = T>>) -> std::task::Poll<T> {
    std::future::poll_fn(|context| std::task::Poll::Ready(future.as_mut().poll(context))).await
}
