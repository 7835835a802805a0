//! Each command: what is asked, how the answers are joined, what the exit status says.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;

use crate::answer::{Answers, list, object};
use crate::args::{ClusterArgs, ClusterCommand, Form};
use crate::cluster::Cluster;
use crate::error::{Error, NodeError};
use crate::exec::{NOT_IN_ORDER, Output};
use crate::view::{Document, check, events, explain, peers, policies, routes, services};
use crate::{Outcome, web};

pub(crate) async fn run(args: &ClusterArgs) -> Result<Outcome, Error> {
    let input = match &args.command {
        ClusterCommand::Diff { file } | ClusterCommand::Check { file } => Some(read(file)?),
        _ => None,
    };
    let input = input.as_deref();
    let cluster = Cluster::connect(&args.options).await?;
    let form = args.options.output;
    match &args.command {
        ClusterCommand::Peers { down, peer } => {
            let filter = peers::Filter {
                down: *down,
                peer: peer.clone(),
            };
            ask_peers(&cluster, &filter, form).await
        }
        ClusterCommand::Routes { prefix, missing } => {
            ask_routes(&cluster, prefix.as_deref(), *missing, form).await
        }
        ClusterCommand::Services { name } => ask_services(&cluster, name.as_deref(), form).await,
        ClusterCommand::Policies => {
            let answers = cluster.ask(&["show", "policies", "-o", "json"]).await;
            let answers = answers.read(|answer| list(&answer, "policies"));
            let document = Document::new(policies::SCHEMA, answers, policies::merge);
            print(&document, form, |rows, _| policies::table(rows)).map(|()| partial(&document))
        }
        ClusterCommand::Events { since, kind } => ask_events(&cluster, since.as_deref(), kind, form).await,
        ClusterCommand::Web { port, every } => web::serve(cluster, &args.options, *port, *every).await,
        ClusterCommand::Explain {
            source,
            destination,
            port,
            measure,
        } => {
            let mut ask = vec!["explain", source, destination, "-o", "json"];
            ask.extend(port.iter().flat_map(|port| ["--port", port]));
            ask.extend(measure.then_some("--measure"));
            ask_ends(&cluster, [source, destination], &ask, form).await
        }
        ClusterCommand::Diff { .. } => {
            ask_each(&cluster, "podroute.cluster-diff/v1", &["diff", "-"], input, form).await
        }
        ClusterCommand::Check { .. } => {
            ask_each(
                &cluster,
                "podroute.cluster-check/v1",
                &["check", "-"],
                input,
                form,
            )
            .await
        }
    }
}

async fn ask_peers(cluster: &Cluster, filter: &peers::Filter, form: Form) -> Result<Outcome, Error> {
    let answers = cluster.ask(&["show", "peers", "-o", "json"]).await;
    let answers = answers.read(|answer| list(&answer, "peers"));
    let document = Document::new(peers::SCHEMA, answers, |answers| peers::merge(answers, filter));
    print(&document, form, peers::table)?;
    Ok(fault_if(filter.down && !document.items.is_empty(), &document))
}

async fn ask_routes(
    cluster: &Cluster,
    prefix: Option<&str>,
    missing: bool,
    form: Form,
) -> Result<Outcome, Error> {
    let mut args = vec!["show", "routes", "-o", "json"];
    args.extend(prefix);
    let answers = cluster.ask(&args).await;
    let answers = answers.read(|answer| list(&answer, "routes"));
    let mut document = Document::new(routes::SCHEMA, answers, routes::merge);
    if missing {
        document.items.retain(|row| !row.missing_on.is_empty());
    }
    print(&document, form, |rows, wide| {
        if wide {
            routes::wide(rows)
        } else {
            routes::table(rows)
        }
    })?;
    Ok(fault_if(missing && !document.items.is_empty(), &document))
}

async fn ask_services(cluster: &Cluster, name: Option<&str>, form: Form) -> Result<Outcome, Error> {
    let answers = cluster.ask(&["show", "services", "-o", "json"]).await;
    let answers = answers.read(|answer| object::<services::Answer>(&answer));
    let document = Document::new(services::SCHEMA, answers, |answers| {
        services::merge(answers, name)
    });
    print(&document, form, services::table)?;
    Ok(fault_if(name.is_some() && document.items.is_empty(), &document))
}

async fn ask_events(
    cluster: &Cluster,
    since: Option<&str>,
    kinds: &[String],
    form: Form,
) -> Result<Outcome, Error> {
    let mut args = vec!["events", "-o", "json"];
    args.extend(since.iter().flat_map(|since| ["--since", since]));
    args.extend(kinds.iter().flat_map(|kind| ["--kind", kind]));
    let answers = cluster.ask(&args).await;
    let answers = answers.read(|answer| list(&answer, "events"));
    let document = Document::new(events::SCHEMA, answers, events::merge);
    print(&document, form, |rows, _| events::table(rows)).map(|()| partial(&document))
}

