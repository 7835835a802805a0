//! What the operator said: the YAML of podroute, read with every error at once, as a typed model.
//!
//! [`load`] goes through four rooms. `yaml` turns text into a tree that knows the line and column of
//! everything; it is the only file that knows the YAML crate. `schema` says which fields there are and
//! reads each into its type (`decode` walks, `value` reads scalars). `validate` checks what no field
//! can know alone and yields the [`Config`]. `explain` puts a [`Config`] in words.
//!
//! Nothing here does IO: no file, clock, socket or kernel. `auto` stays `auto` until the agent, who can
//! look, resolves it. Unknown fields are errors; a field that is accepted has an effect in the agent.
#![forbid(unsafe_code)]

mod annotations;
mod decode;
mod explain;
mod model;
mod problem;
mod schema;
mod suggest;
mod validate;
mod value;
mod yaml;

pub use model::*;
pub use problem::{Errors, Problem};
pub use schema::{SECTIONS, Section};

/// Reads and checks a configuration.
///
/// # Errors
/// All that is wrong with it, in the order of the text, each with path, line, column and remedy. Only a
/// syntax error stands alone: nothing behind it can be read.
pub fn load(text: &str) -> Result<Config, Errors> {
    load_for(text, &NodeFacts::default())
}

/// Like [`load`], with what is known of the node without the file; what the file says wins.
///
/// # Errors
/// As [`load`].
pub fn load_for(text: &str, facts: &NodeFacts) -> Result<Config, Errors> {
    let sink = problem::Sink::of(SECTIONS.iter().map(|section| (section.name, section.fields)));
    let config = yaml::parse(text)
        .map_err(|problem| sink.error(problem))
        .ok()
        .and_then(|root| schema::read(&root, &sink))
        .map(|document| annotations::apply(document, facts, &sink))
        .and_then(|document| validate::validate(document, facts, &sink));
    sink.finish(config)
}
