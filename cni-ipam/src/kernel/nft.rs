//! nftables through nfnetlink, without the program nft: transactions, sets, chains, expressions.
//!
//! Every change is one transaction. Each rule of a chain has a hash of the whole chain as comment, so that one dump shows
//! whether the chain is installed and unchanged. `table` defines the table's content.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;

use crate::block::Family;
use crate::error::Result;
use crate::kernel::link::octets;
use crate::names::hash;
use linux::netlink::{ACK, Attributes, Batch, CREATE, DUMP, Outcome, Socket};

/// The table's name.
pub(crate) const TABLE: &str = "podroute-cni";

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const NEWRULE: u16 = SUBSYSTEM | 6;
const GETRULE: u16 = SUBSYSTEM | 7;
const DELRULE: u16 = SUBSYSTEM | 8;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWSETELEM: u16 = SUBSYSTEM | 12;
const GETSETELEM: u16 = SUBSYSTEM | 13;
const DELSETELEM: u16 = SUBSYSTEM | 14;

const NFPROTO_INET: u8 = 1;
const NESTED: u16 = 0x8000;
const LIST_ELEM: u16 = 1 | NESTED;
const DATA_VALUE: u16 = 1;
const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const TYPE_MARK: u32 = 19;
const TYPE_IFNAME: u32 = 41;
/// The first 16-byte register, and the second.
pub(crate) const REG_1: u32 = 1;
pub(crate) const REG_2: u32 = 2;
const IFNAME_SIZE: usize = 16;

/// The type of a set's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetKeys {
    /// Addresses.
    Addresses(Family),
    /// Intervals of addresses.
    Prefixes(Family),
    /// Addresses, each with a mark.
    Marks(Family),
    /// An interface's name and an address.
    InterfaceAddresses(Family),
}

impl SetKeys {
    fn flags(self) -> u32 {
        match self {
            Self::Prefixes(_) => SET_INTERVAL,
            Self::Marks(_) => SET_MAP,
            Self::Addresses(_) | Self::InterfaceAddresses(_) => 0,
        }
    }

    /// The key's type, as nft lists it, and its length.
    fn kind(self) -> (u32, u32) {
        let of = |family| match family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        match self {
            Self::Addresses(family) | Self::Prefixes(family) | Self::Marks(family) => of(family),
            Self::InterfaceAddresses(family) => {
                let (kind, length) = of(family);
                (TYPE_IFNAME << 6 | kind, 16 + length)
            }
        }
    }
}

/// A set's element.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    key: Vec<u8>,
    mark: Option<u32>,
    is_end: bool,
}

impl Element {
    pub(crate) fn address(address: IpAddr, mark: Option<u32>) -> Self {
        Self {
            key: octets(address),
            mark,
            is_end: false,
        }
    }

    pub(crate) fn interface_address(interface: &str, address: IpAddr) -> Self {
        let mut key = interface.as_bytes().to_vec();
        key.resize(IFNAME_SIZE, 0);
        key.extend(octets(address));
        Self {
            key,
            mark: None,
            is_end: false,
        }
    }

    fn put(&self, list: &mut Batch) {
        list.nest(LIST_ELEM, |e| {
            if self.is_end {
                number(e, 3, 1);
            }
            e.nest(1 | NESTED, |key| key.attr(DATA_VALUE, &self.key));
            if let Some(mark) = self.mark {
                e.nest(2 | NESTED, |data| data.attr(DATA_VALUE, &mark.to_ne_bytes()));
            }
        });
    }
}

/// A base chain, its rules and the sets that they use.
#[derive(Debug, Clone)]
pub(crate) struct Chain {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) hook: u32,
    pub(crate) priority: i32,
    pub(crate) sets: Vec<(String, SetKeys)>,
    /// Elements that do not depend on pods.
    pub(crate) fixed_elements: Vec<(String, Vec<Element>)>,
    /// The rules' expressions, built with `rule`.
    pub(crate) rules: Vec<Vec<u8>>,
}

impl Chain {
    /// The comment of each rule: a hash of the whole chain.
    fn comment(&self) -> Vec<u8> {
        const COMMENT: u8 = 0;
        let mut parts: Vec<&[u8]> = vec![self.name.as_bytes(), self.kind.as_bytes()];
        let numbers = [self.hook.to_be_bytes(), self.priority.to_be_bytes()];
        parts.extend(numbers.iter().map(<[u8; 4]>::as_slice));
        parts.extend(self.rules.iter().map(Vec::as_slice));
        for (set, elements) in &self.fixed_elements {
            parts.push(set.as_bytes());
            parts.extend(elements.iter().map(|e| e.key.as_slice()));
        }
        let text = format!("podroute {:016x}\0", hash(&parts));
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [COMMENT, length].into_iter().chain(text.into_bytes()).collect()
    }

