//! Juniper Junos, as `set` commands or with braces.

use std::net::IpAddr;

use bgp_proto::types::Family;
use nom::branch::alt;
use nom::bytes::complete::{is_not, tag, take_until, take_while1};
use nom::character::complete::{char, one_of};
use nom::combinator::{map, recognize, value};
use nom::sequence::{delimited, pair};
use nom::{IResult, Parser};

use super::ReadError;
use super::cisco::{as_number, number};
use super::junos_policies::Policies;
use super::neighbors::{Collected, place};
use crate::format::Format;
use crate::router::{At, Place, RemoteAs, Router, Settings};
use crate::side::Ttl;

pub(super) fn read(text: &str) -> Result<Router, ReadError> {
    let mut router = Router::new(Format::Junos);
    let mut collected = Collected::default();
    let mut policies = Policies::default();
    let mut of_all = Settings::default();
    for statement in statements(text)? {
        let at = statement.line;
        let words: Vec<&str> = statement.words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["routing-options", "autonomous-system", asn, ..] => {
                router.asn = as_number(asn).map(|asn| At::new(at, asn));
            }
            ["interfaces", .., "address", address] => {
                let address: Option<IpAddr> = address.split('/').next().and_then(|text| text.parse().ok());
                router
                    .addresses
                    .extend(address.map(|address| At::new(at, address)));
            }
            ["policy-options", rest @ ..] => policies.statement(at, rest),
            [
                "protocols",
                "bgp",
                "group",
                group,
                "neighbor",
                neighbor,
                rest @ ..,
            ] => {
                collected.group(group);
                let name = format!("{group} {neighbor}");
                collected.place(&name, place(neighbor), at);
                collected.join(&name, group);
                apply(collected.settings(&name), at, rest);
            }
            [
                "protocols",
                "bgp",
                "group",
                group,
                "dynamic-neighbor",
                name,
                rest @ ..,
            ] => {
                dynamic(&mut collected, at, group, name, rest);
            }
            ["protocols", "bgp", "group", group, "allow", "all"] => {
                for range in ["0.0.0.0/0", "::/0"] {
                    allow(&mut collected, at, group, range);
                }
            }
            ["protocols", "bgp", "group", group, "allow", ranges @ ..] => {
                for range in ranges {
                    allow(&mut collected, at, group, range);
                }
            }
            ["protocols", "bgp", "group", group, rest @ ..] => {
                collected.group(group);
                apply(collected.settings(group), at, rest);
            }
            ["protocols", "bgp", rest @ ..] => apply(&mut of_all, at, rest),
            _ => {}
        }
    }
    router.neighbors = collected.resolve(&of_all);
    router.neighbors.iter_mut().for_each(|neighbor| {
        // Without `family` a session carries the family of its addresses.
        if neighbor
            .settings
            .families
            .values()
            .all(|family| family.active.is_none())
        {
            let family = match &neighbor.place {
                Place::Address(IpAddr::V4(_)) => Family::Ipv4,
                Place::Address(IpAddr::V6(_)) | Place::Interface(_) => Family::Ipv6,
                Place::Range(range) => range.family(),
            };
            let line = neighbor.line;
            neighbor.settings.family(family).active = Some(At::new(line, true));
        }
    });
    router.filters = policies.finish();
    Ok(router)
}

fn allow(collected: &mut Collected, at: usize, group: &str, range: &str) {
    let name = format!("{group} {range}");
    collected.place(&name, place(range), at);
    collected.join(&name, group);
}

fn dynamic(collected: &mut Collected, at: usize, group: &str, name: &str, words: &[&str]) {
    let own = format!("{group} dynamic {name}");
    collected.group(&own);
    collected.join(&own, group);
    match words {
        ["allow", ranges @ ..] => {
            for range in ranges {
                let neighbor = format!("{group} {range}");
                collected.place(&neighbor, place(range), at);
                collected.join(&neighbor, &own);
            }
        }
        ["peer-auto-discovery", "interface", port, ..] => {
            let neighbor = format!("{group} {port}");
            collected.place(&neighbor, Place::Interface((*port).to_owned()), at);
            collected.join(&neighbor, &own);
        }
        ["peer-as-list", ..] => {
            collected.settings(&own).remote_as = Some(At::new(at, RemoteAs::Unknown));
        }
        _ => {}
    }
}

/// A statement of BGP as a whole, a group or a neighbor.
fn apply(settings: &mut Settings, at: usize, words: &[&str]) {
    let yes = Some(At::new(at, true));
    match words {
        ["type", "internal"] => settings.remote_as = Some(At::new(at, RemoteAs::Internal)),
        ["peer-as", asn] => {
            settings.remote_as = Some(At::new(
                at,
                as_number(asn).map_or(RemoteAs::Unknown, RemoteAs::One),
            ));
        }
        ["peer-as-list", ..] => settings.remote_as = Some(At::new(at, RemoteAs::Unknown)),
        ["local-as", asn, ..] => settings.local_as = as_number(asn).map(|asn| At::new(at, asn)),
        ["authentication-key" | "authentication-key-chain", ..] => settings.transport.password = yes,
        ["hold-time", hold] => settings.hold = number(hold).map(|hold| At::new(at, hold)),
        ["ttl", "255"] => settings.transport.ttl = Some(At::new(at, Ttl::Security(1))),
        ["multihop"] => settings.transport.ttl = Some(At::new(at, Ttl::Multihop(64))),
        // The number of hops of GTSM stands in a firewall filter.
        ["multihop", "ttl", hops] => {
            settings.transport.ttl = number(hops).map(|hops| At::new(at, Ttl::Multihop(hops)));
        }
        ["passive"] => settings.transport.passive = yes,
        ["disable"] | ["shutdown", ..] => settings.shutdown = yes,
        ["graceful-restart", "disable"] => settings.graceful_restart = Some(At::new(at, false)),
        ["bfd-liveness-detection", rest @ ..] => bfd(settings, at, rest),
        ["advertise-peer-as"] => each_family(settings, |own| own.sends_own_as = yes),
        ["as-override"] => each_family(settings, |own| own.as_override = yes),
        ["import", names @ ..] => {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            each_family(settings, |own| more(&mut own.import, at, &names));
        }
        ["export", names @ ..] => {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            each_family(settings, |own| more(&mut own.export, at, &names));
        }
        ["family", family, "unicast" | "any", rest @ ..] => {
            let family = match *family {
                "inet" => Family::Ipv4,
                "inet6" => Family::Ipv6,
                _ => return,
            };
            if let ["extended-nexthop"] = rest {
                settings.transport.extended_next_hop = yes;
            }
            let own = settings.family(family);
            own.active = own.active.or(yes);
            if let ["prefix-limit" | "accepted-prefix-limit", "maximum", limit] = rest {
                own.max_prefixes = number(limit).map(|limit| At::new(at, limit));
            }
        }
        _ => {}
    }
}

