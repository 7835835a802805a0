//! The control socket: each connection has one request.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bgp_proto::engine::{Prefixes, RouteFilter};
use bgp_proto::types::{Asn, PeerId, Prefix, PrefixError, RouterId};
use bgp_speaker::{SpeakerHandle, Stopped};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::agent::CommandError;
use crate::count::count;
use crate::dump::{self, PAGE};
use crate::fib::Fib;
use crate::fib::task::ToFib;
use crate::log;
use crate::network_policy::{NetworkPolicies, QuestionError};
use crate::status::{BfdStatus, ClusterStatus, DiffStatus, Direction, Reply, Request, ServicesStatus};
use crate::views;

/// Longest request: a configuration (1 MiB) as JSON.
const REQUEST_LIMIT: u64 = 4 << 20;
/// Longest time for an answer, a dump of a full table included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// Questions that are answered at a time; more wait.
const ANSWER_LIMIT: usize = 16;
/// Connections whose question is still to come; more are closed.
const CONNECTION_LIMIT: usize = 256;
/// After a connection that could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long a question may take to come.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The socket of a run directory. One that a killed agent left is replaced (the lock says that it is gone).
pub(crate) fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    let path = run_dir.join("podroute.sock");
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // Only root may change peers and read the routing table.
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// What the operator asks of the agent.
pub(crate) enum ToAgent {
    Reload(oneshot::Sender<Result<String, CommandError>>),
    Diff(String, oneshot::Sender<Result<DiffStatus, CommandError>>),
    Bfd(oneshot::Sender<Vec<BfdStatus>>),
    Cluster(oneshot::Sender<ClusterStatus>),
    Services(oneshot::Sender<ServicesStatus>),
    /// Answers as soon as the agent's task does.
    Ping(oneshot::Sender<()>),
    Drain {
        on: bool,
        withdraw: bool,
        answer: oneshot::Sender<Result<String, CommandError>>,
    },
}

/// What answers are made of.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) speaker: SpeakerHandle,
    pub(crate) fib: mpsc::Sender<ToFib>,
    pub(crate) agent: mpsc::Sender<ToAgent>,
    pub(crate) network_policies: NetworkPolicies,
    /// The node's AS number and router ID.
    pub(crate) identity: (Asn, RouterId),
}

/// Why a request is not answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("not a request of this version: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    #[error("no peer '{name}'; there are: {}", known.join(", "))]
    NoPeer { name: String, known: Vec<String> },
    #[error(transparent)]
    LogLevel(#[from] log::LevelError),
    #[error("a dump is a separate request")]
    Dump,
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error(transparent)]
    NetworkPolicies(#[from] QuestionError),
    #[error(transparent)]
    Speaker(#[from] Stopped),
    #[error("the agent is stopping")]
    AgentStopping,
    #[error("the kernel route task has stopped; please report this")]
    FibStopped,
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("a peer sent {0} prefixes, more than a page shows: use 'podroute show routes PREFIX'")]
    TooManyForPage(usize),
    #[error("the agent does not know the {0} of the node")]
    NotKnown(&'static str),
}

async fn read_request(read: OwnedReadHalf) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(read.take(REQUEST_LIMIT))
        .read_line(&mut line)
        .await?;
    Ok(line)
}

