//! Checks of `originate`.

use bgp_proto::engine::{Aggregate, OriginateRule, When};
use bgp_proto::policy::Source;
use bgp_proto::wire::KernelRoute;

use crate::decode::Located;
use crate::model::{Cluster, Fib, KernelRoutes};
use crate::problem::Problems;
use crate::schema::{self, What};

/// The kernel's main table.
const MAIN: u32 = 254;

/// Packets to an aggregate for which there is no other route are dropped (RFC 4632 §5.1). In the main table, where the networks of the
/// host's interfaces are more specific; any other route of the same prefix comes before it.
const DISCARD: KernelRoute = KernelRoute {
    install: true,
    blackhole: true,
    metric: Some(u32::MAX - 1),
    table: Some(MAIN),
    source: None,
    weight: None,
};

/// Routes that this node originates, and the kernel routes that it announces.
pub(super) fn originate(
    written: &[Located<schema::Originate>],
    cluster: &Cluster,
    fib: &Fib,
    problems: &Problems,
) -> (Vec<OriginateRule>, Vec<KernelRoutes>) {
    let (mut rules, mut kernel): (Vec<OriginateRule>, Vec<KernelRoutes>) = (Vec::new(), Vec::new());
    for Located { value, location } in written {
        let when = value.when.as_ref().map(|at| When {
            prefix: at.value.prefix,
            present: at.value.present,
        });
        let (prefix, aggregate, kernel_route) = match &value.what {
            What::Prefix(prefix) => (*prefix, None, KernelRoute::default()),
            What::Aggregate {
                prefix,
                suppress,
                discard,
            } => {
                let inside = if *suppress {
                    Aggregate::InPlace
                } else {
                    Aggregate::Beside
                };
                let kernel_route = if *discard { DISCARD } else { KernelRoute::default() };
                (*prefix, Some(inside), kernel_route)
            }
            What::Kernel {
                protocols,
                interfaces,
                tables,
            } => {
                if let Some(table) = tables.iter().find(|table| ![MAIN, fib.table].contains(table)) {
                    let message = format!("table {table} is not followed");
                    let remedy = format!("use {MAIN} (main) or that of fib.table, {}", fib.table);
                    problems.error(location.problem(message, remedy));
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
            problems.error(
                when.location
                    .problem(message, "name the prefix that it depends on"),
            );
        }
        if rules.iter().any(|rule| rule.prefix == prefix) {
            problems
                .error(location.problem(format!("{prefix} is originated already"), "remove one of the two"));
        }
        if cluster
            .pod_cidrs
            .iter()
            .any(|cidr| *cidr != prefix && cidr.contains(&prefix))
            && aggregate.is_none()
        {
            let message = format!("{prefix} lies in the pod CIDRs, whose blocks nodes announce");
            problems.warn(location.problem(
                message,
                "let the node announce its blocks (node.blocks), or use a prefix outside",
            ));
        }
        rules.push(OriginateRule {
            prefix,
            source: Source::Static,
            aggregate,
            kernel: kernel_route,
            when,
            communities: value.communities.clone(),
        });
    }
    (rules, kernel)
}
