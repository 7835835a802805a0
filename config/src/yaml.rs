//! Parses YAML into a tree with line and column of every key and value.
//!
//! The only file that knows the YAML crate. It resolves no types: a scalar stays the text that was
//! written, so that `65000:100`, `1e3` and `no` never turn into something else (schema fields read their
//! own types from it). Aliases become copies. Duplicate keys are kept for the reader to report.
//!
//! Limits, so that no file can exhaust memory or stack: [`MAX_TEXT`] octets, [`MAX_DEPTH`] levels and
//! [`MAX_NODES`] values after aliases are resolved.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use crate::problem::{Location, Position, Problem};

/// Longest text, in octets.
pub(crate) const MAX_TEXT: usize = 8 << 20;
/// Deepest nesting.
pub(crate) const MAX_DEPTH: usize = 64;
/// Most values, aliases resolved.
pub(crate) const MAX_NODES: usize = 500_000;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) position: Position,
    pub(crate) value: Value,
}

/// What YAML knows of a value.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// Nothing, `~` or `null`.
    Null,
    /// Text as written; `quoted` when it cannot be a number or a truth value.
    Scalar { text: String, quoted: bool },
    /// In order.
    List(Vec<Node>),
    /// In order, duplicates included.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_position: Position,
    pub(crate) value: Node,
}

/// Reads one document; an empty text is [`Value::Null`].
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    if text.len() > MAX_TEXT {
        let message = format!("the file has {} octets, more than {MAX_TEXT}", text.len());
        return Err(at(
            Position { line: 1, column: 1 },
            message,
            "is it the right file?",
        ));
    }
    let mut builder = Builder::default();
    for event in Parser::new_from_str(text) {
        match event {
            Ok((event, span)) => builder.event(event, span)?,
            Err(error) => return Err(syntax(*error.marker(), error.info())),
        }
    }
    Ok(builder.root.unwrap_or(Node {
        position: Position { line: 1, column: 1 },
        value: Value::Null,
    }))
}

fn syntax(marker: Marker, info: &str) -> Problem {
    let remedy = if info.contains("tab") {
        "indent with spaces"
    } else {
        "check indentation, brackets and quotes here and in the line above"
    };
    at(position(marker), format!("not valid YAML: {info}"), remedy)
}

fn at(position: Position, message: impl Into<String>, remedy: &str) -> Problem {
    Location {
        path: String::new(),
        position,
    }
    .problem(message, remedy)
}

fn position(marker: Marker) -> Position {
    Position {
        line: marker.line().max(1),
        column: marker.col() + 1,
    }
}

/// A list or mapping that is not closed yet.
#[derive(Debug)]
struct Frame {
    position: Position,
    anchor: usize,
    content: Content,
}

#[derive(Debug)]
enum Content {
    List(Vec<Node>),
    Map(Vec<Entry>, Option<(String, Position)>),
}

#[derive(Default, Debug)]
struct Builder {
    root: Option<Node>,
    open: Vec<Frame>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Problem> {
        let position = position(span.start);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => Err(at(
                position,
                "a second YAML document begins here",
                "keep one document in the file; remove the '---'",
            )),
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = check_tag(tag.as_deref(), position)? || style != ScalarStyle::Plain;
                let null = !quoted && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if null {
                    Value::Null
                } else {
                    Value::Scalar {
                        text: text.into_owned(),
                        quoted,
                    }
                };
                self.value(Node { position, value }, anchor, 1)
            }
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), position)?;
                self.begin(Frame {
                    position,
                    anchor,
                    content: Content::List(Vec::new()),
                })
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), position)?;
                self.begin(Frame {
                    position,
                    anchor,
                    content: Content::Map(Vec::new(), None),
                })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(id) => {
                let known = self.anchors.get(&id).cloned();
                let (node, size) = known.ok_or_else(|| {
                    at(
                        position,
                        "the alias refers to a value that contains it",
                        "write the value out",
                    )
                })?;
                self.value(node, 0, size)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, frame: Frame) -> Result<(), Problem> {
        if self.open.len() >= MAX_DEPTH {
            return Err(at(
                frame.position,
                format!("nested deeper than {MAX_DEPTH} levels"),
                "no field needs that",
            ));
        }
        // A list or mapping as a key is found out here, before its content is read.
        if let Some(Frame {
            content: Content::Map(_, None),
            ..
        }) = self.open.last()
        {
            return Err(at(
                frame.position,
                "a list or mapping stands where a field name should",
                "write NAME: VALUE",
            ));
        }
        self.open.push(frame);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        let Some(frame) = self.open.pop() else {
            return Ok(());
        };
        let value = match frame.content {
            Content::List(items) => Value::List(items),
            Content::Map(entries, _) => Value::Map(entries),
        };
        let node = Node {
            position: frame.position,
            value,
        };
        let size = if frame.anchor == 0 { 1 } else { size(&node) };
        self.place(node, frame.anchor, size)
    }

    fn value(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), Problem> {
        self.nodes = self.nodes.saturating_add(size);
        if self.nodes > MAX_NODES || depth(&node) + self.open.len() > MAX_DEPTH {
            return Err(at(
                node.position,
                format!("more than {MAX_NODES} values or {MAX_DEPTH} levels"),
                "use fewer aliases",
            ));
        }
        self.place(node, anchor, size)
    }

    fn place(&mut self, node: Node, anchor: usize, size: usize) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map(entries, key)) => match (key.take(), node) {
                (Some((name, key_position)), mut value) => {
                    if matches!(value.value, Value::Null) {
                        value.position = key_position;
                    }
                    entries.push(Entry {
                        key: name,
                        key_position,
                        value,
                    });
                }
                (
                    None,
                    Node {
                        position,
                        value: Value::Scalar { text, .. },
                    },
                ) => *key = Some((text, position)),
                (None, node) => {
                    return Err(at(
                        node.position,
                        "a field name is missing here",
                        "write NAME: VALUE",
                    ));
                }
            },
        }
        Ok(())
    }
}

/// Whether the tag makes a text; tags beyond the core schema are refused.
fn check_tag(tag: Option<&Tag>, position: Position) -> Result<bool, Problem> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() => Ok(tag.suffix == "str"),
        Some(_) => Err(at(
            position,
            "YAML tags are not used here",
            "remove the tag that begins with '!'",
        )),
    }
}

fn children(node: &Node) -> Box<dyn Iterator<Item = &Node> + '_> {
    match &node.value {
        Value::List(items) => Box::new(items.iter()),
        Value::Map(entries) => Box::new(entries.iter().map(|entry| &entry.value)),
        _ => Box::new(std::iter::empty()),
    }
}

fn size(node: &Node) -> usize {
    1 + children(node).map(size).sum::<usize>()
}

fn depth(node: &Node) -> usize {
    children(node).map(|child| depth(child) + 1).max().unwrap_or(0)
}
