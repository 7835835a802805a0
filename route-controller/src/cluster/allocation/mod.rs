//! Allocates addresses of Services of type LoadBalancer while this agent holds the Lease `podroute-services`.
//!
//! | module | does |
//! |---|---|
//! | `lease` | reads and writes the Lease |
//! | `term` | what the holder does: follows Services, decides, writes, renews |
//! | `notices` | Events on Services, the report |
//! | `object` | Services as the allocator sees them, and their status |
//! | `report` | what `show services` and metrics say |
//!
//! Who gets what, and which writes are safe, is decided by `podroute-services` without IO.

mod lease;
mod notices;
mod object;
mod report;
mod term;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use podroute_config::Allocation;
use podroute_services::{Election, Record, Step};
use tokio::sync::watch;
use tokio::time::Instant;

use self::lease::Lease;
pub(crate) use self::report::{Report, Reports};
use self::term::{End, Term};

/// After a failure to reach the API server.
const PAUSE: Duration = Duration::from_secs(3);

/// What addresses are allocated from, and this node's place among the candidates.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Candidacy {
    pub(crate) allocation: Allocation,
    /// Place of this node in the order of all nodes; the first ones look at the Lease more often.
    pub(crate) rank: usize,
}

/// The task that is a candidate, and allocates when it holds the Lease.
#[derive(Debug)]
pub(crate) struct Allocator {
    candidacy: watch::Sender<Option<Candidacy>>,
    task: tokio::task::JoinHandle<()>,
}

impl Allocator {
    /// Starts it; it ends with the agent.
    pub(crate) fn start(node: &str, reports: Arc<Reports>) -> Self {
        let (candidacy, candidacies) = watch::channel(None);
        let task = tokio::spawn(run(candidate_name(node), candidacies, reports));
        Self { candidacy, task }
    }

    /// Releases the Lease, if the API server answers in time, so that another agent takes it at once.
    pub(crate) async fn stop(self) {
        drop(self.candidacy);
        let _ = tokio::time::timeout(RELEASE, self.task).await; // else it expires
    }

    /// From now on; `None`: nothing is allocated.
    pub(crate) fn set(&self, candidacy: Option<Candidacy>) {
        self.candidacy.send_if_modified(|old| {
            let differs = *old != candidacy;
            if differs {
                *old = candidacy;
            }
            differs
        });
    }
}

/// How long the end of the agent waits for the Lease to be released.
const RELEASE: Duration = Duration::from_secs(2);

/// The node, and a part that no other process has: an agent that restarts is another candidate.
fn candidate_name(node: &str) -> String {
    let unique = RandomState::new().hash_one((std::process::id(), std::time::SystemTime::now()));
    let node: String = node.chars().take(80).collect();
    format!("{node}_{unique:016x}")
}

async fn run(name: String, mut candidacies: watch::Receiver<Option<Candidacy>>, reports: Arc<Reports>) {
    let started = Instant::now();
    let mut election = Election::new(name);
    let mut client = None;
    loop {
        let Some(candidacy) = candidacies.borrow_and_update().clone() else {
            reports.set(Report::default());
            if candidacies.changed().await.is_err() {
                return;
            }
            continue;
        };
        let pause = match try_term(&mut election, started, &mut client, &mut candidacies, &reports).await {
            Ok(true) => continue, // the term is over
            Ok(false) => Election::pause(candidacy.rank),
            Err(error) => {
                // Credentials or the server's address may have changed.
                client = None;
                reports.failed(&error);
                PAUSE
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            changed = candidacies.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Looks at the Lease, takes it when it is free, and allocates as long as it is this agent's own. True: it was.
async fn try_term(
    election: &mut Election,
    started: Instant,
    client: &mut Option<Client>,
    candidacies: &mut watch::Receiver<Option<Candidacy>>,
    reports: &Arc<Reports>,
) -> kube::Result<bool> {
    let known = match client.take() {
        Some(known) => known,
        None => Client::try_default().await?,
    };
    let known = client.insert(known).clone();
    let mut lease = Lease::new(known.clone(), election.name().to_owned());
    let asked = Instant::now();
    let found: Option<Record> = lease.read().await?;
    let step = election.read(started.elapsed(), found.as_ref());
    reports.holder(found.map(|record| record.holder));
    let taken = match step {
        Step::Wait => return Ok(false),
        Step::Create => lease.create().await,
        Step::Take { .. } | Step::Renew => lease.renew().await,
    };
    match taken {
        // Another candidate was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => return Ok(false),
        taken => taken?,
    }
    // After a term of this agent too: its writes may be under way.
    let is_fenced = !matches!(step, Step::Create | Step::Take { is_released: true });
    tracing::info!(
        event = "allocator_started",
        holder = election.name(),
        fenced = is_fenced,
        "this agent allocates the addresses of Services"
    );
    let end = Term::begin(known, lease, asked, is_fenced, Arc::clone(reports))
        .serve(candidacies)
        .await;
    match end {
        End::Lost => tracing::warn!(
            event = "allocator_ended",
            "another agent allocates the addresses of Services, or the API server does not answer"
        ),
        End::Changed => tracing::info!(
            event = "allocator_ended",
            "the allocation of addresses begins again with other settings"
        ),
        End::Stopped => tracing::info!(
            event = "allocator_ended",
            "this agent allocates no addresses of Services any more"
        ),
    }
    Ok(true)
}
