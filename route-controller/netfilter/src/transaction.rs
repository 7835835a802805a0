//! Changes of one table that are in force together, or not at all.

use linux::netlink::{ACK, APPEND, CREATE};
use nix::errno::Errno;

use crate::message::{Messages, number};
use crate::object::{Chain, Element, SetSpec};
use crate::socket::{Error, Nftables, Result, What, refused};

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// The resource of a batch: nf_tables' subsystem.
const NFTABLES: u16 = 10;
pub(crate) const NFPROTO_INET: u8 = 1;

pub(crate) const NEWTABLE: u16 = SUBSYSTEM;
pub(crate) const DELTABLE: u16 = SUBSYSTEM | 2;
pub(crate) const NEWCHAIN: u16 = SUBSYSTEM | 3;
pub(crate) const GETCHAIN: u16 = SUBSYSTEM | 4;
pub(crate) const DELCHAIN: u16 = SUBSYSTEM | 5;
pub(crate) const NEWRULE: u16 = SUBSYSTEM | 6;
pub(crate) const GETRULE: u16 = SUBSYSTEM | 7;
pub(crate) const DELRULE: u16 = SUBSYSTEM | 8;
pub(crate) const NEWSET: u16 = SUBSYSTEM | 9;
pub(crate) const GETSET: u16 = SUBSYSTEM | 10;
pub(crate) const DELSET: u16 = SUBSYSTEM | 11;
pub(crate) const NEWSETELEM: u16 = SUBSYSTEM | 12;
pub(crate) const GETSETELEM: u16 = SUBSYSTEM | 13;
pub(crate) const DELSETELEM: u16 = SUBSYSTEM | 14;
pub(crate) const NEWGEN: u16 = SUBSYSTEM | 15;
pub(crate) const GETGEN: u16 = SUBSYSTEM | 16;

/// Elements in one message: a list's length has 16 bits.
const LIST_BYTES: usize = 48 * 1024;

/// A transaction being built. Messages are in the order of the calls.
#[derive(Debug)]
pub struct Transaction {
    table: String,
    messages: Messages,
    what: Vec<What>,
    sets: u32,
}

impl Transaction {
    /// On the table of this name, of family `inet`.
    #[must_use]
    pub fn new(table: &str) -> Self {
        Self::begin(table, None)
    }

    /// Fails with [`Error::Stale`] where the ruleset has another generation by then.
    #[must_use]
    pub fn for_generation(table: &str, generation: u32) -> Self {
        Self::begin(table, Some(generation))
    }

    fn begin(table: &str, generation: Option<u32>) -> Self {
        let mut this = Self {
            table: table.to_owned(),
            messages: Messages::default(),
            what: Vec::new(),
            sets: 0,
        };
        this.message(BATCH_BEGIN, 0, "begin a transaction of table", "");
        if let Some(generation) = generation {
            this.messages.number(1, generation);
        }
        this
    }