/// The nodes of both ends, and those that they name.
async fn ask_ends(cluster: &Cluster, ends: [&str; 2], args: &[&str], form: Form) -> Result<Outcome, Error> {
    let mut order: Vec<String> = Vec::new();
    for end in ends {
        order.extend(cluster.node_of(end).await?);
    }
    order.dedup();
    if order.is_empty() {
        return Err(Error::NoEnd(ends.join(" and ")));
    }
    let read = |answers: Answers<String>| answers.read(|answer| list(&answer, "explanations"));
    let mut answers: Answers<Vec<explain::Explanation>> = read(cluster.only(&order).ask(args).await);
    let named = answers.answered.iter().flat_map(|(_, all)| all);
    let others: BTreeSet<String> = named
        .filter_map(|one| one.other_node.clone())
        .filter(|node| !order.contains(node))
        .collect();
    if !others.is_empty() {
        let others: Vec<String> = others.into_iter().collect();
        answers = answers.and(read(cluster.only(&others).ask(args).await));
        order.extend(others);
    }
    let document = Document::new(explain::SCHEMA, answers, |answers| {
        explain::merge(answers, &order)
    });
    print(&document, form, |rows, _| explain::table(rows))?;
    Ok(fault_if(explain::is_broken(&document.items), &document))
}

/// A command whose text, and exit status, is the answer.
async fn ask_each(
    cluster: &Cluster,
    schema: &'static str,
    args: &[&str],
    input: Option<&str>,
    form: Form,
) -> Result<Outcome, Error> {
    let mut args = args.to_vec();
    if matches!(form, Form::Json | Form::Yaml) {
        args.extend(["-o", "json"]);
    }
    let answers: Answers<Output> = cluster.run(&args, input).await;
    let document = Document::new(schema, answers.read(said), check::merge);
    print(&document, form, check::text)?;
    let is_faulty = document.items.iter().any(|group| group.exit_status != 0);
    Ok(fault_if(is_faulty, &document))
}

/// Status 1 (a rejected configuration) is an answer too; others say that the program was not understood.
fn said(output: Output) -> Result<check::Said, NodeError> {
    if !matches!(output.exit_code, 0 | 1 | NOT_IN_ORDER) {
        return output.success().map(|text| check::Said { exit_status: 0, text });
    }
    let text = if output.stdout.trim().is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    Ok(check::Said {
        exit_status: output.exit_code,
        text,
    })
}

fn partial<T>(document: &Document<T>) -> Outcome {
    fault_if(false, document)
}

fn fault_if<T>(is_fault: bool, document: &Document<T>) -> Outcome {
    if is_fault {
        Outcome::Fault
    } else if document.is_partial() {
        Outcome::Partial
    } else {
        Outcome::Complete
    }
}

/// The answer to standard output, who did not answer to standard error.
fn print<T: Serialize>(
    document: &Document<T>,
    form: Form,
    table: impl FnOnce(&[T], bool) -> String,
) -> Result<(), Error> {
    let text = match form {
        Form::Table => table(&document.items, false),
        Form::Wide => table(&document.items, true),
        Form::Json => {
            serde_json::to_string_pretty(document).map_err(|error| Error::Form(error.to_string()))?
        }
        Form::Yaml => serde_yaml::to_string(document).map_err(|error| Error::Form(error.to_string()))?,
    };
    println!("{}", text.trim_end());
    eprint!("{}", document.unanswered());
    Ok(())
}

fn read(file: &Path) -> Result<String, Error> {
    let text = if file == Path::new("-") {
        std::io::read_to_string(std::io::stdin().lock())
    } else {
        std::fs::read_to_string(file)
    };
    text.map_err(|error| Error::File {
        name: file.display().to_string(),
        error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(exit_code: i32, stdout: &str, stderr: &str) -> Output {
        Output {
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            exit_code,
        }
    }

    #[test]
    fn a_rejected_configuration_is_an_answer_and_an_unknown_command_is_none() {
        assert_eq!(said(output(0, "good", "")).unwrap().text, "good");
        let rejected = said(output(1, "", "podroute: standard input:3:1: wrong")).unwrap();
        assert_eq!((rejected.exit_status, rejected.text.contains(":3:1")), (1, true));
        assert!(said(output(2, "", "error: unrecognized subcommand")).is_err());
    }

    #[test]
    fn a_fault_outweighs_a_partial_answer() {
        let document = |asked| {
            let answers = Answers {
                asked,
                answered: vec![("a".to_owned(), 1)],
                unanswered: Vec::new(),
            };
            Document::new("numbers/v1", answers, |answers| answers)
        };
        assert_eq!(fault_if(false, &document(1)).exit_status(), 0);
        assert_eq!(fault_if(false, &document(2)).exit_status(), 4);
        assert_eq!(fault_if(true, &document(2)).exit_status(), 3);
    }
}
