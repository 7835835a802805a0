//! The command line.

mod check;
mod client;
mod cluster;
mod diff;
mod error;
mod examples;
mod generate;
mod install;
mod network_policy;
mod pods;
mod policy;
mod router;
mod services;
mod show;

pub(crate) use pods::as_json as pods_as_json;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use nix::sys::signal::{SigSet, Signal};

use self::client::ClientError;
pub(crate) use self::error::CliError;
use crate::agent;
use crate::cni_list::Dirs;
use crate::fib::cleanup;
use crate::status::{Direction, Reply, Request};
use crate::sysctl;

/// Pod addresses that the physical network routes.
#[derive(Debug, Parser)]
#[command(name = "podroute", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Whether this process is the agent, and no command that asks it.
    pub(crate) fn is_agent(&self) -> bool {
        matches!(self.command, Command::Run { .. })
    }
}

/// The command line with examples in each help.
fn command() -> clap::Command {
    examples::add(Cli::command())
}

/// Where container runtimes look for networks.
const CONF_DIR: &str = "/etc/cni/net.d";

/// Default directory of CNI plugins.
const BIN_DIR: &str = "/opt/cni/bin";

/// Shared by the agent and the CNI plugin.
#[derive(Clone, Debug, clap::Args)]
struct RunDir {
    /// Directory with the agent's socket and node.json.
    #[arg(long, default_value = "/run/podroute", value_name = "DIR")]
    run_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent until SIGTERM or SIGINT; SIGHUP reloads the configuration.
    Run {
        /// Configuration file.
        #[arg(long, value_name = "FILE", default_value = "/etc/podroute/podroute.yaml")]
        config: PathBuf,
        #[command(flatten)]
        run_dir: RunDir,
        /// Directory of writable kernel settings; in a container the node's /proc/sys/net is mounted elsewhere.
        #[arg(long, value_name = "DIR", default_value = sysctl::PROC_SYS)]
        proc_sys: PathBuf,
        /// Maintain the CNI configuration list in this directory, as the section cni says.
        #[arg(long, value_name = "DIR")]
        cni_conf_dir: Option<PathBuf>,
        /// Directory of CNI plugins.
        #[arg(long, default_value = BIN_DIR, value_name = "DIR")]
        cni_bin_dir: PathBuf,
    },
    /// Check a configuration: all errors at once, with line, column and remedy.
    Check(check::Question),
    /// Print the router's side of this node's sessions, in the router's language.
    RouterConfig(router::RouterConfig),
    /// Print the configuration's JSON Schema, for editors.
    Schema,
    /// Test policies without an agent.
    Policy {
        #[command(subcommand)]
        what: policy::PolicyCommand,
    },
    /// Show the state of the running agent.
    Show {
        #[command(subcommand)]
        what: Show,
    },
    /// Change a peer of the running agent; lasts until the agent restarts.
    Peer {
        #[command(subcommand)]
        what: PeerCommand,
    },
    /// Read the configuration again and apply what changed.
    Reload {
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Show the level of the running agent's log, or change it until its next start.
    LogLevel {
        /// error, warn, info, debug, trace, off; per module as warn,bgp_speaker=debug; default for that of the start.
        level: Option<String>,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Say what a configuration would change, before it does: sessions, prefixes advertised to peers, kernel routes.
    Diff {
        /// Configuration file to compare with the running one; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Prepare the node for maintenance: ask peers to prefer other paths (GRACEFUL_SHUTDOWN, RFC 8326), then withdraw the
    /// node's routes. Survives a restart of the agent.
    Drain {
        /// Seconds between GRACEFUL_SHUTDOWN and the withdrawal.
        #[arg(long, default_value_t = 10)]
        wait: u64,
        /// Send GRACEFUL_SHUTDOWN only; withdraw nothing.
        #[arg(long)]
        no_withdraw: bool,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// End a drain: advertise the node's routes as before.
    Undrain {
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Write the RIB to a file in MRT format (RFC 6396, TABLE_DUMP_V2), for bgpdump and similar tools.
    Dump {
        /// Output file; `-` is standard output.
        file: PathBuf,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Install the CNI plugins and their configuration list for the container runtime; for an init container.
    InstallCni {
        /// Configuration file with a section cni; if it does not exist, the list has the defaults.
        #[arg(long, value_name = "FILE", default_value = "/etc/podroute/podroute.yaml")]
        config: PathBuf,
        /// Directory of CNI plugins.
        #[arg(long, default_value = BIN_DIR, value_name = "DIR")]
        bin_dir: PathBuf,
        /// Directory of CNI configurations.
        #[arg(long, default_value = CONF_DIR, value_name = "DIR")]
        conf_dir: PathBuf,
    },
    /// Questions to the agents of all nodes, through the API server and with the rights of the kubeconfig; the same as
    /// `kubectl podroute`.
    Cluster(podroute_kubectl::ClusterArgs),
    /// Kubernetes' network policies on this node.
    NetworkPolicy {
        #[command(subcommand)]
        what: network_policy::NetworkPolicyCommand,
    },
    /// Check the pods' addresses; works without a running agent.
    Ipam {
        #[command(subcommand)]
        what: Ipam,
    },
    /// Print the completion script of a shell: `podroute completions bash > /etc/bash_completion.d/podroute`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write a man page for each command.
    Man {
        /// Output directory; created if it does not exist.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Remove podroute from the node: its kernel routes (protocol 245), the pods' interfaces and routes (protocol 246),
    /// addresses, nftables tables and the CNI configuration list. Running pods lose their network; nothing else is changed.
    Cleanup {
        #[command(flatten)]
        state: pods::StateDir,
        /// Directory of CNI configurations.
        #[arg(long, default_value = CONF_DIR, value_name = "DIR")]
        conf_dir: PathBuf,
        /// Also while an agent runs, which restores its routes.
        #[arg(long)]
        force: bool,
        /// Wait for SIGTERM afterwards: for a DaemonSet, whose containers must not exit.
        #[arg(long)]
        stay: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Show {
    /// BGP sessions.
    Peers(Output),
    /// One BGP session in detail.
    Peer {
        /// Name of the peer.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Routes with all paths, and why a path is not used.
    Routes {
        /// Only routes inside this prefix.
        prefix: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Policies in use, and how many routes each rule matches now.
    Policies(Output),
    /// Kernel routes of podroute.
    Fib(Output),
    /// Pod blocks of this node.
    Blocks(Output),
    /// BFD sessions.
    Bfd(Output),
    /// Facts from Kubernetes, used and rejected; whether the node is drained, and why it is not ready.
    Cluster(Output),
    /// Services: addresses, pools, and why this node announces an address or does not.
    Services {
        /// Only this Service: NAME or NAMESPACE/NAME.
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Pods with an address of this node; works without a running agent.
    Pods {
        /// Output format.
        #[arg(short, long, value_enum, default_value_t = Form::Table)]
        output: Form,
        #[command(flatten)]
        state: pods::StateDir,
    },
}

#[derive(Debug, Subcommand)]
enum Ipam {
    /// Compare addresses, records, interfaces and running pods, and report inconsistencies.
    Check {
        /// Repair what can be repaired without interrupting a running pod.
        #[arg(long)]
        fix: bool,
        #[command(flatten)]
        state: pods::StateDir,
    },
}

#[derive(Debug, Subcommand)]
enum PeerCommand {
    /// Shut the session down (Cease, Administrative Shutdown).
    Disable {
        /// Name of the peer.
        name: String,
        /// Text for the peer's operator, at most 255 octets (RFC 9003).
        #[arg(long, default_value = "")]
        message: String,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Allow the session again.
    Enable {
        /// Name of the peer.
        name: String,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Reset the session, or refresh one direction.
    Clear {
        /// Name of the peer.
        name: String,
        /// Refresh without a reset: `in` requests the peer's routes, `out` advertises all routes again.
        #[arg(long)]
        soft: Option<Direction>,
        #[command(flatten)]
        run_dir: RunDir,
    },
}

/// Output options.
#[derive(Clone, Debug, clap::Args)]
struct Output {
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
    #[command(flatten)]
    run_dir: RunDir,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Form {
    /// For people; may change.
    Table,
    /// For programs; stable.
    Json,
    /// For programs and people; stable.
    Yaml,
}

/// The command line. Called as `kubectl-podroute`, which is how kubectl runs a plugin, its commands are those of `cluster`.
pub(crate) fn parse() -> Cli {
    let mut args = std::env::args_os();
    match args.next() {
        Some(program) if podroute_kubectl::is_plugin_name(&program) => Cli {
            command: Command::Cluster(cluster::parse_plugin(args)),
        },
        _ => Cli::from_arg_matches(&command().get_matches()).unwrap_or_else(|error| error.exit()),
    }
}

/// Runs a command; the error is for standard error.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, CliError> {
    let done = match cli.command {
        Command::Cluster(args) => return cluster::run(&args),
        Command::Run {
            config,
            run_dir,
            proc_sys,
            cni_conf_dir,
            cni_bin_dir,
        } => {
            let cni = cni_conf_dir.map(|conf| Dirs {
                conf,
                bin: cni_bin_dir,
            });
            Ok(block_on(agent::run(config, run_dir.run_dir, &proc_sys, cni))?)
        }
        Command::Check(question) => check::check(&question),
        Command::RouterConfig(asked) => router::router_config(&asked),
        Command::Schema => {
            let schema = podroute_config::json_schema();
            println!("{}", for_programs(Form::Json, &schema)?);
            Ok(())
        }
        Command::Policy { what } => policy::run(&what),
        Command::Show { what } => show(what),
        Command::Peer { what } => peer(what),
        Command::NetworkPolicy { what } => network_policy::run(what),
        Command::LogLevel { level, run_dir } => order(&run_dir.run_dir, &Request::LogLevel { level }),
        Command::Reload { run_dir } => order(&run_dir.run_dir, &Request::Reload),
        Command::Diff { file, output } => difference(&file, &output),
        Command::Drain {
            wait,
            no_withdraw,
            run_dir,
        } => drain(wait, no_withdraw, &run_dir.run_dir),
        Command::Undrain { run_dir } => {
            let (on, withdraw) = (false, false);
            order(&run_dir.run_dir, &Request::Drain { on, withdraw })
        }
        Command::Dump { file, run_dir } => dump(&file, &run_dir.run_dir),
        Command::InstallCni {
            config,
            bin_dir,
            conf_dir,
        } => install_cni(&config, bin_dir, conf_dir),
        Command::Ipam {
            what: Ipam::Check { fix, state },
        } => pods::check(&state, fix),
        Command::Completions { shell } => {
            generate::completions(shell, command()).map_err(CliError::Completions)
        }
        Command::Man { directory } => {
            generate::man_pages(&directory, command()).map_err(|source| CliError::ManPages {
                dir: directory,
                source,
            })
        }
        Command::Cleanup {
            state,
            conf_dir,
            force,
            stay,
        } => {
            let mut end = SigSet::empty();
            end.add(Signal::SIGTERM);
            // One that comes before all is removed waits.
            if stay {
                end.thread_block().map_err(CliError::Signals)?;
            }
            cleanup(&state, &conf_dir, force)?;
            if stay {
                end.wait().map(drop).map_err(CliError::Signals)
            } else {
                Ok(())
            }
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn install_cni(config: &Path, bin: PathBuf, conf: PathBuf) -> Result<(), CliError> {
    let cni = if config.exists() {
        agent::read_config(config)?.cni
    } else {
        podroute_config::Cni::plain()
    };
    install::install(&Dirs { conf, bin }, &cni)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    #[expect(clippy::expect_used, reason = "cannot start threads or epoll")]
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("tokio");
    runtime.block_on(future)
}

fn drain(wait: u64, no_withdraw: bool, run_dir: &Path) -> Result<(), CliError> {
    let step = |withdraw| order(run_dir, &Request::Drain { on: true, withdraw });
    step(false)?;
    if no_withdraw {
        return Ok(());
    }
    // The operator's own time for others to converge.
    std::thread::sleep(std::time::Duration::from_secs(wait));
    step(true)
}

/// The file is there whole or not at all.
fn dump(file: &Path, run_dir: &Path) -> Result<(), CliError> {
    if file == Path::new("-") {
        client::copy(run_dir, &Request::Dump, &mut std::io::stdout().lock())?;
        return Ok(());
    }
    let fail = CliError::file(file.display());
    let beside = file.with_extension("part");
    let mut out = std::fs::File::create(&beside).map_err(&fail)?;
    let octets = client::copy(run_dir, &Request::Dump, &mut out)
        .inspect_err(|_| drop(std::fs::remove_file(&beside)))?;
    out.sync_all().map_err(&fail)?;
    std::fs::rename(&beside, file).map_err(&fail)?;
    println!("{}: {octets} octets", file.display());
    Ok(())
}

/// Each part is tried, whatever becomes of the others. The list goes first: no new pods from here on.
fn cleanup(state: &pods::StateDir, conf_dir: &Path, force: bool) -> Result<(), CliError> {
    if !force && agent::is_running(state.run_dir()) {
        return Err(CliError::AgentRuns(state.run_dir().to_owned()));
    }
    let list = install::uninstall(conf_dir);
    let routes = block_on(cleanup::cleanup())
        .map(|count| println!("removed {}", crate::count::count(count, "kernel object")))
        .map_err(CliError::RemoveRoutes);
    let pods = pods::cleanup(state);
    let policies = crate::network_policy::remove(state.run_dir()).map(|was_there| {
        if was_there {
            println!("removed the nftables table of network policies");
        }
    });
    let policies = policies.map_err(CliError::from);
    let failures: Vec<CliError> = [list, routes, pods, policies]
        .into_iter()
        .filter_map(Result::err)
        .collect();
    if failures.is_empty() {
        return Ok(());
    }
    Err(CliError::Several(failures))
}

fn show(what: Show) -> Result<(), CliError> {
    let (request, output, only) = match what {
        Show::Peers(output) => (Request::Peers, output, None),
        Show::Peer { name, output } => (Request::Peers, output, Some(name)),
        Show::Routes { prefix, output } => (Request::Routes { within: prefix }, output, None),
        Show::Policies(output) => (Request::Policies, output, None),
        Show::Fib(output) => (Request::Fib, output, None),
        Show::Blocks(output) => (Request::Blocks, output, None),
        Show::Bfd(output) => (Request::Bfd, output, None),
        Show::Cluster(output) => (Request::Cluster, output, None),
        Show::Services { name, output } => return show_services(name.as_deref(), &output),
        Show::Pods { output, state } => return pods::show(&state, output),
    };
    let mut reply = client::ask(&output.run_dir.run_dir, &request)?;
    if let (Reply::Peers(peers), Some(name)) = (&mut reply, &only) {
        let names: Vec<String> = peers.iter().map(|peer| peer.name.clone()).collect();
        peers.retain(|peer| peer.name == *name);
        if peers.is_empty() {
            let name = name.clone();
            return Err(CliError::NoPeer { name, known: names });
        }
    }
    let text = match output.output {
        Form::Table if only.is_some() => show::peers_in_full(&reply),
        Form::Table => show::table(&reply),
        form => for_programs(form, &value(&reply)?)?,
    };
    println!("{}", text.trim_end());
    Ok(())
}

/// The text of a file, or of standard input for `-`, with its name for messages.
fn read_input(file: &Path) -> Result<(String, String), CliError> {
    let (name, text) = if file == Path::new("-") {
        (
            "standard input".to_owned(),
            read_document(std::io::stdin().lock()),
        )
    } else {
        (file.display().to_string(), std::fs::read_to_string(file))
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(source) => Err(CliError::File { name, source }),
    }
}

/// A YAML document up to its end marker (a line `...`), or all there is. Whoever cannot close standard input, as `kubectl exec -i` by
/// WebSocket before its protocol v5, sends the marker.
fn read_document(mut from: impl std::io::BufRead) -> std::io::Result<String> {
    let mut text = String::new();
    loop {
        let start = text.len();
        let length = from.read_line(&mut text)?;
        let is_end = text.get(start..).is_some_and(|line| line.trim_end() == "...");
        if is_end {
            text.truncate(start);
        }
        if is_end || length == 0 {
            return Ok(text);
        }
    }
}

fn show_services(name: Option<&str>, output: &Output) -> Result<(), CliError> {
    let mut reply = client::ask(&output.run_dir.run_dir, &Request::Services)?;
    if let (Reply::Services(status), Some(name)) = (&mut reply, name) {
        services::select(status, name)?;
    }
    let text = match (&reply, output.output) {
        (Reply::Services(status), Form::Json | Form::Yaml) => {
            let value = serde_json::to_value(status)?;
            for_programs(output.output, &value)?
        }
        _ => show::table(&reply),
    };
    println!("{}", text.trim_end());
    Ok(())
}

fn difference(file: &Path, output: &Output) -> Result<(), CliError> {
    let (_, text) = read_input(file)?;
    let reply = client::ask(&output.run_dir.run_dir, &Request::Diff { text })?;
    let text = match (&reply, output.output) {
        (Reply::Diff(diff), Form::Table) => diff::text(diff),
        (Reply::Diff(diff), form) => {
            let value = serde_json::to_value(diff)?;
            for_programs(form, &value)?
        }
        (other, _) => show::table(other),
    };
    println!("{}", text.trim_end());
    Ok(())
}

fn for_programs(form: Form, value: &serde_json::Value) -> Result<String, CliError> {
    Ok(match form {
        Form::Yaml => serde_yaml::to_string(value)?,
        Form::Json | Form::Table => serde_json::to_string_pretty(value)?,
    })
}

/// An answer for programs: one object with one list, `peers`, `routes` or `blocks`.
fn value(reply: &Reply) -> Result<serde_json::Value, serde_json::Error> {
    match reply {
        Reply::Fib(routes) => {
            serde_json::to_value(routes).map(|routes| serde_json::json!({ "routes": routes }))
        }
        reply => serde_json::to_value(reply),
    }
}

fn peer(what: PeerCommand) -> Result<(), CliError> {
    let (run_dir, request) = match what {
        PeerCommand::Disable {
            name,
            message,
            run_dir,
        } => (run_dir, Request::Disable { peer: name, message }),
        PeerCommand::Enable { name, run_dir } => (run_dir, Request::Enable { peer: name }),
        PeerCommand::Clear { name, soft, run_dir } => (run_dir, Request::Clear { peer: name, soft }),
    };
    order(&run_dir.run_dir, &request)
}

fn order(run_dir: &Path, request: &Request) -> Result<(), CliError> {
    match client::ask(run_dir, request)? {
        Reply::Done(text) => {
            println!("{text}");
            Ok(())
        }
        _ => Err(ClientError::Unexpected.into()),
    }
}
