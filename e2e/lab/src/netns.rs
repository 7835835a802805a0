//! Network namespaces of the lab: made, named, entered.
//!
//! A namespace is a bind mount under `/run/netns`, as `ip netns` makes it, in the box's private
//! `/run`. Code enters one in a thread of its own ([`within`]); a process started from such a
//! thread is born inside, so no `unsafe` pre-exec hook is needed.

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::failure::{Context, Failure, Result};

const DIR: &str = "/run/netns";
const NONE: Option<&str> = None;

/// Makes `/run/netns` a shared mount, so that names made later are seen (and vanish) everywhere.
pub(crate) fn prepare() -> Result<()> {
    std::fs::create_dir_all(DIR).context(DIR)?;
    mount(Some(DIR), DIR, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).context(DIR)?;
    mount(NONE, DIR, NONE, MsFlags::MS_SHARED | MsFlags::MS_REC, NONE).context(DIR)
}

/// Where a namespace's name is.
pub fn path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

/// Makes a namespace, with its loopback up and without IPv6 duplicate address detection.
pub fn create(name: &str) -> Result<()> {
    let target = path(name);
    File::create_new(&target).context(target.display())?;
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("unshare of the network")?;
        mount(Some(linux::netns::OWN), &target, NONE, MsFlags::MS_BIND, NONE).context(target.display())?;
        for scope in ["all", "default"] {
            sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0")?;
            sysctl(&format!("net/ipv6/conf/{scope}/accept_ra"), "0")?;
        }
        Ok(())
    })
    .map_err(|f| f.during(format_args!("namespace {name}")))?;
    crate::process::run("ip", &["-n", name, "link", "set", "lo", "up"]).map(drop)
}

/// Takes the name away; the namespace goes when its last process or socket does.
pub fn delete(name: &str) -> Result<()> {
    let target = path(name);
    umount2(&target, MntFlags::MNT_DETACH).context(target.display())?;
    std::fs::remove_file(&target).context(target.display())
}

/// Sets a sysctl of the calling thread's network namespace; `key` has slashes.
pub fn sysctl(key: &str, value: &str) -> Result<()> {
    linux::sysctl::write(key, value).context(key)
}

/// Runs `job` in a thread inside the namespace and answers its result.
pub fn within<T: Send>(name: &str, job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    in_thread(|| {
        enter(name)?;
        job()
    })
}

/// Moves the calling thread (only it) into the namespace.
pub fn enter(name: &str) -> Result<()> {
    let file = File::open(path(name)).context(format!("namespace {name}"))?;
    linux::netns::enter(file).context(format!("entering namespace {name}"))
}

/// Runs `job` in a fresh thread, so that what it does to its own namespaces stays with it.
pub fn in_thread<T: Send>(job: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, job)
            .context("starting a thread")?;
        thread.join().unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_default();
            Err(Failure::new(format!("a lab thread panicked: {text}")))
        })
    })
}
