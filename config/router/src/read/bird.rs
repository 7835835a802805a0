//! BIRD 2.

use std::collections::BTreeMap;
use std::net::IpAddr;

use bgp_proto::types::{Family, Prefix};
use nom::branch::alt;
use nom::bytes::complete::{is_not, tag, take_till, take_until, take_while1};
use nom::character::complete::{char, multispace1, one_of};
use nom::combinator::{map, recognize, value};
use nom::sequence::{delimited, pair};
use nom::{IResult, Parser};

use super::ReadError;
use super::cisco::number;
use super::neighbors::Collected;
use crate::format::Format;
use crate::router::{At, Filter, Place, ReadBfd, RemoteAs, Router, Settings, Term};
use crate::side::{PrefixRange, Ttl};

pub(super) fn read(text: &str) -> Result<Router, ReadError> {
    let tree = tree(text)?;
    let mut reader = Reader {
        router: Router::new(Format::Bird),
        collected: Collected::default(),
        defines: BTreeMap::new(),
        inline: 0,
    };
    for statement in &tree {
        reader.top(statement);
    }
    let mut router = reader.router;
    router.neighbors = reader.collected.resolve(&Settings::default());
    // Each protocol has its own AS.
    router.asn = router.asn.or_else(|| {
        router
            .neighbors
            .iter()
            .find_map(|neighbor| neighbor.settings.local_as)
    });
    Ok(router)
}

struct Reader {
    router: Router,
    collected: Collected,
    defines: BTreeMap<String, String>,
    /// Filters without a name.
    inline: usize,
}

impl Reader {
    fn top(&mut self, statement: &Statement) {
        let words = self.words(statement);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let at = statement.line;
        match words.as_slice() {
            ["define", name, "=", value] => {
                self.defines.insert((*name).to_owned(), (*value).to_owned());
            }
            ["filter", name] => {
                let filter = filter(at, &statement.block);
                self.router.filters.insert((*name).to_owned(), filter);
            }
            ["template", "bgp", name, rest @ ..] => {
                self.collected.group(name);
                self.bgp(name, rest, statement);
            }
            ["protocol", "bgp", rest @ ..] => {
                let name = rest.first().filter(|word| **word != "from");
                let own = format!("line {at}");
                self.bgp(name.map_or(own.as_str(), |name| name), rest, statement);
            }
            _ => {}
        }
    }

    /// Words with what `define` put in their place.
    fn words(&self, statement: &Statement) -> Vec<String> {
        let resolve = |word: &String| self.defines.get(word).unwrap_or(word).clone();
        statement.words.iter().map(resolve).collect()
    }

    fn bgp(&mut self, name: &str, rest: &[&str], statement: &Statement) {
        let from = rest.iter().position(|word| *word == "from");
        if let Some(template) = from.and_then(|at| rest.get(at + 1)) {
            self.collected.join(name, template);
        }
        for inner in &statement.block {
            self.of_bgp(name, inner);
        }
    }

