//! What a reload of the file does to the running agent, over one cable.

use lab::daemon::{Kind, podroute};
use lab::ensure;
use lab::failure::Result;
use lab::machine::Host;
use lab::rack::CONVERGENCE;
use lab::wait;

use crate::sessions::{cable, established, yaml};
use crate::support::uptime;
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![scenario(
        "reload::the_node_listens_elsewhere",
        [Kind::Podroute],
        listen,
    )]
}

const PEER: &str = "peers: [{name: one, address: 192.0.2.2, asn: 64512, passive: true}]\n";

fn node_file(listen: &str) -> String {
    yaml(
        "node-a",
        64512,
        "10.244.1.0/24",
        &format!("listen: {listen}\n{PEER}"),
    )
}

const CLIENT: &str = "listen: {enabled: false}\npeers: [{name: hub, address: 192.0.2.1, port: 1179, asn: 64512, \
                      timers: {connectRetry: 200ms}}]\n";

fn reload(node: &Host, file: &str) -> Result<String> {
    node.write_config("podroute.yaml", file)?;
    let podroute = lab::bins::find("podroute")?;
    node.run(&podroute.to_string_lossy(), &["reload"])
}

/// To another address, which the host gets only later, while a session stays up; a port that is taken is waited for.
fn listen() -> Result<()> {
    let [node, other] = cable("node-a", "node-b", true)?;
    let _agent = podroute::start_with(&node, &node_file("{port: 1179}"))?;
    let _first = podroute::start_with(&other, &yaml("node-b", 64512, "10.244.2.0/24", CLIENT))?;
    established(&node, "one")?;
    let before = uptime(&node, "one")?;
    reload(&node, &node_file("{port: 1179, addresses: [192.0.2.7]}"))?;
    let sockets = node.run("ss", &["-Hltn"])?;
    ensure!(
        sockets.contains("192.0.2.7:1179") && !sockets.contains("0.0.0.0:1179"),
        "listens on {sockets}"
    );
    node.ip("addr add 192.0.2.7/24 dev eth0")?;
    wait::until(CONVERGENCE, "the new address accepts", || {
        other.within(|| {
            std::net::TcpStream::connect("192.0.2.7:1179")
                .map(drop)
                .or_else(|error| wait::not_yet(error.to_string()))
        })
    })?;
    // Somebody has the port: the node listens as before, and says so until it is free.
    let taken = node.within(|| {
        std::net::TcpListener::bind("192.0.2.1:1180")
            .map_err(|error| lab::failure::Failure::new(error.to_string()))
    })?;
    let outcome = reload(&node, &node_file("{port: 1180}"))?;
    ensure!(
        outcome.contains("rejected: listen") && outcome.contains("Address already in use"),
        "{outcome}"
    );
    let rejected = podroute::show(&node, "cluster")?["cluster"]["rejected"].to_string();
    ensure!(rejected.contains("listen"), "{rejected}");
    let sockets = node.run("ss", &["-Hltn"])?;
    ensure!(sockets.contains("192.0.2.7:1179"), "listens on {sockets}");
    drop(taken);
    wait::until(CONVERGENCE, "the port that is free now", || {
        let sockets = node.run("ss", &["-Hltn"])?;
        let status = podroute::show(&node, "cluster")?;
        if sockets.contains("0.0.0.0:1180")
            && status["cluster"]["rejected"]
                .as_array()
                .is_some_and(Vec::is_empty)
        {
            Ok(())
        } else {
            wait::not_yet(sockets)
        }
    })?;
    ensure!(uptime(&node, "one")? >= before, "the session did not stay");
    Ok(())
}
