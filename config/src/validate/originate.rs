//! Checks of `originate`.

use bgp_proto::engine::{Aggregate, OriginateRule, When};
use bgp_proto::policy::Source;

use crate::decode::At;
use crate::model::{Cluster, Fib, KernelRoutes};
use crate::problem::Sink;
use crate::schema::{self, What};

/// The kernel's main table.
const MAIN: u32 = 254;

/// Routes that this node originates, and the kernel routes that it announces.
pub(super) fn originate(
    written: &[At<schema::Originate>],
    cluster: &Cluster,
    fib: &Fib,
    sink: &Sink,
) -> (Vec<OriginateRule>, Vec<KernelRoutes>) {
    let (mut rules, mut kernel): (Vec<OriginateRule>, Vec<KernelRoutes>) = (Vec::new(), Vec::new());
    for At { value, spot } in written {
        let when = value.when.as_ref().map(|at| When {
            prefix: at.value.prefix,
            present: at.value.present,
        });
        let (prefix, aggregate) = match &value.what {
            What::Prefix(prefix) => (*prefix, None),
            What::Aggregate { prefix, suppress } => {
                let inside = if *suppress {
                    Aggregate::InPlace
                } else {
                    Aggregate::Beside
                };
                (*prefix, Some(inside))
            }
            What::Kernel {
                protocols,
                interfaces,
                tables,
            } => {
                if let Some(table) = tables.iter().find(|table| ![MAIN, fib.table].contains(table)) {
                    let message = format!("table {table} is not followed");
                    let remedy = format!("use {MAIN} (main) or that of fib.table, {}", fib.table);
                    sink.error(spot.problem(message, remedy));
                }
                kernel.push(KernelRoutes {
                    protocols: protocols.clone(),
                    interfaces: interfaces.clone(),
                    tables: tables.clone(),
                    when,
                    communities: value.communities.clone(),
                });
                continue;
            }
        };
        if let Some(when) = value.when.as_ref().filter(|when| when.value.prefix == prefix) {
            let message = format!("whether {prefix} is originated depends on {prefix} itself");
            sink.error(when.spot.problem(message, "name the prefix that it depends on"));
        }
        if rules.iter().any(|rule| rule.prefix == prefix) {
            sink.error(spot.problem(format!("{prefix} is originated already"), "remove one of the two"));
        }
        if cluster
            .pod_cidrs
            .iter()
            .any(|cidr| *cidr != prefix && cidr.contains(&prefix))
            && aggregate.is_none()
        {
            let message = format!("{prefix} lies in the pod CIDRs, whose blocks nodes announce");
            sink.warn(spot.problem(
                message,
                "let the node announce its blocks (node.blocks), or use a prefix outside",
            ));
        }
        rules.push(OriginateRule {
            prefix,
            source: Source::Static,
            aggregate,
            when,
            communities: value.communities.clone(),
        });
    }
    (rules, kernel)
}
