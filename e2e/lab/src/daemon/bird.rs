//! BIRD 2: configuration, sessions, resets. Installs routes by its own kernel protocol.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use super::{Speaker, pod_prefix, wait_answer};
use crate::failure::{Context, Failure, Result};
use crate::machine::{Host, command};
use crate::process::Daemon;
use crate::topology::{Family, Neighbor};

pub(super) fn start(host: &Host, speaker: &Speaker) -> Result<Vec<Daemon>> {
    start_with(host, &render(speaker))
}

/// Starts BIRD with a configuration of the test's own.
pub fn start_with(host: &Host, config: &str) -> Result<Vec<Daemon>> {
    start_as(host, config, &[])
}

/// Starts it again after a crash: its OPEN says that it restarts and has gone on forwarding.
pub fn recover_with(host: &Host, config: &str) -> Result<Vec<Daemon>> {
    start_as(host, config, &["-R"])
}

fn start_as(host: &Host, config: &str, more: &[&str]) -> Result<Vec<Daemon>> {
    let config = host.write_config("bird.conf", config)?;
    std::fs::create_dir_all(host.run_file("bird")).context("/run/bird")?;
    let mut bird = host.spawn("bird", command("bird").args(more).args(["-f", "-c"]).arg(config))?;
    wait_answer(host, &mut bird, Duration::from_secs(5), || {
        host.run("birdc", &["show", "status"])
    })?;
    Ok(vec![bird])
}

pub(super) fn sessions(host: &Host, speaker: &Speaker) -> Result<BTreeMap<IpAddr, String>> {
    let table = host.run("birdc", &["show", "protocols"])?;
    let states = speaker.neighbors.iter().filter_map(|neighbor| {
        let line = table
            .lines()
            .find(|l| l.split_whitespace().next() == Some(&protocol(neighbor)))?;
        // Name Proto Table State Since Info: "Established", or "Active  Socket: …".
        Some((
            neighbor.remote,
            line.split_whitespace().nth(5).unwrap_or("down").to_owned(),
        ))
    });
    Ok(states.collect())
}

pub(super) fn reset(host: &Host, speaker: &Speaker, remote: IpAddr) -> Result<()> {
    let neighbor = speaker.neighbors.iter().find(|n| n.remote == remote);
    let neighbor = neighbor.ok_or_else(|| Failure::new(format!("no neighbor {remote}")))?;
    host.run("birdc", &["restart", &protocol(neighbor)]).map(drop)
}

fn protocol(neighbor: &Neighbor) -> String {
    neighbor.name.replace('-', "_")
}

fn render(speaker: &Speaker) -> String {
    let mut out = format!(
        "log stderr all;\nrouter id {};\nprotocol device {{}}\n",
        speaker.router_id
    );
    for family in Family::BOTH {
        let channel = family.keyword();
        let (prefix, min, max) = pod_prefix(family);
        let otherwise = if speaker.unfiltered { "accept" } else { "reject" };
        let _ = write!(
            out,
            "filter pods_{channel} {{ if net ~ [ {prefix}{{{min},{max}}} ] then accept; {otherwise}; }}\n\
             protocol kernel kernel_{channel} {{\n  {channel} {{ import none; \
             export where source = RTS_BGP || source = RTS_STATIC; }};\n}}\n\
             protocol static own_{channel} {{\n  {channel};\n"
        );
        for block in speaker
            .originates
            .iter()
            .filter(|b| Family::of(b.addr()) == family)
        {
            let _ = writeln!(out, "  route {block} unreachable;");
        }
        out.push_str("}\n");
    }
    speaker
        .neighbors
        .iter()
        .for_each(|neighbor| session(&mut out, speaker, neighbor));
    out
}

fn session(out: &mut String, speaker: &Speaker, neighbor: &Neighbor) {
    let channel = Family::of(neighbor.remote).keyword();
    let passive = if neighbor.passive { "yes" } else { "no" };
    let _ = write!(
        out,
        "protocol bgp {name} {{\n  local {local} as {asn};\n  neighbor {remote} as {remote_asn};\n  \
         hold time {hold};\n  connect delay time 1;\n  connect retry time 1;\n  error wait time 1, 4;\n  \
         error forget time 4;\n  passive {passive};\n  direct;\n  \
         {channel} {{ import filter pods_{channel}; export filter pods_{channel}; gateway direct; }};\n}}\n",
        name = protocol(neighbor),
        local = neighbor.local,
        asn = speaker.asn,
        remote = neighbor.remote,
        remote_asn = neighbor.asn,
        hold = speaker.hold.as_secs(),
    );
}
