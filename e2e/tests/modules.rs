//! Modules that lie side by side do not import each other, directly or over others, in the crates that this is promised of. And
//! the structs that everything else hangs on stay small.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Of a crate's source: all of it, or one directory.
const WITHOUT_CYCLES: [&str; 5] = [
    "bgp-speaker/src",
    "bgp-speaker/proto/src",
    "bgp-speaker/bfd/src",
    "config/src",
    "route-controller/src/fib",
];

/// Names of modules from the crate's root on.
type Module = Vec<String>;

/// Source files by module, without those of tests.
fn modules(dir: &Path, at: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in std::fs::read_dir(dir).expect("sources").flatten() {
        let path = entry.path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .expect("a name")
            .to_owned();
        let is_test = name.contains("test") || name == "histories";
        let inner = || at.iter().cloned().chain([name.clone()]).collect::<Module>();
        if is_test {
            continue;
        } else if path.is_dir() {
            modules(&path, &inner(), found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let module = if ["lib", "main", "mod"].contains(&name.as_str()) {
                at.clone()
            } else {
                inner()
            };
            let text = std::fs::read_to_string(&path).expect("a source");
            let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
            let lines = text
                .lines()
                .map(|line| line.split("//").next().unwrap_or_default());
            found.insert(module, lines.collect::<Vec<_>>().join("\n"));
        }
    }
}

/// Paths that begin with `crate`, `super` or `self`, each as its parts; of a list in braces each.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for start in ["crate::", "super::", "self::"] {
        for (at, _) in text.match_indices(start) {
            let before = text[..at].chars().next_back().unwrap_or(' ');
            if !before.is_alphanumeric() && before != '_' && before != ':' {
                path_from(&text[at..], &[], &mut all);
            }
        }
    }
    all
}

fn path_from(text: &str, prefix: &[String], all: &mut Vec<Vec<String>>) {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let (head, rest) = text.split_at(end.unwrap_or(text.len()));
    let parts = head.split("::").filter(|part| !part.is_empty());
    let path: Vec<String> = prefix.iter().cloned().chain(parts.map(str::to_owned)).collect();
    if !(head.is_empty() || head.ends_with("::")) || !rest.starts_with('{') {
        return all.push(path);
    }
    let (mut depth, mut begin) = (0, 1);
    for (at, c) in rest.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (c == ',' && depth == 1) || depth == 0 {
            path_from(rest[begin..at].trim(), &path, all);
            begin = at + 1;
        }
        if depth == 0 {
            return;
        }
    }
}

/// The module that a path from a module leads to.
fn target(from: &Module, path: &[String], known: &BTreeSet<&Module>) -> Module {
    let (mut full, mut rest) = (from.clone(), path);
    while let Some((first, after)) = rest.split_first() {
        match first.as_str() {
            "crate" => full.clear(),
            "super" => drop(full.pop()),
            "self" => {}
            _ => break,
        }
        rest = after;
    }
    full.extend(rest.iter().cloned());
    while !known.contains(&full) && full.pop().is_some() {}
    full
}

/// Modules that have the same parent: which one imports which.
fn siblings(sources: &BTreeMap<Module, String>) -> BTreeMap<Module, BTreeSet<Module>> {
    let known = sources.keys().collect();
    let mut graph: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (from, text) in sources {
        for path in paths(text) {
            let to = target(from, &path, &known);
            let shared = from
                .iter()
                .zip(&to)
                .take_while(|(one, other)| one == other)
                .count();
            if shared < from.len() && shared < to.len() {
                let of = |module: &Module| module[..=shared].to_vec();
                graph.entry(of(from)).or_default().insert(of(&to));
            }
        }
    }
    graph
}

/// Modules that can be reached from one.
fn reachable<'a>(graph: &'a BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&Module> = graph.get(from).into_iter().flatten().collect();
    while let Some(next) = open.pop() {
        if found.insert(next) {
            open.extend(graph.get(next).into_iter().flatten());
        }
    }
    found
}

#[test]
fn no_module_imports_itself_over_others() {
    for dir in WITHOUT_CYCLES {
        let mut sources = BTreeMap::new();
        modules(&Path::new(ROOT).join(dir), &Module::new(), &mut sources);
        let graph = siblings(&sources);
        assert!(graph.len() >= 3, "{dir}: {graph:?}");
        let is_cyclic = |module: &&Module| reachable(&graph, module).contains(module);
        let cyclic: Vec<String> = graph
            .keys()
            .filter(is_cyclic)
            .map(|module| module.join("::"))
            .collect();
        assert!(cyclic.is_empty(), "{dir}: {cyclic:?} import each other");
    }
}

#[test]
fn imports_are_found() {
    let found = paths("use crate::{a::{b, C}, d};\nfn f() { super::e::g(); my_crate::h(); }");
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["crate::a::b", "crate::a::C", "crate::d", "super::e::g"]);
}

/// Structs with most of a task's state.
#[test]
fn central_structs_have_at_most_twelve_fields() {
    for (file, name) in [
        ("route-controller/src/agent.rs", "Agent"),
        ("route-controller/src/agent.rs", "Node"),
        ("route-controller/src/fib/task.rs", "FibTask"),
        ("bgp-speaker/proto/src/engine/mod.rs", "Engine"),
        ("bgp-speaker/src/peer/task.rs", "PeerTask"),
    ] {
        let text = std::fs::read_to_string(Path::new(ROOT).join(file)).expect(file);
        let (_, rest) = text.split_once(&format!("struct {name} {{\n")).expect(name);
        let body = rest.split("\n}").next().unwrap_or_default();
        let is_field = |line: &&str| {
            let line = line.trim();
            !line.starts_with("//") && !line.starts_with('#') && line.ends_with(',')
        };
        let count = body.lines().filter(is_field).count();
        assert!((1..=12).contains(&count), "{name} has {count} fields");
    }
}
