//! Texts that docs/troubleshooting.md quotes are texts of the programs, and each entry says what to do.

use std::fs;

use crate::pages;

/// All source of the programs, with string continuations joined and runs of white space as one.
fn sources() -> String {
    let mut text = String::new();
    for dir in ["route-controller", "bgp-speaker", "cni-ipam", "config"] {
        let is_program = |name: &String| {
            !["/tests/", "/benches/", "/fuzz/"]
                .iter()
                .any(|part| name.contains(part))
        };
        for name in pages::files(dir, "rs").into_iter().filter(is_program) {
            text.push_str(&pages::source(&name));
        }
    }
    let joined = text.replace("\\\n", " ").replace("\\\"", "\"");
    joined.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The quoted text of a line `Text: …`; `…` stands for what differs.
fn quoted(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("Text: `")?;
    Some(rest.split_once('`').unwrap().0)
}

#[test]
fn quoted_texts_are_in_the_source() {
    let page = pages::page("docs/troubleshooting.md");
    let sources = sources();
    let mut wrong = Vec::new();
    let mut count = 0;
    for (number, line) in page.prose() {
        let Some(text) = quoted(line) else { continue };
        count += 1;
        for part in text.split('…').map(str::trim).filter(|part| !part.is_empty()) {
            if !sources.contains(part) {
                wrong.push(format!("{}:{}: nobody says '{part}'", page.name, number + 1));
            }
        }
        let longest = text.split('…').map(|part| part.trim().len()).max().unwrap_or(0);
        assert!(
            longest >= 8,
            "{}:{}: too short to find: {text}",
            page.name,
            number + 1
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 30, "only {count} quoted texts");
}

/// Names of lines and columns of `podroute show` that the pages send readers to: `line *hint*`, `columns *IN* and *OUT*`.
#[test]
fn lines_and_columns_of_show_exist() {
    let files = ["show.rs", "services.rs"]
        .map(|name| pages::repository().join("route-controller/src/cli").join(name));
    let show = files.map(|file| fs::read_to_string(file).unwrap()).concat();
    let mut count = 0;
    for page in pages::all() {
        for (number, line) in page.prose() {
            for word in [", line ", ", lines ", ", column ", ", columns "] {
                let Some((_, rest)) = line.split_once(word) else {
                    continue;
                };
                let end = rest.find([';', '.', ',', '(', '|']).unwrap_or(rest.len());
                let names = rest[..end].split('*').skip(1).step_by(2);
                for name in names {
                    count += 1;
                    let is_there =
                        show.contains(&format!("\"{name}")) || show.contains(&format!("n{name}: {{}}"));
                    assert!(is_there, "{}:{}: show has no '{name}'", page.name, number + 1);
                }
            }
        }
    }
    assert!(count > 15, "only {count} names");
}

#[test]
fn every_entry_has_cause_check_and_remedy() {
    let page = pages::page("docs/troubleshooting.md");
    let entries: Vec<&str> = page.text.split("\n### ").skip(1).collect();
    assert!(entries.len() >= 40, "{} entries", entries.len());
    for entry in entries {
        for part in ["**Cause.**", "**Check.**", "**Remedy.**"] {
            assert!(
                entry.contains(part),
                "no {part} in '{}'",
                entry.lines().next().unwrap()
            );
        }
    }
}
