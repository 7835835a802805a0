//! Every relative link leads to a file, and every anchor to a heading.

use std::path::{Component, Path, PathBuf};

use crate::pages::{self, Page};

/// Targets of `[text](target)` on a line, but not those inside `code`.
fn targets(line: &str) -> Vec<String> {
    let outside: String = line
        .split('`')
        .enumerate()
        .map(|(index, part)| if index % 2 == 0 { part } else { "code" })
        .collect();
    let parts = outside.split("](").skip(1);
    parts
        .filter_map(|part| part.split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// A path without `.` and `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

fn broken(page: &Page, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = if file.is_empty() {
        PathBuf::from(&page.name)
    } else {
        resolved(&Path::new(&page.name).parent().unwrap().join(file))
    };
    if !pages::repository().join(&path).exists() {
        return Some("no such file".to_owned());
    }
    if anchor.is_empty() {
        return None;
    }
    let other = pages::page(path.to_str().unwrap());
    let known = other.anchors().iter().any(|known| known == anchor);
    (!known).then(|| format!("no such heading in {}", other.name))
}

#[test]
fn every_link_leads_somewhere() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for page in pages::everywhere() {
        for (number, line) in page.prose() {
            for target in targets(line) {
                count += 1;
                if let Some(why) = broken(&page, &target) {
                    wrong.push(format!("{}:{}: {target}: {why}", page.name, number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 100, "only {count} links were found");
}

/// Each page below docs/ can be reached from docs/README.md.
#[test]
fn every_page_is_linked() {
    let mut seen = vec!["docs/README.md".to_owned()];
    let mut next = 0;
    while let Some(name) = seen.get(next).cloned() {
        next += 1;
        let page = pages::page(&name);
        let found: Vec<String> = page.prose().flat_map(|(_, line)| targets(line)).collect();
        for target in found {
            let file = target.split('#').next().unwrap().to_owned();
            let path = resolved(&Path::new(&name).parent().unwrap().join(file));
            let path = path.to_str().unwrap().to_owned();
            let is_page = Path::new(&path)
                .extension()
                .is_some_and(|extension| extension == "md");
            if is_page && path.starts_with("docs/") && !seen.contains(&path) {
                seen.push(path);
            }
        }
    }
    let all = pages::all();
    let lost = all
        .iter()
        .filter(|page| page.name.starts_with("docs/") && !seen.contains(&page.name));
    // Decision records are listed by their directory.
    let lost: Vec<&str> = lost
        .map(|page| page.name.as_str())
        .filter(|name| !name.starts_with("docs/adr/"))
        .collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
}

#[test]
fn drawings_have_a_title_and_a_description() {
    let dir = pages::repository().join("docs/designs");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "svg") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        for wanted in [
            "role=\"img\"",
            "<title",
            "<desc",
            "prefers-color-scheme",
            "viewBox",
        ] {
            assert!(text.contains(wanted), "{}: no {wanted}", path.display());
        }
    }
    assert!(count >= 7, "only {count} drawings");
}