    /// Whether the chain is installed and unchanged. Set elements are not compared.
    pub(crate) fn is_installed(&self, socket: &Socket) -> Result<bool> {
        let mut batch = Batch::default();
        let action = format!("list the rules of chain {} in table {TABLE}", self.name);
        batch.begin(GETRULE, DUMP, &[NFPROTO_INET, 0, 0, 0], action);
        batch.text(1, TABLE);
        batch.text(2, &self.name);
        let replies = socket.run(batch)?;
        let comment = self.comment();
        let is_ours = |attrs: Attributes<'_>| {
            attrs.text(2) == Some(self.name.as_str()) && attrs.get(7) == Some(comment.as_slice())
        };
        Ok(replies.len() == self.rules.len() && replies.iter().all(|reply| is_ours(reply.attrs(4))))
    }

    /// Installs the chain and adds elements to sets in one transaction; only the elements if the chain is installed.
    pub(crate) fn ensure(&self, socket: &Socket, elements: &[(String, Element)]) -> Result<()> {
        if self.is_installed(socket)? {
            if elements.is_empty() {
                return Ok(());
            }
            let mut t = Transaction::new();
            t.add(elements);
            if t.try_run(socket)?.1.failures.is_empty() {
                return Ok(());
            }
        }
        // Missing, changed, or removed since the check.
        let mut t = Transaction::new();
        t.table();
        t.chain(self);
        t.add(elements);
        t.run(socket)
    }
}

/// A rule's expressions, as bytes.
pub(crate) fn rule(expressions: impl FnOnce(&mut Batch)) -> Vec<u8> {
    Batch::attributes(expressions)
}

