//! Reads the YAML tree: sections with known fields, lists, mappings and scalars; collects every error.
//!
//! Nothing here stops at the first error. A [`Cursor`] is a value with its path; [`Fields`] is an opened
//! section that has reported its unknown and duplicate keys. Reading a scalar gives [`Located`]: the value
//! with its place, so that later checks can point at it. `None` means absent *or already reported*.

use std::collections::BTreeMap;

use crate::problem::{Location, Position, Problems, quoted};
use crate::suggest::{nearest, other_name};
use crate::value::{Bad, Kind, Scalar};
use crate::yaml::{Entry, Node, Value};

/// A mapping with known fields.
#[derive(Debug)]
pub struct Section {
    /// Path of the section, as `peers[].timers`; empty for the top of the file.
    pub name: &'static str,
    /// Its fields, in the order of the documentation.
    pub fields: &'static [&'static str],
}

/// Longest list. Some checks compare each item with each other.
const MAX_ITEMS: usize = 10_000;

/// A value with the place where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    pub(crate) value: T,
    pub(crate) location: Location,
}

impl<T> Located<T> {
    pub(crate) fn new(value: T, location: &Location) -> Self {
        Self {
            value,
            location: location.clone(),
        }
    }
}

/// A value that is about to be read.
#[derive(Clone, Debug)]
pub(crate) struct Cursor<'a> {
    pub(crate) node: &'a Node,
    pub(crate) location: Location,
    pub(crate) problems: &'a Problems,
}

impl<'a> Cursor<'a> {
    pub(crate) fn root(node: &'a Node, problems: &'a Problems) -> Self {
        Self::named(node, problems, "")
    }

    /// The top of a document that is called something.
    pub(crate) fn named(node: &'a Node, problems: &'a Problems, name: &str) -> Self {
        Self {
            node,
            location: Location {
                path: name.to_owned(),
                position: node.position,
            },
            problems,
        }
    }

    pub(crate) fn error(&self, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.error(self.location.problem(message, remedy));
    }

    fn expected(&self, what: &str, example: &str) {
        let found = match &self.node.value {
            Value::Null => "nothing".to_owned(),
            Value::Scalar { .. } if is_secret(&self.location.path) => "a text that is not shown".to_owned(),
            Value::Scalar { text, .. } => quoted(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        };
        self.error(
            format!("expected {what}, found {found}"),
            format!("write it like {example}"),
        );
    }

    /// The text, when this is a scalar.
    pub(crate) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// An empty list, as written; not one whose items could not be read.
    pub(crate) fn is_empty_list(&self) -> bool {
        matches!(self.node.value, Value::List(_)) && self.len() == 0
    }

    /// How many items a list has, readable or not.
    pub(crate) fn len(&self) -> usize {
        match &self.node.value {
            Value::List(items) => items.len(),
            _ => 0,
        }
    }

    pub(crate) fn is_list(&self) -> bool {
        matches!(self.node.value, Value::List(_))
    }

    pub(crate) fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }

    /// Reads a scalar.
    pub(crate) fn scalar<T>(&self, kind: &Kind<T>) -> Option<Located<T>> {
        let Value::Scalar {
            text,
            quoted: in_quotes,
        } = &self.node.value
        else {
            self.expected(kind.what, kind.example);
            return None;
        };
        match (kind.parse)(Scalar {
            text,
            quoted: *in_quotes,
        }) {
            Ok(value) => Some(Located::new(value, &self.location)),
            Err(bad) => {
                let shown = if is_secret(&self.location.path) {
                    "the text, which is not shown,"
                } else {
                    text
                };
                let (message, remedy) = explain(bad, shown, kind.what, kind.example);
                self.error(message, remedy);
                None
            }
        }
    }

