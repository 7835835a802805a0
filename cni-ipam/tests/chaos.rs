//! Random verbs, in parallel, killed at random moments; then an oracle looks at kernel and state.
//!
//! What must hold whatever is killed when: no address is held by two pods; every complete pod works;
//! after a GC nothing is left of what was killed, neither address, record, interface nor route; and the
//! whole block can be given again. The seed is printed, and taken from PODROUTE_SEED if set;
//! PODROUTE_CHAOS_ROUNDS makes it longer.

#![cfg(test)]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Child;
use std::time::{Duration, Instant};

use lab::{Lab, addresses, conf, sh, try_sh};
use serde_json::{Value, json};

/// SplitMix64: small, seeded, good enough to choose verbs and moments.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % below
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(default)
}

const SLOTS: usize = 12;

/// What the runtime believes of one container.
#[derive(Clone, PartialEq, Debug)]
enum Belief {
    Absent,
    Present(Value),
    /// An ADD or DEL was killed: the runtime will send DEL, or GC will find it.
    Unknown,
}

struct Running {
    slot: usize,
    verb: &'static str,
    child: Child,
    kill_at: Option<Instant>,
    killed: bool,
}

fn start(
    lab: &Lab,
    dice: &mut Dice,
    slot: usize,
    verb: &'static str,
    conf: &Value,
    generation: &[u64],
) -> Running {
    let id = format!("c{slot}-{}", generation[slot]);
    let netns = format!("/run/netns/p{slot}");
    let mut child = lab.command(verb, &id, &netns, "podroute-cni").spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(conf.to_string().as_bytes())
        .unwrap();
    // Half of them are killed, at a moment within the time that the verb takes.
    let longest = if verb == "ADD" { 6_000 } else { 30_000 };
    let kill_at = (dice.roll(2) == 0).then(|| Instant::now() + Duration::from_micros(dice.roll(longest)));
    Running {
        slot,
        verb,
        child,
        kill_at,
        killed: false,
    }
}

/// Drives what runs: kills when it is time, and returns those that have ended.
fn drive(running: &mut Vec<Running>) -> Vec<Running> {
    let mut ended = Vec::new();
    let mut index = 0;
    while index < running.len() {
        let now = running.get_mut(index).unwrap();
        if now.kill_at.is_some_and(|at| Instant::now() >= at) {
            // Already ended: then nothing is killed, and the answer counts.
            now.killed = now.child.try_wait().unwrap().is_none() && now.child.kill().is_ok();
            now.kill_at = None;
        }
        if now.child.try_wait().unwrap().is_some() {
            ended.push(running.swap_remove(index));
        } else {
            index += 1;
        }
    }
    ended
}

fn settle(mut done: Running, beliefs: &mut [Belief]) -> bool {
    use std::io::Read;
    let status = done.child.wait().unwrap();
    let mut text = String::new();
    done.child
        .stdout
        .take()
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let was_killed = done.killed && status.code().is_none();
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    let code = answer["code"].as_u64();
    beliefs[done.slot] = match (done.verb, status.success()) {
        _ if was_killed => Belief::Unknown,
        // Full: nothing was given. There already: the ADD that was killed had been done.
        ("ADD", false) if code == Some(11) => Belief::Absent,
        ("ADD", false) if code == Some(100) && beliefs[done.slot] == Belief::Unknown => Belief::Unknown,
        ("ADD", true) => Belief::Present(answer),
        ("DEL", true) => Belief::Absent,
        (verb, _) => panic!("{verb} of slot {} failed: {text}", done.slot),
    };
    was_killed
}

fn assert_no_address_is_held_twice(beliefs: &[Belief]) {
    let mut seen = BTreeMap::new();
    for (slot, belief) in beliefs.iter().enumerate() {
        if let Belief::Present(result) = belief {
            for address in addresses(result) {
                let before = seen.insert(address, slot);
                assert_eq!(before, None, "{address} is held by two pods");
            }
        }
    }
}

/// Nothing but the pods that are present, and those work.
fn assert_exactly(beliefs: &[Belief], lab: &Lab) {
    let mut expected = BTreeSet::new();
    for (slot, belief) in beliefs.iter().enumerate() {
        if let Belief::Present(result) = belief {
            for address in addresses(result) {
                expected.insert(address.to_string());
                let ping = try_sh(&format!("ip netns exec p{slot} ping -q -c1 -W2 {}", lab::NODE_V4));
                assert!(ping.status.success(), "pod {slot} reaches the node");
                assert!(
                    try_sh(&format!("ping -q -c1 -W2 {address}")).status.success(),
                    "node to {address}"
                );
            }
        }
    }
    assert_eq!(
        lab.claims().into_iter().collect::<BTreeSet<_>>(),
        expected,
        "claims"
    );
    let routes = sh("ip route show proto 246; ip -6 route show proto 246");
    let routes = routes.lines().filter(|l| !l.starts_with("fe80::/64"));
    let routed: BTreeSet<String> = routes
        .map(|l| l.split_whitespace().next().unwrap().to_owned())
        .collect();
    assert_eq!(routed, expected, "routes");
    let present = beliefs.iter().filter(|b| matches!(b, Belief::Present(_))).count();
    let links = sh("ip -o link | grep -c ': pod' || true");
    assert_eq!(links.trim(), present.to_string(), "interfaces");
    let records = sh("ls /run/podroute/ipam/*/pod | wc -l");
    assert_eq!(records.trim(), present.to_string(), "records");
}