    fn of_bgp(&mut self, name: &str, statement: &Statement) {
        let at = statement.line;
        let words = self.words(statement);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["local", rest @ ..] => {
                let asn = rest.iter().position(|word| *word == "as");
                let asn = asn.and_then(|position| number(rest.get(position + 1)?));
                let address = rest.first().and_then(|word| word.parse::<IpAddr>().ok());
                self.router
                    .addresses
                    .extend(address.map(|address| At::new(at, address)));
                let settings = self.collected.settings(name);
                settings.local_as = asn.map(|asn| At::new(at, asn)).or(settings.local_as);
            }
            ["neighbor", "range", range, whose @ ..] => self.neighbor(name, at, place(range), whose),
            ["neighbor", address, whose @ ..] => self.neighbor(name, at, place(address), whose),
            ["ipv4", ..] => self.channel(name, at, Family::Ipv4, statement),
            ["ipv6", ..] => self.channel(name, at, Family::Ipv6, statement),
            ["bfd", rest @ ..] => {
                let bfd = bfd(rest, &statement.block);
                self.collected.settings(name).bfd = Some(At::new(at, bfd));
            }
            words => of_session(self.collected.settings(name), at, words),
        }
    }

    fn neighbor(&mut self, name: &str, at: usize, place: Option<Place>, whose: &[&str]) {
        let Some(place) = place else { return };
        self.collected.place(name, place, at);
        let remote = match whose {
            ["as", asn, ..] => number(asn).map(RemoteAs::One),
            ["port", _, "as", asn, ..] => number(asn).map(RemoteAs::One),
            [.., "external"] => Some(RemoteAs::External),
            [.., "internal"] => Some(RemoteAs::Internal),
            _ => None,
        };
        let settings = self.collected.settings(name);
        settings.remote_as = remote
            .map(|remote| At::new(at, remote))
            .or(settings.remote_as.take());
    }

    fn channel(&mut self, name: &str, at: usize, family: Family, statement: &Statement) {
        self.collected.settings(name).family(family).active = Some(At::new(at, true));
        for inner in &statement.block {
            let at = inner.line;
            let words = self.words(inner);
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            match words.as_slice() {
                ["import", "limit", limit, ..] => {
                    let limit = number(limit).map(|limit| At::new(at, limit));
                    self.collected.settings(name).family(family).max_prefixes = limit;
                }
                ["extended", "next", "hop", rest @ ..] => {
                    let flag = Some(At::new(at, is_on(rest)));
                    self.collected.settings(name).transport.extended_next_hop = flag;
                }
                [direction @ ("import" | "export"), what @ ..] => {
                    let Some(filter) = self.filter_name(at, what, &inner.block) else {
                        continue;
                    };
                    let value = Some(At::new(at, vec![filter]));
                    let own = self.collected.settings(name).family(family);
                    if *direction == "import" {
                        own.import = value;
                    } else {
                        own.export = value;
                    }
                }
                _ => {}
            }
        }
    }

    /// The name of the filter that `import` or `export` names; one that stands here gets a name.
    fn filter_name(&mut self, at: usize, what: &[&str], block: &[Statement]) -> Option<String> {
        let inline = match what {
            ["filter", name] => return Some((*name).to_owned()),
            ["all"] => Filter {
                line: at,
                otherwise: Some(true),
                ..Filter::default()
            },
            ["none"] => Filter {
                line: at,
                otherwise: Some(false),
                ..Filter::default()
            },
            ["filter"] => filter(at, block),
            ["where", condition @ ..] => {
                let mut filter = Filter {
                    line: at,
                    otherwise: Some(false),
                    ..Filter::default()
                };
                match net_in(condition) {
                    Some(ranges) => filter.terms.extend(permitted(ranges, true)),
                    None => filter.is_partial = true,
                }
                filter
            }
            _ => return None,
        };
        self.inline += 1;
        let name = format!("{} of line {at}", self.inline);
        self.router.filters.insert(name.clone(), inline);
        Some(name)
    }
}

fn place(text: &str) -> Option<Place> {
    if let Ok(address) = text.split('%').next().unwrap_or(text).parse() {
        return Some(Place::Address(address));
    }
    text.parse().ok().map(Place::Range)
}

/// `on`, or nothing, is on.
fn is_on(words: &[&str]) -> bool {
    !matches!(words.first(), Some(&("off" | "no" | "false" | "disabled")))
}

fn bfd(words: &[&str], block: &[Statement]) -> Option<ReadBfd> {
    if !is_on(words) {
        return None;
    }
    let mut bfd = ReadBfd::default();
    for inner in block {
        let words: Vec<&str> = inner.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["interval" | "min", .., count, unit @ ("ms" | "s")] => {
                let count: Option<u32> = number(count);
                let factor = if *unit == "s" { 1000 } else { 1 };
                bfd.interval = count.map(|count| count.saturating_mul(factor));
            }
            ["multiplier", count] => bfd.multiplier = number(count),
            _ => {}
        }
    }
    Some(bfd)
}

