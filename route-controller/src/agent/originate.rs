//! What this node originates under conditions: routes of the section `originate`, and of the kernel.

use std::collections::BTreeSet;

use bgp_proto::engine::OriginateRule;
use bgp_proto::policy::Source;
use bgp_proto::types::Prefix;
use bgp_proto::wire::KernelRoute;
use podroute_config::KernelRoutes;
use tokio::sync::oneshot;

use super::Agent;
use crate::fib::task::ToFib;
use crate::fib::{Fib, ForeignRoute, Mirror};

impl Agent {
    /// The rules as the configuration and the kernel's routes are now: none, once the node is drained.
    pub(super) async fn originate_rules(&self) -> Vec<OriginateRule> {
        if self.drain.withdraw {
            return Vec::new();
        }
        let mut rules = self.config.originate.clone();
        // A prefix in the configuration itself takes precedence.
        let mut known: BTreeSet<Prefix> = rules.iter().map(|rule| rule.prefix).collect();
        for (wanted, prefixes) in self.kernel_routes().await {
            for prefix in prefixes {
                if !known.insert(prefix) {
                    continue;
                }
                rules.push(OriginateRule {
                    prefix,
                    source: Source::Kernel,
                    aggregate: None,
                    kernel: KernelRoute::default(),
                    when: wanted.when,
                    communities: wanted.communities.clone(),
                });
            }
        }
        rules
    }

    async fn kernel_routes(&self) -> Vec<(KernelRoutes, Vec<Prefix>)> {
        let wanted = self.config.kernel_routes.clone();
        if wanted.is_empty() {
            return Vec::new();
        }
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |fib: &Fib| {
            let found = wanted.into_iter().map(|wanted| {
                let prefixes = matching(&fib.mirror, &wanted);
                (wanted, prefixes)
            });
            let _ = reply.send(found.collect()); // whoever asked may have gone
        });
        self.to_fib(ToFib::Query(query)).await;
        answer.await.unwrap_or_default()
    }

    /// Others' routes in the kernel may have changed.
    pub(super) async fn check_kernel_routes(&mut self) {
        if self.config.kernel_routes.is_empty() {
            return;
        }
        let rules = self.originate_rules().await;
        if let Err(error) = self.speaker.originate_by_rules(rules).await {
            tracing::error!(
                event = "kernel_routes_not_announced",
                %error,
                "the kernel's routes are not announced"
            );
        }
    }
}

/// Prefixes of others' routes that fit, in order.
fn matching(mirror: &Mirror, wanted: &KernelRoutes) -> Vec<Prefix> {
    let name = |ifindex: &u32| mirror.links.get(ifindex).map(|link| link.name.as_str());
    let leads_there = |route: &ForeignRoute| {
        let mut names = route.hops.iter().filter_map(|hop| name(&hop.ifindex));
        wanted.interfaces.is_empty()
            || names.any(|name| wanted.interfaces.iter().any(|wanted| wanted == name))
    };
    let fits = |route: &ForeignRoute| {
        (wanted.protocols.is_empty() || wanted.protocols.contains(&route.protocol))
            && (wanted.tables.is_empty() || wanted.tables.contains(&route.table))
            && leads_there(route)
    };
    let mut prefixes: Vec<Prefix> = mirror
        .foreign_routes()
        .filter(|(prefix, route)| fits(route) && is_announced(prefix))
        .map(|(prefix, _)| prefix)
        .collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes
}

/// Not what is for the host alone: loopback, link-local, multicast (RFC 6890).
fn is_announced(prefix: &Prefix) -> bool {
    let addr = prefix.addr();
    let link_local = match addr {
        std::net::IpAddr::V4(addr) => addr.is_link_local(),
        std::net::IpAddr::V6(addr) => addr.is_unicast_link_local(),
    };
    !(addr.is_loopback() || addr.is_multicast() || link_local)
}
