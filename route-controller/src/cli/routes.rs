//! `podroute show routes`: whose an address is, what a peer sent and is sent, why a path is used or not.

use std::net::IpAddr;
use std::path::Path;

use bgp_proto::types::Prefix;

use super::show::{self, new_table, or_dash, text};
use super::{CliError, ClientError, Form, Output, client, for_programs};
use crate::journal::{self, Entry, Kind};
use crate::kernel_view::{self, Kernel, Packet};
use crate::status::{ExportStatus, PathStatus, Reply, Request, RouteQuestion, RouteStatus};
use crate::who::{Known, Owner};

/// Name and version of the output's form.
const SCHEMA: &str = "podroute.routes/v1";

#[derive(Debug, clap::Args)]
pub(super) struct Question {
    /// Only inside this prefix; of an address the longest match, and whose it is.
    #[arg(value_name = "PREFIX|ADDRESS")]
    prefix: Option<String>,
    /// Only paths from this peer.
    #[arg(long, value_name = "PEER")]
    from: Option<String>,
    /// With --from: attributes as the peer sent them, and what the import policy changed.
    #[arg(long, requires = "from")]
    pre_policy: bool,
    /// What this peer is sent: attributes as sent, and the routes that are withheld, with the reason.
    #[arg(long, value_name = "PEER", conflicts_with = "from")]
    to: Option<String>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(question: &Question) -> Result<(), CliError> {
    let run_dir = &question.output.run_dir.run_dir;
    let address = question
        .prefix
        .as_deref()
        .and_then(|text| text.parse::<IpAddr>().ok());
    let request = RouteQuestion {
        within: question.prefix.clone().filter(|_| address.is_none()),
        longest_match: address,
        from: question.from.clone(),
        to: question.to.clone(),
    };
    let Reply::Routes(routes) = client::ask(run_dir, &Request::Routes(request))? else {
        return Err(ClientError::Unexpected.into());
    };
    let about = address.map(|address| About::of(address, run_dir));
    let change = match routes.as_slice() {
        [only] => last_change(run_dir, &only.prefix),
        _ => None,
    };
    let text = match question.output.output {
        Form::Table | Form::Wide => {
            let lines = about.map(|about| about.lines()).unwrap_or_default();
            let change = change.map(|change| change_line(&change)).unwrap_or_default();
            format!("{lines}{}{change}", table(question, &routes).trim_end())
        }
        form => {
            let mut value = serde_json::json!({ "schema": SCHEMA, "routes": routes });
            if let (Some(change), Some(map)) = (change, value.as_object_mut()) {
                let change = serde_json::to_value(change)?;
                map.insert("lastChange".to_owned(), change);
            }
            if let (Some(about), Some(map)) = (about, value.as_object_mut()) {
                map.insert("address".to_owned(), about.value());
            }
            for_programs(form, &value)?
        }
    };
    println!("{}", text.trim_end());
    Ok(())
}

fn table(question: &Question, routes: &[RouteStatus]) -> String {
    if question.to.is_some() {
        sent_table(routes)
    } else if question.pre_policy {
        received_table(routes)
    } else {
        show::route_table(routes, question.output.output == Form::Wide)
    }
}

/// When a route changed last, as far as the journal knows.
fn last_change(run_dir: &Path, prefix: &str) -> Option<Entry> {
    let request = Request::Events {
        since_ms: 0,
        after: None,
        kinds: vec![Kind::Route],
    };
    let Ok(Reply::Events(events)) = client::ask(run_dir, &request) else {
        return None;
    };
    let mut newest = events.entries.into_iter().rev();
    newest.find(|entry| entry.subject.as_deref() == Some(prefix))
}

fn change_line(change: &Entry) -> String {
    let age = journal::now_ms().saturating_sub(change.at_ms) / 1000;
    let flaps = match change.flaps {
        Some(flaps) if flaps > 0 => format!(", {flaps} flaps"),
        _ => String::new(),
    };
    format!(
        "\n\nlast change: {} ago: {}{flaps}",
        show::duration(age),
        change.message
    )
}

/// Whose an address is, and what the kernel does with packets to it.
struct About {
    address: IpAddr,
    owner: Owner,
    kernel: Result<kernel_view::Decision, NoDecision>,
}

impl About {
    fn of(address: IpAddr, run_dir: &Path) -> Self {
        Self {
            address,
            owner: known(run_dir).owner(address),
            kernel: decide(address),
        }
    }

