//! What a table holds: chains, rules, sets, elements.

use crate::expr::Expressions;
use crate::message::{Attrs, LIST_ELEM, attr, nest, number, text};

/// The hook of a base chain; its kind is `filter`, its policy `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// 2: forward.
    pub number: u32,
    pub priority: i32,
}

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    pub hook: Option<Hook>,
    pub rules: Vec<RuleBody>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleBody {
    pub expressions: Expressions,
}

impl Chain {
    /// The comment of each of its rules: equal only where the whole chain is equal, so that one listing says whether it is in force.
    #[must_use]
    pub fn comment(&self) -> String {
        let mut hash = Fnv::default();
        if let Some(hook) = self.hook {
            hash.add(&hook.number.to_be_bytes());
            hash.add(&hook.priority.to_be_bytes());
        }
        for rule in &self.rules {
            hash.add(&rule.expressions.0);
        }
        format!("podroute {:016x}", hash.0)
    }
}

/// FNV-1a with lengths.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Goto(_) => -4,
            Self::Return => -5,
        }
    }
}

pub(crate) fn put_verdict(out: &mut Vec<u8>, verdict: &Verdict) {
    nest(out, 2, |v| {
        number(v, 1, verdict.code().cast_unsigned());
        if let Verdict::Jump(chain) | Verdict::Goto(chain) = verdict {
            text(v, 2, chain);
        }
    });
}

fn read_verdict(attrs: &Attrs<'_>) -> Option<Verdict> {
    let chain = || attrs.text(2).map(str::to_owned);
    match attrs.u32(1)?.cast_signed() {
        0 => Some(Verdict::Drop),
        1 => Some(Verdict::Accept),
        -5 => Some(Verdict::Return),
        -3 => chain().map(Verdict::Jump),
        -4 => chain().map(Verdict::Goto),
        _ => None,
    }
}

/// One part of a set's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyField {
    Ipv4,
    Ipv6,
    Protocol,
    Port,
    /// A number of four bytes in network order.
    Number,
    /// A packet's priority.
    Priority,
    Interface,
}

impl KeyField {
    /// Its type, as `nft` lists it.
    fn kind(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
            Self::Priority => 23,
            Self::Interface => 41,
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(self) -> usize {
        match self {
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Ipv4 | Self::Number | Self::Priority => 4,
            Self::Ipv6 | Self::Interface => 16,
        }
    }
}

/// What a map's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    None,
    /// A number of four bytes in network order.
    Number,
    /// A packet's priority.
    Priority,
    Verdict,
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSpec {
    pub name: String,
    pub key: Vec<KeyField>,
    /// Keys are ranges in each field.
    pub is_interval: bool,
    pub value: Value,
}

impl SetSpec {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const CONCAT: u32 = 0x80;
    const DATA_VERDICT: u32 = 0xffff_ff00;

    /// Length of a key, each field padded to four bytes.
    #[must_use]
    pub fn key_length(&self) -> usize {
        self.key
            .iter()
            .map(|field| field.length().next_multiple_of(4))
            .sum()
    }

    fn flags(&self) -> u32 {
        let concat = if self.key.len() > 1 { Self::CONCAT } else { 0 };
        let interval = if self.is_interval { Self::INTERVAL } else { 0 };
        let map = if self.value == Value::None { 0 } else { Self::MAP };
        concat | interval | map
    }

    /// Its attributes after table and name.
    pub(crate) fn put(&self, out: &mut Vec<u8>, id: u32) {
        let kind = self.key.iter().fold(0, |all, field| all << 6 | field.kind());
        number(out, 3, self.flags());
        number(out, 4, kind);
        number(out, 5, u32::try_from(self.key_length()).unwrap_or(u32::MAX));
        match self.value {
            Value::None => {}
            Value::Number => {
                number(out, 6, 19);
                number(out, 7, 4);
            }
            Value::Priority => {
                number(out, 6, 23);
                number(out, 7, 4);
            }
            Value::Verdict => number(out, 6, Self::DATA_VERDICT),
        }
        if self.key.len() > 1 {
            nest(out, 9, |description| {
                nest(description, 2, |fields| {
                    for field in &self.key {
                        nest(fields, LIST_ELEM, |f| {
                            number(f, 1, u32::try_from(field.length()).unwrap_or_default());
                        });
                    }
                });
            });
        }
        number(out, 10, id);
        self.put_byte_orders(out);
    }

    /// For listings of `nft` alone: which byte order its parts are in.
    fn put_byte_orders(&self, out: &mut Vec<u8>) {
        const KEY: u8 = 0;
        const DATA: u8 = 1;
        const HOST: u32 = 1;
        const NETWORK: u32 = 2;
        let key = if self.key == [KeyField::Interface] {
            HOST
        } else {
            NETWORK
        };
        let mut notes = vec![KEY, 4];
        notes.extend(key.to_ne_bytes());
        if matches!(self.value, Value::Number | Value::Priority) {
            notes.extend([DATA, 4]);
            notes.extend(NETWORK.to_ne_bytes());
        }
        attr(out, 13, &notes);
    }

    /// Whether a listed set is as this one.
    pub(crate) fn matches(&self, attrs: &Attrs<'_>) -> bool {
        let kind = self.key.iter().fold(0, |all, field| all << 6 | field.kind());
        attrs.u32(3) == Some(self.flags()) && attrs.u32(4) == Some(kind)
    }
}

/// A value of a map.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    None,
    Number(u32),
    Verdict(Verdict),
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Element {
    /// Each field padded to four bytes.
    pub key: Vec<u8>,
    /// The last key of a range; empty where the key is one.
    pub key_end: Vec<u8>,
    pub data: Data,
}

impl Element {
    pub(crate) fn put(&self, list: &mut Vec<u8>, with_data: bool) {
        nest(list, LIST_ELEM, |e| {
            nest(e, 1, |key| attr(key, 1, &self.key));
            if !self.key_end.is_empty() {
                nest(e, 10, |key| attr(key, 1, &self.key_end));
            }
            match &self.data {
                _ if !with_data => {}
                Data::None => {}
                Data::Number(value) => nest(e, 2, |data| attr(data, 1, &value.to_be_bytes())),
                Data::Verdict(verdict) => nest(e, 2, |data| put_verdict(data, verdict)),
            }
        });
    }

    pub(crate) fn read(attrs: &Attrs<'_>) -> Option<Self> {
        let bytes = |kind| attrs.nested(kind).get(1).map(<[u8]>::to_vec);
        let data = attrs.nested(2);
        let verdict = || read_verdict(&data.nested(2));
        let data = match data.get(1).map(<[u8; 4]>::try_from) {
            Some(Ok(value)) => Data::Number(u32::from_be_bytes(value)),
            Some(Err(_)) => return None,
            None => verdict().map_or(Data::None, Data::Verdict),
        };
        Some(Self {
            key: bytes(1)?,
            key_end: bytes(10).unwrap_or_default(),
            data,
        })
    }
}
