//! Our one nftables table, `inet podroute-cni`, through raw nfnetlink (no nft program is run).
//!
//! Masquerade, per network: a set of pod addresses, an interval set of exempt prefixes, and one base
//! chain (`nat`, postrouting) with `ip saddr @pods ip daddr != @exempt masquerade` for each family.
//! Marks: a map from pod address to mark and one base chain (`filter`, prerouting, mangle priority).
//! Every change is one transaction: all of it is in force, or none. Never touches another table.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use crate::block::Family;
use crate::error::Result;
use crate::kernel::link::octets;
use crate::kernel::netlink::{ACK, Batch, CREATE, Outcome, Socket};
use crate::names::hash;

/// The table's name.
pub(crate) const TABLE: &str = "podroute-cni";

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const NEWRULE: u16 = SUBSYSTEM | 6;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const NFPROTO_INET: u8 = 1;
const NESTED: u16 = 0x8000;
const LIST_ELEM: u16 = 1 | NESTED;
const DATA_VALUE: u16 = 1;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const REG_1: u32 = 1;
const TYPE_MARK: u32 = 19;

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Whether a notification of this kind says that something was taken out of a table.
pub(crate) fn is_loss(kind: u16) -> bool {
    const DELCHAIN: u16 = SUBSYSTEM | 5;
    const DELSET: u16 = SUBSYSTEM | 11;
    [DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM].contains(&kind)
}

/// A transaction being built.
struct Transaction(Batch);

impl Transaction {
    fn new() -> Self {
        let mut batch = Batch::transaction();
        batch.begin(BATCH_BEGIN, 0, &[0, 0, 0, 10], "begin an nftables transaction");
        Self(batch)
    }

    fn message(&mut self, kind: u16, flags: u16, action: &str) -> &mut Batch {
        self.0.begin(
            kind,
            flags,
            &[NFPROTO_INET, 0, 0, 0],
            format!("{action} in table {TABLE}"),
        );
        &mut self.0
    }

    fn table(&mut self) {
        let batch = self.message(NEWTABLE, CREATE, "add the table");
        batch.text(1, TABLE);
    }

    fn set(&mut self, name: &str, family: Family, flags: u32, data: Option<(u32, u32)>) {
        let (key_type, key_length) = match family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        let id = u32::try_from(hash(&[name.as_bytes()]) & 0xffff_ffff).unwrap_or_default();
        let batch = self.message(NEWSET, CREATE, &format!("add set {name}"));
        batch.text(1, TABLE);
        batch.text(2, name);
        number(batch, 3, flags);
        number(batch, 4, key_type);
        number(batch, 5, key_length);
        if let Some((data_type, data_length)) = data {
            number(batch, 6, data_type);
            number(batch, 7, data_length);
        }
        number(batch, 10, id);
        if data.is_some() {
            // For nft's listing alone: keys are in network byte order (2), data in the host's (1).
            let (key_order, data_order) = (2_u32.to_ne_bytes(), 1_u32.to_ne_bytes());
            let notes: Vec<u8> = [0, 4]
                .into_iter()
                .chain(key_order)
                .chain([1, 4])
                .chain(data_order)
                .collect();
            batch.attr(13, &notes);
        }
    }

    /// A base chain with no rules but those added afterwards.
    fn chain(&mut self, name: &str, kind: &str, hook: u32, priority: i32) {
        let batch = self.message(NEWCHAIN, CREATE, &format!("add chain {name}"));
        batch.text(1, TABLE);
        batch.text(3, name);
        batch.nest(4 | NESTED, |h| {
            number(h, 1, hook);
            number(h, 2, priority.cast_unsigned());
        });
        batch.text(7, kind);
        let batch = self.message(DELRULE, 0, &format!("empty chain {name}"));
        batch.text(1, TABLE);
        batch.text(2, name);
    }

