//! Removals of many pods in one wait of the kernel.
//!
//! The kernel makes whoever removes an interface wait about 20 ms, however many go at once. The agent
//! lends a hand: it listens at `<runDir>/links.sock`, gathers what concurrent DELs ask for, and removes it
//! as one link group. A DEL that finds nobody there, or gets no answer in time, removes its interface
//! itself: nothing depends on the agent. The answer comes when the interface is gone, never before.
//!
//! A question is one line, `<inode of the asker's network namespace> <interface>`; the answer is one
//! byte, `1` for gone. Only interfaces with our name, in the agent's own namespace, are removed.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::kernel::{link, netlink::Socket};
use crate::names::MARK;

/// The socket's name in the run directory.
const SOCKET: &str = "links.sock";
/// Longer than the slowest group removal measured, and short beside a runtime's own patience.
const PATIENCE: Duration = Duration::from_secs(2);
/// A question comes whole and at once, or not at all.
const QUESTION: Duration = Duration::from_millis(50);
/// Interfaces in one group.
const MOST: usize = 64;
/// Nobody new for so long: the group is complete. One removal alone takes 20 ms anyway.
const QUIET: Duration = Duration::from_micros(1500);

/// Asks the agent to remove an interface. False: not done, remove it yourself.
pub(crate) fn ask(run_dir: &Path, name: &str) -> bool {
    try_ask(run_dir, name).unwrap_or(false)
}

fn try_ask(run_dir: &Path, name: &str) -> io::Result<bool> {
    let mut stream = UnixStream::connect(run_dir.join(SOCKET))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{} {name}\n", own_namespace()?).as_bytes())?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer == *b"1")
}

fn own_namespace() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

/// Someone who waits for an interface to go.
struct Asker {
    name: String,
    stream: UnixStream,
}

/// Serves the plugins of this node on two threads, until the process ends. A socket that a killed agent
/// left is replaced: call it only when no other agent runs.
///
/// # Errors
/// The socket cannot be made, or threads cannot be started.
pub fn serve(run_dir: &Path) -> io::Result<()> {
    let path = run_dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))?;
    let namespace = own_namespace()?;
    // Full: further askers wait in the socket's backlog.
    let (queue, inbox) = sync_channel(MOST);
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("links-listen").spawn(move || listen(&listener, namespace, &queue))?;
    thread("links-remove").spawn(move || remove(&inbox))?;
    Ok(())
}

fn listen(listener: &UnixListener, namespace: u64, queue: &SyncSender<Asker>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors: askers help themselves meanwhile.
            std::thread::sleep(QUIET);
            continue;
        };
        // Whoever is refused sees the end of the stream.
        if let Some(asker) = question(stream, namespace)
            && queue.send(asker).is_err()
        {
            return;
        }
    }
}

fn question(stream: UnixStream, namespace: u64) -> Option<Asker> {
    stream.set_read_timeout(Some(QUESTION)).ok()?;
    let mut line = String::new();
    BufReader::new((&stream).take(128)).read_line(&mut line).ok()?;
    let (inode, name) = line.strip_suffix('\n')?.split_once(' ')?;
    let ours = inode.parse() == Ok(namespace) && name.starts_with(MARK) && name.len() < 16;
    let name = name.to_owned();
    ours.then_some(Asker { name, stream })
}

fn remove(inbox: &Receiver<Asker>) {
    while let Ok(first) = inbox.recv() {
        let mut group = vec![first];
        while group.len() < MOST
            && let Ok(next) = inbox.recv_timeout(QUIET)
        {
            group.push(next);
        }
        let names: Vec<String> = group.iter().map(|asker| asker.name.clone()).collect();
        let gone = Socket::route().and_then(|socket| link::delete_many(&socket, &names));
        for mut asker in group {
            // An asker that gave up removes the interface itself.
            let _ = asker.stream.write_all(if gone.is_ok() { b"1" } else { b"0" });
        }
    }
}
