//! The form of an answer: for people, for programs, and the exit status.

use std::process::ExitCode;

use clap::ValueEnum;

use super::{CliError, RunDir};
use crate::status::Reply;

/// How to print.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Output {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub(super) output: Form,
    #[command(flatten)]
    pub(super) run_dir: RunDir,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Form {
    /// For people.
    Table,
    /// The table with more columns.
    Wide,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}

/// The exit status of a command that has answered, and the answer is no: something is not as it should be.
const NOT_IN_ORDER: u8 = 3;

/// What a command comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    InOrder,
    NotInOrder,
}

impl From<Answer> for ExitCode {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::InOrder => Self::SUCCESS,
            Answer::NotInOrder => Self::from(NOT_IN_ORDER),
        }
    }
}

pub(super) fn for_programs(form: Form, value: &serde_json::Value) -> Result<String, CliError> {
    Ok(match form {
        Form::Yaml => serde_yaml::to_string(value)?,
        Form::Json | Form::Table | Form::Wide => serde_json::to_string_pretty(value)?,
    })
}

/// An answer for programs: one object with the name of its form and one list, `peers`, `routes` or `blocks`.
pub(super) fn value(reply: &Reply) -> Result<serde_json::Value, serde_json::Error> {
    let name = match reply {
        Reply::Fib(_) => "fib",
        Reply::Policies(_) => "policies",
        Reply::Blocks(_) => "blocks",
        Reply::Bfd(_) => "bfd",
        Reply::Cluster(_) => "cluster",
        _ => "peers",
    };
    let value = match reply {
        Reply::Fib(routes) => {
            serde_json::to_value(routes).map(|routes| serde_json::json!({ "routes": routes }))
        }
        reply => serde_json::to_value(reply),
    };
    Ok(with_schema(name, value?))
}

/// With the name and version of its form: fields are added within a version, and removed or changed only with a new one.
pub(super) fn with_schema(name: &str, mut value: serde_json::Value) -> serde_json::Value {
    if let Some(map) = value.as_object_mut() {
        map.insert("schema".to_owned(), format!("podroute.{name}/v1").into());
    }
    value
}
