//! Monitoring: a BMP station (RFC 7854), and an MRT dump (RFC 6396) read by bgpdump.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use lab::daemon::{Kind, podroute};
use lab::failure::{Context, Result};
use lab::machine::{Host, command};
use lab::process::find_program;
use lab::rack::{CONVERGENCE, Rack};
use lab::{bins, ensure, wait};

use crate::support::{peer, small};
use crate::{Scenario, scenario};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        scenario(
            "monitor::a_bmp_station_hears_everything",
            [Kind::Podroute],
            station,
        ),
        scenario("monitor::metrics_and_probes", [Kind::Podroute], metrics),
        scenario("monitor::bgpdump_reads_our_table_dump", [Kind::Podroute], dump),
    ]
}

/// A station that keeps all that it receives.
struct Station {
    received: Arc<Mutex<Vec<u8>>>,
}

impl Station {
    /// Listens inside a machine; takes one connection after the other.
    fn listen(host: &Host) -> Result<Self> {
        let listener = host.within(|| TcpListener::bind("[::]:11019").context("listening for BMP"))?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&received);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                keep(stream, &kept);
            }
        });
        Ok(Self { received })
    }

    /// The messages so far: type and body.
    fn messages(&self) -> Result<Vec<(u8, Vec<u8>)>> {
        let octets = self.received.lock().unwrap().clone();
        let mut rest = octets.as_slice();
        let mut messages = Vec::new();
        while let [3, a, b, c, d, kind, ..] = rest {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if length < 6 || rest.len() < length {
                break;
            }
            messages.push((*kind, rest[6..length].to_vec()));
            rest = &rest[length..];
        }
        ensure!(
            rest.first().is_none_or(|version| *version == 3),
            "not BMP: {rest:?}"
        );
        Ok(messages)
    }

    fn wait(&self, what: &str, is: impl Fn(&[(u8, Vec<u8>)]) -> bool) -> Result<Vec<(u8, Vec<u8>)>> {
        wait::until(CONVERGENCE, what, || {
            let messages = self.messages()?;
            if is(&messages) {
                return Ok(messages);
            }
            let kinds: Vec<u8> = messages.iter().map(|(kind, _)| *kind).collect();
            wait::not_yet(format!("types so far: {kinds:?}"))
        })
    }
}

fn keep(mut stream: TcpStream, kept: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 65536];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        kept.lock().unwrap().extend_from_slice(&buffer[..length]);
    }
}

const ROUTE: u8 = 0;
const STATISTICS: u8 = 1;
const DOWN: u8 = 2;
const UP: u8 = 3;
const INITIATION: u8 = 4;
const TERMINATION: u8 = 5;
/// The per-peer header.
const PEER: usize = 42;

/// Whether a message contains an IPv4 prefix of 24 bits in this view (flag 0x40: after policy).
fn tells((kind, body): &(u8, Vec<u8>), prefix: [u8; 4], post: bool) -> bool {
    *kind == ROUTE && (body[1] & 0x40 != 0) == post && body.ends_with(&prefix)
}

