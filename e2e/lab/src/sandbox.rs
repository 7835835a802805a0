//! The sandbox of a lab: new mount, PID, network, IPC and host-name namespaces, and a user
//! namespace when the caller is not root.
//!
//! Three processes. The *outer* one unshares and waits. The *init* (PID 1 of the box) mounts a
//! private `/proc`, `/run`, `/var/tmp` and `/sys`, reaps orphans and ends with the outer one. The *work*
//! process does the job. When any of them dies, the kernel ends everything in the box, and the
//! mounts, names and links go with the namespaces: nothing is left on the host. Only a box whose
//! work asked to be kept (see [`KEEP`]) outlives its outer process; [`find_kept`] finds it again
//! through `/proc`, so that not even a state file is needed.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, Uid, dup2_stderr, dup2_stdout, getgid, getuid, setsid};

use crate::failure::{Context, Failure, Result};

/// First argument of PID 1 of the box.
const INIT: &str = "__init";
/// First argument of PID 1 of a box that may be kept.
const INIT_KEEPABLE: &str = "__init-keepable";
const PROBE: &str = "__probe";
const NOTHING: &str = "__nothing";
/// Exit code of a work process that wants its box to stay up.
pub const KEEP: i32 = 113;

/// Runs `work` (arguments for this same executable) inside a fresh box, and answers its exit code.
///
/// Call it from a process with one thread only: a user namespace asks for that.
pub fn run(work: &[String], keepable: bool) -> Result<i32> {
    unshare_all()?;
    let (ours, theirs) = UnixStream::pair().context("socket pair to the lab's init")?;
    let mut init = Command::new(own_exe()?)
        .arg(if keepable { INIT_KEEPABLE } else { INIT })
        .args(work)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .context("starting the lab's init")?;
    let mut answer = [0u8; 1];
    // One byte means "keep the box": leave it. End of file means that init is gone.
    match (&ours).read(&mut answer) {
        Ok(1) => Ok(0),
        _ => Ok(exit_code(init.wait().context("waiting for the lab's init")?)),
    }
}

/// If this process was started for one of the box's own jobs, does it and answers the exit code.
pub(crate) fn dispatch(args: &[String]) -> Option<i32> {
    let keepable = match args.first()?.as_str() {
        INIT => false,
        INIT_KEEPABLE => true,
        PROBE => return Some(probe()),
        NOTHING => return Some(0),
        _ => return None,
    };
    Some(init(&args[1..], keepable).unwrap_or_else(|failure| {
        eprintln!("lab init: {failure}");
        1
    }))
}

/// Whether this kernel and user allow a box at all; `Err` says what is missing.
pub fn possible() -> Result<()> {
    let status = Command::new(own_exe()?)
        .args([PROBE])
        .stdin(Stdio::null())
        .output()
        .context("probing for namespaces")?;
    if status.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!(
        "no namespaces for this user ({})",
        String::from_utf8_lossy(&status.stderr).trim()
    )))
}

/// The probe behind [`possible`]: builds an empty box.
fn probe() -> i32 {
    match run(&[NOTHING.to_owned()], false) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("{failure}");
            1
        }
    }
}

fn unshare_all() -> Result<()> {
    let (uid, gid) = (getuid(), getgid());
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS;
    if !Uid::effective().is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).context("unshare of mount, PID and network namespaces")?;
    if flags.contains(CloneFlags::CLONE_NEWUSER) {
        std::fs::write("/proc/self/setgroups", "deny").context("/proc/self/setgroups")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("/proc/self/uid_map")?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("/proc/self/gid_map")?;
    }
    Ok(())
}

fn init(work: &[String], keepable: bool) -> Result<i32> {
    let outer = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned().context("stdin")?);
    std::thread::spawn({
        let mut outer = outer.try_clone().context("socket to the outer process")?;
        move || {
            // The outer process never writes: an answer means that it is gone.
            let _ = outer.read(&mut [0u8; 1]);
            if !KEPT.load(std::sync::atomic::Ordering::SeqCst) {
                std::process::exit(137);
            }
        }
    });
    mount_private()?;
    let mut child = Command::new(own_exe()?)
        .args(work)
        .stdin(Stdio::null())
        .spawn()
        .context("starting the lab's work process")?;
    let code = reap_until_exit(&mut child)?;
    if code != KEEP || !keepable {
        return Ok(code);
    }
    stay_up(&outer)?;
    loop {
        match waitpid(None, None) {
            // Nobody left: there is nothing to keep.
            Err(Errno::ECHILD) => return Ok(0),
            _ => continue,
        }
    }
}

static KEPT: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

