//! A peer that sends garbage: the exact NOTIFICATION for each fault, and no other session ends.
//!
//! tor-a has an address more for each case; node-1 knows a passive peer at each of them.

use std::net::{IpAddr, Ipv4Addr};

use lab::daemon::{Kind, Speaker};
use lab::ensure;
use lab::failure::{Failure, Result};
use lab::rack::Rack;
use lab::topology::{Neighbor, Role};

use crate::bgp_raw::{KEEPALIVE, OPEN, Open, Raw, UPDATE, message};
use crate::support::{self, peer, small};
use crate::{Scenario, scenario};

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const FIRST: u8 = 60;

pub(crate) fn scenarios() -> Vec<Scenario> {
    let needs = [Kind::Podroute, Kind::Bird];
    vec![
        scenario(
            "hostile::each_fault_gets_its_notification",
            needs,
            exact_notifications,
        ),
        scenario("hostile::noise_and_strangers_disturb_nobody", needs, noise),
    ]
}

/// What is sent, and the NOTIFICATION that must come back.
struct Case {
    name: &'static str,
    /// Whether the session is brought to Established first.
    established: bool,
    octets: Vec<u8>,
    expect: (u8, u8, Vec<u8>),
}

fn case(name: &'static str, octets: Vec<u8>, code: u8, subcode: u8, data: &[u8]) -> Case {
    Case {
        name,
        established: false,
        octets,
        expect: (code, subcode, data.to_vec()),
    }
}

fn cases() -> Vec<Case> {
    let mut marker = message(KEEPALIVE, &[]);
    marker[3] = 0;
    let with_length = |kind: u8, length: u16| {
        let mut octets = message(kind, &[]);
        octets[16..18].copy_from_slice(&length.to_be_bytes());
        octets
    };
    let open = Open::GOOD;
    let late = |mut case: Case| {
        case.established = true;
        case
    };
    vec![
        case("marker not all ones", marker, 1, 1, &[]),
        case(
            "length below the header",
            with_length(KEEPALIVE, 18),
            1,
            2,
            &[0, 18],
        ),
        case(
            "length above 4096",
            with_length(UPDATE, 4097),
            1,
            2,
            &[0x10, 0x01],
        ),
        case("KEEPALIVE with a body", message(KEEPALIVE, &[0]), 1, 2, &[0, 20]),
        case("unknown message type", message(9, &[]), 1, 3, &[9]),
        case("OPEN too short", message(1, &[4, 0, 0]), 1, 2, &[0, 22]),
        case("version 3", Open { version: 3, ..open }.encode(), 2, 1, &[0, 4]),
        case("another AS", Open { asn: 65098, ..open }.encode(), 2, 2, &[]),
        case(
            "BGP identifier zero",
            Open {
                id: Ipv4Addr::UNSPECIFIED,
                ..open
            }
            .encode(),
            2,
            3,
            &[],
        ),
        case(
            "unknown optional parameter",
            Open {
                parameters: &[77, 0],
                ..open
            }
            .encode(),
            2,
            4,
            &[],
        ),
        case(
            "hold time of one second",
            Open { hold: 1, ..open }.encode(),
            2,
            6,
            &[],
        ),
        case(
            "UPDATE before OPEN",
            message(UPDATE, &[0, 0, 0, 0]),
            5,
            1,
            &[UPDATE],
        ),
        late(case("OPEN when established", open.encode(), 5, 3, &[OPEN])),
        late(case(
            "withdrawn length beyond the message",
            message(UPDATE, &[0xff, 0xff, 0, 0]),
            3,
            1,
            &[],
        )),
        late(case(
            "attributes beyond the message",
            message(UPDATE, &[0, 0, 0, 9, 0x40]),
            3,
            1,
            &[],
        )),
    ]
}

/// Node-1's further peers, one for each case.
fn with_evil_peers(speaker: &mut Speaker) {
    if speaker.name != "node-1" {
        return;
    }
    for number in 0..40u8 {
        speaker.neighbors.push(Neighbor {
            machine: "evil",
            role: Role::Tor,
            name: format!("evil-{number}"),
            local: IpAddr::V4(NODE),
            remote: IpAddr::V4(evil(number)),
            asn: u32::from(Open::GOOD.asn),
            passive: true,
        });
    }
}

fn evil(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, FIRST + number)
}

