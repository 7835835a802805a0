//! `podroute check --explain`: what this node will run, and why.
//!
//! The text is for people (`podroute check --explain`): every effective value stands there, those that
//! nobody wrote marked as default, each policy with its rules, each peer that was left out with the
//! reason. It follows from the [`Config`] alone.

mod policy;

use std::fmt::{self, Display, Write as _};
use std::time::Duration;

use bgp_proto::engine::{Aggregate, MaxPrefixes, OverLimit, PathRules, PeerKind, PrivateAs, When};
use bgp_proto::types::HoldTime;

use crate::model::{
    Auto, Bfd, BmpStation, Cni, Config, Fib, Mesh, NetworkPolicy, NodeAddresses, OnShutdown, Peer, Portmap,
    Remote, RouterIdChoice, Ttl,
};

impl Config {
    /// What this node will run, and why, in words for people.
    #[must_use]
    pub fn explain(&self) -> String {
        explain(self)
    }
}

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
        writeln!(out, "\nno peers: no route is learned or advertised")?;
    }
    for hop in &config.next_hops {
        let detect = time(hop.bfd.interval * u32::from(hop.bfd.multiplier));
        writeln!(
            out,
            "  next hop       {}: BFD sees a loss in {detect}",
            hop.address
        )?;
        for line in bfd_options(&hop.bfd) {
            writeln!(out, "                 {line}")?;
        }
    }
    for station in &config.bmp {
        self::station(out, station)?;
    }
    if !config.skipped.is_empty() {
        writeln!(out, "\nnot for this node")?;
    }
    for skipped in &config.skipped {
        writeln!(out, "  {}: {}", skipped.name, skipped.reason)?;
    }
    Ok(())
}

