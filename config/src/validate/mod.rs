//! Checks that depend on several fields, and defaults: from the schema's types to the model.
//!
//! The whole file is checked, also what is for other nodes: `podroute check` on one node then speaks
//! for all. A field that could not be read has been reported and counts as absent here, so that one
//! mistake is one error.

mod advice;
mod bfd;
mod cluster;
mod cni;
mod directions;
mod limits;
mod node;
mod originate;
mod peer_as;
mod peers;
mod policies;
mod pools;
mod services;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::model::{self, BmpStation, Config, NetworkPolicy, NodeFacts, Running};
use crate::problem::Problems;
use crate::schema::{Bmp, BmpRoutes, Document, Metrics, Web};

/// The port of GoBGP's and most other stations; IANA assigned none.
const BMP_PORT: u16 = 11019;
/// How long CNI ADD waits for the rules of a pod.
const POLICY_WAIT: Duration = Duration::from_secs(1);
/// Between statistics reports.
const BMP_STATISTICS: Duration = Duration::from_secs(60);

pub(crate) fn validate(document: Document, facts: &NodeFacts, problems: &Problems) -> Option<Config> {
    let mut deferred = Deferred {
        running: facts.running.as_ref(),
        fields: Vec::new(),
    };
    let asn = node::asn(&document, problems);
    let asn = asn.map(|asn| deferred.keep("cluster.asn, node.asn", asn, |running| &running.asn));
    let mut cluster = node::cluster(&document.cluster, problems);
    cluster.cluster_id = deferred.keep("cluster.clusterId", cluster.cluster_id, |running| {
        &running.cluster_id
    });
    node::blocks(&document, &cluster, problems);
    services::aggregates(&document.services, &cluster, problems);
    services::ranges(&document, &cluster, problems);
    let policies = policies::Policies::new(&document, facts, problems);
    let mesh = cluster::mesh(&document.mesh, document.node.asn.is_some(), problems);
    let mut node = node::node(&document.node, facts, &cluster, problems);
    let own = facts.cluster.as_ref().zip(node.name.as_ref());
    let own = own.and_then(|(known, name)| known.nodes.get(name));
    let blocks = cluster::blocks(&document, &cluster, own, problems);
    if let Some(known) = &facts.cluster {
        cluster::look_at_node(&document, node.name.as_ref(), known, &blocks, problems);
    }
    node.learn(blocks, own);
    let listen = node::listen(&document.listen, problems);
    let mut fib = node::fib(&document.fib, problems);
    fib.install = deferred.keep("fib.install", fib.install, |running| &running.fib.install);
    fib.table = deferred.keep("fib.table", fib.table, |running| &running.fib.table);
    fib.resolve_via_default = deferred.keep("fib.resolveViaDefault", fib.resolve_via_default, |running| {
        &running.fib.resolve_via_default
    });
    let context = peers::Context {
        asn,
        node: &node,
        listen: &listen,
        policies: &policies,
        problems,
    };
    let (peers, skipped) = peers::peers(&document.peers, &context);
    let import = document.mesh.import.as_ref();
    let import = import.zip(asn).and_then(|(names, asn)| {
        let anyone = policies::PeerFacts {
            name: "",
            asn,
            external: document.node.asn.is_some(),
        };
        policies.find(names, anyone, policies::Direction::Import, problems)
    });
    policies.warn_unused(problems);
    pools::check(&document, &cluster, &node.addresses, problems);
    let guard = services::guard(&document, facts, &node, &cluster);
    let services = services::services(&document.services, facts, &guard, &node, problems);
    let advice = advice::Advice {
        document: &document,
        asn,
        cluster: &cluster,
        policies: &policies,
        peers: &peers,
        problems,
    };
    advice.give();
    let (originate, kernel_routes) = originate::originate(&document.originate, &cluster, &fib, problems);
    let mut peers = peers;
    if let Some(asn) = asn {
        let inputs = cluster::MeshInputs {
            written: &document.mesh,
            mesh: &mesh,
            node: &node,
            asn,
            import,
            blocks_known: document.node.blocks_of_cluster.is_some(),
            pod_cidrs: &cluster.pod_cidrs,
            services: &services.ranges,
        };
        let others = inputs.peers(facts, &peers, problems);
        peers.extend(others);
    }
    Some(Config {
        mesh,
        services,
        network_policy: network_policy(&document, problems),
        originate,
        kernel_routes,
        cni: cni::cni(&document.cni, &cluster, &node, problems),
        rejected: Vec::new(),
        unready: Vec::new(),
        deferred: deferred.fields,
        from_kubernetes: cluster::wanted(&document),
        cluster,
        node: node.with_asn(asn?),
        listen,
        fib,
        peers,
        skipped,
        bmp: document.bmp.iter().filter_map(station).collect(),
        next_hops: bfd::next_hops(&document.next_hops, problems),
        metrics: document.metrics.as_ref().map(metrics).unwrap_or_default(),
        web: document.web.as_ref().and_then(web),
        shutdown: document.shutdown.map(|at| at.value).unwrap_or_default(),
        warnings: Vec::new(),
    })
}

/// What a running agent cannot change stays; the rest of the file applies.
struct Deferred<'a> {
    running: Option<&'a Running>,
    fields: Vec<&'static str>,
}

impl Deferred<'_> {
    fn keep<T: Clone + PartialEq>(&mut self, field: &'static str, new: T, of: impl Fn(&Running) -> &T) -> T {
        match self.running.map(of) {
            Some(old) if *old != new => {
                self.fields.push(field);
                old.clone()
            }
            _ => new,
        }
    }
}

fn network_policy(document: &Document, problems: &Problems) -> NetworkPolicy {
    let written = &document.network_policy;
    let wait = document.cni.policy_wait.as_ref();
    if written.is_enforced.as_ref().is_none_or(|mode| !mode.value) {
        if let Some(wait) = wait {
            problems.warn(wait.location.problem(
                "nothing is waited for without policy.mode: kubernetes",
                "remove it, or enforce network policies",
            ));
        }
        return NetworkPolicy::Off;
    }
    NetworkPolicy::Kubernetes {
        ends_established: written.ends_established.as_ref().is_none_or(|ends| ends.value),
        wait: wait.map_or(POLICY_WAIT, |wait| wait.value),
    }
}

/// On the loopback address only: it has no TLS.
fn web(written: &Web) -> Option<SocketAddr> {
    let port = written.port.as_ref()?;
    Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.value))
}

fn metrics(written: &Metrics) -> model::Metrics {
    let Some(port) = &written.port else {
        return model::Metrics::default();
    };
    let given = written.addresses.iter().map(|at| at.value);
    let here = written
        .addresses
        .is_empty()
        .then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let sockets = given
        .chain(here)
        .map(|addr| SocketAddr::new(addr, port.value))
        .collect();
    model::Metrics {
        sockets,
        per_peer: written.per_peer.as_ref().map(|at| at.value).unwrap_or_default(),
    }
}

fn station(written: &Bmp) -> Option<BmpStation> {
    let hears = |view| match &written.routes {
        Some(views) => views.iter().any(|at| at.value == view),
        None => true,
    };
    let port = written.port.as_ref().map_or(BMP_PORT, |port| port.value);
    Some(BmpStation {
        station: SocketAddr::new(written.address.as_ref()?.value, port),
        pre_policy: hears(BmpRoutes::PrePolicy),
        post_policy: hears(BmpRoutes::PostPolicy),
        statistics: written
            .statistics
            .as_ref()
            .map_or(BMP_STATISTICS, |time| time.value),
    })
}
