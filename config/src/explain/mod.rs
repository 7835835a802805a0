//! A configuration in words: what this node will run, and why.
//!
//! The text is for people (`podroute check --explain`): every effective value stands there, those that
//! nobody wrote marked as default, each policy with its rules, each peer that was left out with the
//! reason. It follows from the [`Config`] alone.

mod policy;

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use bgp_proto::engine::PeerKind;
use bgp_proto::types::HoldTime;

use crate::model::{Auto, Config, Peer, Ttl};

pub(crate) fn explain(config: &Config) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_all(&mut out, config);
    out
}

fn write_all(out: &mut String, config: &Config) -> fmt::Result {
    node(out, config)?;
    kernel(out, config)?;
    for one in &config.peers {
        peer(out, one)?;
    }
    if config.peers.is_empty() {
        writeln!(
            out,
            "\nno peers: nothing is learned, and nobody hears of this node"
        )?;
    }
    if !config.skipped.is_empty() {
        writeln!(out, "\nnot for this node")?;
    }
    for skipped in &config.skipped {
        writeln!(out, "  {}: {}", skipped.name, skipped.reason)?;
    }
    Ok(())
}

fn node(out: &mut String, config: &Config) -> fmt::Result {
    let node = &config.node;
    writeln!(
        out,
        "node {}",
        node.name.as_deref().unwrap_or("(name of the host)")
    )?;
    let own = if config.cluster.asn == Some(node.asn) {
        "of the cluster"
    } else {
        "of its own"
    };
    writeln!(out, "  AS             {} ({own})", node.asn)?;
    writeln!(out, "  router id      {}", auto(&node.router_id))?;
    if let Some(id) = config.cluster.cluster_id {
        writeln!(out, "  cluster id     {}", std::net::Ipv4Addr::from_bits(id))?;
    }
    let addresses = match &node.addresses {
        Auto::Auto => "auto".to_owned(),
        Auto::Fixed(list) => join(list, "none"),
    };
    writeln!(out, "  addresses      {addresses}")?;
    let labels: Vec<String> = node
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    writeln!(out, "  labels         {}", join(&labels, "none"))?;
    writeln!(
        out,
        "  pod CIDRs      {}",
        join(&config.cluster.pod_cidrs, "none")
    )?;
    writeln!(out, "  originates     {}", join(&node.blocks, "nothing"))?;
    writeln!(out, "  pod MTU        {}", auto(&node.mtu))
}

fn kernel(out: &mut String, config: &Config) -> fmt::Result {
    let sockets: Vec<_> = config.listen.sockets().collect();
    writeln!(
        out,
        "  listens on     {}",
        join(&sockets, "nothing: it opens all sessions itself")
    )?;
    let fib = &config.fib;
    if !fib.install {
        return writeln!(out, "  kernel routes  none: it only learns and advertises");
    }
    let table = if fib.table == crate::schema::MAIN_TABLE {
        "main".to_owned()
    } else {
        fib.table.to_string()
    };
    let relax = if fib.multipath_relax {
        ", also of different neighbour ASes"
    } else {
        ""
    };
    writeln!(
        out,
        "  kernel routes  table {table}, metric {}, up to {} next hops{relax}",
        fib.metric, fib.max_paths
    )
}

fn peer(out: &mut String, peer: &Peer) -> fmt::Result {
    let down = if peer.shutdown { ", shut down" } else { "" };
    writeln!(
        out,
        "\npeer {}, {}, AS {}{down}",
        peer.name, peer.address, peer.remote_asn
    )?;
    if let Some(text) = &peer.description {
        writeln!(out, "  description    {text}")?;
    }
    let labels: Vec<String> = peer
        .selector
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let why = if labels.is_empty() {
        "no nodeSelector: for every node".to_owned()
    } else {
        format!("nodeSelector {}", labels.join(", "))
    };
    writeln!(out, "  why            {why}")?;
    let kind = match peer.kind {
        PeerKind::External => "external (another AS)",
        PeerKind::Internal => "internal (this node's AS)",
        PeerKind::Client => "internal, route reflector client",
    };
    writeln!(out, "  kind           {kind}")?;
    connection(out, peer)?;
    let families: Vec<_> = peer.families.iter().collect();
    writeln!(
        out,
        "  families       {}{}",
        join(&families, "none"),
        default(peer, "families")
    )?;
    routes(out, peer)
}

fn connection(out: &mut String, peer: &Peer) -> fmt::Result {
    let transport = &peer.transport;
    let how = if transport.passive {
        "waits for the peer to connect".to_owned()
    } else {
        format!("to port {}{}, also accepted", peer.port, default(peer, "port"))
    };
    writeln!(out, "  connection     {how}")?;
    if let Some(local) = transport.local_address {
        writeln!(out, "  from           {local}")?;
    }
    let ttl = match transport.ttl {
        Ttl::Send(1) => "1: directly connected only".to_owned(),
        Ttl::Send(ttl) => ttl.to_string(),
        Ttl::Security { hops } => format!(
            "255, and at least {} from the peer (GTSM, {hops} hops)",
            256 - u16::from(hops)
        ),
    };
    writeln!(out, "  TTL            {ttl}{}", default(peer, "ttl"))?;
    if let Some(file) = &transport.password_file {
        writeln!(out, "  password       TCP MD5, from {}", file.display())?;
    }
    writeln!(
        out,
        "  hold time      {}{}",
        hold(peer.timers.hold),
        default(peer, "timers.hold")
    )?;
    let retry = time(peer.timers.connect_retry);
    writeln!(
        out,
        "  connect retry  {retry}{}",
        default(peer, "timers.connectRetry")
    )?;
    let restart = match peer.graceful_restart {
        Some(seconds) => format!("the peer keeps our routes for {seconds}s"),
        None => "off".to_owned(),
    };
    writeln!(
        out,
        "  restart        {restart}{}",
        default(peer, "gracefulRestart.restartTime")
    )
}

fn routes(out: &mut String, peer: &Peer) -> fmt::Result {
    let routing = &peer.routing;
    if routing.next_hop_self {
        writeln!(out, "  next hop       this node, on all that it sends")?;
    }
    if routing.allow_own_as > 0 {
        writeln!(
            out,
            "  own AS         accepted up to {} times in a path",
            routing.allow_own_as
        )?;
    }
    match routing.max_prefixes {
        Some(most) => writeln!(out, "  most prefixes  {most} per family, then the session ends")?,
        None => writeln!(out, "  most prefixes  no limit (default)")?,
    }
    policy::policy(out, "import", &routing.import, default(peer, "import"))?;
    policy::policy(out, "export", &routing.export, default(peer, "export"))
}

fn default(peer: &Peer, field: &str) -> &'static str {
    if peer.defaulted.contains(&field) {
        " (default)"
    } else {
        ""
    }
}

fn hold(hold: HoldTime) -> String {
    match hold.seconds() {
        0 => "none, no keepalives".to_owned(),
        seconds => format!(
            "{seconds}s, keepalives each {}",
            time(Duration::from_secs(seconds.into()) / 3)
        ),
    }
}

fn time(time: Duration) -> String {
    format!("{time:?}")
}

fn auto<T: Display>(value: &Auto<T>) -> String {
    match value {
        Auto::Auto => "auto".to_owned(),
        Auto::Fixed(value) => value.to_string(),
    }
}

fn join<T: Display>(list: &[T], empty: &str) -> String {
    if list.is_empty() {
        return empty.to_owned();
    }
    list.iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