fn station(out: &mut String, station: &BmpStation) -> fmt::Result {
    let routes = match (station.pre_policy, station.post_policy) {
        (true, true) => "routes before and after import policy",
        (true, false) => "routes before import policy",
        (false, true) => "routes after import policy",
        (false, false) => "no routes",
    };
    let statistics = match station.statistics {
        Duration::ZERO => "no statistics".to_owned(),
        every => format!("statistics each {}", time(every)),
    };
    writeln!(
        out,
        "\nBMP station {}: sessions, {routes}, {statistics}",
        station.station
    )
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
    let router_id = match &node.router_id {
        RouterIdChoice::Auto => "auto".to_owned(),
        RouterIdChoice::Cidr(cidr) => format!("the host's address in {cidr}"),
        RouterIdChoice::Fixed(id) => id.to_string(),
    };
    writeln!(out, "  router id      {router_id}")?;
    if let Some(id) = config.cluster.cluster_id {
        writeln!(out, "  cluster id     {}", std::net::Ipv4Addr::from_bits(id))?;
    }
    let addresses = match &node.addresses {
        NodeAddresses::Auto => "auto".to_owned(),
        NodeAddresses::InternalIp => {
            format!("internal addresses of the Node: {}", join(&node.internal, "none"))
        }
        NodeAddresses::Cidrs(cidrs) => format!("the host's in {}", join(cidrs, "none")),
        NodeAddresses::Fixed(list) => join(list, "none"),
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
    for line in originate(config) {
        writeln!(out, "  originates     {line}")?;
    }
    let services = config.services.hosts.iter().chain(&config.services.aggregates);
    let services: Vec<String> = services
        .map(|(prefix, communities)| {
            let communities: Vec<String> = communities.iter().map(ToString::to_string).collect();
            match communities.as_slice() {
                [] => prefix.to_string(),
                some => format!("{prefix} ({})", some.join(" ")),
            }
        })
        .collect();
    if !services.is_empty() {
        writeln!(out, "  Services       {}", join(&services, "none"))?;
    }
    if !config.services.ranges.is_empty() {
        let ranges = join(&config.services.ranges, "none");
        writeln!(out, "  Services       only addresses in {ranges}")?;
    }
    for pool in config
        .services
        .allocation
        .iter()
        .flat_map(|allocation| &allocation.settings.pools)
    {
        let ranges = join(&pool.ranges, "none");
        let how = if pool.automatic {
            ""
        } else {
            ", only for Services that ask for it"
        };
        writeln!(
            out,
            "  pool           {}: {ranges}, priority {}{how}",
            pool.name, pool.priority
        )?;
    }
    match &config.mesh {
        Mesh::Off => {}
        Mesh::Full => writeln!(out, "  mesh           a session with each other node")?,
        Mesh::Reflectors(labels) => {
            let labels: Vec<String> = labels
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            writeln!(
                out,
                "  mesh           reflectors are nodes with {}",
                labels.join(", ")
            )?;
        }
    }
    if config.from_kubernetes.any() {
        writeln!(
            out,
            "  Kubernetes     provides blocks, other nodes and Services to the running agent"
        )?;
    }
    writeln!(out, "  pod MTU        {}", auto(&node.mtu))?;
    cni(out, &config.cni)?;
    if let NetworkPolicy::Kubernetes {
        ends_established,
        wait,
    } = &config.network_policy
    {
        let ends = if *ends_established { "end" } else { "stay" };
        writeln!(
            out,
            "  policies       NetworkPolicies are enforced; connections that one forbids {ends}; ADD waits {wait:?} for rules"
        )?;
    }
    let end = match config.shutdown {
        OnShutdown::Preserve => "peers keep our routes, if they agreed to graceful restart",
        OnShutdown::Withdraw => "peers drop our routes",
    };
    writeln!(out, "  when it ends   {end}")
}

/// What of the runtime's network is not as it is for most.
/// What is originated besides blocks and Services.
fn originate(config: &Config) -> Vec<String> {
    let when = |when: Option<When>| {
        when.map_or_else(String::new, |when| {
            let state = if when.present { "is there" } else { "is not there" };
            format!(" while {} {state}", when.prefix)
        })
    };
    let rules = config.originate.iter().map(|rule| {
        let aggregate = match rule.aggregate {
            None => "",
            Some(Aggregate::Beside) => " while a route is inside",
            Some(Aggregate::InPlace) => " in place of the routes inside",
        };
        let discard = if rule.kernel.blackhole {
            ", discarding the rest"
        } else {
            ""
        };
        format!("{}{aggregate}{}{discard}", rule.prefix, when(rule.when))
    });
    let kernel = config.kernel_routes.iter().map(|routes| {
        format!(
            "kernel routes of protocols {}, interfaces {}, tables {}{}",
            join(&routes.protocols, "any"),
            join(&routes.interfaces, "any"),
            join(&routes.tables, "any"),
            when(routes.when)
        )
    });
    rules.chain(kernel).collect()
}

fn cni(out: &mut String, cni: &Cni) -> fmt::Result {
    let masquerade = cni.masquerade.as_ref().map(|exempt| {
        let exempt = join(exempt, "nothing more");
        format!("what leaves the pod network has the node's address, but for {exempt}")
    });
    let portmap = match cni.portmap {
        Portmap::Auto => None,
        Portmap::On => Some("portmap for hostPort, which must be installed".to_owned()),
        Portmap::Off => Some("no portmap: hostPort does nothing".to_owned()),
    };
    let kinds = cni
        .plugins
        .iter()
        .filter_map(|plugin| plugin.get("type")?.as_str());
    let kinds: Vec<&str> = kinds.collect();
    let lines = [
        (cni.name != "pods").then(|| format!("called {}", cni.name)),
        cni.mtu.map(|mtu| format!("MTU {mtu}")),
        masquerade,
        cni.mark
            .map(|mark| format!("packets from pods have the mark {mark}")),
        (!cni.reserved.is_empty()).then(|| format!("no pod gets {} by itself", join(&cni.reserved, ""))),
        portmap,
        cni.bandwidth
            .then(|| "bandwidth for the annotations of pods".to_owned()),
        (!kinds.is_empty()).then(|| format!("then {}", kinds.join(", "))),
    ];
    for line in lines.into_iter().flatten() {
        writeln!(out, "  pod network    {line}")?;
    }
    Ok(())
}

fn kernel(out: &mut String, config: &Config) -> fmt::Result {
    let sockets: Vec<_> = config.listen.sockets().collect();
    writeln!(
        out,
        "  listens on     {}",
        join(&sockets, "nothing: it opens all sessions itself")
    )?;
    if !config.metrics.sockets.is_empty() {
        writeln!(
            out,
            "  metrics        http://{}/metrics",
            join(&config.metrics.sockets, "")
        )?;
    }
    if let Some(web) = config.web {
        writeln!(out, "  looking glass  http://{web}/")?;
    }
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
        ", also of different neighbor ASes"
    } else {
        ""
    };
    let objects = if fib.nexthop_objects {
        ""
    } else {
        ", gateways in each route"
    };
    writeln!(
        out,
        "  kernel routes  table {table}, metric {}, up to {} next hops{relax}{objects}",
        fib.metric, fib.max_paths
    )?;
    for line in fib_options(fib) {
        writeln!(out, "                 {line}")?;
    }
    Ok(())
}

