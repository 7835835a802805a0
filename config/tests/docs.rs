//! docs/reference/configuration.md has every field, in the table of its section, with its default and when a change applies; and
//! every field is read.
#![cfg(test)]

use std::path::Path;

use podroute_config::SECTIONS;

/// The part of the page under the heading of a section, up to the next heading.
fn part<'a>(page: &'a str, section: &str) -> &'a str {
    let heading = if section.is_empty() {
        "Top of the file"
    } else {
        section.strip_suffix("[]").unwrap_or(section)
    };
    let heading = if section.contains('.') { section } else { heading };
    let is_heading = |line: &&str| line.starts_with('#') && line.trim_start_matches('#').trim() == heading;
    let start = page
        .lines()
        .find(is_heading)
        .unwrap_or_else(|| panic!("no heading '{heading}'"));
    let start = page.find(&format!("{start}\n")).unwrap() + start.len();
    let rest = page.get(start..).unwrap();
    rest.find("\n#").map_or(rest, |end| rest.get(..end).unwrap())
}

/// A row of a section's table: Field, Type and range, Default, Applies, Effect.
struct Row<'a> {
    field: &'a str,
    range: &'a str,
    default: &'a str,
    applies: &'a str,
}

fn rows(part: &str) -> Vec<Row<'_>> {
    let lines = part.lines().filter(|line| line.starts_with("| `"));
    let cells = lines.map(|line| {
        line.trim_matches('|')
            .split('|')
            .map(str::trim)
            .collect::<Vec<_>>()
    });
    cells
        .map(|cells| match cells.as_slice() {
            [field, range, default, applies, ..] => Row {
                field: field.trim_matches('`'),
                range,
                default,
                applies,
            },
            _ => panic!("a row with too few cells: {cells:?}"),
        })
        .collect()
}

#[test]
fn every_field_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    for section in SECTIONS {
        let part = part(&page, section.name);
        let rows = rows(part);
        let named: Vec<&str> = rows.iter().map(|row| row.field).collect();
        for field in section.fields {
            assert!(
                named.contains(field),
                "no row for {field} under '{}'",
                section.name
            );
        }
        assert_eq!(
            rows.len(),
            section.fields.len(),
            "rows for fields that do not exist under '{}'",
            section.name
        );
        for row in rows {
            let place = format!("{}.{}", section.name, row.field);
            assert!(
                !row.range.is_empty() && !row.default.is_empty(),
                "{place}: a cell is empty"
            );
            assert!(
                ["reload", "session", "restart"].contains(&row.applies),
                "{place}: applies at '{}'?",
                row.applies
            );
        }
    }
}

/// A document with this value of a field, every section around it written out.
fn document(section: &str, field: &str, value: &str) -> (String, String) {
    let wrap = |inner: String, step: &str| match step.strip_suffix("[]") {
        Some(name) => format!("{name}: [{{{inner}}}]"),
        None => format!("{step}: {{{inner}}}"),
    };
    let steps = section.split('.').filter(|step| !step.is_empty());
    let text = steps.rev().fold(format!("{field}: {value}"), wrap);
    let path = if section.is_empty() {
        field.to_owned()
    } else {
        format!("{section}.{field}")
    };
    (format!("{{{text}}}"), path.replace("[]", "[0]"))
}

/// Fields that the running agent keeps until its next start, each with another value than the file below.
const AT_THE_NEXT_START: &[(&str, &str)] = &[
    ("cluster.asn", "cluster: {asn: 64513}"),
    (
        "cluster.clusterId",
        "cluster: {asn: 64512, clusterId: 192.0.2.250}",
    ),
    ("fib.install", "cluster: {asn: 64512}\nfib: {install: false}"),
    ("fib.table", "cluster: {asn: 64512}\nfib: {table: 100}"),
    (
        "fib.resolveViaDefault",
        "cluster: {asn: 64512}\nfib: {resolveViaDefault: true}",
    ),
];

/// What the loader defers, the page says, and the other way round. The agent itself keeps `node.name` and `node.routerId`.
#[test]
fn the_page_names_what_waits_for_the_next_start() {
    let load = |rest: &str, running| {
        let facts = podroute_config::NodeFacts {
            running,
            ..podroute_config::NodeFacts::default()
        };
        podroute_config::load_for(&format!("apiVersion: podroute/v1\n{rest}\n"), &facts).unwrap()
    };
    let config = load("cluster: {asn: 64512}", None);
    let running = podroute_config::Running {
        asn: config.node.asn,
        cluster_id: config.cluster.cluster_id,
        fib: config.fib,
    };
    for (field, text) in AT_THE_NEXT_START {
        let deferred = load(text, Some(running.clone())).deferred.join(", ");
        let section = field.split('.').next().unwrap();
        assert!(
            deferred.split(", ").any(|name| name == *field || name == section),
            "{field}: {deferred}"
        );
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    let mut documented = Vec::new();
    for section in SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        let rows = rows(part(&page, section.name));
        let waits = rows.iter().filter(|row| row.applies == "restart");
        documented.extend(waits.map(|row| format!("{}.{}", section.name, row.field)));
    }
    let kept_by_the_agent = ["node.asn", "node.name", "node.routerId", "node.routerId.cidr"];
    documented.retain(|field| !kept_by_the_agent.contains(&field.as_str()));
    documented.sort_unstable();
    let mut expected: Vec<&str> = AT_THE_NEXT_START.iter().map(|(field, _)| *field).collect();
    expected.sort_unstable();
    assert_eq!(documented, expected);
}

#[test]
fn every_field_is_read() {
    for section in SECTIONS {
        for field in section.fields {
            let (text, path) = document(section.name, field, "[[[]]]");
            let errors = podroute_config::load(&text).unwrap_err();
            let about = |problem: &podroute_config::Problem| {
                problem.path.starts_with(&path) && problem.message.starts_with("expected")
            };
            assert!(
                errors.problems().iter().any(about),
                "nobody reads {path}: {errors}"
            );
        }
    }
}