/// Whether a notification of this type reports a deletion.
pub(crate) fn is_deletion(kind: u16) -> bool {
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

    fn set(&mut self, name: &str, keys: SetKeys) {
        let (key_type, key_length) = keys.kind();
        let id = u32::try_from(hash(&[name.as_bytes()]) & 0xffff_ffff).unwrap_or_default();
        let batch = self.message(NEWSET, CREATE, &format!("add set {name}"));
        batch.text(1, TABLE);
        batch.text(2, name);
        number(batch, 3, keys.flags());
        number(batch, 4, key_type);
        number(batch, 5, key_length);
        let is_map = matches!(keys, SetKeys::Marks(_));
        if is_map {
            number(batch, 6, TYPE_MARK);
            number(batch, 7, 4);
        }
        number(batch, 10, id);
        if is_map {
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

    /// The chain with its sets, its fixed elements and no other rules.
    fn chain(&mut self, chain: &Chain) {
        const APPEND: u16 = 0x800;
        let name = &chain.name;
        for (set, keys) in &chain.sets {
            self.set(set, *keys);
        }
        for (set, elements) in &chain.fixed_elements {
            self.elements(DELSETELEM, set, &[]);
            if !elements.is_empty() {
                self.elements(NEWSETELEM, set, elements);
            }
        }
        let batch = self.message(NEWCHAIN, CREATE, &format!("add chain {name}"));
        batch.text(1, TABLE);
        batch.text(3, name);
        batch.nest(4 | NESTED, |h| {
            number(h, 1, chain.hook);
            number(h, 2, chain.priority.cast_unsigned());
        });
        batch.text(7, chain.kind);
        let batch = self.message(DELRULE, 0, &format!("empty chain {name}"));
        batch.text(1, TABLE);
        batch.text(2, name);
        let comment = chain.comment();
        for expressions in &chain.rules {
            let batch = self.message(NEWRULE, CREATE | APPEND, &format!("add a rule to chain {name}"));
            batch.text(1, TABLE);
            batch.text(2, name);
            batch.attr(4 | NESTED, expressions);
            batch.attr(7, &comment);
        }
    }

    fn add(&mut self, elements: &[(String, Element)]) {
        for (set, element) in elements {
            self.elements(NEWSETELEM, set, std::slice::from_ref(element));
        }
    }

    fn elements(&mut self, kind: u16, set: &str, elements: &[Element]) {
        let flags = if kind == NEWSETELEM { CREATE } else { 0 };
        let batch = self.message(kind, flags, &format!("change set {set}"));
        batch.text(1, TABLE);
        batch.text(2, set);
        if elements.is_empty() {
            return;
        }
        batch.nest(3 | NESTED, |list| elements.iter().for_each(|e| e.put(list)));
    }

    fn run(mut self, socket: &Socket) -> Result<()> {
        let (batch, outcome) = self.try_run(socket)?;
        outcome
            .failures
            .first()
            .map_or(Ok(()), |f| Err(batch.error(f).into()))
    }

    fn try_run(&mut self, socket: &Socket) -> Result<(Batch, Outcome)> {
        // The only message that is acknowledged: it adds the table, which exists.
        self.0.begin(
            NEWTABLE,
            CREATE | ACK,
            &[NFPROTO_INET, 0, 0, 0],
            format!("commit to table {TABLE}"),
        );
        self.0.text(1, TABLE);
        self.0
            .begin(BATCH_END, 0, &[0, 0, 0, 10], "end an nftables transaction");
        let mut batch = std::mem::take(&mut self.0);
        let outcome = socket.try_run(&mut batch)?;
        Ok((batch, outcome))
    }
}

/// Removes elements; missing ones are ignored.
pub(crate) fn remove_elements(socket: &Socket, elements: &[(String, Element)]) -> Result<()> {
    if elements.is_empty() {
        return Ok(());
    }
    let mut all = Transaction::new();
    for (set, element) in elements {
        all.elements(DELSETELEM, set, std::slice::from_ref(element));
    }
    if all.try_run(socket)?.1.failures.is_empty() {
        return Ok(());
    }
    // Some are missing: remove them one by one.
    for (set, element) in elements {
        let mut one = Transaction::new();
        one.elements(DELSETELEM, set, std::slice::from_ref(element));
        let (batch, outcome) = one.try_run(socket)?;
        if let Some(failure) = outcome.failures.iter().find(|f| f.errno != Errno::ENOENT) {
            return Err(batch.error(failure).into());
        }
    }
    Ok(())
}

/// The elements that are not in their sets.
pub(crate) fn missing_elements(
    socket: &Socket,
    elements: &[(String, Element)],
) -> Result<Vec<(String, Element)>> {
    let mut batch = Batch::default();
    for (set, element) in elements {
        batch.begin(
            GETSETELEM,
            ACK,
            &[NFPROTO_INET, 0, 0, 0],
            format!("look into set {set}"),
        );
        batch.text(1, TABLE);
        batch.text(2, set);
        batch.nest(3 | NESTED, |list| {
            Element {
                mark: None,
                ..element.clone()
            }
            .put(list);
        });
    }
    let outcome = socket.try_run(&mut batch)?;
    if let Some(failure) = outcome.failures.iter().find(|f| f.errno != Errno::ENOENT) {
        return Err(batch.error(failure).into());
    }
    let gone = outcome.failures.iter().filter_map(|f| elements.get(f.index));
    Ok(gone.cloned().collect())
}

/// Whether a base chain of another table has policy drop, and its number of rules then; None: there is no such chain.
pub(crate) fn foreign_chain(
    socket: &Socket,
    family: Family,
    table: &str,
    chain: &str,
) -> Result<Option<(bool, usize)>> {
    const POLICY_DROP: u32 = 0;
    let protocol = match family {
        Family::V4 => 2,
        Family::V6 => 10,
    };
    let mut batch = Batch::default();
    batch.begin(
        GETCHAIN,
        0,
        &[protocol, 0, 0, 0],
        format!("look at chain {chain} in table {table}"),
    );
    batch.text(1, table);
    batch.text(3, chain);
    let outcome = socket.try_run(&mut batch)?;
    let Some(found) = outcome.replies.first() else {
        return Ok(None);
    };
    let policy = found.attrs(4).get(5).and_then(|b| b.try_into().ok());
    let drops = policy.map(u32::from_be_bytes) == Some(POLICY_DROP);
    if !drops {
        return Ok(Some((false, 0)));
    }
    let mut batch = Batch::default();
    batch.begin(
        GETRULE,
        DUMP,
        &[protocol, 0, 0, 0],
        format!("list the rules of chain {chain} in table {table}"),
    );
    batch.text(1, table);
    batch.text(2, chain);
    Ok(Some((true, socket.run(batch)?.len())))
}

/// Each prefix as its first address and the one after its last.
pub(crate) fn intervals(prefixes: &[IpNet], family: Family) -> Vec<Element> {
    let of: Vec<IpNet> = prefixes
        .iter()
        .copied()
        .filter(|p| Family::of(p.addr()) == family)
        .collect();
    let mut elements = Vec::new();
    for prefix in IpNet::aggregate(&of) {
        elements.push(Element::address(prefix.network(), None));
        let after = match prefix.broadcast() {
            IpAddr::V4(last) => last.to_bits().checked_add(1).map(|b| IpAddr::V4(b.into())),
            IpAddr::V6(last) => last.to_bits().checked_add(1).map(|b| IpAddr::V6(b.into())),
        };
        elements.extend(after.map(|key| Element {
            is_end: true,
            ..Element::address(key, None)
        }));
    }
    elements
}

pub(crate) fn number(batch: &mut Batch, kind: u16, value: u32) {
    batch.attr(kind, &value.to_be_bytes());
}

pub(crate) fn expression(batch: &mut Batch, name: &str, data: impl FnOnce(&mut Batch)) {
    batch.nest(LIST_ELEM, |e| {
        e.text(1, name);
        e.nest(2 | NESTED, data);
    });
}

/// Loads a property of the packet.
pub(crate) fn load_meta(batch: &mut Batch, key: u32, register: u32) {
    expression(batch, "meta", |d| {
        number(d, 2, key);
        number(d, 1, register);
    });
}

/// Continues only if the first register begins with these octets.
pub(crate) fn equals(batch: &mut Batch, bytes: &[u8]) {
    expression(batch, "cmp", |d| {
        number(d, 1, REG_1);
        number(d, 2, 0);
        d.nest(3 | NESTED, |value| value.attr(DATA_VALUE, bytes));
    });
}

/// `meta nfproto <family>`: what follows reads that family's header.
pub(crate) fn match_family(batch: &mut Batch, family: Family) {
    const META_NFPROTO: u32 = 15;
    load_meta(batch, META_NFPROTO, REG_1);
    equals(
        batch,
        &[match family {
            Family::V4 => 2,
            Family::V6 => 10,
        }],
    );
}

/// `meta l4proto <protocol>` and bytes of the transport header.
pub(crate) fn match_transport(batch: &mut Batch, protocol: u8, offset: u32, bytes: &[u8]) {
    const META_L4PROTO: u32 = 16;
    const TRANSPORT: u32 = 2;
    load_meta(batch, META_L4PROTO, REG_1);
    equals(batch, &[protocol]);
    load_payload(
        batch,
        REG_1,
        TRANSPORT,
        offset,
        u32::try_from(bytes.len()).unwrap_or_default(),
    );
    equals(batch, bytes);
}

fn load_payload(batch: &mut Batch, register: u32, base: u32, offset: u32, length: u32) {
    expression(batch, "payload", |d| {
        number(d, 1, register);
        number(d, 2, base);
        number(d, 3, offset);
        number(d, 4, length);
    });
}

/// Loads the source or destination address.
pub(crate) fn load_address(batch: &mut Batch, family: Family, is_source: bool, register: u32) {
    const NETWORK: u32 = 1;
    let (source, destination, length) = match family {
        Family::V4 => (12, 16, 4),
        Family::V6 => (8, 24, 16),
    };
    let offset = if is_source { source } else { destination };
    load_payload(batch, register, NETWORK, offset, length);
}

/// A verdict.
pub(crate) fn verdict(batch: &mut Batch, code: i32) {
    const REG_VERDICT: u32 = 0;
    expression(batch, "immediate", |d| {
        number(d, 1, REG_VERDICT);
        d.nest(2 | NESTED, |data| {
            data.nest(2 | NESTED, |v| number(v, 1, code.cast_unsigned()));
        });
    });
}

pub(crate) const DROP: i32 = 0;
pub(crate) const ACCEPT: i32 = 1;
pub(crate) const RETURN: i32 = -5;

pub(crate) fn look_up(batch: &mut Batch, set: &str, inverted: bool, into: Option<u32>) {
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

/// Removes the table with its content; false: there was none.
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
    let outcome = socket.try_run(&mut batch)?;
    match outcome.failures.first() {
        None => Ok(true),
        Some(failure) if failure.errno == Errno::ENOENT => Ok(false),
        Some(failure) => Err(batch.error(failure).into()),
    }
}
