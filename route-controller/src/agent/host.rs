//! Follows changes of the host: addresses, MTU, the uplink, kernel settings, its own run directory.

use std::path::Path;
use std::time::Duration;

use bgp_proto::types::{Family, Prefix, RouterId};
use podroute_config::{Config, NodeAddresses};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Agent, AgentError, CommandError, Node, fib_config, wants_ipv6};
use crate::fib::Fib;
use crate::fib::task::ToFib;
use crate::host::{Host, HostChoice};
use crate::{clock, sysctl, whole_file};

/// What belongs together on a host changes within this time.
const SETTLE: Duration = Duration::from_millis(150);
/// Kernel settings are looked at this often.
pub(super) const SETTINGS_INTERVAL: Duration = Duration::from_millis(500);
/// Where a derived identifier is kept, in the run directory.
const ROUTER_ID: &str = "router-id";

/// The identifier of an earlier start.
pub(super) fn kept_router_id(run_dir: &Path) -> Option<RouterId> {
    let text = std::fs::read_to_string(run_dir.join(ROUTER_ID)).ok()?;
    RouterId::from_ipv4(text.trim().parse().ok()?)
}

/// Keeps a derived identifier for the next start.
pub(super) fn keep_router_id(run_dir: &Path, id: RouterId) {
    if kept_router_id(run_dir) == Some(id) {
        return;
    }
    let file = run_dir.join(ROUTER_ID);
    if let Err(error) = whole_file::replace(&file, format!("{id}\n").as_bytes()) {
        tracing::warn!(event = "state_not_saved", state = "router id", file = %file.display(), %error, "cannot save the router ID; another one may be used after a restart");
    }
}

/// A family that has no address now keeps the one that it had: it is away for a moment, or nobody knows a better one.
fn keep_addresses(config: &Config, before: &Host, now: &mut Host) {
    if matches!(config.node.addresses, NodeAddresses::Fixed(_)) {
        return;
    }
    let family = |addr: &std::net::IpAddr| Prefix::host(*addr).family();
    for wanted in [Family::Ipv4, Family::Ipv6] {
        if now.addresses.iter().any(|addr| family(addr) == wanted) {
            continue;
        }
        let kept = before
            .addresses
            .iter()
            .copied()
            .filter(|addr| family(addr) == wanted);
        now.addresses.extend(kept);
    }
}

impl Node {
    /// The host changed: when to look at it.
    pub(super) fn note_change(&mut self) {
        self.look_at
            .get_or_insert_with(|| Instant::from_std(clock::now() + SETTLE));
    }
}

impl Agent {
    /// What a configuration and the host come to now. The identifier stays as long as the agent runs.
    pub(super) async fn host_for(&self, config: &Config) -> Result<Host, CommandError> {
        let running = self.node.host.router_id;
        let choice = HostChoice::of(config, Some(running));
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |fib: &Fib| {
            let _ = reply.send(choice.find_out(&fib.mirror)); // whoever asked may have gone
        });
        self.to_fib(ToFib::Query(query)).await;
        let found = answer.await.map_err(|_| CommandError::FibStopped)?;
        let mut host = found?;
        keep_addresses(config, &self.node.host, &mut host);
        self.node
            .next_router_id
            .set(Some(host.router_id).filter(|id| *id != running));
        host.router_id = running;
        Ok(host)
    }

    /// Addresses, MTU or the uplink changed.
    pub(super) async fn check_host(&mut self) -> Result<(), AgentError> {
        self.node.look_at = None;
        let before = self.node.next_router_id.get();
        let looked = self.host_for(&self.config).await;
        if let Some(wanted) = self.node.next_router_id.get().filter(|id| Some(*id) != before) {
            let running = self.node.host.router_id;
            tracing::warn!(event = "restart_required", field = "node.routerId", %running, %wanted, "the router ID changed; it takes effect at the agent's next start");
        }
        let host = match looked {
            Ok(host) if host != self.node.host => host,
            Ok(_) => return Ok(()),
            Err(error) => {
                tracing::error!(event = "host_unreadable", %error, "cannot read the host's addresses and interfaces; trying again");
                return Ok(());
            }
        };
        tracing::info!(event = "host_changed", addresses = ?host.addresses, mtu = host.mtu, before = ?self.node.host.addresses, mtu_before = self.node.host.mtu, "the host's addresses or MTU changed");
        self.node.host = host;
        self.to_fib(ToFib::Reconfigure(fib_config(&self.config, &self.node.host)))
            .await;
        self.write_node_file();
        self.put_peers().await
    }

    /// Somebody deleted the run directory: it is made again, with all that the agent keeps in it.
    pub(super) fn check_run_dir(&mut self) {
        let run_dir = self.node.run_dir.clone();
        if run_dir.join("podroute.sock").exists() && run_dir.join("agent.lock").exists() {
            return self.check_node_file();
        }
        tracing::warn!(event = "run_dir_restored", path = %run_dir.display(), "another program deleted files of the run directory; they are recreated");
        let again = super::lock::lock(&run_dir).map(|lock| self.node.lock = lock);
        let again = again.and_then(|()| self.start_server());
        self.write_node_file();
        if let Err(error) = again {
            tracing::error!(event = "run_dir_failed", %error, "cannot recreate the run directory; trying again");
        }
        if HostChoice::of(&self.config, None).keeps_router_id() {
            keep_router_id(&run_dir, self.node.host.router_id);
        }
        if let Err(error) = self.drain.write(&run_dir) {
            tracing::warn!(event = "state_not_saved", state = "drain", %error, "cannot save that the node is drained; after a restart it is not");
        }
        self.sessions.lost();
    }

    /// Without it no pod can be added.
    fn check_node_file(&mut self) {
        let file = self.node.run_dir.join("node.json");
        let was_written = self.node.no_node_file.is_none();
        if file.exists() && was_written {
            return;
        }
        if was_written {
            tracing::warn!(event = "node_file_restored", file = %file.display(), "another program deleted this file; it is written again");
        }
        self.write_node_file();
    }

    /// Kernel settings that others may change: forwarding is set again, a strict reverse path filter is reported.
    pub(super) fn check_settings(&mut self) {
        let mut troubles = Vec::new();
        if self.config.fib.install {
            for change in sysctl::forwarding(&self.node.proc_sys, wants_ipv6(&self.config)) {
                match change {
                    sysctl::Change::Set { name, from } => {
                        tracing::warn!(event = "sysctl_restored", setting = %name, from = %from, "another program changed this setting, without which no packet reaches pods; it is set again. Check sysctl.d, \
                         firewalls and hardening scripts that run sysctl")
                    }
                    sysctl::Change::Refused(trouble) => troubles.push(trouble),
                }
            }
        }
        let obstacle = troubles
            .first()
            .cloned()
            .or_else(|| self.node.no_node_file.clone());
        troubles.extend(sysctl::strict_rp_filter());
        for trouble in &troubles {
            if !self.node.troubles.contains(trouble) {
                tracing::warn!(event = "sysctl_problem", "{trouble}");
            }
        }
        self.node.troubles = troubles;
        if let Ok(mut known) = self.reports.health.host.lock() {
            *known = obstacle;
        }
    }
}
