//! A strict reader of OpenMetrics 1.0, and the page read with it.

use std::collections::{BTreeMap, BTreeSet};

/// Names and values, sorted.
type Labels = Vec<(String, String)>;

/// Upper bounds and counts.
type Buckets = Vec<(f64, f64)>;

/// A family as it was read.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: String,
    has_help: bool,
    /// By name and labels without `le`: the buckets, sum and count.
    samples: BTreeMap<(String, Labels), f64>,
}

/// Reads a page; the error names the line.
pub(super) fn read(text: &str) -> Result<BTreeSet<String>, String> {
    let body = text
        .strip_suffix("# EOF\n")
        .ok_or("does not end with # EOF and a line end")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in body.lines() {
        let fail = |why: &str| format!("{why}: {line}");
        if let Some(comment) = line.strip_prefix("# ") {
            let (kind, rest) = comment
                .split_once(' ')
                .ok_or_else(|| fail("a comment of one word"))?;
            let (name, rest) = rest
                .split_once(' ')
                .ok_or_else(|| fail("metadata without a value"))?;
            if name != current {
                if families.contains_key(name) {
                    return Err(fail("a family in two places"));
                }
                if !is_name(name) || name.ends_with("_total") {
                    return Err(fail("not a name of a family"));
                }
                name.clone_into(&mut current);
            }
            let family = families.entry(name.to_owned()).or_default();
            if !family.samples.is_empty() {
                return Err(fail("metadata behind samples"));
            }
            let is_first = match kind {
                "HELP" => !std::mem::replace(&mut family.has_help, true),
                "TYPE" => std::mem::replace(&mut family.kind, rest.to_owned()).is_empty(),
                "UNIT" => std::mem::replace(&mut family.unit, rest.to_owned()).is_empty(),
                _ => return Err(fail("an unknown comment")),
            };
            if !is_first {
                return Err(fail("metadata twice"));
            }
            if kind == "UNIT" && !name.ends_with(&format!("_{rest}")) {
                return Err(fail("the name does not end with the unit"));
            }
        } else {
            let family = families
                .get_mut(&current)
                .ok_or_else(|| fail("a sample without a family"))?;
            sample(&current, family, line).map_err(|why| fail(&why))?;
        }
    }
    for (name, family) in &families {
        check(family).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(families.into_keys().collect())
}

fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

fn sample(name: &str, family: &mut Family, line: &str) -> Result<(), String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (full, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    let value = rest.strip_prefix(' ').ok_or("no blank before the value")?;
    let value: f64 = value
        .parse()
        .map_err(|_| "not a number, or more than one".to_owned())?;
    let suffix = full.strip_prefix(name).ok_or("a sample of another family")?;
    let suffixes: &[&str] = match family.kind.as_str() {
        "gauge" => &[""],
        "counter" => &["_total"],
        "histogram" => &["_bucket", "_sum", "_count"],
        other => return Err(format!("type {other}")),
    };
    if !suffixes.contains(&suffix) {
        return Err(format!("'{suffix}' is no suffix of a {}", family.kind));
    }
    if family.kind == "counter" && (value < 0.0 || value.is_nan()) {
        return Err("a counter below 0".to_owned());
    }
    let has_le = labels.iter().any(|(label, _)| label == "le");
    if has_le != (suffix == "_bucket") {
        return Err("le belongs to buckets".to_owned());
    }
    match family.samples.insert((full.to_owned(), labels), value) {
        None => Ok(()),
        Some(_) => Err("the same series twice".to_owned()),
    }
}

/// Labels up to the closing brace, sorted, and what follows it.
fn labels(mut rest: &str) -> Result<(Labels, &str), String> {
    let mut found = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"").ok_or("a label without a value")?;
        if !is_name(name) || name.contains(':') || found.iter().any(|(known, _)| known == name) {
            return Err(format!("label '{name}'"));
        }
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next() {
                None => return Err("a value that does not end".to_owned()),
                Some((at, '"')) => break at,
                Some((_, '\\')) => match chars.next() {
                    Some((_, c @ ('\\' | '"' | 'n'))) => value.push(c),
                    _ => return Err("an escape that is none".to_owned()),
                },
                Some((_, c)) => value.push(c),
            }
        };
        found.push((name.to_owned(), value));
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => break,
        }
    }
    found.sort();
    let rest = rest.strip_prefix('}').ok_or("no closing brace")?;
    Ok((found, rest))
}

/// What a family as a whole must have.
fn check(family: &Family) -> Result<(), String> {
    if !family.has_help || family.kind.is_empty() {
        return Err("lacks HELP or TYPE".to_owned());
    }
    if family.kind != "histogram" {
        return Ok(());
    }
    let mut series: BTreeMap<Labels, Buckets> = BTreeMap::new();
    let mut counts = BTreeMap::new();
    for ((name, labels), value) in &family.samples {
        let (le, labels): (Vec<_>, Vec<_>) = labels.iter().cloned().partition(|(label, _)| label == "le");
        match le.first() {
            Some((_, le)) => {
                let le = if le == "+Inf" {
                    Ok(f64::INFINITY)
                } else {
                    le.parse()
                };
                let le = le.map_err(|_| "le is no number")?;
                series.entry(labels).or_default().push((le, *value));
            }
            None if name.ends_with("_count") => {
                counts.insert(labels, *value);
            }
            None => {}
        }
    }
    for (labels, mut buckets) in series {
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        if !buckets.is_sorted_by(|a, b| a.1 <= b.1) {
            return Err(format!("buckets do not grow: {buckets:?}"));
        }
        let last = buckets.last().copied().unwrap_or_default();
        if last.0 != f64::INFINITY || counts.get(&labels) != Some(&last.1) {
            return Err(format!("+Inf is not the count: {buckets:?}"));
        }
    }
    Ok(())
}

#[test]
fn the_reader_refuses_what_the_standard_does() {
    let good = "# HELP a A.\n# TYPE a counter\na_total{x=\"\\\"\"} 1\n# EOF\n";
    assert_eq!(read(good).unwrap(), BTreeSet::from(["a".to_owned()]));
    for (from, to) in [
        ("# EOF\n", ""),
        ("a_total", "a"),
        (" 1", " -1"),
        (" 1", " 1 2 3"),
        ("\\\"", "\\q"),
        ("# HELP a A.\n", ""),
        ("counter", "gauge"),
        ("# TYPE a counter", "# TYPE a counter\n# UNIT a seconds"),
        ("a_total{x=\"\\\"\"} 1\n", "a_total 1\na_total 1\n"),
        (
            "a_total{x=\"\\\"\"} 1\n",
            "a_total 1\n# HELP b B.\n# TYPE b gauge\nb 1\n# TYPE a counter\n",
        ),
        ("counter", "histogram"),
    ] {
        assert!(read(&good.replace(from, to)).is_err(), "{from} {to}");
    }
    let histogram = "# HELP h H.\n# TYPE h histogram\nh_sum 1\nh_count 2\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\n# EOF\n";
    read(histogram).unwrap();
    for (from, to) in [
        ("h_count 2", "h_count 3"),
        ("1.0\"} 1", "1.0\"} 3"),
        ("+Inf", "9"),
    ] {
        assert!(read(&histogram.replace(from, to)).is_err(), "{to}");
    }
}
