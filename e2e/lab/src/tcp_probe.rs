//! Short TCP connections to an address, one after the other, with their outcomes: the view of a Service's users.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::failure::{Context, Failure, Result};
use crate::netns;

/// Nobody waits longer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Answers each connection with its name, until it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens in a namespace, on all of its IPv4 addresses.
    pub fn start(netns: &str, port: u16) -> Result<Self> {
        let listener = netns::within(netns, || {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).context("listening")
        })?;
        listener.set_nonblocking(true).context("listening")?;
        let (stop, name) = (Arc::new(AtomicBool::new(false)), netns.to_owned());
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(&listener, &name, &stop)
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(listener: &TcpListener, name: &str, stop: &AtomicBool) {
    while !stop.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((mut client, _)) => {
                // One that was aborted is the client's loss, and counted there.
                let _ = client.set_nonblocking(false);
                let _ = client.set_read_timeout(Some(TIMEOUT));
                let _ = client.read(&mut [0u8; 1]);
                let _ = client.write_all(name.as_bytes());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(_) => return,
        }
    }
}

/// What became of connections.
#[derive(Debug, Default, Clone)]
pub struct Outcome {
    /// Answered, by each server in the order of its first answer.
    pub answered: Vec<(String, u64)>,
    /// Not even accepted.
    pub refused: Vec<String>,
    /// Accepted, and aborted before the answer.
    pub aborted: Vec<String>,
}

impl Outcome {
    fn count_answer(&mut self, name: String) {
        match self.answered.iter_mut().find(|(known, _)| *known == name) {
            Some((_, count)) => *count += 1,
            None => self.answered.push((name, 1)),
        }
    }

    /// How many were answered by this server.
    pub fn of(&self, name: &str) -> u64 {
        let found = self.answered.iter().find(|(known, _)| known == name);
        found.map_or(0, |(_, count)| *count)
    }
}

/// Connections under way.
#[derive(Debug)]
pub struct TcpProbe {
    stop: Arc<AtomicBool>,
    outcome: Arc<Mutex<Outcome>>,
    thread: Option<JoinHandle<()>>,
}

impl TcpProbe {
    /// One connection each `interval` from a namespace to `address`.
    pub fn start(netns: &str, address: SocketAddr, interval: Duration) -> Self {
        let (stop, outcome) = <(Arc<AtomicBool>, Arc<Mutex<Outcome>>)>::default();
        let thread = std::thread::spawn({
            let (stop, outcome, netns) = (Arc::clone(&stop), Arc::clone(&outcome), netns.to_owned());
            move || {
                let _ = netns::within(&netns, || {
                    while !stop.load(Ordering::SeqCst) {
                        connect_once(address, &outcome);
                        std::thread::sleep(interval);
                    }
                    Ok(())
                });
            }
        });
        Self {
            stop,
            outcome,
            thread: Some(thread),
        }
    }

    /// What became of those until now.
    pub fn outcome(&self) -> Outcome {
        self.outcome.lock().expect("nobody panics with it").clone()
    }

    /// Ends them.
    pub fn finish(mut self) -> Result<Outcome> {
        self.stop.store(true, Ordering::SeqCst);
        let ended = self.thread.take().map(JoinHandle::join).transpose();
        ended.map_err(|_| Failure::new("the probe thread panicked"))?;
        Ok(self.outcome())
    }
}

/// A reset ends a connection that was established (RFC 9293 §3.10.7.4), also when the kernel had no time to report it;
/// one in answer to the SYN is reported as refused.
fn was_accepted(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::ConnectionReset
}

fn connect_once(address: SocketAddr, outcome: &Mutex<Outcome>) {
    let connected = TcpStream::connect_timeout(&address, TIMEOUT);
    let answer = connected
        .map_err(|error| (was_accepted(&error), error))
        .and_then(|mut stream| {
            let mut exchange = || {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.write_all(b"?")?;
                let mut text = String::new();
                stream.read_to_string(&mut text)?;
                if text.is_empty() {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Ok(text)
            };
            exchange().map_err(|error| (true, error))
        });
    let mut outcome = outcome.lock().expect("nobody panics with it");
    match answer {
        Ok(name) => outcome.count_answer(name),
        Err((false, error)) => outcome.refused.push(error.to_string()),
        Err((true, error)) => outcome.aborted.push(error.to_string()),
    }
}