fn stay_up(outer: &UnixStream) -> Result<()> {
    KEPT.store(true, std::sync::atomic::Ordering::SeqCst);
    let _ = setsid();
    let null = std::fs::OpenOptions::new()
        .write(true)
        .open("/dev/null")
        .context("/dev/null")?;
    dup2_stdout(&null).context("closing standard output")?;
    dup2_stderr(&null).context("closing standard error")?;
    (&*outer).write_all(b"k").context("telling the outer process")
}

fn reap_until_exit(work: &mut Child) -> Result<i32> {
    let pid = Pid::from_raw(work.id() as i32);
    loop {
        match waitpid(None, Some(WaitPidFlag::__WALL)) {
            Ok(WaitStatus::Exited(who, code)) if who == pid => return Ok(code),
            Ok(WaitStatus::Signaled(who, signal, _)) if who == pid => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::new(format!("waiting for the work process: {error}"))),
        }
    }
}

fn mount_private() -> Result<()> {
    const NONE: Option<&str> = None;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).context("private mounts")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE).context("mounting /proc")?;
    mount(
        Some("run"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=755"),
    )
    .context("mounting /run")?;
    // FRR writes its crash logs there.
    if !own_exe()?.starts_with("/var/tmp") {
        mount(
            Some("tmp"),
            "/var/tmp",
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=1777"),
        )
        .context("/var/tmp")?;
    }
    crate::netns::prepare()?;
    keep_cgroups();
    mount_sys();
    Ok(())
}

/// Where the host's tree of control groups stays to be seen in the box.
pub const CGROUPS: &str = "/run/lab/cgroup";

/// The box's own `/sys` has none; a container runtime asks for them. Without them only containers fail.
fn keep_cgroups() {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    if std::fs::create_dir_all(CGROUPS).is_ok() {
        let _ = mount(Some("/sys/fs/cgroup"), CGROUPS, None::<&str>, flags, None::<&str>);
    }
}

/// A `/sys` of the current network namespace; where the kernel refuses it, the old one stays.
pub fn mount_sys() {
    let _ = mount(
        Some("sysfs"),
        "/sys",
        Some("sysfs"),
        MsFlags::empty(),
        None::<&str>,
    );
}

fn own_exe() -> Result<std::path::PathBuf> {
    std::env::current_exe().context("own executable")
}

/// Whether processes may change their user: by root, outside a user namespace of one user.
pub fn has_several_users() -> bool {
    let denied = std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny");
    Uid::effective().is_root() && !denied
}

/// Exit code of a process as a shell would give it.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// PIDs (as the host counts) of the inits of kept boxes of this user.
pub fn find_kept() -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found: Vec<Pid> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| is_kept_init(*pid))
        .map(Pid::from_raw)
        .collect();
    found.sort();
    found
}

fn is_kept_init(pid: i32) -> bool {
    let dir = Path::new("/proc").join(pid.to_string());
    let Ok(cmdline) = std::fs::read(dir.join("cmdline")) else {
        return false;
    };
    let mut args = cmdline.split(|b| *b == 0);
    let program = args.next().unwrap_or_default();
    if !program.ends_with(b"podroute-lab") || args.next() != Some(INIT_KEEPABLE.as_bytes()) {
        return false;
    }
    let status = std::fs::read_to_string(dir.join("status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find(|l| l.starts_with(name))?;
        Some(
            line.split_whitespace()
                .skip(1)
                .map(str::to_owned)
                .collect::<Vec<_>>(),
        )
    };
    let innermost_pid = field("NSpid:").and_then(|pids| pids.last().cloned());
    let owner = field("Uid:").and_then(|uids| uids.first().cloned());
    innermost_pid.as_deref() == Some("1") && owner == Some(getuid().to_string())
}

/// Ends a kept box: the kernel takes everything in it along.
pub fn end(init: Pid) -> Result<()> {
    kill(init, Signal::SIGKILL).context(format!("ending lab {init}"))?;
    crate::wait::until(
        std::time::Duration::from_secs(20),
        format_args!("end of lab {init}"),
        || match Path::new("/proc").join(init.to_string()).exists() && is_kept_init(init.as_raw()) {
            true => crate::wait::not_yet("still there"),
            false => Ok(()),
        },
    )
}

/// Moves this (single-threaded) process into the box of `init`; children are born inside it.
pub fn join(init: Pid) -> Result<()> {
    let open = |kind: &str| {
        let path = format!("/proc/{init}/ns/{kind}");
        std::fs::File::open(&path).context(path)
    };
    let mut spaces = Vec::new();
    if !Uid::effective().is_root() {
        spaces.push((open("user")?, CloneFlags::CLONE_NEWUSER));
    }
    for (kind, flag) in [
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ] {
        spaces.push((open(kind)?, flag));
    }
    for (space, flag) in spaces {
        setns(space, flag).context(format!("entering the lab of process {init}"))?;
    }
    Ok(())
}
