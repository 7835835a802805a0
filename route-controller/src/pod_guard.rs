//! The thread that restores pods' interfaces, routes and nftables entries.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cni_ipam::Report;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::clock::now;

/// Reports of one kind are logged at most once in this time.
const QUIET: Duration = Duration::from_secs(10);

/// What the plugin made, kept for as long as the agent runs.
#[derive(Clone, Debug)]
pub(crate) struct PodGuard {
    wake: Arc<EventFd>,
}

impl PodGuard {
    /// Starts the thread. `restored` counts pods of which something was put back.
    pub(crate) fn start(run_dir: &Path, proc_sys: &Path, restored: Arc<AtomicU64>) -> io::Result<Self> {
        let wake = Arc::new(EventFd::from_value_and_flags(
            0,
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?);
        let (run_dir, proc_sys, woken) = (run_dir.to_owned(), proc_sys.to_owned(), Arc::clone(&wake));
        std::thread::Builder::new().name("pods".to_owned()).spawn(move || {
            let mut log = Log::default();
            let stopped = cni_ipam::reconcile(&run_dir, &proc_sys, woken.as_fd(), |report| {
                if let Report::Restored(found) = &report {
                    let count = found.pods.len() + found.egress;
                    restored.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
                }
                log.take(now(), &report);
            });
            let Err(error) = stopped;
            tracing::error!(event = "pods_unguarded", %error, "pods' interfaces and routes are not restored until the agent is restarted");
        })?;
        Ok(Self { wake })
    }

    /// node.json changed: routes to pods may have another source.
    pub(crate) fn wake(&self) {
        let _ = self.wake.write(1); // full: it is awake anyway
    }
}

/// Says what was restored, and keeps silent where two fight over it.
#[derive(Default)]
struct Log {
    restored_at: Option<Instant>,
    failed_at: Option<Instant>,
}

impl Log {
    fn take(&mut self, now: Instant, report: &Report) {
        let is_due = |at: &mut Option<Instant>| {
            let due = at.is_none_or(|at| now.duration_since(at) >= QUIET);
            if due {
                *at = Some(now);
            }
            due
        };
        match report {
            Report::Restored(found) if is_due(&mut self.restored_at) => {
                let pods = found.pods.len();
                if let Some((interface, what)) = found.pods.first() {
                    tracing::warn!(event = "pods_restored", pods, %interface, missing = %what, "host interfaces or routes of pods were missing and are restored: an address of the node was away, or \
                         another program manages the pods' interfaces or routes");
                }
                if found.egress > 0 || found.source_check {
                    tracing::warn!(
                        event = "nftables_restored",
                        pods = found.egress,
                        "entries of the nftables table podroute-cni were missing and are restored: do not flush the whole ruleset"
                    );
                }
            }
            Report::Failed(error) if is_due(&mut self.failed_at) => {
                tracing::error!(event = "pods_not_restored", %error, "cannot check or restore pods' interfaces and routes; trying again");
            }
            Report::Restored(_) | Report::Failed(_) => {}
        }
    }
}
