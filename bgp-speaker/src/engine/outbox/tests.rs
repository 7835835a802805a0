use std::future::poll_fn;

use bgp_proto::types::PeerId;
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

const PEER: PeerId = PeerId(7);
const SESSION: SessionId = SessionId { peer: PEER, epoch: 1 };

/// A message of this length that carries its sender and number.
fn message(length: usize, kind: u8, number: u32) -> Bytes {
    let mut message = BytesMut::with_capacity(length);
    message.put_bytes(0xFF, 16);
    message.put_u16(u16::try_from(length).unwrap());
    message.put_u8(kind);
    message.put_u32(number);
    message.resize(length, kind);
    message.freeze()
}

const ROUTES: u8 = 2;
const CONTROL: u8 = 4;

fn chunk(length: usize, number: u32) -> Arc<Chunk> {
    Arc::new(Chunk::only_for(PEER, message(length, ROUTES, number)))
}

/// Reads one message and returns its kind and number. Panics if its octets are not those of one message.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> (u8, u32) {
    let mut header = [0; 23];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[..16], [0xFF; 16], "a message begins here");
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    let mut rest = vec![0; length - header.len()];
    stream.read_exact(&mut rest).await.unwrap();
    assert!(rest.iter().all(|octet| *octet == header[18]), "of one message");
    (header[18], u32::from_be_bytes(header[19..].try_into().unwrap()))
}

/// Both ends of a connection; the send buffer of the first is small.
async fn connection() -> (Arc<TcpStream>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (local, remote) = tokio::join!(
        TcpStream::connect(listener.local_addr().unwrap()),
        listener.accept()
    );
    let local = local.unwrap();
    local.set_nodelay(true).unwrap(); // as on all sessions
    socket2::SockRef::from(&local).set_send_buffer_size(8192).unwrap();
    local.writable().await.unwrap();
    (Arc::new(local), remote.unwrap().0)
}

fn now() -> Instant {
    Instant::now()
}

fn is_ready(outbox: &Outbox) -> bool {
    outbox
        .poll(&mut Context::from_waker(Waker::noop()), true)
        .is_ready()
}

#[tokio::test]
async fn a_small_chunk_is_written_without_the_task() {
    let (local, mut remote) = connection().await;
    let outbox = Outbox::new(SESSION, local);
    for number in 0..100 {
        assert_eq!(outbox.put(chunk(50, number)), PutOutcome::EngineWrites);
        assert!(!is_ready(&outbox), "nothing for the task");
        assert_eq!(outbox.write(now()), Chunk::MIN_COST);
        assert_eq!(read_message(&mut remote).await, (ROUTES, number));
    }
    assert_eq!(outbox.messages(), 100);
    assert!(outbox.take_wrote().is_some());
    assert!(outbox.take_wrote().is_none(), "nothing afterwards");
}

#[tokio::test]
async fn small_chunks_of_a_turn_are_written_together() {
    let (local, mut remote) = connection().await;
    let outbox = Outbox::new(SESSION, local);
    assert_eq!(outbox.put(chunk(50, 0)), PutOutcome::EngineWrites);
    assert_eq!(
        outbox.put(chunk(60, 1)),
        PutOutcome::Queued,
        "its write is pending"
    );
    assert_eq!(outbox.write(now()), 2 * Chunk::MIN_COST);
    assert_eq!(outbox.write(now()), 0, "once");
    assert_eq!(read_message(&mut remote).await, (ROUTES, 0));
    assert_eq!(read_message(&mut remote).await, (ROUTES, 1));
}

