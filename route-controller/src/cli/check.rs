//! `podroute check`: errors and warnings of a configuration, and what a node will run.

use std::collections::BTreeMap;
use std::path::PathBuf;

use podroute_config::{ClusterFacts, Config, NodeFacts, Problem};
use serde_json::json;

use super::router::{self, Comparison, RouterError};
use super::{CliError, Form, RunDir, for_programs, read_input};
use crate::count::count;
use crate::{agent, cluster};

/// Arguments of the command.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Question {
    /// Configuration file, or a ConfigMap manifest that contains it; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print what this node will run, and why.
    #[arg(long)]
    explain: bool,
    /// Check as the node of this name.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Check as a node with these labels, in addition to node.labels.
    #[arg(long, value_name = "KEY=VALUE,…", value_delimiter = ',', value_parser = label)]
    labels: Vec<(String, String)>,
    /// The agent's saved facts from Kubernetes, such as the node's labels, are there.
    #[command(flatten)]
    run_dir: RunDir,
    /// Treat warnings as errors.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    against: router::Against,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// A label that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not KEY=VALUE")]
struct NotALabel(String);

fn label(text: &str) -> Result<(String, String), NotALabel> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(NotALabel(text.to_owned())),
    }
}

/// A line of the answer.
struct Line {
    is_error: bool,
    file: String,
    problem: Problem,
}

impl Line {
    fn text(&self) -> String {
        let kind = if self.is_error { "" } else { " warning: " };
        format!("{}:{kind}{}", self.file, self.problem)
    }

    fn json(&self) -> serde_json::Value {
        let Problem {
            path,
            line,
            column,
            message,
            remedy,
        } = &self.problem;
        json!({
            "severity": if self.is_error { "error" } else { "warning" },
            "file": self.file, "path": path, "line": line, "column": column, "message": message, "remedy": remedy,
        })
    }
}

/// A configuration without errors.
struct Checked {
    file: String,
    text: String,
    config: Config,
}

pub(super) fn check(question: &Question) -> Result<(), CliError> {
    let (name, text) = read_input(&question.file)?;
    // Beside an agent: as that one sees its node.
    let known = cluster::cache::read(&question.run_dir.run_dir);
    let mut facts = agent::own_facts(known.clone());
    if let Some(name) = &question.node {
        facts.name = Some(name.clone());
    }
    facts.labels.extend(question.labels.iter().cloned());
    let documents = match manifest(&text) {
        Some(found) if found.is_empty() => {
            return Err(CliError::ConfigMap(name));
        }
        Some(found) => found
            .into_iter()
            .map(|(key, text)| (format!("{name} data[{key}]"), text))
            .collect(),
        None => vec![(name, text)],
    };
    let mut lines = Vec::new();
    let mut configs = Vec::new();
    for (file, text) in documents {
        let line = |is_error, problem: Problem| Line {
            is_error,
            file: file.clone(),
            problem,
        };
        let facts = agent::facts_for(facts.clone(), &text);
        match load(&text, &facts, question.node.as_deref()) {
            Ok(config) => {
                lines.extend(wrong_lists(&config).into_iter().map(|p| line(false, p)));
                lines.extend(config.warnings.iter().cloned().map(|p| line(false, p)));
                lines.extend(missing_files(&config).into_iter().map(|p| line(false, p)));
                configs.push(Checked { file, text, config });
            }
            Err(errors) => lines.extend(errors.problems().iter().cloned().map(|p| line(true, p))),
        }
    }
    let comparison = compare(question, &configs, known.as_ref())?;
    answer(question, &lines, &configs, comparison.as_ref())
}

/// With `--against`: how the configuration agrees with the router's.
fn compare(
    question: &Question,
    configs: &[Checked],
    known: Option<&ClusterFacts>,
) -> Result<Option<Comparison>, CliError> {
    match configs {
        _ if !question.against.is_asked() => Ok(None),
        // Its errors are the answer.
        [] => Ok(None),
        [one] => {
            let own = (one.file.as_str(), one.text.as_str());
            Ok(Some(router::compare(&question.against, own, &one.config, known)?))
        }
        _ => Err(RouterError::SeveralConfigs.into()),
    }
}

/// `--node` wins over the name in the file.
fn load(text: &str, facts: &NodeFacts, node: Option<&str>) -> Result<Config, podroute_config::Errors> {
    match node {
        Some(name) => podroute_config::load_as(text, facts, name),
        None => podroute_config::load_for(text, facts),
    }
}