fn of_session(settings: &mut Settings, at: usize, words: &[&str]) {
    match words {
        ["hold", "time", hold] => settings.hold = number(hold).map(|hold| At::new(at, hold)),
        ["password", ..] => settings.transport.password = Some(At::new(at, true)),
        ["direct"] => {
            let is_gtsm = matches!(
                settings.transport.ttl,
                Some(At {
                    value: Ttl::Security(_),
                    ..
                })
            );
            if !is_gtsm {
                settings.transport.ttl = Some(At::new(at, Ttl::Direct));
            }
        }
        ["multihop", rest @ ..] => {
            let hops = rest.first().and_then(|hops| number(hops)).unwrap_or(64);
            let is_gtsm = matches!(
                settings.transport.ttl,
                Some(At {
                    value: Ttl::Security(_),
                    ..
                })
            );
            let ttl = if is_gtsm {
                Ttl::Security(hops)
            } else {
                Ttl::Multihop(hops)
            };
            settings.transport.ttl = Some(At::new(at, ttl));
        }
        ["ttl", "security", rest @ ..] => {
            let hops = match settings.transport.ttl {
                Some(At {
                    value: Ttl::Multihop(hops),
                    ..
                }) => hops,
                _ => 1,
            };
            if is_on(rest) {
                settings.transport.ttl = Some(At::new(at, Ttl::Security(hops)));
            }
        }
        ["graceful", "restart", rest @ ..] => settings.graceful_restart = Some(At::new(at, is_on(rest))),
        ["passive", rest @ ..] => settings.transport.passive = Some(At::new(at, is_on(rest))),
        ["disabled", rest @ ..] => settings.shutdown = Some(At::new(at, is_on(rest))),
        _ => {}
    }
}

/// A filter: `if net ~ [ … ] then accept;` and a last word. Anything else depends on more than the prefix.
fn filter(line: usize, block: &[Statement]) -> Filter {
    let mut filter = Filter {
        line,
        // BIRD rejects where a filter has no last word.
        otherwise: Some(false),
        ..Filter::default()
    };
    for statement in block {
        let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["accept"] => {
                filter.otherwise = Some(true);
                break;
            }
            ["reject"] => break,
            ["if", condition @ ..] => {
                let then = condition.iter().position(|word| *word == "then");
                let (condition, action) = condition.split_at(then.unwrap_or(condition.len()));
                let in_block = statement.block.first().map(|inner| inner.words.join(" "));
                let action = action.get(1).map(|word| (*word).to_owned()).or(in_block);
                let permits = match action.as_deref() {
                    Some("accept") => Some(true),
                    Some("reject") => Some(false),
                    _ => None,
                };
                match (net_in(condition), permits) {
                    (Some(ranges), Some(permits)) => filter.terms.extend(permitted(ranges, permits)),
                    _ => filter.is_partial = true,
                }
            }
            [] => {}
            _ => filter.is_partial = true,
        }
    }
    filter
}

fn permitted(ranges: Vec<PrefixRange>, permits: bool) -> impl Iterator<Item = Term> {
    ranges.into_iter().map(move |range| Term { range, permits })
}

/// The ranges of `net ~ [ 10.244.0.0/16{24,28}, … ]`.
fn net_in(words: &[&str]) -> Option<Vec<PrefixRange>> {
    let words: Vec<&str> = words
        .iter()
        .copied()
        .filter(|word| !matches!(*word, "(" | ")"))
        .collect();
    let ["net", "~", "[", items @ .., "]"] = words.as_slice() else {
        return None;
    };
    items
        .split(|word| *word == ",")
        .map(|item| match item {
            [one] => range(one),
            _ => None,
        })
        .collect()
}

