//! The daemons of a mesh: started at once, killed, observed, their CPU time counted.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use super::bridge::{BridgedNodes, address, block, protocol};
use super::config::{Config, Peering};
use super::watch::{ExpectedRoutes, Reached, Watch};
use lab::daemon::Kind;
use lab::failure::{Context, Failure, Result};
use lab::machine::command;
use lab::process::Daemon;
use lab::topology::Family;
use lab::{bins, ensure, wait};

/// Where processes wait until all of them may start.
const GATE: &str = "/run/lab/gate";

/// What runs on one machine.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) daemon: Option<Daemon>,
    /// Of the blocks beside its own.
    pub(super) generation: u16,
    /// Machines on different sides do not reach each other.
    pub(super) side: usize,
    /// Whether its kernel counts.
    pub(super) counts: bool,
}

/// Daemons of one kind on the machines of a bridge.
#[derive(Debug)]
pub(super) struct Mesh<'a> {
    pub(super) bridge: &'a BridgedNodes,
    pub(super) members: Vec<Member>,
    pub(super) watch: Watch,
    kind: Kind,
    peering: Peering,
    hold: u32,
}

/// What something cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// `None`: not within the limit.
    pub(super) reached: Option<Reached>,
    /// CPU seconds of all daemons.
    pub(super) cpu: f64,
    /// Routes that should have stayed and were gone at some time.
    pub(super) removed: usize,
}

/// A start of the clock: the moment, and what each process had used by then.
#[derive(Debug)]
pub(super) struct Begin {
    moment: Instant,
    used: HashMap<Pid, Duration>,
}

/// CPU time of a process with all its threads, those that have ended too.
fn cpu_time(pid: Pid) -> Option<Duration> {
    let clock = nix::time::clock_getcpuclockid(pid).ok()?;
    clock.now().ok().map(Duration::from)
}

impl<'a> Mesh<'a> {
    /// Nothing runs yet.
    pub(super) fn new(
        bridge: &'a BridgedNodes,
        kind: Kind,
        peering: Peering,
        count: usize,
        hold: u32,
    ) -> Result<Self> {
        let names = bridge.hosts.iter().take(count).map(|host| host.name());
        let watch = Watch::open(names, protocol(kind))?;
        ensure!(
            watch.count() == 0,
            "{} routes are left of an earlier run",
            watch.count()
        );
        let member = |_| Member {
            daemon: None,
            generation: 0,
            side: 0,
            counts: true,
        };
        Ok(Self {
            bridge,
            members: (0..count).map(member).collect(),
            watch,
            kind,
            peering,
            hold,
        })
    }

    pub(super) fn all(&self) -> std::ops::Range<usize> {
        0..self.members.len()
    }

    /// Writes a machine's configuration as its member is now.
    pub(super) fn write_config(&self, at: usize) -> Result<PathBuf> {
        let config = Config {
            peering: self.peering,
            at,
            count: self.members.len(),
            generation: self.members[at].generation,
            hold: self.hold,
        };
        let file = format!("{}.conf", self.kind.name());
        self.bridge.hosts[at].write_config(&file, &config.render(self.kind))
    }

    /// The command of a daemon; `again`: it was there before.
    fn arguments(&self, at: usize, again: bool) -> Result<Vec<String>> {
        let config = self.write_config(at)?.display().to_string();
        if self.kind == Kind::Podroute {
            let program = bins::find("podroute")?.display().to_string();
            return Ok(vec![program, "run".to_owned(), "--config".to_owned(), config]);
        }
        let dir = self.bridge.hosts[at].run_file("bird");
        std::fs::create_dir_all(&dir).context(dir.display())?;
        let program = command("bird").get_program().to_string_lossy().into_owned();
        let mut all = vec![program, "-f".to_owned(), "-c".to_owned(), config];
        all.extend(again.then(|| "-R".to_owned()));
        Ok(all)
    }

    /// Starts one.
    pub(super) fn launch(&mut self, at: usize, again: bool) -> Result<()> {
        let arguments = self.arguments(at, again)?;
        let mut command = Command::new(&arguments[0]);
        command.args(&arguments[1..]);
        let daemon = self.bridge.hosts[at].spawn(self.kind.name(), &mut command)?;
        self.members[at].daemon = Some(daemon);
        Ok(())
    }