fn answer(
    question: &Question,
    lines: &[Line],
    configs: &[Checked],
    comparison: Option<&Comparison>,
) -> Result<(), CliError> {
    let errors = lines.iter().filter(|line| line.is_error).count();
    let agrees = comparison.is_none_or(|comparison| comparison.is_good(question.strict));
    let is_good = errors == 0 && (lines.is_empty() || !question.strict) && agrees;
    if question.output != Form::Table {
        let problems: Vec<_> = lines.iter().map(Line::json).collect();
        let mut value = json!({ "good": is_good, "problems": problems });
        if let (Some(comparison), Some(value)) = (comparison, value.as_object_mut()) {
            value.insert("router".to_owned(), comparison.json());
        }
        println!("{}", for_programs(question.output, &value)?.trim_end());
        return match is_good {
            true => Ok(()),
            false if !agrees => Err(CliError::Router(RouterError::Disagrees)),
            false => Err(CliError::Config(summary(errors, lines))),
        };
    }
    for line in lines.iter().filter(|line| !line.is_error) {
        println!("{}", line.text());
    }
    if let Some(comparison) = comparison {
        comparison.text().iter().for_each(|line| println!("{line}"));
    }
    for Checked { file, config, .. } in configs {
        if question.explain {
            print!("{}", config.explain());
        } else if is_good && comparison.is_none() {
            let (peers, blocks) = (config.peers.len(), config.node.blocks.len());
            let from_cluster = if config.from_kubernetes.any() {
                "; blocks, nodes and Services come from Kubernetes: podroute show cluster"
            } else {
                ""
            };
            println!(
                "{file}: good: {}, {}{from_cluster}",
                count(peers, "peer"),
                count(blocks, "block")
            );
        }
    }
    if is_good {
        return Ok(());
    }
    let texts: Vec<String> = lines
        .iter()
        .filter(|line| line.is_error)
        .map(Line::text)
        .collect();
    if !agrees && texts.is_empty() {
        return Err(CliError::Router(RouterError::Disagrees));
    }
    Err(CliError::Config(if texts.is_empty() {
        summary(errors, lines)
    } else {
        texts.join("\n")
    }))
}

fn summary(errors: usize, lines: &[Line]) -> String {
    match errors {
        0 => format!("{}, and --strict", count(lines.len(), "warning")),
        errors => count(errors, "error"),
    }
}

/// The configurations in a manifest; `None` where this is none. The data of a ConfigMap, by key.
fn manifest(text: &str) -> Option<BTreeMap<String, String>> {
    let mut found = None;
    for document in serde_yaml::Deserializer::from_str(text) {
        let value = <serde_yaml::Value as serde::Deserialize>::deserialize(document).ok()?;
        if value.get("kind").and_then(|kind| kind.as_str()) != Some("ConfigMap") {
            continue;
        }
        let configs: &mut BTreeMap<String, String> = found.get_or_insert_default();
        let data = value.get("data").and_then(|data| data.as_mapping());
        for (key, text) in data.into_iter().flatten() {
            let (Some(key), Some(text)) = (key.as_str(), text.as_str()) else {
                continue;
            };
            if text.contains("podroute/v1") || key == "podroute.yaml" {
                configs.insert(key.to_owned(), text.to_owned());
            }
        }
    }
    found
}

/// Key files that cannot be read here; on another machine than the node that says little.
fn missing_files(config: &Config) -> Vec<Problem> {
    let of_peer = |peer: &podroute_config::Peer| {
        let file = peer.transport.password_file.as_ref()?;
        let error = std::fs::metadata(file).err()?;
        Some(Problem {
            path: format!("peers '{}'.password.file", peer.name),
            line: 1,
            column: 1,
            message: format!("{}: {error}", file.display()),
            remedy: "the session does not start before the file exists".to_owned(),
        })
    };
    config.peers.iter().filter_map(of_peer).collect()
}

/// Files of lists, or items of them, that cannot be read here.
fn wrong_lists(config: &Config) -> Vec<Problem> {
    let lists = config
        .rejected
        .iter()
        .filter(|one| one.subject.starts_with("list "));
    lists
        .map(|one| Problem {
            path: one.subject.replacen("list ", "lists.", 1),
            line: 1,
            column: 1,
            message: one.reason.clone(),
            remedy: String::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_map_is_looked_into() {
        let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: podroute}\ndata:\n  podroute.yaml: |\n    apiVersion: podroute/v1\n  other: x\n---\nkind: Namespace\n";
        let found = manifest(text).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found["podroute.yaml"], "apiVersion: podroute/v1\n");
        assert_eq!(manifest("apiVersion: podroute/v1\ncluster: {asn: 1}\n"), None);
        assert_eq!(manifest("kind: ConfigMap\n"), Some(BTreeMap::new()));
        assert_eq!(manifest(": : ["), None);
    }

    #[test]
    fn numbers_and_their_nouns() {
        assert_eq!(
            (count(1, "peer"), count(2, "block")),
            ("1 peer".into(), "2 blocks".into())
        );
    }
}
