//! docs/reference/ is whole: every command and option, every metric; and nothing that does not exist.

use std::collections::BTreeSet;
use std::process::Command;

use crate::pages::{self, Page};

pub(crate) fn help(command: &[String]) -> String {
    let podroute = lab::bins::find("podroute").unwrap();
    let out = Command::new(podroute)
        .args(command)
        .arg("--help")
        .output()
        .unwrap();
    assert!(out.status.success(), "podroute {command:?} --help");
    String::from_utf8(out.stdout).unwrap()
}

/// Names in the list of commands.
fn subcommands(help: &str) -> Vec<String> {
    let Some((_, list)) = help.split_once("\nCommands:\n") else {
        return Vec::new();
    };
    let lines = list.lines().take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

/// Long options, but for `--help` and `--version`.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help
        .lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'));
    let named = lines.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    let all = named.map(str::to_owned);
    all.filter(|name| name != "--help" && name != "--version")
        .collect()
}

/// Commands without commands of their own, as `["show", "peers"]`.
pub(crate) fn leaves(command: &[String]) -> Vec<Vec<String>> {
    let inner = subcommands(&help(command));
    if inner.is_empty() {
        return vec![command.to_vec()];
    }
    let all = inner.into_iter().map(|name| [command, &[name]].concat());
    all.flat_map(|command| leaves(&command)).collect()
}

/// Headings of commands with the options in the table below each.
fn documented(page: &Page) -> Vec<(String, BTreeSet<String>)> {
    let mut found: Vec<(String, BTreeSet<String>)> = Vec::new();
    for (_, line) in page.prose() {
        if line.starts_with('#') {
            let command = line.split('`').nth(1).unwrap_or_default();
            found.push((command.to_owned(), BTreeSet::new()));
        }
        let option = line
            .strip_prefix("| `--")
            .and_then(|rest| rest.split(['`', ' ']).next());
        if let (Some(option), Some((_, options))) = (option, found.last_mut()) {
            options.insert(format!("--{option}"));
        }
    }
    found.retain(|(command, _)| !command.is_empty());
    found
}

#[test]
fn every_command_and_option_is_documented() {
    let page = pages::page("docs/reference/cli.md");
    let documented = documented(&page);
    let mut expected = Vec::new();
    for command in leaves(&[]) {
        let name = format!("podroute {}", command.join(" "));
        let mut options = options(&help(&command));
        // Options that all commands of a group have are in the group's own table.
        let group = command.first().map(|group| format!("podroute {group}"));
        let common = documented
            .iter()
            .find(|(known, _)| group.as_ref() == Some(known) && *known != name);
        if let Some((group, common)) = common {
            let missing: Vec<_> = common.difference(&options).collect();
            assert!(missing.is_empty(), "{name} has no {missing:?} of {group}");
            options.retain(|option| !common.contains(option));
            expected.push(group.clone());
        }
        let entry = documented.iter().find(|(known, _)| *known == name);
        let (_, known) = entry.unwrap_or_else(|| panic!("no heading `{name}` in {}", page.name));
        assert_eq!(*known, options, "options of {name} in {}", page.name);
        expected.push(name);
    }
    for (place, (command, _)) in documented.iter().enumerate() {
        let is_second = documented[..place].iter().any(|(other, _)| other == command);
        assert!(!is_second, "{}: '{command}' is there twice", page.name);
        assert!(
            expected.contains(command),
            "{}: '{command}' does not exist",
            page.name
        );
    }
}

/// `code` in the prose of the pages, with the place.
fn inline_code() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for page in pages::all() {
        for (number, line) in page.prose() {
            let code = line.split('`').skip(1).step_by(2);
            found.extend(code.map(|code| (format!("{}:{}", page.name, number + 1), code.to_owned())));
        }
    }
    found
}

