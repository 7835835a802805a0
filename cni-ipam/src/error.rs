//! The errors of the plugins and their CNI error codes.
//!
//! `code()` is the only place that maps an error to a code (CNI spec 1.1.0, "Error"). Codes 1–99 are the spec's; codes from
//! 100 are podroute's and listed in docs/cni.md. Every message names the subject, the cause and the remedy.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

/// Result with an [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a CNI request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration asks for a CNI version that is not supported.
    #[error("CNI version {asked:?} is not supported: set cniVersion to one of 0.3.1, 0.4.0, 1.0.0, 1.1.0")]
    Version { asked: String },
    /// The verb does not exist in the asked CNI version.
    #[error("{verb} does not exist in CNI {version}: set cniVersion to {since} or newer")]
    VerbVersion {
        verb: &'static str,
        version: String,
        since: &'static str,
    },
    /// An environment variable is missing or wrong.
    #[error("{name}: {cause}; {remedy}")]
    Environment {
        name: &'static str,
        cause: String,
        remedy: &'static str,
    },
    /// The pod's network namespace cannot be opened.
    #[error("network namespace {path}: {cause}; the container is gone or CNI_NETNS is wrong")]
    Netns { path: String, cause: String },
    /// Reading or writing a file failed.
    #[error("cannot {action} {path}: {source}; check that the directory exists, is writable and not full")]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// Standard input or a plugin's answer cannot be parsed.
    #[error("cannot read {what}: {cause}")]
    Decode { what: &'static str, cause: String },
    /// A field of the network configuration is wrong.
    #[error("network configuration, {field}: {cause}; {remedy}")]
    Config {
        field: String,
        cause: String,
        remedy: &'static str,
    },
    /// The agent's file is missing, unreadable or without a block.
    #[error(
        "{path}: {cause}; the podroute agent on this node writes this file: see that it runs ('podroute run') and that the node has a pod CIDR, then try again"
    )]
    Node { path: PathBuf, cause: String },
    /// Another process holds the attachment's lock for too long.
    #[error(
        "attachment {attachment} is held by another plugin process for more than {seconds} s: end that process or try again"
    )]
    Busy { attachment: String, seconds: u64 },
    /// No free address is left.
    #[error(
        "no free address in {blocks}: all are in use or reserved; delete pods, give the node another block, or run 'podroute ipam check --fix' if pods are fewer than addresses"
    )]
    Exhausted { blocks: String },
    /// STATUS: no ADD can succeed now.
    #[error("not ready for ADD: {cause}")]
    NotReady { cause: String },
    /// STATUS: no ADD can succeed now and existing pods may have lost connectivity.
    #[error("not ready for ADD, and existing pods may be unreachable: {cause}")]
    Limited { cause: String },
    /// The attachment already exists.
    #[error("container {container} already has {ifname} with {addresses}: DEL it first")]
    AlreadyAttached {
        container: String,
        ifname: String,
        addresses: String,
    },
    /// A static address is in use.
    #[error(
        "address {address} is in use by container {container} ({ifname}): choose another or delete that pod"
    )]
    AddressTaken {
        address: IpAddr,
        container: String,
        ifname: String,
    },
    /// A static address cannot be allocated.
    #[error("address {address} cannot be allocated: {cause}; choose one inside {blocks}")]
    AddressRefused {
        address: IpAddr,
        cause: &'static str,
        blocks: String,
    },
    /// The node's blocks changed while pods use the old ones.
    #[error(
        "the node's blocks are now {now}, but {living} {} of {before} in use, such as {example}: other nodes no longer route {before} to this node; drain the node (delete its pods), then try again",
        if *living == 1 { "address is" } else { "addresses are" }
    )]
    BlockChanged {
        now: String,
        before: IpNet,
        living: usize,
        example: IpAddr,
    },
    /// CHECK found a difference.
    #[error("check of {ifname} failed: {cause}; delete the pod so that it is recreated")]
    Check { ifname: String, cause: String },
    /// The kernel refused.
    #[error("kernel: {0}")]
    Kernel(#[from] linux::Error),
    /// Another interface has the name of the new one; nothing was created.
    #[error("interface {name} {cause}")]
    NameTaken { name: String, cause: &'static str },
    /// Part of a garbage collection failed; the rest is done.
    #[error("{failed} of {of} operations failed, the others succeeded; the first failure: {first}")]
    Incomplete {
        failed: usize,
        of: usize,
        first: Box<Error>,
    },
    /// Interfaces would be removed as strays, but there is no state that says which pods exist.
    #[error(
        "{path}: there is no state of this boot, but {interfaces} {} of podroute-cni: running pods may have their state elsewhere; name it with --state-dir (ipam.stateDir of the network), or remove everything of podroute with 'podroute cleanup'",
        if *interfaces == 1 { "interface" } else { "interfaces" }
    )]
    NoState { path: PathBuf, interfaces: usize },
    /// The delegated IPAM plugin is missing.
    #[error("IPAM plugin {name:?} is not in CNI_PATH ({path}): install it there or correct ipam.type")]
    DelegateMissing { name: String, path: String },
    /// The delegated IPAM plugin failed, with its own code and message.
    #[error("IPAM plugin {name:?}: {message}")]
    Delegate {
        name: String,
        code: u32,
        message: String,
    },
}

impl Error {
    /// The CNI error code.
    pub fn code(&self) -> u32 {
        match self {
            Self::Version { .. } | Self::VerbVersion { .. } => 1,
            Self::Netns { .. } => 3,
            Self::Environment { .. } => 4,
            Self::Io { .. } | Self::NoState { .. } => 5,
            Self::Decode { .. } => 6,
            Self::Config { .. } => 7,
            Self::Node { .. } | Self::Busy { .. } | Self::Exhausted { .. } => 11,
            Self::NotReady { .. } => 50,
            Self::Limited { .. } => 51,
            Self::AlreadyAttached { .. } => 100,
            Self::AddressTaken { .. } => 101,
            Self::AddressRefused { .. } => 102,
            Self::BlockChanged { .. } => 103,
            Self::Check { .. } => 104,
            Self::Kernel(_) | Self::NameTaken { .. } => 105,
            Self::Incomplete { first, .. } => first.code(),
            Self::DelegateMissing { .. } => 106,
            Self::Delegate { code, .. } => *code,
        }
    }

    /// An I/O failure on `path`; `action` completes "cannot …".
    pub(crate) fn io(action: &'static str, path: &Path, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source: source.into(),
        }
    }

    /// A wrong field of the network configuration.
    pub(crate) fn config(field: impl Into<String>, cause: impl Into<String>, remedy: &'static str) -> Self {
        Self::Config {
            field: field.into(),
            cause: cause.into(),
            remedy,
        }
    }
}
