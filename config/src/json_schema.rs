//! The JSON Schema of the configuration, for editors: from the known sections and the reference documentation.
//!
//! It says which fields there are and where. What a value may be is checked by `podroute check`, which also says what to write instead.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::SECTIONS;

/// The page with a table for each section.
const REFERENCE: &str = include_str!("../../docs/reference/configuration.md");

/// Fields whose content is a section that is described elsewhere.
const SAME_AS: [(&str, &str, &str); 10] = [
    (MATCH, "to", "policies.NAME[].match.from"),
    (MATCH, "largeCommunities", "policies.NAME[].match.communities"),
    (MATCH, "extCommunities", "policies.NAME[].match.communities"),
    ("lists.NAME", "communities", "lists.NAME.prefixes"),
    ("lists.NAME", "largeCommunities", "lists.NAME.prefixes"),
    ("lists.NAME", "extCommunities", "lists.NAME.prefixes"),
    ("lists.NAME", "asns", "lists.NAME.prefixes"),
    ("mesh", "password", "peers[].password"),
    ("mesh", "bfd", "peers[].bfd"),
    ("nextHops[]", "bfd", "peers[].bfd"),
];

const MATCH: &str = "policies.NAME[].match";

/// Draft 2020-12.
#[must_use]
pub fn json_schema() -> Value {
    let descriptions = descriptions(REFERENCE);
    let sections = SECTIONS.iter().map(|section| {
        let fields = section.fields.iter().map(|field| {
            let mut schema = field_schema(section.name, field);
            if let Some(text) = descriptions.get(&(section.name.to_owned(), (*field).to_owned())) {
                schema.insert("description".to_owned(), json!(text));
            }
            ((*field).to_owned(), Value::Object(schema))
        });
        let fields: Map<String, Value> = fields.collect();
        let section_schema = json!({ "type": "object", "additionalProperties": false, "properties": fields });
        (section.name.to_owned(), section_schema)
    });
    let mut sections: Map<String, Value> = sections.collect();
    let top = sections.remove("").unwrap_or_default();
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "podroute.yaml",
        "required": ["apiVersion"],
        "$defs": sections,
    });
    if let (Value::Object(schema), Value::Object(top)) = (&mut schema, top) {
        schema.extend(top);
    }
    schema
}

/// What stands in a field: another section, a list or mapping of it, or a value that is not described here.
fn field_schema(section: &str, field: &str) -> Map<String, Value> {
    let known = |name: &str| SECTIONS.iter().any(|section| section.name == name);
    let own = if section.is_empty() {
        field.to_owned()
    } else {
        format!("{section}.{field}")
    };
    let same = SAME_AS
        .iter()
        .find(|(of, name, _)| (*of, *name) == (section, field));
    let schema = match (section, field) {
        (MATCH, "not") => reference(MATCH),
        (MATCH, "all" | "any" | "none") => json!({ "type": "array", "items": reference(MATCH) }),
        _ => match same {
            Some((_, _, other)) => or_plain(reference(other)),
            None if known(&own) => or_plain(reference(&own)),
            None if known(&format!("{own}[]")) => {
                // One item without the list is how some fields are shortened.
                let item = or_plain(reference(&format!("{own}[]")));
                or_plain(json!({ "type": "array", "items": item }))
            }
            None if known(&format!("{own}.NAME[]")) => {
                let rules = json!({ "type": "array", "items": reference(&format!("{own}.NAME[]")) });
                json!({ "type": "object", "additionalProperties": { "anyOf": [{ "type": "string" }, rules] } })
            }
            None if known(&format!("{own}.NAME")) => {
                json!({ "type": "object", "additionalProperties": reference(&format!("{own}.NAME")) })
            }
            None => json!({}),
        },
    };
    match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    }
}

fn reference(section: &str) -> Value {
    // RFC 6901 §3, inside a URI fragment (§6).
    let name = section.replace('~', "~0").replace('/', "~1");
    let name = name.replace('[', "%5B").replace(']', "%5D");
    json!({ "$ref": format!("#/$defs/{name}") })
}

/// This, or a short form that is no mapping; nothing is an empty section.
fn or_plain(schema: Value) -> Value {
    json!({ "anyOf": [{ "type": ["string", "number", "boolean", "array", "null"] }, schema] })
}

/// The texts of the reference's tables, by section and field.
fn descriptions(page: &str) -> BTreeMap<(String, String), String> {
    let (mut section, mut out) = (String::new(), BTreeMap::new());
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            heading.trim_start_matches('#').trim().clone_into(&mut section);
            if section == "Top of the file" {
                section.clear();
            } else if !section.contains('.')
                && SECTIONS.iter().any(|known| known.name == format!("{section}[]"))
            {
                section.push_str("[]");
            }
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let field = cells
            .first()
            .and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        if let (true, Some(field), Some(text)) = (line.starts_with("| `"), field, cells.get(1..)) {
            let text = text.iter().filter(|cell| !cell.is_empty());
            let text: Vec<&str> = text.map(|cell| cell.trim_end_matches('|').trim()).collect();
            out.insert((section.clone(), field.to_owned()), text.join("; "));
        }
    }
    out
}
