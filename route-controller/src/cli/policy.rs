//! `podroute policy test`: the outcome of a peer's policy for given routes, rule by rule, without an agent.

mod cases;
mod report;
mod route;

use std::path::{Path, PathBuf};

use bgp_proto::engine::{Trial, TrialSession, neighbor, try_export, try_import};
use bgp_proto::export::rules::Learned;
use bgp_proto::policy::{Neighbor, Route, Source};
use bgp_proto::types::RouterId;
use bgp_proto::wire::PathAttrs;
use podroute_config::{Config, Peer};

use self::route::{RouteError, TestRoute};
use super::CliError;
use crate::agent;

#[derive(Debug, clap::Subcommand)]
pub(super) enum PolicyCommand {
    /// Test routes against a peer's policy: which rules match, what changes, and the outcome.
    Test(Question),
}

/// Why a route cannot be tried, or a case fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyTestError {
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error("peer '{peer}' is not for this node: {reason}; use --node")]
    OtherNode { peer: String, reason: String },
    #[error("no peer is named '{name}'; there are: {}", known.join(", "))]
    NoPeer { name: String, known: Vec<String> },
    #[error("no identifier")]
    NoRouterId,
    #[error("{}: {source}", file.display())]
    ReadCases { file: PathBuf, source: std::io::Error },
    #[error("{}: {source}", file.display())]
    ParseCases {
        file: PathBuf,
        source: serde_yaml::Error,
    },
    /// What differs, and the report.
    #[error("{}\n{report}", differences.join("; "))]
    Differs {
        differences: Vec<String>,
        report: String,
    },
    /// A line for each case that fails.
    #[error("{}\n{} of {all} cases fail", failed.join("\n"), failed.len())]
    CasesFail { failed: Vec<String>, all: usize },
}

/// Arguments of the command.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Question {
    /// Configuration file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Name of the peer whose policy is tested.
    #[arg(long, value_name = "PEER", required_unless_present = "cases")]
    peer: Option<String>,
    /// Test the import policy: routes received from the peer.
    #[arg(long, conflicts_with_all = ["export", "cases"], required_unless_present_any = ["export", "cases"])]
    import: bool,
    /// Test the export policy: routes advertised to the peer.
    #[arg(long, conflicts_with = "cases")]
    export: bool,
    /// File of cases with expected outcomes; the exit status is 1 unless all match.
    #[arg(long, value_name = "FILE", conflicts_with = "routes")]
    cases: Option<PathBuf>,
    /// Test as the node of this name.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Prefix and attributes: '10.1.0.0/16 asPath=65001,65009 communities=64512:1,no-export med=10'. Also
    /// largeCommunities, extCommunities, localPreference, origin, nextHop; in exports source=podBlock or from=PEER.
    #[arg(value_name = "ROUTE", required_unless_present = "cases")]
    routes: Vec<String>,
}

/// Direction of a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
enum Direction {
    Import,
    Export,
}

pub(super) fn run(command: &PolicyCommand) -> Result<(), CliError> {
    let PolicyCommand::Test(question) = command;
    let config = load(&question.file, question.node.as_deref())?;
    if let Some(cases) = &question.cases {
        return Ok(cases::run(&config, cases)?);
    }
    let direction = if question.export {
        Direction::Export
    } else {
        Direction::Import
    };
    let name = question.peer.as_deref().unwrap_or_default();
    for (index, text) in question.routes.iter().enumerate() {
        let route: TestRoute = text.parse().map_err(PolicyTestError::from)?;
        if index > 0 {
            println!();
        }
        print!("{}", tried(&config, name, direction, &route, report::text)?);
    }
    Ok(())
}

fn load(file: &Path, node: Option<&str>) -> Result<Config, CliError> {
    let text = std::fs::read_to_string(file).map_err(CliError::file(file.display()))?;
    let facts = agent::facts_for(agent::own_facts(None), &text);
    let loaded = match node {
        Some(name) => podroute_config::load_as(&text, &facts, name),
        None => podroute_config::load_for(&text, &facts),
    };
    loaded.map_err(|errors| CliError::Config(errors.in_file(&file.display().to_string())))
}

/// Tries a route, and gives what this makes of the outcome.
fn tried<T>(
    config: &Config,
    peer: &str,
    direction: Direction,
    route: &TestRoute,
    then: impl FnOnce(&Tried<'_>) -> T,
) -> Result<T, PolicyTestError> {
    let peer = find(config, peer)?;
    let attrs = route.attrs(peer, direction)?;
    let trial = match direction {
        Direction::Import => try_import(&peer.routing, peer.remote.address(), route.prefix, &attrs),
        Direction::Export => {
            let (source, learned, from) = origin(config, route)?;
            let asked = Route {
                prefix: route.prefix,
                attrs: &attrs,
                source,
                from,
            };
            try_export(&peer.routing, session(config), asked, learned)
        }
    };
    Ok(then(&Tried {
        peer,
        direction,
        route,
        attrs: &attrs,
        trial: &trial,
    }))
}

/// A route that was tried.
struct Tried<'a> {
    peer: &'a Peer,
    direction: Direction,
    route: &'a TestRoute,
    /// Before.
    attrs: &'a PathAttrs,
    trial: &'a Trial<'a>,
}

impl Tried<'_> {
    fn policy(&self) -> &bgp_proto::policy::Policy {
        match self.direction {
            Direction::Import => &self.peer.routing.import,
            Direction::Export => &self.peer.routing.export,
        }
    }
}

fn find<'a>(config: &'a Config, name: &str) -> Result<&'a Peer, PolicyTestError> {
    config.peers.iter().find(|peer| peer.name == name).ok_or_else(|| {
        if let Some(skipped) = config.skipped.iter().find(|skipped| skipped.name == name) {
            return PolicyTestError::OtherNode {
                peer: name.to_owned(),
                reason: skipped.reason.clone(),
            };
        }
        PolicyTestError::NoPeer {
            name: name.to_owned(),
            known: config.peers.iter().map(|peer| peer.name.clone()).collect(),
        }
    })
}

/// Where a route that is sent comes from.
fn origin<'a>(
    config: &'a Config,
    route: &TestRoute,
) -> Result<(Source, Learned, Option<Neighbor<'a>>), PolicyTestError> {
    let Some(name) = &route.from else {
        let source = route.source.unwrap_or(Source::PodBlock);
        return Ok((source, Learned::Local(source), None));
    };
    let from = &find(config, name)?.routing;
    let learned = Learned::Peer(
        from.kind,
        RouterId::from_ipv4([192, 0, 2, 1].into()).ok_or(PolicyTestError::NoRouterId)?,
    );
    Ok((Source::Peer, learned, Some(neighbor(from))))
}

/// Addresses of documentation where the file names none (RFC 5737, RFC 3849).
fn session(config: &Config) -> TrialSession {
    let addresses = config.node.addresses.fixed().unwrap_or_default();
    let v4 = addresses.iter().find_map(|addr| match addr {
        std::net::IpAddr::V4(addr) => Some(*addr),
        std::net::IpAddr::V6(_) => None,
    });
    let v6 = addresses.iter().find_map(|addr| match addr {
        std::net::IpAddr::V6(addr) => Some(*addr),
        std::net::IpAddr::V4(_) => None,
    });
    TrialSession {
        own_asn: config.node.asn,
        cluster_id: config.cluster.cluster_id.unwrap_or(1),
        local_v4: v4.unwrap_or([192, 0, 2, 1].into()),
        local_v6: v6.unwrap_or(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
    }
}