fn bfd_options(bfd: &Bfd) -> impl Iterator<Item = String> {
    let auth = bfd.auth.as_ref().map(|auth| {
        format!(
            "{:?}, key {} from {}",
            auth.kind,
            auth.key_id,
            auth.file.display()
        )
    });
    let dampening = bfd.dampening.map(|dampening| {
        format!(
            "suppressed after {} losses (halved each {}), at most {}",
            dampening.losses,
            time(dampening.half_life),
            time(dampening.longest)
        )
    });
    [auth, dampening].into_iter().flatten()
}

/// What is not as it is for most.
fn fib_options(fib: &Fib) -> impl Iterator<Item = String> {
    let rule = fib
        .rule_priority
        .map(|priority| format!("rules of priority {priority} lead to that table"));
    let equal = (!fib.link_bandwidth).then(|| "equal shares, whatever the link bandwidth".to_owned());
    let default = fib
        .resolve_via_default
        .then(|| "next hops may be reached over a default route".to_owned());
    let resilient = fib.resilient_groups.map(|groups| {
        format!(
            "resilient groups of {} buckets, idle for {} s before they move",
            groups.buckets, groups.idle_seconds
        )
    });
    [rule, equal, default, resilient].into_iter().flatten()
}

fn peer(out: &mut String, peer: &Peer) -> fmt::Result {
    let down = if peer.shutdown { ", shut down" } else { "" };
    writeln!(
        out,
        "\npeer {}, {}, AS {}{down}",
        peer.name, peer.remote, peer.remote_asn
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
    if let Some(local_as) = peer.routing.rules.local_as {
        let form = match (local_as.replace_as, local_as.no_prepend) {
            (false, false) => "in front of this node's own, in both directions",
            (false, true) => "in front of this node's own, not put into received paths",
            (true, false) => "in place of this node's own, put into received paths",
            (true, true) => "in place of this node's own, not put into received paths",
        };
        writeln!(out, "  known there as AS {}: {form}", peer.routing.local_asn)?;
    }
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
    let how = match (&peer.remote, transport.passive) {
        (Remote::Range { limit, .. }, _) => format!("waits for peers to connect, {limit} at most"),
        (_, true) => "waits for the peer to connect".to_owned(),
        (_, false) => format!("to port {}{}, also accepted", peer.port, default(peer, "port")),
    };
    writeln!(out, "  connection     {how}")?;
    if let Some(local) = &transport.local_address {
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
        write!(out, "  password       TCP MD5, from {}", file.display())?;
        match &transport.next_password_file {
            Some(next) => writeln!(out, ", or {}", next.display())?,
            None => writeln!(out)?,
        }
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
    if let Some(bfd) = &peer.bfd {
        let hops = if bfd.multihop { ", over several hops" } else { "" };
        let strict = if bfd.strict {
            ", and the session waits for it"
        } else {
            ""
        };
        let detect = time(bfd.interval * u32::from(bfd.multiplier));
        writeln!(
            out,
            "  BFD            each {}, a loss is seen in {detect}{hops}{strict}",
            time(bfd.interval)
        )?;
        for line in bfd_options(bfd) {
            writeln!(out, "                 {line}")?;
        }
    }
    let mut restart = match peer.restart.time {
        Some(seconds) => format!("the peer keeps our routes for {seconds}s"),
        None => "off".to_owned(),
    };
    if peer.restart.notification {
        restart.push_str(", also after a NOTIFICATION");
    }
    if peer.restart.long_lived > 0 {
        write!(restart, ", then as stale ones for {}s", peer.restart.long_lived)?;
    }
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
    as_rules(out, peer)?;
    if let Some(most) = routing.max_prefixes {
        let default = default(peer, "maxPrefixes");
        writeln!(out, "  most prefixes  {}{default}", max_prefixes(most))?;
    }
    if let Some(most) = routing.max_memory {
        let (mib, default) = (most >> 20, default(peer, "maxMemory"));
        writeln!(
            out,
            "  most memory    {mib} MiB for its routes, then the session ends{default}"
        )?;
    }
    policy::policy(out, "import", &routing.import, default(peer, "import"))?;
    policy::policy(out, "export", &routing.export, default(peer, "export"))
}

fn as_rules(out: &mut String, peer: &Peer) -> fmt::Result {
    let rules: &PathRules = &peer.routing.rules;
    let private = match rules.private_as {
        PrivateAs::Keep => None,
        PrivateAs::Remove => Some("private AS numbers are left out of what it gets"),
        PrivateAs::Replace => Some("private AS numbers are replaced in what it gets"),
    };
    let add_path = match (peer.add_path_send, rules.add_path_limit) {
        (false, _) => None,
        (true, 0) => Some("all paths of a prefix are sent, if it accepts several".to_owned()),
        (true, most) => Some(format!(
            "up to {most} paths of a prefix are sent, if it accepts several"
        )),
    };
    let role = rules.role.map(|role| {
        let strict = if peer.strict_role {
            ", which must say so"
        } else {
            ""
        };
        format!(
            "this node is {role}, and the peer {}{strict} (RFC 9234)",
            role.counterpart()
        )
    });
    let lines = [
        role.as_deref(),
        rules
            .as_override
            .then_some("its own number is replaced in what it gets"),
        private,
        rules
            .enforce_first_as
            .then_some("its paths must begin with its AS"),
        rules
            .next_hop_unchanged
            .then_some("it gets next hops as they are"),
        rules
            .route_server
            .then_some("route server: it gets paths as they are (RFC 7947)"),
        peer.add_path_receive
            .then_some("it may send several paths of a prefix"),
        add_path.as_deref(),
        peer.extended_next_hop
            .then_some("IPv4 prefixes may have IPv6 next hops (RFC 8950)"),
    ];
    for line in lines.into_iter().flatten() {
        writeln!(out, "  paths          {line}")?;
    }
    Ok(())
}

fn max_prefixes(most: MaxPrefixes) -> String {
    let then = match most.action {
        OverLimit::Warn => "then a warning".to_owned(),
        OverLimit::Cease { restart_after } if restart_after.is_zero() => "then the session ends".to_owned(),
        OverLimit::Cease { restart_after } => {
            format!("then the session ends for {}", time(restart_after))
        }
    };
    let warn = most
        .warn_at
        .map_or_else(String::new, |at| format!(", a warning at {at}"));
    format!("{} per family, {then}{warn}", most.limit)
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
