//! The kernel's routes and addresses of a machine, read with `ip -json`: an observer that shares no code with the agent
//! under test. Where time is measured ([`Lookup`], [`install`]), netlink is used directly.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use linux::netlink::{ACK, Batch, CREATE, EXCL, REQUEST, Socket, frame, messages};
use serde_json::Value;

use crate::failure::{Context, Failure, Result};
use crate::machine::Host;
use crate::topology::Family;

/// The agent's own route protocol number.
pub const PROTO_AGENT: &str = "245";
/// The CNI plugin's route protocol number.
pub const PROTO_CNI: &str = "246";

/// A route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub prefix: IpNet,
    /// `unicast`, `unreachable`, …
    pub kind: String,
    /// Protocol number as text.
    pub protocol: String,
    /// Gateway (none: on link) and interface of each next hop.
    pub next_hops: Vec<(Option<IpAddr>, String)>,
}

/// All routes of one family in the main table.
pub fn routes(host: &Host, family: Family) -> Result<Vec<Route>> {
    let flag = if family == Family::V4 { "-4" } else { "-6" };
    let text = host.ip(&format!("-json -details -N {flag} route show table main"))?;
    let parsed: Value = serde_json::from_str(&text).context("output of ip -json route")?;
    parsed
        .as_array()
        .into_iter()
        .flatten()
        .map(|route| parse(route, family))
        .collect()
}

/// The route to exactly this prefix, if there is one.
pub fn route(host: &Host, prefix: IpNet) -> Result<Option<Route>> {
    Ok(routes(host, Family::of(prefix.addr()))?
        .into_iter()
        .find(|route| route.prefix == prefix))
}

/// The table as `ip route` prints it, for evidence.
pub fn dump(host: &Host) -> String {
    let v4 = host.ip("-N -4 route show").unwrap_or_default();
    let v6 = host.ip("-N -6 route show").unwrap_or_default();
    format!("{v4}{v6}")
}

/// Every address of a machine's interface, link-local ones too.
pub fn addresses(host: &Host, ifname: &str) -> Result<Vec<IpAddr>> {
    let text = host.ip(&format!("-json addr show dev {ifname}"))?;
    let parsed: Value = serde_json::from_str(&text).context("output of ip -json addr")?;
    let infos = parsed.as_array().into_iter().flatten();
    let infos = infos.flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default());
    Ok(infos
        .filter_map(|info| info["local"].as_str()?.parse().ok())
        .collect())
}

fn parse(route: &Value, family: Family) -> Result<Route> {
    let dst = text(&route["dst"]).unwrap_or_default();
    let prefix = match (dst.as_str(), family) {
        ("default", Family::V4) => "0.0.0.0/0".parse::<IpNet>().ok(),
        ("default", Family::V6) => "::/0".parse::<IpNet>().ok(),
        _ => dst
            .parse()
            .ok()
            .or_else(|| dst.parse::<IpAddr>().ok().map(IpNet::from)),
    };
    let prefix =
        prefix.ok_or_else(|| Failure::new(format!("a route's destination {dst:?} does not parse")))?;
    let hops = route["nexthops"]
        .as_array()
        .cloned()
        .unwrap_or_else(|| vec![route.clone()]);
    let next_hops = hops.iter().map(|hop| {
        let gateway = text(&hop["gateway"]).or_else(|| text(&hop["via"]["host"]));
        (
            gateway.and_then(|g| g.parse().ok()),
            text(&hop["dev"]).unwrap_or_default(),
        )
    });
    Ok(Route {
        prefix,
        kind: kind(&text(&route["type"]).unwrap_or_default()),
        protocol: text(&route["protocol"]).unwrap_or_default(),
        next_hops: next_hops.collect(),
    })
}

/// Route types have numbers too under `-N` (`RTN_*` of the kernel).
fn kind(text: &str) -> String {
    match text {
        "" | "1" => "unicast",
        "2" => "local",
        "6" => "blackhole",
        "7" => "unreachable",
        "8" => "prohibit",
        other => other,
    }
    .to_owned()
}

/// `ip -N` prints some numbers as strings and some as numbers.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Asks the kernel for the route of a packet, over one netlink socket of the calling thread's namespace.
#[derive(Debug)]
pub struct Lookup {
    socket: Socket,
}

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_NH_ID: u16 = 30;
const RTMSG: usize = 12;

impl Lookup {
    /// Opens the socket.
    pub fn open() -> Result<Self> {
        let socket = Socket::route().context("netlink socket")?;
        Ok(Self { socket })
    }

    /// The gateway towards an address; `None` without a route or without a gateway.
    pub fn gateway(&mut self, address: Ipv4Addr) -> Result<Option<Ipv4Addr>> {
        let mut batch = Batch::default();
        let header = [2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        batch.begin(RTM_GETROUTE, 0, &header, "look up a route");
        batch.attr(RTA_DST, &address.octets());
        let outcome = self.socket.try_run(&mut batch).context("looking up a route")?;
        let gateway = outcome.replies.first().and_then(|reply| {
            let octets: [u8; 4] = reply.attrs(RTMSG).get(RTA_GATEWAY)?.try_into().ok()?;
            Some(octets.into())
        });
        Ok(gateway)
    }
}

/// Installs IPv4 routes that refer to a nexthop object, 512 messages at a time with one acknowledgement each time: the
/// work of the kernel alone, while nobody listens.
pub fn install(routes: &[(Ipv4Addr, u8)], nexthop: u32) -> Result<()> {
    let socket = Socket::route().context("netlink socket")?;
    let mut buffer = [0; 8192];
    for batch in routes.chunks(512) {
        let mut bytes = Vec::with_capacity(batch.len() * 52);
        for (index, (address, length)) in batch.iter().enumerate() {
            let ack = if index + 1 == batch.len() { ACK } else { 0 };
            let flags = REQUEST | CREATE | EXCL | ack;
            frame::message(&mut bytes, RTM_NEWROUTE, flags, 0, |out| {
                out.extend([2, *length, 0, 0, 254, 99, 0, 1, 0, 0, 0, 0]);
                for (kind, value) in [
                    (RTA_DST, address.octets()),
                    (RTA_PRIORITY, 20u32.to_ne_bytes()),
                    (RTA_NH_ID, nexthop.to_ne_bytes()),
                ] {
                    frame::attribute(out, kind, |out| out.extend(value));
                }
            });
        }
        socket.send(&bytes).context("sending routes")?;
        let answer = socket.receive(&mut buffer).context("an acknowledgement")?;
        let code = messages(answer).next().map_or(-1, |answer| answer.errno());
        if code != 0 {
            return Err(Failure::new(format!("the kernel refuses a route: error {code}")));
        }
    }
    Ok(())
}
