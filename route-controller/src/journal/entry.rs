//! An entry of the journal, and what it is made from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest message, subject and cause, in characters.
const TEXT_MAX: usize = 300;

/// What an entry is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Kind {
    /// BGP sessions and limits of peers.
    Session,
    /// Learned routes of the kernel.
    Route,
    /// The configuration and its files.
    Configuration,
    /// Repairs of kernel objects, refused changes, kernel settings.
    Kernel,
    /// BFD sessions.
    Bfd,
    /// Pods of this node and the CNI configuration.
    Pod,
    /// Services and their addresses.
    Service,
    /// Network policies.
    Policy,
    /// The agent, the node, the API server.
    Node,
}

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Session,
        Self::Route,
        Self::Configuration,
        Self::Kernel,
        Self::Bfd,
        Self::Pod,
        Self::Service,
        Self::Policy,
        Self::Node,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Session => "session",
            Self::Route => "route",
            Self::Configuration => "configuration",
            Self::Kernel => "kernel",
            Self::Bfd => "bfd",
            Self::Pod => "pod",
            Self::Service => "service",
            Self::Policy => "policy",
            Self::Node => "node",
        })
    }
}

/// How serious it is, with the meaning of the log's levels.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Severity {
    Info,
    Warn,
    Error,
}

/// What happened, before the journal gives it a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    pub(crate) event: String,
    pub(crate) subject: Option<String>,
    pub(crate) message: String,
    pub(crate) cause: Option<String>,
    /// How many of the same this entry stands for.
    pub(crate) count: u64,
    /// Of a route: how often it was lost and learned again, or moved.
    pub(crate) flaps: Option<u64>,
}

/// What happened, with its number and time.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Entry {
    /// Increases with each entry, also across restarts of the agent.
    pub(crate) number: u64,
    /// Milliseconds since 1970, UTC.
    pub(crate) at_ms: u64,
    pub(crate) kind: Kind,
    pub(crate) severity: Severity,
    /// A name of docs/reference/events.md.
    pub(crate) event: String,
    /// The peer, prefix, pod, Service or file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    pub(crate) message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    pub(crate) count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) flaps: Option<u64>,
}

impl Entry {
    pub(super) fn new(number: u64, at_ms: u64, change: Change) -> Self {
        Self {
            number,
            at_ms,
            kind: change.kind,
            severity: change.severity,
            event: change.event,
            subject: change.subject.map(shorten),
            message: shorten(change.message),
            cause: change.cause.map(shorten),
            count: change.count,
            flaps: change.flaps,
        }
    }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(TEXT_MAX) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