fn station() -> Result<()> {
    let mut rack = Rack::converged(small(Kind::Podroute))?;
    let tor = rack.host("tor-a").clone();
    let node = rack.host("node-1").clone();
    let station = Station::listen(&tor)?;
    let program = bins::find("podroute")?;
    let program = program.to_string_lossy().into_owned();
    let file = node.dir().join("etc/podroute.yaml");
    let yaml = std::fs::read_to_string(&file).context(file.display())?;
    let more = "bmp: [{address: 192.0.2.1, statistics: 1s}]\n";
    node.write_config("podroute.yaml", &format!("{yaml}{more}"))?;
    node.run(&program, &["reload"])?;
    let block = [24, 10, 244, 2];
    let messages = station.wait("routes and statistics", |all| {
        all.iter().any(|message| tells(message, block, false))
            && all.iter().any(|message| tells(message, block, true))
            && all.iter().any(|(kind, _)| *kind == STATISTICS)
    })?;
    ensure!(messages[0].0 == INITIATION, "begins with type {}", messages[0].0);
    let text = String::from_utf8_lossy(&messages[0].1).into_owned();
    ensure!(
        text.contains("podroute") && text.contains("node-1"),
        "initiation: {text}"
    );
    let ups: Vec<&Vec<u8>> = messages
        .iter()
        .filter(|(kind, _)| *kind == UP)
        .map(|(_, body)| body)
        .collect();
    ensure!(ups.len() == 2, "{} peers up, not 2 (IPv4 and IPv6)", ups.len());
    // Local address, ports, then both OPENs as they were on the wire.
    let opens = &ups[0][PEER + 20..];
    let first = usize::from(u16::from_be_bytes([opens[16], opens[17]]));
    ensure!(opens[..16] == [0xFF; 16] && opens[18] == 1, "no OPEN: {opens:?}");
    ensure!(
        opens[first..first + 16] == [0xFF; 16] && opens[first + 18] == 1,
        "no second OPEN: {opens:?}"
    );
    let down = peer(&node, "tor-a")?["name"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    node.run(&program, &["peer", "disable", &down, "--message", "away"])?;
    let messages = station.wait("a peer down", |all| all.iter().any(|(kind, _)| *kind == DOWN))?;
    let body = messages
        .iter()
        .find(|(kind, _)| *kind == DOWN)
        .map(|(_, body)| &body[PEER..]);
    ensure!(
        body.is_some_and(|body| body[0] == 1 && body.ends_with(b"away")),
        "a NOTIFICATION that the node sent: {body:?}"
    );
    rack.daemon("node-1").terminate()?;
    station.wait("the end", |all| {
        all.last().is_some_and(|(kind, _)| *kind == TERMINATION)
    })?;
    let octets = station.received.lock().unwrap().clone();
    independent(&tor, &octets)
}

/// Wireshark's dissector, where it is installed.
fn independent(host: &Host, octets: &[u8]) -> Result<()> {
    if !installed("tshark")? || !installed("text2pcap")? {
        return Ok(());
    }
    let hex: String = octets
        .chunks(16)
        .enumerate()
        .map(|(line, chunk)| {
            let octets: String = chunk.iter().map(|octet| format!(" {octet:02x}")).collect();
            format!("{:06x}{octets}\n", line * 16)
        })
        .collect();
    let text = host.write_config("bmp.txt", &hex)?;
    let file = text.with_extension("pcap");
    let (text, file) = (text.display().to_string(), file.display().to_string());
    lab::process::finish(command("text2pcap").args(["-q", "-T", "40000,11019", &text, &file]))?;
    let read = |filter: &str| {
        lab::process::finish(command("tshark").args([
            "-r",
            &file,
            "-d",
            "tcp.port==11019,bmp",
            "-Y",
            filter,
            "-T",
            "fields",
            "-e",
            "bmp.type",
        ]))
    };
    let bad = read("_ws.malformed || _ws.expert.severity >= 6291456")?;
    ensure!(bad.trim().is_empty(), "tshark finds fault with {bad}");
    let types = read("bmp")?;
    for kind in [ROUTE, STATISTICS, DOWN, UP, INITIATION, TERMINATION] {
        let found = types
            .split([',', '\n', '\t'])
            .any(|one| one.trim() == kind.to_string());
        ensure!(found, "tshark sees no type {kind} in {types}");
    }
    Ok(())
}

fn dump() -> Result<()> {
    if !installed("bgpdump")? {
        return Ok(());
    }
    let rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1");
    let program = bins::find("podroute")?;
    let file = node.dir().join("rib.mrt");
    let name = file.display().to_string();
    node.run(&program.to_string_lossy(), &["dump", &name])?;
    ensure!(!file.with_extension("part").exists(), "a part is left");
    let text = lab::process::finish(command("bgpdump").args(["-m", &name]))?;
    // Time aside: type, peer, its AS, prefix, AS path, origin, next hop.
    for line in [
        "|B|0.0.0.0|64512|10.244.1.0/24||IGP|",
        "|B|192.0.2.1|65001|10.244.2.0/24|65001 64513|IGP|192.0.2.1|",
        "|B|2001:db8:a::1|65001|fd00:10:244:2::/64|65001 64513|IGP|2001:db8:a::1|",
    ] {
        ensure!(text.contains(line), "no {line} in {text}");
    }
    let rows = text
        .lines()
        .filter(|line| line.starts_with("TABLE_DUMP2"))
        .count();
    ensure!(rows == 4, "{rows} routes, not 4: {text}");
    Ok(())
}

/// Whether a program of somebody else is there. Where everything could be installed it must be.
fn installed(program: &str) -> Result<bool> {
    let found = find_program(program).is_some();
    let required = std::env::var("LAB_REQUIRE").is_ok_and(|value| value == "1");
    ensure!(found || !required, "{program} is not installed");
    if !found {
        println!("LEFT OUT: {program} is not installed");
    }
    Ok(found)
}

/// Prometheus' own tool reads what it would scrape, and has nothing to say of names and types.
fn lint_metrics(host: &Host) -> Result<()> {
    if !installed("promtool")? {
        return Ok(());
    }
    let scrape =
        "curl -sf http://127.0.0.1:9179/metrics > /run/metrics && promtool check metrics < /run/metrics";
    let checked = host.output("sh", &["-c", scrape])?;
    let said = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    ensure!(
        checked.status.success() && said.trim().is_empty(),
        "promtool: {said}"
    );
    // It does find something where there is something.
    let bad =
        "printf 'podroute_bad_counter 1\\n# TYPE podroute_bad_counter counter\\n' | promtool check metrics";
    ensure!(
        !host.output("sh", &["-c", bad])?.status.success(),
        "promtool takes anything"
    );
    Ok(())
}

fn metrics() -> Result<()> {
    if !installed("curl")? {
        return Ok(());
    }
    let rack = Rack::converged(small(Kind::Podroute))?;
    let node = rack.host("node-1");
    let file = node.dir().join("etc/podroute.yaml");
    let yaml = std::fs::read_to_string(&file).context(file.display())?;
    let other = Host::create("watched")?;
    other.ip("link set lo up")?;
    let yaml = format!("{yaml}metrics: {{port: 9179}}\n");
    let _agent = podroute::start_with(&other, &yaml)?;
    let ask = |path: &str| other.run("curl", &["-s", &format!("http://127.0.0.1:9179{path}")]);
    // Its peers are not there: it is not ready before their time is over, and says why.
    let why = ask("/readyz")?;
    ensure!(why.contains("initial routes"), "readyz: {why}");
    let text = ask("/metrics")?;
    for line in [
        "podroute_ready 0",
        "podroute_config_ok 1",
        "podroute_peer_up{peer=\"tor-a\",address=\"192.0.2.1\",asn=\"65001\"} 0",
        "podroute_peer_prefixes{peer=\"tor-a\",family=\"ipv4\",direction=\"in\"} 0",
        "podroute_peer_sessions_total{peer=\"tor-a\"} 0",
        "podroute_fib_routes{state=\"installed\"} 2",
    ] {
        ensure!(text.lines().any(|found| found == line), "no {line} in {text}");
    }
    lint_metrics(&other)?;
    other.write_config("podroute.yaml", &format!("{yaml}colour: blue\n"))?;
    let program = bins::find("podroute")?;
    let refused = other.output(&program.to_string_lossy(), &["reload"])?;
    ensure!(!refused.status.success(), "a bad file was taken");
    let text = ask("/metrics")?;
    ensure!(
        text.contains("podroute_config_ok 0"),
        "a refused file does not show: {text}"
    );
    wait::until(
        CONVERGENCE,
        "a router to be waited for once the deferral is over",
        || {
            let text = ask("/readyz")?;
            if text == "no session is up: tor-a, tor-a-v6\n" {
                Ok(())
            } else {
                wait::not_yet(text)
            }
        },
    )
}
