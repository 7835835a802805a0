//! Configurations of one statement a line, where indentation or a leading word opens a section.

/// A statement.
#[derive(Debug)]
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: usize,
    /// Spaces in front.
    pub(super) indent: usize,
    pub(super) words: Vec<&'a str>,
}

/// The statements of a text, without comments.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().enumerate().filter_map(|(index, line)| {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with(['!', '#']) {
            return None;
        }
        Some(Line {
            number: index + 1,
            indent: line.len() - trimmed.len(),
            words: trimmed.split_whitespace().collect(),
        })
    })
}