    /// Starts these at the same moment, in place of those that run there, which are killed; in between `before` is done.
    pub(super) fn launch_all(
        &mut self,
        which: impl Iterator<Item = usize> + Clone,
        again: bool,
        before: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Begin> {
        let gate = PathBuf::from(GATE);
        let _ = std::fs::remove_file(&gate);
        mkfifo(&gate, Mode::S_IRWXU).context(GATE)?;
        let mut waiting = Vec::new();
        for at in which.clone() {
            // The shell waits until the FIFO is opened for writing, and becomes the daemon.
            let mut command = Command::new("/bin/sh");
            command.args(["-c", ": < \"$0\"; exec \"$@\"", GATE]);
            command.args(self.arguments(at, again)?);
            waiting.push(self.bridge.hosts[at].spawn(self.kind.name(), &mut command)?);
        }
        for daemon in &waiting {
            wait::until(Duration::from_secs(20), "a process at the gate", || {
                is_asleep(daemon)
            })?;
        }
        let mut begin = self.begin();
        let new = waiting.iter().filter_map(Daemon::pid);
        begin
            .used
            .extend(new.filter_map(|pid| Some((pid, cpu_time(pid)?))));
        let mut old: Vec<Daemon> = which
            .clone()
            .filter_map(|at| self.members[at].daemon.take())
            .collect();
        old.iter().try_for_each(|daemon| daemon.signal(Signal::SIGKILL))?;
        old.iter_mut().for_each(Daemon::kill);
        before(self)?;
        let open = File::options().read(true).write(true).open(&gate).context(GATE)?;
        for (at, daemon) in which.zip(waiting) {
            self.members[at].daemon = Some(daemon);
        }
        // Until all have passed: whoever comes late waits for a writer.
        let mut passed = 0;
        for member in &self.members {
            let Some(pid) = member.daemon.as_ref().and_then(Daemon::pid) else {
                continue;
            };
            wait::until(Duration::from_secs(20), "a process past the gate", || {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                ensure!(name.trim() != "sh", "it waits");
                Ok(())
            })?;
            passed += 1;
        }
        ensure!(passed > 0, "nobody was started");
        drop(open);
        Ok(begin)
    }

    /// Starts the clock.
    pub(super) fn begin(&self) -> Begin {
        let pids = self.pids();
        Begin {
            used: pids.filter_map(|pid| Some((pid, cpu_time(pid)?))).collect(),
            moment: Instant::now(),
        }
    }

    fn pids(&self) -> impl Iterator<Item = Pid> {
        self.members
            .iter()
            .filter_map(|member| member.daemon.as_ref()?.pid())
    }

    fn cpu_since(&self, begin: &Begin) -> f64 {
        let each = self.pids().filter_map(|pid| {
            let before = begin.used.get(&pid).copied().unwrap_or_default();
            Some(cpu_time(pid)?.saturating_sub(before))
        });
        each.sum::<Duration>().as_secs_f64()
    }

    /// What each kernel should hold, as the members are now.
    pub(super) fn expect(&mut self) {
        let expected: Vec<Option<ExpectedRoutes>> = self
            .all()
            .map(|at| self.members[at].counts.then(|| self.expected(at)))
            .collect();
        self.watch.expect(expected.into_iter());
    }

    fn expected(&self, at: usize) -> ExpectedRoutes {
        let mut expected = ExpectedRoutes::new();
        for other in self.all().filter(|other| self.peering.learns(at, *other)) {
            if self.members[other].side != self.members[at].side {
                continue;
            }
            let generation = self.members[other].generation;
            for family in Family::BOTH {
                let gateway = address(other, family);
                expected.insert(block(other, 0, family), gateway);
                if generation > 0 {
                    expected.insert(block(other, generation, family), gateway);
                }
            }
        }
        expected
    }

    /// From now on it is counted which of the blocks that every machine always has are gone somewhere, but for those that
    /// `but` names (where, whose).
    pub(super) fn watch_permanent(&mut self, but: impl Fn(usize, usize) -> bool) -> Result<()> {
        let of = |at: usize| -> HashSet<IpNet> {
            let others = self
                .all()
                .filter(|other| self.peering.learns(at, *other) && !but(at, *other));
            let blocks = others.flat_map(|other| Family::BOTH.map(|family| block(other, 0, family)));
            blocks.collect()
        };
        let keep: Vec<HashSet<IpNet>> = self.all().map(of).collect();
        self.watch.watch_permanent(keep.into_iter())
    }

    /// Deletes the blocks that some machines always have from one kernel.
    pub(super) fn delete_blocks(&mut self, at: usize, of: &[usize]) -> Result<()> {
        let blocks: HashSet<IpNet> = of
            .iter()
            .flat_map(|other| Family::BOTH.map(|family| block(*other, 0, family)))
            .collect();
        self.watch.delete(at, |prefix| blocks.contains(prefix))
    }

    /// Waits until every kernel is right.
    pub(super) fn wait_until_expected(&mut self, begin: &Begin, limit: Duration) -> Result<Cost> {
        self.expect();
        let reached = self.watch.wait_until_expected(begin.moment, limit)?;
        let cpu = self.cpu_since(begin);
        self.check_alive()?;
        if reached.is_none() {
            eprintln!("{}", self.watch.failure("not within the limit"));
        }
        Ok(Cost {
            reached,
            cpu,
            removed: self.watch.removed(),
        })
    }

    /// Fails if a daemon has ended by itself.
    pub(super) fn check_alive(&mut self) -> Result<()> {
        let mut daemons = self
            .members
            .iter_mut()
            .filter_map(|member| member.daemon.as_mut());
        daemons.try_for_each(Daemon::check_alive)
    }

    /// Peak resident memory of a daemon in MiB, in the middle of all.
    pub(super) fn memory(&self) -> Result<f64> {
        let mut all = Vec::new();
        for pid in self.pids() {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("status")?;
            let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = high.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            all.push(kib.ok_or_else(|| Failure::new("no VmHWM"))?);
        }
        all.sort_unstable();
        Ok(all.get(all.len() / 2).copied().unwrap_or(0) as f64 / 1024.0)
    }

    /// Ends all daemons at once and takes away what they left.
    pub(super) fn end(mut self) -> Result<()> {
        let mut daemons: Vec<Daemon> = self
            .members
            .iter_mut()
            .filter_map(|member| member.daemon.take())
            .collect();
        for daemon in &daemons {
            let _ = daemon.signal(Signal::SIGKILL);
        }
        daemons.iter_mut().for_each(Daemon::kill);
        self.bridge.clear()
    }
}

/// A process sleeps: it has done all that it does before the gate.
fn is_asleep(daemon: &Daemon) -> Result<()> {
    let pid = daemon.pid().ok_or_else(|| Failure::new("it has ended"))?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).context("stat")?;
    // After the name in brackets: the state.
    let state = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .trim_start()
        .chars()
        .next();
    ensure!(state == Some('S'), "state {state:?}");
    Ok(())
}