    fn rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Batch)) {
        const APPEND: u16 = 0x800;
        let batch = self.message(NEWRULE, CREATE | APPEND, &format!("add a rule to chain {chain}"));
        batch.text(1, TABLE);
        batch.text(2, chain);
        batch.nest(4 | NESTED, expressions);
    }

    fn elements(&mut self, kind: u16, set: &str, elements: &[Element]) {
        let flags = if kind == NEWSETELEM { CREATE } else { 0 };
        let batch = self.message(kind, flags, &format!("change set {set}"));
        batch.text(1, TABLE);
        batch.text(2, set);
        if elements.is_empty() {
            return;
        }
        batch.nest(3 | NESTED, |list| {
            for element in elements {
                list.nest(LIST_ELEM, |e| {
                    if element.is_end {
                        number(e, 3, 1);
                    }
                    e.nest(1 | NESTED, |key| key.attr(DATA_VALUE, &octets(element.key)));
                    if let Some(mark) = element.mark {
                        e.nest(2 | NESTED, |data| data.attr(DATA_VALUE, &mark.to_ne_bytes()));
                    }
                });
            }
        });
    }

    fn run(mut self, socket: &Socket) -> Result<()> {
        let (batch, outcome) = self.try_run(socket)?;
        outcome.failures.first().map_or(Ok(()), |f| Err(batch.error(f)))
    }

    fn try_run(&mut self, socket: &Socket) -> Result<(Batch, Outcome)> {
        // The one message that is answered when all went well: adding what is there already.
        self.0.begin(
            NEWTABLE,
            CREATE | ACK,
            &[NFPROTO_INET, 0, 0, 0],
            format!("commit to table {TABLE}"),
        );
        self.0.text(1, TABLE);
        self.0
            .begin(BATCH_END, 0, &[0, 0, 0, 10], "end an nftables transaction");
        let batch = std::mem::take(&mut self.0);
        let outcome = socket.try_run(&batch)?;
        Ok((batch, outcome))
    }
}

struct Element {
    key: IpAddr,
    mark: Option<u32>,
    is_end: bool,
}

fn of_family(addresses: &[IpAddr], family: Family, mark: Option<u32>) -> Vec<Element> {
    let of = addresses.iter().copied().filter(|a| Family::of(*a) == family);
    of.map(|key| Element {
        key,
        mark,
        is_end: false,
    })
    .collect()
}

/// Each prefix as its first address and the one after its last.
fn intervals(prefixes: &[IpNet], family: Family) -> Vec<Element> {
    let of: Vec<IpNet> = prefixes
        .iter()
        .copied()
        .filter(|p| Family::of(p.addr()) == family)
        .collect();
    let mut elements = Vec::new();
    for prefix in IpNet::aggregate(&of) {
        elements.push(Element {
            key: prefix.network(),
            mark: None,
            is_end: false,
        });
        let after = match prefix.broadcast() {
            IpAddr::V4(last) => last.to_bits().checked_add(1).map(|b| IpAddr::V4(b.into())),
            IpAddr::V6(last) => last.to_bits().checked_add(1).map(|b| IpAddr::V6(b.into())),
        };
        elements.extend(after.map(|key| Element {
            key,
            mark: None,
            is_end: true,
        }));
    }
    elements
}

fn number(batch: &mut Batch, kind: u16, value: u32) {
    batch.attr(kind, &value.to_be_bytes());
}

fn expression(batch: &mut Batch, name: &str, data: impl FnOnce(&mut Batch)) {
    batch.nest(LIST_ELEM, |e| {
        e.text(1, name);
        e.nest(2 | NESTED, data);
    });
}

/// `meta nfproto <family>`: what follows reads that family's header.
fn match_family(batch: &mut Batch, family: Family) {
    const META_NFPROTO: u32 = 15;
    let protocol: u8 = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    expression(batch, "meta", |d| {
        number(d, 2, META_NFPROTO);
        number(d, 1, REG_1);
    });
    expression(batch, "cmp", |d| {
        number(d, 1, REG_1);
        number(d, 2, 0);
        d.nest(3 | NESTED, |value| value.attr(DATA_VALUE, &[protocol]));
    });
}

/// Loads the source or destination address.
fn load_address(batch: &mut Batch, family: Family, is_source: bool) {
    let (source, destination, length) = match family {
        Family::V4 => (12, 16, 4),
        Family::V6 => (8, 24, 16),
    };
    expression(batch, "payload", |d| {
        number(d, 1, REG_1);
        number(d, 2, 1);
        number(d, 3, if is_source { source } else { destination });
        number(d, 4, length);
    });
}

fn look_up(batch: &mut Batch, set: &str, inverted: bool, into: Option<u32>) {
    expression(batch, "lookup", |d| {
        d.text(1, set);
        number(d, 2, REG_1);
        if let Some(register) = into {
            number(d, 3, register);
        }
        if inverted {
            number(d, 5, 1);
        }
    });
}

fn digit(family: Family) -> char {
    match family {
        Family::V4 => '4',
        Family::V6 => '6',
    }
}

/// Names of a network's sets: a hash, for a network's name may be longer than a set's.
fn names(network: &str, family: Family) -> (String, String) {
    let tag = tag(network);
    let digit = digit(family);
    (format!("pods{digit}-{tag}"), format!("exempt{digit}-{tag}"))
}

fn tag(network: &str) -> String {
    format!("{:016x}", hash(&[network.as_bytes()]))
        .split_at(12)
        .0
        .to_owned()
}

