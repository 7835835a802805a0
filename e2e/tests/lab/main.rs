//! The lab's tests: each scenario runs in a process of its own inside fresh namespaces.
//!
//! `cargo test -p e2e -- NAME` runs those whose name contains NAME. A scenario whose daemon is not
//! installed is left out, with the reason printed; with `LAB_REQUIRE=1` (set by `make test` where it
//! could install everything) it fails instead. The programs under test must be built: `make build`.

mod bfd;
mod bgp_raw;
mod cli;
mod cni;
mod coexistence;
mod compat;
mod datapath;
mod diff;
mod failover;
mod full_disk;
mod host;
mod hostile;
mod interop;
mod kernel;
mod kube;
mod kube_changes;
mod kube_image;
mod kube_noderoutes;
mod kube_pools;
mod kube_scale;
mod kube_services;
mod lab_itself;
mod large;
mod matrix;
mod monitor;
mod network_policy;
mod objects;
mod overlays;
mod policies;
mod reload;
mod resolution;
mod restart;
mod roles;
mod router_config;
mod sessions;
mod support;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use lab::daemon::Kind;
use lab::failure::{Failure, Result};
use lab::process::find_program;
use lab::sandbox;
use libtest_mimic::{Arguments, Failed, Trial};

/// No scenario may take longer; its box is ended then.
const LIMIT: Duration = Duration::from_secs(150);
/// First argument of the process that makes the box, and of the one that works in it.
const BOX: &str = "__scenario";
const WORK: &str = "__work";

/// The scenarios that passed in this run.
static PASSED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// One thing that the lab proves.
struct Scenario {
    name: String,
    needs: Vec<Kind>,
    /// Whether it executes `ptp`, `bridge` or `host-local`.
    reference_plugins: bool,
    /// Other programs, with their packages.
    programs: Vec<(&'static str, &'static str)>,
    run: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

/// A scenario that needs these daemons.
fn scenario(
    name: impl Into<String>,
    needs: impl IntoIterator<Item = Kind>,
    run: impl Fn() -> Result<()> + Send + Sync + 'static,
) -> Scenario {
    Scenario {
        name: name.into(),
        needs: needs.into_iter().collect(),
        reference_plugins: false,
        programs: Vec::new(),
        run: Box::new(run),
    }
}

impl Scenario {
    /// The scenario needs the reference CNI plugins too.
    fn with_reference_plugins(mut self) -> Self {
        self.reference_plugins = true;
        self
    }

    /// The scenario needs this program too.
    fn with_program(mut self, program: &'static str, package: &'static str) -> Self {
        self.programs.push((program, package));
        self
    }