/// The rack with evil addresses, and its honest sessions up.
fn rack() -> Result<Rack> {
    let mut rack = Rack::build(small(Kind::Bird).adjusted(with_evil_peers))?;
    for number in 0..42 {
        rack.host("tor-a")
            .ip(&format!("addr add {}/32 dev rack", evil(number)))?;
    }
    rack.start_daemons()?;
    // node-1 waits for its evil peers in vain; the honest ones count.
    for name in ["tor-a", "tor-a-v6"] {
        support::settled(rack.host("node-1"), name)?;
    }
    Ok(rack)
}

/// The honest sessions are the ones that were up before, on both sides.
fn check_honest(rack: &mut Rack, before: [u64; 2], after_what: &str) -> Result<()> {
    rack.daemon("node-1").check_alive()?;
    for (name, before) in ["tor-a", "tor-a-v6"].into_iter().zip(before) {
        let now = support::uptime(rack.host("node-1"), name).map_err(|f| f.during(after_what))?;
        ensure!(
            now >= before,
            "after {after_what}: the session with {name} is a new one, up for {now} s"
        );
    }
    for session in rack.daemon("tor-a").sessions()? {
        ensure!(
            session.established,
            "after {after_what}: tor-a's session with {} is {}",
            session.remote,
            session.state
        );
    }
    Ok(())
}

fn uptimes(rack: &Rack) -> Result<[u64; 2]> {
    let node = rack.host("node-1");
    Ok([
        support::uptime(node, "tor-a")?,
        support::uptime(node, "tor-a-v6")?,
    ])
}

fn exact_notifications() -> Result<()> {
    let mut rack = rack()?;
    let before = uptimes(&rack)?;
    let mut wrong = Vec::new();
    for (number, case) in (0u8..).zip(cases()) {
        let answer = rack.host("tor-a").within(|| provoke(evil(number), &case));
        match answer {
            Ok(answer) if answer == case.expect => {}
            Ok(answer) => wrong.push(format!("{}: {answer:?} and not {:?}", case.name, case.expect)),
            Err(failure) => wrong.push(format!("{}: {failure}", case.name)),
        }
        check_honest(&mut rack, before, case.name)?;
        let shown = peer(rack.host("node-1"), &format!("evil-{number}"))?;
        if shown["lastError"].as_str().is_none_or(str::is_empty) {
            wrong.push(format!("{}: show peers has no lastError: {shown}", case.name));
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let failure = Failure::new("wrong answers to malformed messages").evidence("cases", wrong.join("\n"));
    Err(rack.daemons["node-1"].with_logs(failure))
}

fn provoke(from: Ipv4Addr, case: &Case) -> Result<(u8, u8, Vec<u8>)> {
    let mut raw = Raw::connect(from, NODE)?;
    raw.expect_open()?;
    if case.established {
        raw.send(
            &Open {
                id: from,
                ..Open::GOOD
            }
            .encode(),
        )?;
        let (kind, body) = raw.read()?;
        ensure!(
            kind == KEEPALIVE,
            "the node answered a good OPEN with message {kind}: {body:?}"
        );
        raw.send(&message(KEEPALIVE, &[]))?;
    }
    raw.send(&case.octets)?;
    raw.expect_notification()
}

fn noise() -> Result<()> {
    let mut rack = rack()?;
    let before = uptimes(&rack)?;
    let tor = rack.host("tor-a").clone();
    // Noise without structure, with a fixed seed; the node may hang up at any point.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for number in 0..20 {
        let octets: Vec<u8> = (0..65_536)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_be_bytes()[0]
            })
            .collect();
        tor.within(|| {
            let mut raw = Raw::connect(evil(number), NODE)?;
            let good_start = if number % 2 == 0 {
                Open {
                    id: evil(number),
                    ..Open::GOOD
                }
                .encode()
            } else {
                Vec::new()
            };
            let _ = raw.send(&good_start);
            let _ = raw.send(&octets);
            Ok(())
        })?;
    }
    check_honest(&mut rack, before, "noise")?;
    // A stranger (no peer at that address) is turned away.
    let stranger = tor.within(|| {
        let mut raw = Raw::connect(evil(41), NODE)?;
        let _ = raw.send(&Open::GOOD.encode());
        raw.read()
    });
    ensure!(
        stranger.as_ref().map_or(true, |(kind, _)| *kind == 3),
        "a stranger got {stranger:?}"
    );
    // Connections that say nothing use no session up.
    let silent: Vec<Raw> = tor.within(|| (20..40).map(|n| Raw::connect(evil(n), NODE)).collect())?;
    check_honest(&mut rack, before, "silent connections")?;
    drop(silent);
    Ok(())
}