#[test]
fn commands_in_the_prose_exist() {
    let leaves = leaves(&[]);
    let mut wrong = Vec::new();
    let mut count = 0;
    for (place, code) in inline_code() {
        let Some(rest) = code.strip_prefix("podroute ") else {
            continue;
        };
        count += 1;
        if rest.starts_with("--") {
            assert!(help(&[]).contains(rest), "{place}: {code}");
            continue;
        }
        let words: Vec<&str> = rest.split_whitespace().collect();
        let is_command = |leaf: &Vec<String>| leaf.iter().zip(&words).all(|(name, word)| name == word);
        let Some(leaf) = leaves.iter().find(|leaf| is_command(leaf)) else {
            wrong.push(format!("{place}: no command `{code}`"));
            continue;
        };
        let known = options(&help(leaf));
        let used = words.iter().filter(|word| word.starts_with("--"));
        let unknown = used.filter(|option| **option != "--help" && !known.contains(**option));
        wrong.extend(unknown.map(|option| format!("{place}: `podroute {}` has no {option}", leaf.join(" "))));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 60, "only {count} commands");
}

#[test]
fn metrics_in_the_prose_exist() {
    let known = registered_metrics();
    // Decision records name modules.
    let is_guide = |place: &str| place.starts_with("docs/") && !place.starts_with("docs/adr/");
    let names = inline_code()
        .into_iter()
        .filter(|(place, code)| is_guide(place) && code.starts_with("podroute_"));
    for (place, code) in names {
        let name = code.split(['{', ' ']).next().unwrap();
        let name = name.strip_suffix("_total").unwrap_or(name);
        assert!(known.contains(name), "{place}: no metric {code}");
    }
}

/// Names given to the registry, with `podroute_` in front: a name is a literal that is followed by the literal of its help text.
fn registered(source: &str) -> BTreeSet<String> {
    let literals: Vec<&str> = source.split('"').collect();
    let mut names = BTreeSet::new();
    for window in literals.windows(3) {
        let [name, between, help] = window else { continue };
        let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
        let is_pair =
            between.trim() == "," && help.starts_with(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit());
        if is_name && is_pair {
            names.insert(format!("podroute_{name}"));
        }
    }
    names
}

fn registered_metrics() -> BTreeSet<String> {
    registered(&source("route-controller/src", |path| path.contains("metrics")))
}

#[test]
fn every_metric_is_documented() {
    let registered = registered_metrics();
    assert!(registered.len() > 15, "{registered:?}");
    let page = pages::page("docs/reference/metrics.md");
    let mut documented = BTreeSet::new();
    for (number, line) in page.prose() {
        let Some(name) = line.strip_prefix("| `podroute_") else {
            continue;
        };
        let name = format!("podroute_{}", name.split('`').next().unwrap());
        assert!(
            line.split('|')
                .all(|cell| cell.is_empty() || !cell.trim().is_empty()),
            "{}:{}: an empty cell",
            page.name,
            number + 1
        );
        // The text form adds `_total` to the name of a counter.
        let is_new = documented.insert(name.strip_suffix("_total").unwrap_or(&name).to_owned());
        assert!(is_new, "{}:{}: {name} is there twice", page.name, number + 1);
    }
    assert_eq!(documented, registered);
}

/// The source of those files of a directory that are wanted by their name, without tests.
pub(crate) fn source(dir: &str, wanted: fn(&str) -> bool) -> String {
    let is_test = |name: &str| name.rsplit('/').next().is_some_and(|file| file.contains("test"));
    let names = pages::files(dir, "rs").into_iter();
    let names = names.filter(|name| wanted(name) && !is_test(name));
    names.map(|name| pages::source(&name)).collect()
}

/// Files of the run directory that the agent names.
#[test]
fn every_file_of_the_run_directory_is_documented() {
    let source = source("route-controller/src", |_| true);
    let names = source
        .split("run_dir.join(\"")
        .skip(1)
        .map(|rest| rest.split('"').next().unwrap());
    let names: BTreeSet<&str> = names.collect();
    assert!(names.len() >= 5, "{names:?}");
    let page = pages::page("docs/reference/files.md");
    for name in names {
        assert!(
            page.text.contains(&format!("/run/podroute/{name}")),
            "{name} is not in {}",
            page.name
        );
    }
}
