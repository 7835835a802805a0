//! CONTRIBUTING.md, "Language": words that have a standard term do not occur in pages, help texts and comments.

use crate::pages::{self, everywhere};
use crate::reference::{help, leaves};

/// Not this, but that.
const PRIVATE: [(&str, &str); 18] = [
    ("told", "advertised, reported or informed"),
    ("tell", "advertise, report or inform"),
    ("tells", "advertises, reports or informs"),
    ("heard", "received"),
    ("hear", "receive"),
    ("hears", "receives"),
    ("anew", "again"),
    ("of ours", "own, or of podroute"),
    ("of before", "previous"),
    ("so many", "this number of, or at most n"),
    ("for so long", "for this time"),
    ("at the most", "at most"),
    ("let go", "released, written or removed"),
    ("lets go", "releases, writes or removes"),
    ("hand out", "allocate"),
    ("hands out", "allocates"),
    ("handed out", "allocated"),
    ("shall", "the present tense; MUST in a quoted RFC"),
];

/// The first word of the list in this text, with what to write.
fn found(text: &str) -> Option<(&'static str, &'static str)> {
    let text = text.to_lowercase();
    let is_word = |at: usize, end: usize| {
        let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        !is_part(text[..at].chars().next_back()) && !is_part(text[end..].chars().next())
    };
    PRIVATE.into_iter().find(|(word, _)| {
        let mut places = text.match_indices(word);
        places.any(|(at, _)| is_word(at, at + word.len()))
    })
}

fn check<'a>(lines: impl Iterator<Item = (String, &'a str)>) {
    let wrong: Vec<String> = lines
        .filter_map(|(place, line)| {
            let (word, better) = found(line)?;
            Some(format!("{place}: '{word}': write {better}: {}", line.trim()))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn words_are_found_whole_and_in_any_case() {
    assert_eq!(found("Peers are Told of it").map(|(word, _)| word), Some("told"));
    assert_eq!(found("told").map(|(word, _)| word), Some("told"));
    assert_eq!(found("shallow, retold, told_all"), None);
}

#[test]
fn pages_use_the_fields_terms() {
    let pages = everywhere();
    assert!(pages.len() > 40, "{}", pages.len());
    check(pages.iter().flat_map(|page| {
        let line = |(number, line)| (format!("{}:{}", page.name, number + 1), line);
        page.prose().map(line)
    }));
}

#[test]
fn help_texts_use_the_fields_terms() {
    let commands = leaves(&[]);
    assert!(commands.len() > 20, "{commands:?}");
    for command in commands.iter().chain([&vec![]]) {
        let text = help(command);
        check(
            text.lines()
                .map(|line| (format!("podroute {command:?} --help"), line)),
        );
    }
}

#[test]
fn comments_use_the_fields_terms() {
    let own = "e2e/tests/documents/words.rs";
    let files: Vec<_> = pages::files("", "rs")
        .into_iter()
        .filter(|name| name != own)
        .collect();
    assert!(files.len() > 300, "{}", files.len());
    for name in files {
        let text = pages::page(&name).text;
        let comments = text.lines().enumerate().filter_map(|(number, line)| {
            let (_, comment) = line.split_once("//")?;
            Some((format!("{name}:{}", number + 1), comment))
        });
        check(comments);
    }
}
