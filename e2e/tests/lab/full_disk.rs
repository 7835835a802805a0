//! A full run directory: a tmpfs of its own, which the test fills and empties.

use std::fs;
use std::path::PathBuf;

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Result};
use lab::machine::Host;
use lab::process::Daemon;
use lab::rack::CONVERGENCE;
use lab::{bins, ensure, process, wait};

use crate::sessions::{cable, established, yaml};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![scenario("full_disk::the_agent_goes_on", [Kind::Podroute], agent)]
}

struct RunDir {
    dir: PathBuf,
}

impl RunDir {
    fn mount(host: &Host) -> Result<Self> {
        let dir = host.run_file("podroute");
        fs::create_dir_all(&dir).context(dir.display())?;
        let path = dir.to_string_lossy().into_owned();
        process::run(
            "mount",
            &["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs", &path],
        )?;
        Ok(Self { dir })
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("filler")
    }

    /// Not an octet more.
    fn fill(&self) -> Result<()> {
        let mut file = fs::File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .context("filler")?;
        while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("filler")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    fn contains(&self, name: &str, words: &str) -> Result<()> {
        let text = self.read(name);
        ensure!(text.contains(words), "no {words} in {name}: {text}");
        Ok(())
    }

    fn wait_contains(&self, name: &str, words: &str) -> Result<()> {
        wait::until(CONVERGENCE, format_args!("{words} in {name}"), || {
            self.contains(name, words)
        })
    }
}

const PEER: &str = "peers: [{name: other, address: 192.0.2.2, asn: 64512, timers: {connectRetry: 200ms}}]\n\
                    metrics: {port: 9179}\n";

fn start(host: &Host) -> Result<Daemon> {
    podroute::start_with(host, &yaml("node-a", 64512, "10.244.1.0/24", PEER))
}

fn ready_says(host: &Host, words: &str) -> Result<()> {
    wait::until(CONVERGENCE, format_args!("readyz: {words}"), || {
        let text = host.run("curl", &["-s", "http://127.0.0.1:9179/readyz"])?;
        ensure!(text.contains(words), "{text}");
        Ok(())
    })
}

/// It starts, says what is wrong, keeps what was there, and goes on as soon as there is room.
fn agent() -> Result<()> {
    let [node, other] = cable("node-a", "node-b", true)?;
    let more = "peers: [{name: hub, address: 192.0.2.1, asn: 64512, timers: {connectRetry: 200ms}}]\n";
    let _other = podroute::start_with(&other, &yaml("node-b", 64512, "10.244.2.0/24", more))?;
    let run_dir = RunDir::mount(&node)?;
    run_dir.fill()?;
    let mut agent = start(&node)?;
    established(&node, "other")?;
    ready_says(
        &node,
        "cannot write /run/podroute/node.json: No space left on device",
    )?;
    run_dir.empty()?;
    ready_says(&node, "ready\n")?;
    run_dir.contains("node.json", "10.244.1.0/24")?;
    run_dir.wait_contains("sessions", "other")?;
    let podroute = bins::find("podroute")?;
    let ask = |arguments: &[&str]| node.output(&podroute.to_string_lossy(), arguments);
    ensure!(
        ask(&["drain", "--no-withdraw"])?.status.success(),
        "it does not drain"
    );
    let kept = run_dir.read("drain");
    ensure!(kept.starts_with("prefer-others"), "{kept}");
    // Full again: nothing that is there gets lost, and what cannot be kept is refused.
    run_dir.fill()?;
    let before = run_dir.read("node.json");
    let refused = ask(&["drain", "--wait", "0"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains("No space left on device"),
        "drain: {said}"
    );
    node.ip("link set eth0 mtu 1400")?;
    ready_says(&node, "cannot write /run/podroute/node.json")?;
    ensure!(
        (run_dir.read("drain"), run_dir.read("node.json")) == (kept, before),
        "files changed: {} {}",
        run_dir.read("drain"),
        run_dir.read("node.json")
    );
    ensure!(
        fs::read_dir(&run_dir.dir)
            .context("run directory")?
            .flatten()
            .all(|entry| !entry.file_name().to_string_lossy().ends_with(".new")),
        "half a file is left"
    );
    // A restart finds all of it.
    agent.kill();
    let _agent = start(&node)?;
    established(&node, "other")?;
    let cluster = podroute::show(&node, "cluster")?;
    ensure!(cluster["cluster"]["drained"] == "prefer-others", "{cluster}");
    run_dir.empty()?;
    run_dir.wait_contains("node.json", "1400")?;
    ready_says(&node, "ready, but drained")
}
