//! `podroute network-policy`: policies, why a connection is allowed or not, and connections that a policy would end.

use std::path::PathBuf;

use clap::Subcommand;

use super::show::{new_table, text};
use super::{CliError, Form, Output, client, for_programs};
use crate::network_policy::{CutStatus, ExplainQuestion, ExplanationStatus, PoliciesStatus};
use crate::status::{Reply, Request};

#[derive(Debug, Subcommand)]
pub(super) enum NetworkPolicyCommand {
    /// NetworkPolicies of the cluster, how many pods of this node each isolates, and dropped packets.
    Show(Output),
    /// Explain why a connection is allowed or not: policies that select each end, and the rule that allows it.
    Explain {
        /// Source: an address or NAMESPACE/POD.
        source: String,
        /// Destination: an address or NAMESPACE/POD; behind a Service, the pod.
        destination: String,
        /// Port of the destination pod, as 80 or 53/udp.
        port: String,
        #[command(flatten)]
        output: Output,
    },
    /// List established connections of this node that the policies in a file would end.
    Diff {
        /// File with NetworkPolicies, as YAML.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
}

pub(super) fn run(what: NetworkPolicyCommand) -> Result<(), CliError> {
    let (request, output) = match what {
        NetworkPolicyCommand::Show(output) => (Request::NetworkPolicies, output),
        NetworkPolicyCommand::Explain {
            source,
            destination,
            port,
            output,
        } => {
            let question = ExplainQuestion {
                source,
                destination,
                port,
            };
            (Request::ExplainPolicies(question), output)
        }
        NetworkPolicyCommand::Diff { file, output } => {
            let text = std::fs::read_to_string(&file).map_err(CliError::file(file.display()))?;
            (Request::PolicyDiff { text }, output)
        }
    };
    let reply = client::ask(&output.run_dir.run_dir, &request)?;
    let text = match output.output {
        Form::Table => super::show::table(&reply),
        form => for_programs(form, &reply_value(&reply))?,
    };
    println!("{}", text.trim_end());
    Ok(())
}

/// Without the name of the answer around it.
fn reply_value(reply: &Reply) -> serde_json::Value {
    let value = serde_json::to_value(reply).unwrap_or_default();
    match value {
        serde_json::Value::Object(map) => map.into_iter().next().map(|(_, value)| value).unwrap_or_default(),
        other => other,
    }
}

pub(super) fn policies(status: &PoliciesStatus) -> String {
    let mut table = new_table(&["NAMESPACE", "POLICY", "DIRECTIONS", "PODS HERE", "PROBLEMS"]);
    for policy in &status.policies {
        table.add_row([
            policy.namespace.clone(),
            policy.name.clone(),
            policy.directions.join(", "),
            policy.local_pods.to_string(),
            policy.problems.join("; "),
        ]);
    }
    let mut out = text(&table, "no NetworkPolicies");
    let state = match (&status.error, status.synced) {
        (Some(error), _) => format!("not all in force: {error}"),
        (None, false) => {
            "waiting for Kubernetes: rules of an earlier run are in force; see 'podroute show cluster'"
                .to_owned()
        }
        (None, true) => "in force".to_owned(),
    };
    out.push_str(&format!("\n\n{state}\n"));
    for dropped in &status.dropped {
        let (direction, namespace) = (&dropped.direction, &dropped.namespace);
        out.push_str(&format!(
            "dropped: {} packets, {direction} of namespace {namespace}\n",
            dropped.packets
        ));
    }
    out.push_str(&format!(
        "dropped: {} of pods without rules yet, {} of TCP connections that are not tracked\naccepted: {} connections\nended: {} \
         connections; repaired: {} times",
        status.waiting_dropped, status.midstream_dropped, status.accepted, status.ended_connections, status.repairs
    ));
    out
}

pub(super) fn explanations(all: &[ExplanationStatus]) -> String {
    let parts: Vec<String> = all.iter().map(explanation).collect();
    parts.join("\n\n")
}

fn explanation(one: &ExplanationStatus) -> String {
    let verdict = if one.allowed { "allowed" } else { "forbidden" };
    let ends: Vec<String> = one.ends.iter().map(|end| end.address.to_string()).collect();
    let mut lines = vec![format!("{} port {}: {verdict}", ends.join(" → "), one.port)];
    if one.itself {
        lines.push("  a pod always reaches itself".to_owned());
        return lines.join("\n");
    }
    for end in &one.ends {
        let Some(pod) = &end.pod else {
            lines.push(format!(
                "  {}: {} is no pod: no policy",
                end.direction, end.address
            ));
            continue;
        };
        let place = if end.on_this_node {
            "on this node"
        } else {
            "on another node, which enforces this"
        };
        if end.policies.is_empty() {
            lines.push(format!("  {}: no policy selects {pod} ({place})", end.direction));
            continue;
        }
        let verdict = if end.allowed {
            "allowed"
        } else {
            "no rule allows it"
        };
        lines.push(format!("  {}: {verdict} for {pod} ({place})", end.direction));
        for (policy, rule) in &end.policies {
            let found = rule.map_or_else(
                || "no rule allows it".to_owned(),
                |rule| format!("rule {rule} allows it"),
            );
            lines.push(format!("    policy {policy}: {found}"));
        }
        if let Some(packets) = end.dropped_in_namespace {
            lines.push(format!(
                "    dropped so far for pods of this namespace: {packets} packets"
            ));
        }
    }
    lines.join("\n")
}

pub(super) fn cut(all: &[CutStatus]) -> String {
    let mut table = new_table(&["SOURCE", "POD", "DESTINATION", "POD", "PROTOCOL", "PORT"]);
    let pod = |pod: &Option<String>| pod.clone().unwrap_or_else(|| "-".to_owned());
    for flow in all {
        table.add_row([
            flow.source.to_string(),
            pod(&flow.source_pod),
            flow.destination.to_string(),
            pod(&flow.destination_pod),
            flow.protocol.to_string(),
            flow.port.to_string(),
        ]);
    }
    text(&table, "no established connection of this node would be cut")
}
