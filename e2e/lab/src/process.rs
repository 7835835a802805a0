//! Processes of the lab: one-shot commands and daemons with a log.
//!
//! A daemon's output goes to a file in the box; when it dies early or a check fails, the tail of
//! that file is the evidence. Dropping a [`Daemon`] ends it, unless it was left running on purpose.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::failure::{Context, Failure, Result};
use crate::wait;

/// Runs a command to its end in the calling thread's namespaces and answers its standard output.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    finish(Command::new(program).args(args))
}

/// Runs a prepared command to its end; a non-zero exit is a failure with its output as evidence.
pub fn finish(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(
        Failure::new(format!("`{}` ended with {}", describe(command), output.status))
            .evidence("standard error", String::from_utf8_lossy(&output.stderr))
            .evidence("standard output", String::from_utf8_lossy(&output.stdout)),
    )
}

/// Runs a prepared command to its end, whatever its exit code.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .context(format!("running `{}`", describe(command)))
}

fn describe(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Finds a program on `PATH` and in the directories where Debian keeps daemons.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/frr", "/usr/local/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A long-running process of the lab.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Option<Child>,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` in the calling thread's namespaces; its output is appended to `log`.
    pub fn spawn(name: impl Into<String>, command: &mut Command, log: &Path) -> Result<Self> {
        let name = name.into();
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .context(log.display())?;
        let err = out.try_clone().context(log.display())?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .context(format!("starting {name} (`{}`)", describe(command)))?;
        Ok(Self {
            name,
            child: Some(child),
            log: log.to_owned(),
        })
    }

    /// The name given at the start, for messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id, as long as it was not stopped.
    pub fn pid(&self) -> Option<Pid> {
        self.child.as_ref().map(|child| Pid::from_raw(child.id() as i32))
    }

    /// Fails, with the log's tail, if the process has ended by itself.
    pub fn check_alive(&mut self) -> Result<()> {
        let Some(child) = self.child.as_mut() else {
            return Err(Failure::new(format!("{} was stopped", self.name)));
        };
        match child.try_wait().context(&self.name)? {
            None => Ok(()),
            Some(status) => {
                let failure = Failure::new(format!("{} ended with {status}", self.name)).fatal();
                Err(self.with_log(failure))
            }
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .ok_or_else(|| Failure::new(format!("{} was stopped", self.name)))?;
        kill(pid, signal).context(format!("{signal} to {}", self.name))
    }

    /// Ends the process as a service manager does (SIGTERM) and waits for it.
    pub fn terminate(&mut self, limit: Duration) -> Result<()> {
        self.signal(Signal::SIGTERM)?;
        let name = self.name.clone();
        wait::until(limit, format_args!("end of {name} after SIGTERM"), || match self
            .child
            .as_mut()
            .map(Child::try_wait)
        {
            Some(Ok(None)) => wait::not_yet("still running"),
            _ => Ok(()),
        })
        .map_err(|failure| self.with_log(failure))?;
        self.child = None;
        Ok(())
    }

    /// Ends the process at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets the process outlive this one.
    pub fn leave_running(&mut self) {
        self.child = None;
    }

    /// The whole log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Adds the log's tail to a failure.
    pub fn with_log(&self, failure: Failure) -> Failure {
        failure.evidence(format!("last lines of {}", self.name), tail(&self.log(), 12))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

impl Daemon {
    /// CPU time of all its threads so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        let pid = self
            .pid()
            .ok_or_else(|| Failure::new(format!("{} has ended", self.name)))?;
        let clock = nix::time::clock_getcpuclockid(pid).context(&self.name)?;
        clock.now().map(Duration::from).context(&self.name)
    }
}

/// CPU seconds and peak resident MiB of the processes and their children.
pub fn cost(processes: &[Daemon]) -> Result<(f64, f64)> {
    let mut pids: Vec<i32> = processes
        .iter()
        .filter_map(|daemon| daemon.pid())
        .map(|pid| pid.as_raw())
        .collect();
    let mut at = 0;
    while at < pids.len() {
        let pid = pids[at];
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(
            children
                .split_whitespace()
                .filter_map(|child| child.parse::<i32>().ok()),
        );
        at += 1;
    }
    let (mut ticks, mut peak) = (0, 0);
    for pid in pids {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
        // After the name in brackets: state is field 3, utime 14, stime 15.
        let rest = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<u64> = rest
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        ticks += fields.get(11).copied().unwrap_or(0) + fields.get(12).copied().unwrap_or(0);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("status")?;
        let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = high.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        peak += kib.ok_or_else(|| Failure::new("no VmHWM"))?;
    }
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .ok()
        .flatten()
        .unwrap_or(100);
    Ok((ticks as f64 / per_second as f64, peak as f64 / 1024.0))
}
