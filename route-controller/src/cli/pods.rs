//! The pods' addresses for the operator: read from the plugins' files and the kernel, never over the
//! socket, so that all of it works while the agent is down.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_ipam::{AttachmentInfo, Examination, Finding, NetnsStatus};
use serde::Serialize;

use super::show::{duration, new_table, text};
use super::{CliError, Form, RunDir, for_programs};
use crate::count::count;

/// Where the plugins keep their state.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct StateDir {
    #[command(flatten)]
    run_dir: RunDir,
    /// The plugins' state, where the network's ipam.stateDir names one [default: <run-dir>/ipam].
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl StateDir {
    pub(super) fn run_dir(&self) -> &std::path::Path {
        &self.run_dir.run_dir
    }

    fn path(&self) -> PathBuf {
        let default = || self.run_dir.run_dir.join("ipam");
        self.state_dir.clone().unwrap_or_else(default)
    }
}

/// A pod as it is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(flatten)]
    info: AttachmentInfo,
    /// Absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<u64>,
    state: &'static str,
}

impl PodStatus {
    fn new(info: AttachmentInfo, now: u64) -> Self {
        Self {
            age_seconds: (info.created != 0).then(|| now.saturating_sub(info.created)),
            state: match (info.complete, info.netns_status) {
                (true, NetnsStatus::Alive) => "ready",
                (true, NetnsStatus::Gone) => "gone",
                (true, NetnsStatus::Unknown) => "unknown",
                (false, _) => "unfinished",
            },
            info,
        }
    }

    fn row(&self) -> [String; 7] {
        let info = &self.info;
        let or_dash = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
        let addresses: Vec<String> = info.addresses.iter().map(IpAddr::to_string).collect();
        [
            or_dash(&addresses.join(" ")),
            short(&info.container),
            or_dash(&info.pod),
            info.ifname.clone(),
            or_dash(&info.network),
            self.age_seconds.map_or_else(|| "-".to_owned(), duration),
            self.state.to_owned(),
        ]
    }
}

/// A runtime's id of 64 hexadecimal digits as runtimes' own tools shorten it; other names in full.
fn short(container: &str) -> String {
    let is_id = container.len() == 64 && container.chars().all(|c| c.is_ascii_hexdigit());
    container
        .chars()
        .take(if is_id { 13 } else { usize::MAX })
        .collect()
}

/// Prints all attachments of this node.
pub(super) fn show(state: &StateDir, form: Form) -> Result<(), CliError> {
    let path = state.path();
    let output = match form {
        Form::Table => table(
            &list(&path)?,
            &format!("no pod has an address, says {}", path.display()),
        ),
        form => for_programs(form, &as_json(&path)?)?,
    };
    println!("{}", output.trim_end());
    Ok(())
}

/// The pods of a directory of the plugins' state, for programs.
///
/// # Errors
/// The state cannot be read.
pub(crate) fn as_json(state_dir: &Path) -> Result<serde_json::Value, cni_ipam::Error> {
    Ok(serde_json::json!({ "pods": list(state_dir)? }))
}

fn list(state_dir: &Path) -> Result<Vec<PodStatus>, cni_ipam::Error> {
    let now = std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs());
    let infos = cni_ipam::attachments(state_dir)?;
    Ok(infos.into_iter().map(|info| PodStatus::new(info, now)).collect())
}

fn table(pods: &[PodStatus], empty: &str) -> String {
    let mut table = new_table(&[
        "ADDRESS",
        "CONTAINER",
        "POD",
        "INTERFACE",
        "NETWORK",
        "AGE",
        "STATE",
    ]);
    for pod in pods {
        table.add_row(pod.row());
    }
    text(&table, empty)
}

/// Prints what does not fit together. The error counts what is left as it is.
pub(super) fn check(state: &StateDir, fix: bool) -> Result<(), CliError> {
    let path = state.path();
    let check = |fix| cni_ipam::examine(&path, fix);
    let Examination {
        findings: found,
        not_entered,
    } = check(fix)?;
    // Repaired is what a second check does not find.
    let left = if fix {
        check(false)?.findings
    } else {
        found.clone()
    };
    for finding in found.iter().filter(|finding| !left.contains(finding)) {
        println!("repaired: {finding}");
    }
    for finding in &left {
        println!("found: {finding}");
    }
    if found.is_empty() && left.is_empty() {
        let what = if not_entered == 0 {
            "addresses, interfaces and pods fit together"
        } else {
            "addresses and the host's interfaces fit together"
        };
        println!("{}: {what}", path.display());
    }
    if not_entered > 0 {
        println!(
            "not checked: the inside of {}, whose network namespaces cannot be entered from here; run this on the node as \
             root, or give the container CAP_SYS_ADMIN and the directory of namespaces",
            count(not_entered, "pod")
        );
    }
    summary(&left, fix)
}

fn summary(left: &[Finding], fix: bool) -> Result<(), CliError> {
    match (left.len(), fix) {
        (0, _) => Ok(()),
        (number, false) => Err(CliError::Found(number)),
        (number, true) => Err(CliError::Left(number)),
    }
}

/// Removes the objects of the plugins and prints their numbers.
pub(super) fn cleanup(state: &StateDir) -> Result<(), CliError> {
    let removed = cni_ipam::cleanup(&state.path()).map_err(CliError::RemovePods)?;
    println!(
        "removed {} with their routes, {}, {}{}",
        count(removed.interfaces, "pod interface"),
        count(removed.addresses, "claimed address"),
        count(removed.attachments, "attachment record"),
        if removed.table { ", the nftables table" } else { "" }
    );
    Ok(())
}