fn each_family(settings: &mut Settings, set: impl Fn(&mut crate::router::FamilySettings)) {
    for family in Family::ALL {
        set(settings.family(family));
    }
}

/// `set` commands name one policy each.
fn more(list: &mut Option<At<Vec<String>>>, at: usize, names: &[String]) {
    let list = list.get_or_insert_with(|| At::new(at, Vec::new()));
    list.value.extend_from_slice(names);
}

fn bfd(settings: &mut Settings, at: usize, words: &[&str]) {
    let known = settings.bfd.and_then(|bfd| bfd.value).unwrap_or_default();
    let mut bfd = known;
    match words {
        ["minimum-interval" | "minimum-receive-interval", interval] => bfd.interval = number(interval),
        ["multiplier", multiplier] => bfd.multiplier = number(multiplier),
        _ => {}
    }
    settings.bfd = Some(At::new(at, Some(bfd)));
}

/// A statement with all that it stands in.
#[derive(Debug)]
struct Statement {
    line: usize,
    words: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token<'a> {
    Word(&'a str),
    Open,
    Close,
    ListOpen,
    ListClose,
    End,
    NewLine,
}

fn token(text: &str) -> IResult<&str, Option<Token<'_>>> {
    let word = take_while1(|c: char| !c.is_whitespace() && !"{};[]\"#".contains(c));
    let quoted = delimited(char('"'), is_not("\""), char('"'));
    let comment = alt((
        recognize((tag("/*"), take_until("*/"), tag("*/"))),
        recognize(pair(char('#'), nom::bytes::complete::take_till(|c| c == '\n'))),
    ));
    alt((
        value(None, comment),
        value(Some(Token::NewLine), char('\n')),
        value(None, one_of(" \t\r")),
        value(Some(Token::Open), char('{')),
        value(Some(Token::Close), char('}')),
        value(Some(Token::ListOpen), char('[')),
        value(Some(Token::ListClose), char(']')),
        value(Some(Token::End), char(';')),
        map(tag("\"\""), |_| Some(Token::Word(""))),
        map(quoted, |word| Some(Token::Word(word))),
        map(word, |word| Some(Token::Word(word))),
    ))
    .parse(text)
}

/// All statements, in both forms of the configuration.
fn statements(text: &str) -> Result<Vec<Statement>, ReadError> {
    let mut found = Vec::new();
    let mut outer: Vec<Vec<String>> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let (mut rest, mut line, mut start, mut in_list) = (text, 1, 1, false);
    while !rest.is_empty() {
        let syntax = |cause: &str| ReadError::Syntax {
            format: Format::Junos,
            line,
            cause: cause.to_owned(),
        };
        let (after, token) = token(rest).map_err(|_| syntax("a word or a brace is missing"))?;
        let newlines = rest
            .get(..rest.len() - after.len())
            .map_or(0, |text| text.matches('\n').count());
        match token {
            None => {}
            Some(Token::Word(word)) => {
                if words.is_empty() {
                    start = line;
                }
                words.push(word.to_owned());
            }
            Some(Token::Open) => outer.push(std::mem::take(&mut words)),
            Some(Token::Close) => {
                outer
                    .pop()
                    .ok_or_else(|| syntax("a brace closes that was not opened"))?;
                words.clear();
            }
            Some(Token::ListOpen) => in_list = true,
            Some(Token::ListClose) => in_list = false,
            Some(Token::End) => found.push(nested(&outer, &mut words, start)),
            // A set command ends with its line.
            Some(Token::NewLine) if words.first().is_some_and(|word| word == "set") && !in_list => {
                words.remove(0);
                found.push(nested(&outer, &mut words, start));
            }
            // `deactivate`, `delete` and other commands are none of the configuration.
            Some(Token::NewLine) if outer.is_empty() && !in_list && is_command(&words) => words.clear(),
            Some(Token::NewLine) => {}
        }
        line += newlines;
        rest = after;
    }
    if words.first().is_some_and(|word| word == "set") {
        words.remove(0);
        found.push(nested(&outer, &mut words, start));
    }
    Ok(found)
}

fn is_command(words: &[String]) -> bool {
    let first = words.first().map(String::as_str);
    matches!(
        first,
        Some("delete" | "deactivate" | "activate" | "edit" | "top" | "commit")
    )
}

fn nested(outer: &[Vec<String>], words: &mut Vec<String>, line: usize) -> Statement {
    let mut all: Vec<String> = outer.iter().flatten().cloned().collect();
    all.append(words);
    Statement { line, words: all }
}
