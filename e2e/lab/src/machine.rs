//! A machine of the lab: a network namespace plus a `/run` of its own.
//!
//! Every process of a machine gets a private mount namespace in which the machine's directory
//! `/run/lab/NAME/run` is `/run`; so agents, daemons and their command-line tools find sockets at
//! their usual paths on every machine. Pods are namespaces only: they belong to a node's runtime.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::failure::{Context, Result};
use crate::netns;
use crate::process::{self, Daemon};

const LAB: &str = "/run/lab";

/// A handle to a machine's namespaces; cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
}

impl Host {
    /// Makes the namespace and the directories.
    pub fn create(name: &str) -> Result<Self> {
        netns::create(name)?;
        let host = Self {
            name: name.to_owned(),
        };
        for dir in ["run/netns", "run/lab", "etc", "log"] {
            let dir = host.dir().join(dir);
            std::fs::create_dir_all(&dir).context(dir.display())?;
        }
        Ok(host)
    }

    /// A handle to a machine that exists.
    pub fn existing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
        }
    }

    /// Whether it is a machine (and not a pod).
    pub fn exists(&self) -> bool {
        self.dir().is_dir()
    }

    /// Its name, which is its namespace's too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `/run/lab/NAME`: `etc` for configuration, `log` for logs, `run` for its `/run`.
    pub fn dir(&self) -> PathBuf {
        Path::new(LAB).join(&self.name)
    }

    /// A file under the machine's `/run`, seen from outside the machine.
    pub fn run_file(&self, relative: &str) -> PathBuf {
        self.dir().join("run").join(relative)
    }

    /// Writes a configuration file and answers its path, which is the same inside and outside.
    pub fn write_config(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.dir().join("etc").join(name);
        std::fs::write(&file, text).context(file.display())?;
        Ok(file)
    }

    /// Moves the calling thread into the machine's network and mounts.
    pub fn enter(&self) -> Result<()> {
        const NONE: Option<&str> = None;
        netns::enter(&self.name)?;
        unshare(CloneFlags::CLONE_NEWNS).context("mount namespace")?;
        mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_SLAVE, NONE).context("slave mounts")?;
        let run = self.dir().join("run");
        for (from, to) in [("/run/netns", run.join("netns")), (LAB, run.join("lab"))] {
            mount(Some(from), &to, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).context(to.display())?;
        }
        mount(Some(&run), "/run", NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).context(run.display())?;
        crate::sandbox::mount_sys();
        Ok(())
    }

    /// Runs `job` in a thread inside the machine's network namespace.
    pub fn within<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::within(&self.name, job)
    }

    /// Runs a command to its end inside the machine; a non-zero exit is a failure.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        self.in_machine(|| process::finish(command(program).args(args)))
            .map_err(|f| f.during(&self.name))
    }

    /// Runs a command to its end inside the machine, whatever its exit code.
    pub fn output(&self, program: &str, args: &[&str]) -> Result<Output> {
        self.in_machine(|| process::output(command(program).args(args)))
    }

    /// Starts a daemon inside the machine; its log is `/run/lab/NAME/log/DAEMON.log`.
    pub fn spawn(&self, daemon: &str, command: &mut Command) -> Result<Daemon> {
        let log = self.dir().join("log").join(format!("{daemon}.log"));
        let title = format!("{daemon} on {}", self.name);
        self.in_machine(|| Daemon::spawn(title, command, &log))
    }

    /// Sets a sysctl of the machine's network; `key` has slashes.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.within(|| netns::sysctl(key, value))
            .map_err(|f| f.during(&self.name))
    }

    /// `ip -n NAME …`, from outside: works with routes, links and addresses.
    pub fn ip(&self, args: &str) -> Result<String> {
        let mut all = vec!["-n", self.name.as_str()];
        all.extend(args.split_whitespace());
        process::run("ip", &all)
    }

    fn in_machine<T: Send>(&self, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::in_thread(|| {
            self.enter()?;
            job()
        })
    }
}

/// A command found on `PATH` or where Debian keeps daemons.
pub fn command(program: &str) -> Command {
    Command::new(process::find_program(program).unwrap_or_else(|| PathBuf::from(program)))
}
