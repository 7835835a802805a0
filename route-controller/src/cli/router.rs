//! The router's side: `podroute router-config` prints it, `podroute check --against` compares a router's configuration with it.

use std::path::PathBuf;

use bgp_proto::types::{Prefix, PrefixError};
use podroute_config::{ClusterFacts, Config};
use podroute_router::{DeriveError, Finding, Format, Options, ReadError, SelectError, Severity, Side};
use serde_json::json;

use super::{CliError, RunDir, read_input};
use crate::{agent, cluster};

/// Why a router's side cannot be printed or compared.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RouterError {
    #[error("{file}: {source}")]
    Derive { file: String, source: DeriveError },
    #[error("{file}: {source}")]
    Read { file: String, source: ReadError },
    #[error("{file}: {source}")]
    Select { file: String, source: SelectError },
    #[error(
        "{file}: this node has sessions with several routers: {}; name the peers of one with --peer",
        routers.join("; ")
    )]
    SeveralRouters { file: String, routers: Vec<String> },
    #[error(
        "{0}: this is in no language that can be read (eos, junos, nxos, ios-xe, frr, bird, sonic); name it with --format"
    )]
    UnknownFormat(String),
    #[error("--against needs a file with one configuration")]
    SeveralConfigs,
    #[error("the router's configuration does not agree with this one")]
    Disagrees,
}

/// What the configuration does not say of nodes.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Nodes {
    /// Where nodes are, as the router sees them: a subnet, or addresses.
    #[arg(long, value_name = "PREFIX,…", value_delimiter = ',', value_parser = place)]
    nodes: Vec<Prefix>,
    /// Each node has an AS of its own.
    #[arg(long)]
    any_as: bool,
    /// These peers are the router; without it, the router is found by its AS.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    peer: Vec<String>,
}

/// The arguments of `podroute router-config`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct RouterConfig {
    /// The configuration; `-` is standard input.
    #[arg(value_name = "FILE", default_value = "/etc/podroute/podroute.yaml")]
    file: PathBuf,
    /// The router's language.
    #[arg(long = "for", value_name = "FORMAT", value_parser = format)]
    language: Format,
    /// As the node of this name.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    nodes: Nodes,
    /// Most prefixes per family that the router accepts of a node.
    #[arg(long, value_name = "NUMBER", default_value_t = Options::default().max_prefixes)]
    max_prefixes: u32,
    /// Most nodes of a subnet.
    #[arg(long, value_name = "NUMBER", default_value_t = Options::default().limit)]
    max_nodes: u32,
    #[command(flatten)]
    run_dir: RunDir,
}

/// The arguments of `podroute check` about a router.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Against {
    /// A router's configuration, which must agree with this one.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Its language; without it, found by its statements.
    #[arg(long, value_name = "FORMAT", value_parser = format, requires = "against")]
    format: Option<Format>,
    #[command(flatten)]
    nodes: Nodes,
}

impl Against {
    /// Whether a router's configuration was named.
    pub(super) fn is_asked(&self) -> bool {
        self.against.is_some()
    }
}

fn format(text: &str) -> Result<Format, podroute_router::UnknownFormat> {
    text.parse()
}

/// An address is a prefix of one host.
fn place(text: &str) -> Result<Prefix, PrefixError> {
    let address = text.parse().map(Prefix::host);
    address.or_else(|_| text.parse::<Prefix>())
}

/// Prints the router's side.
pub(super) fn router_config(asked: &RouterConfig) -> Result<(), CliError> {
    let (name, text) = read_input(&asked.file)?;
    let known = cluster::cache::read(&asked.run_dir.run_dir);
    let facts = agent::facts_for(agent::own_facts(known.clone()), &text);
    let config = match &asked.node {
        Some(node) => podroute_config::load_as(&text, &facts, node),
        None => podroute_config::load_for(&text, &facts),
    }
    .map_err(|errors| CliError::Config(errors.in_file(&name).to_string()))?;
    let options = Options {
        max_prefixes: asked.max_prefixes,
        limit: asked.max_nodes,
        ..options(&asked.nodes)
    };
    let sides = podroute_router::sides(&config, known.as_ref(), &options);
    let sides = sides.map_err(|source| RouterError::Derive {
        file: name.clone(),
        source,
    })?;
    match sides.as_slice() {
        [side] => {
            print!("{}", podroute_router::print(asked.language, side));
            Ok(())
        }
        several => Err(CliError::from(RouterError::SeveralRouters {
            file: name,
            routers: several.iter().map(podroute_router::names).collect(),
        })),
    }
}