    /// What is missing of other people's programs; ours are never left out: a test that misses them
    /// says so and fails.
    fn missing(&self) -> Option<Failure> {
        let daemons = self.needs.iter().filter(|kind| **kind != Kind::Podroute);
        let mut missing = daemons.filter_map(|kind| kind.available().err());
        let plugins = || lab::cni::reference_plugins_available().err();
        let programs = || {
            let mut absent = self
                .programs
                .iter()
                .filter(|(program, _)| find_program(program).is_none());
            let (program, package) = absent.next()?;
            Some(Failure::new(format!(
                "{program} is not installed: apt-get install {package}"
            )))
        };
        missing
            .next()
            .or_else(programs)
            .or_else(|| if self.reference_plugins { plugins() } else { None })
    }
}

fn scenarios() -> Vec<Scenario> {
    [
        lab_itself::scenarios(),
        cni::scenarios(),
        cli::scenarios(),
        host::scenarios(),
        kernel::scenarios(),
        bfd::scenarios(),
        kube::scenarios(),
        monitor::scenarios(),
        network_policy::scenarios(),
        coexistence::scenarios(),
        compat::scenarios(),
        datapath::scenarios(),
        diff::scenarios(),
        failover::scenarios(),
        full_disk::scenarios(),
        kube_changes::scenarios(),
        large::scenarios(),
        kube_image::scenarios(),
        kube_noderoutes::scenarios(),
        overlays::scenarios(),
        policies::scenarios(),
        kube_scale::scenarios(),
        kube_pools::scenarios(),
        kube_services::scenarios(),
        objects::scenarios(),
        reload::scenarios(),
        resolution::scenarios(),
        restart::scenarios(),
        router_config::scenarios(),
        roles::scenarios(),
        sessions::scenarios(),
        hostile::scenarios(),
        interop::scenarios(),
        matrix::scenarios(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = lab::dispatch(&args) {
        std::process::exit(code);
    }
    match args.as_slice() {
        [first, name] if first == BOX => std::process::exit(in_box(name)),
        [first, name] if first == WORK => std::process::exit(work(name)),
        _ => all(),
    }
}

/// Runs the tests; then the table of who it was tried with is written or compared.
fn all() -> ! {
    let conclusion = libtest_mimic::run(&Arguments::from_args(), trials());
    let passed = PASSED.lock().expect("no test panics with it").clone();
    let table = if std::env::var_os("INTEROP_TABLE").is_some() {
        matrix::write(&passed)
    } else {
        matrix::compare(&passed)
    };
    if let Err(error) = table {
        eprintln!("{error}");
        std::process::exit(101);
    }
    conclusion.exit()
}

fn trials() -> Vec<Trial> {
    let no_box = sandbox::possible().err();
    let strict = std::env::var_os("LAB_REQUIRE").is_some_and(|value| value == "1");
    let mut reasons = BTreeSet::new();
    let trials = scenarios().into_iter().map(|scenario| {
        let left_out = no_box.clone().or(scenario.missing().filter(|_| !strict));
        reasons.extend(left_out.as_ref().map(|reason| reason.summary().to_owned()));
        let name = scenario.name.clone();
        Trial::test(scenario.name, move || spawn(&name)).with_ignored_flag(left_out.is_some())
    });
    let trials = trials.collect();
    for reason in reasons {
        println!("left out (shown as ignored): {reason}");
    }
    trials
}

/// Runs a scenario in a child; its whole output is the evidence if it fails (with LAB_SAY set it is printed in any case).
fn spawn(name: &str) -> Result<(), Failed> {
    let (mut output, input) = std::io::pipe()?;
    let exe = std::env::current_exe()?;
    let mut child = Command::new(exe)
        .args([BOX, name])
        .stdin(Stdio::null())
        .stdout(input.try_clone()?)
        .stderr(input)
        .spawn()?;
    let (done, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = output.read_to_end(&mut text);
        let _ = done.send(String::from_utf8_lossy(&text).into_owned());
    });
    // The pipe closes when the last process of the box is gone.
    let text = match wait.recv_timeout(LIMIT) {
        Ok(text) => text,
        Err(_) => {
            let _ = child.kill();
            let _ = child.wait();
            let text = wait.recv_timeout(Duration::from_secs(10)).unwrap_or_default();
            return Err(format!("not finished within {LIMIT:?}\n{text}").into());
        }
    };
    let status = child.wait()?;
    if std::env::var_os("LAB_SAY").is_some() {
        println!("{name} says:\n{text}");
    }
    if status.success() {
        PASSED
            .lock()
            .expect("no test panics with it")
            .insert(name.to_owned());
        Ok(())
    } else {
        Err(format!("{status}\n{text}").into())
    }
}

fn in_box(name: &str) -> i32 {
    sandbox::run(&[WORK.to_owned(), name.to_owned()], false).unwrap_or_else(|failure| {
        eprintln!("{failure}");
        1
    })
}

fn work(name: &str) -> i32 {
    if name == lab_itself::SLEEPER {
        return lab_itself::sleeper();
    }
    let all = scenarios();
    let Some(scenario) = all.iter().find(|scenario| scenario.name == name) else {
        eprintln!("no scenario {name}");
        return 2;
    };
    let ready = scenario.missing().map_or(Ok(()), Err);
    match ready.and_then(|()| (scenario.run)()) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{failure}");
            1
        }
    }
}