#[tokio::test]
async fn more_than_a_message_is_for_the_task() {
    let (local, _theirs) = connection().await;
    let outbox = Outbox::new(SESSION, local);
    let mut queue = Queue::default();
    assert_eq!(outbox.put(chunk(50, 0)), PutOutcome::EngineWrites);
    assert_eq!(outbox.put(chunk(SMALL, 1)), PutOutcome::Queued);
    assert_eq!(outbox.write(now()), 0);
    assert!(is_ready(&outbox));
    assert_eq!(outbox.take(&mut queue, 1 << 20).unwrap(), 2);
    assert_eq!(queue.octets(), 50 + SMALL);
    assert!(!is_ready(&outbox));
    assert_eq!(
        outbox.put(chunk(50, 2)),
        PutOutcome::Queued,
        "the task is not done"
    );
    assert!(is_ready(&outbox));
    assert_eq!(outbox.take(&mut queue, 1).unwrap(), 0, "enough is queued");
    outbox.release();
    assert_eq!(
        outbox.take(&mut queue, 1 << 20).unwrap(),
        1,
        "kept over a release"
    );
    outbox.release();
    assert_eq!(outbox.put(chunk(50, 3)), PutOutcome::EngineWrites);
    outbox.hand_to_task();
    assert!(is_ready(&outbox), "a busy engine leaves the writing to the task");
}

#[tokio::test]
async fn what_a_full_socket_leaves_is_sent_before_a_message_of_the_session() {
    let (local, mut remote) = connection().await;
    let outbox = Outbox::new(SESSION, Arc::clone(&local));
    let mut numbers = 0..;
    let last = loop {
        let number = numbers.next().unwrap();
        assert!(number < 100_000, "the socket is never full");
        assert_eq!(outbox.put(chunk(SMALL, number)), PutOutcome::EngineWrites);
        if outbox.write(now()) == 0 {
            break number;
        }
    };
    assert!(is_ready(&outbox));
    let mut queue = Queue::default();
    outbox.claim(&mut queue);
    queue.push_control(message(30, CONTROL, 0));
    let written = async {
        while !queue.is_empty() {
            local.writable().await.unwrap();
            queue.write(&*local).unwrap();
        }
    };
    let read = async {
        for number in 0..=last {
            assert_eq!(read_message(&mut remote).await, (ROUTES, number));
        }
        assert_eq!(read_message(&mut remote).await, (CONTROL, 0));
    };
    tokio::join!(written, read);
}

