//! Kubernetes' network policies, enforced on this node's pods.
//!
//! | module | does |
//! |---|---|
//! | `watch` | follows pods, namespaces and policies |
//! | `convert` | makes them the model's |
//! | `worker` | the thread that owns model and kernel table (`podroute-enforce`) |
//! | `drops` | samples of dropped packets for the log |
//! | `status` | what the operator asks: policies, explanations, what a policy would cut |
//! | `metrics` | counts for Prometheus |
//!
//! Rules of another policy engine are not touched: a packet passes where both let it.

mod convert;
mod drops;
mod error;
mod metrics;
mod status;
mod watch;
mod worker;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use podroute_config::NetworkPolicy;
use tokio::sync::oneshot;

use self::error::StartError;
use self::worker::{Inbox, Message, Settings, Worker};
use crate::cluster::{Watch, Watches};

pub(crate) use error::QuestionError;
pub(crate) use metrics::put as put_metrics;
#[cfg(test)]
pub(crate) use status::EndStatus;
pub(crate) use status::{CutStatus, ExplainQuestion, ExplanationStatus, PoliciesStatus};

/// The enforcement of this agent, where it is wanted.
#[derive(Clone, Default)]
pub(crate) struct NetworkPolicies(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    running: Option<Running>,
    /// Rules and files of an earlier run were removed.
    is_clean: bool,
    /// Why it does not run although it should, as last logged.
    trouble: Option<String>,
}

struct Running {
    inbox: Inbox,
    settings: Settings,
    watches: Watches,
    follower: tokio::task::AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl NetworkPolicies {
    /// Makes it as the configuration says. What cannot be started is tried again at the next call; gives why it does not run.
    pub(crate) fn configure(&self, run_dir: &Path, node: &str, wanted: &NetworkPolicy) -> Option<String> {
        let mut state = self.lock();
        let outcome = match wanted {
            NetworkPolicy::Off => {
                state.stop(run_dir);
                Ok(())
            }
            NetworkPolicy::Kubernetes {
                ends_established,
                wait,
            } => {
                let settings = Settings {
                    ends_established: *ends_established,
                    wait: *wait,
                };
                state.run(run_dir, node, settings)
            }
        };
        let trouble = outcome.err().map(|error| error.to_string());
        if let Some(error) = trouble
            .as_ref()
            .filter(|error| state.trouble.as_ref() != Some(error))
        {
            tracing::error!(event = "policies_not_enforced", %error, "network policies are not enforced; trying again");
        }
        state.trouble.clone_from(&trouble);
        trouble
    }

    /// How the watches are doing.
    pub(crate) fn watches(&self) -> BTreeMap<&'static str, Watch> {
        self.lock()
            .running
            .as_ref()
            .map(|running| running.watches.all())
            .unwrap_or_default()
    }

    /// Asks the worker; the error says that there is none.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Result<T, QuestionError> {
        let inbox = self.lock().running.as_ref().map(|running| running.inbox.clone());
        let inbox = inbox.ok_or(QuestionError::NotEnforced)?;
        let (reply, answer) = oneshot::channel();
        let question = Box::new(move |worker: &mut Worker| drop(reply.send(question(worker))));
        let sent = inbox.put(Message::Ask(question)).await;
        sent.map_err(|()| QuestionError::ThreadEnded)?;
        answer.await.map_err(|_| QuestionError::ThreadEnded)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn run(&mut self, run_dir: &Path, node: &str, settings: Settings) -> Result<(), StartError> {
        if let Some(running) = &mut self.running {
            if running.settings != settings {
                running.settings = settings;
                let inbox = running.inbox.clone();
                let question = Box::new(move |worker: &mut Worker| worker.set(settings));
                tokio::spawn(async move { inbox.put(Message::Ask(question)).await });
            }
            return Ok(());
        }
        let inbox = Worker::start(run_dir, settings)?;
        let watches = Watches::default();
        let follower = watch::follow(node.to_owned(), inbox.clone(), watches.clone());
        self.is_clean = false;
        self.running = Some(Running {
            inbox,
            settings,
            watches,
            follower: tokio::spawn(follower).abort_handle(),
        });
        Ok(())
    }

    fn stop(&mut self, run_dir: &Path) {
        if self.is_clean {
            return;
        }
        if let Some(running) = self.running.take() {
            let inbox = running.inbox.clone();
            let run_dir = run_dir.to_owned();
            // The worker may be at work: it removes what it owns itself.
            let question = Box::new(move |_: &mut Worker| drop(remove(&run_dir)));
            tokio::spawn(async move {
                let _ = inbox.put(Message::Ask(question)).await; // gone
                let _ = inbox.put(Message::Stop).await;
            });
            self.is_clean = true;
            return;
        }
        self.is_clean = true;
        let was_enforced = worker::has_file(run_dir);
        match remove(run_dir) {
            Ok(true) => tracing::info!(
                event = "policies_removed",
                "network policies are not enforced any more: the rules of an earlier run are removed"
            ),
            Err(error) if was_enforced => {
                tracing::warn!(event = "policies_not_removed", %error, "the rules of network policies cannot be removed")
            }
            // Without nftables there never were any.
            Ok(false) | Err(_) => {}
        }
    }
}

/// Removes the table, and what the plugin reads. Gives whether there was a table.
pub(crate) fn remove(run_dir: &Path) -> Result<bool, podroute_enforce::Error> {
    worker::remove_file(run_dir);
    podroute_enforce::Enforcer::remove()
}