fn options(nodes: &Nodes) -> Options {
    Options {
        peers: nodes.peer.clone(),
        nodes: nodes.nodes.clone(),
        any_as: nodes.any_as,
        ..Options::default()
    }
}

/// A comparison with a router's configuration.
pub(super) struct Comparison {
    /// The router's file.
    file: String,
    /// The file of podroute, and its text.
    own: (String, String),
    /// The peers that are the router.
    pub(super) peers: String,
    findings: Vec<Finding>,
    /// What could not be compared.
    note: Option<String>,
}

/// Compares with the router's configuration.
pub(super) fn compare(
    asked: &Against,
    own: (&str, &str),
    config: &Config,
    known: Option<&ClusterFacts>,
) -> Result<Comparison, CliError> {
    let file = asked.against.clone().unwrap_or_default();
    let (file, text) = read_input(&file)?;
    let format = asked.format.or_else(|| podroute_router::detect(&text));
    let format = format.ok_or_else(|| RouterError::UnknownFormat(file.clone()))?;
    let router = podroute_router::read(format, &text).map_err(|source| RouterError::Read {
        file: file.clone(),
        source,
    })?;
    let sides = podroute_router::sides(config, known, &options(&asked.nodes));
    let sides = sides.map_err(|source| RouterError::Derive {
        file: own.0.to_owned(),
        source,
    })?;
    let side = podroute_router::select(&sides, &router).map_err(|source| RouterError::Select {
        file: file.clone(),
        source,
    })?;
    Ok(Comparison {
        findings: podroute_router::compare(side, &router),
        peers: podroute_router::names(side),
        note: note(side),
        file,
        own: (own.0.to_owned(), own.1.to_owned()),
    })
}

fn note(side: &Side) -> Option<String> {
    let unknown = side.groups.iter().any(|group| group.members.is_empty());
    unknown.then(|| "addresses of nodes are not known and not compared; name them with --nodes".to_owned())
}

impl Comparison {
    /// Whether both sides agree; warnings count if `strict`.
    pub(super) fn is_good(&self, strict: bool) -> bool {
        let counts = |finding: &Finding| strict || finding.severity == Severity::Error;
        !self.findings.iter().any(counts)
    }

    /// The path in podroute.yaml, and its line.
    fn place(&self, finding: &Finding) -> (String, Option<usize>) {
        let text = &self.own.1;
        match finding.field.strip_prefix('/') {
            Some(path) => (path.to_owned(), podroute_config::locate(text, None, path)),
            None => {
                let dot = if finding.field.is_empty() { "" } else { "." };
                let path = format!("peers '{}'{dot}{}", finding.peer, finding.field);
                (
                    path,
                    podroute_config::locate(text, Some(&finding.peer), finding.field),
                )
            }
        }
    }

    /// A line for each finding, and one that says that there is none.
    pub(super) fn text(&self) -> Vec<String> {
        let line = |line: Option<usize>| line.map(|line| format!(":{line}")).unwrap_or_default();
        let mut lines: Vec<String> = Vec::new();
        for finding in &self.findings {
            let kind = match finding.severity {
                Severity::Error => "",
                Severity::Warning => " warning:",
            };
            let (path, own) = self.place(finding);
            lines.push(format!(
                "{}{}:{kind} {}; {} ({}{}: {path})",
                self.file,
                line(finding.router_line),
                finding.message,
                finding.remedy,
                self.own.0,
                line(own),
            ));
        }
        if self.findings.is_empty() {
            lines.push(format!("{}: agrees with {}", self.file, self.peers));
        }
        lines.extend(
            self.note
                .iter()
                .map(|note| format!("{}: note: {note}", self.file)),
        );
        lines
    }

    /// The same for programs.
    pub(super) fn json(&self) -> serde_json::Value {
        let finding = |finding: &Finding| {
            let (path, line) = self.place(finding);
            json!({
                "severity": if finding.severity == Severity::Error { "error" } else { "warning" },
                "aspect": finding.aspect.name(),
                "router": {"file": self.file, "line": finding.router_line},
                "podroute": {"file": self.own.0, "line": line, "path": path},
                "message": finding.message,
                "remedy": finding.remedy,
            })
        };
        let findings: Vec<_> = self.findings.iter().map(finding).collect();
        json!({ "file": self.file, "peers": self.peers, "findings": findings, "note": self.note })
    }
}