    /// Whether nothing was asked for yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.what.len() == 1
    }

    /// Octets so far.
    #[must_use]
    pub fn length(&self) -> usize {
        self.messages.bytes.len()
    }

    pub fn add_table(&mut self) {
        self.message(NEWTABLE, CREATE, "add table", "");
        let table = self.table.clone();
        self.messages.text(1, &table);
    }

    pub fn delete_table(&mut self) {
        self.message(DELTABLE, 0, "delete table", "");
        let table = self.table.clone();
        self.messages.text(1, &table);
    }

    /// Adds the chain without rules; one that is there stays.
    pub fn add_chain(&mut self, chain: &Chain) {
        self.object(NEWCHAIN, CREATE, "add chain", 3, &chain.name);
        if let Some(hook) = chain.hook {
            self.messages.nest(4, |h| {
                number(h, 1, hook.number);
                number(h, 2, hook.priority.cast_unsigned());
            });
            self.messages.text(7, "filter");
        }
    }

    /// Removes a chain that has no rules and to which nothing refers.
    pub fn delete_chain(&mut self, name: &str) {
        self.object(DELCHAIN, 0, "delete chain", 3, name);
    }

    /// Removes all rules of a chain.
    pub fn flush_chain(&mut self, name: &str) {
        self.object(DELRULE, 0, "empty chain", 2, name);
    }

    /// Appends the chain's rules.
    pub fn add_rules(&mut self, chain: &Chain) {
        const COMMENT: u8 = 0;
        let comment = chain.comment();
        let length = u8::try_from(comment.len() + 1).unwrap_or(u8::MAX);
        let mut user_data = vec![COMMENT, length];
        user_data.extend(comment.as_bytes());
        user_data.push(0);
        for rule in &chain.rules {
            self.object(NEWRULE, CREATE | APPEND, "add a rule to chain", 2, &chain.name);
            self.messages.nest(4, |list| list.extend(&rule.expressions.0));
            self.messages.attr(7, &user_data);
        }
    }

    pub fn add_set(&mut self, set: &SetSpec) {
        self.sets += 1;
        let id = self.sets;
        self.object(NEWSET, CREATE, "add set", 2, &set.name);
        let mut rest = Vec::new();
        set.put(&mut rest, id);
        self.raw(&rest);
    }

    /// Removes a set to which no rule refers.
    pub fn delete_set(&mut self, name: &str) {
        self.object(DELSET, 0, "delete set", 2, name);
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, name: &str) {
        self.object(DELSETELEM, 0, "empty set", 2, name);
    }

    pub fn add_elements<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(NEWSETELEM, set, elements);
    }

    pub fn delete_elements<'a>(&mut self, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
        self.elements(DELSETELEM, set, elements);
    }

    fn elements<'a>(&mut self, kind: u16, set: &str, elements: impl IntoIterator<Item = &'a Element>) {
        let (flags, action) = if kind == NEWSETELEM {
            (CREATE, "add elements to set")
        } else {
            (0, "delete elements of set")
        };
        let mut elements = elements.into_iter().peekable();
        let mut list = Vec::new();
        while elements.peek().is_some() {
            list.clear();
            while let Some(element) = elements.next_if(|_| list.len() < LIST_BYTES) {
                element.put(&mut list, kind == NEWSETELEM);
            }
            self.object(kind, flags, action, 2, set);
            self.messages.nest(3, |out| out.extend(&list));
        }
    }

    /// Brings all of it into force.
    ///
    /// # Errors
    /// The first request that was refused; then nothing has changed.
    pub fn run(mut self, nftables: &mut Nftables) -> Result<()> {
        // The last message's answer says that all went well.
        self.messages.add_flags(ACK);
        let last = u32::try_from(self.what.len()).unwrap_or(u32::MAX) - 1;
        self.message(BATCH_END, 0, "end the transaction of table", "");
        let first = nftables
            .socket
            .sequences(u32::try_from(self.what.len()).unwrap_or(u32::MAX));
        self.number_from(first);
        nftables.socket.send(&self.messages)?;
        let failures = nftables.socket.answers(first, first.wrapping_add(last), |_| {})?;
        let Some(failure) = failures.into_iter().next() else {
            return Ok(());
        };
        if failure.errno == Errno::from_raw(ERESTART) {
            return Err(Error::Stale);
        }
        let index = usize::try_from(failure.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
        let what = self.what.get(index).cloned();
        Err(refused(
            &what.unwrap_or(What {
                action: "change table",
                name: self.table,
            }),
            failure,
        ))
    }

    fn object(&mut self, kind: u16, flags: u16, action: &'static str, attribute: u16, name: &str) {
        self.message(kind, flags, action, name);
        let table = std::mem::take(&mut self.table);
        self.messages.text(1, &table);
        self.messages.text(attribute, name);
        self.table = table;
    }

    fn message(&mut self, kind: u16, flags: u16, action: &'static str, name: &str) {
        let is_batch = matches!(kind, BATCH_BEGIN | BATCH_END);
        let (family, resource) = if is_batch {
            (0, NFTABLES)
        } else {
            (NFPROTO_INET, 0)
        };
        let sequence = u32::try_from(self.what.len()).unwrap_or(u32::MAX);
        self.messages.begin(kind, flags, sequence, family, resource);
        let name = if name.is_empty() {
            self.table.clone()
        } else {
            format!("{name} of table {}", self.table)
        };
        self.what.push(What { action, name });
    }

    fn raw(&mut self, attributes: &[u8]) {
        self.messages.append(attributes);
    }

    fn number_from(&mut self, first: u32) {
        self.messages.add_to_sequences(first);
    }
}

/// The kernel's answer to a batch for another generation; the C library does not name it.
const ERESTART: i32 = 85;
