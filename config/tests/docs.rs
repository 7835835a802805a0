//! docs/configuration.md speaks of every field, in the table of its section, and every field is read.
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

#[test]
fn every_field_is_documented() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap();
    for section in SECTIONS {
        let part = part(&page, section.name);
        for field in section.fields {
            assert!(
                part.contains(&format!("\n| `{field}` |")),
                "no row for {field} under '{}'",
                section.name
            );
        }
        let rows = part.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(
            rows,
            section.fields.len(),
            "rows for fields that do not exist under '{}'",
            section.name
        );
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
