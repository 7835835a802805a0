//! The pages of the repository, and their headings as anchors.

use std::fs;
use std::path::{Path, PathBuf};

/// A Markdown file.
#[derive(Debug)]
pub(crate) struct Page {
    /// Relative to the repository.
    pub(crate) name: String,
    pub(crate) text: String,
}

pub(crate) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

pub(crate) fn page(name: &str) -> Page {
    let text = fs::read_to_string(repository().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    Page {
        name: name.to_owned(),
        text,
    }
}

/// Every page of the repository.
pub(crate) fn everywhere() -> Vec<Page> {
    let names = files("", "md");
    names.iter().map(|name| page(name)).collect()
}

/// The pages for operators: those of the repository's top, and all below docs/.
pub(crate) fn all() -> Vec<Page> {
    let mut pages = everywhere();
    pages.retain(|page| page.name.starts_with("docs/") || !page.name.contains('/'));
    pages
}

/// A source file without its tests.
pub(crate) fn source(name: &str) -> String {
    let text = page(name).text;
    text.split("#[cfg(test)]").next().unwrap().to_owned()
}

/// Names of the files of a directory of the repository with this ending, in order.
pub(crate) fn files(dir: &str, extension: &str) -> Vec<String> {
    let mut names = Vec::new();
    gather(Path::new(dir), extension, &mut names);
    names.sort_unstable();
    names
}

fn gather(dir: &Path, extension: &str, names: &mut Vec<String>) {
    for entry in fs::read_dir(repository().join(dir)).unwrap() {
        let entry = entry.unwrap();
        let (path, name) = (dir.join(entry.file_name()), entry.file_name());
        let is_source = name != "target" && !name.to_str().unwrap().starts_with('.');
        if entry.file_type().unwrap().is_dir() && is_source {
            gather(&path, extension, names);
        }
        if path.extension().is_some_and(|found| found == extension) {
            names.push(path.to_str().unwrap().to_owned());
        }
    }
}

impl Page {
    /// Lines outside fenced blocks, with their numbers from 0.
    pub(crate) fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut fenced = false;
        self.text.lines().enumerate().filter(move |(_, line)| {
            let is_fence = line.trim_start().starts_with("```");
            fenced ^= is_fence;
            !fenced && !is_fence
        })
    }

    /// Anchors as GitHub makes them of headings.
    pub(crate) fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        for (_, line) in self.prose() {
            let Some(heading) = line.strip_prefix('#') else {
                continue;
            };
            let base = anchor(heading.trim_start_matches('#').trim());
            let before = anchors.iter().filter(|known| **known == base).count();
            anchors.push(if before == 0 {
                base
            } else {
                format!("{base}-{before}")
            });
        }
        anchors
    }
}

fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}
