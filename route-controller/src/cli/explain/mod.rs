//! `podroute explain`: gathers what this node knows of a packet, and prints the steps.

mod agent;
mod gather;
mod pod;
mod probe;

use std::path::Path;

use super::show::{new_table, text};
use super::{Answer, CliError, Form, Output, for_programs};
use crate::explain::{Explanation, Report, SCHEMA, Step, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct Question {
    /// Who sends: an address, a pod as NAMESPACE/NAME, or a node.
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Who is reached: an address, a pod or Service as NAMESPACE/NAME, or a node.
    #[arg(value_name = "DESTINATION")]
    destination: String,
    /// The port at the destination, as 80 or 53/udp: network policies are asked about it, and whether it is open.
    #[arg(long, value_name = "PORT")]
    port: Option<String>,
    /// Send probes too: who answers at which distance, loss, and the path MTU. Takes some seconds.
    #[arg(long)]
    measure: bool,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(question: &Question) -> Result<Answer, CliError> {
    let run_dir: &Path = &question.output.run_dir.run_dir;
    let mut explanations = Vec::new();
    for facts in gather::facts(run_dir, question)? {
        explanations.push(crate::explain::explain(&facts));
    }
    let report = Report {
        schema: SCHEMA.to_owned(),
        explanations,
    };
    let is_broken = report
        .explanations
        .iter()
        .any(|one| one.verdict == Verdict::Broken);
    let text = match question.output.output {
        Form::Table | Form::Wide => {
            let all: Vec<String> = report.explanations.iter().map(explanation).collect();
            all.join("\n\n")
        }
        form => {
            let value = serde_json::to_value(&report)?;
            for_programs(form, &value)?
        }
    };
    println!("{}", text.trim_end());
    Ok(if is_broken {
        Answer::NotInOrder
    } else {
        Answer::InOrder
    })
}

fn explanation(one: &Explanation) -> String {
    let port = one
        .port
        .as_ref()
        .map_or_else(String::new, |port| format!(", port {port}"));
    let mut out = format!("from {}\nto   {}{port}\n", one.source, one.destination);
    for hop in &one.hops {
        let mut table = new_table(&["", "", ""]);
        for step in &hop.steps {
            table.add_row([step.verdict.to_string(), step.part.clone(), step.text.clone()]);
        }
        let rows = text(&table, "");
        let rows: Vec<&str> = rows.lines().skip_while(|line| line.trim().is_empty()).collect();
        out.push_str(&format!("\n{} ({}):\n{}\n", hop.node, hop.role, rows.join("\n")));
    }
    out.push('\n');
    out.push_str(&conclusion(one));
    if let Some(node) = &one.other_node {
        out.push_str(&format!("\nthe other half: podroute explain on {node}"));
    }
    out
}

fn conclusion(one: &Explanation) -> String {
    match one.fault() {
        None => "nothing is wrong on this node".to_owned(),
        Some(Step {
            part,
            text,
            remedy,
            verdict,
            ..
        }) => {
            let what = if *verdict == Verdict::Broken {
                "first broken step"
            } else {
                "warning"
            };
            let remedy = remedy
                .as_ref()
                .map_or_else(String::new, |remedy| format!("\nremedy: {remedy}"));
            format!("{what}: {part}: {text}{remedy}")
        }
    }
}
