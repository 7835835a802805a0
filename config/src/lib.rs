//! The YAML configuration of podroute: read into a typed model, with all errors at once.
//!
//! [`load`] has three stages. `yaml` parses text into a tree with line and column of every value; only this module uses
//! the YAML crate. `schema` defines the fields and reads each into its type (`decode` walks the tree, `value` parses
//! scalars). `validate` checks what depends on several fields, and returns the [`Config`]. `explain` describes a [`Config`].
//!
//! Nothing here does IO: no file, clock, socket or kernel. `auto` stays `auto` until the agent resolves it. Unknown fields
//! are errors; every accepted field has an effect. Nothing here panics on any input.
//!
//! ```
//! let yaml = "
//! apiVersion: podroute/v1
//! cluster: {asn: 64512, podCIDRs: [10.244.0.0/16]}
//! node: {name: node-1, blocks: [10.244.1.0/24]}
//! peers:
//! - {name: tor-a, address: 192.0.2.1, asn: 65001, import: all, export: all}
//! policies: {all: accept}
//! ";
//! let config = podroute_config::load(yaml).unwrap();
//! assert_eq!(config.peers[0].remote_asn, bgp_proto::types::Asn(65001).into());
//!
//! let errors = podroute_config::load(&yaml.replace("65001", "0")).unwrap_err();
//! assert_eq!(errors.problems()[0].path, "peers[0].asn");
//! assert_eq!(errors.problems()[0].line, 6);
//! ```
#![forbid(unsafe_code)]

mod annotations;
mod decode;
mod explain;
mod facts;
mod json_schema;
mod list_file;
mod locate;
mod model;
mod problem;
mod schema;
mod suggest;
mod validate;
mod value;
mod yaml;

pub use json_schema::json_schema;
pub use locate::locate;
pub use model::*;
pub use problem::{Errors, Problem};
pub use schema::{SECTIONS, Section};

/// Reads and checks a configuration.
///
/// # Errors
/// All errors in the order of the text, each with path, line, column and remedy. A syntax error is reported alone, because
/// nothing after it can be read.
pub fn load(text: &str) -> Result<Config, Errors> {
    load_for(text, &NodeFacts::default())
}

/// Like [`load_for`], for the node of this name, whatever `node.name` says.
///
/// # Errors
/// As [`load`].
pub fn load_as(text: &str, facts: &NodeFacts, name: &str) -> Result<Config, Errors> {
    let facts = NodeFacts {
        name: Some(name.to_owned()),
        name_wins: true,
        ..facts.clone()
    };
    load_for(text, &facts)
}

/// Like [`load`], with facts about the node; the file takes precedence over facts. An annotation of the node that
/// cannot be used is rejected alone ([`Config::rejected`]).
///
/// # Errors
/// As [`load`].
pub fn load_for(text: &str, facts: &NodeFacts) -> Result<Config, Errors> {
    let first = load_once(text, facts);
    let Err(errors) = first else { return first };
    let annotated = |fact: &NodeFact| fact.asn.is_some() || fact.peers.is_some();
    let annotates = |known: &ClusterFacts| known.nodes.values().any(annotated);
    if !facts.cluster.as_ref().is_some_and(annotates) {
        return Err(errors);
    }
    // Find the annotations that cause the errors.
    let only = |asn: bool, peers: bool| {
        let mut facts = facts.clone();
        for fact in facts
            .cluster
            .iter_mut()
            .flat_map(|known| known.nodes.values_mut())
        {
            fact.asn = fact.asn.take().filter(|_| asn);
            fact.peers = fact.peers.take().filter(|_| peers);
        }
        load_once(text, &facts)
    };
    let mut config = only(false, false)?;
    let (asn, peers) = (only(true, false), only(false, true));
    let rejected = [(&asn, ASN_ANNOTATION), (&peers, PEERS_ANNOTATION)].map(|(tried, name)| {
        let errors = tried.as_ref().err()?;
        Some(Rejected {
            subject: format!("annotation {name}"),
            reason: errors.to_string().replace('\n', "; "),
        })
    });
    config = match (asn, peers) {
        (Ok(config), Err(_)) | (Err(_), Ok(config)) => config,
        // Each is valid alone, but not both together.
        (Ok(mut config), Ok(_)) => {
            config.rejected.push(Rejected {
                subject: format!("annotation {PEERS_ANNOTATION}"),
                reason: errors.to_string().replace('\n', "; "),
            });
            config
                .unready
                .push(format!("annotation {PEERS_ANNOTATION}: {errors}"));
            config
        }
        (Err(_), Err(_)) => config,
    };
    for rejected in rejected.into_iter().flatten() {
        config.unready.push(rejected.to_string());
        config.rejected.push(rejected);
    }
    Ok(config)
}

/// The files of lists that a configuration names, for [`NodeFacts::list_files`]. None where the text cannot be read.
#[must_use]
pub fn list_files(text: &str) -> std::collections::BTreeSet<std::path::PathBuf> {
    let problems = problem::Problems::default();
    let root = yaml::parse(text).ok();
    root.map(|root| schema::files_of_lists(&root, &problems))
        .unwrap_or_default()
}

fn load_once(text: &str, facts: &NodeFacts) -> Result<Config, Errors> {
    let problems = problem::Problems::of(SECTIONS.iter().map(|section| (section.name, section.fields)));
    let config = yaml::parse(text)
        .map_err(|problem| problems.error(problem))
        .ok()
        .and_then(|root| schema::read(&root, &problems))
        .map(|mut document| {
            if facts.name_wins {
                document.node.name = None;
            }
            document
        })
        .map(|document| annotations::apply(document, facts, &problems))
        .and_then(|document| validate::validate(document, facts, &problems));
    problems.finish(config)
}