/// Masquerades what these addresses send to anywhere but the exempt prefixes.
pub(crate) fn masquerade(socket: &Socket, network: &str, pods: &[IpAddr], exempt: &[IpNet]) -> Result<()> {
    const POSTROUTING: u32 = 4;
    let mut t = Transaction::new();
    t.table();
    let chain = format!("masquerade-{}", tag(network));
    t.chain(&chain, "nat", POSTROUTING, 100);
    for family in FAMILIES {
        let (pods_set, exempt_set) = names(network, family);
        t.set(&pods_set, family, 0, None);
        t.set(&exempt_set, family, SET_INTERVAL, None);
        t.elements(DELSETELEM, &exempt_set, &[]);
        for (set, elements) in [
            (&exempt_set, intervals(exempt, family)),
            (&pods_set, of_family(pods, family, None)),
        ] {
            if !elements.is_empty() {
                t.elements(NEWSETELEM, set, &elements);
            }
        }
        t.rule(&chain, |rule| {
            match_family(rule, family);
            load_address(rule, family, true);
            look_up(rule, &pods_set, false, None);
            load_address(rule, family, false);
            look_up(rule, &exempt_set, true, None);
            expression(rule, "masq", |_| {});
        });
    }
    t.run(socket)
}

/// Marks what these addresses send.
pub(crate) fn mark(socket: &Socket, pods: &[IpAddr], mark: u32) -> Result<()> {
    let (_, outcome) = marking(pods, mark).try_run(socket)?;
    if outcome.failures.is_empty() {
        return Ok(());
    }
    // An address may be there with another mark, from a killed DEL: it is taken out, and all tried again.
    forget(socket, &marks(), pods)?;
    marking(pods, mark).run(socket)
}

fn marking(pods: &[IpAddr], mark: u32) -> Transaction {
    const PREROUTING: u32 = 0;
    const META_MARK: u32 = 3;
    let mut t = Transaction::new();
    t.table();
    t.chain("marks", "filter", PREROUTING, -150);
    for (map, family) in marks() {
        t.set(&map, family, SET_MAP, Some((TYPE_MARK, 4)));
        let elements = of_family(pods, family, Some(mark));
        if !elements.is_empty() {
            t.elements(NEWSETELEM, &map, &elements);
        }
        t.rule("marks", |rule| {
            match_family(rule, family);
            load_address(rule, family, true);
            look_up(rule, &map, false, Some(REG_1));
            expression(rule, "meta", |d| {
                number(d, 2, META_MARK);
                number(d, 3, REG_1);
            });
        });
    }
    t
}

type Sets = [(String, Family); 2];

fn marks() -> Sets {
    FAMILIES.map(|f| (format!("marks{}", digit(f)), f))
}

fn pods_of(network: &str) -> Sets {
    FAMILIES.map(|f| (names(network, f).0, f))
}

/// Removes addresses from the marks; no matter if they are there.
pub(crate) fn unmark(socket: &Socket, pods: &[IpAddr]) -> Result<()> {
    forget(socket, &marks(), pods)
}

/// Removes addresses from a network's masqueraded ones; no matter if they are there.
pub(crate) fn unmasquerade(socket: &Socket, network: &str, pods: &[IpAddr]) -> Result<()> {
    forget(socket, &pods_of(network), pods)
}

fn forget(socket: &Socket, sets: &Sets, pods: &[IpAddr]) -> Result<()> {
    let mut all = Transaction::new();
    for (set, family) in sets {
        let elements = of_family(pods, *family, None);
        if !elements.is_empty() {
            all.elements(DELSETELEM, set, &elements);
        }
    }
    let (_, outcome) = all.try_run(socket)?;
    if outcome.failures.is_empty() {
        return Ok(());
    }
    // Not all of them are there: one by one, then.
    for (set, family) in sets {
        for element in of_family(pods, *family, None) {
            let mut one = Transaction::new();
            one.elements(DELSETELEM, set, &[element]);
            let (batch, outcome) = one.try_run(socket)?;
            if let Some(failure) = outcome.failures.iter().find(|f| f.errno != Errno::ENOENT) {
                return Err(batch.error(failure));
            }
        }
    }
    Ok(())
}

/// Removes the table with all in it; false where it was not there.
pub(crate) fn remove_table(socket: &Socket) -> Result<bool> {
    let mut batch = Batch::transaction();
    batch.begin(BATCH_BEGIN, 0, &[0, 0, 0, 10], "begin an nftables transaction");
    batch.begin(
        DELTABLE,
        ACK,
        &[NFPROTO_INET, 0, 0, 0],
        format!("remove table {TABLE}"),
    );
    batch.text(1, TABLE);
    batch.begin(BATCH_END, 0, &[0, 0, 0, 10], "end an nftables transaction");
    let outcome = socket.try_run(&batch)?;
    match outcome.failures.first() {
        None => Ok(true),
        Some(failure) if failure.errno == Errno::ENOENT => Ok(false),
        Some(failure) => Err(batch.error(failure)),
    }
}
