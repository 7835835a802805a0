//! What the kernel of a machine holds, read with `ip -json`: an observer that shares no code with
//! the agent under test.

use std::net::IpAddr;

use ipnet::IpNet;
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

/// Asks the kernel which way a packet would go, over one netlink socket of the calling thread's namespace.
#[derive(Debug)]
pub struct Lookup {
    socket: std::os::fd::OwnedFd,
}

impl Lookup {
    /// Opens the socket.
    pub fn open() -> Result<Self> {
        use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .context("netlink socket")?;
        Ok(Self { socket })
    }

    /// The gateway towards an address; `None` without a route or without a gateway.
    pub fn gateway(&mut self, address: std::net::Ipv4Addr) -> Result<Option<std::net::Ipv4Addr>> {
        use nix::sys::socket::{MsgFlags, recv, send};
        use std::os::fd::AsRawFd;
        // nlmsghdr (RTM_GETROUTE, NLM_F_REQUEST), rtmsg, RTA_DST.
        let mut request = Vec::new();
        request.extend(36u32.to_ne_bytes());
        request.extend(26u16.to_ne_bytes());
        request.extend(1u16.to_ne_bytes());
        request.extend([0; 8]);
        request.extend([2, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        request.extend(8u16.to_ne_bytes());
        request.extend(1u16.to_ne_bytes());
        request.extend(address.octets());
        let fd = self.socket.as_raw_fd();
        send(fd, &request, MsgFlags::empty()).context("asking for a route")?;
        let mut answer = [0; 1024];
        let length = recv(fd, &mut answer, MsgFlags::empty()).context("an answer about a route")?;
        Ok(read_gateway(&answer[..length]))
    }
}

/// Installs IPv4 routes that refer to a nexthop object, 512 messages at a time, one acknowledgement each time: what the
/// kernel alone takes, with nobody who listens.
pub fn install(routes: &[(std::net::Ipv4Addr, u8)], nexthop: u32) -> Result<()> {
    use nix::sys::socket::{MsgFlags, recv, send};
    use std::os::fd::AsRawFd;
    let lookup = Lookup::open()?;
    let fd = lookup.socket.as_raw_fd();
    for batch in routes.chunks(512) {
        let mut bytes = Vec::with_capacity(batch.len() * 52);
        for (index, (address, length)) in batch.iter().enumerate() {
            // nlmsghdr (RTM_NEWROUTE; NLM_F_REQUEST, CREATE, EXCL, and ACK of the last), rtmsg, RTA_DST, RTA_PRIORITY,
            // RTA_NH_ID.
            let flags: u16 = if index + 1 == batch.len() { 0x605 } else { 0x601 };
            bytes.extend(52u32.to_ne_bytes());
            bytes.extend(24u16.to_ne_bytes());
            bytes.extend(flags.to_ne_bytes());
            bytes.extend([0; 8]);
            bytes.extend([2, *length, 0, 0, 254, 99, 0, 1, 0, 0, 0, 0]);
            for (kind, value) in [
                (1u16, address.octets()),
                (6, 20u32.to_ne_bytes()),
                (30, nexthop.to_ne_bytes()),
            ] {
                bytes.extend(8u16.to_ne_bytes());
                bytes.extend(kind.to_ne_bytes());
                bytes.extend(value);
            }
        }
        send(fd, &bytes, MsgFlags::empty()).context("sending routes")?;
        let mut answer = [0; 8192];
        let length = recv(fd, &mut answer, MsgFlags::empty()).context("an acknowledgement")?;
        let code = answer[..length].get(16..20).and_then(|code| code.try_into().ok());
        let code = code.map_or(-1, i32::from_ne_bytes);
        if code != 0 {
            return Err(Failure::new(format!("the kernel refuses a route: error {code}")));
        }
    }
    Ok(())
}

/// RTA_GATEWAY of a route message; an error message has none.
fn read_gateway(message: &[u8]) -> Option<std::net::Ipv4Addr> {
    let half = |at: usize| Some(u16::from_ne_bytes(message.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != 24 {
        return None;
    }
    let mut at = 28;
    while let (Some(length), Some(kind)) = (half(at), half(at + 2)) {
        if kind == 5 {
            let octets: [u8; 4] = message.get(at + 4..at + 8)?.try_into().ok()?;
            return Some(octets.into());
        }
        at += usize::from(length.max(4)).next_multiple_of(4);
    }
    None
}
