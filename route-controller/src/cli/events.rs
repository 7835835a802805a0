//! `podroute events`: what changed on this node.

use std::io::Write;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::show::{new_table, text};
use super::{CliError, ClientError, Form, Output, client, for_programs};
use crate::journal::{self, Entry, Kind, Severity};
use crate::status::{EventsStatus, Reply, Request};

/// Name and version of the output's form.
const SCHEMA: &str = "podroute.events/v1";
/// Between two questions of `--follow`.
const PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct Question {
    /// Not older than this: 90s, 10m, 2h, 1d. Without it everything that is kept.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    since: Option<Duration>,
    /// Go on with what happens from now on, also after a restart of the agent.
    #[arg(short, long)]
    follow: bool,
    /// Only events of this kind; can be repeated.
    #[arg(long, value_enum, value_name = "KIND")]
    kind: Vec<Kind>,
    #[command(flatten)]
    output: Output,
}

pub(super) fn run(question: &Question) -> Result<(), CliError> {
    let since = question
        .since
        .map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let since_ms = since.map_or(0, |since| journal::now_ms().saturating_sub(since));
    let first = ask(question, since_ms, None)?;
    if !question.follow {
        let text = match question.output.output {
            Form::Table | Form::Wide => table(&first.entries),
            form => for_programs(
                form,
                &serde_json::json!({ "schema": SCHEMA, "events": first.entries }),
            )?,
        };
        println!("{}", text.trim_end());
        return Ok(());
    }
    let mut last = first.last;
    print(question.output.output, &first.entries)?;
    loop {
        std::thread::sleep(PAUSE);
        // An agent that restarts is waited for.
        let Ok(next) = ask(question, 0, Some(last)) else {
            continue;
        };
        if next.last < last {
            // The journal was lost: its numbers begin again.
            last = 0;
            continue;
        }
        print(question.output.output, &next.entries)?;
        last = next.last;
    }
}

fn ask(question: &Question, since_ms: u64, after: Option<u64>) -> Result<EventsStatus, CliError> {
    let request = Request::Events {
        since_ms,
        after,
        kinds: question.kind.clone(),
    };
    match client::ask(&question.output.run_dir.run_dir, &request)? {
        Reply::Events(events) => Ok(events),
        _ => Err(ClientError::Unexpected.into()),
    }
}

/// Entries one by one, as they come: a line each, in JSON an object each.
fn print(form: Form, entries: &[Entry]) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    for entry in entries {
        let text = match form {
            Form::Table | Form::Wide => row(entry).join("  "),
            Form::Json => serde_json::to_string(entry)?,
            Form::Yaml => format!("---\n{}", serde_yaml::to_string(entry)?),
        };
        writeln!(out, "{}", text.trim_end()).map_err(CliError::Output)?;
    }
    out.flush().map_err(CliError::Output)
}

/// Events as a table, the oldest first.
pub(super) fn table(entries: &[Entry]) -> String {
    let mut table = new_table(&["TIME (UTC)", "KIND", "SUBJECT", "WHAT"]);
    for entry in entries {
        table.add_row(row(entry));
    }
    text(&table, "nothing has changed in this time")
}

fn row(entry: &Entry) -> [String; 4] {
    let mark = match entry.severity {
        Severity::Info => "",
        Severity::Warn => "warning: ",
        Severity::Error => "error: ",
    };
    let cause = entry
        .cause
        .as_ref()
        .map_or_else(String::new, |cause| format!(": {cause}"));
    let flaps = match (entry.count, entry.flaps) {
        (count, Some(flaps)) if flaps > 0 => format!(" ({flaps} flaps, {count} in this second)"),
        _ => String::new(),
    };
    [
        time(entry.at_ms),
        entry.kind.to_string(),
        entry.subject.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{mark}{}{cause}{flaps}", entry.message),
    ]
}

/// `2026-11-29 14:03:22`
fn time(at_ms: u64) -> String {
    let at = i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let Some(at) = at else {
        return at_ms.to_string();
    };
    let text = at.to_string();
    text.get(..19).unwrap_or(&text).replace('T', " ")
}

/// Not a time.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("'{0}' is no time: write a number and s, m, h or d, as in 10m")]
struct BadTime(String);

/// `90s`, `10m`, `2h`, `1d`.
fn duration(text: &str) -> Result<Duration, BadTime> {
    let bad = || BadTime(text.to_owned());
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return Err(bad()),
    };
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .ok_or_else(bad)?;
    let seconds = number.checked_mul(seconds).ok_or_else(bad)?;
    Ok(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86400)));
        for bad in [
            "",
            "10",
            "m",
            "-1m",
            "1.5h",
            "10 m",
            "ä",
            "99999999999999999999s",
            "9999999999999999d",
        ] {
            assert!(
                duration(bad).unwrap_err().to_string().contains("as in 10m"),
                "{bad}"
            );
        }
    }

    #[test]
    fn an_event_is_one_row() {
        let entry = Entry {
            number: 7,
            at_ms: 1_795_960_102_345,
            kind: Kind::Route,
            severity: Severity::Info,
            event: "route_lost".to_owned(),
            subject: Some("10.244.3.0/24".to_owned()),
            message: "no path is left".to_owned(),
            cause: None,
            count: 3,
            flaps: Some(4),
        };
        let text = table(std::slice::from_ref(&entry));
        assert!(text.contains("2026-11-29 13:48:22"), "{text}");
        assert!(
            text.contains("no path is left (4 flaps, 3 in this second)"),
            "{text}"
        );
        let down = Entry {
            severity: Severity::Warn,
            message: "BGP session down".to_owned(),
            cause: Some("hold timer expired".to_owned()),
            flaps: None,
            ..entry
        };
        assert!(table(&[down]).contains("warning: BGP session down: hold timer expired"));
        assert_eq!(table(&[]), "nothing has changed in this time");
    }
}
