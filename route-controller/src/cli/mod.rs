//! The operator's commands.

mod check;
mod client;
mod diff;
mod error;
mod events;
mod explain;
mod fib;
mod generate;
mod install;
mod network_policy;
mod output;
mod pods;
mod policy;
mod routes;
mod services;
mod show;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use nix::sys::signal::{SigSet, Signal};

use self::client::ClientError;
pub(crate) use self::error::CliError;
use self::output::{Answer, Form, NOT_IN_ORDER, Output, for_programs, value, with_schema};
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

/// Where container runtimes look for networks.
const CONF_DIR: &str = "/etc/cni/net.d";

/// Where container runtimes look for plugins.
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
    /// Run the agent until SIGTERM; SIGHUP reads the configuration again.
    Run {
        /// The configuration.
        #[arg(long, value_name = "FILE", default_value = "/etc/podroute/podroute.yaml")]
        config: PathBuf,
        #[command(flatten)]
        run_dir: RunDir,
        /// Where the node's kernel settings can be written; a container has its node's /proc/sys/net mounted elsewhere.
        #[arg(long, value_name = "DIR", default_value = sysctl::PROC_SYS)]
        proc_sys: PathBuf,
        /// Keep the CNI configuration list in the runtime's directory of configurations as the section cni says.
        #[arg(long, value_name = "DIR")]
        cni_conf_dir: Option<PathBuf>,
        /// The runtime's directory of plugins.
        #[arg(long, default_value = BIN_DIR, value_name = "DIR")]
        cni_bin_dir: PathBuf,
    },
    /// Check a configuration: every error at once, with line, column and remedy.
    Check(check::Question),
    /// Print the configuration's JSON Schema, for editors.
    Schema,
    /// Try policies without an agent.
    Policy {
        #[command(subcommand)]
        what: policy::PolicyCommand,
    },
    /// What changed on this node: sessions, routes, configuration, kernel repairs, BFD, pods, Services, policies.
    Events(events::Question),
    /// How a packet travels from SOURCE to DESTINATION, as this node sees it: names the first broken step and the remedy. Exit status 3 if
    /// a step is broken.
    Explain(explain::Question),
    /// Show what the running agent knows.
    Show {
        #[command(subcommand)]
        what: Show,
    },
    /// Change a peer of the running agent until its next start.
    Peer {
        #[command(subcommand)]
        what: PeerCommand,
    },
    /// Have the running agent read its configuration again and apply the difference.
    Reload {
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Say what a configuration would change, before it does: sessions, prefixes advertised to peers, kernel routes.
    Diff {
        /// The configuration that would take the place of the running one; `-` is standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Prepare to take this node away: ask peers to prefer other paths (GRACEFUL_SHUTDOWN, RFC 8326), and after a while
    /// withdraw what the node originates. Survives a restart of the agent.
    Drain {
        /// How long other paths have to take over before the withdrawal, in seconds.
        #[arg(long, default_value_t = 10)]
        wait: u64,
        /// Leave it at the community: withdraw nothing.
        #[arg(long)]
        no_withdraw: bool,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Take a drain back.
    Undrain {
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Write the whole RIB to a file in MRT form (RFC 6396, TABLE_DUMP_V2), for bgpdump and the like.
    Dump {
        /// The file; `-` is standard output.
        file: PathBuf,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Put the CNI plugins and their configuration where the container runtime looks; for an init container.
    InstallCni {
        /// The configuration, for its section cni; without a file there the list is the plain one.
        #[arg(long, value_name = "FILE", default_value = "/etc/podroute/podroute.yaml")]
        config: PathBuf,
        /// The runtime's directory of plugins.
        #[arg(long, default_value = BIN_DIR, value_name = "DIR")]
        bin_dir: PathBuf,
        /// The runtime's directory of configurations.
        #[arg(long, default_value = CONF_DIR, value_name = "DIR")]
        conf_dir: PathBuf,
    },
    /// Kubernetes' network policies on this node.
    NetworkPolicy {
        #[command(subcommand)]
        what: network_policy::NetworkPolicyCommand,
    },
    /// Look after the pods' addresses; works while the agent is down.
    Ipam {
        #[command(subcommand)]
        what: Ipam,
    },
    /// Write the completion script of a shell to standard output: `podroute completions bash > /etc/bash_completion.d/podroute`.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages, one for each command.
    Man {
        /// The directory, which is made where it is missing.
        #[arg(value_name = "DIR")]
        directory: PathBuf,
    },
    /// Take podroute off a node: its kernel routes (protocol 245), the pods' interfaces with their routes
    /// (protocol 246), addresses, nftables table, and the runtime's list. Living pods lose their network; nothing else
    /// is touched.
    Cleanup {
        #[command(flatten)]
        state: pods::StateDir,
        /// The runtime's directory of configurations.
        #[arg(long, default_value = CONF_DIR, value_name = "DIR")]
        conf_dir: PathBuf,
        /// Although an agent runs, which puts its routes back.
        #[arg(long)]
        force: bool,
        /// When all is removed, stay until SIGTERM: for a DaemonSet, whose containers must not end.
        #[arg(long)]
        stay: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Sessions.
    Peers(Output),
    /// One session in full.
    Peer {
        /// Its name.
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Routes with all their paths, and why a path is not used.
    Routes(routes::Question),
    /// Policies in use, and how many routes each rule matches now.
    Policies(Output),
    /// Kernel routes.
    Fib {
        /// Only how many routes are in which state, and whether the kernel has all: exit status 3 if not.
        #[arg(long)]
        summary: bool,
        #[command(flatten)]
        output: Output,
    },
    /// This node's blocks.
    Blocks(Output),
    /// Paths to peers that BFD watches.
    Bfd(Output),
    /// What Kubernetes says, and what of it is not taken; whether the node is drained, and why it is not ready.
    Cluster(Output),
    /// Services: their addresses and pools, and why this node announces an address or not.
    Services {
        /// Only this one: its name, or namespace/name.
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Pods with an address of this node; works while the agent is down.
    Pods {
        /// Form of the output.
        #[arg(short, long, value_enum, default_value_t = Form::Table)]
        output: Form,
        #[command(flatten)]
        state: pods::StateDir,
    },
}

#[derive(Debug, Subcommand)]
enum Ipam {
    /// Find what does not fit together among addresses, records, interfaces and living pods.
    Check {
        /// Repair what can be repaired without harm to a living pod.
        #[arg(long)]
        fix: bool,
        #[command(flatten)]
        state: pods::StateDir,
    },
}

#[derive(Debug, Subcommand)]
enum PeerCommand {
    /// Keep the session down (Cease, Administrative Shutdown).
    Disable {
        /// The peer.
        name: String,
        /// Text for the peer's operator, at most 255 octets (RFC 9003).
        #[arg(long, default_value = "")]
        message: String,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Let the session come up again.
    Enable {
        /// The peer.
        name: String,
        #[command(flatten)]
        run_dir: RunDir,
    },
    /// Reset the session, or only refresh one direction of it.
    Clear {
        /// The peer.
        name: String,
        /// Do not reset: `in` asks the peer for its routes, `out` advertises the own routes again.
        #[arg(long)]
        soft: Option<Direction>,
        #[command(flatten)]
        run_dir: RunDir,
    },
}

/// Runs a command; the error is for standard error.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, CliError> {
    Ok(match dispatch(cli.command)? {
        Answer::InOrder => ExitCode::SUCCESS,
        Answer::NotInOrder => ExitCode::from(NOT_IN_ORDER),
    })
}

fn dispatch(command: Command) -> Result<Answer, CliError> {
    let done = match command {
        Command::Show { what } => return show(what),
        Command::Explain(question) => return explain::run(&question),
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
        Command::Schema => {
            let schema = podroute_config::json_schema();
            println!("{}", for_programs(Form::Json, &schema)?);
            Ok(())
        }
        Command::Policy { what } => policy::run(&what),
        Command::Events(question) => events::run(&question),
        Command::Peer { what } => peer(what),
        Command::NetworkPolicy { what } => network_policy::run(what),
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
            generate::completions(shell, Cli::command()).map_err(CliError::Completions)
        }
        Command::Man { directory } => {
            generate::man_pages(&directory, Cli::command()).map_err(|source| CliError::ManPages {
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
    done.map(|()| Answer::InOrder)
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

fn show(what: Show) -> Result<Answer, CliError> {
    let in_order = |()| Answer::InOrder;
    let (request, output, only) = match what {
        Show::Peers(output) => (Request::Peers, output, None),
        Show::Peer { name, output } => (Request::Peers, output, Some(name)),
        Show::Routes(question) => return routes::run(&question).map(in_order),
        Show::Policies(output) => (Request::Policies, output, None),
        Show::Fib {
            summary: true,
            output,
        } => return fib::summary(&output),
        Show::Fib { output, .. } => (Request::Fib, output, None),
        Show::Blocks(output) => (Request::Blocks, output, None),
        Show::Bfd(output) => (Request::Bfd, output, None),
        Show::Cluster(output) => (Request::Cluster, output, None),
        Show::Services { name, output } => return show_services(name.as_deref(), &output).map(in_order),
        Show::Pods { output, state } => return pods::show(&state, output).map(in_order),
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
        Form::Table | Form::Wide if only.is_some() => show::peers_in_full(&reply),
        Form::Table => show::table(&reply),
        Form::Wide => show::wide(&reply),
        form => for_programs(form, &value(&reply)?)?,
    };
    println!("{}", text.trim_end());
    Ok(Answer::InOrder)
}

/// The text of a file, or of standard input for `-`, with its name for messages.
fn read_input(file: &Path) -> Result<(String, String), CliError> {
    let (name, text) = if file == Path::new("-") {
        (
            "standard input".to_owned(),
            std::io::read_to_string(std::io::stdin().lock()),
        )
    } else {
        (file.display().to_string(), std::fs::read_to_string(file))
    };
    match text {
        Ok(text) => Ok((name, text)),
        Err(source) => Err(CliError::File { name, source }),
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
            for_programs(output.output, &with_schema("services", value))?
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
        (Reply::Diff(diff), Form::Table | Form::Wide) => diff::text(diff),
        (Reply::Diff(diff), form) => {
            let value = serde_json::to_value(diff)?;
            for_programs(form, &with_schema("diff", value))?
        }
        (other, _) => show::table(other),
    };
    println!("{}", text.trim_end());
    Ok(())
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
