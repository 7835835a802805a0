//! "Did you mean": the known name nearest to a misspelt one.
//!
//! Names that differ only in case, `_` or `-` are the same to a person (`router_id` is `routerId`);
//! beyond that, one may begin with the other (`localPref`), or the edit distance with transpositions is at
//! most a third of the name's length.

/// The known name that was probably meant.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    let given = plain(given);
    if given.len() > LONGEST {
        return None;
    }
    let allowed = (given.len() / 3).max(1);
    let difference = |name: &str| {
        let name = plain(name);
        let shortened =
            given.len().min(name.len()) >= 3 && (name.starts_with(&given) || given.starts_with(&name));
        let distance = distance(&given, &name);
        (shortened || (distance <= allowed && distance < given.len())).then_some(distance)
    };
    let candidates = known
        .into_iter()
        .filter_map(|name| Some((difference(name)?, name)));
    candidates
        .min_by_key(|(difference, _)| *difference)
        .map(|(_, name)| name)
}

/// The field that other programs call so.
pub(crate) fn other_name(given: &str, known: &[&'static str]) -> Option<&'static str> {
    const NAMES: &[(&str, &[&str])] = &[
        (
            "asn",
            &[
                "remoteas",
                "remoteasn",
                "peeras",
                "peerasn",
                "neighboras",
                "neighborasn",
                "as",
            ],
        ),
        ("localAs", &["localasn", "myas", "myasn"]),
        (
            "address",
            &["neighbor", "peeraddress", "peerip", "remoteaddress", "ip"],
        ),
        // Policies.
        ("in", &["prefix", "network", "within", "orlonger", "ipprefix"]),
        (
            "length",
            &["le", "ge", "lessequal", "greaterequal", "len", "masklength"],
        ),
        ("from", &["peer", "peers", "receivedfrom"]),
        ("kernel", &["weight", "metric", "blackhole", "table", "type"]),
        ("otherwise", &["default", "else"]),
        ("apply", &["call", "policy", "include", "jump"]),
        ("action", &["then", "verdict"]),
        ("localPreference", &["preference", "localpref"]),
        ("nextHop", &["nexthopself"]),
        ("localAddress", &["sourceaddress", "updatesource", "bindaddress"]),
        ("multihop", &["ebgpmultihop"]),
        (
            "maxPrefixes",
            &["maximumprefix", "maximumprefixes", "prefixlimit"],
        ),
    ];
    let given: String = plain(given).into_iter().collect();
    let (meant, _) = NAMES
        .iter()
        .find(|(_, others)| others.contains(&given.as_str()))?;
    known.iter().copied().find(|name| name == meant)
}

fn plain(name: &str) -> Vec<char> {
    name.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .flat_map(char::to_lowercase)
        .collect()
}

/// Edits from one to the other: insert, delete, replace, or swap two neighbors.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX - 1);
            let mut best = (at(&row, j) + usize::from(x != y))
                .min(at(&row, j + 1) + 1)
                .min(at(&next, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn other_programs_names() {
        let known = ["removePrivateAs", "asn", "localAs"];
        assert_eq!(super::other_name("remoteAs", &known), Some("asn"));
        assert_eq!(super::other_name("remote_as", &known), Some("asn"));
        assert_eq!(super::other_name("neighbor", &known), None, "not a field here");
    }

    #[test]
    fn finds_what_was_meant() {
        let known = [
            "routerId",
            "nodeSelector",
            "asn",
            "address",
            "addresses",
            "import",
        ];
        for (given, meant) in [
            ("router_id", Some("routerId")),
            ("nodeSelectors", Some("nodeSelector")),
            ("imoprt", Some("import")),
            ("ans", Some("asn")),
            ("adress", Some("address")),
            ("node", Some("nodeSelector")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(given, known), meant, "{given}");
        }
    }
}