    /// The items of a list, described by `what`; `example` shows one item.
    pub(crate) fn items(&self, what: &str, example: &str) -> Vec<Cursor<'a>> {
        if self.len() > MAX_ITEMS {
            self.error(
                format!("a list of {} items, more than {MAX_ITEMS}", self.len()),
                "is it the right file?",
            );
            return Vec::new();
        }
        self.all_items(what, example)
    }

    /// The same, however many there are: for lists whose items are not compared with each other.
    pub(crate) fn all_items(&self, what: &str, example: &str) -> Vec<Cursor<'a>> {
        let Value::List(items) = &self.node.value else {
            self.expected(what, &format!("[{example}]"));
            return Vec::new();
        };
        let item = |(index, node): (usize, &'a Node)| Cursor {
            node,
            location: Location {
                path: format!("{}[{index}]", self.location.path),
                position: node.position,
            },
            problems: self.problems,
        };
        items.iter().enumerate().map(item).collect()
    }

    /// A list of scalars.
    pub(crate) fn scalars<T>(&self, kind: &Kind<T>) -> Vec<Located<T>> {
        let items = self.items(&format!("a list, each item {}", kind.what), kind.example);
        items.iter().filter_map(|item| item.scalar(kind)).collect()
    }

    /// The entries of a mapping with free keys, duplicates reported and left out.
    pub(crate) fn entries(&self, what: &str, example: &str) -> Vec<(Located<String>, Cursor<'a>)> {
        let Value::Map(entries) = &self.node.value else {
            self.expected(what, example);
            return Vec::new();
        };
        let mut seen = BTreeMap::new();
        entries
            .iter()
            .filter(|entry| self.is_first(&mut seen, entry))
            .map(|entry| {
                let location = Location {
                    path: join(&self.location.path, &entry.key),
                    position: entry.key_position,
                };
                let cursor = self.field(entry);
                (
                    Located {
                        value: entry.key.clone(),
                        location,
                    },
                    cursor,
                )
            })
            .collect()
    }

    /// Opens a section: reports keys that it does not know, and duplicates. Nothing is an empty section.
    pub(crate) fn fields(&self, section: &'static Section) -> Option<Fields<'a>> {
        let entries = match &self.node.value {
            Value::Map(entries) => entries.as_slice(),
            Value::Null => &[],
            _ => {
                let first = section.fields.first().copied().unwrap_or_default();
                // 'bfd: true': what is switched on by being there.
                let example = match self.text() {
                    Some("true") if section.name.ends_with("bfd") => "{}, which is all defaults".to_owned(),
                    _ => format!("{{{first}: …}}"),
                };
                self.expected("a mapping", &example);
                return None;
            }
        };
        let mut seen = BTreeMap::new();
        let mut fields = Fields {
            cursor: self.clone(),
            section,
            entries: Vec::new(),
            misspelt: Vec::new(),
        };
        for entry in entries {
            if !section.fields.contains(&entry.key.as_str()) {
                fields.misspelt.extend(self.unknown(entry, section));
            } else if self.is_first(&mut seen, entry) {
                fields.entries.push(entry);
            }
        }
        Some(fields)
    }

    fn field(&self, entry: &'a Entry) -> Cursor<'a> {
        let location = Location {
            path: join(&self.location.path, &entry.key),
            position: entry.value.position,
        };
        Cursor {
            node: &entry.value,
            location,
            problems: self.problems,
        }
    }

    fn is_first(&self, seen: &mut BTreeMap<&'a str, Position>, entry: &'a Entry) -> bool {
        let Some(first) = seen.get(entry.key.as_str()) else {
            seen.insert(&entry.key, entry.key_position);
            return true;
        };
        let location = Location {
            path: join(&self.location.path, &entry.key),
            position: entry.key_position,
        };
        let message = format!(
            "{} occurs twice, first in line {}",
            quoted(&entry.key),
            first.line
        );
        self.problems
            .error(location.problem(message, "keep one of the two"));
        false
    }

    /// Reports an unknown field; gives the field that was probably meant.
    fn unknown(&self, entry: &Entry, section: &'static Section) -> Option<&'static str> {
        let location = Location {
            path: join(&self.location.path, &entry.key),
            position: entry.key_position,
        };
        let place = if section.name.is_empty() {
            "at the top of the file".to_owned()
        } else {
            format!("in {}", section.name)
        };
        let meant = other_name(&entry.key, section.fields)
            .or_else(|| nearest(&entry.key, section.fields.iter().copied()));
        let remedy = match meant {
            Some(name) => format!("did you mean '{name}'?"),
            None => match self
                .problems
                .section_with(&entry.key)
                .filter(|other| *other != section.name)
            {
                Some("") => format!("'{}' stands at the top of the file", entry.key),
                Some(other) => format!("'{}' is a field of {other}", entry.key),
                None => format!("known are {}", section.fields.join(", ")),
            },
        };
        self.problems
            .error(location.problem(format!("unknown field {} {place}", quoted(&entry.key)), remedy));
        meant
    }
}

/// Whether what stands here must not be shown again, nor land in a log.
fn is_secret(path: &str) -> bool {
    let last = path.rsplit('.').next().unwrap_or(path);
    ["password", "secret", "key", "keys"]
        .iter()
        .any(|word| last.split('[').next() == Some(word))
}

fn explain(bad: Bad, text: &str, what: &str, example: &str) -> (String, String) {
    let text = quoted(text);
    match bad {
        Bad::Shape => (
            format!("{text} is not {what}"),
            format!("write it like {example}"),
        ),
        Bad::Range(range) => (format!("{text} is not {what}"), format!("use {range}")),
        Bad::Quoted => (
            format!("{text} is in quotes, which makes it a text and not {what}"),
            "remove the quotes".to_owned(),
        ),
        Bad::Said(problem, remedy) => (format!("{text} {problem}"), remedy),
    }
}

/// An opened section.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    cursor: Cursor<'a>,
    section: &'static Section,
    entries: Vec<&'a Entry>,
    /// Fields that unknown keys were probably meant to be.
    misspelt: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    pub(crate) fn location(&self) -> &Location {
        &self.cursor.location
    }

    /// The place of a field's name, or of the section when it is absent.
    pub(crate) fn key_spot(&self, name: &str) -> Location {
        let entry = self.entries.iter().find(|entry| entry.key == name);
        let position = entry.map_or(self.cursor.location.position, |entry| entry.key_position);
        Location {
            path: join(&self.cursor.location.path, name),
            position,
        }
    }

    /// A field; `None` when it is absent or has no value.
    pub(crate) fn get(&self, name: &str) -> Option<Cursor<'a>> {
        debug_assert!(
            self.section.fields.contains(&name),
            "{name} is not listed in {}",
            self.section.name
        );
        let entry = self.entries.iter().find(|entry| entry.key == name)?;
        (!matches!(entry.value.value, Value::Null)).then(|| self.cursor.field(entry))
    }

    /// Whether the operator wrote the field, readable or not, if misspelt: then it is not missing.
    pub(crate) fn is_given(&self, name: &str) -> bool {
        self.misspelt.contains(&name) || self.get(name).is_some()
    }

    /// A scalar field that may be absent.
    pub(crate) fn scalar<T>(&self, name: &str, kind: &Kind<T>) -> Option<Located<T>> {
        self.get(name)?.scalar(kind)
    }

    /// A scalar field that must be there.
    pub(crate) fn required<T>(&self, name: &str, kind: &Kind<T>) -> Option<Located<T>> {
        self.need(name, kind.example)?.scalar(kind)
    }

    /// The value of a field that must be there; `example` shows one.
    pub(crate) fn need(&self, name: &str, example: &str) -> Option<Cursor<'a>> {
        let found = self.get(name);
        if found.is_none() && !self.is_given(name) {
            let remedy = format!("add {name}: {example}");
            self.cursor
                .problems
                .error(self.key_spot(name).problem("missing", remedy));
        }
        found
    }

    /// A list of scalars, empty when absent.
    pub(crate) fn scalars<T>(&self, name: &str, kind: &Kind<T>) -> Vec<Located<T>> {
        self.get(name)
            .map(|cursor| cursor.scalars(kind))
            .unwrap_or_default()
    }

    /// A section inside this one.
    pub(crate) fn fields(&self, name: &str, section: &'static Section) -> Option<Fields<'a>> {
        self.get(name)?.fields(section)
    }
}

/// The path of a field: `base.key`, or `base["key"]` for keys that are no plain names.
pub(crate) fn join(base: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.len() <= 60
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    match (base.is_empty(), plain) {
        (true, true) => key.to_owned(),
        (false, true) => format!("{base}.{key}"),
        (_, false) => format!("{base}[{}]", quoted(key)),
    }
}
