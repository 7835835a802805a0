//! What the agent knows: asked over its socket.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use bgp_proto::types::Prefix;

use super::super::{ClientError, client, show};
use crate::explain::{AgentFacts, BlockFacts, ServiceFacts, Session, Watch};
use crate::network_policy::{ExplainQuestion, ExplanationStatus};
use crate::status::{
    BlockStatus, ClusterStatus, FibStatus, PeerStatus, Reply, Request, RouteQuestion, RouteStatus,
    ServicesStatus,
};

/// Peers that are asked about a block.
const PEERS: usize = 32;

/// What was asked once, for all pairs of addresses.
pub(super) struct Agent {
    run_dir: PathBuf,
    pub(super) facts: AgentFacts,
    pub(super) peers: Vec<PeerStatus>,
    cluster: ClusterStatus,
    services: ServicesStatus,
    fib: Vec<FibStatus>,
    blocks: Vec<BlockStatus>,
}

impl Agent {
    pub(super) fn ask(run_dir: &Path) -> Self {
        let mut agent = Self {
            run_dir: run_dir.to_owned(),
            facts: AgentFacts::default(),
            peers: Vec::new(),
            cluster: ClusterStatus::default(),
            services: ServicesStatus::default(),
            fib: Vec::new(),
            blocks: Vec::new(),
        };
        if let Err(error) = agent.fill() {
            agent.facts.error = Some(error.to_string());
        }
        agent
    }

    fn fill(&mut self) -> Result<(), ClientError> {
        let ask = |request| client::ask(&self.run_dir, &request);
        let replies = [
            ask(Request::Peers)?,
            ask(Request::Cluster)?,
            ask(Request::Services)?,
            ask(Request::Fib)?,
            ask(Request::Blocks)?,
        ];
        for reply in replies {
            match reply {
                Reply::Peers(peers) => self.peers = peers,
                Reply::Cluster(cluster) => self.cluster = cluster,
                Reply::Services(services) => self.services = services,
                Reply::Fib(routes) => self.fib = routes,
                Reply::Blocks(blocks) => self.blocks = blocks,
                _ => return Err(ClientError::Unexpected),
            }
        }
        self.facts.drained.clone_from(&self.cluster.drained);
        self.facts.sessions = self.peers.iter().map(session).collect();
        let silent = self.cluster.watches.iter().filter(|watch| !watch.answers);
        self.facts.watches = silent
            .map(|watch| Watch {
                resource: watch.resource.clone(),
                since_seconds: watch.since_seconds,
                error: watch.last_error.clone(),
            })
            .collect();
        Ok(())
    }

    pub(super) fn node(&self) -> Option<&str> {
        Some(self.cluster.node.as_str()).filter(|name| !name.is_empty())
    }

    /// The longest match of the RIB.
    pub(super) fn route(&self, address: IpAddr) -> Option<RouteStatus> {
        let question = RouteQuestion {
            longest_match: Some(address),
            ..RouteQuestion::default()
        };
        self.routes(question).into_iter().next()
    }

    /// The kernel route that the agent wants for a prefix.
    pub(super) fn fib(&self, prefix: &str) -> Option<FibStatus> {
        self.fib.iter().find(|route| route.prefix == prefix).cloned()
    }

    /// The block of this node that an address is in, and who is sent it.
    pub(super) fn block(&self, address: IpAddr) -> Option<BlockFacts> {
        let contains = |block: &&BlockStatus| {
            let prefix = block.prefix.parse::<Prefix>();
            prefix.is_ok_and(|prefix| prefix.contains_addr(address))
        };
        let block = self.blocks.iter().find(contains)?;
        let up = self.peers.iter().filter(|peer| peer.uptime_seconds.is_some());
        // A session that does not carry the family has nothing to do with the block.
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let up = up.filter(|peer| peer.families.iter().any(|known| known == family));
        let peers = up
            .take(PEERS)
            .map(|peer| (peer.name.clone(), self.withheld(&block.prefix, &peer.name)));
        Some(BlockFacts {
            prefix: block.prefix.clone(),
            state: block.state.clone(),
            peers: peers.collect(),
        })
    }

    /// Why a peer is not sent a prefix; none: it is sent.
    fn withheld(&self, prefix: &str, peer: &str) -> Option<String> {
        let question = RouteQuestion {
            within: Some(prefix.to_owned()),
            to: Some(peer.to_owned()),
            ..RouteQuestion::default()
        };
        let routes = self.routes(question);
        let route = routes.into_iter().find(|route| route.prefix == prefix);
        match route.and_then(|route| route.export) {
            Some(export) if export.sent.is_some() => None,
            Some(export) => Some(export.withheld.unwrap_or_else(|| "not sent".to_owned())),
            None => Some("it is not originated".to_owned()),
        }
    }

    fn routes(&self, question: RouteQuestion) -> Vec<RouteStatus> {
        if self.facts.error.is_some() {
            return Vec::new();
        }
        match client::ask(&self.run_dir, &Request::Routes(question)) {
            Ok(Reply::Routes(routes)) => routes,
            _ => Vec::new(),
        }
    }

    pub(super) fn service(&self, name: &str, address: IpAddr) -> Option<ServiceFacts> {
        let service = self.services.services.iter().find(|service| service.name == name);
        let known = service.and_then(|service| service.addresses.iter().find(|one| one.address == address));
        // Of a subject with another address of the Service: no.
        let text = address.to_string();
        let is_about = |subject: &str| {
            let mut words = subject.split(|c: char| c.is_whitespace() || c == ',');
            words.any(|word| word == text) || subject.ends_with(name)
        };
        let rejected = self
            .cluster
            .rejected
            .iter()
            .find(|rejected| is_about(&rejected.subject));
        let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
        let has = |families: &[String]| families.iter().any(|known| known == family);
        Some(ServiceFacts {
            name: name.to_owned(),
            announced: known.and_then(|known| known.announced.clone()),
            not_announced: known.and_then(|known| known.not_announced.clone()),
            rejected: rejected.map(|rejected| format!("{}: {}", rejected.subject, rejected.reason)),
            has_endpoint_here: has(&service?.endpoints_here),
            has_endpoint: has(&service?.endpoints_anywhere),
        })
    }

    /// What network policies say; an error where they are not enforced.
    pub(super) fn policies(
        &self,
        source: &str,
        destination: &str,
        port: &str,
    ) -> Result<Vec<ExplanationStatus>, ClientError> {
        let question = ExplainQuestion {
            source: source.to_owned(),
            destination: destination.to_owned(),
            port: port.to_owned(),
        };
        match client::ask(&self.run_dir, &Request::ExplainPolicies(question))? {
            Reply::Explanations(all) => Ok(all),
            _ => Err(ClientError::Unexpected),
        }
    }
}

fn session(peer: &PeerStatus) -> Session {
    Session {
        peer: peer.name.clone(),
        is_up: peer.uptime_seconds.is_some(),
        is_enabled: peer.enabled,
        cause: show::trouble(peer),
    }
}
