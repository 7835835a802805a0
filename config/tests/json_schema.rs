//! The JSON Schema knows every field, describes it, and takes what `check` takes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::path::Path;

use podroute_config::{SECTIONS, json_schema};
use serde_json::Value;

/// Whether a value fits, for the keywords that the schema uses; an error names the place.
fn check(root: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.strip_prefix("#/$defs/").unwrap();
        let name = name.replace("%5B", "[").replace("%5D", "]");
        let target = &root["$defs"][&name];
        assert!(target.is_object(), "{reference} leads nowhere");
        return check(root, target, value, place);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let mut errors = any.iter().map(|schema| check(root, schema, value, place));
        let last = errors.clone().next_back().unwrap();
        return if errors.any(|result| result.is_ok()) {
            Ok(())
        } else {
            last
        };
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let takes = match &schema["type"] {
        Value::String(wanted) => wanted == kind,
        Value::Array(all) => all.iter().any(|wanted| wanted == kind),
        _ => true,
    };
    if !takes {
        return Err(format!("{place}: {} does not take {kind}", schema["type"]));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(root, &schema["items"], item, &format!("{place}[{index}]"))?;
    }
    for (name, item) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, Value::Bool(false)) => return Err(format!("{place} is not known")),
            (Value::Null, others) => check(root, others, item, &place)?,
            (known, _) => check(root, known, item, &place)?,
        }
    }
    Ok(())
}

fn yaml(path: &Path) -> Value {
    serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn files(dir: &str) -> impl Iterator<Item = std::path::PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
}

#[test]
fn it_takes_what_is_good() {
    let schema = json_schema();
    for path in files("tests/ok").chain(files("../examples")) {
        check(&schema, &schema, &yaml(&path), "")
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

#[test]
fn it_refuses_unknown_fields_wherever_they_stand() {
    let schema = json_schema();
    for (text, place) in [
        ("{colour: red}", ".colour"),
        ("{cluster: {asm: 1}}", ".cluster.asm"),
        ("{policies: {p: [{match: {le: 3}}]}}", ".policies.p[0].match.le"),
        (
            "{policies: {p: [{match: {not: {all: [{le: 3}]}}}]}}",
            ".policies.p[0].match.not.all[0].le",
        ),
        ("{lists: {a: {asns: {path: x}}}}", ".lists.a.asns.path"),
    ] {
        let value: Value = serde_yaml::from_str(text).unwrap();
        assert_eq!(
            check(&schema, &schema, &value, ""),
            Err(format!("{place} is not known")),
            "{text}"
        );
    }
}

#[test]
fn every_field_is_described() {
    let schema = json_schema();
    for section in SECTIONS {
        let known = if section.name.is_empty() {
            &schema
        } else {
            &schema["$defs"][section.name]
        };
        for field in section.fields {
            let text = known["properties"][field]["description"].as_str();
            assert!(
                text.is_some_and(|text| !text.is_empty()),
                "{}.{field}: {text:?}",
                section.name
            );
        }
    }
}