#[test]
fn killed_at_random_nothing_leaks_and_nothing_doubles() {
    lab::run("killed_at_random_nothing_leaks_and_nothing_doubles", &[], |lab| {
        let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let seed = setting("PODROUTE_SEED", u64::from(nanos));
        let rounds = setting("PODROUTE_CHAOS_ROUNDS", 12);
        println!("PODROUTE_SEED={seed} PODROUTE_CHAOS_ROUNDS={rounds}");
        // Seven addresses for twelve pods: every released one is given again at once.
        lab.node(&["10.244.1.0/28", "fd00:10:244:1::/124"]);
        let reserved = json!(["10.244.1.9-10.244.1.15", "fd00:10:244:1::9-fd00:10:244:1::f"]);
        let conf = conf(json!({ "ipam": { "reserved": reserved } }));
        let mut dice = Dice(seed);
        let mut generation = vec![0; SLOTS];
        let mut beliefs = vec![Belief::Absent; SLOTS];
        let (mut verbs, mut kills) = (0, 0);
        for slot in 0..SLOTS {
            lab.netns(&format!("p{slot}"));
        }
        for _ in 0..rounds {
            let mut running: Vec<Running> = Vec::new();
            let mut to_start = 24;
            while to_start > 0 || !running.is_empty() {
                let slot = usize::try_from(dice.roll(SLOTS as u64)).unwrap();
                let is_busy = running.iter().any(|r| r.slot == slot);
                if to_start > 0 && !is_busy && running.len() < 6 {
                    let verb = match &beliefs[slot] {
                        Belief::Absent => "ADD",
                        // A runtime may also try the same ADD again.
                        Belief::Unknown if dice.roll(3) == 0 => "ADD",
                        Belief::Present(_) | Belief::Unknown => "DEL",
                    };
                    if verb == "ADD" && beliefs[slot] == Belief::Absent {
                        generation[slot] += 1;
                    }
                    if verb == "DEL" {
                        // From now on its address may be another's, though its end is not seen yet.
                        beliefs[slot] = Belief::Unknown;
                    }
                    running.push(start(lab, &mut dice, slot, verb, &conf, &generation));
                    to_start -= 1;
                    verbs += 1;
                }
                for done in drive(&mut running) {
                    kills += u32::from(settle(done, &mut beliefs));
                    assert_no_address_is_held_twice(&beliefs);
                }
            }
            collect(lab, &conf, &mut beliefs, &generation);
            assert_exactly(&beliefs, lab);
        }
        println!("{verbs} verbs, {kills} killed");
        assert!(
            u64::from(kills) > rounds,
            "enough were killed for this to mean something"
        );
        finish(lab, &conf);
    });
}

/// GC with what is present; what was killed is absent afterwards.
fn collect(lab: &Lab, conf: &Value, beliefs: &mut [Belief], generation: &[u64]) {
    let valid: Vec<Value> = beliefs
        .iter()
        .enumerate()
        .filter(|(_, b)| matches!(b, Belief::Present(_)))
        .map(|(slot, _)| json!({ "containerID": format!("c{slot}-{}", generation[slot]), "ifname": "eth0" }))
        .collect();
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!(valid);
    lab.cni("GC", "", "", &gc).unwrap();
    for belief in beliefs.iter_mut().filter(|b| **b == Belief::Unknown) {
        *belief = Belief::Absent;
    }
}

/// All gone; then the whole block can be given, each address once.
fn finish(lab: &Lab, conf: &Value) {
    let mut gc = conf.clone();
    gc["cni.dev/valid-attachments"] = json!([]);
    lab.cni("GC", "", "", &gc).unwrap();
    lab.assert_clean();
    let mut ipam = conf.clone();
    ipam["type"] = json!("podroute-ipam");
    let given: BTreeSet<_> = (0..7)
        .flat_map(|i| addresses(&lab.add(&format!("last{i}"), "/run/netns/p0", &ipam)))
        .collect();
    assert_eq!(given.len(), 14, "seven of each family");
    assert_eq!(lab.cni("ADD", "one-more", "/run/netns/p0", &ipam).code(), 11);
    assert_eq!(cni_ipam::check(&lab.run_dir.join("ipam"), false).unwrap(), vec![]);
}