impl Server {
    /// Answers until the agent ends.
    pub(crate) async fn run(self, listener: UnixListener) {
        let [connections, answers] =
            [CONNECTION_LIMIT, ANSWER_LIMIT].map(|count| Arc::new(tokio::sync::Semaphore::new(count)));
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Whoever connects and asks nothing keeps nobody else from asking.
                    let Ok(place) = Arc::clone(&connections).try_acquire_owned() else {
                        continue;
                    };
                    let (server, answers) = (self.clone(), Arc::clone(&answers));
                    tokio::spawn(async move {
                        let (read, write) = stream.into_split();
                        let question = tokio::time::timeout(REQUEST_TIMEOUT, read_request(read)).await;
                        drop(place);
                        let (Ok(question), Ok(_permit)) = (question, answers.acquire_owned().await) else {
                            return;
                        };
                        let answered = server.connection(question, write);
                        if tokio::time::timeout(ANSWER_TIMEOUT, answered).await.is_err() {
                            tracing::debug!(event = "control_timeout", "a control request took too long");
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(event = "control_failed", %error, "cannot accept a control connection");
                    // Without a free file descriptor each attempt fails at once.
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    async fn connection(&self, question: io::Result<String>, mut write: OwnedWriteHalf) {
        let mut dump = None;
        let reply = match question {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(Request::Dump) => match dump::Dump::begin(&self.speaker, self.identity).await {
                    Ok(begun) => {
                        let peers = begun.peers();
                        dump = Some(begun);
                        Reply::Done(count(peers, "peer"))
                    }
                    Err(error) => Reply::Error(error.to_string()),
                },
                Ok(request) => self.answer(request).await,
                Err(error) => Reply::Error(RequestError::Malformed(error).to_string()),
            },
            Err(error) => Reply::Error(RequestError::Read(error).to_string()),
        };
        if let Ok(mut text) = serde_json::to_vec(&reply) {
            text.push(b'\n');
            let _ = write.write_all(&text).await; // whoever asked may have gone
        }
        if let Some(dump) = dump
            && let Err(error) = dump.write(&self.speaker, &mut write).await
        {
            tracing::debug!(event = "dump_aborted", %error, "a dump was not read to its end");
        }
    }

    async fn answer(&self, request: Request) -> Reply {
        match self.try_answer(request).await {
            Ok(reply) => reply,
            Err(error) => Reply::Error(error.to_string()),
        }
    }

    async fn try_answer(&self, request: Request) -> Result<Reply, RequestError> {
        match request {
            Request::Peers => {
                let peers = self.speaker.peers().await?;
                Ok(Reply::Peers(views::peers(&peers)))
            }
            Request::Routes { within } => self.routes(within).await,
            Request::Fib => Ok(Reply::Fib(self.ask_fib(views::fib).await?)),
            Request::Policies => {
                let counts = self.speaker.count_rules().await?;
                Ok(Reply::Policies(views::rules(&counts)))
            }
            Request::Blocks => {
                let mut blocks = self.ask_fib(views::blocks).await?;
                let peers = self.speaker.peers().await?;
                views::note_unsent(&mut blocks, &peers);
                let is_withdrawn = self.ask_agent(ToAgent::Cluster).await?.drained == "withdrawn";
                for block in blocks.iter_mut().filter(|_| is_withdrawn) {
                    "withdrawn (drained)".clone_into(&mut block.state);
                }
                Ok(Reply::Blocks(blocks))
            }
            Request::Bfd => self.ask_agent(ToAgent::Bfd).await.map(Reply::Bfd),
            Request::Cluster => self.ask_agent(ToAgent::Cluster).await.map(Reply::Cluster),
            Request::Services => self.ask_agent(ToAgent::Services).await.map(Reply::Services),
            Request::Diff { text } => {
                let diff = self.ask_agent(|answer| ToAgent::Diff(text, answer)).await?;
                Ok(Reply::Diff(diff?))
            }
            Request::NetworkPolicies => Ok(Reply::NetworkPolicies(self.network_policies.show().await?)),
            Request::ExplainPolicies(question) => {
                let explained = self.network_policies.explain(question).await?;
                Ok(Reply::Explanations(explained))
            }
            Request::PolicyDiff { text } => Ok(Reply::Cut(self.network_policies.cut_by(text).await?)),
            Request::Dump => Err(RequestError::Dump),
            Request::Reload => self.order(ToAgent::Reload).await,
            Request::LogLevel { level } => {
                let changed = level.is_some();
                if let Some(level) = level {
                    log::set_level(&level)?;
                }
                let level = log::level();
                if changed {
                    tracing::info!(event = "log_level", %level, "the level of the log was changed");
                }
                Ok(Reply::Done(level))
            }
            Request::Drain { on, withdraw } => {
                self.order(|answer| ToAgent::Drain { on, withdraw, answer }).await
            }
            Request::Disable { peer, message } => {
                let id = self.peer(&peer).await?;
                self.speaker.disable(id, &message).await;
                Ok(Reply::Done(format!("{peer}: disabled")))
            }
            Request::Enable { peer } => {
                let id = self.peer(&peer).await?;
                self.speaker.enable(id).await;
                Ok(Reply::Done(format!("{peer}: enabled")))
            }
            Request::Clear { peer, soft } => self.clear(peer, soft).await,
        }
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<String, CommandError>>) -> ToAgent,
    ) -> Result<Reply, RequestError> {
        Ok(Reply::Done(self.ask_agent(order).await??))
    }

    async fn ask_agent<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<T>) -> ToAgent,
    ) -> Result<T, RequestError> {
        let (answer, outcome) = oneshot::channel();
        let sent = self.agent.send(question(answer)).await;
        sent.map_err(|_| RequestError::AgentStopping)?;
        outcome.await.map_err(|_| RequestError::AgentStopping)
    }

    async fn clear(&self, peer: String, soft: Option<Direction>) -> Result<Reply, RequestError> {
        let id = self.peer(&peer).await?;
        let what = match soft {
            None => {
                self.speaker.clear(id, "").await;
                "session reset"
            }
            Some(Direction::In) => {
                self.speaker.refresh_in(id).await;
                "route refresh requested"
            }
            Some(Direction::Out) => {
                self.speaker.refresh_out(id).await?;
                "all routes are advertised again"
            }
        };
        Ok(Reply::Done(format!("{peer}: {what}")))
    }

    async fn peer(&self, name: &str) -> Result<PeerId, RequestError> {
        let peers = self.speaker.peers().await?;
        let found = peers.iter().find(|peer| peer.name == name).map(|peer| peer.id);
        found.ok_or_else(|| RequestError::NoPeer {
            name: name.to_owned(),
            known: peers.into_iter().map(|peer| peer.name).collect(),
        })
    }

    async fn routes(&self, within: Option<String>) -> Result<Reply, RequestError> {
        let within = within.map(|text| text.parse::<Prefix>()).transpose()?;
        let filter = RouteFilter {
            prefixes: within.map_or(Prefixes::All, Prefixes::Within),
            ..RouteFilter::default()
        };
        let (mut all, mut place) = (BTreeMap::new(), Some(0));
        while let Some(from) = place {
            let (routes, next) = self.speaker.routes(filter.clone(), from, PAGE).await?;
            all.extend(routes.iter().map(|route| (route.prefix, views::route(route))));
            place = next;
        }
        Ok(Reply::Routes(all.into_values().collect()))
    }

    async fn ask_fib<T: Send + 'static>(&self, question: fn(&Fib) -> T) -> Result<T, RequestError> {
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |fib: &Fib| drop(reply.send(question(fib))));
        let sent = self.fib.send(ToFib::Query(query)).await;
        sent.map_err(|_| RequestError::FibStopped)?;
        answer.await.map_err(|_| RequestError::FibStopped)
    }
}

mod facts;
mod view;

#[cfg(test)]
mod tests;
