//! Fenced blocks of a page: the language, the marks behind it, the text.

use std::collections::BTreeMap;

use crate::pages::Page;

#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// Line of the opening fence, from 0.
    pub(crate) line: usize,
    pub(crate) language: String,
    /// `key=value` or `key="some words"` behind the language; a word alone has an empty value.
    pub(crate) marks: BTreeMap<String, String>,
    pub(crate) text: String,
}

impl Block {
    pub(crate) fn mark(&self, name: &str) -> Option<&str> {
        self.marks.get(name).map(String::as_str)
    }

    /// The machines that it is for.
    pub(crate) fn machines(&self) -> Vec<&str> {
        self.mark("on")
            .map_or_else(Vec::new, |names| names.split(',').collect())
    }
}

pub(crate) fn blocks(page: &Page) -> Vec<Block> {
    let mut found = Vec::new();
    let mut open: Option<(Block, usize)> = None;
    for (number, line) in page.text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(info)) => open = Some((begun(number, info), indent)),
            (Some(_), Some(_)) => found.extend(open.take().map(|(block, _)| block)),
            (Some((block, indent)), None) => {
                block
                    .text
                    .push_str(line.get(*indent..).unwrap_or_else(|| line.trim_start()));
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{}: a block has no end: {open:?}", page.name);
    found
}

fn begun(line: usize, info: &str) -> Block {
    let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
    Block {
        line,
        language: language.trim().to_owned(),
        marks: marks(rest),
        text: String::new(),
    }
}

fn marks(mut rest: &str) -> BTreeMap<String, String> {
    let mut marks = BTreeMap::new();
    while !rest.trim_start().is_empty() {
        rest = rest.trim_start();
        let end = rest.find(['=', ' ']).unwrap_or(rest.len());
        let (key, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix("=\"") {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => match after.strip_prefix('=') {
                Some(plain) => plain.split_at(plain.find(' ').unwrap_or(plain.len())),
                None => ("", after),
            },
        };
        marks.insert(key.to_owned(), value.to_owned());
        rest = after;
    }
    marks
}
