//! No text makes `load` panic or hang: every good file cut at each octet, with octets changed, lines
//! swapped and pieces of YAML thrown in. Errors must always stand inside the text.
#![cfg(test)]

use std::fs;
use std::path::Path;

fn good_files() -> Vec<String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ok");
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    files.sort();
    files
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect()
}

fn check(text: &str) {
    match podroute_config::load(text) {
        Ok(config) => drop(config.explain()),
        Err(errors) => {
            // YAML ends a line also at a lone carriage return.
            let lines = text.matches(['\n', '\r']).count() + 2;
            assert!(!errors.problems().is_empty(), "{text}");
            for problem in errors.problems() {
                assert!(
                    (1..=lines).contains(&problem.line) && problem.column >= 1,
                    "{problem}\n{text}"
                );
                assert!(
                    !problem.to_string().chars().any(char::is_control),
                    "{problem:?}\n{text}"
                );
            }
        }
    }
}

/// A small generator (xorshift): the same texts in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound.max(1) as u64).unwrap()
    }
}

#[test]
fn cut_anywhere() {
    for text in good_files() {
        let ends = (0..=text.len()).filter(|end| text.is_char_boundary(*end));
        ends.for_each(|end| check(&text[..end]));
    }
}

#[test]
fn changed_anywhere() {
    const PIECES: [&str; 34] = [
        "{", "}", "[", "]", ": ", "- ", "\n", "  ", "\t", "&a ", "*a", "!x ", "!!str ", "|", ">-\n", "'",
        "\"", "#", " #", "%", "@", "`", "? ", ",", "---\n", "...\n", "\\x", "\u{feff}", "\u{85}", "é", "\r",
        "~", "\0", "<<: ",
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for text in good_files() {
        for _ in 0..1500 {
            let mut chars: Vec<char> = text.chars().collect();
            for _ in 0..=random.below(6) {
                let at = random.below(chars.len());
                match random.below(4) {
                    0 => drop(chars.drain(at..(at + 1 + random.below(9)).min(chars.len()))),
                    1 => chars[at] = char::from(u8::try_from(random.below(127)).unwrap()),
                    _ => drop(
                        chars
                            .splice(at..at, PIECES[random.below(PIECES.len())].chars())
                            .count(),
                    ),
                }
            }
            check(&chars.iter().collect::<String>());
        }
        let lines: Vec<&str> = text.lines().collect();
        for _ in 0..500 {
            let mut lines = lines.clone();
            let (a, b) = (random.below(lines.len()), random.below(lines.len()));
            lines.swap(a, b);
            check(&lines.join("\n"));
        }
    }
}

#[test]
fn large_and_deep() {
    let many = |piece: &str, times: usize| piece.repeat(times);
    let head = "apiVersion: podroute/v1\ncluster: {asn: 64512}\n";
    for text in [
        many("[", 100_000),
        many("{a: ", 100_000),
        many("- ", 100_000),
        many("? ", 100_000),
        many("&a ", 100_000),
        many("#", 1 << 20),
        many("x", (1 << 20) + 1),
        format!("{head}peers:\n{}", many("- {}\n", 10_000)),
        format!(
            "{head}node: {{addresses: [{}]}}\n",
            (0..10_000)
                .map(|i| format!("10.0.{}.{},", i / 250, i % 250))
                .collect::<String>()
        ),
        format!(
            "{head}node: {{blocks: [{}]}}\n",
            (0..10_000)
                .map(|i| format!("10.{}.{}.0/24,", i / 250, i % 250))
                .collect::<String>()
        ),
        format!(
            "{head}peers:\n{}",
            many("- {name: a, address: 192.0.2.1, asn: 64512}\n", 5_000)
        ),
        format!(
            "{head}policies:\n  p:\n{}",
            many("  - {action: accept}\n", 20_000)
        ),
        (0..50_000).fold(head.to_owned(), |text, i| format!("{text}k{i}: v\n")),
    ] {
        check(&text);
    }
}

#[test]
fn lists_have_a_limit() {
    let items = "192.0.2.1, ".repeat(10_001);
    let errors = podroute_config::load(&format!("{{node: {{addresses: [{items}]}}}}")).unwrap_err();
    let about = |problem: &podroute_config::Problem| problem.message.contains("more than 10000");
    assert!(errors.problems().iter().any(about), "{errors}");
}
