//! Answers of the agent as tables.

use comfy_table::{ContentArrangement, Table, presets};

use crate::count::count;
use crate::status::{
    BfdStatus, BlockStatus, ClusterStatus, Counts, FibStatus, PathStatus, PeerStatus, Reply, RouteStatus,
    RuleStatus,
};

/// An answer as a table.
pub(super) fn table(reply: &Reply) -> String {
    match reply {
        Reply::Peers(peers) => peer_table(peers),
        Reply::Routes(routes) => route_table(routes),
        Reply::Policies(rules) => policy_table(rules),
        Reply::Fib(routes) => fib_table(routes),
        Reply::Blocks(blocks) => block_table(blocks),
        Reply::Bfd(paths) => bfd_table(paths),
        Reply::Cluster(cluster) => cluster_in_full(cluster),
        Reply::Services(services) => super::services::table(services),
        Reply::NetworkPolicies(status) => super::network_policy::policies(status),
        Reply::Explanations(all) => super::network_policy::explanations(all),
        Reply::Cut(flows) => super::network_policy::cut(flows),
        Reply::Diff(diff) => super::diff::text(diff),
        Reply::Done(text) | Reply::Error(text) => text.clone(),
    }
}

pub(super) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

pub(super) fn text(table: &Table, empty: &str) -> String {
    if table.is_empty() {
        empty.to_owned()
    } else {
        table.trim_fmt()
    }
}

fn numbers(counts: &Counts) -> String {
    counts
        .values()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(" / ")
}

/// Seconds as people say them.
pub(super) fn duration(seconds: u64) -> String {
    match (
        seconds / 86400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, _, _) => format!("{d}d{h:02}h"),
    }
}