    fn lines(&self) -> String {
        let kernel = match &self.kernel {
            Ok(decision) => kernel_line(decision),
            Err(error) => error.to_string(),
        };
        format!("{}: {}\nkernel: {kernel}\n\n", self.address, self.owner)
    }

    fn value(&self) -> serde_json::Value {
        serde_json::json!({
            "address": self.address,
            "owner": self.owner,
            "kernel": self.kernel.as_ref().ok(),
            "kernelError": self.kernel.as_ref().err().map(ToString::to_string),
        })
    }
}

/// What is known of addresses, from files and the kernel: what cannot be read is not known.
pub(super) fn known(run_dir: &Path) -> Known {
    let addresses = Kernel::open()
        .and_then(|kernel| kernel.addresses())
        .unwrap_or_default();
    Known {
        pods: cni_ipam::attachments(&run_dir.join("ipam")).unwrap_or_default(),
        cluster: crate::cluster::cache::read(run_dir).unwrap_or_default(),
        own: addresses.into_iter().map(|(address, _)| address).collect(),
        blocks: prefixes(run_dir, "blocks"),
    }
}

/// The cluster's pod CIDRs, as the agent wrote them for the plugins.
pub(super) fn pod_cidrs(run_dir: &Path) -> Vec<Prefix> {
    prefixes(run_dir, "podCIDRs")
}

fn prefixes(run_dir: &Path, field: &str) -> Vec<Prefix> {
    let text = std::fs::read(run_dir.join("node.json")).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let list = value.get(field).and_then(serde_json::Value::as_array);
    let texts = list.into_iter().flatten().filter_map(serde_json::Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Why it is not known what the kernel does.
#[derive(Debug, thiserror::Error)]
enum NoDecision {
    #[error(transparent)]
    Kernel(#[from] linux::Error),
    #[error("no route: {}", .0.desc())]
    NoRoute(nix::errno::Errno),
}

fn decide(destination: IpAddr) -> Result<kernel_view::Decision, NoDecision> {
    let kernel = Kernel::open()?;
    let links = kernel.links()?;
    let packet = Packet {
        destination,
        source: None,
        arrives_on: None,
    };
    kernel.decide(packet, &links)?.map_err(NoDecision::NoRoute)
}

/// `10.244.3.0/24 via 192.0.2.13 dev eth0, protocol podroute, metric 20`
pub(super) fn kernel_line(decision: &kernel_view::Decision) -> String {
    let prefix = decision.matched.as_ref().map_or("", |matched| &matched.prefix);
    let via = decision
        .gateway
        .map_or_else(String::new, |gateway| format!(" via {gateway}"));
    let interface = decision.interface.as_deref().unwrap_or("-");
    let made_by = decision.matched.as_ref().map_or_else(String::new, |matched| {
        let protocol = kernel_view::protocol_name(matched.protocol);
        format!(", protocol {protocol}, metric {}", matched.metric)
    });
    let local = if decision.is_local { "local " } else { "" };
    format!("{local}{prefix}{via} dev {interface}{made_by}")
        .trim()
        .to_owned()
}

/// What a peer is sent, and what not.
fn sent_table(routes: &[RouteStatus]) -> String {
    let mut table = new_table(&[
        "",
        "PREFIX",
        "NEXT HOP",
        "AS PATH",
        "PREF",
        "MED",
        "COMMUNITIES",
        "NOT SENT BECAUSE",
    ]);
    for route in routes {
        let Some(export) = &route.export else { continue };
        table.add_row(sent_row(&route.prefix, export));
    }
    text(&table, "no route has a best path")
}

fn sent_row(prefix: &str, export: &ExportStatus) -> [String; 8] {
    let value = |name: &str| {
        let sent = export.sent.as_ref();
        or_dash(sent.and_then(|sent| sent.get(name)).cloned().unwrap_or_default())
    };
    let mark = if export.sent.is_some() { ">" } else { "x" };
    [
        mark.to_owned(),
        prefix.to_owned(),
        value("nextHop"),
        value("asPath"),
        value("localPreference"),
        value("med"),
        communities(&value),
        export.withheld.clone().unwrap_or_default(),
    ]
}

fn communities(value: &impl Fn(&str) -> String) -> String {
    let lists = ["communities", "largeCommunities", "extCommunities"].map(value);
    let there = lists.iter().filter(|list| *list != "-").cloned();
    or_dash(there.collect::<Vec<_>>().join(" "))
}

/// What a peer sent before policy, and what the policy made of it.
fn received_table(routes: &[RouteStatus]) -> String {
    let mut table = new_table(&[
        "",
        "PREFIX",
        "NEXT HOP",
        "AS PATH",
        "PREF",
        "MED",
        "COMMUNITIES",
        "POLICY",
        "CHANGED",
    ]);
    for route in routes {
        for path in &route.paths {
            table.add_row(received_row(&route.prefix, path));
        }
    }
    text(&table, "no routes from this peer")
}

fn received_row(prefix: &str, path: &PathStatus) -> [String; 9] {
    let after = show::path_row(prefix, path);
    let value = |name: &str| {
        path.received
            .as_ref()
            .map(|received| or_dash(received.get(name).cloned().unwrap_or_default()))
    };
    let [mark, prefix, next_hop, _, as_path, pref, med, list, _] = after;
    let of_lists = path
        .received
        .is_some()
        .then(|| communities(&|name: &str| value(name).unwrap_or_default()));
    [
        mark,
        prefix,
        value("nextHop").unwrap_or(next_hop),
        value("asPath").unwrap_or(as_path),
        value("localPreference").unwrap_or(pref),
        value("med").unwrap_or(med),
        of_lists.unwrap_or(list),
        path.policy.clone().unwrap_or_default(),
        path.changes.join("; "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(more: &serde_json::Value) -> PathStatus {
        let mut value = serde_json::json!({
            "best": true, "eligible": true, "nextHop": "192.0.2.1", "from": "tor-a", "asPath": "65001", "localPref": 200,
            "med": null, "communities": ["64512:1"], "largeCommunities": [], "extCommunities": [], "pathId": 0,
            "originatorId": null, "clusterList": [], "reason": null,
        });
        let map = value.as_object_mut().unwrap();
        map.extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    fn route(path: PathStatus, export: Option<ExportStatus>) -> RouteStatus {
        RouteStatus {
            prefix: "10.244.2.0/24".to_owned(),
            paths: vec![path],
            exports: Default::default(),
            export,
        }
    }

    #[test]
    fn what_a_peer_sent_is_beside_what_the_policy_changed() {
        let more = serde_json::json!({
            "received": {"asPath": "65001", "nextHop": "192.0.2.1", "communities": "65001:7"},
            "changes": ["localPreference: none -> 200"], "policy": "accepted by from-tor[1]",
        });
        let text = received_table(&[route(path(&more), None)]);
        assert!(text.contains("65001:7") && !text.contains("64512:1"), "{text}");
        assert!(text.contains("localPreference: none -> 200"), "{text}");
        let unchanged = received_table(&[route(path(&serde_json::json!({})), None)]);
        assert!(
            unchanged.contains("64512:1") && unchanged.contains("200"),
            "{unchanged}"
        );
    }

    #[test]
    fn what_is_sent_and_what_is_withheld() {
        let sent = ExportStatus {
            sent: Some([("nextHop".to_owned(), "192.0.2.11".to_owned())].into()),
            withheld: None,
        };
        let withheld = ExportStatus {
            sent: None,
            withheld: Some("rejected by to-tor[2]".to_owned()),
        };
        let of = |export| sent_table(&[route(path(&serde_json::json!({})), Some(export))]);
        assert!(of(sent).contains(">  10.244.2.0/24  192.0.2.11"));
        let text = of(withheld);
        assert!(
            text.contains("x  10.244.2.0/24") && text.contains("rejected by to-tor[2]"),
            "{text}"
        );
        assert_eq!(sent_table(&[]), "no route has a best path");
    }
}
