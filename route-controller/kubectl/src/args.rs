//! The command line.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Questions to all nodes at once.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// Who is asked, and how the answer is printed.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Form::Table, global = true)]
    pub(crate) output: Form,
    /// The kubeconfig; without it KUBECONFIG, or the one in the home directory.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; without it the current one.
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) context: Option<String>,
    /// The namespace of the agents.
    #[arg(short, long, default_value = "podroute", value_name = "NAME", global = true)]
    pub(crate) namespace: String,
    /// Labels of the agents' pods.
    #[arg(
        short = 'l',
        long,
        default_value = "app=podroute",
        value_name = "LABELS",
        global = true
    )]
    pub(crate) selector: String,
    /// Only this node; can be repeated.
    #[arg(long = "node", value_name = "NAME", global = true)]
    pub(crate) nodes: Vec<String>,
    /// Nodes that are asked at a time.
    #[arg(long, default_value_t = 32, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) concurrency: u16,
    /// How long one node may take, in seconds.
    #[arg(long, default_value_t = 30, value_name = "SECONDS", global = true, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) timeout: u64,
}

/// A question.
#[derive(Clone, Debug, Subcommand)]
pub enum ClusterCommand {
    /// Sessions of all nodes.
    Peers {
        /// Only sessions that are not established; exit status 3 if there is one.
        #[arg(long)]
        down: bool,
        /// Only sessions with this peer.
        #[arg(long, value_name = "NAME")]
        peer: Option<String>,
    },
    /// Routes by prefix: which nodes originate it, use it, and lack it, and why.
    Routes {
        /// Only inside this prefix.
        prefix: Option<String>,
        /// Only prefixes that a node lacks; exit status 3 if there is one.
        #[arg(long)]
        missing: bool,
    },
    /// Addresses of Services: which nodes announce them, and why others do not.
    Services {
        /// Only this one: its name, or namespace/name.
        name: Option<String>,
    },
    /// Rules of policies, the routes that each matches on all nodes, and nodes without it.
    Policies,
    /// What changed on all nodes, in the order of time.
    Events {
        /// Not older than this: 90s, 10m, 2h, 1d.
        #[arg(long, value_name = "TIME", default_value = "10m")]
        since: Option<String>,
        /// Only events of this kind; can be repeated.
        #[arg(long, value_name = "KIND")]
        kind: Vec<String>,
    },
    /// The looking glass in a browser: serves pages on 127.0.0.1 and prints their address.
    Web {
        /// The port; 0 is any free one.
        #[arg(long, default_value_t = 0, value_name = "PORT")]
        port: u16,
        /// How often nodes are asked while a page is open, in seconds.
        #[arg(long, default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
        every: u64,
    },
    /// How a packet travels, asked of the nodes at both ends: names the first broken step and the remedy. Exit status 3 if there is one.
    Explain {
        /// Who sends: an address, a pod as NAMESPACE/NAME, or a node.
        #[arg(value_name = "SOURCE")]
        source: String,
        /// Who is reached: an address, a pod or Service as NAMESPACE/NAME, or a node.
        #[arg(value_name = "DESTINATION")]
        destination: String,
        /// The port at the destination, as 80 or 53/udp.
        #[arg(long, value_name = "PORT")]
        port: Option<String>,
        /// Send probes too; takes some seconds.
        #[arg(long)]
        measure: bool,
    },
    /// What a configuration would change on each node; nodes with the same answer are one group.
    Diff {
        /// The configuration; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Whether each node's agent accepts a configuration; exit status 3 unless all do.
    Check {
        /// The configuration, or a ConfigMap manifest with it; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Form {
    /// For people.
    Table,
    /// For people, with everything.
    Wide,
    /// For programs.
    Json,
    /// For both.
    Yaml,
}
