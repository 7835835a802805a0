//! `podroute diff`, for people: what comes with `+`, what goes with `-`, what changes with `~`.

use std::collections::BTreeMap;

use crate::status::{DiffStatus, PeerDiff};

/// More of one kind are counted.
const SHOWN: usize = 20;

pub(super) fn text(diff: &DiffStatus) -> String {
    let mut out = String::new();
    if let Some(what) = &diff.restart {
        line(
            &mut out,
            &format!("! {what}: changes only with a restart of the agent; a reload refuses this file"),
        );
    }
    group(
        &mut out,
        "peers",
        "sessions",
        [('+', &diff.added), ('-', &diff.removed), ('~', &diff.reset)],
    );
    for peer in &diff.over_limit {
        line(&mut out, &format!("! {peer}: its session ends"));
    }
    for peer in &diff.peers {
        let PeerDiff {
            peer,
            announced,
            withdrawn,
            changed,
            attributes,
        } = peer;
        let title = format!("advertised to {peer}");
        group(
            &mut out,
            &title,
            "prefixes",
            [
                ('+', announced),
                ('-', withdrawn),
                ('~', &with_attributes(changed, attributes)),
            ],
        );
    }
    let kernel = [
        ('+', &diff.installed),
        ('-', &diff.uninstalled),
        ('~', &diff.moved),
    ];
    group(&mut out, "kernel routes", "routes", kernel);
    if out.is_empty() {
        return "nothing that peers or the kernel would see changes".to_owned();
    }
    out.truncate(out.trim_end().len());
    out
}

/// Prefixes with what of them changes.
fn with_attributes(changed: &[String], attributes: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let of = |prefix: &String| match attributes.get(prefix) {
        Some(changes) if !changes.is_empty() => format!("{prefix}  {}", changes.join(", ")),
        _ => prefix.clone(),
    };
    changed.iter().map(of).collect()
}

fn group(out: &mut String, title: &str, what: &str, lists: [(char, &Vec<String>); 3]) {
    if lists.iter().all(|(_, list)| list.is_empty()) {
        return;
    }
    line(out, title);
    for (sign, list) in lists {
        for item in list.iter().take(SHOWN) {
            let note = match (title, sign) {
                ("peers", '-') => " (its session ends)",
                ("peers", '~') => " (its session restarts)",
                _ => "",
            };
            line(out, &format!("  {sign} {item}{note}"));
        }
        if list.len() > SHOWN {
            line(
                out,
                &format!("  {sign} and {} more {what} (-o json)", list.len() - SHOWN),
            );
        }
    }
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_has_its_sign() {
        let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect::<Vec<_>>();
        let diff = DiffStatus {
            restart: Some("listen".to_owned()),
            added: list(&["tor-b"]),
            over_limit: list(&["tor-d: 120 IPv4 prefixes, and maxPrefixes is 100"]),
            reset: list(&["tor-a"]),
            peers: vec![PeerDiff {
                peer: "tor-c".to_owned(),
                announced: Vec::new(),
                withdrawn: (0..25).map(|n| format!("10.0.{n}.0/24")).collect(),
                changed: list(&["10.244.1.0/24", "10.244.3.0/24"]),
                attributes: BTreeMap::from([(
                    "10.244.3.0/24".to_owned(),
                    list(&["med: none -> 5", "communities: 1:2 -> none"]),
                )]),
            }],
            installed: list(&["10.244.2.0/24"]),
            ..DiffStatus::default()
        };
        let text = text(&diff);
        for wanted in [
            "! listen: changes only",
            "  + tor-b\n",
            "! tor-d: 120 IPv4 prefixes, and maxPrefixes is 100: its session ends\n",
            "  ~ tor-a (its session restarts)\n",
            "advertised to tor-c\n  - 10.0.0.0/24\n",
            "  - and 5 more prefixes (-o json)\n",
            "  ~ 10.244.1.0/24\n",
            "  ~ 10.244.3.0/24  med: none -> 5, communities: 1:2 -> none\n",
            "kernel routes\n  + 10.244.2.0/24",
        ] {
            assert!(text.contains(wanted), "{wanted:?} is not in:\n{text}");
        }
        assert!(super::text(&DiffStatus::default()).starts_with("nothing"));
    }
}