/// `10.244.0.0/16`, with `+`, `-` or `{24,28}` behind it.
fn range(text: &str) -> Option<PrefixRange> {
    let end = text.find(['+', '-', '{']).unwrap_or(text.len());
    let (prefix, suffix) = text.split_at_checked(end)?;
    let prefix: Prefix = prefix.parse().ok()?;
    let (own, longest) = (prefix.len(), prefix.family().max_len());
    let (min, max) = match suffix {
        "" => (own, own),
        "+" => (own, longest),
        "-" => (0, own),
        lengths => {
            let (min, max) = lengths.trim_matches(['{', '}']).split_once(',')?;
            (min.trim().parse().ok()?, max.trim().parse().ok()?)
        }
    };
    Some(PrefixRange { prefix, min, max })
}

/// Words up to a `;`, with the statements in braces behind them.
#[derive(Debug)]
struct Statement {
    line: usize,
    words: Vec<String>,
    block: Vec<Statement>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// A prefix with lengths is one word: its braces open nothing.
fn token(text: &str) -> IResult<&str, Option<Token>> {
    let comment = alt((
        recognize((tag("/*"), take_until("*/"), tag("*/"))),
        recognize(pair(char('#'), take_till(|c| c == '\n'))),
    ));
    let is_prefix = |c: char| c.is_ascii_hexdigit() || ".:/".contains(c);
    let lengths = alt((
        recognize((char('{'), is_not("};"), char('}'))),
        tag("+"),
        tag("-"),
    ));
    let pattern = recognize((
        nom::combinator::verify(take_while1(is_prefix), |text: &str| text.contains('/')),
        lengths,
    ));
    let word = take_while1(|c: char| c.is_alphanumeric() || "._:/%-".contains(c));
    let quoted = delimited(char('"'), take_till(|c| c == '"'), char('"'));
    let owned = |text: &str| Some(Token::Word(text.to_owned()));
    alt((
        value(None, comment),
        value(None, multispace1),
        value(Some(Token::End), char(';')),
        map(pattern, owned),
        value(Some(Token::Open), char('{')),
        value(Some(Token::Close), char('}')),
        map(quoted, owned),
        map(word, owned),
        map(one_of("[](),=~!<>&|+*?@'$\\^"), |c| {
            Some(Token::Word(c.to_string()))
        }),
    ))
    .parse(text)
}

fn tree(text: &str) -> Result<Vec<Statement>, ReadError> {
    let mut stack: Vec<Vec<Statement>> = vec![Vec::new()];
    let mut headers: Vec<(usize, Vec<String>)> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let (mut rest, mut line, mut start) = (text, 1, 1);
    while !rest.is_empty() {
        let syntax = |cause: &str| ReadError::Syntax {
            format: Format::Bird,
            line,
            cause: cause.to_owned(),
        };
        let (after, token) = token(rest).map_err(|_| syntax("a word or a brace is missing"))?;
        let consumed = rest.get(..rest.len() - after.len()).unwrap_or_default();
        match token {
            None => {}
            Some(Token::Word(word)) => {
                if words.is_empty() {
                    start = line;
                }
                words.push(word);
            }
            Some(Token::Open) => {
                headers.push((start, std::mem::take(&mut words)));
                stack.push(Vec::new());
                start = line;
            }
            Some(Token::End) => close(&mut stack, start, &mut words, Vec::new()),
            Some(Token::Close) => {
                if !words.is_empty() {
                    close(&mut stack, start, &mut words, Vec::new());
                }
                let block = stack.pop().unwrap_or_default();
                let (start, mut header) = headers
                    .pop()
                    .ok_or_else(|| syntax("a brace closes that was not opened"))?;
                close(&mut stack, start, &mut header, block);
            }
        }
        line += consumed.matches('\n').count();
        rest = after;
    }
    match headers.last() {
        Some((line, _)) => Err(ReadError::Syntax {
            format: Format::Bird,
            line: *line,
            cause: "a brace is not closed".to_owned(),
        }),
        None => Ok(stack.pop().unwrap_or_default()),
    }
}

fn close(stack: &mut [Vec<Statement>], line: usize, words: &mut Vec<String>, block: Vec<Statement>) {
    if words.is_empty() && block.is_empty() {
        return;
    }
    if let Some(statements) = stack.last_mut() {
        statements.push(Statement {
            line,
            words: std::mem::take(words),
            block,
        });
    }
}
