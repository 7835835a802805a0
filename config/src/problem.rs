//! Errors and warnings of a configuration: location, cause and remedy.
//!
//! A [`Problem`] is formatted like a compiler's message:
//! `podroute.yaml:12:9: peers[0].timers.hold: '2s' is not allowed: …; use 9s …`. Text from the file is
//! escaped and cut before it is quoted, so that a hostile file cannot write to the terminal.

use std::cell::RefCell;
use std::fmt;

use crate::model::Rejected;

/// A position in the text: line and column from 1, the column in characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Position {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// The place of a value: its path in the document and its position in the text.
#[derive(Clone, Debug)]
pub(crate) struct Location {
    pub(crate) path: String,
    pub(crate) position: Position,
}

impl Location {
    pub(crate) fn problem(&self, message: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem {
            path: self.path.clone(),
            line: self.position.line,
            column: self.position.column,
            message: message.into().chars().flat_map(visible).collect(),
            remedy: remedy.into().chars().flat_map(visible).collect(),
        }
    }
}

/// One error or warning.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Path of the value, as `peers[2].timers.hold`; empty for the file as a whole.
    pub path: String,
    /// Line in the text, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it, without a full stop.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// All errors of a configuration, in the order of the text; never empty.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Errors(Vec<Problem>);

impl Errors {
    /// The errors, in the order of the text.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// The errors as lines `FILE:LINE:COLUMN: PATH: MESSAGE; REMEDY`.
    #[must_use]
    pub fn in_file(&self, file: &str) -> String {
        self.0
            .iter()
            .map(|problem| format!("{file}:{problem}\n"))
            .collect()
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        Ok(())
    }
}

/// Collects errors and warnings while a document is read.
#[derive(Default, Debug)]
pub(crate) struct Problems {
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    rejected: RefCell<Vec<Rejected>>,
    unready: RefCell<Vec<String>>,
    /// Name and fields of every section, to say where a field belongs.
    sections: Vec<(&'static str, &'static [&'static str])>,
}

impl Problems {
    /// The problems of a file with these sections.
    pub(crate) fn of(sections: impl IntoIterator<Item = (&'static str, &'static [&'static str])>) -> Self {
        Self {
            sections: sections.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The section that has this field.
    pub(crate) fn section_with(&self, field: &str) -> Option<&'static str> {
        let found = self.sections.iter().find(|(_, fields)| fields.contains(&field));
        found.map(|(name, _)| *name)
    }

    pub(crate) fn error(&self, problem: Problem) {
        self.errors.borrow_mut().push(problem);
    }

    pub(crate) fn warn(&self, problem: Problem) {
        self.warnings.borrow_mut().push(problem);
    }

    /// Rejects one fact of Kubernetes; the others stay in use.
    pub(crate) fn reject(&self, subject: impl Into<String>, reason: impl Into<String>) {
        let clean = |text: String| text.chars().flat_map(visible).collect();
        self.rejected.borrow_mut().push(Rejected {
            subject: clean(subject.into()),
            reason: clean(reason.into()),
        });
    }

    /// Records why the node cannot be ready with the facts of Kubernetes.
    pub(crate) fn unready(&self, why: impl Into<String>) {
        self.unready.borrow_mut().push(why.into());
    }

    /// The configuration with its warnings when nothing was wrong, else all the errors.
    pub(crate) fn finish(self, config: Option<crate::Config>) -> Result<crate::Config, Errors> {
        let in_order = |list: RefCell<Vec<Problem>>| {
            let mut list = list.into_inner();
            list.sort_by_key(|problem| (problem.line, problem.column));
            list
        };
        let errors = in_order(self.errors);
        match config {
            Some(config) if errors.is_empty() => Ok(crate::Config {
                warnings: in_order(self.warnings),
                rejected: self.rejected.into_inner(),
                unready: self.unready.into_inner(),
                ..config
            }),
            _ => Err(Errors(errors)),
        }
    }
}

/// Text of the file in quotes, with control characters escaped and cut to a length that fits a line.
pub(crate) fn quoted(text: &str) -> String {
    const MOST: usize = 60;
    let mut short: String = text.chars().take(MOST).flat_map(visible).collect();
    if text.chars().nth(MOST).is_some() {
        short.push('…');
    }
    format!("'{short}'")
}

/// Whether a terminal would not show the character itself. Bidirectional marks are included: they can reorder a line.
pub(crate) fn is_hidden(c: char) -> bool {
    let mark =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    c.is_control() || mark
}

fn visible(c: char) -> Box<dyn Iterator<Item = char>> {
    if is_hidden(c) {
        Box::new(c.escape_default())
    } else {
        Box::new(std::iter::once(c))
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn quotes_are_harmless() {
        assert_eq!(quoted("a\u{1b}[31m"), "'a\\u{1b}[31m'");
        assert_eq!(quoted("zürich"), "'zürich'");
        assert_eq!(quoted(&"x".repeat(61)), format!("'{}…'", "x".repeat(60)));
    }
}
