//! Network policies before a pod's first packet.
//!
//! The agent says in `<runDir>/policy.json` which namespaces have policies. A pod of one of them is isolated in the agent's table before
//! its interface is made: nothing but replies passes, and traffic of the node itself. The agent replaces the
//! interface's elements when it sees the pod's record; ADD waits for that, for a limited time. A pod stays isolated until then, also where
//! the agent is down.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podroute_netfilter::{Data, Element, Nftables, Notifications, Transaction, Verdict};
use serde::Deserialize;

use crate::attachment::{self, State};
use crate::error::{Error, Result};
use crate::store::Disk;

/// The agent's table, and what the plugin uses of it.
const TABLE: &str = "podroute-policy";
const MAPS: [&str; 2] = ["from-pod", "to-pod"];
const WAITING: &str = "waiting";
const IFNAME: usize = 16;
const FILE: &str = "policy.json";
const VERSION: u32 = 1;

/// The host interface of a pod of this node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodInterface {
    pub interface: String,
    pub namespace: String,
    pub pod: String,
}

/// Interfaces that podroute-cni made or is about to make, as far as the runtime named their pods. A record is there before the
/// interface is.
///
/// # Errors
/// The state cannot be read.
pub fn pod_interfaces(state_dir: &Path) -> Result<Vec<PodInterface>> {
    let Some(disk) = Disk::open(state_dir, false)? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for owner in attachment::owners(&disk)? {
        let state = attachment::read(&disk, &owner)?;
        let Some(record) = state.as_ref().and_then(State::record) else {
            continue;
        };
        if let Some((namespace, pod)) = record
            .pod
            .split_once('/')
            .filter(|_| !record.host_interface.is_empty())
        {
            found.push(PodInterface {
                interface: record.host_interface.clone(),
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
            });
        }
    }
    Ok(found)
}

/// The directory whose files are the pods' records, made where it is missing.
///
/// # Errors
/// It cannot be made.
pub fn records_dir(state_dir: &Path) -> Result<PathBuf> {
    let disk = Disk::open(state_dir, true)?;
    let disk = disk.ok_or_else(|| Error::io("create", state_dir, std::io::ErrorKind::NotFound))?;
    Ok(disk.dir("pod"))
}

/// Whether the plugin can use the agent's file: without one it isolates no pod, with a broken one it starts none.
#[must_use]
pub fn has_policy_file(run_dir: &Path) -> bool {
    matches!(read(&run_dir.join(FILE)), Ok(Some(_)))
}

/// What the agent says.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    version: u32,
    /// None: not known yet, any of them may have policies.
    namespaces: Option<Vec<String>>,
    wait_millis: u64,
}

/// A pod that is isolated until its rules are there.
#[derive(Debug)]
pub(crate) struct Isolated {
    nftables: Nftables,
    notifications: Notifications,
    interface: String,
    wait: Duration,
}

impl Isolated {
    /// Isolates the interface-to-be of a pod, where its namespace may have policies.
    pub(crate) fn begin(run_dir: &Path, pod: &str, interface: &str) -> Result<Option<Self>> {
        let Some(file) = read(&run_dir.join(FILE))? else {
            return Ok(None);
        };
        let namespace = pod.split_once('/').map_or("", |(namespace, _)| namespace);
        let is_concerned = |known: &Vec<String>| known.iter().any(|own| own == namespace);
        if namespace.is_empty() || !file.namespaces.as_ref().is_none_or(is_concerned) {
            return Ok(None);
        }
        let mut nftables = Nftables::open().map_err(refused)?;
        let notifications = Notifications::open(TABLE, nftables.port()).map_err(refused)?;
        let mut transaction = Transaction::new(TABLE);
        let element = element(interface);
        MAPS.iter()
            .for_each(|map| transaction.add_elements(map, [&element]));
        match transaction.run(&mut nftables) {
            // The agent has written the interface's rules already.
            Err(error) if matches!(error.errno(), Some(Errno::EEXIST | Errno::EBUSY)) => {}
            done => done.map_err(refused)?,
        }
        Ok(Some(Self {
            nftables,
            notifications,
            interface: interface.to_owned(),
            wait: Duration::from_millis(file.wait_millis),
        }))
    }

    /// Waits until the agent has written the pod's rules, or the time is over.
    pub(crate) fn wait(mut self) -> Result<()> {
        let deadline = Instant::now() + self.wait;
        let element = element(&self.interface);
        loop {
            let mut is_waiting = false;
            for map in MAPS {
                let found = self
                    .nftables
                    .find_element(TABLE, map, &element)
                    .map_err(refused)?;
                is_waiting |= found.is_some_and(|found| found.data == element.data);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !is_waiting || left.is_zero() {
                return Ok(());
            }
            let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX).max(1);
            let mut fds = [PollFd::new(self.notifications.fd(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::from(millis)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Ok(()),
            }
            self.notifications.read().map_err(refused)?;
        }
    }
}

fn element(interface: &str) -> Element {
    let mut key = interface.as_bytes().to_vec();
    key.resize(IFNAME, 0);
    Element {
        key,
        key_end: Vec::new(),
        data: Data::Verdict(Verdict::Jump(WAITING.to_owned())),
    }
}

fn read(path: &Path) -> Result<Option<File>> {
    let text = match attachment::read_file(path)? {
        Some(text) => text,
        None => return Ok(None),
    };
    let fail = |cause: String| Error::Node {
        path: path.to_owned(),
        cause,
    };
    let file: File = serde_json::from_slice(&text).map_err(|error| fail(error.to_string()))?;
    if file.version != VERSION {
        return Err(fail(format!(
            "version {} is not {VERSION}: agent and plugins differ",
            file.version
        )));
    }
    Ok(Some(file))
}

/// The runtime tries again: a pod of a namespace with policies does not start without isolation.
fn refused(error: podroute_netfilter::Error) -> Error {
    Error::Node {
        path: PathBuf::from(format!("nftables table {TABLE}")),
        cause: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_agent_says_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert!(read(&path).unwrap().is_none());
        assert!(!has_policy_file(dir.path()));
        std::fs::write(
            &path,
            r#"{"version":1,"namespaces":["a"],"waitMillis":1000,"later":1}"#,
        )
        .unwrap();
        let file = read(&path).unwrap().unwrap();
        assert_eq!(
            (file.namespaces, file.wait_millis),
            (Some(vec!["a".to_owned()]), 1000)
        );
        std::fs::write(&path, r#"{"version":1,"namespaces":null,"waitMillis":0}"#).unwrap();
        assert!(read(&path).unwrap().unwrap().namespaces.is_none());
        assert!(has_policy_file(dir.path()));
        for bad in ["", "{\"version\":2,\"namespaces\":[],\"waitMillis\":0}"] {
            std::fs::write(&path, bad).unwrap();
            assert_eq!(read(&path).unwrap_err().code(), 11, "{bad}");
            assert!(!has_policy_file(dir.path()), "{bad}");
        }
    }

    #[test]
    fn pods_of_other_namespaces_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join(FILE),
            r#"{"version":1,"namespaces":["a"],"waitMillis":1000}"#,
        )
        .unwrap();
        for pod in ["", "b/x", "x"] {
            assert!(
                Isolated::begin(dir.path(), pod, "pod0").unwrap().is_none(),
                "{pod}"
            );
        }
    }
}
