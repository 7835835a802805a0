//! The thread that logs which pods of this node came and went, by the plugin's records.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use cni_ipam::AttachmentInfo;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

/// Starts the thread.
pub(crate) fn start(run_dir: &Path) -> io::Result<()> {
    let state_dir = run_dir.join("ipam");
    let records = cni_ipam::records_dir(&state_dir).map_err(io::Error::other)?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    let changes = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_TO;
    inotify.add_watch(&records, changes)?;
    std::thread::Builder::new()
        .name("pod-changes".to_owned())
        .spawn(move || follow(&inotify, &state_dir))?;
    Ok(())
}

fn follow(inotify: &Inotify, state_dir: &Path) {
    let mut known = read(state_dir).unwrap_or_default();
    loop {
        match inotify.read_events() {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::warn!(event = "pods_unchecked", %error, "pods that come and go are not followed any more");
                return;
            }
        }
        // Records that cannot be read are reported by 'ipam check'.
        if let Ok(now) = read(state_dir) {
            log_changes(&known, &now);
            known = now;
        }
    }
}

/// Pods by container and interface.
type Pods = BTreeMap<(String, String), Pod>;

#[derive(Clone, PartialEq, Eq, Debug)]
struct Pod {
    name: String,
    addresses: String,
}

fn read(state_dir: &Path) -> cni_ipam::Result<Pods> {
    let all = cni_ipam::attachments(state_dir)?;
    Ok(all.into_iter().filter(|info| info.complete).map(pod).collect())
}

fn pod(info: AttachmentInfo) -> ((String, String), Pod) {
    let addresses: Vec<String> = info.addresses.iter().map(ToString::to_string).collect();
    let pod = Pod {
        name: if info.pod.is_empty() {
            info.container.clone()
        } else {
            info.pod
        },
        addresses: addresses.join(", "),
    };
    ((info.container, info.ifname), pod)
}

fn log_changes(before: &Pods, now: &Pods) {
    for pod in differences(now, before) {
        tracing::debug!(event = "pod_added", pod = %pod.name, addresses = %pod.addresses, "pod added");
    }
    for pod in differences(before, now) {
        tracing::debug!(event = "pod_removed", pod = %pod.name, addresses = %pod.addresses, "pod removed");
    }
}

/// Pods of one that the other has not, or with other addresses.
fn differences<'a>(of: &'a Pods, than: &Pods) -> Vec<&'a Pod> {
    let missing = of.iter().filter(|(key, pod)| than.get(*key) != Some(*pod));
    missing.map(|(_, pod)| pod).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(list: &[(&str, &str)]) -> Pods {
        let one = |(container, addresses): &(&str, &str)| {
            let pod = Pod {
                name: format!("default/{container}"),
                addresses: (*addresses).to_owned(),
            };
            (((*container).to_owned(), "eth0".to_owned()), pod)
        };
        list.iter().map(one).collect()
    }

    #[test]
    fn pods_that_came_and_went_are_found() {
        let before = pods(&[("a", "10.0.0.1"), ("b", "10.0.0.2"), ("c", "10.0.0.3")]);
        let now = pods(&[("a", "10.0.0.1"), ("b", "10.0.0.9"), ("d", "10.0.0.4")]);
        let names = |list: Vec<&Pod>| -> Vec<String> {
            list.iter()
                .map(|pod| format!("{} {}", pod.name, pod.addresses))
                .collect()
        };
        assert_eq!(
            names(differences(&now, &before)),
            ["default/b 10.0.0.9", "default/d 10.0.0.4"]
        );
        assert_eq!(
            names(differences(&before, &now)),
            ["default/b 10.0.0.2", "default/c 10.0.0.3"]
        );
    }
}