#[tokio::test]
async fn the_last_message_follows_the_partly_written_one() {
    let (local, mut remote) = connection().await;
    let outbox = Outbox::new(SESSION, Arc::clone(&local));
    let mut number = 0;
    while outbox.put(chunk(SMALL - 1, number)) == PutOutcome::EngineWrites && outbox.write(now()) > 0 {
        number += 1;
    }
    assert_eq!(outbox.put(chunk(50, u32::MAX)), PutOutcome::Queued);
    let mut queue = Queue::default();
    assert!(outbox.close(&mut queue).is_none());
    assert_eq!(outbox.put(chunk(50, u32::MAX)), PutOutcome::Queued);
    assert_eq!(outbox.write(now()), 0);
    let begun = queue.octets() < SMALL - 1;
    queue.push_control(message(30, CONTROL, 0));
    let last = queue.take_for_close();
    assert_eq!(last.len(), 1 + usize::from(begun));
    let mut local = Arc::into_inner(local).expect("the outbox has released the socket");
    tokio::spawn(async move {
        for bytes in last {
            local.write_all(&bytes).await.unwrap();
        }
    });
    for expected in 0..number + u32::from(begun) {
        assert_eq!(read_message(&mut remote).await, (ROUTES, expected));
    }
    assert_eq!(read_message(&mut remote).await, (CONTROL, 0));
    assert_eq!(remote.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn the_task_gets_the_engines_write_error() {
    let (local, remote) = connection().await;
    socket2::SockRef::from(&remote)
        .set_linger(Some(std::time::Duration::ZERO))
        .unwrap();
    drop(remote); // resets the connection
    local.readable().await.unwrap();
    let outbox = Outbox::new(SESSION, local);
    assert_eq!(outbox.put(chunk(50, 0)), PutOutcome::EngineWrites);
    assert_eq!(outbox.write(now()), 0);
    assert!(is_ready(&outbox));
    let error = outbox.take(&mut Queue::default(), 1 << 20).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn more_than_the_credit_is_refused() {
    let (local, _theirs) = connection().await;
    let outbox = Outbox::new(SESSION, local);
    for number in 0..Engine::MAX_CHUNKS {
        assert_ne!(
            outbox.put(chunk(50, u32::try_from(number).unwrap())),
            PutOutcome::OverCredit
        );
    }
    assert_eq!(outbox.put(chunk(50, 0)), PutOutcome::OverCredit);
}

/// Pseudo-random numbers (xorshift).
struct Dice(u32);

impl Dice {
    fn roll(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % sides
    }
}

/// Fewer than the credit allows.
const CHUNKS: u32 = 4000;
const CONTROL_MESSAGES: u32 = 500;

/// The engine's task: chunks of all sizes, written a few at a time.
async fn engine(outbox: Arc<Outbox>) {
    let mut dice = Dice(0x1234_5678);
    let mut number = 0;
    while number < CHUNKS {
        for _ in 0..=dice.roll(3) {
            let large = dice.roll(50) == 0;
            let length = if large { 60_000 } else { 23 + dice.roll(200) };
            assert_ne!(outbox.put(chunk(length as usize, number)), PutOutcome::OverCredit);
            number += 1;
            if number == CHUNKS {
                break;
            }
        }
        match dice.roll(8) {
            0 => outbox.hand_to_task(),
            _ => drop(outbox.write(now())),
        }
        if dice.roll(4) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// The peer's task: writes chunks, and messages of the session in between.
async fn task(outbox: Arc<Outbox>, socket: Arc<TcpStream>) {
    let mut dice = Dice(0x8765_4321);
    let mut queue = Queue::default();
    let mut control = 0..CONTROL_MESSAGES;
    loop {
        let blocked = !queue.is_empty();
        tokio::select! {
            () = poll_fn(|context| outbox.poll(context, true)), if queue.octets() < 100_000 => {
                outbox.take(&mut queue, 100_000).unwrap();
            }
            ready = socket.writable(), if blocked => ready.unwrap(),
            () = tokio::task::yield_now(), if !control.is_empty() => {}
        }
        if dice.roll(3) == 0
            && let Some(number) = control.next()
        {
            outbox.claim(&mut queue);
            queue.push_control(message(40, CONTROL, number));
        }
        queue.write(&*socket).unwrap();
        if queue.is_empty() {
            outbox.release();
        }
    }
}

/// Whichever task writes, each message arrives once, whole and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn two_writers_keep_the_order() {
    let (local, remote) = connection().await;
    let mut remote = BufReader::with_capacity(1 << 20, remote);
    let outbox = Arc::new(Outbox::new(SESSION, Arc::clone(&local)));
    let engine = tokio::spawn(engine(Arc::clone(&outbox)));
    let task = tokio::spawn(task(Arc::clone(&outbox), local));
    let (mut routes, mut control) = (0, 0);
    while routes < CHUNKS || control < CONTROL_MESSAGES {
        let (kind, number) = read_message(&mut remote).await;
        let expected = if kind == CONTROL {
            &mut control
        } else {
            &mut routes
        };
        assert_eq!(number, *expected);
        *expected += 1;
    }
    engine.await.unwrap();
    // When all is written there is no writer, and the engine's task may write again.
    while outbox.lock().writer != Writer::Nobody {
        tokio::task::yield_now().await;
    }
    task.abort();
    assert_eq!(outbox.put(chunk(50, CHUNKS)), PutOutcome::EngineWrites);
    assert!(outbox.write(now()) > 0);
    assert_eq!(read_message(&mut remote).await, (ROUTES, CHUNKS));
    let by_engine = outbox.messages();
    assert!(
        by_engine <= u64::from(CHUNKS),
        "large chunks are not written by the engine's task"
    );
}