fn peer_table(peers: &[PeerStatus]) -> String {
    let mut table = new_table(&[
        "PEER",
        "ADDRESS",
        "AS",
        "STATE",
        "UP",
        "IN v4/v6",
        "OUT v4/v6",
        "LAST ERROR",
    ]);
    for peer in peers {
        table.add_row([
            peer.name.clone(),
            address(peer),
            asn(peer),
            state(peer),
            peer.uptime_seconds.map_or_else(|| "-".to_owned(), duration),
            numbers(&peer.received),
            numbers(&peer.advertised),
            trouble(peer).unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    text(&table, "no peers are configured for this node")
}

fn address(peer: &PeerStatus) -> String {
    match &peer.interface {
        Some(interface) => format!("{}%{interface}", peer.address),
        None => peer.address.to_string(),
    }
}

/// With what else an operator must know at a glance.
fn state(peer: &PeerStatus) -> String {
    let is_up = peer.uptime_seconds.is_some();
    let keeps = !is_up && peer.received.values().any(|count| *count > 0);
    let is_large = peer
        .max_memory_bytes
        .is_some_and(|most| peer.memory_bytes > most / 5 * 4);
    let range = peer.range.as_ref().map(|range| format!("range {range}"));
    let marks: Vec<&str> = [
        (!peer.enabled, "disabled"),
        (peer.signed, "signed"),
        (keeps, "stale routes"),
        (is_large, "near maxMemory"),
    ]
    .into_iter()
    .filter_map(|(on, mark)| on.then_some(mark))
    .chain(range.as_deref())
    .collect();
    if marks.is_empty() {
        return peer.state.clone();
    }
    format!("{} ({})", peer.state, marks.join(", "))
}

/// What the peer's routes take, about.
fn memory(peer: &PeerStatus) -> String {
    let kib = peer.memory_bytes.div_ceil(1024);
    match peer.max_memory_bytes {
        Some(most) => format!("{kib} KiB of at most {} (maxMemory)", most >> 10),
        None => format!("{kib} KiB"),
    }
}

/// Why a session is not up. What ended the last one comes first: failed attempts since then do not hide it.
fn trouble(peer: &PeerStatus) -> Option<String> {
    if peer.uptime_seconds.is_some() {
        return None;
    }
    let now = peer.last_error.as_ref().or(peer.hint.as_ref());
    match (&peer.last_end, peer.last_end_seconds, now) {
        (Some(end), Some(seconds), Some(now)) if now != end => {
            Some(format!("{end} ({} ago); now: {now}", duration(seconds)))
        }
        (Some(end), Some(seconds), _) => Some(format!("{end} ({} ago)", duration(seconds))),
        (_, _, now) => now.cloned(),
    }
}

fn cluster_in_full(cluster: &ClusterStatus) -> String {
    let ready = match cluster.not_ready.as_slice() {
        [] => "yes".to_owned(),
        why => format!("no: {}", why.join("; ")),
    };
    let drained = match cluster.drained.as_str() {
        "prefer-others" => "peers are asked to prefer other paths",
        "withdrawn" => "this node's routes are withdrawn",
        _ => "no",
    };
    let mut lines = vec![
        ("node", cluster.node.clone()),
        ("ready", ready),
        ("drained", drained.to_owned()),
    ];
    if cluster.followed {
        lines.push(("nodes", cluster.nodes.to_string()));
        let services = format!(
            "{}, {} announced",
            cluster.services,
            count(cluster.announced, "prefix")
        );
        lines.push(("Services", services));
    } else {
        lines.push(("Kubernetes", "not used".to_owned()));
    }
    if !cluster.next_start.is_empty() {
        lines.push(("at next start", cluster.next_start.join("; ")));
    }
    let mut out = lines
        .iter()
        .map(|(name, value)| format!("{name:14} {value}\n"))
        .collect::<String>();
    let mut watches = new_table(&["WATCH", "STATE", "SINCE", "FAILURES", "LAST ERROR"]);
    for watch in &cluster.watches {
        watches.add_row([
            watch.resource.clone(),
            if watch.answers { "answers" } else { "no answer" }.to_owned(),
            watch.since_seconds.map_or_else(|| "-".to_owned(), duration),
            watch.failures.to_string(),
            watch.last_error.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    if !watches.is_empty() {
        out = format!("{out}\n{}\n", text(&watches, ""));
    }
    for rejected in &cluster.rejected {
        out = format!("{out}\nrejected: {}: {}", rejected.subject, rejected.reason);
    }
    out
}

/// Each peer with everything that is known of it.
pub(super) fn peers_in_full(reply: &Reply) -> String {
    let Reply::Peers(peers) = reply else {
        return table(reply);
    };
    peers.iter().map(peer_in_full).collect::<Vec<_>>().join("\n")
}

/// The peer's AS number, or what it may be.
fn asn(peer: &PeerStatus) -> String {
    peer.asn
        .map_or_else(|| peer.allowed_asns.clone(), |asn| asn.to_string())
}

fn peer_in_full(peer: &PeerStatus) -> String {
    let none = || "-".to_owned();
    let or_none = |value: &Option<String>| value.clone().unwrap_or_else(none);
    let lines = [
        ("peer", peer.name.clone()),
        ("address", format!("{} port {}", address(peer), peer.port)),
        ("AS", format!("{} (local {})", asn(peer), peer.local_asn)),
        (
            "state",
            format!(
                "{}{}",
                peer.state,
                if peer.enabled {
                    ""
                } else {
                    ", administratively down"
                }
            ),
        ),
        ("up", peer.uptime_seconds.map_or_else(none, duration)),
        ("came up", format!("{} times", peer.times_established)),
        ("identifier", or_none(&peer.router_id)),
        (
            "hold time",
            peer.hold_seconds
                .map_or_else(none, |seconds| format!("{seconds}s")),
        ),
        ("families", peer.families.join(", ")),
        ("agreed", peer.capabilities.join(", ")),
        ("signed", signed(peer).to_owned()),
        (
            "received",
            format!(
                "{} prefixes (v4 / v6), {} messages",
                numbers(&peer.received),
                peer.messages_received
            ),
        ),
        (
            "advertised",
            format!(
                "{} prefixes (v4 / v6), {} messages",
                numbers(&peer.advertised),
                peer.messages_sent
            ),
        ),
        ("unwritten", format!("{} bytes", peer.unwritten_bytes)),
        ("memory", memory(peer)),
        ("not agreed", peer.not_agreed.join(", ")),
        ("session ended", ended(peer)),
        ("last down", or_none(&peer.last_error)),
        ("hint", or_none(&peer.hint)),
        ("last sent", or_none(&peer.last_sent)),
        ("last received", or_none(&peer.last_received)),
    ];
    lines
        .iter()
        .map(|(name, value)| format!("{name:>14}  {value}\n"))
        .collect()
}

/// Why the last session ended, and when.
fn ended(peer: &PeerStatus) -> String {
    match (&peer.last_end, peer.last_end_seconds) {
        (Some(why), Some(seconds)) => format!("{why}, {} ago", duration(seconds)),
        _ => "-".to_owned(),
    }
}

fn route_table(routes: &[RouteStatus]) -> String {
    let mut table = new_table(&[
        "",
        "PREFIX",
        "NEXT HOP",
        "FROM",
        "AS PATH",
        "PREF",
        "MED",
        "COMMUNITIES",
        "NOT USED BECAUSE",
    ]);
    for route in routes {
        for path in &route.paths {
            table.add_row(path_row(&route.prefix, path));
        }
    }
    let mut out = text(&table, "no routes");
    for route in routes
        .iter()
        .filter(|route| !route.exports.is_empty() || routes.len() == 1)
    {
        out.push_str(&decisions(route));
    }
    out
}

fn policy_table(rules: &[RuleStatus]) -> String {
    let mut table = new_table(&["POLICY", "DIRECTION", "RULE", "ROUTES"]);
    for rule in rules {
        let name = if rule.rule.is_empty() {
            "(no rule decides)"
        } else {
            &rule.rule
        };
        table.add_row([&rule.policy, &rule.direction, name, &rule.routes.to_string()]);
    }
    text(&table, "no routes that a policy was asked about")
}

/// What policies decided about a route, in both directions.
fn decisions(route: &RouteStatus) -> String {
    let from = route.paths.iter().filter_map(|path| {
        let policy = path.policy.as_ref()?;
        Some(format!("\n  from {}: {policy}", path.from))
    });
    let to = route
        .exports
        .iter()
        .map(|(peer, policy)| format!("\n  to {peer}: {policy}"));
    let lines: String = from.chain(to).collect();
    if lines.is_empty() {
        return lines;
    }
    format!("\n\npolicies of {}{lines}", route.prefix)
}

/// As routers write them: `>` the best path, `=` an equal one that packets take too, `x` one that may not be used; `S` stale.
fn marks(path: &PathStatus) -> String {
    let rank = match path {
        path if path.best => ">",
        path if !path.eligible => "x",
        path if path.used => "=",
        _ => "",
    };
    format!("{rank}{}", if path.stale { "S" } else { "" })
}

fn path_row(prefix: &str, path: &PathStatus) -> [String; 9] {
    let number = |value: Option<u32>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let or_dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
    [
        marks(path),
        prefix.to_owned(),
        path.next_hop.clone(),
        path.from.clone(),
        or_dash(path.as_path.clone()),
        number(path.local_pref),
        number(path.med),
        or_dash(
            [&path.communities, &path.large_communities, &path.ext_communities]
                .map(|list| list.join(" "))
                .join(" ")
                .trim()
                .to_owned(),
        ),
        path.reason.clone().unwrap_or_default(),
    ]
}

fn fib_table(routes: &[FibStatus]) -> String {
    let mut table = new_table(&["PREFIX", "NEXT HOPS", "METRIC", "STATE", "ERROR"]);
    for route in routes {
        let hops: Vec<String> = route
            .next_hops
            .iter()
            .map(|hop| {
                let weight = match hop.weight {
                    1 => String::new(),
                    weight => format!(" weight {weight}"),
                };
                match hop.gateway {
                    Some(gateway) => format!("{gateway} dev {}{weight}", hop.interface),
                    None => format!("dev {}{weight}", hop.interface),
                }
            })
            .collect();
        table.add_row([
            route.prefix.clone(),
            if hops.is_empty() {
                route.kind.clone()
            } else {
                hops.join(", ")
            },
            route.metric.to_string(),
            route.state.clone(),
            route.error.clone().unwrap_or_default(),
        ]);
    }
    text(&table, "no kernel routes are wanted")
}

fn bfd_table(paths: &[BfdStatus]) -> String {
    let mut table = new_table(&[
        "PEER",
        "ADDRESS",
        "STATE",
        "SINCE",
        "DETECTS IN",
        "DOWNS",
        "LAST DOWN",
    ]);
    for path in paths {
        table.add_row([
            path.peer.clone(),
            path.address.to_string(),
            path.state.clone(),
            duration(path.since_seconds),
            path.detection_ms
                .map_or_else(|| "-".to_owned(), |time| format!("{time}ms")),
            path.downs.to_string(),
            bfd_remark(path),
        ]);
    }
    text(&table, "no peer wants BFD, or none has an address yet")
}

fn bfd_remark(path: &BfdStatus) -> String {
    let held = path
        .held_seconds
        .map(|seconds| format!("held back for {}", duration(seconds)));
    let refused = path.last_refused.as_ref().filter(|_| path.state != "Up");
    let refused = refused.map(|why| format!("{} packets refused: {why}", path.refused));
    let all: Vec<String> = [path.last_down.clone(), held, refused]
        .into_iter()
        .flatten()
        .collect();
    if all.is_empty() {
        "-".to_owned()
    } else {
        all.join("; ")
    }
}

fn block_table(blocks: &[BlockStatus]) -> String {
    let mut table = new_table(&["BLOCK", "STATE"]);
    let mut troubles: Vec<&String> = Vec::new();
    for block in blocks {
        table.add_row([block.prefix.clone(), block.state.clone()]);
        troubles.extend(
            block
                .troubles
                .iter()
                .filter(|trouble| !troubles.contains(trouble))
                .collect::<Vec<_>>(),
        );
    }
    let mut out = text(&table, "this node has no pod block: it originates nothing");
    for trouble in troubles {
        out.push_str(&format!("\nwarning: {trouble}"));
    }
    out
}

fn signed(peer: &PeerStatus) -> &'static str {
    match (peer.signed, peer.next_key) {
        (true, false) => "TCP MD5",
        (true, true) => "TCP MD5, the peer has the second key (password.next, or what the file was before)",
        (false, _) => "-",
    }
}

#[cfg(test)]
#[path = "show_tests.rs"]
mod tests;
